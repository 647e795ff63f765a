//! Exponential back-off with the kubelet's rules (`client-go/util/flowcontrol`).
//!
//! The delay counts from the event (a container's exit), not from the retry, and is forgotten
//! when an event comes more than twice the maximum after the last one.

use jiff::{SignedDuration, Timestamp};

/// First delay.
pub(crate) const INITIAL: SignedDuration = SignedDuration::from_secs(10);
/// Longest delay.
pub(crate) const MAX: SignedDuration = SignedDuration::from_secs(300);

/// Back-off of one key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BackOff {
    entry: Option<(SignedDuration, Timestamp)>,
}

impl BackOff {
    /// An entry recovered from what is known after a restart of the agent: `restarts` restarts so
    /// far, the last of them at `last`.
    pub(crate) fn recovered(restarts: u32, last: Timestamp) -> Self {
        if restarts == 0 {
            return Self::default();
        }
        let factor = 1_i32 << (restarts - 1).min(5);
        Self { entry: Some(((INITIAL * factor).min(MAX), last)) }
    }

    fn live(&self, event: Timestamp) -> Option<(SignedDuration, Timestamp)> {
        self.entry.filter(|(_, updated)| event.duration_since(*updated) <= MAX * 2)
    }

    /// Until when a retry after `event` has to wait; `None` where it may happen at once.
    pub(crate) fn until(&self, event: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let (delay, _) = self.live(event)?;
        let until = event.saturating_add(delay).unwrap_or(event);
        (until > now).then_some(until)
    }

    /// Records that the retry after `event` happens now.
    pub(crate) fn next(&mut self, event: Timestamp, now: Timestamp) {
        let delay = match self.live(event) {
            Some((delay, _)) => (delay * 2).min(MAX),
            None => INITIAL,
        };
        self.entry = Some((delay, now));
    }

    /// The current delay; zero before the first retry.
    pub(crate) fn delay(&self) -> SignedDuration {
        self.entry.map_or(SignedDuration::ZERO, |(delay, _)| delay)
    }
}

/// A duration as Go prints it: `10s`, `1m20s`, `5m0s`.
pub(crate) fn go_duration(duration: SignedDuration) -> String {
    let millis = duration.as_millis();
    if millis % 1000 != 0 && millis < 1000 {
        return format!("{millis}ms");
    }
    let seconds = duration.as_secs();
    let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (h, m) {
        (0, 0) => format!("{s}s"),
        (0, _) => format!("{m}m{s}s"),
        _ => format!("{h}h{m}m{s}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    #[test]
    fn doubles_to_five_minutes_and_forgets() {
        let mut b = BackOff::default();
        assert_eq!(b.until(at(0), at(0)), None, "the first restart is immediate");
        b.next(at(0), at(0));
        let mut event = 1;
        let mut seen = Vec::new();
        for _ in 0..7 {
            let until = b.until(at(event), at(event)).unwrap();
            seen.push(until.duration_since(at(event)).as_secs());
            assert_eq!(b.until(at(event), until), None);
            b.next(at(event), until);
            event = until.as_second() - 1_000_000 + 1;
        }
        assert_eq!(seen, [10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(b.until(at(event + 601), at(event + 601)), None, "forgotten after ten quiet minutes");
    }

    #[test]
    fn prints_like_go() {
        for (seconds, text) in [(0, "0s"), (10, "10s"), (80, "1m20s"), (300, "5m0s"), (3661, "1h1m1s")] {
            assert_eq!(go_duration(SignedDuration::from_secs(seconds)), text);
        }
    }
}
