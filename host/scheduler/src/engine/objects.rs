//! Objects that plugins watch, and what else of the cluster says something about pods.

use super::{Engine, Pod, State};
use crate::objects::WatchKey;
use crate::pod::PodFacts;
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

    /// Tells plugins of watched objects, and tries again the pods that it may help.
    pub fn objects_changed(&mut self, now: Instant) {
        for profile in &mut self.profiles {
            let events = profile.sync_objects(&self.table, now);
            self.queue.event(events, now);
        }
    }

    pub(super) fn watch_what_profiles_watch(&mut self) {
        let watches = self.watches();
        self.table.objects_mut().retain(&watches);
    }

    /// Reads the placed pods again for which `affected` holds, as plugins read something else of them now.
    pub(super) fn account_anew(&mut self, affected: impl Fn(&Pod) -> bool) {
        for pod in self.pods.values_mut().filter(|p| affected(p)) {
            let footprint = PodFacts::from_object(&pod.object).footprint(&mut self.table);
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
