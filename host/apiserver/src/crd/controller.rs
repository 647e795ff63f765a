//! What definitions need beside requests: their conditions, and the end of their instances.

use super::definition::FINALIZER;
use super::{GROUP, RESOURCE, has_condition, text};
use crate::cache::{Filter, Scope};
use crate::core::{Core, RequestCx, Target, rfc3339};
use crate::delete::DeleteRequest;
use crate::managed::WriteKind;
use crate::metadata;
use crate::query::WriteQuery;
use crate::registry::{Resource, at, built_in, find};
use crate::selectors::FieldFilter;
use crate::subresources::set_condition;
use crate::user::UserInfo;
use crate::write::{Part, Wish};
use orlop_apimachinery::{Object, Selector, Status};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// How soon a definition that waits for instances with finalizers is looked at again.
const AGAIN: Duration = Duration::from_secs(1);

/// Follows the definitions until the server is cancelled.
pub(crate) async fn run(core: Arc<Core>) {
    let Some(row) = find(GROUP, "v1", RESOURCE) else { return };
    let Ok(shelf) = core.shelf(row) else { return };
    let user = Arc::new(UserInfo::master("system:apiserver"));
    loop {
        let everything =
            Filter { scope: Scope::All, labels: Selector::everything(), fields: FieldFilter::default() };
        let (_, mut subscription) = shelf.watch_now(everything);
        loop {
            let mut waiting = false;
            for entry in shelf.all() {
                let cx = RequestCx::new(user.clone(), "apiextensions");
                match reconcile(&core, &cx, row, &entry.object().to_value()).await {
                    Ok(done) => waiting |= !done,
                    Err(error) => {
                        waiting = true;
                        tracing::debug!(name = entry.object().name(), error = error.message, "definition");
                    }
                }
            }
            let pause = if waiting { AGAIN } else { Duration::from_secs(300) };
            tokio::select! {
                () = core.cancel.cancelled() => return,
                change = subscription.changes.recv() => if change.is_none() { break },
                () = tokio::time::sleep(pause) => {}
            }
            while subscription.changes.try_recv().is_ok() {}
        }
    }
}

/// `false` where something is left to wait for.
async fn reconcile(
    core: &Core,
    cx: &RequestCx,
    row: &'static Resource,
    definition: &Value,
) -> Result<bool, Status> {
    let name = metadata::text(definition, "name");
    let target = Target { row, namespace: "", name, subresource: row.subresource("status") };
    if !metadata::text(definition, "deletionTimestamp").is_empty() {
        if !metadata::finalizers(definition).iter().any(|f| f == FINALIZER) {
            return Ok(true);
        }
        return cleanup(core, cx, row, definition).await;
    }
    let names = definition.pointer("/spec/names").cloned().unwrap_or_default();
    let conflict = conflict(core, row, definition)?;
    let accepted = conflict.is_none();
    let settled = has_condition(definition, "NamesAccepted") == accepted
        && condition_is_known(definition, "NamesAccepted")
        && (!accepted || at(definition, &["status", "acceptedNames"]) == Some(&names))
        && (!accepted || has_condition(definition, "Established"));
    if settled {
        return Ok(true);
    }
    let now = cx.timestamp();
    let transform = |old: Option<&Value>| {
        let mut object = old.ok_or_else(|| target.not_found())?.clone();
        metadata::of(&mut object)?.remove("resourceVersion");
        let (status, reason, message) = match &conflict {
            None => ("True", "NoConflicts", "no conflicts found".to_owned()),
            Some((reason, message)) => ("False", *reason, message.clone()),
        };
        set_condition(
            &mut object,
            json!({"type": "NamesAccepted", "status": status, "reason": reason, "message": message,
                "lastTransitionTime": now}),
        );
        let established = accepted || has_condition(&object, "Established");
        let (status, reason, message) = if established {
            ("True", "InitialNamesAccepted", "the initial names have been accepted")
        } else {
            ("False", "NotAccepted", "not all names are accepted")
        };
        if has_condition(&object, "Established") != established || !condition_is_known(&object, "Established")
        {
            set_condition(
                &mut object,
                json!({"type": "Established", "status": status, "reason": reason, "message": message,
                    "lastTransitionTime": now}),
            );
        }
        if accepted && let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) {
            status.insert("acceptedNames".to_owned(), names.clone());
        }
        Ok(Wish { object, kind: WriteKind::Update })
    };
    core.update(cx, &target, Part::Status, false, &write(), &transform).await?;
    Ok(conflict.is_none())
}

fn write() -> WriteQuery {
    WriteQuery {
        dry_run: false,
        field_manager: String::new(),
        field_validation: crate::query::FieldValidation::Ignore,
        force: None,
    }
}

