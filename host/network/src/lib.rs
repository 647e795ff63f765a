//! The built-in pod network of one node: a bridge, a veth pair per pod, addresses from the node's
//! podCIDR, masquerade for what leaves the node, host ports.
//!
//! Attaching a pod costs a few netlink requests and no child process. All of it happens on one
//! thread of its own, because entering a pod's network namespace changes the thread.
//!
//! Not here: traffic between nodes, IPv6, NetworkPolicy.
#![forbid(unsafe_code)]

mod addresses;
mod cidr;
mod links;
mod rules;
mod sysctl;

pub use addresses::{HostPort, Protocol};
pub use cidr::{Cidr, CidrError};
pub use links::LinkError;
pub use orlop_netfilter::NetfilterError;

use addresses::Addresses;
use links::Bridge;
use std::collections::HashSet;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use tokio::sync::{mpsc, oneshot};

/// What the network is made of.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the bridge; at most 15 characters.
    pub bridge: String,
    /// This node's podCIDR.
    pub pod_cidr: Cidr,
    /// Networks that pods reach without masquerade, such as the podCIDRs of other nodes.
    pub direct: Vec<Cidr>,
    /// Where Services have their cluster IPs. A host without a default route gets a route there, so
    /// that packets for a Service come as far as its rules.
    pub service_cidr: Option<Cidr>,
    /// MTU of the pods' interfaces, in bytes; 0 takes the one of the default route's interface.
    pub mtu: u32,
    /// Folder of the address leases. Nothing else may be in it.
    pub state: PathBuf,
}

impl Config {
    /// The bridge `orlop0`.
    #[must_use]
    pub fn new(pod_cidr: Cidr, state: impl Into<PathBuf>) -> Self {
        Self {
            bridge: "orlop0".to_owned(),
            pod_cidr,
            direct: Vec::new(),
            service_cidr: None,
            mtu: 0,
            state: state.into(),
        }
    }
}

/// Why the network refused.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// Every address of the podCIDR is in use. Retryable when a pod has gone.
    #[error("no IP addresses available in the pod network {cidr}")]
    Exhausted {
        /// The podCIDR.
        cidr: Cidr,
    },
    /// The pod has no address.
    #[error("the pod {pod} is not attached to the network")]
    NotAttached {
        /// The pod.
        pod: String,
    },
    /// The kernel.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// iptables.
    #[error(transparent)]
    Rules(#[from] NetfilterError),
    /// A file.
    #[error("{}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The network's thread has ended.
    #[error("the pod network has been closed")]
    Closed,
}

/// What a pod got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The pod's addresses; the first is its `podIP`.
    pub addresses: Vec<IpAddr>,
    /// The default gateway: the bridge.
    pub gateway: IpAddr,
    /// Name of the interface in the pod.
    pub interface: &'static str,
}

type Reply<T> = oneshot::Sender<Result<T, NetworkError>>;

enum Job {
    Attach { pod: String, netns: PathBuf, reply: Reply<Attachment> },
    Detach { pod: String, reply: Reply<()> },
    HostPorts { pod: String, ports: Vec<HostPort>, reply: Reply<()> },
    Retain { pods: HashSet<String>, reply: Reply<Vec<String>> },
    Attached { reply: Reply<Vec<(String, IpAddr)>> },
}

/// The pod network; a handle to its thread, cheap to clone. The thread ends with the last handle;
/// the network stays.
#[derive(Clone, Debug)]
pub struct Network {
    jobs: mpsc::Sender<Job>,
    cidr: Cidr,
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> NetworkError {
    move |source| NetworkError::Io { path: path.to_owned(), source }
}

impl Network {
    /// Sets up the network in the calling thread's network namespace, or takes over the one that
    /// is there: attached pods keep their addresses, addresses without an interface are free again.
    ///
    /// # Errors
    /// [`NetworkError`]; kernel settings that are refused only warn.
    pub async fn open(config: Config) -> Result<Self, NetworkError> {
        let cidr = config.pod_cidr;
        let (jobs, work) = mpsc::channel(256);
        let (ready, opened) = oneshot::channel();
        let state = config.state.clone();
        std::thread::Builder::new()
            .name("pod-network".to_owned())
            .spawn(move || serve(config, work, ready))
            .map_err(io(&state))?;
        opened.await.map_err(|_| NetworkError::Closed)??;
        Ok(Self { jobs, cidr })
    }

    /// Gives the pod an interface and an address in the network namespace at `netns`. A pod that is
    /// attached keeps what it has; one whose sandbox was made anew keeps its address. Not
    /// cancel-safe: a cancelled one may have happened; `detach` undoes it.
    ///
    /// # Errors
    /// [`NetworkError`]; nothing is left behind but the pod's claim to its address.
    pub async fn attach(&self, pod: &str, netns: &Path) -> Result<Attachment, NetworkError> {
        let (pod, netns) = (pod.to_owned(), netns.to_owned());
        self.ask(|reply| Job::Attach { pod, netns, reply }).await
    }

