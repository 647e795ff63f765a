//! Turns the freshly started process into the pod's supervisor.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;

use orlop_shim::protocol::{NETNS, PID_FILE, SOCKET};

use crate::server::Server;
use crate::sys;

/// Parses the arguments, forks, and in the child makes the namespaces and serves until shut down. The
/// parent returns when the child serves.
pub(crate) fn run() -> Result<(), String> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [dir, runc, runc_root, namespaces, hostname, sysctls @ ..] = args.as_slice() else {
        return Err("usage: orlop-shim DIR RUNC RUNC_ROOT NAMESPACES HOSTNAME [SYSCTL=VALUE...]".to_owned());
    };
    std::env::set_current_dir(dir).map_err(|e| format!("enter {dir}: {e}"))?;
    let (ready, tell) = sys::pipe().map_err(|e| format!("make a pipe: {e}"))?;
    let child = sys::fork().map_err(|e| format!("fork: {e}"))?;
    if child != 0 {
        drop(tell);
        let mut answer = String::new();
        fs::File::from(ready).read_to_string(&mut answer).map_err(|e| format!("wait for the shim: {e}"))?;
        return match answer.strip_prefix("ok") {
            Some(_) => Ok(()),
            None if answer.is_empty() => Err("the shim died while starting".to_owned()),
            None => Err(answer),
        };
    }
    drop(ready);
    // Before anything is forked off: our starter waits until nobody has its stderr any more.
    detach_stdio();
    let mut tell = fs::File::from(tell);
    match prepare(namespaces, hostname, sysctls) {
        Ok((signals, socket, pause)) => {
            let _ = tell.write_all(b"ok");
            drop(tell);
            Server::new(runc.clone(), runc_root.clone(), pause, signals, socket).serve();
            sys::exit_now(0)
        }
        Err(message) => {
            let _ = tell.write_all(message.as_bytes());
            sys::exit_now(1)
        }
    }
}

type Prepared = (std::os::fd::OwnedFd, std::os::fd::OwnedFd, i32);

fn prepare(namespaces: &str, hostname: &str, sysctls: &[String]) -> Result<Prepared, String> {
    sys::setsid();
    let signals = sys::signal_fd().map_err(|e| format!("set up signals: {e}"))?;
    sys::become_subreaper().map_err(|e| format!("become a subreaper: {e}"))?;
    let has = |name: &str| namespaces.split(',').any(|n| n == name);
    let mut flags = 0;
    for (name, flag) in
        [("net", libc::CLONE_NEWNET), ("ipc", libc::CLONE_NEWIPC), ("uts", libc::CLONE_NEWUTS)]
    {
        if has(name) {
            flags |= flag;
        }
    }
    sys::unshare(flags).map_err(|e| format!("make the namespaces {namespaces}: {e}"))?;
    if has("net") {
        sys::loopback_up().map_err(|e| format!("bring up lo: {e}"))?;
        fs::write(NETNS, b"").map_err(|e| format!("create {NETNS}: {e}"))?;
        sys::bind_mount(Path::new("/proc/self/ns/net"), Path::new(NETNS))
            .map_err(|e| format!("pin the network namespace: {e}"))?;
    }
    if has("uts") && !hostname.is_empty() {
        sys::sethostname(hostname).map_err(|e| format!("set the host name {hostname}: {e}"))?;
    }
    for sysctl in sysctls {
        let Some((name, value)) = sysctl.split_once('=') else {
            return Err(format!("sysctl {sysctl} has no value"));
        };
        // As sysctl(8): dots separate, a slash in the name stands for a dot.
        let path: String = name
            .chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect();
        if path.split('/').any(|part| part == "..") {
            return Err(format!("sysctl {name} is not a valid name"));
        }
        fs::write(Path::new("/proc/sys").join(&path), value)
            .map_err(|e| format!("set sysctl {name} to {value}: {e}"))?;
    }
    let pause =
        if has("pid") { sys::spawn_pause().map_err(|e| format!("start the pod's init: {e}"))? } else { 0 };
    let socket = sys::listen(SOCKET, libc::SOCK_SEQPACKET).map_err(|e| format!("serve {SOCKET}: {e}"))?;
    let record = format!("{} {} {pause}\n", std::process::id(), start_time().unwrap_or(0));
    let partial = format!("{PID_FILE}.tmp");
    fs::write(&partial, record)
        .and_then(|()| fs::rename(&partial, PID_FILE))
        .map_err(|e| format!("write {PID_FILE}: {e}"))?;
    Ok((signals, socket, pause))
}

/// Our start time in clock ticks since boot: with the pid it names a process uniquely.
fn start_time() -> Option<u64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Lets go of whatever our starter gave us as stdin, stdout and stderr.
fn detach_stdio() {
    let null: io::Result<fs::File> = fs::File::options().read(true).write(true).open("/dev/null");
    if let Ok(null) = null {
        for fd in 0..3 {
            sys::replace(null.as_raw_fd(), fd);
        }
    }
}