fn condition_is_known(definition: &Value, kind: &str) -> bool {
    let list = at(definition, &["status", "conditions"]).and_then(Value::as_array);
    list.into_iter().flatten().any(|c| c.get("type").is_some_and(|t| t == kind))
}

/// Which name is taken by another type of the group, if any: the reason and the message.
fn conflict(
    core: &Core,
    row: &'static Resource,
    definition: &Value,
) -> Result<Option<(&'static str, String)>, Status> {
    let group = text(definition, &["spec", "group"]);
    let mut words = Vec::new();
    let mut kinds = Vec::new();
    for other in built_in().filter(|r| r.gvr.group == group) {
        words.extend([other.gvr.resource.to_string(), other.singular.to_owned()]);
        words.extend(other.short_names.iter().map(|s| (*s).to_owned()));
        kinds.extend([other.kind.to_owned(), other.list_kind()]);
    }
    for entry in core.shelf(row)?.all() {
        if entry.object().name() == metadata::text(definition, "name") {
            continue;
        }
        let other = entry.object().to_value();
        if text(&other, &["spec", "group"]) == group
            && let Some(names) = at(&other, &["status", "acceptedNames"])
        {
            words.extend([text(names, &["plural"]).to_owned(), text(names, &["singular"]).to_owned()]);
            words.extend(strings(names.get("shortNames")));
            kinds.extend([text(names, &["kind"]).to_owned(), text(names, &["listKind"]).to_owned()]);
        }
    }
    let Some(names) = at(definition, &["spec", "names"]) else { return Ok(None) };
    for (key, reason, taken) in [
        ("plural", "PluralConflict", &words),
        ("singular", "SingularConflict", &words),
        ("kind", "KindConflict", &kinds),
        ("listKind", "ListKindConflict", &kinds),
    ] {
        let name = text(names, &[key]);
        if !name.is_empty() && taken.iter().any(|t| t == name) {
            return Ok(Some((reason, format!("\"{name}\" is already in use"))));
        }
    }
    let short = strings(names.get("shortNames")).into_iter().find(|s| words.contains(s));
    Ok(short.map(|s| ("ShortNamesConflict", format!("\"{s}\" is already in use"))))
}

fn strings(list: Option<&Value>) -> Vec<String> {
    let items = list.and_then(Value::as_array).into_iter().flatten();
    items.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Takes back an instance that was stored while its type went: nobody else would find it.
pub(crate) async fn keep_defined(core: &Core, target: &Target<'_>, stored: &Object) -> Result<(), Status> {
    let row = target.row;
    if row.custom.is_none() {
        return Ok(());
    }
    let now = find(&row.gvr.group, &row.gvr.version, &row.gvr.resource).and_then(|r| r.custom);
    if now.is_some_and(|c| !c.terminating) {
        return Ok(());
    }
    core.remove(target, stored.meta().resource_version).await?;
    Err(crate::status::method_not_allowed())
}

/// Deletes the instances; then the definition may go.
async fn cleanup(
    core: &Core,
    cx: &RequestCx,
    row: &'static Resource,
    definition: &Value,
) -> Result<bool, Status> {
    if let Some(instances) = super::rows(definition).first().copied() {
        let Some(shelf) = core.cache.shelf(instances) else { return Ok(false) };
        for entry in shelf.all() {
            let object = entry.object();
            if object.is_being_deleted() {
                continue;
            }
            let target = Target {
                row: instances,
                namespace: object.namespace(),
                name: object.name(),
                subresource: None,
            };
            match core.delete(cx, &target, &DeleteRequest::default()).await {
                Ok(_) => {}
                Err(status) if status.code == 404 => {}
                Err(status) => return Err(status),
            }
        }
        core.cache.wait_current().await.map_err(|e| crate::status::from_store(&e))?;
        if shelf.len() > 0 {
            return Ok(false);
        }
    }
    let name = metadata::text(definition, "name");
    let target = Target { row, namespace: "", name, subresource: None };
    let transform = |old: Option<&Value>| {
        let mut object = old.ok_or_else(|| target.not_found())?.clone();
        let left: Vec<String> =
            metadata::finalizers(&object).into_iter().filter(|f| f != FINALIZER).collect();
        set_condition(
            &mut object,
            json!({"type": "Terminating", "status": "False", "reason": "InstanceDeletionCompleted",
                "message": "removed all instances", "lastTransitionTime": rfc3339(cx.now)}),
        );
        let meta = metadata::of(&mut object)?;
        meta.remove("resourceVersion");
        meta.insert("finalizers".to_owned(), left.into());
        Ok(Wish { object, kind: WriteKind::Update })
    };
    match core.update(cx, &target, Part::Field, false, &write(), &transform).await {
        Err(status) if status.code != 404 => Err(status),
        _ => Ok(true),
    }
}
