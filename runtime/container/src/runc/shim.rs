//! The host's side of a shim: starting one, and talking to it.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, connect,
    recvmsg, sendmsg, socket,
};
use orlop_shim::protocol::{MAX_MESSAGE, PID_FILE, Reply, Request, SOCKET};
use tokio::io::unix::AsyncFd;

use crate::error::RuntimeError;

/// What a started shim tells of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ShimIds {
    /// Its pid.
    pub(crate) pid: i32,
    /// Its start time, in clock ticks since boot.
    pub(crate) start_time: u64,
    /// Pid of the pod's init, 0 when none.
    pub(crate) pause: i32,
}

/// What a shim is started with.
pub(crate) struct Launch<'a> {
    pub(crate) shim: &'a Path,
    pub(crate) folder: &'a Path,
    pub(crate) runc: &'a Path,
    pub(crate) runc_root: &'a Path,
    pub(crate) namespaces: &'a [&'static str],
    pub(crate) hostname: &'a str,
    pub(crate) sysctls: Vec<String>,
}

/// Starts a shim and returns when it serves. Blocks for a few milliseconds.
///
/// # Errors
/// `Unavailable` when the program is not there; `Internal` with the shim's words when it fails.
pub(crate) fn launch(l: &Launch<'_>) -> Result<ShimIds, RuntimeError> {
    let output = Command::new(l.shim)
        .arg(l.folder)
        .arg(l.runc)
        .arg(l.runc_root)
        .arg(l.namespaces.join(","))
        .arg(l.hostname)
        .args(&l.sysctls)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => {
                RuntimeError::Unavailable(format!("the pod supervisor {} is missing", l.shim.display()))
            }
            _ => RuntimeError::io(format!("start {}", l.shim.display()), e),
        })?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(RuntimeError::Internal(format!("failed to start the pod's supervisor: {words}")));
    }
    ids(l.folder).ok_or_else(|| RuntimeError::Internal("the pod's supervisor left no pid file".to_owned()))
}

/// Reads what a shim has told of itself.
pub(crate) fn ids(folder: &Path) -> Option<ShimIds> {
    let text = std::fs::read_to_string(folder.join(PID_FILE)).ok()?;
    let mut fields = text.split_ascii_whitespace();
    Some(ShimIds {
        pid: fields.next()?.parse().ok()?,
        start_time: fields.next()?.parse().ok()?,
        pause: fields.next()?.parse().ok()?,
    })
}

/// Whether that very process still exists.
pub(crate) fn is_alive(ids: &ShimIds) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{}/stat", ids.pid)) else { return false };
    let Some((_, rest)) = stat.rsplit_once(')') else { return false };
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next();
    !matches!(state, Some("Z" | "X")) && fields.nth(18).and_then(|f| f.parse().ok()) == Some(ids.start_time)
}

/// A connection to a shim. Cancel-safe: a packet is received whole or not at all.
pub(crate) struct Connection {
    socket: AsyncFd<OwnedFd>,
}

impl Connection {
    /// Connects to the shim that serves in `folder`.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        // A socket's path has 107 bytes at most; by way of a descriptor it is short whatever the folder.
        let opened = std::fs::File::open(folder)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", opened.as_raw_fd()));
        connect(fd.as_raw_fd(), &UnixAddr::new(&path)?)?;
        Ok(Self { socket: register(fd)? })
    }

    /// Sends a request with descriptors.
    pub(crate) async fn send(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let packet = request.encode();
        if packet.len() > MAX_MESSAGE {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        self.socket
            .async_io(tokio::io::Interest::WRITABLE, |socket| {
                let rights = [ControlMessage::ScmRights(&raw)];
                let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
                let part = [IoSlice::new(&packet)];
                sendmsg::<UnixAddr>(socket.as_raw_fd(), &part, control, MsgFlags::MSG_NOSIGNAL, None)?;
                Ok(())
            })
            .await
    }

    /// Receives a reply and the descriptor that came with it. `UnexpectedEof`: the shim is gone.
    pub(crate) async fn receive(&self) -> io::Result<(Reply, Option<OwnedFd>)> {
        let (packet, fd) = self
            .socket
            .async_io(tokio::io::Interest::READABLE, |socket| {
                // The largest replies list a pod's containers.
                let mut buffer = [0u8; 8192];
                let mut space = nix::cmsg_space!([RawFd; 1]);
                let mut parts = [IoSliceMut::new(&mut buffer)];
                let message = recvmsg::<UnixAddr>(
                    socket.as_raw_fd(),
                    &mut parts,
                    Some(&mut space),
                    MsgFlags::MSG_CMSG_CLOEXEC,
                )?;
                let mut got = None;
                for control in message.cmsgs()? {
                    if let ControlMessageOwned::ScmRights(fds) = control {
                        for fd in fds {
                            got = Some(own(fd));
                        }
                    }
                }
                let count = message.bytes;
                Ok((buffer.get(..count).unwrap_or_default().to_vec(), got))
            })
            .await?;
        if packet.is_empty() {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        let reply = Reply::decode(&packet).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        Ok((reply, fd))
    }
}

/// Makes a descriptor known to the runtime's reactor.
#[expect(unsafe_code, reason = "what is registered must stay open")]
pub(crate) fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` always names the same open file, and is closed only after `AsyncFd` has
    // deregistered it; nobody takes it out or replaces it.
    unsafe { Ok(AsyncFd::register(fd)?) }
}

#[expect(unsafe_code, reason = "descriptors arrive as numbers")]
fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us in `recvmsg`, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// One request, one reply.
pub(crate) async fn call(
    folder: &Path,
    request: &Request,
    fds: &[BorrowedFd<'_>],
) -> Result<Reply, RuntimeError> {
    let talk = async {
        let connection = Connection::open(folder)?;
        connection.send(request, fds).await?;
        connection.receive().await
    };
    match talk.await {
        Ok((Reply::Error { message }, _)) => Err(RuntimeError::FailedPrecondition(message)),
        Ok((reply, _)) => Ok(reply),
        Err(e) => Err(RuntimeError::io("talk to the pod's supervisor", e)),
    }
}
