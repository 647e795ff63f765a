//! Create and update: the pipeline that every write runs through.
//!
//! An update is a pure function from the stored object to the wished one, repeated where somebody
//! else was faster and the client did not insist on a revision.

use crate::admission::Operation;
use crate::cache::{Draft, Entry};
use crate::core::{Core, RequestCx, Target, converts, set_type, stored_row};
use crate::crd;
use crate::managed::{self, WriteKind};
use crate::metadata;
use crate::query::WriteQuery;
use crate::registry::{GenerationRule, Resource, SubresourceKind};
use crate::schema;
use crate::status;
use crate::storage;
use orlop_apimachinery::status::Cause;
use orlop_apimachinery::{Object, Status};
use orlop_store::{Compare, Op, OpResult, Txn};
use serde_json::{Value, json};
use std::sync::Arc;

/// How often an update is tried against a moving object.
pub(crate) const ATTEMPTS: usize = 16;
/// How often a generated name may be taken.
const NAME_ATTEMPTS: usize = 8;

/// What a write left behind.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) object: Arc<Object>,
    pub(crate) created: bool,
}

/// Which part of the object an update writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// All but the status.
    Main,
    /// `/status`
    Status,
    /// A subresource that rewrites some field itself: scale, binding, finalize. Neither
    /// `prepare_*` of the strategy nor the client's metadata count.
    Field,
}

/// Makes the wished object of the stored one (`None` where there is none).
pub(crate) type Transform<'t> = dyn Fn(Option<&Value>) -> Result<Wish, Status> + Send + Sync + 't;

/// A wished object.
pub(crate) struct Wish {
    pub(crate) object: Value,
    /// How the change is recorded in `managedFields`.
    pub(crate) kind: WriteKind,
}

/// The outcome of a store transaction on one key.
pub(crate) enum Commit {
    Done(Arc<Entry>),
    Lost(Option<Arc<Entry>>),
}

impl Core {
    /// POST: stores a new object.
    pub(crate) async fn create(
        &self,
        cx: &RequestCx,
        target: &Target<'_>,
        body: Value,
        query: &WriteQuery,
    ) -> Result<Written, Status> {
        self.create_as(cx, target, Wish { object: body, kind: WriteKind::Update }, query).await
    }

    async fn create_as(
        &self,
        cx: &RequestCx,
        target: &Target<'_>,
        wish: Wish,
        query: &WriteQuery,
    ) -> Result<Written, Status> {
        let row = target.row;
        if row.custom.is_some_and(|c| c.terminating) {
            return Err(status::method_not_allowed());
        }
        let Wish { mut object, kind } = wish;
        metadata::settle_namespace(row, &mut object, target.namespace)?;
        let generated = target.name.is_empty() && metadata::text(&object, "name").is_empty();
        metadata::settle_name(&mut object, target.name)?;
        metadata::fill_for_create(cx, &mut object, row.strategy.generation_rule() == GenerationRule::Spec)?;
        let context = cx.context();
        schema::defaults(row, &mut object);
        row.strategy.default(&mut object);
        // Nobody owns what the server fills in from here on: status, addresses, what admission adds.
        managed::record(cx, row, &mut object, None, kind, query, "")?;
        row.strategy.prepare_for_create(&context, &mut object);
        self.guard(cx, target, &object, None).await?;
        if self.admits(target, Operation::Create) {
            let name = metadata::text(&object, "name").to_owned();
            let named = Target { name: &name, ..*target };
            let options = options("CreateOptions", query);
            let mut request = self.admission_request(
                cx,
                &named,
                Operation::Create,
                Some(object),
                None,
                options,
                query.dry_run,
            );
            let changed = self.mutate(cx, &mut request).await?;
            object = request.object.take().unwrap_or_default();
            if changed {
                schema::after_admission(row, &mut object)?;
                row.strategy.default(&mut object);
            }
            self.check_create(&context, row, &object)?;
            request.object = Some(object);
            self.validate(cx, &request).await?;
            object = request.object.take().unwrap_or_default();
        } else {
            self.check_create(&context, row, &object)?;
        }
        for warning in row.strategy.warnings(&context, &object, None) {
            cx.warn(warning);
        }
        let reservation = self.services.reserve(row, &mut object, None)?;
        for attempt in 1.. {
            if query.dry_run {
                return self.dry(row, &object, true);
            }
            let name = metadata::text(&object, "name").to_owned();
            let named = Target { name: &name, ..*target };
            match self.commit(&named, &object, 0).await? {
                Commit::Done(entry) => {
                    reservation.keep();
                    crd::controller::keep_defined(self, &named, entry.object()).await?;
                    return Ok(Written { object: self.view(row, entry.object())?, created: true });
                }
                Commit::Lost(_) if generated && attempt < NAME_ATTEMPTS => {
                    metadata::of(&mut object)?.remove("name");
                    metadata::settle_name(&mut object, "")?;
                }
                Commit::Lost(found) => {
                    let mut taken = Status::already_exists(&row.gvr, &name);
                    if found.is_some_and(|e| e.object().is_being_deleted()) {
                        taken.message = format!("object is being deleted: {}", taken.message);
                    }
                    return Err(taken);
                }
            }
        }
        Err(Status::internal("no name could be generated"))
    }

