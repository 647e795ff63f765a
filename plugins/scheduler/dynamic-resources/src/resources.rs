//! The plugin.

use crate::claim::{Requested, consumers, is_allocated, is_being_deleted, is_reserved_for, requested};
use orlop_sdk::apimachinery::selector::NodeSelector;
use orlop_sdk::controller::Meta;
use orlop_sdk::scheduler::{
    Asked, BatchPlugin, Decision, Delta, Explanation, Mirror, Node, ObjectChange, Objects, Placement,
    Prepared, Reason, Stale, Synced, Verdict, Write,
};
use orlop_sdk::serde_json::{Value, json};
use std::collections::HashMap;

const GROUP: &str = "resource.k8s.io/v1";
/// Keeps a claim while it is allocated.
const FINALIZER: &str = "resource.kubernetes.io/delete-protection";

/// The plugin; it has no arguments.
#[derive(Debug, Default)]
pub struct DynamicResources {
    mirror: Mirror,
    objects: Objects,
    /// Where the claims of a class are available, for those that are not everywhere.
    classes: HashMap<u32, Vec<NodeSelector>>,
    /// Claims that are being allocated for a pod, by its number.
    pending: HashMap<String, u64>,
}

impl DynamicResources {
    /// Where all claims are available, or why they are of no use.
    fn nodes(&self, claims: &[Requested]) -> Result<Vec<NodeSelector>, String> {
        let mut selectors = Vec::new();
        for claim in claims {
            selectors.extend(claim.nodes(claim.find(&self.objects)?)?);
        }
        Ok(selectors)
    }

    fn writes(&self, placement: &Placement) -> Result<Vec<Write>, String> {
        let mut writes = Vec::new();
        for requested in requested(&placement.fields)? {
            let key = requested.key();
            let claim = self.objects.get(0, &requested.namespace, &requested.name);
            let claim = claim.filter(|claim| !is_being_deleted(claim));
            let claim = claim.ok_or_else(|| format!("claim {key} got deleted in the meantime"))?;
            if !is_reserved_for(claim, &placement.uid) {
                reserve(&requested, claim, placement, &mut writes);
            }
        }
        Ok(writes)
    }
}

/// Allocates a claim without devices, if nobody has, and reserves it for the pod.
fn reserve(requested: &Requested, claim: &Value, placement: &Placement, writes: &mut Vec<Write>) {
    let field = |pointer: &str| claim.pointer(pointer).and_then(Value::as_str).unwrap_or("").to_owned();
    let meta = Meta {
        name: requested.name.clone(),
        namespace: requested.namespace.clone(),
        uid: field("/metadata/uid"),
        resource_version: field("/metadata/resourceVersion"),
        ..Meta::default()
    };
    let patch = |body: Value| Write::patch(GROUP, "resourceclaims", &meta, body);
    let mut reserved = consumers(claim).to_vec();
    reserved.push(json!({"resource": "pods", "name": placement.name, "uid": placement.uid}));
    let mut status = json!({ "reservedFor": reserved });
    let mut protected = true;
    if !is_allocated(claim) {
        let finalizers = claim.pointer("/metadata/finalizers").and_then(Value::as_array);
        let mut finalizers = finalizers.cloned().unwrap_or_default();
        protected = finalizers.iter().any(|f| f == FINALIZER);
        if !protected {
            finalizers.push(FINALIZER.into());
            writes.push(patch(json!({"metadata": {"finalizers": finalizers}})).at_revision(&meta));
        }
        if let Some(status) = status.as_object_mut() {
            status.insert("allocation".to_owned(), json!({"devices": {}}));
        }
    }
    let write = patch(json!({ "status": status })).subresource("status");
    // After the finalizer the revision is another one, which nobody knows yet.
    writes.push(if protected { write.at_revision(&meta) } else { write });
}

impl BatchPlugin for DynamicResources {
    fn new(_args: &[u8]) -> Result<Self, String> {
        Ok(Self::default())
    }

    fn sync(&mut self, delta: Delta) -> Synced {
        self.mirror.apply(delta);
        Synced::rows(self.mirror.checksum())
    }

    fn objects(&mut self, full: bool, changes: Vec<ObjectChange>) -> Stale {
        self.objects.apply(full, changes);
        // Every class that has claims is prepared again.
        Stale::Nothing
    }

    fn pre_enqueue(&mut self, pod: &Value) -> Option<String> {
        let claims = match requested(pod) {
            Ok(claims) => claims,
            Err(message) => return Some(message),
        };
        claims.iter().find_map(|claim| claim.find(&self.objects).err())
    }

    fn prepare(&mut self, class: u32, pod: &Value) -> Result<Prepared, String> {
        self.classes.remove(&class);
        let claims = requested(pod);
        if claims.as_ref().is_ok_and(Vec::is_empty) {
            return Ok(Prepared::skip());
        }
        let mut prepared = Prepared { skip_score: true, reads_objects: true, ..Prepared::default() };
        match claims.and_then(|claims| self.nodes(&claims)) {
            Ok(selectors) if selectors.is_empty() => prepared.skip_filter = true,
            Ok(selectors) => _ = self.classes.insert(class, selectors),
            Err(message) => prepared.rejected = Some(Reason::unresolvable(message)),
        }
        Ok(prepared)
    }

    fn release(&mut self, class: u32) {
        self.classes.remove(&class);
    }

    fn filter(&mut self, class: u32, rows: &[u32]) -> Vec<u64> {
        let selectors = self.classes.get(&class).map_or(&[][..], |s| s);
        Asked::new(rows, self.mirror.slots()).mask(|slot| {
            let node = Node::new(&self.mirror, slot);
            selectors.iter().all(|selector| selector.matches(node.name(), |key| node.label(key)))
        })
    }

    fn explain(&mut self, _class: u32, rows: &[u32]) -> Explanation {
        let mut explanation = Explanation::default();
        for _ in rows {
            explanation.because(Reason::unresolvable("resourceclaim not available on the node"));
            explanation.end_row();
        }
        explanation
    }

    fn reserve(&mut self, placement: Placement) -> Result<(), String> {
        let mut mine = Vec::new();
        for requested in requested(&placement.fields)? {
            let claim = requested.find(&self.objects)?;
            if is_allocated(claim) {
                continue;
            }
            requested.nodes(claim)?;
            let key = requested.key();
            if self.pending.get(&key).is_some_and(|pod| *pod != placement.pod) {
                return Err(format!("resource claim {key} is in the process of being allocated"));
            }
            mine.push(key);
        }
        self.pending.extend(mine.into_iter().map(|key| (key, placement.pod)));
        Ok(())
    }

    fn unreserve(&mut self, placement: Placement) -> Vec<Decision> {
        self.pending.retain(|_, pod| *pod != placement.pod);
        Vec::new()
    }

    fn pre_bind(&mut self, placement: Placement) -> (Verdict, Vec<Write>) {
        match self.writes(&placement) {
            Ok(writes) => (Verdict::Allow, writes),
            Err(message) => (Verdict::reject(message), Vec::new()),
        }
    }

    fn post_bind(&mut self, placement: Placement) {
        self.pending.retain(|_, pod| *pod != placement.pod);
    }
}

#[cfg(test)]
mod tests;
