//! One pod at a time: choose a node, account, go on to the binding.

use super::hints::Wants;
use super::{Engine, State, draw};
use crate::action::Action;
use crate::class::{Class, Unfit, bit};
use crate::framework::EventSet;
use crate::pod::{ScheduledCondition, Uid};
use crate::profile::{ClassDef, Failed};
use crate::table::{PodChange, Slot};
use std::sync::Arc;
use std::time::Instant;

/// Why a node is not given to a pod that it would fit.
const HELD: &str = "node(s) were held for nominated pods";

impl Engine {
    /// Schedules the next pod. `false` where there is none now.
    pub fn cycle(&mut self, now: Instant) -> bool {
        self.expire(now);
        self.take_hints(now);
        let Some(uid) = self.queue.pop(now) else { return false };
        if !self.pods.contains_key(&uid) {
            self.queue.remove(&uid);
            return true;
        }
        if self.pods.get(&uid).is_some_and(|pod| pod.class.is_none()) {
            self.define_again(&uid, now);
        }
        let Some((at, def)) = self.pods.get(&uid).and_then(|pod| pod.class.clone()) else {
            self.queue.remove(&uid);
            return true;
        };
        match self.gate(&uid, at, &def, now) {
            Ok(None) => self.attempt(&uid, at, &def, now),
            Ok(Some(group)) => self.queue.gate(&uid, group),
            Err(message) => {
                self.queue.retry_later(&uid, now);
                self.failed(&uid, "SchedulerError", message.into());
            }
        }
        self.settle(now);
        true
    }

    fn attempt(&mut self, uid: &Uid, at: usize, def: &Arc<ClassDef>, now: Instant) {
        let Some(profile) = self.profiles.get_mut(at) else { return };
        let id = profile.open(def);
        let picked = profile.evaluate(id, &self.table, now).and_then(|()| self.pick(uid, at, id, now));
        if let (Ok(slot), Some(profile), Some(pod)) = (&picked, self.profiles.get_mut(at), self.pods.get(uid))
        {
            profile.tell_choice(id, (&pod.key.0, &pod.key.1), *slot, &self.table);
        }
        let decided = picked.and_then(|picked| match picked {
            Some(slot) => {
                self.assume(uid, (at, def), id, slot, now);
                Ok(())
            }
            None => self.unfit(uid, (at, def), id, now),
        });
        if let Err(failed) = decided {
            self.queue.retry_later(uid, now);
            self.failed(uid, "SchedulerError", failed.message.into());
        }
    }

