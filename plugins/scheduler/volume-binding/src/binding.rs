//! The plugin: classes, nodes and books.

use crate::booking::{Booking, Progress};
use crate::class::{Needs, Step};
use crate::storage::Storage;
use orlop_sdk::scheduler::volumes::{RequestedClaim, requested_claims};
use orlop_sdk::scheduler::{
    Asked, BatchPlugin, Decision, Delta, Explanation, Mirror, Node, ObjectChange, Placement, Prepared,
    Reason, Stale, Synced, Verdict, Write,
};
use orlop_sdk::serde::Deserialize;
use orlop_sdk::serde_json::Value;
use std::collections::HashMap;
use std::time::Duration;

/// `VolumeBindingArgs`
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(crate = "orlop_sdk::serde", rename_all = "camelCase", deny_unknown_fields, default)]
struct Args {
    bind_timeout_seconds: u64,
}

impl Default for Args {
    fn default() -> Self {
        Self { bind_timeout_seconds: 600 }
    }
}

/// The longest that the host waits.
const LONGEST: Duration = Duration::from_secs(900);

#[derive(Debug)]
struct Class {
    claims: Vec<RequestedClaim>,
    /// An error came up after the class was prepared; it will be prepared again.
    needs: Result<Needs, String>,
}

impl Class {
    fn is_current(&self, storage: &Storage) -> bool {
        self.needs.as_ref().is_ok_and(|needs| needs.generation == storage.generation())
    }

    /// Looks again where something changed.
    fn refresh(&mut self, storage: &Storage) {
        if !self.is_current(storage) {
            self.needs = Needs::of(storage, &self.claims);
        }
    }

    fn on(&self, node: &Node<'_>) -> Result<Vec<Step>, Vec<String>> {
        let needs = self.needs.as_ref().map_err(|message| vec![message.clone()])?;
        needs.on(node).map_err(|reasons| reasons.into_iter().map(str::to_owned).collect())
    }
}

/// The plugin.
#[derive(Debug)]
pub struct VolumeBinding {
    timeout: Duration,
    mirror: Mirror,
    storage: Storage,
    /// Those that have claims.
    classes: HashMap<u32, Class>,
    /// By number of the pod.
    bookings: HashMap<u64, Booking>,
}

impl VolumeBinding {
    fn book(&mut self, placement: &Placement) -> Result<(), String> {
        let claims = requested_claims(&placement.fields);
        if claims.is_empty() {
            return Ok(());
        }
        let node = Node::new(&self.mirror, placement.slot as usize);
        // The pod's class was asked just now.
        let same = |class: &&Class| class.is_current(&self.storage) && class.claims == claims;
        let steps = match self.classes.values().find(same) {
            Some(class) => class.on(&node),
            None => Class { needs: Needs::of(&self.storage, &claims), claims }.on(&node),
        };
        let steps = steps.map_err(|reasons| reasons.join(", "))?;
        if !steps.is_empty() {
            self.bookings.insert(placement.pod, Booking::new(steps, &placement.node, &mut self.storage));
        }
        Ok(())
    }

    fn forget(&mut self, pod: u64) {
        if let Some(booking) = self.bookings.remove(&pod) {
            booking.release(&mut self.storage);
        }
    }
}

impl BatchPlugin for VolumeBinding {
    fn new(args: &[u8]) -> Result<Self, String> {
        let args: Args = orlop_sdk::parse_config(args)?;
        Ok(Self {
            timeout: Duration::from_secs(args.bind_timeout_seconds).min(LONGEST),
            mirror: Mirror::default(),
            storage: Storage::default(),
            classes: HashMap::new(),
            bookings: HashMap::new(),
        })
    }

    fn sync(&mut self, delta: Delta) -> Synced {
        self.mirror.apply(delta);
        Synced::rows(self.mirror.checksum())
    }

    fn objects(&mut self, full: bool, changes: Vec<ObjectChange>) -> Stale {
        self.storage.apply(full, changes);
        // Every class that has claims is prepared again.
        Stale::Nothing
    }

    fn prepare(&mut self, class: u32, pod: &Value) -> Result<Prepared, String> {
        self.classes.remove(&class);
        let claims = requested_claims(pod);
        if claims.is_empty() {
            return Ok(Prepared::skip());
        }
        let mut prepared = Prepared { skip_score: true, reads_objects: true, ..Prepared::default() };
        let needs = Needs::of(&self.storage, &claims);
        match &needs {
            Ok(needs) => {
                prepared.skip_filter = needs.is_met_everywhere();
                prepared.skip_placing = needs.is_bound();
            }
            Err(message) => prepared.rejected = Some(Reason::unresolvable(message.clone())),
        }
        self.classes.insert(class, Class { claims, needs });
        Ok(prepared)
    }

    fn release(&mut self, class: u32) {
        self.classes.remove(&class);
    }

    fn filter(&mut self, class: u32, rows: &[u32]) -> Vec<u64> {
        let Some(class) = self.classes.get_mut(&class) else { return Vec::new() };
        class.refresh(&self.storage);
        let mirror = &self.mirror;
        Asked::new(rows, mirror.slots())
            .mask(|slot| mirror.is_live(slot) && class.on(&Node::new(mirror, slot)).is_ok())
    }

    fn explain(&mut self, class: u32, rows: &[u32]) -> Explanation {
        let mut explanation = Explanation::default();
        let mut class = self.classes.get_mut(&class);
        if let Some(class) = &mut class {
            class.refresh(&self.storage);
        }
        for slot in rows {
            let node = Node::new(&self.mirror, *slot as usize);
            let reasons = class.as_ref().and_then(|class| class.on(&node).err()).unwrap_or_default();
            reasons.into_iter().for_each(|reason| explanation.because(Reason::unresolvable(reason)));
            explanation.end_row();
        }
        explanation
    }

    fn reserve(&mut self, placement: Placement) -> Result<(), String> {
        self.forget(placement.pod);
        self.book(&placement)
    }

    fn unreserve(&mut self, placement: Placement) -> Vec<Decision> {
        self.forget(placement.pod);
        Vec::new()
    }

    fn pre_bind(&mut self, placement: Placement) -> (Verdict, Vec<Write>) {
        // An instance that is younger than the reservation books it now.
        if !self.bookings.contains_key(&placement.pod)
            && let Err(message) = self.book(&placement)
        {
            return (Verdict::reject(message), Vec::new());
        }
        let Some(booking) = self.bookings.get_mut(&placement.pod) else {
            return (Verdict::Allow, Vec::new());
        };
        let node = Node::new(&self.mirror, placement.slot as usize);
        let wait = || Verdict::wait(self.timeout, "binding volumes: timed out waiting for the condition");
        match booking.go_on(&self.storage, &node, &placement.node) {
            Ok(Progress::Write(writes)) => (wait(), writes),
            Ok(Progress::Wait) => (wait(), Vec::new()),
            Ok(Progress::Done) => {
                self.forget(placement.pod);
                (Verdict::Allow, Vec::new())
            }
            Err(message) => (Verdict::reject(format!("binding volumes: {message}")), Vec::new()),
        }
    }
}

#[cfg(test)]
mod tests;
