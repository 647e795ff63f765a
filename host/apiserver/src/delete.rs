//! Deletion: preconditions, grace, finalizers, propagation, collections.
//!
//! Source: `apiserver/pkg/registry/rest/delete.go`, `registry/generic/registry/store.go`.

use crate::admission::Operation;
use crate::cache::{Entry, Filter};
use crate::core::{Core, RequestCx, Target, rfc3339};
use crate::metadata;
use crate::query::{self, Query};
use crate::registry::{GenerationRule, Grace};
use crate::status;
use futures::StreamExt;
use futures::future::BoxFuture;
use orlop_apimachinery::status::Details;
use orlop_apimachinery::{Object, Status, field};
use orlop_client::Propagation;
use orlop_store::{Compare, Op, Txn};
use serde_json::{Value, json};
use std::sync::Arc;

const ATTEMPTS: usize = 16;
/// Objects of a collection that are deleted at the same time.
const WORKERS: usize = 16;

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// `meta/v1.DeleteOptions`
#[derive(Clone, Debug, Default)]
pub(crate) struct DeleteRequest {
    pub(crate) grace: Option<i64>,
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<u64>,
    pub(crate) propagation: Option<Propagation>,
    pub(crate) dry_run: bool,
}

/// What a delete did.
#[derive(Debug)]
pub(crate) enum Deleted {
    /// Gone; its last state.
    Gone(Arc<Object>),
    /// Marked, or being stopped; its new state.
    Pending(Arc<Object>),
}

/// Outcome of removing a key at a revision.
pub(crate) enum Removal {
    Done,
    Lost,
}

impl DeleteRequest {
    /// From the body where there is one, else from the URL.
    ///
    /// # Errors
    /// 400 or 422 with upstream's words.
    pub(crate) fn parse(body: Option<&Value>, query: &Query) -> Result<Self, Status> {
        let mut out = Self::default();
        let mut faults = Vec::new();
        let policy;
        let orphan;
        match body {
            Some(body) => {
                let kind = body.get("kind").and_then(Value::as_str).unwrap_or("DeleteOptions");
                if kind != "DeleteOptions" {
                    return Err(Status::bad_request(format!("expected DeleteOptions, got {kind}")));
                }
                out.grace = whole(body, "gracePeriodSeconds")?;
                let conditions = body.get("preconditions");
                out.uid = conditions.and_then(|p| p.get("uid")).and_then(Value::as_str).map(str::to_owned);
                let version = conditions.and_then(|p| p.get("resourceVersion")).and_then(Value::as_str);
                out.resource_version = query::resource_version(version.unwrap_or_default())?;
                policy = body.get("propagationPolicy").and_then(Value::as_str).unwrap_or_default().to_owned();
                orphan = body.get("orphanDependents").and_then(Value::as_bool);
                let dry: Vec<String> = body
                    .get("dryRun")
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_str)
                    .map(str::to_owned)
                    .collect();
                out.dry_run = query::dry_run(&dry, &mut faults);
            }
            None => {
                out.grace = query.number("gracePeriodSeconds")?;
                policy = query.get("propagationPolicy").to_owned();
                orphan = query.optional_flag("orphanDependents");
            }
        }
        out.dry_run |= query::dry_run(query.all("dryRun"), &mut faults);
        let at_policy = field::Path::new("propagationPolicy");
        if orphan.is_some() && !policy.is_empty() {
            faults.push(field::invalid(
                &at_policy,
                policy.as_str(),
                "orphanDependents and deletionPropagation cannot be both set",
            ));
        }
        out.propagation = match (policy.as_str(), orphan) {
            ("Background", _) => Some(Propagation::Background),
            ("Foreground", _) => Some(Propagation::Foreground),
            ("Orphan", _) | ("", Some(true)) => Some(Propagation::Orphan),
            ("", Some(false)) => Some(Propagation::Background),
            ("", None) => None,
            (other, _) => {
                faults.push(field::not_supported(&at_policy, other, &["Background", "Foreground", "Orphan"]));
                None
            }
        };
        if out.grace.is_some_and(|g| g < 0) {
            // Upstream turns a negative grace into 1.
            out.grace = Some(1);
        }
        if faults.is_empty() {
            Ok(out)
        } else {
            Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", faults))
        }
    }

    fn to_options(&self) -> Value {
        let mut out = json!({"apiVersion": "meta.k8s.io/v1", "kind": "DeleteOptions"});
        if let Value::Object(map) = &mut out {
            if let Some(grace) = self.grace {
                map.insert("gracePeriodSeconds".to_owned(), grace.into());
            }
            if let Some(policy) = self.propagation {
                map.insert("propagationPolicy".to_owned(), format!("{policy:?}").into());
            }
            if self.dry_run {
                map.insert("dryRun".to_owned(), json!(["All"]));
            }
        }
        out
    }
}

