//! Every system call that std does not offer. The only module of this crate with unsafe code.
#![allow(unsafe_code, reason = "system calls without a safe wrapper in std")]

use std::ffi::CString;
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

pub(crate) use libc::{POLLERR, POLLHUP, POLLIN, POLLOUT, pollfd};

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn cstring(path: &Path) -> io::Result<CString> {
    use std::os::unix::ffi::OsStrExt;
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

/// New namespaces for this process.
pub(crate) fn unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::unshare(flags) }).map(drop)
}

/// Orphaned descendants become our children.
pub(crate) fn become_subreaper() -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }).map(drop)
}

/// Forks. The process has one thread, so the child may do anything.
pub(crate) fn fork() -> io::Result<libc::pid_t> {
    // SAFETY: single-threaded by construction (see main).
    check(unsafe { libc::fork() })
}

/// Starts a session of our own, so that no terminal's signals reach us.
pub(crate) fn setsid() {
    // SAFETY: no pointers; failing (already a leader) is harmless.
    unsafe { libc::setsid() };
}

/// Ends the process without running destructors.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: does not return.
    unsafe { libc::_exit(code) }
}

/// Sets the host name of our UTS namespace.
pub(crate) fn sethostname(name: &str) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `name`.
    check(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) }).map(drop)
}

/// Binds `source` over `target`.
pub(crate) fn bind_mount(source: &Path, target: &Path) -> io::Result<()> {
    let (source, target) = (cstring(source)?, cstring(target)?);
    // SAFETY: both strings are NUL-terminated and outlive the call; the others may be null.
    check(unsafe {
        libc::mount(source.as_ptr(), target.as_ptr(), std::ptr::null(), libc::MS_BIND, std::ptr::null())
    })
    .map(drop)
}

/// Brings `lo` up in our network namespace.
pub(crate) fn loopback_up() -> io::Result<()> {
    // SAFETY: plain socket call; the result is checked before it is owned.
    let socket = unsafe {
        OwnedFd::from_raw_fd(check(libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0))?)
    };
    // SAFETY: `ifreq` is valid when zeroed; the ioctls read and write only it.
    unsafe {
        let mut request: libc::ifreq = zeroed();
        request.ifr_name[0] = b'l'.cast_signed();
        request.ifr_name[1] = b'o'.cast_signed();
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request))?;
        request.ifr_ifru.ifru_flags |= i16::try_from(libc::IFF_UP | libc::IFF_RUNNING).unwrap_or(0);
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request))?;
    }
    Ok(())
}

/// Starts the pod's init in a pid namespace of its own: it reaps orphans and dies with us.
pub(crate) fn spawn_pause() -> io::Result<libc::pid_t> {
    // SAFETY: `clone` without a stack or shared memory is a fork; the process has one thread.
    let pid = unsafe {
        libc::syscall(libc::SYS_clone, libc::CLONE_NEWPID | libc::SIGCHLD, 0usize, 0usize, 0usize, 0usize)
    };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    if pid == 0 {
        // SAFETY: simple calls without shared state; this process never returns.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
            libc::prctl(libc::PR_SET_NAME, c"pause".as_ptr(), 0, 0, 0);
            let mut action: libc::sigaction = zeroed();
            action.sa_sigaction = libc::SIG_DFL;
            action.sa_flags = libc::SA_NOCLDWAIT;
            libc::sigaction(libc::SIGCHLD, &raw const action, std::ptr::null_mut());
            libc::close_range(3, libc::c_uint::MAX, 0);
            loop {
                libc::pause();
            }
        }
    }
    libc::pid_t::try_from(pid).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

