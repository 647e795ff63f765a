//! Netlink: the bridge, a veth pair per pod, addresses and routes.

use crate::cidr::Cidr;
use futures::TryStreamExt;
use nix::sched::{CloneFlags, setns};
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::RouteAttribute;
use rtnetlink::{
    Handle, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder, new_connection,
};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::path::Path;

/// Name of the interface in the pod.
pub(crate) const POD_INTERFACE: &str = "eth0";

const LOOPBACK: u32 = 1;
const EEXIST: i32 = -17;
const ENODEV: i32 = -19;
const ENOENT: i32 = -2;

/// Why the kernel refused.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// A netlink request failed.
    #[error("cannot {what}")]
    Netlink {
        /// What was tried.
        what: String,
        /// What the kernel said.
        #[source]
        source: rtnetlink::Error,
    },
    /// A system call failed.
    #[error("cannot {what}")]
    System {
        /// What was tried.
        what: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// An interface that was there a moment ago, or should be.
    #[error("the interface {name} does not exist")]
    Missing {
        /// Its name.
        name: String,
    },
    /// An interface with the bridge's name is something else.
    #[error("{name} exists and is not a bridge; give the pod network another bridge name")]
    NotABridge {
        /// Its name.
        name: String,
    },
}

fn netlink(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> LinkError {
    move |source| LinkError::Netlink { what: what.into(), source }
}

fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> LinkError {
    move |source| LinkError::System { what: what.into(), source }
}

fn code(error: &rtnetlink::Error) -> i32 {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.raw_code(),
        _ => 0,
    }
}

/// Name of the host's end of a pod's pair: the same for the same pod, always.
pub(crate) fn host_interface(pod: &str) -> String {
    let hash = hex::encode(Sha256::digest(pod.as_bytes()));
    format!("veth{}", hash.get(..11).unwrap_or(&hash))
}

/// A hardware address that follows from the IP address, so that neighbours' tables stay right when
/// an address is used again.
fn hardware(address: Ipv4Addr) -> Vec<u8> {
    let [a, b, c, d] = address.octets();
    vec![0x0a, 0x58, a, b, c, d]
}

async fn find(handle: &Handle, name: &str) -> Result<Option<LinkMessage>, LinkError> {
    let mut links = handle.link().get().match_name(name.to_owned()).execute();
    match links.try_next().await {
        Ok(link) => Ok(link),
        Err(e) if matches!(code(&e), ENODEV | ENOENT) => Ok(None),
        Err(source) => Err(netlink(format!("look for the interface {name}"))(source)),
    }
}

async fn index_of(handle: &Handle, name: &str) -> Result<u32, LinkError> {
    let link = find(handle, name).await?.ok_or_else(|| LinkError::Missing { name: name.to_owned() })?;
    Ok(link.header.index)
}

