//! An in-memory [`ApiClient`].
//!
//! It has: revisions, uids, `generation`, optimistic concurrency, deletion with finalizers and
//! with pods' grace, propagation policies, namespace finalizers, the `status`, `binding`,
//! `eviction`, `finalize` and `scale` subresources, JSON and merge patches, selectors, and watches from
//! any revision with bookmarks and compaction.
//!
//! It leaves out on purpose: defaulting, validation, admission, strategic merge, apply and
//! authorization; and it empties no namespace and collects no garbage, which is the controllers' work.

use orlop_apimachinery::{Gvr, Object, Status};
use orlop_client::{ApiClient, ApiError, DeleteOptions, Propagation, ResourceRef, WriteOptions};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;

mod api;
mod rules;
mod watcher;

use rules::{check_versions, confine, grace, kind_of, metadata, namespace_is_empty, now};

/// What a [`Call`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// GET of one object
    Get,
    /// GET of a collection
    List,
    /// A watch
    Watch,
    /// POST
    Create,
    /// PUT
    Update,
    /// PATCH
    Patch,
    /// DELETE
    Delete,
}

/// One call as an interceptor sees it, before it takes effect.
#[derive(Clone, Debug)]
pub struct Call {
    /// What is done.
    pub verb: Verb,
    /// To which resource.
    pub gvr: Gvr,
    /// Empty for cluster-scoped objects and for collections.
    pub namespace: String,
    /// Empty for collections and creations.
    pub name: String,
    /// Empty for the object itself.
    pub subresource: String,
    /// Body of a write; null otherwise.
    pub body: Value,
}

type Interceptor = Box<dyn FnMut(&Call) -> Result<(), ApiError> + Send>;
type Key = (Gvr, String, String);

#[derive(Clone)]
struct Change {
    revision: u64,
    gvr: Gvr,
    old: Option<Arc<Object>>,
    new: Option<Arc<Object>>,
}

#[derive(Default)]
struct State {
    revision: u64,
    compacted: u64,
    uids: u64,
    epoch: u64,
    objects: BTreeMap<Key, Arc<Object>>,
    history: Vec<Change>,
    interceptor: Option<Interceptor>,
}

struct Shared {
    state: Mutex<State>,
    /// Revision and epoch: moves on every write and on every disconnect.
    moved: watch::Sender<(u64, u64)>,
}

/// The API in memory; clones share one state.
#[derive(Clone)]
pub struct MemoryApi(Arc<Shared>);

impl Default for MemoryApi {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryApi {
    /// An empty cluster.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Shared { state: Mutex::new(State::default()), moved: watch::channel((0, 0)).0 }))
    }

    /// As the trait object that the parts take.
    #[must_use]
    pub fn client(&self) -> Arc<dyn ApiClient> {
        Arc::new(self.clone())
    }

    /// Asks `f` before every call; its error is the call's answer.
    pub fn intercept(&self, f: impl FnMut(&Call) -> Result<(), ApiError> + Send + 'static) {
        self.0.state.lock().interceptor = Some(Box::new(f));
    }

    /// Lets every call pass again.
    pub fn pass(&self) {
        self.0.state.lock().interceptor = None;
    }

    /// Ends all running watches, as a restarted server would.
    pub fn disconnect(&self) {
        let now = {
            let mut state = self.0.state.lock();
            state.epoch += 1;
            (state.revision, state.epoch)
        };
        self.0.moved.send_replace(now);
    }

    /// Forgets history up to and with `revision`; watches from before get `Expired`.
    pub fn compact(&self, revision: u64) {
        let mut state = self.0.state.lock();
        state.compacted = state.compacted.max(revision);
        state.history.retain(|c| c.revision > revision);
    }