    fn check_create(
        &self,
        cx: &crate::registry::Context<'_>,
        row: &Resource,
        object: &Value,
    ) -> Result<(), Status> {
        let mut faults = metadata::faults(row, object);
        faults.extend(row.strategy.validate(cx, object));
        refuse(row, object, faults)
    }

    /// PUT, PATCH and the writing subresources.
    pub(crate) async fn update(
        &self,
        cx: &RequestCx,
        target: &Target<'_>,
        part: Part,
        create_missing: bool,
        query: &WriteQuery,
        transform: &Transform<'_>,
    ) -> Result<Written, Status> {
        let row = target.row;
        let mut current = self.shelf(row)?.get(&target.key());
        let mut fresh = false;
        for _ in 0..ATTEMPTS {
            if current.is_none() && !fresh {
                current = self.fresh(row, target.namespace, target.name).await?;
                fresh = true;
            }
            let Some(entry) = &current else {
                if !create_missing {
                    return Err(target.not_found());
                }
                let wish = transform(None)?;
                let wished = metadata::text(&wish.object, "uid");
                if !wished.is_empty() {
                    return Err(Status::conflict(
                        &row.gvr,
                        target.name,
                        &format!("Precondition failed: UID in precondition: {wished}, UID in object meta: "),
                    ));
                }
                return self.create_as(cx, target, wish, query).await;
            };
            match self.update_once(cx, target, part, query, transform, entry, fresh).await? {
                Attempt::Done(written) => return Ok(written),
                Attempt::Again(latest) => {
                    current = latest;
                    fresh = true;
                }
                Attempt::Refresh => {
                    current = self.fresh(row, target.namespace, target.name).await?;
                    fresh = true;
                }
            }
        }
        Err(modified(target))
    }