    /// Takes everything from the pod. Of a pod that is not attached: nothing.
    ///
    /// # Errors
    /// [`NetworkError`]; retryable.
    pub async fn detach(&self, pod: &str) -> Result<(), NetworkError> {
        let pod = pod.to_owned();
        self.ask(|reply| Job::Detach { pod, reply }).await
    }

    /// Lets ports of the host lead to an attached pod; replaces those that it had.
    ///
    /// # Errors
    /// [`NetworkError`]
    pub async fn set_host_ports(&self, pod: &str, ports: Vec<HostPort>) -> Result<(), NetworkError> {
        let pod = pod.to_owned();
        self.ask(|reply| Job::HostPorts { pod, ports, reply }).await
    }

    /// Detaches all pods but those that `pods` names, as after a restart; returns which.
    ///
    /// # Errors
    /// [`NetworkError`]; retryable.
    pub async fn retain(&self, pods: HashSet<String>) -> Result<Vec<String>, NetworkError> {
        self.ask(|reply| Job::Retain { pods, reply }).await
    }

    /// The attached pods and their addresses.
    ///
    /// # Errors
    /// [`NetworkError::Closed`]
    pub async fn attached(&self) -> Result<Vec<(String, IpAddr)>, NetworkError> {
        self.ask(|reply| Job::Attached { reply }).await
    }

    /// The bridge's address, which the host has in the pod network.
    #[must_use]
    pub fn gateway(&self) -> IpAddr {
        IpAddr::V4(self.cidr.gateway())
    }

    /// Removes all that a network with this `config` made: interfaces, bridge, rules, leases. Kernel
    /// settings stay, since others may rely on them. Twice changes nothing.
    ///
    /// # Errors
    /// [`NetworkError`]; retryable.
    pub async fn cleanup_all(config: Config) -> Result<(), NetworkError> {
        let (done, answer) = oneshot::channel();
        let state = config.state.clone();
        std::thread::Builder::new()
            .name("pod-network".to_owned())
            .spawn(move || {
                let _ = done.send(in_runtime(&config.state.clone(), async { cleanup(&config).await }));
            })
            .map_err(io(&state))?;
        answer.await.map_err(|_| NetworkError::Closed)?
    }

    async fn ask<T>(&self, job: impl FnOnce(Reply<T>) -> Job) -> Result<T, NetworkError> {
        let (reply, answer) = oneshot::channel();
        self.jobs.send(job(reply)).await.map_err(|_| NetworkError::Closed)?;
        answer.await.map_err(|_| NetworkError::Closed)?
    }
}

fn in_runtime<T>(
    state: &Path,
    work: impl Future<Output = Result<T, NetworkError>>,
) -> Result<T, NetworkError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(io(state))?;
    runtime.block_on(work)
}

fn connection() -> Result<(impl Future<Output = ()>, rtnetlink::Handle), NetworkError> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(io(Path::new("netlink socket")))?;
    Ok((connection, handle))
}

async fn cleanup(config: &Config) -> Result<(), NetworkError> {
    let (connection, handle) = connection()?;
    let work = async {
        let rules = rules::remove().await;
        links::remove_bridge(&handle, &config.bridge).await?;
        match std::fs::remove_dir_all(&config.state) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io(&config.state)(e)),
            _ => {}
        }
        match rules {
            // Without the program there are no rules that it could have made.
            Err(NetfilterError::Missing { .. }) => Ok(()),
            other => Ok(other?),
        }
    };
    tokio::select! {
        done = work => done,
        () = connection => Err(NetworkError::Closed),
    }
}

/// The thread.
fn serve(config: Config, mut work: mpsc::Receiver<Job>, ready: oneshot::Sender<Result<(), NetworkError>>) {
    let state = config.state.clone();
    let served = in_runtime(&state, async {
        let (connection, handle) = connection()?;
        let jobs = async {
            match Worker::open(config, handle).await {
                Ok(mut worker) => {
                    let _ = ready.send(Ok(()));
                    while let Some(job) = work.recv().await {
                        worker.run(job).await;
                    }
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                }
            }
            Ok(())
        };
        tokio::select! {
            done = jobs => done,
            () = connection => Err(NetworkError::Closed),
        }
    });
    if let Err(error) = served {
        tracing::error!(%error, "the pod network has ended");
    }
}

struct Worker {
    config: Config,
    handle: rtnetlink::Handle,
    /// The namespace in which the thread lives.
    home: File,
    bridge: Bridge,
    addresses: Addresses,
}

