//! Links, addresses and routes, over netlink: no child process per pod.

use crate::{Ipv4Cidr, NetworkError};
use futures::TryStreamExt;
use nix::sched::{CloneFlags, setns};
use rtnetlink::packet_route::link::{InfoData, InfoVeth};
use rtnetlink::{
    Handle, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
};
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::path::Path;
use tokio_util::task::TaskTracker;

/// What the pod's end of the pair is called.
const POD_LINK: &str = "eth0";

/// A connection to the kernel of the host's namespace.
pub(crate) struct Links {
    host: Handle,
    tasks: TaskTracker,
}

fn netlink(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> NetworkError {
    let what = what.into();
    move |source| NetworkError::Netlink { what, source }
}

fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> NetworkError {
    let what = what.into();
    move |source| NetworkError::System { what, source }
}

fn is_errno(error: &rtnetlink::Error, errno: nix::errno::Errno) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(m) if m.raw_code() == -(errno as i32))
}

/// The host's end of a pod's pair: one name per address, so that it is found again after a crash.
pub(crate) fn host_end(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("veth{a:02x}{b:02x}{c:02x}{d:02x}")
}

/// A pod's hardware address follows from its address, so that a neighbour's memory of an address
/// stays right when another pod gets it.
fn hardware_address(address: Ipv4Addr) -> Vec<u8> {
    let [a, b, c, d] = address.octets();
    vec![0x0a, 0x58, a, b, c, d]
}

impl Links {
    pub(crate) fn connect(tasks: &TaskTracker) -> Result<Self, NetworkError> {
        let (connection, host, _) = rtnetlink::new_connection().map_err(system("open a netlink socket"))?;
        tasks.spawn(connection);
        Ok(Self { host, tasks: tasks.clone() })
    }