    /// The current revision.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.0.state.lock().revision
    }

    /// Creates `object`, whose resource is `gvr`, and returns what was stored.
    ///
    /// # Errors
    /// As [`ApiClient::create`].
    pub fn put(&self, gvr: &Gvr, object: Value) -> Result<Arc<Object>, ApiError> {
        let text = |p: &str| object.pointer(p).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
        self.create_value(ResourceRef::new(gvr, &namespace, &name), object, &WriteOptions::default())
    }

    /// One object now, without a call that an interceptor would see.
    #[must_use]
    pub fn peek(&self, gvr: &Gvr, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.0.state.lock().objects.get(&(gvr.clone(), namespace.into(), name.into())).cloned()
    }

    /// All objects of `gvr` in key order, without a call that an interceptor would see.
    #[must_use]
    pub fn peek_all(&self, gvr: &Gvr) -> Vec<Arc<Object>> {
        self.0.state.lock().objects.iter().filter(|((g, _, _), _)| g == gvr).map(|(_, o)| o.clone()).collect()
    }

    /// Reads, changes and writes one object in one step, status included; `None` where it is absent.
    pub fn modify(
        &self,
        gvr: &Gvr,
        namespace: &str,
        name: &str,
        change: impl FnOnce(&mut Value),
    ) -> Option<Arc<Object>> {
        let mut state = self.0.state.lock();
        let key = (gvr.clone(), namespace.to_owned(), name.to_owned());
        let old = state.objects.get(&key)?.clone();
        let before = old.to_value();
        let mut after = before.clone();
        change(&mut after);
        let stored = state.replace(key, &before, after).ok();
        self.announce(state);
        stored
    }

    fn announce(&self, state: parking_lot::MutexGuard<'_, State>) {
        let now = (state.revision, state.epoch);
        drop(state);
        self.0.moved.send_if_modified(|seen| {
            let moved = *seen != now && now >= *seen;
            if moved {
                *seen = now;
            }
            moved
        });
    }

    fn intercepted(&self, verb: Verb, at: ResourceRef<'_>, body: Value) -> Result<(), ApiError> {
        // Taken out meanwhile, so that an interceptor may use the API itself.
        let Some(mut f) = self.0.state.lock().interceptor.take() else { return Ok(()) };
        let answer = f(&Call {
            verb,
            gvr: at.gvr.clone(),
            namespace: at.namespace.into(),
            name: at.name.into(),
            subresource: at.subresource.into(),
            body,
        });
        let mut state = self.0.state.lock();
        if state.interceptor.is_none() {
            state.interceptor = Some(f);
        }
        answer
    }

    fn create_value(
        &self,
        at: ResourceRef<'_>,
        mut body: Value,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, ApiError> {
        let mut state = self.0.state.lock();
        if !at.subresource.is_empty() {
            let done = state.create_subresource(at, &body);
            self.announce(state);
            return done;
        }
        if !body.is_object() {
            return Err(Status::bad_request("the body is no object").into());
        }
        state.uids += 1;
        let serial = state.uids;
        let meta = metadata(&mut body);
        if meta.get("resourceVersion").and_then(Value::as_str).is_some_and(|v| !v.is_empty()) {
            return Err(
                Status::bad_request("resourceVersion should not be set on objects to be created").into()
            );
        }
        let mut name = meta.get("name").and_then(Value::as_str).unwrap_or(at.name).to_owned();
        if name.is_empty() {
            let Some(prefix) = meta.get("generateName").and_then(Value::as_str) else {
                return Err(Status::bad_request("name or generateName is required").into());
            };
            name = format!("{prefix}{serial:05x}");
        }
        meta.insert("name".into(), json!(name));
        if at.namespace.is_empty() {
            meta.remove("namespace");
        } else {
            meta.insert("namespace".into(), json!(at.namespace));
        }
        meta.insert("uid".into(), json!(format!("00000000-0000-4000-8000-{serial:012x}")));
        meta.insert("creationTimestamp".into(), json!(now(0)));
        meta.remove("deletionTimestamp");
        if body.get("spec").is_some() {
            metadata(&mut body).insert("generation".into(), json!(1));
        }
        if let Some(fields) = body.as_object_mut() {
            fields.insert("apiVersion".into(), json!(at.gvr.api_version()));
            if !fields.contains_key("kind") {
                fields.insert("kind".into(), json!(kind_of(&at.gvr.resource)));
            }
        }
        if at.gvr.resource == "namespaces" {
            body["spec"]["finalizers"] = json!(["kubernetes"]);
            body["status"]["phase"] = json!("Active");
        }
        if at.gvr.resource == "pods" && body.pointer("/status/phase").is_none() {
            body["status"]["phase"] = json!("Pending");
        }
        let key = (at.gvr.clone(), at.namespace.to_owned(), name.clone());
        if state.objects.contains_key(&key) {
            return Err(Status::already_exists(at.gvr, &name).into());
        }
        if options.dry_run {
            return Ok(Arc::new(Object::from_value(&body).map_err(|e| Status::bad_request(e.to_string()))?));
        }
        let stored = state.store(key, None, Some(body))?;
        self.announce(state);
        stored.ok_or_else(|| Status::internal("nothing stored").into())
    }

    fn change(
        &self,
        at: ResourceRef<'_>,
        dry_run: bool,
        make: impl FnOnce(&Value) -> Result<Value, Status>,
    ) -> Result<Arc<Object>, ApiError> {
        let mut state = self.0.state.lock();
        let key = (at.gvr.clone(), at.namespace.to_owned(), at.name.to_owned());
        let Some(old) = state.objects.get(&key).cloned() else {
            return Err(Status::not_found(at.gvr, at.name).into());
        };
        let before = old.to_value();
        let mut after = make(&before)?;
        check_versions(at, &before, &after)?;
        confine(at.subresource, &before, &mut after)?;
        if dry_run {
            return Ok(Arc::new(Object::from_value(&after).map_err(|e| Status::bad_request(e.to_string()))?));
        }
        let stored = state.replace(key, &before, after)?;
        self.announce(state);
        Ok(stored)
    }

    fn remove(&self, at: ResourceRef<'_>, options: &DeleteOptions) -> Result<(), ApiError> {
        let mut state = self.0.state.lock();
        let key = (at.gvr.clone(), at.namespace.to_owned(), at.name.to_owned());
        let Some(old) = state.objects.get(&key).cloned() else {
            return Err(Status::not_found(at.gvr, at.name).into());
        };
        if !options.uid.is_empty() && options.uid != old.uid() {
            let why = format!(
                "Precondition failed: UID in precondition: {}, UID in object meta: {}",
                options.uid,
                old.uid()
            );
            return Err(Status::conflict(at.gvr, at.name, &why).into());
        }
        if let Some(wanted) = options.resource_version
            && wanted != old.meta().resource_version
        {
            let why = format!(
                "Precondition failed: ResourceVersion in precondition: {wanted}, ResourceVersion in object meta: {}",
                old.meta().resource_version
            );
            return Err(Status::conflict(at.gvr, at.name, &why).into());
        }
        let before = old.to_value();
        let mut after = before.clone();
        let mut finalizers: Vec<Value> =
            after.pointer("/metadata/finalizers").and_then(Value::as_array).cloned().unwrap_or_default();
        let wanted = match options.propagation {
            Some(Propagation::Foreground) => Some("foregroundDeletion"),
            Some(Propagation::Orphan) => Some("orphan"),
            Some(Propagation::Background) | None => None,
        };
        if options.propagation.is_some() {
            finalizers.retain(|f| !matches!(f.as_str(), Some("foregroundDeletion" | "orphan")));
            finalizers.extend(wanted.map(|w| json!(w)));
        }
        let meta = metadata(&mut after);
        if finalizers.is_empty() {
            meta.remove("finalizers");
        } else {
            meta.insert("finalizers".into(), json!(finalizers));
        }
        let grace = grace(at.gvr, &before, options.grace_period_seconds);
        let pending = at.gvr.resource == "namespaces" && !namespace_is_empty(&before);
        if grace == 0 && !pending && finalizers.is_empty() {
            state.store(key, Some(old), None)?;
        } else {
            let meta = metadata(&mut after);
            let shorter =
                meta.get("deletionGracePeriodSeconds").and_then(Value::as_i64).is_none_or(|g| grace < g);
            if !meta.contains_key("deletionTimestamp") || shorter {
                meta.insert("deletionTimestamp".into(), json!(now(grace)));
                meta.insert("deletionGracePeriodSeconds".into(), json!(grace));
            }
            if pending {
                after["status"]["phase"] = json!("Terminating");
            }
            state.replace(key, &before, after)?;
        }
        self.announce(state);
        Ok(())
    }
}