impl Worker {
    async fn open(config: Config, handle: rtnetlink::Handle) -> Result<Self, NetworkError> {
        let home_path = Path::new("/proc/thread-self/ns/net");
        let home = File::open(home_path).map_err(io(home_path))?;
        sysctl::set("ipv4/ip_forward", "1", "pods reach nothing outside their node");
        sysctl::bridge_netfilter().await;
        let bridge = links::set_up_bridge(&handle, &config.bridge, config.pod_cidr, config.mtu).await?;
        if let Some(services) = config.service_cidr
            && !links::has_default_route(&handle).await?
        {
            links::add_route(&handle, services, &bridge).await?;
        }
        // For host ports on 127.0.0.1.
        let name = format!("ipv4/conf/{}/route_localnet", config.bridge);
        sysctl::set(&name, "1", "host ports are not reachable through 127.0.0.1");
        let mut addresses = Addresses::load(&config.state, config.pod_cidr).map_err(io(&config.state))?;
        let present: HashSet<String> = links::ports(&handle, &bridge).await?.into_iter().collect();
        let pods: Vec<String> = addresses.iter().map(|(_, lease)| lease.pod.clone()).collect();
        let mut known = HashSet::new();
        for pod in pods {
            let name = links::host_interface(&pod);
            if present.contains(&name) {
                known.insert(name);
            } else {
                addresses.release(&pod).map_err(io(&config.state))?;
            }
        }
        for stray in present.difference(&known) {
            // Without a lease its address would be given to another pod.
            tracing::warn!(interface = %stray, "removing an interface of the pod network that belongs to no pod");
            links::remove(&handle, stray).await?;
        }
        let worker = Self { config, handle, home, bridge, addresses };
        rules::apply(&worker.rules()).await?;
        Ok(worker)
    }

    fn rules(&self) -> String {
        rules::render(&self.config.bridge, self.config.pod_cidr, &self.config.direct, self.addresses.iter())
    }

    async fn run(&mut self, job: Job) {
        match job {
            Job::Attach { pod, netns, reply } => {
                let _ = reply.send(self.attach(&pod, &netns).await);
            }
            Job::Detach { pod, reply } => {
                let _ = reply.send(self.detach(&pod).await);
            }
            Job::HostPorts { pod, ports, reply } => {
                let _ = reply.send(self.set_host_ports(&pod, ports).await);
            }
            Job::Retain { pods, reply } => {
                let _ = reply.send(self.retain(&pods).await);
            }
            Job::Attached { reply } => {
                let all = self.addresses.iter().map(|(a, l)| (l.pod.clone(), IpAddr::V4(a))).collect();
                let _ = reply.send(Ok(all));
            }
        }
    }

    async fn attach(&mut self, pod: &str, netns: &Path) -> Result<Attachment, NetworkError> {
        let cidr = self.config.pod_cidr;
        let known = self.addresses.of(pod).is_some();
        let taken = self.addresses.take(pod).map_err(io(&self.config.state))?;
        let address: Ipv4Addr = taken.ok_or(NetworkError::Exhausted { cidr })?;
        let (handle, home, bridge) = (&self.handle, &self.home, &self.bridge);
        if !(known && links::is_attached(handle, home, bridge, pod, netns, address).await?) {
            let done = links::attach(handle, home, bridge, pod, netns, address, cidr).await;
            if let Err(error) = done {
                let _ = links::remove(handle, &links::host_interface(pod)).await;
                if !known {
                    self.addresses.release(pod).map_err(io(&self.config.state))?;
                }
                return Err(error.into());
            }
        }
        Ok(Attachment {
            addresses: vec![IpAddr::V4(address)],
            gateway: IpAddr::V4(cidr.gateway()),
            interface: links::POD_INTERFACE,
        })
    }

    async fn detach(&mut self, pod: &str) -> Result<(), NetworkError> {
        if self.addresses.of(pod).is_none() {
            return Ok(());
        }
        links::remove(&self.handle, &links::host_interface(pod)).await?;
        let lease = self.addresses.release(pod).map_err(io(&self.config.state))?;
        if lease.is_some_and(|lease| !lease.host_ports.is_empty()) {
            rules::replace(&self.rules()).await?;
        }
        Ok(())
    }

    async fn set_host_ports(&mut self, pod: &str, ports: Vec<HostPort>) -> Result<(), NetworkError> {
        if !self.addresses.set_host_ports(pod, ports).map_err(io(&self.config.state))? {
            return Err(NetworkError::NotAttached { pod: pod.to_owned() });
        }
        Ok(rules::replace(&self.rules()).await?)
    }

    async fn retain(&mut self, pods: &HashSet<String>) -> Result<Vec<String>, NetworkError> {
        let gone: Vec<String> =
            self.addresses.iter().map(|(_, l)| l.pod.clone()).filter(|pod| !pods.contains(pod)).collect();
        for pod in &gone {
            self.detach(pod).await?;
        }
        Ok(gone)
    }
}
