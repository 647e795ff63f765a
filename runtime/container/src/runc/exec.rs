//! Exec, attach and port-forward.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::fcntl::OFlag;
use orlop_shim::protocol::{NETNS, Reply, Request};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

use super::pty::Pty;
use super::shim::{self, Connection};
use super::{Inner, Phase, blocking, container, mounts};
use crate::cri::{
    AttachRequest, Connection as PortConnection, ExecRequest, ExecSession, ExecSyncResponse, NamespaceMode,
    TerminalSize,
};
use crate::error::RuntimeError;

/// Most that `exec_sync` keeps of each stream.
const OUTPUT: usize = 16 * 1024 * 1024;
/// How long output may still come after a command has ended, when it left processes behind.
const DRAIN: Duration = Duration::from_secs(2);
/// How long a connection inside the pod may take to be made.
const CONNECT: Duration = Duration::from_secs(10);

static SERIAL: AtomicU64 = AtomicU64::new(0);

/// Folder of one exec; goes with it.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // Three small files on a tmpfs.
        let _ = mounts::remove_folder(&self.0);
    }
}

fn talk(e: impl Into<io::Error>) -> RuntimeError {
    RuntimeError::io("talk to the pod's supervisor", e)
}

fn pipe_pair() -> Result<(OwnedFd, OwnedFd), RuntimeError> {
    nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|e| RuntimeError::io("make a pipe", e))
}

fn null(write: bool) -> Result<OwnedFd, RuntimeError> {
    fs::OpenOptions::new()
        .read(!write)
        .write(write)
        .open("/dev/null")
        .map(OwnedFd::from)
        .map_err(|e| RuntimeError::io("open /dev/null", e))
}

fn running(inner: &Inner, id: &str) -> Result<(String, i32), RuntimeError> {
    let container = inner.container(id)?;
    let pid = match *container.phase.borrow() {
        Phase::Running { pid, .. } => pid,
        _ => return Err(RuntimeError::FailedPrecondition(format!("container \"{id}\" is not running"))),
    };
    Ok((container.sandbox_id(), pid))
}

/// Our ends of a command's streams, and its own.
struct Streams {
    stdin: Option<pipe::Sender>,
    stdout: Option<pipe::Receiver>,
    stderr: Option<pipe::Receiver>,
    theirs: [OwnedFd; 3],
}

fn streams(stdin: bool, stdout: bool, stderr: bool) -> Result<Streams, RuntimeError> {
    let fail = |e: io::Error| RuntimeError::io("set up the streams", e);
    let (their_in, our_in) = match stdin {
        true => {
            let (read, write) = pipe_pair()?;
            (read, Some(pipe::Sender::from_owned_fd(write).map_err(fail)?))
        }
        false => (null(false)?, None),
    };
    let output = |wanted: bool| match wanted {
        true => {
            let (read, write) = pipe_pair()?;
            Ok::<_, RuntimeError>((write, Some(pipe::Receiver::from_owned_fd(read).map_err(fail)?)))
        }
        false => Ok((null(true)?, None)),
    };
    let (their_out, our_out) = output(stdout)?;
    let (their_err, our_err) = output(stderr)?;
    Ok(Streams { stdin: our_in, stdout: our_out, stderr: our_err, theirs: [their_in, their_out, their_err] })
}

/// The container's own process, with another command.
fn process(folder: &Path, request: &ExecRequest) -> Result<serde_json::Value, RuntimeError> {
    let bytes = fs::read(folder.join("config.json")).map_err(|e| RuntimeError::io("read config.json", e))?;
    let mut spec: serde_json::Value = serde_json::from_slice(&bytes)
        .map_err(|e| RuntimeError::Internal(format!("config.json is damaged: {e}")))?;
    let mut process = spec["process"].take();
    process["args"] = json!(request.cmd);
    process["terminal"] = json!(request.tty);
    if request.tty
        && let Some(env) = process["env"].as_array_mut()
        && !env.iter().any(|e| e.as_str().is_some_and(|e| e.starts_with("TERM=")))
    {
        env.push(json!("TERM=xterm"));
    }
    Ok(process)
}

