//! The scheduling queue: active, backing off, unschedulable, gated.
//!
//! A pod is in at most one of them. Active pods come by their sort key, then by the time at which
//! they became active. Unschedulable and gated pods lie in groups, which whoever owns the queue
//! names and wakes as a whole: an event costs what there are groups, not pods. A woken pod is tried
//! again, but not before its backoff (1 s doubled per attempt, 10 s at most) is over. After five
//! minutes an unschedulable pod is tried again whatever happened.
//!
//! Pure: time comes in with each call.

use crate::pod::Uid;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
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

/// Where a pod stands among active ones: the lower key first, number by number.
pub type SortKey = Arc<[i64]>;

/// Pods that are woken together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Group(pub u64);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ActiveKey {
    sort: SortKey,
    since: Instant,
    sequence: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Active(ActiveKey),
    Backoff(Instant, u64),
    Unschedulable {
        group: Group,
        since: Instant,
        sequence: u64,
    },
    Gated {
        group: Group,
        sequence: u64,
    },
    /// Handed out, its fate not yet known.
    InFlight,
}

#[derive(Debug)]
struct Entry {
    place: Place,
    sort: SortKey,
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
    groups: HashMap<Group, BTreeSet<(u64, Uid)>>,
    by_age: BTreeMap<(Instant, u64), Uid>,
    gated: usize,
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
        [self.active.len(), self.waiting.len(), self.by_age.len(), self.gated]
    }

    /// Whether the pod is known to the queue.
    #[must_use]
    pub fn contains(&self, uid: &Uid) -> bool {
        self.entries.contains_key(uid)
    }

    /// The group in which the pod lies.
    #[must_use]
    pub fn group_of(&self, uid: &Uid) -> Option<Group> {
        match self.entries.get(uid)?.place {
            Place::Unschedulable { group, .. } | Place::Gated { group, .. } => Some(group),
            _ => None,
        }
    }

    /// Whether the group holds pods.
    #[must_use]
    pub fn has_group(&self, group: Group) -> bool {
        self.groups.contains_key(&group)
    }

    fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    /// Adds a pod, or takes in a change of one: its sort key, and the group in which it is gated, if
    /// it is. A pod that waits otherwise stays where it is.
    pub fn update(&mut self, uid: &Uid, sort: SortKey, gate: Option<Group>, now: Instant) {
        let known = self.entries.get_mut(uid);
        let (place, moved) = match known {
            Some(entry) => {
                let moved = entry.sort != sort;
                entry.sort = sort;
                (Some(entry.place.clone()), moved)
            }
            None => {
                let entry = Entry { place: Place::InFlight, sort, attempts: 0, failed_at: None };
                self.entries.insert(uid.clone(), entry);
                (None, false)
            }
        };
        match (place, gate) {
            (Some(Place::InFlight), _) => {}
            (Some(Place::Gated { group, .. }), Some(gate)) if group == gate => {}
            (_, Some(group)) => {
                let sequence = self.next_sequence();
                self.put(uid, Place::Gated { group, sequence });
            }
            (None | Some(Place::Gated { .. }), None) => self.activate(uid, now),
            (Some(Place::Active(_)), None) if moved => self.activate(uid, now),
            (Some(_), None) => {}
        }
    }

    /// A pod that was handed out turns out to be gated.
    pub fn gate(&mut self, uid: &Uid, group: Group) {
        let sequence = self.next_sequence();
        self.put(uid, Place::Gated { group, sequence });
    }

    /// Forgets a pod.
    pub fn remove(&mut self, uid: &Uid) {
        self.unlink(uid);
        self.entries.remove(uid);
    }

    /// Hands out the next pod to schedule. It stays in flight until [`Queue::remove`],
    /// [`Queue::unschedulable`], [`Queue::gate`], [`Queue::retry_now`] or [`Queue::retry_later`].
    pub fn pop(&mut self, now: Instant) -> Option<Uid> {
        self.advance(now);
        let (_, uid) = self.active.pop_first()?;
        if let Some(entry) = self.entries.get_mut(&uid) {
            entry.place = Place::InFlight;
            entry.attempts = entry.attempts.saturating_add(1);
        }
        Some(uid)
    }

    /// The pod fits nowhere until its group is woken.
    pub fn unschedulable(&mut self, uid: &Uid, group: Group, now: Instant) {
        let sequence = self.next_sequence();
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.failed_at = Some(now);
        }
        self.put(uid, Place::Unschedulable { group, since: now, sequence });
    }

    /// The attempt failed for a reason that has nothing to do with nodes: try again after the
    /// backoff.
    pub fn retry_later(&mut self, uid: &Uid, now: Instant) {
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.failed_at = Some(now);
        }
        self.retry(uid, now);
    }

    /// The attempt was cut short through no fault of the pod: it does not count.
    pub fn retry_now(&mut self, uid: &Uid, now: Instant) {
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.attempts = entry.attempts.saturating_sub(1);
        }
        self.activate(uid, now);
    }

    /// An unschedulable pod waits with others from now on.
    pub fn regroup(&mut self, uid: &Uid, group: Group) {
        let place = self.entries.get(uid).map(|e| e.place.clone());
        if let Some(Place::Unschedulable { since, sequence, .. }) = place {
            self.put(uid, Place::Unschedulable { group, since, sequence });
        }
    }

    /// Something that may help one unschedulable pod.
    pub fn wake_one(&mut self, uid: &Uid, now: Instant) {
        if matches!(self.entries.get(uid).map(|e| &e.place), Some(Place::Unschedulable { .. })) {
            self.retry(uid, now);
        }
    }

    /// Something happened that may help the pods of the group.
    pub fn wake(&mut self, group: Group, now: Instant) {
        for (_, uid) in self.groups.remove(&group).unwrap_or_default() {
            match self.entries.get(&uid).map(|e| &e.place) {
                Some(Place::Gated { .. }) => self.activate(&uid, now),
                _ => self.retry(&uid, now),
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
        let key = ActiveKey { sort: entry.sort.clone(), since: now, sequence };
        self.put(uid, Place::Active(key));
    }

    fn put(&mut self, uid: &Uid, place: Place) {
        self.unlink(uid);
        let Some(entry) = self.entries.get_mut(uid) else { return };
        entry.place = place.clone();
        match place {
            Place::Active(key) => _ = self.active.insert(key, uid.clone()),
            Place::Backoff(at, sequence) => _ = self.waiting.insert((at, sequence), uid.clone()),
            Place::Unschedulable { group, since, sequence } => {
                self.groups.entry(group).or_default().insert((sequence, uid.clone()));
                self.by_age.insert((since, sequence), uid.clone());
            }
            Place::Gated { group, sequence } => {
                self.groups.entry(group).or_default().insert((sequence, uid.clone()));
                self.gated += 1;
            }
            Place::InFlight => {}
        }
    }

    /// Takes the pod out of wherever it is.
    fn unlink(&mut self, uid: &Uid) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let place = std::mem::replace(&mut entry.place, Place::InFlight);
        match place {
            Place::Active(key) => _ = self.active.remove(&key),
            Place::Backoff(at, sequence) => _ = self.waiting.remove(&(at, sequence)),
            Place::Unschedulable { group, since, sequence } => {
                self.by_age.remove(&(since, sequence));
                self.leave(group, sequence, uid);
            }
            Place::Gated { group, sequence } => {
                self.gated -= 1;
                self.leave(group, sequence, uid);
            }
            Place::InFlight => {}
        }
    }

    fn leave(&mut self, group: Group, sequence: u64, uid: &Uid) {
        if let Some(pods) = self.groups.get_mut(&group) {
            pods.remove(&(sequence, uid.clone()));
            if pods.is_empty() {
                self.groups.remove(&group);
            }
        }
    }
}
