//! PostFilter: whom to evict so that a pod fits.
//!
//! The host finds nodes where it would fit without all pods of lower priority, gives those pods back
//! one by one in the order that the plugin wants, on all candidates at once, and lets the plugin
//! choose among what is left. Source: `k8s.io/kubernetes/pkg/scheduler/framework/preemption`.

mod candidates;

use super::{Engine, Pod, State, draw};
use crate::action::Action;
use crate::class::{Unfit, bit};
use crate::disruption::Allowance;
use crate::framework::{EventSet, Hooks};
use crate::pod::Uid;
use crate::preemption::Preemption;
use crate::profile::{ClassDef, Failed};
use crate::table::{PodChange, Slot};
use candidates::{Candidate, Lower, Preemptor, started};
use serde_json::Value;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

const NO_VICTIMS: &str = "No preemption victims found for incoming pod";
const NOT_HELPFUL: &str = "Preemption is not helpful for scheduling";
/// Nodes that are looked at together, at least.
const BATCH: usize = 64;

impl Engine {
    /// Tries to make room for a pod that fits nowhere. Where none is to be had, none is held for it either.
    pub(super) fn preempt(
        &mut self,
        uid: &Uid,
        class: (usize, &Arc<ClassDef>, u32),
        unfit: &Unfit,
        now: Instant,
    ) -> Preemption {
        let preemption = self.try_to_preempt(uid, class, unfit, now);
        if matches!(preemption, Preemption::NotFound(_)) && self.nominated.node_of(uid).is_some() {
            self.withdraw(uid);
        }
        preemption
    }

    fn try_to_preempt(
        &mut self,
        uid: &Uid,
        (at, def, class): (usize, &Arc<ClassDef>, u32),
        unfit: &Unfit,
        now: Instant,
    ) -> Preemption {
        let plugin = self.profiles.get(at).and_then(|p| p.with_hook(Hooks::POST_FILTER).next());
        let Some(plugin) = plugin else { return Preemption::Unavailable };
        let Some(priority) = self.pods.get(uid).map(|pod| pod.priority) else {
            return Preemption::Unavailable;
        };
        let possible: u32 = unfit.resolvable.iter().map(|word| word.count_ones()).sum();
        let terminating = self.victims_are_leaving(uid, priority, unfit);
        let Some(profile) = self.profiles.get_mut(at) else { return Preemption::Unavailable };
        let fields = profile.fields_of(plugin, def);
        let eligible =
            profile.call(plugin, &self.table, false, now, |p| p.eligible(&fields, possible, terminating));
        let wanted = match eligible {
            Ok(Ok(wanted)) => wanted as usize,
            Ok(Err(why)) => return Preemption::Ineligible(why),
            Err(error) => return Preemption::Ineligible(format!("{}.", error.message())),
        };
        let mut reasons = BTreeMap::new();
        let helpless = unfit.nodes.saturating_sub(possible);
        if helpless > 0 {
            reasons.insert(NOT_HELPFUL.to_owned(), helpless);
        }
        if possible == 0 || self.priorities.keys().next().is_none_or(|lowest| *lowest >= priority) {
            if possible > 0 {
                reasons.insert(NO_VICTIMS.to_owned(), possible);
            }
            return Preemption::NotFound(reasons.into_iter().collect());
        }
        // Nothing has changed since this was tried in vain for such a pod.
        let state = (self.hints.mark(), self.budget_changes);
        let key = (Arc::as_ptr(def).addr(), priority);
        if let Some((then, _, known)) = self.vain.get(&key)
            && *then == state
        {
            return known.clone();
        }
        let found = self.search(uid, (at, plugin, class, fields), priority, wanted, unfit, &mut reasons, now);
        match found {
            Ok(Some((slot, victims))) => {
                self.evict(uid, priority, slot, &victims);
                Preemption::Found
            }
            Ok(None) => {
                let preemption = Preemption::NotFound(reasons.into_iter().collect());
                if self.vain.len() >= BATCH {
                    self.vain.clear();
                }
                self.vain.insert(key, (state, def.clone(), preemption.clone()));
                preemption
            }
            Err(failed) => Preemption::Ineligible(format!("{}.", failed.message)),
        }
    }

    /// Whether room is being made already where the pod is nominated.
    fn victims_are_leaving(&self, uid: &Uid, priority: i32, unfit: &Unfit) -> bool {
        let slot = self.nominated.node_of(uid).and_then(|node| self.table.slot(node));
        let Some(slot) = slot.filter(|slot| bit(&unfit.resolvable, *slot as usize)) else { return false };
        let pods = self.on_node.get(slot as usize).into_iter().flatten();
        pods.filter_map(|pod| self.pods.get(pod)).any(|pod| {
            pod.priority < priority && (pod.condemned || (pod.object.is_being_deleted() && is_preempted(pod)))
        })
    }