    #[expect(clippy::too_many_arguments, reason = "one attempt of the loop above, split off for its length")]
    async fn update_once(
        &self,
        cx: &RequestCx,
        target: &Target<'_>,
        part: Part,
        query: &WriteQuery,
        transform: &Transform<'_>,
        entry: &Arc<Entry>,
        fresh: bool,
    ) -> Result<Attempt, Status> {
        let row = target.row;
        let old_object = self.view(row, entry.object())?;
        let old = old_object.to_value();
        let wish = match transform(Some(&old)) {
            Ok(wish) => wish,
            // What the cache has may be old: judge a refusal by the store's state.
            Err(_) if !fresh => return Ok(Attempt::Refresh),
            Err(refusal) => return Err(refusal),
        };
        let Wish { object: mut new, kind } = wish;
        metadata::settle_namespace(row, &mut new, target.namespace)?;
        metadata::settle_name(&mut new, target.name)?;
        let wanted =
            crate::query::resource_version(metadata::text(&new, "resourceVersion"))?.filter(|v| *v != 0);
        let revision = entry.object().meta().resource_version;
        if let Some(wanted) = wanted
            && wanted != revision
        {
            return if fresh { Err(modified(target)) } else { Ok(Attempt::Refresh) };
        }
        let wished_uid = metadata::text(&new, "uid");
        if !wished_uid.is_empty() && wished_uid != old_object.uid() {
            return Err(Status::conflict(
                &row.gvr,
                target.name,
                &format!(
                    "Precondition failed: UID in precondition: {wished_uid}, UID in object meta: {}",
                    old_object.uid()
                ),
            ));
        }
        let new = self
            .prepare_update(cx, target, part, query, Wish { object: new, kind }, &old, &old_object)
            .await?;
        let mut new = new;
        let reservation = self.services.reserve(row, &mut new, Some(&old))?;
        if query.dry_run {
            return self.dry(row, &new, false).map(Attempt::Done);
        }
        if same(&new, &old) {
            reservation.keep();
            return Ok(Attempt::Done(Written { object: old_object, created: false }));
        }
        if self.is_released(row, &new) {
            return match self.remove(target, revision).await? {
                crate::delete::Removal::Done => {
                    self.services.release(row, &old);
                    let object = Object::from_value(&with_revision(new, revision));
                    let object = object.map_err(|e| Status::internal(e.to_string()))?;
                    Ok(Attempt::Done(Written { object: Arc::new(object), created: false }))
                }
                crate::delete::Removal::Lost if wanted.is_some() => Err(modified(target)),
                crate::delete::Removal::Lost => Ok(Attempt::Refresh),
            };
        }
        match self.commit(target, &new, revision).await? {
            Commit::Done(entry) => {
                reservation.keep();
                Ok(Attempt::Done(Written { object: self.view(row, entry.object())?, created: false }))
            }
            Commit::Lost(_) if wanted.is_some() => Err(modified(target)),
            Commit::Lost(latest) => Ok(Attempt::Again(latest)),
        }
    }

    /// Strategy, admission and validation of an update.
    #[expect(clippy::too_many_arguments, reason = "the pipeline's inputs")]
    async fn prepare_update(
        &self,
        cx: &RequestCx,
        target: &Target<'_>,
        part: Part,
        query: &WriteQuery,
        wish: Wish,
        old: &Value,
        old_object: &Arc<Object>,
    ) -> Result<Value, Status> {
        let row = target.row;
        let Wish { object: mut new, kind } = wish;
        let context = cx.context();
        metadata::carry_over(&mut new, old)?;
        match part {
            Part::Main => {
                schema::defaults(row, &mut new);
                row.strategy.default(&mut new);
                managed::record(cx, row, &mut new, Some(old), kind, query, "")?;
                row.strategy.prepare_for_update(&context, &mut new, old);
                self.guard(cx, target, &new, Some(old)).await?;
            }
            Part::Status => {
                schema::defaults(row, &mut new);
                row.strategy.default(&mut new);
                row.strategy.prepare_for_status_update(&context, &mut new, old);
                keep_ownership(&mut new, old)?;
                managed::record(cx, row, &mut new, Some(old), kind, query, target.subresource_name())?;
            }
            Part::Field => {
                managed::record(cx, row, &mut new, Some(old), kind, query, target.subresource_name())?
            }
        }
        if self.admits(target, Operation::Update) {
            let options = options("UpdateOptions", query);
            let mut request = self.admission_request(
                cx,
                target,
                Operation::Update,
                Some(new),
                Some(old_object.clone()),
                options,
                query.dry_run,
            );
            let changed = self.mutate(cx, &mut request).await?;
            new = request.object.take().unwrap_or_default();
            if changed {
                schema::after_admission(row, &mut new)?;
                row.strategy.default(&mut new);
            }
            self.check_update(&context, row, part, &mut new, old)?;
            request.object = Some(new);
            self.validate(cx, &request).await?;
            new = request.object.take().unwrap_or_default();
        } else {
            self.check_update(&context, row, part, &mut new, old)?;
        }
        if part == Part::Main {
            for warning in row.strategy.warnings(&context, &new, Some(old)) {
                cx.warn(warning);
            }
        }
        Ok(new)
    }