    async fn index_of(handle: &Handle, name: &str) -> Result<Option<u32>, rtnetlink::Error> {
        let found = handle.link().get().match_name(name.to_owned()).execute().try_next().await;
        match found {
            Ok(link) => Ok(link.map(|l| l.header.index)),
            Err(error) if is_errno(&error, nix::errno::Errno::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes the bridge with the first address of the range. Idempotent.
    pub(crate) async fn ensure_bridge(&self, name: &str, range: Ipv4Cidr) -> Result<(), NetworkError> {
        let known = Self::index_of(&self.host, name).await.map_err(netlink("list links"))?;
        if known.is_none() {
            // A fixed hardware address: else the bridge takes that of its lowest port, and changes it.
            let message = LinkBridge::new(name).address(hardware_address(range.first_host())).up().build();
            let what = format!("create the bridge {name}");
            self.host.link().add(message).execute().await.map_err(netlink(what))?;
        }
        let what = format!("find the bridge {name}");
        let index = Self::index_of(&self.host, name).await.map_err(netlink(what.clone()))?;
        let index = index.ok_or_else(|| system(what)(io::ErrorKind::NotFound.into()))?;
        let up = LinkUnspec::new_with_index(index).up().build();
        self.host.link().set(up).execute().await.map_err(netlink(format!("bring up {name}")))?;
        add_address(&self.host, index, range.first_host(), range.prefix()).await
    }

    /// Joins the namespace at `netns` to the bridge. Idempotent for the same address.
    pub(crate) async fn join(
        &self,
        bridge: &str,
        netns: &Path,
        address: Ipv4Addr,
        prefix: u8,
        gateway: Ipv4Addr,
    ) -> Result<(), NetworkError> {
        let namespace =
            File::open(netns).map_err(system(format!("open the network namespace {}", netns.display())))?;
        let what = format!("find the bridge {bridge}");
        let bridge_index = Self::index_of(&self.host, bridge).await.map_err(netlink(what.clone()))?;
        let bridge_index = bridge_index.ok_or_else(|| system(what)(io::ErrorKind::NotFound.into()))?;
        let host_name = host_end(address);

        let pod =
            Self::inside(&self.tasks, namespace.try_clone().map_err(system("share a descriptor"))?).await?;
        if Self::index_of(&pod, POD_LINK).await.map_err(netlink("list the pod's links"))?.is_none() {
            // A pair whose other end is elsewhere is a left-over of a crash.
            self.remove(&host_name).await?;
            let peer = LinkMessageBuilder::<LinkUnspec>::new()
                .name(POD_LINK)
                .address(hardware_address(address))
                .setns_by_fd(namespace.as_raw_fd())
                .build();
            let pair = LinkVeth::new(&host_name, POD_LINK)
                .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
                .controller(bridge_index)
                .up()
                .build();
            let what = format!("create the link pair {host_name}");
            self.host.link().add(pair).execute().await.map_err(netlink(what))?;
        }
        let what = format!("find {host_name}");
        let host_index = Self::index_of(&self.host, &host_name).await.map_err(netlink(what.clone()))?;
        let host_index = host_index.ok_or_else(|| system(what)(io::ErrorKind::NotFound.into()))?;
        // A pod that reaches itself by its Service gets its packets back through the port they came by.
        let hairpin = LinkBridgePort::new(host_index).hairpin(true).build();
        let what = format!("set hairpin mode of {host_name}");
        self.host.link().set_port(hairpin).execute().await.map_err(netlink(what))?;

        let what = "find the pod's link";
        let index = Self::index_of(&pod, POD_LINK).await.map_err(netlink(what))?;
        let index = index.ok_or_else(|| system(what)(io::ErrorKind::NotFound.into()))?;
        let up = LinkUnspec::new_with_index(index).up().build();
        pod.link().set(up).execute().await.map_err(netlink("bring up the pod's link"))?;
        add_address(&pod, index, address, prefix).await?;
        let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).output_interface(index).build();
        match pod.route().add(route).execute().await {
            Err(error) if !is_errno(&error, nix::errno::Errno::EEXIST) => {
                Err(netlink("add the pod's default route")(error))
            }
            _ => Ok(()),
        }
    }

    /// A connection to the kernel of another namespace. The socket is opened by a thread that
    /// enters the namespace and ends; a socket stays in the namespace in which it was opened.
    async fn inside(tasks: &TaskTracker, namespace: File) -> Result<Handle, NetworkError> {
        let runtime = tokio::runtime::Handle::current();
        let (send, receive) = tokio::sync::oneshot::channel();
        let open = move || {
            let _in_runtime = runtime.enter();
            let opened = setns(&namespace, CloneFlags::CLONE_NEWNET)
                .map_err(|errno| system("enter the pod's network namespace")(errno.into()))
                .and_then(|()| rtnetlink::new_connection().map_err(system("open a netlink socket")));
            // Nobody waits any more where the call was cancelled.
            let _ = send.send(opened);
        };
        std::thread::Builder::new().name("netns".into()).spawn(open).map_err(system("start a thread"))?;
        let ended = |_| system("enter the pod's network namespace")(io::ErrorKind::BrokenPipe.into());
        let (connection, handle, _) = receive.await.map_err(ended)??;
        tasks.spawn(connection);
        Ok(handle)
    }

    /// Removes a link. Idempotent.
    pub(crate) async fn remove(&self, name: &str) -> Result<(), NetworkError> {
        let Some(index) = Self::index_of(&self.host, name).await.map_err(netlink("list links"))? else {
            return Ok(());
        };
        match self.host.link().del(index).execute().await {
            Err(error) if !is_errno(&error, nix::errno::Errno::ENODEV) => {
                Err(netlink(format!("remove the link {name}"))(error))
            }
            _ => Ok(()),
        }
    }

    /// Removes the bridge and the links that are joined to it. Idempotent.
    pub(crate) async fn remove_bridge(&self, name: &str) -> Result<(), NetworkError> {
        use rtnetlink::packet_route::link::LinkAttribute;
        let Some(index) = Self::index_of(&self.host, name).await.map_err(netlink("list links"))? else {
            return Ok(());
        };
        let links: Vec<_> =
            self.host.link().get().execute().try_collect().await.map_err(netlink("list links"))?;
        for link in links {
            if link.attributes.iter().any(|a| matches!(a, LinkAttribute::Controller(c) if *c == index)) {
                match self.host.link().del(link.header.index).execute().await {
                    Err(error) if !is_errno(&error, nix::errno::Errno::ENODEV) => {
                        return Err(netlink("remove a link of the bridge")(error));
                    }
                    _ => {}
                }
            }
        }
        self.remove(name).await
    }
}

async fn add_address(handle: &Handle, index: u32, address: Ipv4Addr, prefix: u8) -> Result<(), NetworkError> {
    match handle.address().add(index, IpAddr::V4(address), prefix).execute().await {
        Err(error) if !is_errno(&error, nix::errno::Errno::EEXIST) => {
            Err(netlink(format!("add the address {address}"))(error))
        }
        _ => Ok(()),
    }
}
