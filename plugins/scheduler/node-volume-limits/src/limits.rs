//! The plugin.

use crate::attached::{self, Attached};
use crate::volume::Volume;
use orlop_sdk::scheduler::{
    Asked, BatchPlugin, Delta, Explanation, Mirror, ObjectChange, Prepared, Reason, Stale, Synced, dictionary,
};
use orlop_sdk::serde_json::Value;
use std::collections::HashMap;

/// What a class adds to a node.
#[derive(Debug)]
struct Class {
    volumes: Vec<Volume>,
    /// Why it fits no node. VolumeBinding has better words for it, and is heard first, since these are
    /// only found by looking at nodes.
    fault: Option<String>,
}

/// The plugin; it has no arguments.
#[derive(Debug, Default)]
pub struct NodeVolumeLimits {
    mirror: Mirror,
    attached: Attached,
    /// Those that add volumes.
    classes: HashMap<u32, Class>,
}

impl NodeVolumeLimits {
    fn fault(&self, asked: &attached::Asked) -> Option<String> {
        asked.claims.iter().find_map(|claim| {
            if claim.name.is_empty() {
                return Some("PersistentVolumeClaim had no name".to_owned());
            }
            match self.attached.claim(claim) {
                Some(found) => claim.check_owner(found.controller.as_deref()).err(),
                None => {
                    Some(format!("looking up PVC {}/{}: {}", claim.namespace, claim.name, claim.not_found()))
                }
            }
        })
    }
}

impl BatchPlugin for NodeVolumeLimits {
    fn new(_args: &[u8]) -> Result<Self, String> {
        Ok(Self::default())
    }

    fn sync(&mut self, mut delta: Delta) -> Synced {
        self.attached.extend(delta.full, delta.take_dictionary(dictionary::PODS));
        if delta.full {
            self.attached.forget_all();
        }
        for slot in self.mirror.apply(delta) {
            self.attached.forget_slot(slot as usize);
        }
        Synced::rows(self.mirror.checksum())
    }

    fn objects(&mut self, full: bool, changes: Vec<ObjectChange>) -> Stale {
        self.attached.apply(full, changes);
        // Every class that adds volumes is prepared again.
        Stale::Nothing
    }

    fn prepare(&mut self, class: u32, pod: &Value) -> Result<Prepared, String> {
        self.classes.remove(&class);
        let asked = attached::Asked::of(pod);
        if asked.is_empty() {
            return Ok(Prepared::skip());
        }
        let volumes = self.attached.volumes(&asked);
        let fault = self.fault(&asked);
        let skip_filter = volumes.is_empty() && fault.is_none();
        if !skip_filter {
            self.classes.insert(class, Class { volumes, fault });
        }
        Ok(Prepared { skip_filter, reads_objects: true, ..Prepared::skip() })
    }

    fn release(&mut self, class: u32) {
        self.classes.remove(&class);
    }

    fn filter(&mut self, class: u32, rows: &[u32]) -> Vec<u64> {
        let Self { mirror, attached, classes } = self;
        let Some(class) = classes.get(&class) else { return Vec::new() };
        Asked::new(rows, mirror.slots())
            .mask(|slot| class.fault.is_none() && attached.counted(mirror, slot).has_room(&class.volumes))
    }

    fn overlay(&mut self, class: u32, mut delta: Delta) -> Vec<u64> {
        self.attached.extend(false, delta.take_dictionary(dictionary::PODS));
        let Self { mirror, attached, classes } = self;
        let Some(class) = classes.get(&class) else { return Vec::new() };
        mirror.overlay(delta, |mirror, slot| {
            class.fault.is_none() && attached.count(mirror, slot).has_room(&class.volumes)
        })
    }

    fn explain(&mut self, class: u32, rows: &[u32]) -> Explanation {
        let mut explanation = Explanation::default();
        let fault = self.classes.get(&class).and_then(|class| class.fault.as_ref());
        let reason = fault.map_or_else(
            || Reason::new("node(s) exceed max volume count"),
            |fault| Reason::unresolvable(fault.clone()),
        );
        for _ in rows {
            explanation.because(reason.clone());
            explanation.end_row();
        }
        explanation
    }
}

#[cfg(test)]
mod tests;
