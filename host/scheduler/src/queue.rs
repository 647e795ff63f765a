//! The scheduling queue: active, backing off, unschedulable, gated.
//!
//! A pod is in at most one of them. Active pods come by priority, then by the time at which they
//! became active. A pod that failed waits as unschedulable until an event happens that may help it;
//! it is then tried again, but not before its backoff (1 s doubled per attempt, 10 s at most) is
//! over. After five minutes it is tried again whatever happened.
//!
//! Pure: time comes in with each call.

use crate::framework::EventSet;
use crate::pod::Uid;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

#[cfg(test)]
mod tests;

/// Times of the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// After the first failure.
    pub initial: Duration,
    /// Never longer.
    pub max: Duration,
    /// After this an unschedulable pod is tried again without an event.
    pub unschedulable: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            initial: Duration::from_secs(1),
            max: Duration::from_secs(10),
            unschedulable: Duration::from_secs(300),
        }
    }
}

impl Backoff {
    /// How long a pod waits that failed `attempts` times.
    #[must_use]
    pub fn after(&self, attempts: u32) -> Duration {
        let doubled = self.initial.saturating_mul(1 << attempts.saturating_sub(1).min(20));
        doubled.min(self.max)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ActiveKey {
    /// Negated, so that the highest priority comes first.
    priority: i64,
    since: Instant,
    sequence: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Active(ActiveKey),
    Backoff(Instant, u64),
    Unschedulable {
        events: EventSet,
        since: Instant,
        sequence: u64,
    },
    Gated,
    /// Handed out, its fate not yet known.
    InFlight,
}

#[derive(Debug)]
struct Entry {
    place: Place,
    priority: i32,
    attempts: u32,
    /// When the last attempt ended.
    failed_at: Option<Instant>,
}

/// The queue. See the module.
#[derive(Debug, Default)]
pub struct Queue {
    backoff: Backoff,
    entries: HashMap<Uid, Entry>,
    active: BTreeMap<ActiveKey, Uid>,
    waiting: BTreeMap<(Instant, u64), Uid>,
    by_events: HashMap<EventSet, BTreeSet<(u64, Uid)>>,
    by_age: BTreeMap<(Instant, u64), Uid>,
    sequence: u64,
}

impl Queue {
    /// An empty queue.
    #[must_use]
    pub fn new(backoff: Backoff) -> Self {
        Self { backoff, ..Self::default() }
    }

    /// Changes the times; pods that wait already keep theirs.
    pub const fn set_backoff(&mut self, backoff: Backoff) {
        self.backoff = backoff;
    }

    /// Number of pods, those handed out included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Numbers of active, backing off, unschedulable and gated pods.
    #[must_use]
    pub fn depths(&self) -> [usize; 4] {
        let gated = self.entries.values().filter(|e| e.place == Place::Gated).count();
        [self.active.len(), self.waiting.len(), self.by_age.len(), gated]
    }

    /// Whether the pod is known to the queue.
    #[must_use]
    pub fn contains(&self, uid: &Uid) -> bool {
        self.entries.contains_key(uid)
    }

    fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    /// Adds a new pod, active unless it is gated. Does nothing where it is known.
    pub fn add(&mut self, uid: &Uid, priority: i32, gated: bool, now: Instant) {
        if self.entries.contains_key(uid) {
            return;
        }
        let entry = Entry { place: Place::Gated, priority, attempts: 0, failed_at: None };
        self.entries.insert(uid.clone(), entry);
        if !gated {
            self.activate(uid, now);
        }
    }

    /// Takes in a change of a waiting pod.
    pub fn update(&mut self, uid: &Uid, priority: i32, gated: bool, relevant: bool, now: Instant) {
        let Some(entry) = self.entries.get_mut(uid) else { return self.add(uid, priority, gated, now) };
        let repriced = entry.priority != priority;
        entry.priority = priority;
        match entry.place {
            Place::InFlight => {}
            Place::Gated if gated => {}
            Place::Gated => self.activate(uid, now),
            _ if gated => self.put(uid, Place::Gated),
            Place::Active(_) if repriced => self.activate(uid, now),
            Place::Unschedulable { events, .. } if relevant && events.intersects(EventSet::POD_UPDATE) => {
                self.retry(uid, now);
            }
            _ => {}
        }
    }

    /// Forgets a pod.
    pub fn remove(&mut self, uid: &Uid) {
        self.unlink(uid);
        self.entries.remove(uid);
    }

    /// Hands out the next pod to schedule. It stays in flight until [`Queue::remove`],
    /// [`Queue::unschedulable`] or [`Queue::retry_later`].
    pub fn pop(&mut self, now: Instant) -> Option<Uid> {
        self.advance(now);
        let (_, uid) = self.active.pop_first()?;
        if let Some(entry) = self.entries.get_mut(&uid) {
            entry.place = Place::InFlight;
            entry.attempts = entry.attempts.saturating_add(1);
        }
        Some(uid)
    }

    /// The pod fits nowhere; one of `events` may help.
    pub fn unschedulable(&mut self, uid: &Uid, events: EventSet, now: Instant) {
        let sequence = self.next_sequence();
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.failed_at = Some(now);
        }
        self.put(uid, Place::Unschedulable { events, since: now, sequence });
    }

    /// The attempt failed for a reason that has nothing to do with nodes: try again after the
    /// backoff.
    pub fn retry_later(&mut self, uid: &Uid, now: Instant) {
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.failed_at = Some(now);
        }
        self.retry(uid, now);
    }