    fn check_update(
        &self,
        cx: &crate::registry::Context<'_>,
        row: &Resource,
        part: Part,
        new: &mut Value,
        old: &Value,
    ) -> Result<(), Status> {
        if row.strategy.generation_rule() == GenerationRule::Spec
            && part != Part::Status
            && spec_changed(new, old)
        {
            let generation = old.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
            metadata::of(new)?.insert("generation".to_owned(), (generation + 1).into());
        }
        let mut faults = metadata::faults(row, new);
        faults.extend(metadata::update_faults(new, old));
        match part {
            Part::Main => faults.extend(row.strategy.validate_update(cx, new, old)),
            Part::Status => faults.extend(row.strategy.validate_status_update(cx, new, old)),
            // What a scale writes must fit the schema too.
            Part::Field if row.custom.is_some() => faults.extend(row.strategy.validate_update(cx, new, old)),
            Part::Field => {}
        }
        refuse(row, new, faults)
    }

    /// Whether an object that is being deleted is held by nothing any more.
    fn is_released(&self, row: &Resource, object: &Value) -> bool {
        let meta = object.get("metadata");
        let grace =
            meta.and_then(|m| m.get("deletionGracePeriodSeconds")).and_then(Value::as_i64).unwrap_or(0);
        !metadata::text(object, "deletionTimestamp").is_empty()
            && grace == 0
            && metadata::finalizers(object).is_empty()
            && !row.strategy.holds(object)
    }

    /// Writes the object where its key is still at `revision` (0: does not exist).
    pub(crate) async fn commit(
        &self,
        target: &Target<'_>,
        object: &Value,
        revision: u64,
    ) -> Result<Commit, Status> {
        let row = target.row;
        // The fields of a type that is defined at run time may be others in a moment.
        let declared = self.shelf(row)?.fields();
        let declared = row.custom.is_none().then_some(declared);
        let draft = if converts(row) {
            let mut value = object.clone();
            row.strategy.to_storage(&mut value);
            set_type(&mut value, stored_row(row));
            Draft::new(&value, declared)
        } else {
            Draft::new(object, declared)
        };
        let draft = draft.map_err(|e| status::from_storage(&e))?;
        let prefix = row.storage().ok_or_else(status::method_not_allowed)?;
        let key = storage::key(prefix, if row.namespaced { target.namespace } else { "" }, target.name);
        let announced = self.cache.announce(key.clone(), draft);
        let txn = Txn {
            compares: vec![Compare::ModRevision { key: key.clone(), revision }],
            success: vec![Op::Put { key: key.clone(), value: announced.draft().value().clone() }],
            failure: vec![Op::Get { key }],
        };
        let result = self.store.txn(txn).await.map_err(|e| status::from_store(&e))?;
        if result.succeeded {
            return Ok(Commit::Done(
                announced.draft().at(result.revision).map_err(|e| status::from_storage(&e))?,
            ));
        }
        let found = match result.results.into_iter().next() {
            Some(OpResult::Get(Some(kv))) => Some(Arc::new(
                Entry::decode(&kv.value, kv.mod_revision).map_err(|e| status::from_storage(&e))?,
            )),
            _ => None,
        };
        Ok(Commit::Lost(found))
    }

    /// [`Self::commit`] for callers outside the pipeline.
    pub(crate) async fn put_raw(
        &self,
        target: &Target<'_>,
        object: &Value,
        revision: u64,
    ) -> Result<Option<Arc<Object>>, Status> {
        match self.commit(target, object, revision).await? {
            Commit::Done(entry) => self.view(target.row, entry.object()).map(Some),
            Commit::Lost(_) => Ok(None),
        }
    }