/// Blocks SIGCHLD and SIGTERM and gives a descriptor that tells of them; ignores SIGPIPE and SIGHUP.
pub(crate) fn signal_fd() -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised by `sigemptyset`; the new descriptor is checked before it is owned.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        libc::signal(libc::SIGHUP, libc::SIG_IGN);
        let mut set: libc::sigset_t = zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        check(libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()))?;
        let fd = check(libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Drains the signal descriptor; true when SIGTERM was among them.
pub(crate) fn drain_signals(fd: &OwnedFd) -> bool {
    let mut terminate = false;
    loop {
        // SAFETY: the buffer is one `signalfd_siginfo`, valid for any bytes.
        let info = unsafe {
            let mut info: libc::signalfd_siginfo = zeroed();
            let size = size_of::<libc::signalfd_siginfo>();
            let got = libc::read(fd.as_raw_fd(), (&raw mut info).cast(), size);
            if usize::try_from(got) != Ok(size) {
                return terminate;
            }
            info
        };
        terminate |= i32::try_from(info.ssi_signo) == Ok(libc::SIGTERM);
    }
}

/// One child that ended: pid and exit code (128 + signal when killed by one).
pub(crate) fn reap() -> Option<(libc::pid_t, i32)> {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    if pid <= 0 {
        return None;
    }
    let code =
        if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) };
    Some((pid, code))
}

/// Sends a signal.
pub(crate) fn kill(pid: libc::pid_t, signal: i32) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// A pipe: (read end, write end), both close-on-exec.
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: `fds` has room for two; both are checked before they are owned.
    unsafe {
        check(libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC))?;
        Ok((OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])))
    }
}

/// Makes a descriptor non-blocking.
pub(crate) fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    // SAFETY: no pointers.
    unsafe {
        let flags = check(libc::fcntl(fd.as_raw_fd(), libc::F_GETFL))?;
        check(libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK)).map(drop)
    }
}

