//! The event loop: requests, runc's and the containers' ends, output.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use orlop_shim::protocol::{Exit, MAX_MESSAGE, Reply, Request, VERSION};

use crate::container::{Attached, Container, Exec, Phase, open_log, read_pid, take_terminal};
use crate::streams::{Output, Sink};
use crate::sys;

/// How many ends of processes not yet known by name are remembered.
const ORPHANS: usize = 128;

/// Everything that the loop knows.
pub(crate) struct Server {
    runc: String,
    runc_root: String,
    /// The pod's init, 0 when it has none.
    pause: i32,
    signals: OwnedFd,
    listener: OwnedFd,
    connections: BTreeMap<u64, OwnedFd>,
    subscribers: Vec<u64>,
    next: u64,
    containers: Vec<Container>,
    execs: Vec<Exec>,
    /// Ends of processes whose pid file has not been read yet: (sequence number, pid, code). A detached
    /// process can end before the runc that started it.
    orphans: Vec<(u64, i32, i32)>,
    reaped: u64,
    consoles: u64,
    closing: bool,
    buffer: Vec<u8>,
}

/// What a ready descriptor belongs to.
enum Token {
    Signals,
    Listener,
    Connection(u64),
    Output(usize, usize),
    StdinRoom(usize),
    Typed(usize, usize),
    SinkRoom(usize, usize, &'static str),
}

type Failure = String;

impl Server {
    /// A server that has not started to serve.
    pub(crate) fn new(
        runc: String,
        runc_root: String,
        pause: i32,
        signals: OwnedFd,
        listener: OwnedFd,
    ) -> Self {
        Self {
            runc,
            runc_root,
            pause,
            signals,
            listener,
            connections: BTreeMap::new(),
            subscribers: Vec::new(),
            next: 0,
            containers: Vec::new(),
            execs: Vec::new(),
            orphans: Vec::new(),
            reaped: 0,
            consoles: 0,
            closing: false,
            buffer: vec![0; MAX_MESSAGE],
        }
    }

    /// Serves until shut down and nothing runs any more.
    pub(crate) fn serve(mut self) {
        loop {
            let busy = self.containers.iter().any(|c| !matches!(c.phase, Phase::Exited));
            if self.closing && !busy {
                return;
            }
            let (mut fds, tokens) = self.interests();
            if sys::poll(&mut fds, -1).is_err() {
                return;
            }
            // Signals first: an end that is already known must not be overtaken by a request.
            for (fd, token) in fds.iter().zip(&tokens) {
                if fd.revents != 0 {
                    self.dispatch(token, fd.revents);
                }
            }
        }
    }

    fn interests(&self) -> (Vec<sys::pollfd>, Vec<Token>) {
        let (mut fds, mut tokens) = (Vec::new(), Vec::new());
        let mut add = |fd: &OwnedFd, events, token| {
            fds.push(sys::pollfd { fd: fd.as_raw_fd(), events, revents: 0 });
            tokens.push(token);
        };
        add(&self.signals, sys::POLLIN, Token::Signals);
        for (ci, container) in self.containers.iter().enumerate() {
            if matches!(container.phase, Phase::Starting { .. }) {
                continue;
            }
            for (oi, output) in container.outputs.iter().enumerate() {
                if let Some(fd) = output.fd.as_ref().filter(|_| !container.congested(output.name)) {
                    add(fd, sys::POLLIN, Token::Output(ci, oi));
                }
            }
            if let Some(stdin) = container.stdin.as_ref().filter(|_| !container.stdin_pending.is_empty()) {
                add(stdin, sys::POLLOUT, Token::StdinRoom(ci));
            }
            for (ai, client) in container.attached.iter().enumerate() {
                if let Some(fd) = client.stdin.as_ref().filter(|_| container.stdin_pending.is_empty()) {
                    add(fd, sys::POLLIN, Token::Typed(ci, ai));
                }
                for (sink, name) in [(&client.stdout, "stdout"), (&client.stderr, "stderr")] {
                    if let Some(sink) = sink.as_ref().filter(|sink| !sink.pending.is_empty()) {
                        add(&sink.fd, sys::POLLOUT, Token::SinkRoom(ci, ai, name));
                    }
                }
            }
        }
        for (id, fd) in &self.connections {
            add(fd, sys::POLLIN, Token::Connection(*id));
        }
        add(&self.listener, sys::POLLIN, Token::Listener);
        (fds, tokens)
    }