    fn dry(&self, row: &'static Resource, object: &Value, created: bool) -> Result<Written, Status> {
        let mut object = object.clone();
        set_type(&mut object, row);
        let object = Object::from_value(&object).map_err(|e| Status::internal(e.to_string()))?;
        Ok(Written { object: Arc::new(object), created })
    }
}

enum Attempt {
    Done(Written),
    /// Try against this state.
    Again(Option<Arc<Entry>>),
    /// Read the store and try again.
    Refresh,
}

/// 409 in the words that every client looks for.
pub(crate) fn modified(target: &Target<'_>) -> Status {
    Status::conflict(
        &target.row.gvr,
        target.name,
        "the object has been modified; please apply your changes to the latest version and try again",
    )
}

pub(crate) fn refuse(row: &Resource, object: &Value, faults: Vec<Cause>) -> Result<(), Status> {
    if faults.is_empty() {
        return Ok(());
    }
    let name = match metadata::text(object, "name") {
        "" => metadata::text(object, "generateName"),
        name => name,
    };
    Err(Status::invalid(&row.gvr.group, row.kind, name, faults))
}

/// A write to `/status` changes neither owners nor finalizers.
fn keep_ownership(new: &mut Value, old: &Value) -> Result<(), Status> {
    let meta = metadata::of(new)?;
    for key in ["ownerReferences", "finalizers"] {
        match old.get("metadata").and_then(|m| m.get(key)) {
            Some(value) => {
                meta.insert(key.to_owned(), value.clone());
            }
            None => {
                meta.remove(key);
            }
        }
    }
    Ok(())
}

fn spec_changed(new: &Value, old: &Value) -> bool {
    let (Value::Object(new), Value::Object(old)) = (new, old) else { return true };
    let counts = |key: &String| !matches!(key.as_str(), "metadata" | "status" | "apiVersion" | "kind");
    new.iter().any(|(k, v)| counts(k) && old.get(k) != Some(v))
        || old.keys().any(|k| counts(k) && !new.contains_key(k))
}

/// Whether nothing was changed but the resourceVersion.
fn same(new: &Value, old: &Value) -> bool {
    let (Value::Object(new), Value::Object(old)) = (new, old) else { return false };
    if new.len() != old.len() {
        return false;
    }
    new.iter().all(|(key, value)| {
        if key != "metadata" {
            return old.get(key) == Some(value);
        }
        let (Some(new), Some(old)) = (value.as_object(), old.get(key).and_then(Value::as_object)) else {
            return false;
        };
        let is_version = |k: &str| k == "resourceVersion";
        new.iter().all(|(k, v)| is_version(k) || old.get(k) == Some(v))
            && old.keys().all(|k| is_version(k) || new.contains_key(k))
    })
}

fn with_revision(mut object: Value, revision: u64) -> Value {
    if let Ok(meta) = metadata::of(&mut object) {
        meta.insert("resourceVersion".to_owned(), revision.to_string().into());
    }
    object
}

pub(crate) fn options(kind: &str, query: &WriteQuery) -> Value {
    let mut out = json!({"apiVersion": "meta.k8s.io/v1", "kind": kind});
    if let Value::Object(map) = &mut out {
        if query.dry_run {
            map.insert("dryRun".to_owned(), json!(["All"]));
        }
        if !query.field_manager.is_empty() {
            map.insert("fieldManager".to_owned(), query.field_manager.clone().into());
        }
    }
    out
}

/// The part that a subresource of the object's own kind writes.
pub(crate) fn part_of(target: &Target<'_>) -> Part {
    match target.subresource.map(|s| s.kind) {
        None => Part::Main,
        Some(SubresourceKind::Status) => Part::Status,
        Some(_) => Part::Field,
    }
}