    /// Something happened in the cluster: pods that it may help are tried again.
    pub fn event(&mut self, event: EventSet, now: Instant) {
        if event.is_empty() || self.by_age.is_empty() {
            return;
        }
        let helped: Vec<EventSet> =
            self.by_events.keys().filter(|events| events.intersects(event)).copied().collect();
        for events in helped {
            for (_, uid) in self.by_events.remove(&events).unwrap_or_default() {
                self.retry(&uid, now);
            }
        }
    }

    /// When [`Queue::pop`] may have something new without any call that adds it.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<Instant> {
        let waiting = self.waiting.keys().next().map(|(at, _)| *at);
        let oldest = self.by_age.keys().next().map(|(since, _)| *since + self.backoff.unschedulable);
        waiting.into_iter().chain(oldest).min()
    }

    /// Whether a pod is active now.
    #[must_use]
    pub fn has_active(&self) -> bool {
        !self.active.is_empty()
    }

    /// Moves what has waited long enough.
    pub fn advance(&mut self, now: Instant) {
        while let Some((&(at, _), uid)) = self.waiting.first_key_value()
            && at <= now
        {
            let uid = uid.clone();
            self.activate(&uid, now);
        }
        while let Some((&(since, _), uid)) = self.by_age.first_key_value()
            && since + self.backoff.unschedulable <= now
        {
            let uid = uid.clone();
            self.retry(&uid, now);
        }
    }

    /// To the active pods, or to those backing off where the backoff is not over.
    fn retry(&mut self, uid: &Uid, now: Instant) {
        let Some(entry) = self.entries.get(uid) else { return };
        let ready = entry.failed_at.map(|at| at + self.backoff.after(entry.attempts));
        match ready {
            Some(ready) if ready > now => {
                let sequence = self.next_sequence();
                self.put(uid, Place::Backoff(ready, sequence));
            }
            _ => self.activate(uid, now),
        }
    }

    fn activate(&mut self, uid: &Uid, now: Instant) {
        let sequence = self.next_sequence();
        let Some(entry) = self.entries.get(uid) else { return };
        let key = ActiveKey { priority: -i64::from(entry.priority), since: now, sequence };
        self.put(uid, Place::Active(key));
    }

    fn put(&mut self, uid: &Uid, place: Place) {
        self.unlink(uid);
        let Some(entry) = self.entries.get_mut(uid) else { return };
        entry.place = place;
        match place {
            Place::Active(key) => _ = self.active.insert(key, uid.clone()),
            Place::Backoff(at, sequence) => _ = self.waiting.insert((at, sequence), uid.clone()),
            Place::Unschedulable { events, since, sequence } => {
                self.by_events.entry(events).or_default().insert((sequence, uid.clone()));
                self.by_age.insert((since, sequence), uid.clone());
            }
            Place::Gated | Place::InFlight => {}
        }
    }

    /// Takes the pod out of wherever it is.
    fn unlink(&mut self, uid: &Uid) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let place = std::mem::replace(&mut entry.place, Place::InFlight);
        match place {
            Place::Active(key) => _ = self.active.remove(&key),
            Place::Backoff(at, sequence) => _ = self.waiting.remove(&(at, sequence)),
            Place::Unschedulable { events, since, sequence } => {
                self.by_age.remove(&(since, sequence));
                if let Some(pods) = self.by_events.get_mut(&events) {
                    pods.remove(&(sequence, uid.clone()));
                    if pods.is_empty() {
                        self.by_events.remove(&events);
                    }
                }
            }
            Place::Gated | Place::InFlight => {}
        }
    }
}