    fn dispatch(&mut self, token: &Token, events: i16) {
        match *token {
            Token::Signals => {
                if sys::drain_signals(&self.signals) {
                    self.shut_down();
                }
                while let Some((pid, code)) = sys::reap() {
                    self.ended(pid, code);
                }
            }
            Token::Listener => {
                while let Some(fd) = sys::accept(&self.listener) {
                    self.next += 1;
                    self.connections.insert(self.next, fd);
                }
            }
            Token::Connection(id) => self.receive(id),
            Token::Output(ci, oi) => {
                if let Some(container) = self.containers.get_mut(ci) {
                    container.pump(oi, &mut self.buffer);
                }
            }
            Token::StdinRoom(ci) => {
                if let Some(container) = self.containers.get_mut(ci) {
                    if events & (sys::POLLERR | sys::POLLHUP) != 0 && events & sys::POLLOUT == 0 {
                        container.stdin = None;
                    }
                    container.flush_stdin();
                }
            }
            Token::Typed(ci, ai) => {
                if let Some(container) = self.containers.get_mut(ci) {
                    container.pump_stdin(ai, &mut self.buffer);
                }
            }
            Token::SinkRoom(ci, ai, name) => {
                let Some(container) = self.containers.get_mut(ci) else { return };
                let ended = container.outputs.iter().any(|o| o.name == name && o.fd.is_none());
                let Some(client) = container.attached.get_mut(ai) else { return };
                let sink = client.sink(name);
                let open = sink.as_mut().is_some_and(Sink::flush);
                if !open || (ended && sink.as_ref().is_some_and(|s| s.pending.is_empty())) {
                    *sink = None;
                }
            }
        }
    }

    // --- requests

    fn receive(&mut self, id: u64) {
        let Some(fd) = self.connections.get(&id) else { return };
        match sys::receive(fd, &mut self.buffer) {
            Ok(None) => {}
            Ok(Some((0, _))) | Err(_) => self.hung_up(id),
            Ok(Some((count, fds))) => match Request::decode(&self.buffer[..count]) {
                None => {
                    self.answer(id, &Reply::Error { message: "not a request of this version".to_owned() })
                }
                Some(request) => match self.handle(id, request, fds) {
                    Ok(None) => {}
                    Ok(Some(reply)) => self.answer(id, &reply),
                    Err(message) => self.answer(id, &Reply::Error { message }),
                },
            },
        }
    }

    fn answer(&mut self, id: u64, reply: &Reply) {
        self.answer_with(id, reply, None);
    }

    fn answer_with(&mut self, id: u64, reply: &Reply, fd: Option<BorrowedFd<'_>>) {
        let Some(connection) = self.connections.get(&id) else { return };
        if sys::send(connection, &reply.encode(), fd).is_err() {
            self.hung_up(id);
        }
    }

    fn hung_up(&mut self, id: u64) {
        self.connections.remove(&id);
        self.subscribers.retain(|s| *s != id);
        for container in &mut self.containers {
            container.attached.retain(|client| client.connection != id);
        }
        for exec in &mut self.execs {
            if exec.connection == Some(id) {
                exec.connection = None;
                if exec.pid != 0 {
                    let _ = sys::kill(exec.pid, libc::SIGKILL);
                }
            }
        }
    }

    fn container(&mut self, id: &str) -> Result<&mut Container, Failure> {
        self.containers.iter_mut().find(|c| c.id == id).ok_or_else(|| format!("container {id} is not known"))
    }

    fn running(&mut self, id: &str) -> Result<i32, Failure> {
        match self.container(id)?.phase {
            Phase::Running { pid } => Ok(pid),
            _ => Err(format!("container {id} is not running")),
        }
    }

