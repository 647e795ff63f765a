//! Objects that plugins watch, and what else of the cluster says something about pods.

use super::{Engine, Pod, State};
use crate::framework::EventSet;
use crate::objects::WatchKey;
use crate::pod::{PodFacts, Uid};
use crate::surroundings::Surrounding;
use orlop_apimachinery::Object;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

impl Engine {
    /// What the plugins of all profiles watch.
    #[must_use]
    pub fn watches(&self) -> BTreeSet<WatchKey> {
        self.profiles.iter().flat_map(|p| p.watches().cloned()).collect()
    }

    /// An object that plugins watch appeared, changed, or went. To be followed by [`Engine::objects_changed`], once for
    /// many of them.
    pub fn watched(&mut self, watch: &WatchKey, namespace: &str, name: &str, object: Option<Arc<Object>>) {
        self.table.objects_mut().change(watch, namespace, name, object);
    }

    /// A watch began: all objects of it will be told of, and those that are known from before do not count.
    pub fn watch_begun(&mut self, watch: &WatchKey) {
        self.table.objects_mut().forget(watch);
    }

    /// Tells plugins of watched objects, and tries again the pods that it may help.
    pub fn objects_changed(&mut self, now: Instant) {
        for profile in &mut self.profiles {
            let events = profile.sync_objects(&self.table, now);
            self.hints.note(events);
        }
        self.recheck(now);
    }

    pub(super) fn watch_what_profiles_watch(&mut self) {
        let watches = self.watches();
        self.table.objects_mut().retain(&watches);
    }

    /// An object that says something about pods appeared, changed, or went.
    pub fn surrounding(
        &mut self,
        kind: Surrounding,
        namespace: &str,
        name: &str,
        object: Option<&Object>,
        now: Instant,
    ) {
        if kind == Surrounding::PodDisruptionBudget {
            return self.budget(namespace, name, object);
        }
        let Some(affected) = self.surroundings.change(kind, namespace, name, object) else { return };
        let waiting =
            self.pods.iter().filter(|(_, p)| p.state == State::Waiting && affected.concerns(&p.object));
        let waiting: Vec<Uid> = waiting.map(|(uid, _)| uid.clone()).collect();
        for uid in waiting {
            self.define_again(&uid, now);
        }
        if affected.placed() {
            self.account_anew(|pod| affected.concerns(&pod.object));
            self.hints.note(EventSet::POD_ADD);
            self.recheck(now);
        }
    }

    /// A pod with all that is computed for plugins.
    pub(super) fn facts(&mut self, object: &Object) -> PodFacts {
        let mut facts = PodFacts::from_object(object);
        self.surroundings.complete(&mut facts.value);
        facts
    }

    /// Reads the placed pods again for which `affected` holds, as plugins read something else of them now.
    pub(super) fn account_anew(&mut self, affected: impl Fn(&Pod) -> bool) {
        for pod in self.pods.values_mut().filter(|p| affected(p)) {
            let mut facts = PodFacts::from_object(&pod.object);
            self.surroundings.complete(&mut facts.value);
            let footprint = facts.footprint(&mut self.table);
            if footprint == pod.footprint {
                continue;
            }
            if let State::Assumed(slot) | State::Bound(slot) = pod.state {
                self.table.add_pod_at(slot, &footprint);
                self.table.remove_pod(slot, &pod.footprint);
            }
            pod.footprint = footprint;
        }
    }
}