/// Whether packets to anywhere have a way out.
pub(crate) async fn has_default_route(handle: &Handle) -> Result<bool, LinkError> {
    let mut routes = handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute();
    while let Some(route) = routes.try_next().await.map_err(netlink("read the routes"))? {
        if route.header.destination_prefix_length == 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Routes a network to the bridge; goes with the bridge.
pub(crate) async fn add_route(handle: &Handle, to: Cidr, bridge: &Bridge) -> Result<(), LinkError> {
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(to.base(), to.prefix())
        .output_interface(bridge.index)
        .build();
    match handle.route().add(route).execute().await {
        Err(e) if code(&e) != EEXIST => Err(netlink(format!("route {to} to the bridge"))(e)),
        _ => Ok(()),
    }
}

/// MTU of the interface of the default route, so that pods send what the way out can carry.
async fn mtu_of_default_route(handle: &Handle) -> Option<u32> {
    let mut routes = handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute();
    let mut out = None;
    while let Ok(Some(route)) = routes.try_next().await {
        if route.header.destination_prefix_length == 0 {
            out = route
                .attributes
                .iter()
                .find_map(|a| if let RouteAttribute::Oif(i) = a { Some(*i) } else { None });
            if out.is_some() {
                break;
            }
        }
    }
    let mut links = handle.link().get().match_index(out?).execute();
    let link = links.try_next().await.ok()??;
    link.attributes.iter().find_map(|a| if let LinkAttribute::Mtu(mtu) = a { Some(*mtu) } else { None })
}

/// The bridge, as pods are attached to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bridge {
    index: u32,
    mtu: u32,
}

/// Makes the bridge, or takes the one that is there. Twice changes nothing.
pub(crate) async fn set_up_bridge(
    handle: &Handle,
    name: &str,
    cidr: Cidr,
    mtu: u32,
) -> Result<Bridge, LinkError> {
    let mtu = if mtu == 0 { mtu_of_default_route(handle).await.unwrap_or(1500) } else { mtu };
    let gateway = cidr.gateway();
    if find(handle, name).await?.is_none() {
        let message = LinkBridge::new(name).address(hardware(gateway)).build();
        match handle.link().add(message).execute().await {
            Err(e) if code(&e) != EEXIST => return Err(netlink(format!("make the bridge {name}"))(e)),
            _ => {}
        }
    }
    let link = find(handle, name).await?.ok_or_else(|| LinkError::Missing { name: name.to_owned() })?;
    let is_bridge = link.attributes.iter().any(|a| {
        matches!(a, LinkAttribute::LinkInfo(infos) if infos.iter().any(|i| matches!(i, LinkInfo::Kind(InfoKind::Bridge))))
    });
    if !is_bridge {
        return Err(LinkError::NotABridge { name: name.to_owned() });
    }
    let index = link.header.index;
    let message = LinkUnspec::new_with_index(index).mtu(mtu).up().build();
    handle.link().set(message).execute().await.map_err(netlink(format!("bring up the bridge {name}")))?;
    let address = IpAddr::V4(gateway);
    match handle.address().add(index, address, cidr.prefix()).execute().await {
        Err(e) if code(&e) != EEXIST => Err(netlink(format!("give {gateway} to the bridge {name}"))(e)),
        _ => Ok(Bridge { index, mtu }),
    }
}

/// Names of the interfaces on the bridge.
pub(crate) async fn ports(handle: &Handle, bridge: &Bridge) -> Result<Vec<String>, LinkError> {
    let mut links = handle.link().get().execute();
    let mut names = Vec::new();
    while let Some(link) = links.try_next().await.map_err(netlink("list the interfaces"))? {
        if link.attributes.iter().any(|a| matches!(a, LinkAttribute::Controller(c) if *c == bridge.index)) {
            names.extend(link.attributes.iter().find_map(|a| match a {
                LinkAttribute::IfName(name) => Some(name.clone()),
                _ => None,
            }));
        }
    }
    Ok(names)
}

/// Removes an interface; it may be gone already.
pub(crate) async fn remove(handle: &Handle, name: &str) -> Result<(), LinkError> {
    let Some(link) = find(handle, name).await? else { return Ok(()) };
    match handle.link().del(link.header.index).execute().await {
        Err(e) if !matches!(code(&e), ENODEV | ENOENT) => {
            Err(netlink(format!("remove the interface {name}"))(e))
        }
        _ => Ok(()),
    }
}

/// A netlink connection into the network namespace at `netns`.
///
/// A socket belongs to the namespace of the thread that makes it, so this thread goes there and
/// comes back. It must be the network's own.
fn connect_into(netns: &File, home: &File) -> Result<(impl Future<Output = ()> + use<>, Handle), LinkError> {
    setns(netns, CloneFlags::CLONE_NEWNET)
        .map_err(|e| system("enter the pod's network namespace")(e.into()))?;
    let connection = new_connection();
    if let Err(error) = setns(home, CloneFlags::CLONE_NEWNET) {
        // Whatever this thread did next, it would do in the wrong place.
        tracing::error!(%error, "cannot come back from a pod's network namespace, stopping");
        std::process::abort();
    }
    let (connection, handle, _) = connection.map_err(system("open a netlink socket in the pod"))?;
    Ok((connection, handle))
}

/// Gives a pod its interface. What a former attempt left is replaced.
pub(crate) async fn attach(
    handle: &Handle,
    home: &File,
    bridge: &Bridge,
    pod: &str,
    netns: &Path,
    address: Ipv4Addr,
    cidr: Cidr,
) -> Result<(), LinkError> {
    let target =
        File::open(netns).map_err(system(format!("open the network namespace {}", netns.display())))?;
    let (connection, inside) = connect_into(&target, home)?;
    let work = async {
        let name = host_interface(pod);
        let new_pair = || {
            let peer = LinkMessageBuilder::<LinkUnspec>::new()
                .name(POD_INTERFACE.to_owned())
                .address(hardware(address))
                .mtu(bridge.mtu)
                .setns_by_fd(target.as_raw_fd())
                .build();
            LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Veth)
                .name(name.clone())
                .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
                .mtu(bridge.mtu)
                .controller(bridge.index)
                .up()
                .build()
        };
        if let Err(error) = handle.link().add(new_pair()).execute().await {
            if code(&error) != EEXIST {
                return Err(netlink(format!("make the veth pair {name}"))(error));
            }
            remove(handle, &name).await?;
            if find(&inside, POD_INTERFACE).await?.is_some() {
                remove(&inside, POD_INTERFACE).await?;
            }
            handle
                .link()
                .add(new_pair())
                .execute()
                .await
                .map_err(netlink(format!("make the veth pair {name}")))?;
        }
        let index = index_of(handle, &name).await?;
        let hairpin = LinkBridgePort::new(index).hairpin(true).build();
        handle
            .link()
            .set_port(hairpin)
            .execute()
            .await
            .map_err(netlink(format!("set hairpin mode on {name}")))?;
        let up = |index| LinkUnspec::new_with_index(index).up().build();
        inside
            .link()
            .set(up(LOOPBACK))
            .execute()
            .await
            .map_err(netlink("bring up the pod's loopback interface"))?;
        let index = index_of(&inside, POD_INTERFACE).await?;
        let give = inside.address().add(index, IpAddr::V4(address), cidr.prefix());
        give.execute().await.map_err(netlink(format!("give {address} to the pod")))?;
        inside.link().set(up(index)).execute().await.map_err(netlink("bring up the pod's interface"))?;
        let route =
            RouteMessageBuilder::<Ipv4Addr>::new().gateway(cidr.gateway()).output_interface(index).build();
        inside.route().add(route).execute().await.map_err(netlink("set the pod's default route"))
    };
    tokio::select! {
        done = work => done,
        () = connection => Err(system("talk to the kernel")(io::ErrorKind::ConnectionAborted.into())),
    }
}