    fn handle(&mut self, from: u64, request: Request, fds: Vec<OwnedFd>) -> Result<Option<Reply>, Failure> {
        match request {
            Request::Start { .. } => self.start(from, request).map(|()| None),
            Request::Exec { id, dir, tty } => self.exec(from, &id, &dir, tty, fds).map(|()| None),
            Request::Attach { id, stdin, stdout, stderr } => {
                self.running(&id)?;
                let mut fds = fds.into_iter();
                let mut next = |wanted: bool| match (wanted, wanted.then(|| fds.next()).flatten()) {
                    (true, None) => Err("a descriptor is missing".to_owned()),
                    (_, fd) => Ok(fd),
                };
                let sink = |fd: Option<OwnedFd>| fd.map(Sink::new).transpose().map_err(|e| e.to_string());
                let stdin = next(stdin)?;
                if let Some(fd) = &stdin {
                    sys::set_nonblocking(fd).map_err(|e| e.to_string())?;
                }
                let client = Attached {
                    connection: from,
                    stdin,
                    stdout: sink(next(stdout)?)?,
                    stderr: sink(next(stderr)?)?,
                };
                self.container(&id)?.attached.push(client);
                Ok(Some(Reply::Ok))
            }
            Request::Signal { id, signal } => {
                let pid = self.running(&id)?;
                sys::kill(pid, signal).map_err(|e| format!("send signal {signal} to {id}: {e}"))?;
                Ok(Some(Reply::Ok))
            }
            Request::Reopen { id } => {
                let container = self.container(&id)?;
                container.log = open_log(&container.log_path).map_err(|e| format!("open the log: {e}"))?;
                Ok(Some(Reply::Ok))
            }
            Request::Resize { id, width, height } => {
                let container = self.container(&id)?;
                let Some(terminal) = &container.terminal else {
                    return Err(format!("container {id} has no terminal"));
                };
                sys::resize(terminal, width, height).map_err(|e| format!("resize the terminal: {e}"))?;
                Ok(Some(Reply::Ok))
            }
            Request::Forget { id } => {
                self.containers.retain(|c| c.id != id || !matches!(c.phase, Phase::Exited));
                Ok(Some(Reply::Ok))
            }
            Request::State => {
                let running = self.containers.iter().filter_map(|c| match c.phase {
                    Phase::Running { pid } => Some((c.id.clone(), pid)),
                    _ => None,
                });
                Ok(Some(Reply::State { version: VERSION, running: running.collect() }))
            }
            Request::Subscribe => {
                self.subscribers.push(from);
                Ok(Some(Reply::Ok))
            }
            Request::Shutdown => {
                self.shut_down();
                Ok(None)
            }
        }
    }

    fn shut_down(&mut self) {
        self.closing = true;
        for container in &self.containers {
            if let Phase::Running { pid } = container.phase {
                let _ = sys::kill(pid, libc::SIGKILL);
            }
        }
    }

    // --- launching

    fn runc(&self, dir: &Path) -> Command {
        let mut command = Command::new(&self.runc);
        command.arg("--root").arg(&self.runc_root).arg("--log").arg(dir.join("runc.log"));
        command.args(["--log-format", "json"]);
        command
    }

    /// A socket for runc to deliver a terminal to. Bound relative to our working directory; for runc, which
    /// changes its own, named by way of ours: short however deep the folder is.
    fn console(&mut self) -> Result<(OwnedFd, String), Failure> {
        self.consoles += 1;
        let name = format!("c{}.sock", self.consoles);
        let socket = sys::listen(&name, libc::SOCK_STREAM).map_err(|e| format!("serve {name}: {e}"))?;
        Ok((socket, format!("/proc/{}/cwd/{name}", std::process::id())))
    }