impl State {
    /// Writes a successor of `before`; removes it where nothing holds it any more.
    fn replace(&mut self, key: Key, before: &Value, mut after: Value) -> Result<Arc<Object>, ApiError> {
        let generation = before.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
        let meta = metadata(&mut after);
        for fixed in ["uid", "creationTimestamp", "name", "namespace", "resourceVersion"] {
            match before.pointer(&format!("/metadata/{fixed}")) {
                Some(v) => meta.insert(fixed.into(), v.clone()),
                None => meta.remove(fixed),
            };
        }
        if let Some(stamp) = before.pointer("/metadata/deletionTimestamp") {
            meta.entry("deletionTimestamp").or_insert_with(|| stamp.clone());
        }
        if generation > 0 {
            let begun = before.pointer("/metadata/deletionTimestamp").is_none()
                && after.pointer("/metadata/deletionTimestamp").is_some();
            let next = generation + i64::from(before.get("spec") != after.get("spec") || begun);
            metadata(&mut after).insert("generation".into(), json!(next));
        }
        let old = self.objects.get(&key).cloned();
        if *before == after
            && let Some(old) = old
        {
            return Ok(old);
        }
        let finalizers = after.pointer("/metadata/finalizers").and_then(Value::as_array).map_or(0, Vec::len);
        let deleting = after.pointer("/metadata/deletionTimestamp").is_some();
        let grace =
            after.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0);
        let held = key.0.resource == "namespaces" && !namespace_is_empty(&after);
        if deleting && grace == 0 && finalizers == 0 && !held {
            let last = Object::from_value(&after).map_err(|e| Status::bad_request(e.to_string()))?;
            self.store(key, old, None)?;
            return Ok(Arc::new(last));
        }
        let stored = self.store(key, old, Some(after))?;
        stored.ok_or_else(|| Status::internal("nothing stored").into())
    }

    fn store(
        &mut self,
        key: Key,
        old: Option<Arc<Object>>,
        new: Option<Value>,
    ) -> Result<Option<Arc<Object>>, ApiError> {
        let revision = self.revision + 1;
        let stamp = |mut value: Value| {
            metadata(&mut value).insert("resourceVersion".into(), json!(revision.to_string()));
            Object::from_value(&value).map(Arc::new).map_err(|e| Status::bad_request(e.to_string()))
        };
        let new = new.map(stamp).transpose()?;
        // A deletion is announced with the revision at which it happened.
        let old = if new.is_none() { old.map(|o| stamp(o.to_value())).transpose()? } else { old };
        self.revision = revision;
        let gvr = key.0.clone();
        match &new {
            Some(object) => self.objects.insert(key, object.clone()),
            None => self.objects.remove(&key),
        };
        self.history.push(Change { revision, gvr, old, new: new.clone() });
        Ok(new)
    }

    fn create_subresource(&mut self, at: ResourceRef<'_>, body: &Value) -> Result<Arc<Object>, ApiError> {
        let key = (at.gvr.clone(), at.namespace.to_owned(), at.name.to_owned());
        let Some(old) = self.objects.get(&key).cloned() else {
            return Err(Status::not_found(at.gvr, at.name).into());
        };
        let before = old.to_value();
        let mut after = before.clone();
        match at.subresource {
            "binding" => {
                let bound = before.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default();
                if !bound.is_empty() {
                    let why = format!("pod {} is already assigned to node \"{bound}\"", at.name);
                    return Err(Status::conflict(at.gvr, at.name, &why).into());
                }
                if old.is_being_deleted() {
                    let why = format!("pod {} is being deleted, cannot be assigned to a host", at.name);
                    return Err(Status::conflict(at.gvr, at.name, &why).into());
                }
                let wanted = body.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default();
                if !wanted.is_empty() && wanted != old.uid() {
                    return Err(Status::conflict(at.gvr, at.name, "Precondition failed: UID differs").into());
                }
                after["spec"]["nodeName"] = body.pointer("/target/name").cloned().unwrap_or(Value::Null);
                let mut conditions = after["status"]["conditions"].as_array().cloned().unwrap_or_default();
                conditions.retain(|c| c["type"] != "PodScheduled");
                conditions
                    .push(json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": now(0)}));
                after["status"]["conditions"] = Value::Array(conditions);
                self.replace(key, &before, after)
            }
            "eviction" => {
                let meta = metadata(&mut after);
                let seconds = grace(
                    at.gvr,
                    &before,
                    body.pointer("/deleteOptions/gracePeriodSeconds").and_then(Value::as_i64),
                );
                meta.insert("deletionTimestamp".into(), json!(now(seconds)));
                meta.insert("deletionGracePeriodSeconds".into(), json!(seconds));
                self.replace(key, &before, after)
            }
            other => Err(Status::not_found(at.gvr, &format!("{}/{other}", at.name)).into()),
        }
    }
}

#[cfg(test)]
mod tests;
