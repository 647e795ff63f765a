//! Queueing hints: which events bring which pods back.
//!
//! Pods that wait for an event lie in groups of the same class, told apart by what may help them.
//! Events are noted as they come and looked at together, before the next pod is scheduled.

use super::Engine;
use crate::framework::{EventSet, Hooks};
use crate::profile::{ClassDef, Fits};
use crate::queue::Group;
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

/// Placements that are only noted, while other pods are active, before hints are looked at.
const PATIENCE: u32 = 64;

/// What a group waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Wants {
    /// A node that fits.
    Node,
    /// That a plugin lets it into the queue.
    Gate,
    /// Any of its events.
    Event,
}

#[derive(Debug)]
struct Info {
    profile: usize,
    /// Kept, so that its address names it.
    def: Arc<ClassDef>,
    /// Those that it was made with.
    first: EventSet,
    /// And those that were found later, when other plugins than at first kept the pods waiting.
    events: EventSet,
    wants: Wants,
    /// Highest among its pods.
    priority: i32,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Hints {
    ids: HashMap<(usize, EventSet, Wants), Group>,
    groups: BTreeMap<Group, Info>,
    next: u64,
    noted: EventSet,
    /// Calls since something was noted that was not looked at.
    postponed: u32,
    /// By kind of event: when it was last noted, in numbers of notes.
    last: [u64; 32],
    notes: u64,
}

impl Hints {
    /// Notes that something happened.
    pub(super) fn note(&mut self, events: EventSet) {
        if events.is_empty() {
            return;
        }
        self.noted = self.noted.or(events);
        self.notes += 1;
        for (bit, last) in self.last.iter_mut().enumerate() {
            if events.0 >> bit & 1 == 1 {
                *last = self.notes;
            }
        }
    }

    /// Now, to be compared by [`Hints::since`].
    pub(super) const fn mark(&self) -> u64 {
        self.notes
    }

    /// Whether any of `events` was noted after `mark`.
    pub(super) fn since(&self, mark: u64, events: EventSet) -> bool {
        self.last.iter().enumerate().any(|(bit, last)| events.0 >> bit & 1 == 1 && *last > mark)
    }

    /// The group of such pods.
    pub(super) fn group(
        &mut self,
        profile: usize,
        def: &Arc<ClassDef>,
        events: EventSet,
        wants: Wants,
        priority: i32,
    ) -> Group {
        let id = (Arc::as_ptr(def).addr(), events, wants);
        let group = *self.ids.entry(id).or_insert_with(|| {
            self.next += 1;
            Group(self.next)
        });
        let fresh = || Info { profile, def: def.clone(), first: events, events, wants, priority };
        let info = self.groups.entry(group).or_insert_with(fresh);
        info.priority = info.priority.max(priority);
        group
    }

    /// What the pods of a group wait for.
    pub(super) fn waits_for(&self, group: Group) -> Option<(EventSet, Wants)> {
        self.groups.get(&group).map(|info| (info.events, info.wants))
    }

    /// Forgets all groups; numbers go on.
    pub(super) fn clear(&mut self) {
        self.ids.clear();
        self.groups.clear();
    }

    fn forget(&mut self, group: Group) {
        if let Some(info) = self.groups.remove(&group) {
            self.ids.remove(&(Arc::as_ptr(&info.def).addr(), info.first, info.wants));
        }
    }
}

impl Engine {
    /// Looks at what was noted and wakes the pods that it helps.
    pub(super) fn take_hints(&mut self, now: Instant) {
        let noted = self.hints.noted;
        if noted.is_empty() {
            return;
        }
        // A placement makes room for few: it can wait until others are placed too.
        if noted == EventSet::POD_ADD && self.queue.has_active() && self.hints.postponed < PATIENCE {
            self.hints.postponed += 1;
            return;
        }
        self.hints.noted = EventSet::NONE;
        self.hints.postponed = 0;
        let groups: Vec<Group> = self.hints.groups.keys().copied().collect();
        for group in groups {
            if !self.queue.has_group(group) {
                self.hints.forget(group);
            } else if self.helps(group, noted, now) {
                self.queue.wake(group, now);
                self.hints.forget(group);
            }
        }
    }

    fn helps(&mut self, group: Group, noted: EventSet, now: Instant) -> bool {
        let Some(info) = self.hints.groups.get_mut(&group) else { return false };
        if !info.events.intersects(noted) {
            return false;
        }
        let Some(profile) = self.profiles.get_mut(info.profile) else { return true };
        match info.wants {
            Wants::Event => true,
            // Where the plugin fails, the pods are let through and told so when they are tried.
            Wants::Gate => profile.gate(&info.def, true, &self.table, now).map_or(true, |b| b.is_none()),
            Wants::Node => {
                let nodes = EventSet::NODE_ADD
                    .or(EventSet::NODE_ALLOCATABLE)
                    .or(EventSet::NODE_LABELS)
                    .or(EventSet::NODE_TAINTS);
                let lower = self.priorities.keys().next().is_some_and(|lowest| *lowest < info.priority);
                match profile.fits_now(&info.def, &self.table, now) {
                    Ok(Fits::Nowhere(events)) => {
                        info.events = info.events.or(events);
                        // On a changed node there may now be somebody to evict.
                        noted.intersects(nodes)
                            && lower
                            && profile.with_hook(Hooks::POST_FILTER).next().is_some()
                    }
                    Ok(_) | Err(_) => true,
                }
            }
        }
    }
}