    fn start(&mut self, from: u64, request: Request) -> Result<(), Failure> {
        let Request::Start { id, dir, log, oom, tty, stdin, stdin_once } = request else {
            return Err("not a start".to_owned());
        };
        if self.closing {
            return Err("the sandbox is being stopped".to_owned());
        }
        // A host that died between asking and hearing asks again.
        if let Some(known) = self.containers.iter_mut().find(|c| c.id == id) {
            match &mut known.phase {
                Phase::Starting { connection, .. } => *connection = from,
                Phase::Running { pid } => {
                    let reply = Reply::Started { pid: *pid, at: sys::now() };
                    self.answer(from, &reply);
                }
                Phase::Exited => return Err(format!("container {id} has been started before")),
            }
            return Ok(());
        }
        let file = open_log(&log).map_err(|e| format!("open the log file {log}: {e}"))?;
        let dir = std::path::PathBuf::from(dir);
        let mut command = self.runc(&dir);
        command.args(["run", "--detach", "--bundle"]).arg(&dir).arg("--pid-file").arg(dir.join("pid"));
        let mut container = Container {
            id: id.clone(),
            dir,
            log_path: log,
            oom,
            phase: Phase::Exited,
            log: file,
            outputs: Vec::new(),
            stdin: None,
            stdin_once,
            stdin_pending: Vec::new(),
            attached: Vec::new(),
            console: None,
            terminal: None,
            since: self.reaped,
        };
        if tty {
            let (socket, name) = self.console()?;
            command.arg("--console-socket").arg(&name);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            container.console = Some(socket);
        } else {
            let failed = |e: std::io::Error| format!("make a pipe: {e}");
            let (out_read, out_write) = sys::pipe().map_err(failed)?;
            let (err_read, err_write) = sys::pipe().map_err(failed)?;
            container.outputs.push(Output::new(out_read, "stdout").map_err(failed)?);
            container.outputs.push(Output::new(err_read, "stderr").map_err(failed)?);
            command.stdout(out_write).stderr(err_write);
            if stdin {
                let (in_read, in_write) = sys::pipe().map_err(failed)?;
                sys::set_nonblocking(&in_write).map_err(failed)?;
                command.stdin(in_read);
                container.stdin = Some(in_write);
            } else {
                command.stdin(Stdio::null());
            }
        }
        let child = command.arg(&id).spawn().map_err(|e| format!("start {}: {e}", self.runc))?;
        let runc = i32::try_from(child.id()).map_err(|e| e.to_string())?;
        container.phase = Phase::Starting { runc, connection: from };
        self.containers.push(container);
        Ok(())
    }

    fn exec(&mut self, from: u64, id: &str, dir: &str, tty: bool, fds: Vec<OwnedFd>) -> Result<(), Failure> {
        self.running(id)?;
        let dir = std::path::PathBuf::from(dir);
        let mut command = self.runc(&dir);
        command.args(["exec", "--detach", "--process"]).arg(dir.join("process.json"));
        command.arg("--pid-file").arg(dir.join("pid"));
        let mut console = None;
        if tty {
            let (socket, name) = self.console()?;
            command.arg("--console-socket").arg(&name);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            console = Some(socket);
        } else {
            let Ok([stdin, stdout, stderr]) = <[OwnedFd; 3]>::try_from(fds) else {
                return Err("three descriptors are needed".to_owned());
            };
            command.stdin(stdin).stdout(stdout).stderr(stderr);
        }
        let since = self.reaped;
        let child = command.arg(id).spawn().map_err(|e| format!("start {}: {e}", self.runc))?;
        let runc = i32::try_from(child.id()).map_err(|e| e.to_string())?;
        self.execs.push(Exec { dir, connection: Some(from), runc, pid: 0, console, since });
        Ok(())
    }

    // --- ends

    fn ended(&mut self, pid: i32, code: i32) {
        self.reaped += 1;
        if pid == self.pause {
            // The pod's pid namespace is gone, and everything in it.
            self.pause = 0;
            self.shut_down();
            return;
        }
        if let Some(ci) = self
            .containers
            .iter()
            .position(|c| matches!(c.phase, Phase::Starting { runc, .. } if runc == pid))
        {
            return self.launched(ci, code);
        }
        if let Some(ei) = self.execs.iter().position(|e| e.runc == pid) {
            return self.exec_launched(ei, code);
        }
        if let Some(ci) =
            self.containers.iter().position(|c| matches!(c.phase, Phase::Running { pid: p } if p == pid))
        {
            return self.exited(ci, code);
        }
        if let Some(ei) = self.execs.iter().position(|e| e.pid == pid) {
            return self.exec_exited(ei, code);
        }
        if self.orphans.len() >= ORPHANS {
            self.orphans.remove(0);
        }
        self.orphans.push((self.reaped, pid, code));
    }

