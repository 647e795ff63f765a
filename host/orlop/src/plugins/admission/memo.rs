//! Verdicts that a plugin gave before.
//!
//! A plugin whose manifest says `memoize` promises that an allowing verdict depends on nothing but what
//! [`key`] reads. Pods of one workload are equal in what plugins read of them, so most requests of a busy
//! cluster are answered here, without a call. Refusals are never remembered.
//!
//! A memory belongs to one linked revision with one configuration, and goes with it.

use super::wire;
use json_patch::Patch;
use orlop_plugin::admission::Request;
use orlop_plugin::manifest::admission::Phase;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::sync::Arc;

/// Verdicts of one plugin; when there are more, it starts anew.
const MOST: usize = 1024;

/// What a verdict is remembered by.
pub(super) type Key = [u8; 32];

/// An allowing verdict.
pub(super) struct Known {
    /// Touches nothing that names the object.
    pub(super) patch: Option<Patch>,
    pub(super) warnings: Vec<String>,
}

impl Known {
    /// `None` where the patch has to be checked against each object.
    pub(super) fn new(patch: &[u8], warnings: &[String]) -> Option<Arc<Self>> {
        let patch: Option<Patch> = match patch {
            [] => None,
            patch => Some(serde_json::from_slice(patch).ok()?),
        };
        if patch.as_ref().is_some_and(wire::may_rename) {
            return None;
        }
        Some(Arc::new(Self { patch, warnings: warnings.to_vec() }))
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Memo {
    verdicts: Mutex<HashMap<Key, Arc<Known>>>,
}

impl Memo {
    pub(super) fn get(&self, key: &Key) -> Option<Arc<Known>> {
        self.verdicts.lock().get(key).cloned()
    }

    pub(super) fn put(&self, key: Key, known: Arc<Known>) {
        let mut verdicts = self.verdicts.lock();
        if verdicts.len() >= MOST {
            verdicts.clear();
        }
        verdicts.insert(key, known);
    }
}

/// All of a request but its name, its seed and its attributes.
pub(super) fn key(phase: Phase, request: &Request) -> Key {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    part(&[u8::from(phase == Phase::Mutate), u8::from(request.dry_run)]);
    part(&request.operation.to_le_bytes());
    for text in [
        &request.group,
        &request.version,
        &request.resource,
        &request.subresource,
        &request.kind,
        &request.namespace,
    ] {
        part(text.as_bytes());
    }
    part(&request.object);
    part(&request.old_object);
    for context in &request.context {
        part(context);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request {
            operation: 1,
            group: String::new(),
            version: "v1".into(),
            resource: "pods".into(),
            subresource: String::new(),
            kind: "Pod".into(),
            namespace: "a".into(),
            name: "p".into(),
            dry_run: false,
            object: b"{}".to_vec(),
            old_object: Vec::new(),
            context: vec![b"null".to_vec()],
            attributes: b"{}".to_vec(),
            seed: 1,
        }
    }

    #[test]
    fn what_a_verdict_may_depend_on_makes_the_key() {
        let base = key(Phase::Mutate, &request());
        let same = Request { name: "q".into(), seed: 2, attributes: b"{\"user\":{}}".to_vec(), ..request() };
        assert_eq!(key(Phase::Mutate, &same), base);
        assert_ne!(key(Phase::Validate, &request()), base);
        for other in [
            Request { operation: 2, ..request() },
            Request { namespace: "b".into(), ..request() },
            Request { dry_run: true, ..request() },
            Request { object: b"{\"a\":1}".to_vec(), ..request() },
            Request { old_object: b"{}".to_vec(), ..request() },
            Request { context: vec![b"{}".to_vec()], ..request() },
            Request { context: vec![], ..request() },
            Request { subresource: "status".into(), ..request() },
        ] {
            assert_ne!(key(Phase::Mutate, &other), base);
        }
    }

    #[test]
    fn a_patch_that_may_rename_is_not_remembered() {
        let known = |patch: &str| Known::new(patch.as_bytes(), &[]);
        assert!(known("").is_some_and(|k| k.patch.is_none()));
        assert!(known(r#"[{"op":"add","path":"/spec/x","value":1}]"#).is_some());
        for path in ["", "/metadata", "/metadata/name", "/kind"] {
            assert!(known(&format!(r#"[{{"op":"add","path":"{path}","value":{{}}}}]"#)).is_none(), "{path}");
        }
        assert!(known(r#"[{"op":"move","path":"/spec/x","from":"/metadata/name"}]"#).is_none());
        assert!(known("nonsense").is_none());
    }
}