/// Reads; `Ok(None)` when it would block.
pub(crate) fn read(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    // SAFETY: the pointer and the length describe `buffer`.
    let got = unsafe { libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
    would_block(got)
}

/// Writes; `Ok(None)` when it would block.
pub(crate) fn write(fd: &OwnedFd, bytes: &[u8]) -> io::Result<Option<usize>> {
    // SAFETY: the pointer and the length describe `bytes`.
    let put = unsafe { libc::write(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
    would_block(put)
}

fn would_block(count: isize) -> io::Result<Option<usize>> {
    if let Ok(count) = usize::try_from(count) {
        return Ok(Some(count));
    }
    let error = io::Error::last_os_error();
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
        _ => Err(error),
    }
}

/// Waits until one of them is ready. `timeout` in ms, −1 for ever.
pub(crate) fn poll(fds: &mut [pollfd], timeout: i32) -> io::Result<usize> {
    loop {
        let count = libc::nfds_t::try_from(fds.len()).unwrap_or(0);
        // SAFETY: the pointer and the length describe `fds`.
        let ready = unsafe { libc::poll(fds.as_mut_ptr(), count, timeout) };
        match usize::try_from(ready) {
            Ok(ready) => return Ok(ready),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

/// Sets a terminal's size.
pub(crate) fn resize(fd: &OwnedFd, width: u16, height: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one `winsize`.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }).map(drop)
}

fn address(name: &str) -> io::Result<(libc::sockaddr_un, libc::socklen_t)> {
    // SAFETY: `sockaddr_un` is valid when zeroed.
    let mut address: libc::sockaddr_un = unsafe { zeroed() };
    address.sun_family = libc::sa_family_t::try_from(libc::AF_UNIX).unwrap_or(1);
    if name.len() >= address.sun_path.len() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    for (slot, byte) in address.sun_path.iter_mut().zip(name.bytes()) {
        *slot = byte.cast_signed();
    }
    let length = size_of::<libc::sa_family_t>() + name.len() + 1;
    Ok((address, libc::socklen_t::try_from(length).unwrap_or(0)))
}

/// A non-blocking listening Unix socket of that type at a path relative to the working directory.
pub(crate) fn listen(name: &str, kind: libc::c_int) -> io::Result<OwnedFd> {
    let _ = std::fs::remove_file(name);
    let (address, length) = address(name)?;
    // SAFETY: the new descriptor is checked before it is owned; `address` outlives the calls.
    unsafe {
        let flags = kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let socket = OwnedFd::from_raw_fd(check(libc::socket(libc::AF_UNIX, flags, 0))?);
        check(libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length))?;
        check(libc::listen(socket.as_raw_fd(), 64))?;
        Ok(socket)
    }
}

/// A waiting connection, non-blocking.
pub(crate) fn accept(listener: &OwnedFd) -> Option<OwnedFd> {
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: null address is allowed; the new descriptor is checked before it is owned.
    unsafe {
        let fd = libc::accept4(listener.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut(), flags);
        (fd >= 0).then(|| OwnedFd::from_raw_fd(fd))
    }
}

const CONTROL: usize = 64;

/// Receives one packet and up to three descriptors. `Ok(None)`: nothing there yet; empty: closed.
pub(crate) fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<Option<(usize, Vec<OwnedFd>)>> {
    #[repr(align(8))]
    struct Control([u8; CONTROL]);
    let mut control = Control([0; CONTROL]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut fds = Vec::new();
    // SAFETY: all pointers in the header outlive the call; control messages are walked with the CMSG
    // macros inside the length that the kernel set; each descriptor received is owned exactly once.
    let got = unsafe {
        let mut header: libc::msghdr = zeroed();
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = CONTROL;
        let got = libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC);
        if got >= 0 {
            let mut message = libc::CMSG_FIRSTHDR(&raw const header);
            while !message.is_null() {
                if (*message).cmsg_level == libc::SOL_SOCKET && (*message).cmsg_type == libc::SCM_RIGHTS {
                    let head = libc::CMSG_LEN(0) as usize;
                    let count = ((*message).cmsg_len - head) / size_of::<RawFd>();
                    let data = libc::CMSG_DATA(message).cast::<RawFd>();
                    for index in 0..count {
                        fds.push(OwnedFd::from_raw_fd(data.add(index).read_unaligned()));
                    }
                }
                message = libc::CMSG_NXTHDR(&raw const header, message);
            }
        }
        got
    };
    Ok(would_block(got)?.map(|count| (count, fds)))
}

/// Sends one packet, perhaps with a descriptor. Never blocks and raises no SIGPIPE.
pub(crate) fn send(socket: &OwnedFd, packet: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    #[repr(align(8))]
    struct Control([u8; CONTROL]);
    let mut control = Control([0; CONTROL]);
    let mut part = libc::iovec { iov_base: packet.as_ptr().cast_mut().cast(), iov_len: packet.len() };
    // SAFETY: all pointers in the header outlive the call; the control buffer has room for one header
    // and one descriptor.
    let put = unsafe {
        let mut header: libc::msghdr = zeroed();
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        if let Some(fd) = fd {
            let size = libc::c_uint::try_from(size_of::<RawFd>()).unwrap_or(4);
            header.msg_control = control.0.as_mut_ptr().cast();
            header.msg_controllen = libc::CMSG_SPACE(size) as usize;
            let message = libc::CMSG_FIRSTHDR(&raw const header);
            (*message).cmsg_level = libc::SOL_SOCKET;
            (*message).cmsg_type = libc::SCM_RIGHTS;
            (*message).cmsg_len = libc::CMSG_LEN(size) as usize;
            libc::CMSG_DATA(message).cast::<RawFd>().write_unaligned(fd.as_raw_fd());
        }
        libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT)
    };
    if put < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Unix nanoseconds.
pub(crate) fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Makes `to` a copy of `from`; used for stdin, stdout and stderr only.
pub(crate) fn replace(from: RawFd, to: RawFd) {
    // SAFETY: no pointers; 0, 1 and 2 are not owned by any `OwnedFd`.
    unsafe { libc::dup2(from, to) };
}

/// The path that a Unix socket is bound to.
pub(crate) fn socket_name(socket: &OwnedFd) -> Option<String> {
    // SAFETY: `sockaddr_un` is valid when zeroed; the kernel writes at most `length` bytes of it.
    let address = unsafe {
        let mut address: libc::sockaddr_un = zeroed();
        let mut length = libc::socklen_t::try_from(size_of::<libc::sockaddr_un>()).ok()?;
        check(libc::getsockname(socket.as_raw_fd(), (&raw mut address).cast(), &raw mut length)).ok()?;
        address
    };
    let bytes: Vec<u8> = address.sun_path.iter().map(|c| c.cast_unsigned()).take_while(|b| *b != 0).collect();
    String::from_utf8(bytes).ok().filter(|name| !name.is_empty())
}