    fn take_orphan(&mut self, pid: i32, since: u64) -> Option<i32> {
        let index = self.orphans.iter().rposition(|(seq, p, _)| *p == pid && *seq > since)?;
        Some(self.orphans.remove(index).2)
    }

    fn launched(&mut self, ci: usize, code: i32) {
        let Phase::Starting { connection, .. } = self.containers[ci].phase else { return };
        let container = &mut self.containers[ci];
        if let Some(console) = container.console.take() {
            container.terminal = take_terminal(&console);
            remove_sockets(&console);
        }
        let pid = if code == 0 { read_pid(&container.dir) } else { None };
        let Some(pid) = pid else {
            self.containers.remove(ci);
            return self
                .answer(connection, &Reply::Error { message: format!("runc run: exit status {code}") });
        };
        if let Some(terminal) = &container.terminal {
            let copies =
                terminal.try_clone().and_then(|out| Ok((Output::new(out, "stdout")?, terminal.try_clone()?)));
            if let Ok((output, stdin)) = copies {
                container.outputs.push(output);
                container.stdin = Some(stdin);
            }
        }
        let at = sys::now();
        container.phase = Phase::Running { pid };
        let since = container.since;
        let recorded = container.record_start(pid, at);
        if let Err(error) = recorded {
            // Without the record a later host would take it for never started: better not to run at all.
            let _ = sys::kill(pid, libc::SIGKILL);
            self.answer(connection, &Reply::Error { message: format!("record the start: {error}") });
        } else {
            self.answer(connection, &Reply::Started { pid, at });
        }
        if self.closing {
            let _ = sys::kill(pid, libc::SIGKILL);
        }
        if let Some(code) = self.take_orphan(pid, since) {
            self.exited(ci, code);
        }
    }

    fn exited(&mut self, ci: usize, code: i32) {
        let container = &mut self.containers[ci];
        let exit = Exit { code, at: sys::now(), oom: container.was_out_of_memory() };
        // Logs before the news, so that whoever reads them on the news finds them complete.
        container.drain(&mut self.buffer);
        container.stdin = None;
        container.phase = Phase::Exited;
        let _ = container.record_exit(&exit);
        let reply = Reply::Exit { id: container.id.clone(), exit };
        let mut told: Vec<u64> = container.attached.iter().map(|client| client.connection).collect();
        told.extend(&self.subscribers);
        for connection in told {
            self.answer(connection, &reply);
        }
    }

    fn exec_launched(&mut self, ei: usize, code: i32) {
        let exec = &mut self.execs[ei];
        exec.runc = 0;
        let terminal = exec.console.take().and_then(|console| {
            let terminal = take_terminal(&console);
            remove_sockets(&console);
            terminal
        });
        let (connection, since) = (exec.connection, exec.since);
        let pid = if code == 0 { read_pid(&exec.dir) } else { None };
        let Some(pid) = pid else {
            self.execs.remove(ei);
            if let Some(connection) = connection {
                self.answer(connection, &Reply::Error { message: format!("runc exec: exit status {code}") });
            }
            return;
        };
        exec.pid = pid;
        match connection {
            Some(connection) => {
                let reply = Reply::Started { pid, at: sys::now() };
                self.answer_with(connection, &reply, terminal.as_ref().map(AsFd::as_fd));
            }
            None => drop(sys::kill(pid, libc::SIGKILL)),
        }
        if let Some(code) = self.take_orphan(pid, since) {
            // Answering may have dropped others, but this one stays until its process has ended.
            if let Some(ei) = self.execs.iter().position(|e| e.pid == pid) {
                self.exec_exited(ei, code);
            }
        }
    }

    fn exec_exited(&mut self, ei: usize, code: i32) {
        let exec = self.execs.remove(ei);
        if let Some(connection) = exec.connection {
            let exit = Exit { code, at: sys::now(), oom: false };
            self.answer(connection, &Reply::Exit { id: String::new(), exit });
        }
    }
}

/// Removes the file of a console socket.
fn remove_sockets(socket: &OwnedFd) {
    if let Some(name) = sys::socket_name(socket) {
        let _ = std::fs::remove_file(name);
    }
}
