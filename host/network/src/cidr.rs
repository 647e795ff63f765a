//! An IPv4 range.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// Addresses that share a prefix, such as `10.244.0.0/24`. The host bits are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ipv4Cidr {
    network: u32,
    prefix: u8,
}

/// Why a text is no range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an IPv4 range for pods: {why}")]
pub struct CidrError {
    text: String,
    why: &'static str,
}

impl Ipv4Cidr {
    /// Length of the prefix, 8 to 30.
    #[must_use]
    pub const fn prefix(self) -> u8 {
        self.prefix
    }

    /// The range's own address.
    #[must_use]
    pub const fn network(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network)
    }

    /// The address after the range's own: the gateway.
    #[must_use]
    pub const fn first_host(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network + 1)
    }

    /// The last address, to which nobody may answer.
    #[must_use]
    pub const fn broadcast(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network | (u32::MAX >> self.prefix))
    }

    /// Whether the address is one that a pod may have.
    #[must_use]
    pub fn gives(self, address: Ipv4Addr) -> bool {
        address > self.first_host() && address < self.broadcast()
    }
}

impl FromStr for Ipv4Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = |why| CidrError { text: text.to_owned(), why };
        let (address, prefix) =
            text.split_once('/').ok_or_else(|| error("it lacks a `/` and a prefix length"))?;
        let address: Ipv4Addr = address.parse().map_err(|_| error("its address is not an IPv4 address"))?;
        let prefix: u8 = prefix.parse().map_err(|_| error("its prefix length is not a number"))?;
        if !(8..=30).contains(&prefix) {
            return Err(error("its prefix length must be between 8 and 30"));
        }
        let network = address.to_bits() & !(u32::MAX >> prefix);
        if network != address.to_bits() {
            return Err(error("its address has bits beyond the prefix"));
        }
        Ok(Self { network, prefix })
    }
}

impl fmt::Display for Ipv4Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network(), self.prefix)
    }
}