    /// The best node, and the uids of those to evict there.
    #[expect(clippy::too_many_arguments, reason = "what the search is about")]
    fn search(
        &mut self,
        uid: &Uid,
        (at, plugin, class, fields): (usize, usize, u32, Arc<[u8]>),
        priority: i32,
        wanted: usize,
        unfit: &Unfit,
        reasons: &mut BTreeMap<String, u32>,
        now: Instant,
    ) -> Result<Option<(Slot, Vec<Uid>)>, Failed> {
        let Self { profiles, table, pods, on_node, nominated, budgets, .. } = self;
        let Some(profile) = profiles.get_mut(at) else { return Ok(None) };
        let mut preemptor = Preemptor { profile, table, plugin, class, fields, now };
        let mut slots: Vec<Slot> =
            (0..table.slots()).filter(|s| bit(&unfit.resolvable, *s as usize)).collect();
        let offset = draw(self.seed, uid) % slots.len().max(1) as u64;
        slots.rotate_left(usize::try_from(offset).unwrap_or(0));
        let mut found: Vec<Candidate<'_>> = Vec::new();
        let mut unhelped: Vec<Slot> = Vec::new();
        for batch in slots.chunks(wanted.max(BATCH)) {
            let mut candidates = Vec::new();
            for slot in batch {
                let on_it = on_node.get(*slot as usize).into_iter().flatten();
                let on_it = on_it.filter_map(|uid| pods.get(uid).map(|pod| (uid, pod)));
                let mut lower: Vec<Lower<'_>> = on_it
                    .filter(|(_, pod)| pod.priority < priority)
                    .map(|(uid, pod)| Lower { uid, pod, started: started(pod), violating: false })
                    .collect();
                if lower.is_empty() {
                    *reasons.entry(NO_VICTIMS.to_owned()).or_insert(0) += 1;
                    continue;
                }
                lower.sort_by(|a, b| {
                    let key = |l: &Lower<'_>| (Reverse(l.pod.priority), l.started);
                    key(a).cmp(&key(b)).then_with(|| a.uid.cmp(b.uid))
                });
                let mut allowance = Allowance::default();
                for pod in &mut lower {
                    pod.violating = budgets.violated(&pod.pod.object, &mut allowance);
                }
                let name = table.name(*slot).map_or("", |name| name);
                let others = nominated.at_least(name, priority, uid).filter_map(|other| pods.get(other));
                let nominated = others.map(|other| PodChange::Add(&other.footprint)).collect();
                let victims = (0..lower.len()).collect();
                candidates.push(Candidate { slot: *slot, nominated, pods: lower, victims });
            }
            let lost = preemptor.fitting(&mut candidates)?;
            unhelped.extend(lost);
            unhelped.extend(preemptor.order(&mut candidates)?);
            preemptor.spare(&mut candidates)?;
            found.append(&mut candidates);
            let respectful =
                |c: &Candidate<'_>| c.victims.iter().all(|at| c.pods.get(*at).is_some_and(|p| !p.violating));
            if found.len() >= wanted && found.iter().any(respectful) {
                break;
            }
        }
        if found.is_empty() {
            for (reason, nodes) in preemptor.profile.reasons_of(class, &unhelped, now)? {
                *reasons.entry(reason).or_insert(0) += nodes;
            }
            return Ok(None);
        }
        let best = preemptor.choose(&found)?;
        Ok(found.get(best).map(|c| {
            let victims = c.pods.iter().enumerate().filter(|(at, _)| c.victims.contains(at));
            (c.slot, victims.map(|(_, lower)| lower.uid.clone()).collect())
        }))
    }

    /// Evicts the pods and nominates their node for the one that they make room for.
    fn evict(&mut self, uid: &Uid, priority: i32, slot: Slot, victims: &[Uid]) {
        let Some(node) = self.table.name(slot).cloned() else { return };
        let Some(by) = self.pods.get(uid).map(|pod| pod.reference(uid)) else { return };
        for other in self.nominated.below(&node, priority) {
            self.withdraw(&other);
        }
        self.nominated.put(uid, &node, priority);
        let said: Arc<str> = format!("Preempted by pod {uid} on node {node}").into();
        for victim in victims {
            let Some(pod) = self.pods.get_mut(victim) else { continue };
            if pod.object.is_being_deleted() || pod.condemned {
                continue;
            }
            pod.condemned = true;
            let mut reference = pod.reference(victim);
            reference.scheduler = by.scheduler.clone();
            let waits = matches!(pod.state, State::Assumed(_)) && self.preempt_waiting(victim);
            if waits {
                self.actions.push(Action::Event {
                    pod: reference,
                    normal: true,
                    reason: "Preempted",
                    action: "Preempting",
                    message: said.clone(),
                });
            } else {
                self.actions.push(Action::Evict { pod: reference, by: uid.clone(), message: said.clone() });
            }
        }
    }

    /// Other pods may have the room that was held for this one.
    pub(super) fn denominate(&mut self, uid: &Uid) {
        if self.nominated.node_of(uid).is_some() {
            self.nominated.remove(uid);
            self.hints.note(EventSet::POD_DELETE);
        }
    }

    /// The pod is not nominated any more, which the API server is told.
    fn withdraw(&mut self, uid: &Uid) {
        self.denominate(uid);
        if let Some(pod) = self.pods.get_mut(uid) {
            pod.nominated = None;
            self.actions.push(Action::Withdraw { pod: pod.reference(uid) });
        }
    }

    /// A pod could not be evicted to make room for another, which has to look for room again.
    pub fn eviction_failed(&mut self, victim: &Uid, by: &Uid, now: Instant) {
        if let Some(pod) = self.pods.get_mut(victim) {
            pod.condemned = false;
        }
        if self.nominated.node_of(by).is_some() {
            self.withdraw(by);
            self.queue.wake_one(by, now);
        }
    }
}

/// Whether the pod is going because the scheduler wanted it so.
fn is_preempted(pod: &Pod) -> bool {
    let value = pod.object.to_value();
    let conditions = value.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|c| {
        c.get("type").and_then(Value::as_str) == Some("DisruptionTarget")
            && c.get("reason").and_then(Value::as_str) == Some("PreemptionByScheduler")
    })
}

/// Preemptions that were tried in vain, by class and priority: what the world was like then, and the answer.
pub(super) type Vain = HashMap<(usize, i32), ((u64, u64), Arc<ClassDef>, Preemption)>;