/// CRI's Exec.
pub(crate) async fn exec(inner: &Arc<Inner>, request: ExecRequest) -> Result<ExecSession, RuntimeError> {
    if request.cmd.is_empty() {
        return Err(RuntimeError::InvalidArgument("no command specified".to_owned()));
    }
    if request.tty && request.stderr {
        return Err(RuntimeError::InvalidArgument("tty and stderr cannot both be true".to_owned()));
    }
    let (sandbox_id, _) = running(inner, &request.container_id)?;
    let run = inner.folders.sandbox_run(&sandbox_id);
    let scratch =
        Scratch(run.join(format!("exec-{}-{}", std::process::id(), SERIAL.fetch_add(1, Ordering::Relaxed))));
    let (folder, dir) = (inner.folders.container(&request.container_id), scratch.0.clone());
    let asked = request.clone();
    blocking(move || {
        let bytes = serde_json::to_vec(&process(&folder, &asked)?)
            .map_err(|e| RuntimeError::Internal(e.to_string()))?;
        fs::create_dir(&dir)
            .and_then(|()| fs::write(dir.join("process.json"), bytes))
            .map_err(|e| RuntimeError::io(format!("write {}/process.json", dir.display()), e))
    })
    .await?;
    let connection = Connection::open(&run).map_err(talk)?;
    let message = Request::Exec {
        id: request.container_id.clone(),
        dir: scratch.0.to_string_lossy().into_owned(),
        tty: request.tty,
    };
    let mut ours = None;
    if request.tty {
        connection.send(&message, &[]).await.map_err(talk)?;
    } else {
        let made = streams(request.stdin, request.stdout, request.stderr)?;
        let fds = [made.theirs[0].as_fd(), made.theirs[1].as_fd(), made.theirs[2].as_fd()];
        connection.send(&message, &fds).await.map_err(talk)?;
        // Dropping their ends here is what lets ours see the end of file.
        ours = Some((made.stdin, made.stdout, made.stderr));
    }
    let terminal = match connection.receive().await.map_err(talk)? {
        (Reply::Started { .. }, fd) => fd,
        (Reply::Error { message }, _) => {
            let dir = scratch.0.clone();
            let said = blocking(move || Ok(container::runc_error(&dir))).await?;
            return Err(RuntimeError::Runc {
                context: "failed to exec in container",
                message: said.unwrap_or(message),
            });
        }
        _ => return Err(RuntimeError::Internal("the pod's supervisor gave a strange answer".to_owned())),
    };
    let exit = Box::pin(async move {
        let _scratch = scratch;
        loop {
            match connection.receive().await {
                Ok((Reply::Exit { exit, .. }, _)) => return Ok(exit.code),
                Ok(_) => {}
                // The container's supervisor is gone, and the command with it.
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(137),
                Err(e) => return Err(talk(e)),
            }
        }
    });
    if let Some((stdin, stdout, stderr)) = ours {
        return Ok(ExecSession {
            stdin: stdin.map(|s| Box::new(s) as _),
            stdout: stdout.map(|s| Box::new(s) as _),
            stderr: stderr.map(|s| Box::new(s) as _),
            resize: None,
            exit,
        });
    }
    let master = terminal.ok_or_else(|| RuntimeError::Internal("runc delivered no terminal".to_owned()))?;
    let pty = Pty::new(master).map_err(|e| RuntimeError::io("use the terminal", e))?;
    let (sender, mut sizes) = mpsc::channel::<TerminalSize>(4);
    let resized = pty.clone();
    let cancel = inner.config.cancel.clone();
    inner.config.tracker.spawn(async move {
        while let Some(Some(size)) = cancel.run_until_cancelled(sizes.recv()).await {
            if resized.resize(size).is_err() {
                return;
            }
        }
    });
    Ok(ExecSession {
        stdin: request.stdin.then(|| Box::new(pty.clone()) as _),
        stdout: Some(Box::new(pty)),
        stderr: None,
        resize: Some(sender),
        exit,
    })
}

async fn collect(stream: Option<Box<dyn AsyncRead + Send + Unpin>>, into: &mut Vec<u8>) -> io::Result<()> {
    let Some(mut stream) = stream else { return Ok(()) };
    let mut chunk = vec![0; 16 * 1024];
    loop {
        let count = stream.read(&mut chunk).await?;
        if count == 0 {
            return Ok(());
        }
        let room = OUTPUT - into.len();
        into.extend_from_slice(&chunk[..count.min(room)]);
    }
}

/// CRI's ExecSync.
pub(crate) async fn exec_sync(
    inner: &Arc<Inner>,
    id: &str,
    cmd: Vec<String>,
    timeout: Duration,
) -> Result<ExecSyncResponse, RuntimeError> {
    let shown = cmd.join(" ");
    let work = async {
        let request = ExecRequest {
            container_id: id.to_owned(),
            cmd,
            tty: false,
            stdin: false,
            stdout: true,
            stderr: true,
        };
        let session = exec(inner, request).await?;
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let exit_code = {
            let output = async {
                tokio::try_join!(collect(session.stdout, &mut stdout), collect(session.stderr, &mut stderr))
            };
            let mut output = std::pin::pin!(output);
            let mut exit = session.exit;
            tokio::select! {
                code = &mut exit => {
                    let code = code?;
                    // It has ended; whatever it left running may hold its output open for ever.
                    let _ = tokio::time::timeout(DRAIN, &mut output).await;
                    code
                }
                done = &mut output => {
                    done.map_err(|e| RuntimeError::io("read the command's output", e))?;
                    exit.await?
                }
            }
        };
        Ok(ExecSyncResponse { stdout, stderr, exit_code })
    };
    if timeout.is_zero() {
        return work.await;
    }
    tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| {
        Err(RuntimeError::DeadlineExceeded(format!(
            "command \"{shown}\" timed out after {}s",
            timeout.as_secs_f64()
        )))
    })
}

