//! IPv4 networks.

use std::net::Ipv4Addr;
use std::str::FromStr;

/// An IPv4 network, such as `10.244.0.0/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    base: u32,
    prefix: u8,
}

/// Why text is not a network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid CIDR address: {text}")]
pub struct CidrError {
    text: String,
}

impl Cidr {
    /// Length of the prefix in bits.
    #[must_use]
    pub const fn prefix(self) -> u8 {
        self.prefix
    }

    /// The network's own address.
    #[must_use]
    pub fn base(self) -> Ipv4Addr {
        Ipv4Addr::from(self.base)
    }

    const fn size(self) -> u64 {
        1 << (32 - self.prefix)
    }

    /// The address of the bridge: the first that a host may have.
    #[must_use]
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 1)
    }

    /// Number of addresses for pods: all but the network, the gateway and the broadcast address.
    #[must_use]
    pub const fn capacity(self) -> u32 {
        (self.size() - 3) as u32
    }

    /// The `n`th address for pods.
    #[must_use]
    pub fn pod(self, n: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 2 + n % self.capacity())
    }

    /// The number of an address for pods.
    #[must_use]
    pub fn number(self, address: Ipv4Addr) -> Option<u32> {
        let n = u32::from(address).checked_sub(self.base + 2)?;
        (n < self.capacity()).then_some(n)
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let parse = || {
            let (address, prefix) = text.split_once('/')?;
            let (address, prefix): (Ipv4Addr, u8) = (address.parse().ok()?, prefix.parse().ok()?);
            // Smaller ones have no room for a pod, larger ones would be half the world.
            if !(8..=29).contains(&prefix) {
                return None;
            }
            let mask = u32::MAX << (32 - prefix);
            Some(Self { base: u32::from(address) & mask, prefix })
        };
        parse().ok_or_else(|| CidrError { text: text.to_owned() })
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_a_network() {
        let cidr: Cidr = "10.244.3.77/24".parse().unwrap();
        assert_eq!(cidr.to_string(), "10.244.3.0/24");
        assert_eq!(cidr.gateway(), Ipv4Addr::new(10, 244, 3, 1));
        assert_eq!(
            (cidr.pod(0), cidr.pod(252)),
            (Ipv4Addr::new(10, 244, 3, 2), Ipv4Addr::new(10, 244, 3, 254))
        );
        assert_eq!(cidr.pod(253), cidr.pod(0));
        assert_eq!(cidr.number(Ipv4Addr::new(10, 244, 3, 254)), Some(252));
        for other in ["10.244.3.0", "10.244.3.1", "10.244.3.255", "10.244.4.2"] {
            assert_eq!(cidr.number(other.parse().unwrap()), None, "{other}");
        }
        for wrong in ["", "10.0.0.0", "10.0.0.0/33", "10.0.0.0/31", "::/64", "10.0.0/8"] {
            assert!(wrong.parse::<Cidr>().is_err(), "{wrong}");
        }
    }
}