fn whole(body: &Value, key: &str) -> Result<Option<i64>, Status> {
    match body.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value
            .as_i64()
            .map(Some)
            .ok_or_else(|| Status::bad_request(format!("DeleteOptions.{key}: expected an integer"))),
    }
}

impl Core {
    /// DELETE of one object.
    pub(crate) async fn delete(
        &self,
        cx: &RequestCx,
        target: &Target<'_>,
        request: &DeleteRequest,
    ) -> Result<Deleted, Status> {
        let row = target.row;
        let mut current = self.shelf(row)?.get(&target.key());
        let mut fresh = false;
        let mut admitted = false;
        for _ in 0..ATTEMPTS {
            if current.is_none() && !fresh {
                current = self.fresh(row, target.namespace, target.name).await?;
                fresh = true;
            }
            let Some(entry) = current.take() else { return Err(target.not_found()) };
            if let Err(refusal) = preconditions(target, &entry, request) {
                if fresh {
                    return Err(refusal);
                }
                current = self.fresh(row, target.namespace, target.name).await?;
                fresh = true;
                continue;
            }
            let object = self.view(row, entry.object())?;
            if !admitted && self.admits(target, Operation::Delete) {
                let mut review = self.admission_request(
                    cx,
                    target,
                    Operation::Delete,
                    None,
                    Some(object.clone()),
                    request.to_options(),
                    request.dry_run,
                );
                self.mutate(cx, &mut review).await?;
                self.validate(cx, &review).await?;
                admitted = true;
            }
            if let Some(done) = self.delete_once(cx, target, request, &entry, &object).await? {
                return Ok(done);
            }
            current = self.fresh(row, target.namespace, target.name).await?;
            fresh = true;
        }
        Err(crate::write::modified(target))
    }

    /// `None` where the object changed meanwhile.
    async fn delete_once(
        &self,
        cx: &RequestCx,
        target: &Target<'_>,
        request: &DeleteRequest,
        entry: &Arc<Entry>,
        object: &Arc<Object>,
    ) -> Result<Option<Deleted>, Status> {
        let row = target.row;
        let revision = entry.object().meta().resource_version;
        let old = object.to_value();
        let pending = plan(cx, target, request, &old)?;
        let Some(new) = pending else {
            if !request.dry_run {
                match self.remove(target, revision).await? {
                    Removal::Done => self.services.release(row, &old),
                    Removal::Lost => return Ok(None),
                }
            }
            return Ok(Some(Deleted::Gone(object.clone())));
        };
        if new == old || request.dry_run {
            return Ok(Some(Deleted::Pending(object.clone())));
        }
        let mut wished = new;
        if let Ok(meta) = metadata::of(&mut wished) {
            meta.insert("resourceVersion".to_owned(), revision.to_string().into());
        }
        match self.put(target, wished, revision).await? {
            Some(stored) => Ok(Some(Deleted::Pending(stored))),
            None => Ok(None),
        }
    }

    /// Removes the key where it is still at `revision`.
    pub(crate) async fn remove(&self, target: &Target<'_>, revision: u64) -> Result<Removal, Status> {
        let row = target.row;
        let prefix = row.storage().ok_or_else(status::method_not_allowed)?;
        let key =
            crate::storage::key(prefix, if row.namespaced { target.namespace } else { "" }, target.name);
        let txn = Txn {
            compares: vec![Compare::ModRevision { key: key.clone(), revision }],
            success: vec![Op::Delete { key }],
            failure: Vec::new(),
        };
        let result = self.store.txn(txn).await.map_err(|e| status::from_store(&e))?;
        Ok(if result.succeeded { Removal::Done } else { Removal::Lost })
    }

    /// DELETE of a collection: deletes what matches, object by object, and returns it.
    pub(crate) async fn delete_collection(
        &self,
        cx: &RequestCx,
        target: &Target<'_>,
        request: &DeleteRequest,
        filter: &Filter,
    ) -> Result<Vec<Arc<Object>>, Status> {
        self.cache.wait_current().await.map_err(|e| status::from_store(&e))?;
        let entries = self.shelf(target.row)?.list(filter, "", 0).entries;
        let deletions = entries.into_iter().map(|entry| -> BoxFuture<'_, _> {
            Box::pin(async move {
                let object = entry.object();
                let one = Target { namespace: object.namespace(), name: object.name(), ..*target };
                match self.delete(cx, &one, request).await {
                    Ok(Deleted::Gone(o) | Deleted::Pending(o)) => Ok(Some(o)),
                    Err(e) if e.code == 404 => Ok(None),
                    Err(e) => Err(e),
                }
            })
        });
        let mut done = futures::stream::iter(deletions).buffered(WORKERS);
        let mut objects = Vec::new();
        while let Some(result) = done.next().await {
            objects.extend(result?);
        }
        Ok(objects)
    }
}