/// CRI's Attach.
pub(crate) async fn attach(inner: &Arc<Inner>, request: AttachRequest) -> Result<ExecSession, RuntimeError> {
    let id = request.container_id.clone();
    let (sandbox_id, _) = running(inner, &id)?;
    let config = inner.container(&id)?.record.lock().config.clone();
    let run = inner.folders.sandbox_run(&sandbox_id);
    let stderr = request.stderr && !config.tty;
    let stdin = request.stdin && config.stdin;
    let made = streams(stdin, request.stdout, stderr)?;
    let connection = Connection::open(&run).map_err(talk)?;
    let message = Request::Attach { id: id.clone(), stdin, stdout: request.stdout, stderr };
    let wanted = [stdin, request.stdout, stderr];
    let fds: Vec<_> = made.theirs.iter().zip(wanted).filter(|(_, w)| *w).map(|(fd, _)| fd.as_fd()).collect();
    connection.send(&message, &fds).await.map_err(talk)?;
    match connection.receive().await.map_err(talk)? {
        (Reply::Ok, _) => {}
        (Reply::Error { message }, _) => return Err(RuntimeError::FailedPrecondition(message)),
        _ => return Err(RuntimeError::Internal("the pod's supervisor gave a strange answer".to_owned())),
    }
    let resize = config.tty.then(|| {
        let (sender, mut sizes) = mpsc::channel::<TerminalSize>(4);
        let cancel = inner.config.cancel.clone();
        inner.config.tracker.spawn(async move {
            while let Some(Some(size)) = cancel.run_until_cancelled(sizes.recv()).await {
                let request = Request::Resize { id: id.clone(), width: size.width, height: size.height };
                if shim::call(&run, &request, &[]).await.is_err() {
                    return;
                }
            }
        });
        sender
    });
    Ok(ExecSession {
        stdin: made.stdin.map(|s| Box::new(s) as _),
        stdout: made.stdout.map(|s| Box::new(s) as _),
        stderr: made.stderr.map(|s| Box::new(s) as _),
        resize,
        exit: Box::pin(async move {
            loop {
                match connection.receive().await {
                    Ok((Reply::Exit { exit, .. }, _)) => return Ok(exit.code),
                    Ok(_) => {}
                    Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(137),
                    Err(e) => return Err(talk(e)),
                }
            }
        }),
    })
}

/// CRI's PortForward: connects from inside the pod's network namespace, on a thread of its own, since a
/// namespace is a property of a thread. The socket keeps the namespace it was made in.
pub(crate) async fn port_forward(
    inner: &Arc<Inner>,
    sandbox_id: &str,
    port: u16,
) -> Result<Box<dyn PortConnection>, RuntimeError> {
    let sandbox = inner.sandbox(sandbox_id)?;
    if !sandbox.is_ready() {
        return Err(RuntimeError::FailedPrecondition(format!(
            "sandbox container \"{sandbox_id}\" is not running"
        )));
    }
    let own = sandbox.record.lock().config.security_context.namespace_options.network == NamespaceMode::Pod;
    let netns = own.then(|| inner.folders.sandbox_run(sandbox_id).join(NETNS));
    let (answer, made) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("port-forward".to_owned())
        .stack_size(64 * 1024)
        .spawn(move || {
            // The caller may have gone: nothing to tell then.
            let _ = answer.send(connect_in(netns.as_deref(), port));
        })
        .map_err(|e| RuntimeError::io("start a thread", e))?;
    let stream =
        made.await.map_err(|_| RuntimeError::Internal("the port-forward thread died".to_owned()))?.map_err(
            |e| RuntimeError::io(format!("failed to connect to localhost:{port} inside the pod"), e),
        )?;
    let stream =
        tokio::net::TcpStream::from_std(stream).map_err(|e| RuntimeError::io("use the connection", e))?;
    Ok(Box::new(stream))
}

fn connect_in(netns: Option<&Path>, port: u16) -> io::Result<std::net::TcpStream> {
    if let Some(netns) = netns {
        let file = fs::File::open(netns)?;
        nix::sched::setns(&file, nix::sched::CloneFlags::CLONE_NEWNET)?;
    }
    let to = |ip: IpAddr| std::net::TcpStream::connect_timeout(&SocketAddr::new(ip, port), CONNECT);
    let stream =
        to(Ipv4Addr::LOCALHOST.into()).or_else(|first| to(Ipv6Addr::LOCALHOST.into()).map_err(|_| first))?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}
