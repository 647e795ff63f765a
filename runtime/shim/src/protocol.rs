//! Messages between the host and a shim, and the small files that a shim leaves.
//!
//! The transport is a `SOCK_SEQPACKET` Unix socket, so one message is one packet; file descriptors
//! travel beside it. A message is a list of NUL-separated fields. One connection carries one request
//! and its replies; closing the connection of an exec kills the command.
//!
//! A shim outlives its host and may be older than it: [`VERSION`] goes up with every change that an
//! older peer would misread.

/// Version of this protocol, told in the answer to [`Request::State`].
pub const VERSION: u32 = 1;

/// Name of the socket in the sandbox's runtime folder.
pub const SOCKET: &str = "shim.sock";
/// File with `pid starttime pause-pid` of a shim that has become ready (`0` without a pause process).
pub const PID_FILE: &str = "shim.pid";
/// Bind mount of the network namespace.
pub const NETNS: &str = "netns";
/// In a container's folder: `pid started-at`, written once runc has started it.
pub const STARTED_FILE: &str = "started";
/// In a container's folder: see [`Exit`].
pub const EXIT_FILE: &str = "exit";
/// Largest message.
pub const MAX_MESSAGE: usize = 32 * 1024;

/// What a host asks of a shim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Launch the bundle in `dir`. Answer: [`Reply::Started`] or [`Reply::Error`].
    Start {
        /// Container id.
        id: String,
        /// Bundle folder, with `config.json`; `started`, `exit` and `runc.log` are written there.
        dir: String,
        /// Log file; empty: none.
        log: String,
        /// File with an `oom_kill` counter (`memory.oom_control` or `memory.events`); empty: none.
        oom: String,
        /// Has a terminal.
        tty: bool,
        /// Keep stdin open.
        stdin: bool,
        /// Close stdin when the first attached client has closed its own.
        stdin_once: bool,
    },
    /// Run `dir/process.json` in a container. Without a terminal three descriptors come along (stdin,
    /// stdout, stderr). Answer: [`Reply::Started`] (with the terminal's master), later [`Reply::Exit`].
    Exec {
        /// Container id.
        id: String,
        /// Folder of this exec.
        dir: String,
        /// Has a terminal.
        tty: bool,
    },
    /// Join a container's streams; one descriptor for each stream that is set, in this order. Answer:
    /// [`Reply::Ok`], and [`Reply::Exit`] when the container ends.
    Attach {
        /// Container id.
        id: String,
        /// Client writes to it.
        stdin: bool,
        /// Client reads stdout.
        stdout: bool,
        /// Client reads stderr.
        stderr: bool,
    },
    /// Send a signal to the main process, or with `all` to every process of the container's cgroup.
    Signal {
        /// Container id.
        id: String,
        /// Signal number.
        signal: i32,
    },
    /// Open the log file anew.
    Reopen {
        /// Container id.
        id: String,
    },
    /// Set the size of a container's terminal.
    Resize {
        /// Container id.
        id: String,
        /// Columns.
        width: u16,
        /// Rows.
        height: u16,
    },
    /// Drop what is remembered of an exited container.
    Forget {
        /// Container id.
        id: String,
    },
    /// What runs. Answer: [`Reply::State`].
    State,
    /// Answer: [`Reply::Ok`], then [`Reply::Exit`] for every container that ends.
    Subscribe,
    /// End the shim. What still runs is killed.
    Shutdown,
}

/// What a shim answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Done.
    Ok,
    /// It runs.
    Started {
        /// Its process id on the node.
        pid: i32,
        /// Unix nanoseconds.
        at: i64,
    },
    /// It ended.
    Exit {
        /// Container id.
        id: String,
        /// How.
        exit: Exit,
    },
    /// Protocol version and the containers that run, as `id` and `pid`.
    State {
        /// See [`VERSION`].
        version: u32,
        /// Running containers.
        running: Vec<(String, i32)>,
    },
    /// It did not work.
    Error {
        /// For people; runc's own words where they exist.
        message: String,
    },
}

/// How a container ended; also the content of the exit file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// 128 + signal when killed by one.
    pub code: i32,
    /// Unix nanoseconds.
    pub at: i64,
    /// The kernel killed something in it for lack of memory.
    pub oom: bool,
}

impl Exit {
    /// `code at oom` in decimal.
    pub fn encode(&self) -> String {
        format!("{} {} {}\n", self.code, self.at, u8::from(self.oom))
    }

    /// `None` when damaged.
    pub fn decode(text: &str) -> Option<Self> {
        let mut parts = text.split_ascii_whitespace();
        let exit = Self {
            code: parts.next()?.parse().ok()?,
            at: parts.next()?.parse().ok()?,
            oom: parts.next()? == "1",
        };
        Some(exit)
    }
}

fn flag(set: bool) -> String {
    (if set { "1" } else { "0" }).to_owned()
}