/// Whether the pod at `netns` has the address that it should have.
pub(crate) async fn is_attached(
    handle: &Handle,
    home: &File,
    bridge: &Bridge,
    pod: &str,
    netns: &Path,
    address: Ipv4Addr,
) -> Result<bool, LinkError> {
    let Some(link) = find(handle, &host_interface(pod)).await? else { return Ok(false) };
    if !link.attributes.iter().any(|a| matches!(a, LinkAttribute::Controller(c) if *c == bridge.index)) {
        return Ok(false);
    }
    let target =
        File::open(netns).map_err(system(format!("open the network namespace {}", netns.display())))?;
    let (connection, inside) = connect_into(&target, home)?;
    let work = async {
        let Some(link) = find(&inside, POD_INTERFACE).await? else { return Ok(false) };
        let has = inside
            .address()
            .get()
            .set_link_index_filter(link.header.index)
            .set_address_filter(IpAddr::V4(address));
        let found = has.execute().try_next().await.map_err(netlink("read the pod's addresses"))?;
        let mut routes = inside.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute();
        // The route is set last: where it is, all is.
        while let Some(route) = routes.try_next().await.map_err(netlink("read the pod's routes"))? {
            if route.header.destination_prefix_length == 0 {
                return Ok(found.is_some());
            }
        }
        Ok(false)
    };
    tokio::select! {
        done = work => done,
        () = connection => Err(system("talk to the kernel")(io::ErrorKind::ConnectionAborted.into())),
    }
}

/// Removes the bridge and the interfaces on it; it may be gone already.
pub(crate) async fn remove_bridge(handle: &Handle, name: &str) -> Result<(), LinkError> {
    let Some(link) = find(handle, name).await? else { return Ok(()) };
    let bridge = Bridge { index: link.header.index, mtu: 0 };
    for port in ports(handle, &bridge).await? {
        remove(handle, &port).await?;
    }
    remove(handle, name).await
}
