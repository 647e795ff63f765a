//! Leases against a model, rules as goldens, and real links in namespaces of their own.

use super::*;
use proptest::prelude::*;
use std::collections::HashMap;

fn range(text: &str) -> Ipv4Cidr {
    text.parse().expect("a range")
}

#[test]
fn ranges_are_checked() {
    assert_eq!(range("10.244.3.0/24").first_host(), Ipv4Addr::new(10, 244, 3, 1));
    assert_eq!(range("10.244.3.0/24").broadcast(), Ipv4Addr::new(10, 244, 3, 255));
    for bad in ["10.244.0.0", "10.244.0.0/99", "10.244.0.0/31", "10.244.0.1/24", "::/64", "x/24", ""] {
        assert!(bad.parse::<Ipv4Cidr>().is_err(), "{bad}");
    }
}

proptest! {
    /// Whatever happens in whatever order, no address has two holders, and what is on disk is what
    /// is known.
    #[test]
    fn an_address_has_one_holder(steps in prop::collection::vec((any::<bool>(), 0..12u8), 0..60)) {
        let dir = tempfile::tempdir().expect("a folder");
        let range = range("10.9.0.0/29");
        let mut addresses = Addresses::open(dir.path(), range).expect("empty");
        let mut model: HashMap<String, Ipv4Addr> = HashMap::new();
        for (take, who) in steps {
            let key = format!("pod-{who}");
            if take {
                match addresses.lease(&key, &[]) {
                    Ok(lease) => {
                        prop_assert!(range.gives(lease.address));
                        prop_assert!(model.iter().all(|(k, a)| *k == key || *a != lease.address));
                        if let Some(before) = model.insert(key, lease.address) {
                            prop_assert_eq!(before, lease.address);
                        }
                    }
                    Err(_) => prop_assert_eq!(model.len(), 5),
                }
            } else {
                addresses.release(&key).expect("released");
                model.remove(&key);
            }
            let again = Addresses::open(dir.path(), range).expect("reopened");
            let on_disk: HashMap<String, Ipv4Addr> = again.leases().map(|l| (l.key.clone(), l.address)).collect();
            prop_assert_eq!(&on_disk, &model);
        }
    }
}

#[test]
fn rules_read_as_they_should() {
    let lease = Lease {
        key: "a".into(),
        address: Ipv4Addr::new(10, 244, 0, 5),
        ports: vec![HostPort { host_ip: None, host_port: 8080, container_port: 80, protocol: Protocol::Tcp }],
    };
    let text = rules::render("orlop0", range("10.244.0.0/24"), &[lease]);
    assert_eq!(
        text,
        "*nat\n\
         :ORLOP-POSTROUTING - [0:0]\n\
         :ORLOP-HOSTPORTS - [0:0]\n\
         -A ORLOP-HOSTPORTS -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.244.0.5:80\n\
         -A ORLOP-POSTROUTING -s 10.244.0.5/32 -d 10.244.0.5/32 -p tcp -m tcp --dport 80 -j MASQUERADE\n\
         -A ORLOP-POSTROUTING -s 127.0.0.0/8 -o orlop0 -j MASQUERADE\n\
         -A ORLOP-POSTROUTING -s 10.244.0.0/24 ! -d 10.244.0.0/24 ! -o orlop0 -j MASQUERADE\n\
         COMMIT\n\
         *filter\n\
         :ORLOP-FORWARD - [0:0]\n\
         -A ORLOP-FORWARD -s 10.244.0.0/24 -j ACCEPT\n\
         -A ORLOP-FORWARD -d 10.244.0.0/24 -j ACCEPT\n\
         COMMIT\n"
    );
}

/// Runs `test` on a thread whose network namespace is new, with a loopback that is up.
fn in_a_new_host(test: impl AsyncFnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root, for a namespace of its own");
        ip(&["link", "set", "lo", "up"]);
        // One thread: a worker of its own would be in the old namespace.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(test());
    });
    thread.join().expect("the test passed");
}

fn ip(args: &[&str]) -> String {
    let out = std::process::Command::new("ip").args(args).output().expect("iproute2");
    assert!(out.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// A network namespace held by a process that sleeps in it.
struct Pod(std::process::Child);

impl Pod {
    fn new() -> Self {
        let child = std::process::Command::new("unshare")
            .args(["--net", "--", "sh", "-c", "ip link set lo up && echo ready && exec sleep 600"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("util-linux");
        let mut pod = Self(child);
        let mut line = String::new();
        let out = pod.0.stdout.take().expect("a pipe");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).expect("a line");
        assert_eq!(line, "ready\n");
        pod
    }

    fn netns(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.0.id()).into()
    }

    fn run(&self, args: &[&str]) -> bool {
        let net = format!("--net={}", self.netns().display());
        let out =
            std::process::Command::new("nsenter").arg(net).arg("--").args(args).output().expect("util-linux");
        out.status.success()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn pods_reach_each_other_and_leave_no_trace() {
    in_a_new_host(async || {
        let dir = tempfile::tempdir().expect("a folder");
        let tasks = TaskTracker::new();
        let config = NetworkConfig {
            bridge: "orlop0".into(),
            pod_cidr: range("10.244.7.0/24"),
            state_dir: dir.path().join("network"),
        };
        let network = Network::open(config.clone(), &tasks).await.expect("a network");
        let (a, b) = (Pod::new(), Pod::new());
        let first = network.attach("a", &a.netns(), &[]).await.expect("joined");
        let port = HostPort { host_ip: None, host_port: 8088, container_port: 80, protocol: Protocol::Tcp };
        let second = network.attach("b", &b.netns(), std::slice::from_ref(&port)).await.expect("joined");
        assert_ne!(first, second);
        assert!(
            a.run(&["ping", "-c1", "-W5", &second[0].to_string()])
                || a.run(&["busybox", "ping", "-c1", "-W5", &second[0].to_string()])
        );
        assert!(a.run(&["busybox", "ping", "-c1", "-W5", "10.244.7.1"]), "the gateway answers");

        // Twice is once; a network that was killed knows who has what.
        drop(network);
        let network = Network::open(config, &tasks).await.expect("reopened");
        assert_eq!(network.attach("a", &a.netns(), &[]).await.expect("joined"), first);
        assert_eq!(network.keys().len(), 2);

        network.detach("a").await.expect("left");
        network.detach("a").await.expect("left again");
        assert!(!a.run(&["ip", "link", "show", "eth0"]));
        let c = Pod::new();
        assert_ne!(
            network.attach("c", &c.netns(), &[]).await.expect("joined"),
            first,
            "not given again at once"
        );

        cleanup("orlop0", &tasks).await.expect("removed");
        cleanup("orlop0", &tasks).await.expect("removed again");
        assert!(!ip(&["link"]).contains("orlop0"));
        let rules = std::process::Command::new("iptables-save").output().expect("iptables").stdout;
        assert!(!String::from_utf8_lossy(&rules).contains("ORLOP"));
    });
}
