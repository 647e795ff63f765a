//! The last lines of one plugin's log.

use bytes::Bytes;
use std::collections::VecDeque;
use std::time::Instant;
use tokio::sync::broadcast;

/// Lines kept.
const MAX_LINES: usize = 1000;
/// Bytes kept.
const MAX_BYTES: usize = 256 << 10;
/// Lines that a follower may be behind.
const BEHIND: usize = 256;

/// A log.
#[derive(Debug)]
pub(super) struct Log {
    lines: VecDeque<Bytes>,
    bytes: usize,
    last: Instant,
    followers: Option<broadcast::Sender<Bytes>>,
}

impl Default for Log {
    fn default() -> Self {
        Self { lines: VecDeque::new(), bytes: 0, last: Instant::now(), followers: None }
    }
}

/// Lines as asked for.
#[derive(Debug)]
pub struct LogLines {
    kept: VecDeque<Bytes>,
    coming: Option<broadcast::Receiver<Bytes>>,
}

impl LogLines {
    /// The next line, with its line feed; `None` where no more will come. Cancel-safe.
    pub async fn next(&mut self) -> Option<Bytes> {
        if let Some(line) = self.kept.pop_front() {
            return Some(line);
        }
        match self.coming.as_mut()?.recv().await {
            Ok(line) => Some(line),
            Err(broadcast::error::RecvError::Lagged(lines)) => {
                Some(Bytes::from(format!("... {lines} lines were left out, they came too fast\n")))
            }
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

impl Log {
    pub(super) fn push(&mut self, line: Bytes) {
        self.last = Instant::now();
        self.bytes += line.len();
        if let Some(followers) = &self.followers
            && followers.send(line.clone()).is_err()
        {
            self.followers = None;
        }
        self.lines.push_back(line);
        while self.lines.len() > MAX_LINES || self.bytes > MAX_BYTES {
            self.bytes -= self.lines.pop_front().map_or(0, |l| l.len());
        }
    }

    pub(super) const fn last(&self) -> Instant {
        self.last
    }

    pub(super) fn lines(&mut self, tail: usize, follow: bool) -> LogLines {
        let skip = self.lines.len().saturating_sub(tail);
        let kept = self.lines.iter().skip(skip).cloned().collect();
        let coming =
            follow.then(|| self.followers.get_or_insert_with(|| broadcast::Sender::new(BEHIND)).subscribe());
        LogLines { kept, coming }
    }
}

/// One line: when, how bad, what.
pub(super) fn format(level: u32, message: &str) -> String {
    let level = match level {
        0 => "ERROR",
        1 => "WARN ",
        2 => "INFO ",
        3 => "DEBUG",
        _ => "TRACE",
    };
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.3fZ");
    format!("{now} {level} {}\n", message.trim_end().replace('\n', "\\n"))
}