impl Request {
    /// The packet.
    pub fn encode(&self) -> Vec<u8> {
        let fields: Vec<String> = match self {
            Self::Start { id, dir, log, oom, tty, stdin, stdin_once } => vec![
                "start".into(),
                id.clone(),
                dir.clone(),
                log.clone(),
                oom.clone(),
                flag(*tty),
                flag(*stdin),
                flag(*stdin_once),
            ],
            Self::Exec { id, dir, tty } => vec!["exec".into(), id.clone(), dir.clone(), flag(*tty)],
            Self::Attach { id, stdin, stdout, stderr } => {
                vec!["attach".into(), id.clone(), flag(*stdin), flag(*stdout), flag(*stderr)]
            }
            Self::Signal { id, signal } => vec!["signal".into(), id.clone(), signal.to_string()],
            Self::Reopen { id } => vec!["reopen".into(), id.clone()],
            Self::Resize { id, width, height } => {
                vec!["resize".into(), id.clone(), width.to_string(), height.to_string()]
            }
            Self::Forget { id } => vec!["forget".into(), id.clone()],
            Self::State => vec!["state".into()],
            Self::Subscribe => vec!["subscribe".into()],
            Self::Shutdown => vec!["shutdown".into()],
        };
        fields.join("\0").into_bytes()
    }

    /// `None` when it is not a message of this version.
    pub fn decode(packet: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(packet).ok()?;
        let mut fields = text.split('\0');
        let mut next = || fields.next().map(str::to_owned);
        let request = match next()?.as_str() {
            "start" => Self::Start {
                id: next()?,
                dir: next()?,
                log: next()?,
                oom: next()?,
                tty: next()? == "1",
                stdin: next()? == "1",
                stdin_once: next()? == "1",
            },
            "exec" => Self::Exec { id: next()?, dir: next()?, tty: next()? == "1" },
            "attach" => Self::Attach {
                id: next()?,
                stdin: next()? == "1",
                stdout: next()? == "1",
                stderr: next()? == "1",
            },
            "signal" => Self::Signal { id: next()?, signal: next()?.parse().ok()? },
            "reopen" => Self::Reopen { id: next()? },
            "resize" => {
                Self::Resize { id: next()?, width: next()?.parse().ok()?, height: next()?.parse().ok()? }
            }
            "forget" => Self::Forget { id: next()? },
            "state" => Self::State,
            "subscribe" => Self::Subscribe,
            "shutdown" => Self::Shutdown,
            _ => return None,
        };
        Some(request)
    }
}

impl Reply {
    /// The packet.
    pub fn encode(&self) -> Vec<u8> {
        let text = match self {
            Self::Ok => "ok".to_owned(),
            Self::Started { pid, at } => format!("started\0{pid}\0{at}"),
            Self::Exit { id, exit } => {
                format!("exit\0{id}\0{}\0{}\0{}", exit.code, exit.at, flag(exit.oom))
            }
            Self::State { version, running } => {
                let mut text = format!("state\0{version}");
                for (id, pid) in running {
                    text.push('\0');
                    text.push_str(id);
                    text.push('\0');
                    text.push_str(&pid.to_string());
                }
                text
            }
            Self::Error { message } => format!("error\0{}", message.replace('\0', " ")),
        };
        text.into_bytes()
    }

    /// `None` when it is not a message of this version.
    pub fn decode(packet: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(packet).ok()?;
        let mut fields = text.split('\0');
        let reply = match fields.next()? {
            "ok" => Self::Ok,
            "started" => {
                Self::Started { pid: fields.next()?.parse().ok()?, at: fields.next()?.parse().ok()? }
            }
            "exit" => Self::Exit {
                id: fields.next()?.to_owned(),
                exit: Exit {
                    code: fields.next()?.parse().ok()?,
                    at: fields.next()?.parse().ok()?,
                    oom: fields.next()? == "1",
                },
            },
            "state" => {
                let version = fields.next()?.parse().ok()?;
                let mut running = Vec::new();
                while let Some(id) = fields.next() {
                    running.push((id.to_owned(), fields.next()?.parse().ok()?));
                }
                Self::State { version, running }
            }
            "error" => Self::Error { message: fields.next()?.to_owned() },
            _ => return None,
        };
        Some(reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_survive_the_wire() {
        let all = [
            Request::Start {
                id: "a".into(),
                dir: "/d".into(),
                log: String::new(),
                oom: "/o".into(),
                tty: true,
                stdin: false,
                stdin_once: true,
            },
            Request::Exec { id: "a".into(), dir: "/d".into(), tty: false },
            Request::Attach { id: "a".into(), stdin: true, stdout: true, stderr: false },
            Request::Signal { id: "a".into(), signal: 15 },
            Request::Reopen { id: "a".into() },
            Request::Resize { id: "a".into(), width: 80, height: 24 },
            Request::Forget { id: "a".into() },
            Request::State,
            Request::Subscribe,
            Request::Shutdown,
        ];
        for request in all {
            assert_eq!(Request::decode(&request.encode()), Some(request));
        }
        assert_eq!(Request::decode(b"start\0a"), None);
        assert_eq!(Request::decode(b"\xff"), None);
    }

    #[test]
    fn replies_survive_the_wire() {
        let exit = Exit { code: 137, at: 12, oom: true };
        let all = [
            Reply::Ok,
            Reply::Started { pid: 7, at: 9 },
            Reply::Exit { id: "a".into(), exit },
            Reply::State { version: 1, running: vec![("a".into(), 1), ("b".into(), 2)] },
            Reply::State { version: 1, running: vec![] },
            Reply::Error { message: "no".into() },
        ];
        for reply in all {
            assert_eq!(Reply::decode(&reply.encode()), Some(reply));
        }
        assert_eq!(Exit::decode(&exit.encode()), Some(exit));
        assert_eq!(Exit::decode("1 "), None);
    }
}