fn preconditions(target: &Target<'_>, entry: &Entry, request: &DeleteRequest) -> Result<(), Status> {
    let object = entry.object();
    if let Some(uid) = &request.uid
        && uid != object.uid()
    {
        return Err(Status::conflict(
            &target.row.gvr,
            target.name,
            &format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", object.uid()),
        ));
    }
    if let Some(version) = request.resource_version
        && version != object.meta().resource_version
    {
        return Err(Status::conflict(
            &target.row.gvr,
            target.name,
            &format!(
                "Precondition failed: ResourceVersion in precondition: {version}, ResourceVersion in object meta: {}",
                object.meta().resource_version
            ),
        ));
    }
    Ok(())
}

/// What becomes of an object that is to be deleted: `None` means that it goes at once, else its
/// new state (equal to the old one where nothing is left to do but wait).
fn plan(
    cx: &RequestCx,
    target: &Target<'_>,
    request: &DeleteRequest,
    old: &Value,
) -> Result<Option<Value>, Status> {
    let strategy = target.row.strategy;
    let mut new = old.clone();
    let deleting = !metadata::text(old, "deletionTimestamp").is_empty();
    if deleting && strategy.holds(old) && metadata::finalizers(old).is_empty() {
        return Err(Status::conflict(
            &target.row.gvr,
            target.name,
            "The system is ensuring all content is removed from this namespace.  Upon completion, this namespace will automatically be purged by the system.",
        ));
    }
    set_propagation(&mut new, request, strategy.default_orphans())?;
    let seconds = match strategy.grace(old, request.grace) {
        Grace::Immediate => 0,
        Grace::Seconds(n) => n.max(0),
    };
    if deleting {
        let left = old.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0);
        let shorter = request.grace.is_some() && seconds < left;
        if shorter {
            // The new end counts from the first request, as upstream has it, but never lies before it.
            let first = metadata::text(old, "deletionTimestamp").parse::<jiff::Timestamp>().unwrap_or(cx.now);
            let end = first.as_second() - left + seconds;
            mark(&mut new, end, seconds)?;
        }
        let ends_now = (shorter && seconds == 0) || left == 0;
        if ends_now && metadata::finalizers(&new).is_empty() && !strategy.holds(&new) {
            return Ok(None);
        }
        return Ok(Some(new));
    }
    let stays = seconds > 0 || !metadata::finalizers(&new).is_empty() || strategy.holds(&new);
    if !stays {
        return Ok(None);
    }
    mark(&mut new, cx.now.as_second() + seconds, seconds)?;
    if strategy.generation_rule() == GenerationRule::Spec {
        let generation = new.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
        if generation > 0 {
            metadata::of(&mut new)?.insert("generation".to_owned(), (generation + 1).into());
        }
    }
    strategy.begin_deletion(&cx.context(), &mut new);
    Ok(Some(new))
}

fn mark(object: &mut Value, end: i64, seconds: i64) -> Result<(), Status> {
    let end = jiff::Timestamp::from_second(end).map_err(|e| Status::internal(e.to_string()))?;
    let meta = metadata::of(object)?;
    meta.insert("deletionTimestamp".to_owned(), rfc3339(end).into());
    meta.insert("deletionGracePeriodSeconds".to_owned(), seconds.into());
    Ok(())
}

/// Adds or removes the finalizers that make the garbage collector orphan or go first.
fn set_propagation(object: &mut Value, request: &DeleteRequest, default_orphans: bool) -> Result<(), Status> {
    let old = metadata::finalizers(object);
    let mut new: Vec<String> = old.iter().filter(|f| *f != ORPHAN && *f != FOREGROUND).cloned().collect();
    match request.propagation {
        Some(Propagation::Orphan) => new.push(ORPHAN.to_owned()),
        Some(Propagation::Foreground) => new.push(FOREGROUND.to_owned()),
        Some(Propagation::Background) => {}
        None if default_orphans && !old.iter().any(|f| f == FOREGROUND) => new.push(ORPHAN.to_owned()),
        None => new.clone_from(&old),
    }
    if new != old {
        let meta = metadata::of(object)?;
        if new.is_empty() {
            meta.remove("finalizers");
        } else {
            meta.insert("finalizers".to_owned(), new.into());
        }
    }
    Ok(())
}

/// The `Status` of a delete that is done.
pub(crate) fn gone_status(target: &Target<'_>, object: &Object) -> Status {
    status::success(Some(Details {
        name: object.name().to_owned(),
        group: target.row.gvr.group.to_string(),
        kind: target.row.gvr.resource.to_string(),
        uid: object.uid().to_owned(),
        ..Details::default()
    }))
}

impl Core {
    /// Writes a state that needs no pipeline; `None` where the key moved on.
    async fn put(
        &self,
        target: &Target<'_>,
        object: Value,
        revision: u64,
    ) -> Result<Option<Arc<Object>>, Status> {
        let mut object = object;
        metadata::of(&mut object)?.remove("resourceVersion");
        self.put_raw(target, &object, revision).await
    }
}
