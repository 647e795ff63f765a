//! Which address the node is known by, where nobody said.

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};

/// The address from which this machine would reach the world; else any address of a link that is
/// up; else loopback, which serves a cluster of one.
pub(crate) fn detect() -> IpAddr {
    route_source().or_else(first_of_a_link).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// Connecting a datagram socket sends nothing, but makes the kernel choose a source address. The
/// destination is of a range reserved for documentation (RFC 5737).
fn route_source() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|a| !a.is_loopback() && !a.is_unspecified())
}

fn first_of_a_link() -> Option<IpAddr> {
    getifaddrs()
        .ok()?
        .filter(|i| {
            i.flags.contains(InterfaceFlags::IFF_UP) && !i.flags.contains(InterfaceFlags::IFF_LOOPBACK)
        })
        .find_map(|i| i.address?.as_sockaddr_in().map(|a| IpAddr::V4(a.ip())))
}
