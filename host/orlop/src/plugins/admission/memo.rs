//! Verdicts that a plugin gave before.
//!
//! A plugin whose manifest says `memoize` promises that an allowing verdict depends on nothing but what
//! [`key`] reads. Pods of one workload are equal in what plugins read of them, so most requests of a busy
//! cluster are answered here, without a call. Refusals are never remembered.
//!
//! A memory belongs to one linked revision with one configuration, and goes with it.

use super::chain::{Chain, Link};
use super::context::{self, Prefetched};
use super::wire;
use bytes::Bytes;
use json_patch::Patch;
use orlop_apiserver::admission::{AdmissionRequest, Verdict};
use orlop_plugin::manifest::admission::{AdmissionManifest, Phase};
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

/// All of a request that a plugin may depend on who promises to forget the rest: not its name in a namespace,
/// its seed and its attributes.
pub(super) fn key(
    phase: Phase,
    manifest: &AdmissionManifest,
    request: &AdmissionRequest,
    context: &[Bytes],
) -> Key {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    part(&[u8::from(phase == Phase::Mutate), u8::from(request.dry_run)]);
    for text in [
        request.operation.as_str(),
        &request.gvr.group,
        &request.gvr.version,
        &request.gvr.resource,
        &request.subresource,
        &request.gvk.kind,
        &request.namespace,
        if request.namespace.is_empty() { &request.name } else { "" },
    ] {
        part(text.as_bytes());
    }
    part(&wire::object(manifest, request));
    part(&wire::old_object(manifest, request));
    for context in context {
        part(context);
    }
    hash.finalize().into()
}

/// The key of a request whose context objects were looked up before; `None` where the plugin has to be asked.
pub(super) fn prefetched_key(
    link: &Link,
    at: usize,
    phase: Phase,
    request: &AdmissionRequest,
    prefetched: &Prefetched,
) -> Option<Key> {
    // What a candidate is compared with must be decided now.
    if link.trial.is_some() {
        return None;
    }
    let manifest = link.manifest().filter(|m| m.memoize)?;
    let context = manifest.context.iter().enumerate();
    let context = context.map(|(i, declared)| context::prefetched(prefetched, at, i, declared, request));
    Some(key(phase, manifest, request, &context.collect::<Option<Vec<_>>>()?))
}

/// What the validating plugins said to an equal request; `None` where one of them has to be asked.
pub(super) fn validated(
    chain: &Chain,
    request: &AdmissionRequest,
    prefetched: &Prefetched,
) -> Option<Verdict> {
    let mut verdict = Verdict::allow();
    for (at, link) in chain.matching(Phase::Validate, request) {
        let known = link.memo.get(&prefetched_key(link, at, Phase::Validate, request, prefetched)?)?;
        if known.patch.is_some() {
            return None;
        }
        verdict.warnings.extend(known.warnings.iter().cloned());
    }
    Some(verdict)
}

#[cfg(test)]
mod tests {
    use super::*;
    use orlop_apimachinery::{Gvk, Gvr, Object};
    use orlop_apiserver::UserInfo;
    use orlop_apiserver::admission::Operation;
    use serde_json::{Value, json};

    fn request() -> AdmissionRequest {
        AdmissionRequest {
            uid: "1".into(),
            operation: Operation::Create,
            gvr: Gvr::new("", "v1", "pods"),
            gvk: Gvk::new("", "v1", "Pod"),
            subresource: String::new(),
            namespace: "a".into(),
            name: "p".into(),
            object: Some(json!({"spec": {}})),
            old_object: None,
            user: UserInfo::master("me"),
            options: Value::Null,
            dry_run: false,
        }
    }

    fn key(phase: Phase, request: &AdmissionRequest, context: &[&'static str]) -> Key {
        let manifest = json!({"phases": ["mutate"], "rules": [], "projection": ["spec"], "oldObject": true});
        let manifest = serde_json::from_value(manifest).unwrap();
        let context: Vec<Bytes> = context.iter().map(|c| Bytes::from_static(c.as_bytes())).collect();
        super::key(phase, &manifest, request, &context)
    }

    #[test]
    fn what_a_verdict_may_depend_on_makes_the_key() {
        let base = key(Phase::Mutate, &request(), &["null"]);
        let same = AdmissionRequest {
            name: "q".into(),
            uid: "2".into(),
            user: UserInfo::master("you"),
            options: json!({}),
            object: Some(json!({"spec": {}, "status": {"unseen": 1}})),
            ..request()
        };
        assert_eq!(key(Phase::Mutate, &same, &["null"]), base);
        assert_ne!(key(Phase::Validate, &request(), &["null"]), base);
        let old = Object::from_value(&json!({"metadata": {"name": "p"}, "spec": {}})).unwrap();
        for other in [
            AdmissionRequest { operation: Operation::Update, ..request() },
            AdmissionRequest { namespace: "b".into(), ..request() },
            AdmissionRequest { dry_run: true, ..request() },
            AdmissionRequest { object: Some(json!({"spec": {"a": 1}})), ..request() },
            AdmissionRequest { object: None, ..request() },
            AdmissionRequest { old_object: Some(Arc::new(old)), ..request() },
            AdmissionRequest { gvr: Gvr::new("", "v1", "nodes"), ..request() },
            AdmissionRequest { gvk: Gvk::new("", "v1", "Node"), ..request() },
            AdmissionRequest { subresource: "status".into(), ..request() },
        ] {
            assert_ne!(key(Phase::Mutate, &other, &["null"]), base);
        }
        assert_ne!(key(Phase::Mutate, &request(), &["{}"]), base);
        assert_ne!(key(Phase::Mutate, &request(), &[]), base);
    }

    #[test]
    fn objects_of_the_cluster_are_told_apart_by_their_names() {
        let of = |name: &str| AdmissionRequest { namespace: String::new(), name: name.into(), ..request() };
        assert_ne!(key(Phase::Validate, &of("a"), &[]), key(Phase::Validate, &of("b"), &[]));
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
