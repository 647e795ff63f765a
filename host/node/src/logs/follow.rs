//! Reads a log file to its end and, on request, on as it grows: woken by inotify, never by a timer.
//!
//! A file that is renamed and made anew (rotation) is read to its end, then the new one from its
//! beginning.

use super::{LogOptions, Render, tail_offset};
use bytes::Bytes;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

const BLOCK: usize = 32 * 1024;

/// inotify as tokio can wait for it.
pub(crate) struct Watch(AsyncFd<Fd>);

struct Fd(Inotify);

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Watch {
    /// Watches what happens in a folder.
    pub(crate) fn folder(dir: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let flags = AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_CLOSE_WRITE;
        inotify.add_watch(dir, flags)?;
        #[expect(
            deprecated,
            reason = "the replacement is unsafe; Fd owns its descriptor and never changes it"
        )]
        let fd = AsyncFd::new(Fd(inotify))?;
        Ok(Self(fd))
    }

    /// Waits for something to happen; takes all that has happened. Cancel-safe.
    pub(crate) async fn changed(&self) -> io::Result<()> {
        loop {
            let mut guard = self.0.readable().await?;
            match guard.get_inner().0.read_events() {
                Ok(events) if !events.is_empty() => return Ok(()),
                Ok(_) => {}
                Err(nix::errno::Errno::EAGAIN) => guard.clear_ready(),
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// Sends the log at `path` into `out` until it ends (or, following, until `ended` says that the
/// container has ended and all was read), the receiver goes, or `cancel`.
pub(crate) async fn stream(
    path: PathBuf,
    options: LogOptions,
    mut ended: watch::Receiver<bool>,
    out: mpsc::Sender<Bytes>,
    cancel: CancellationToken,
) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    // Watch first, read then: what is written in between is seen.
    let watch = if options.follow { Some(Watch::folder(dir)?) } else { None };
    let mut file = File::open(&path)?;
    let start = match options.tail_lines {
        Some(lines) => tail_offset(&mut file, lines)?,
        None => 0,
    };
    file.seek(SeekFrom::Start(start))?;
    let mut reader = Reader { file, carry: Vec::new(), render: Render::new(&options) };
    loop {
        // Whether it has ended is asked before the last read, so that nothing is missed.
        let over = *ended.borrow_and_update();
        if !reader.drain(&out).await? {
            return Ok(());
        }
        if let Ok(meta) = std::fs::metadata(&path)
            && meta.ino() != reader.file.metadata()?.ino()
        {
            reader.drain(&out).await?;
            reader.file = File::open(&path)?;
            continue;
        }
        let Some(watch) = watch.as_ref().filter(|_| !over) else { return Ok(()) };
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            () = out.closed() => return Ok(()),
            changed = watch.changed() => changed?,
            known = ended.changed() => if known.is_err() {
                // The pod itself is gone: read what is left, then end.
                reader.drain(&out).await?;
                return Ok(());
            },
        }
    }
}

struct Reader {
    file: File,
    carry: Vec<u8>,
    render: Render,
}

impl Reader {
    /// Reads to the end. Returns `false` where nothing more is wanted.
    async fn drain(&mut self, out: &mpsc::Sender<Bytes>) -> io::Result<bool> {
        let mut block = vec![0; BLOCK];
        loop {
            // A local file in the page cache: short, and not worth another thread.
            let n = self.file.read(&mut block)?;
            if n == 0 {
                return Ok(true);
            }
            self.carry.extend_from_slice(block.get(..n).unwrap_or_default());
            let Some(end) = self.carry.iter().rposition(|b| *b == b'\n') else { continue };
            let rest = self.carry.split_off(end + 1);
            let whole = std::mem::replace(&mut self.carry, rest);
            let mut text = Vec::with_capacity(whole.len());
            let mut more = true;
            for line in whole.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
                more = self.render.line(line, &mut text);
                if !more {
                    break;
                }
            }
            if !text.is_empty() && out.send(Bytes::from(text)).await.is_err() {
                return Ok(false);
            }
            if !more {
                return Ok(false);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[tokio::test]
    async fn follows_through_rotation_to_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let line = |text: &str| format!("2026-01-01T00:00:01Z stdout F {text}\n");
        std::fs::write(&path, line("zero") + &line("one")).unwrap();
        let (end, ended) = watch::channel(false);
        let (tx, mut rx) = mpsc::channel(4);
        let options = LogOptions { follow: true, tail_lines: Some(1), ..LogOptions::default() };
        let task = tokio::spawn(stream(path.clone(), options, ended, tx, CancellationToken::new()));
        let mut seen = String::new();
        seen.push_str(std::str::from_utf8(&rx.recv().await.unwrap()).unwrap());
        assert_eq!(seen, "one\n");
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"2026-01-01T00:00:01Z stdout F tw").unwrap();
        file.write_all(b"o\n").unwrap();
        while !seen.ends_with("two\n") {
            seen.push_str(std::str::from_utf8(&rx.recv().await.unwrap()).unwrap());
        }
        std::fs::rename(&path, dir.path().join("0.log.1")).unwrap();
        file.write_all(line("three").as_bytes()).unwrap();
        std::fs::write(&path, line("four")).unwrap();
        while !seen.ends_with("four\n") {
            seen.push_str(std::str::from_utf8(&rx.recv().await.unwrap()).unwrap());
        }
        std::fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(line("five").as_bytes())
            .unwrap();
        end.send(true).unwrap();
        while let Some(bytes) = rx.recv().await {
            seen.push_str(std::str::from_utf8(&bytes).unwrap());
        }
        task.await.unwrap().unwrap();
        assert_eq!(seen, "one\ntwo\nthree\nfour\nfive\n");
    }
}