    /// The best node for a pod of an evaluated class, nominated pods considered.
    fn pick(&mut self, uid: &Uid, at: usize, id: u32, now: Instant) -> Result<Option<Slot>, Failed> {
        let Self { profiles, table, nominated, pods, .. } = self;
        let Some(profile) = profiles.get_mut(at) else { return Ok(None) };
        let Some(class) = profile.class(id) else { return Ok(None) };
        let draw = draw(self.seed, uid);
        if nominated.is_empty() {
            return Ok(class.choose(draw));
        }
        let fits = |slot: &Slot| bit(class.feasible(), *slot as usize);
        let own = nominated.node_of(uid).and_then(|node| table.slot(node)).filter(fits);
        let Some(best) = own.or_else(|| class.choose(draw)) else { return Ok(None) };
        let priority = pods.get(uid).map_or(0, |pod| pod.priority);
        let rows: Vec<(Slot, Vec<PodChange<'_>>)> = nominated
            .nodes()
            .filter_map(|node| {
                let slot = table.slot(node).filter(fits)?;
                let others = nominated.at_least(node, priority, uid).filter_map(|other| pods.get(other));
                let others: Vec<_> = others.map(|other| PodChange::Add(&other.footprint)).collect();
                (!others.is_empty()).then_some((slot, others))
            })
            .collect();
        if rows.is_empty() {
            return Ok(Some(best));
        }
        let fit = profile.overlay(id, table, &rows, now)?;
        let held: Vec<Slot> =
            rows.iter().zip(fit).filter(|(_, fits)| !fits).map(|((slot, _), _)| *slot).collect();
        if !held.contains(&best) {
            return Ok(Some(best));
        }
        Ok(profile.class(id).and_then(|class| choose_other(class, &held, draw)))
    }

    fn unfit(
        &mut self,
        uid: &Uid,
        (at, def): (usize, &Arc<ClassDef>),
        id: u32,
        now: Instant,
    ) -> Result<(), Failed> {
        let Some(profile) = self.profiles.get_mut(at) else { return Ok(()) };
        let mut unfit = profile.explain(id, &self.table, now)?;
        let feasible = profile.class(id).map_or(&[][..], Class::feasible);
        let held: u32 = feasible.iter().map(|word| word.count_ones()).sum();
        if held > 0 {
            let mut more = Unfit::clone(&unfit);
            more.reasons.push((HELD.to_owned(), held));
            more.events = more.events.or(EventSet::POD_DELETE).or(EventSet::POD_ADD);
            unfit = Arc::new(more);
        }
        let preemption = self.preempt(uid, (at, def, id), &unfit, now);
        let priority = self.pods.get(uid).map_or(0, |pod| pod.priority);
        let group = self.hints.group(at, def, unfit.events, Wants::Node, priority);
        self.queue.unschedulable(uid, group, now);
        self.failed(uid, "Unschedulable", unfit.message(&preemption).into());
        Ok(())
    }

    fn assume(&mut self, uid: &Uid, (at, def): (usize, &Arc<ClassDef>), id: u32, slot: Slot, now: Instant) {
        let (Some(pod), Some(node)) = (self.pods.get_mut(uid), self.table.name(slot).cloned()) else {
            return;
        };
        pod.state = State::Assumed(slot);
        let priority = pod.priority;
        self.table.add_pod_at(slot, &pod.footprint);
        self.settle_in(uid, slot, priority);
        self.denominate(uid);
        self.hints.note(EventSet::POD_ADD);
        let plugins = self.profiles.get(at).map_or_else(Vec::new, |profile| profile.placing(id));
        if plugins.is_empty() {
            self.send_binding(uid, node);
        } else {
            self.place(uid, (at, def.clone()), plugins, (slot, node), now);
        }
    }

    pub(super) fn failed(&mut self, uid: &Uid, reason: &'static str, message: Arc<str>) {
        let Some(pod) = self.pods.get(uid) else { return };
        self.actions.push(Action::Event {
            pod: pod.reference(uid),
            normal: false,
            reason: "FailedScheduling",
            action: "Scheduling",
            message: message.clone(),
        });
        self.condition(uid, reason, message);
    }

    /// Asks for the condition PodScheduled=False where the API server does not have it, and for the
    /// nomination of a node where there is one that it does not know of.
    pub(super) fn condition(&mut self, uid: &Uid, reason: &'static str, message: Arc<str>) {
        let Some(pod) = self.pods.get_mut(uid) else { return };
        let wanted = ScheduledCondition {
            status: "False".to_owned(),
            reason: reason.to_owned(),
            message: message.to_string(),
        };
        let nominated =
            self.nominated.node_of(uid).filter(|node| pod.nominated.as_ref() != Some(*node)).cloned();
        if pod.condition.as_ref() == Some(&wanted) && nominated.is_none() {
            return;
        }
        pod.condition = Some(wanted);
        if nominated.is_some() {
            pod.nominated.clone_from(&nominated);
            pod.unconfirmed = true;
        }
        let pod = pod.reference(uid);
        self.actions.push(Action::Condition { pod, reason, message, nominated });
    }
}

/// The best node that is not held; `draw` chooses among equals.
fn choose_other(class: &Class, held: &[Slot], draw: u64) -> Option<Slot> {
    let slots = (0_u32..).zip(class.feasible()).flat_map(|(block, word)| {
        let word = *word;
        (0..64_u32).filter(move |at| word >> at & 1 == 1).map(move |at| block * 64 + at)
    });
    let mut best: Vec<Slot> = Vec::new();
    for slot in slots.filter(|slot| !held.contains(slot)) {
        match best.first().map(|b| class.total(*b).cmp(&class.total(slot))) {
            Some(std::cmp::Ordering::Greater) => {}
            Some(std::cmp::Ordering::Equal) => best.push(slot),
            _ => best = vec![slot],
        }
    }
    let at = usize::try_from(draw % best.len().max(1) as u64).unwrap_or(0);
    best.get(at).copied()
}
