//! Hosts and pods as threads, each in a network namespace of its own, so that a test never touches
//! the machine's own network. What is in a namespace goes with the last thread in it.

#![allow(dead_code, reason = "each test binary uses another part of it")]

use nix::sched::{CloneFlags, unshare};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

type Task = Box<dyn FnOnce() + Send>;

/// A thread in a network namespace of its own.
pub(crate) struct Netns {
    tasks: Option<mpsc::Sender<Task>>,
    tid: i32,
}

impl Netns {
    pub(crate) fn new() -> Self {
        let (tasks, work) = mpsc::channel::<Task>();
        let (ready, tid) = mpsc::channel();
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET)
                .expect("this test makes network namespaces and must run as root");
            ready.send(nix::unistd::gettid().as_raw()).unwrap();
            while let Ok(task) = work.recv() {
                task();
            }
        });
        let netns = Self { tasks: Some(tasks), tid: tid.recv().unwrap() };
        netns.ip("link set lo up");
        netns
    }

    /// The namespace's file.
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/task/{}/ns/net", std::process::id(), self.tid))
    }

    /// Runs `task` inside. Threads that it starts, and their children, are inside too.
    pub(crate) fn run<T: Send + 'static>(&self, task: impl FnOnce() -> T + Send + 'static) -> T {
        let (reply, answer) = mpsc::channel();
        let task = Box::new(move || {
            let _ = reply.send(task());
        });
        self.tasks.as_ref().unwrap().send(task).unwrap();
        answer.recv().expect("the task panicked")
    }

    /// Runs a program inside; it must succeed.
    pub(crate) fn command(&self, line: &str) -> String {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let line = line.to_owned();
        self.run(move || {
            let output = Command::new(&words[0]).args(&words[1..]).output().unwrap();
            let (out, err) =
                (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert!(output.status.success(), "{line}: {err}");
            out.into_owned()
        })
    }

    pub(crate) fn ip(&self, line: &str) -> String {
        self.command(&format!("ip {line}"))
    }

    /// Joins this namespace to another by a cable with an address at each end.
    pub(crate) fn connect(&self, name: &str, address: &str, other: &Self, other_address: &str) {
        self.ip(&format!("link add {name} type veth peer name eth0 netns {}", other.tid));
        self.ip(&format!("addr add {address} dev {name}"));
        self.ip(&format!("link set {name} up"));
        other.ip(&format!("addr add {other_address} dev eth0"));
        other.ip("link set eth0 up");
    }

    /// Serves TCP and UDP on `port` of every address: answers with `name`, the peer's address, and
    /// then whatever it is sent, line by line.
    pub(crate) fn serve(&self, name: &str, port: u16) {
        let (name, udp_name) = (name.to_owned(), name.to_owned());
        self.run(move || {
            let listener = TcpListener::bind(("0.0.0.0", port)).unwrap();
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let Ok(mut stream) = stream else { return };
                    let name = name.clone();
                    std::thread::spawn(move || {
                        let peer = stream.peer_addr().unwrap().ip();
                        let _ = stream.write_all(format!("{name} {peer}\n").as_bytes());
                        let mut buf = [0; 256];
                        while let Ok(n) = stream.read(&mut buf) {
                            if n == 0 || stream.write_all(&buf[..n]).is_err() {
                                return;
                            }
                        }
                    });
                }
            });
            let socket = UdpSocket::bind(("0.0.0.0", port)).unwrap();
            std::thread::spawn(move || {
                let mut buf = [0; 256];
                while let Ok((_, peer)) = socket.recv_from(&mut buf) {
                    let _ = socket.send_to(format!("{udp_name} {}\n", peer.ip()).as_bytes(), peer);
                }
            });
        });
    }

    /// Connects and reads the greeting: the server's name and the address that it sees.
    pub(crate) fn dial(&self, to: SocketAddr) -> Result<Connection, std::io::Error> {
        let stream = loop {
            match self.run(move || TcpStream::connect_timeout(&to, Duration::from_secs(3))) {
                // A child of this process has ended.
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut connection = Connection { stream, server: String::new(), seen: String::new() };
        let greeting = connection.read_line()?;
        let (server, seen) = greeting.split_once(' ').unwrap_or_default();
        connection.server = server.to_owned();
        connection.seen = seen.to_owned();
        Ok(connection)
    }

    /// One request and answer over UDP, tried again until there is an answer or `tries` are over.
    pub(crate) fn ask_udp(&self, from_port: u16, to: SocketAddr, tries: usize) -> Option<String> {
        self.run(move || {
            let started = Instant::now();
            let socket = loop {
                match UdpSocket::bind(("0.0.0.0", from_port)) {
                    Ok(socket) => break socket,
                    // A child between fork and exec still holds the last one.
                    Err(e) => assert!(started.elapsed() < PATIENCE, "{e}"),
                }
            };
            socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            for _ in 0..tries {
                let mut buf = [0; 256];
                if socket.send_to(b"?", to).is_err() {
                    continue;
                }
                if let Ok((n, _)) = socket.recv_from(&mut buf) {
                    let answer = String::from_utf8_lossy(&buf[..n]);
                    return Some(answer.split(' ').next().unwrap_or_default().to_owned());
                }
            }
            None
        })
    }
}

pub(crate) struct Connection {
    stream: TcpStream,
    /// Name of the server that answered.
    pub(crate) server: String,
    /// The client's address as the server sees it.
    pub(crate) seen: String,
}

impl Connection {
    fn read_line(&mut self) -> Result<String, std::io::Error> {
        let mut line = Vec::new();
        let mut byte = [0];
        loop {
            match self.stream.read(&mut byte) {
                Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                // A child of this process has ended.
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            }
            if byte[0] == b'\n' {
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            line.push(byte[0]);
        }
    }

    /// Whether the server still answers.
    pub(crate) fn echo(&mut self, text: &str) -> Result<bool, std::io::Error> {
        self.stream.write_all(format!("{text}\n").as_bytes())?;
        Ok(self.read_line()? == text)
    }
}

pub(crate) fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse::<IpAddr>().unwrap(), port)
}

/// Waits until `done` says so.
pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < PATIENCE, "timed out waiting until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A host in its own namespace, with a runtime whose threads are in it.
pub(crate) struct Host {
    pub(crate) netns: Netns,
    runtime: tokio::runtime::Handle,
    _stop: mpsc::Sender<()>,
}

impl Host {
    pub(crate) fn new() -> Self {
        let netns = Netns::new();
        let (handle, runtime) = mpsc::channel();
        let (stop, stopped) = mpsc::channel::<()>();
        netns.run(move || {
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(2)
                    .enable_all()
                    .build()
                    .unwrap();
                handle.send(runtime.handle().clone()).unwrap();
                let _ = stopped.recv();
            });
        });
        Self { netns, runtime: runtime.recv().unwrap(), _stop: stop }
    }

    /// Runs a future on the host's threads, until it ends.
    pub(crate) fn block<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        let (reply, answer) = mpsc::channel();
        self.runtime.spawn(async move {
            let _ = reply.send(work.await);
        });
        answer.recv().expect("the task panicked")
    }

    /// Starts a future on the host's threads.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(work);
    }
}
