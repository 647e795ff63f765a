//! Deletes what has lost its owners, and carries out foreground and orphan deletion: the
//! `garbage-collector-controller`.
//!
//! The host reads the object itself and every owner that its cache lacks from the API, so nothing
//! is deleted because a cache was stale; and every write names the revision that was read.
//!
//! Source of the behaviour: `k8s.io/kubernetes/pkg/controller/garbagecollector`.

use orlop_sdk::controller::{Controller, Item, Meta, OwnerReference, Plan, Write};
use orlop_sdk::serde_json::{Value, json};
use serde::Deserialize;

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

/// The plugin; it has no configuration.
#[derive(Debug)]
pub struct GarbageCollector;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Object {
    metadata: Meta,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Owner {
    reference: OwnerReference,
    state: String,
    metadata: Meta,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Dependent {
    api_version: String,
    resource: String,
    metadata: Meta,
}

fn has(meta: &Meta, finalizer: &str) -> bool {
    meta.finalizers.iter().any(|f| f == finalizer)
}

fn waits_for_dependents(meta: &Meta) -> bool {
    meta.is_being_deleted() && has(meta, FOREGROUND)
}

impl Controller for GarbageCollector {
    fn new(_config: &[u8]) -> Result<Self, String> {
        Ok(Self)
    }

    fn reconcile(&self, item: &Item<'_>, _now: i64) -> Plan {
        plan(item).unwrap_or_else(Plan::error)
    }
}

fn plan(item: &Item<'_>) -> Result<Plan, String> {
    let Some(Object { metadata: meta }) = item.object()? else { return Ok(Plan::default()) };
    let dependents: Vec<Dependent> = item.input("dependents")?;
    if meta.is_being_deleted() {
        return Ok(if has(&meta, ORPHAN) {
            orphan(item, &meta, &dependents)
        } else if has(&meta, FOREGROUND) {
            foreground(item, &meta, &dependents)
        } else {
            Plan::default()
        });
    }
    let owners: Vec<Owner> = item.input("owners")?;
    let dangling = |o: &Owner| o.state == "Absent";
    let waiting = |o: &Owner| o.state == "Present" && waits_for_dependents(&o.metadata);
    let solid: Vec<&Owner> = owners.iter().filter(|o| !dangling(o) && !waiting(o)).collect();
    if owners.is_empty() || solid.len() == owners.len() {
        return Ok(Plan::default());
    }
    if !solid.is_empty() {
        // Somebody still owns it: only the others are forgotten.
        let rest: Vec<&OwnerReference> = solid.iter().map(|o| &o.reference).collect();
        return Ok(Plan::write(own(item, &meta, references(&rest))));
    }
    let mut plan = Plan::default();
    let policy = if owners.iter().any(waiting) && !dependents.is_empty() {
        // A circle of objects that wait for one another would never end.
        if dependents.iter().any(|d| waits_for_dependents(&d.metadata)) {
            let unblocked: Vec<OwnerReference> = meta
                .owner_references
                .iter()
                .map(|r| OwnerReference { block_owner_deletion: Some(false), ..r.clone() })
                .collect();
            if unblocked != meta.owner_references {
                let body = references(&unblocked.iter().collect::<Vec<_>>());
                return Ok(Plan::write(own(item, &meta, body)));
            }
        }
        "Foreground"
    } else if has(&meta, ORPHAN) {
        "Orphan"
    } else if has(&meta, FOREGROUND) {
        "Foreground"
    } else {
        "Background"
    };
    let mut delete = Write::delete(&item.key.api_version, &item.key.resource, &meta).at_revision(&meta);
    delete.propagation = policy;
    plan.writes.push(delete);
    Ok(plan)
}

fn references(rest: &[&OwnerReference]) -> Value {
    json!({"metadata": {"ownerReferences": if rest.is_empty() { Value::Null } else { json!(rest) }}})
}

/// A patch of the key's own object, at the revision that was read.
fn own(item: &Item<'_>, meta: &Meta, body: Value) -> Write {
    Write::patch(&item.key.api_version, &item.key.resource, meta, body).at_revision(meta).ignoring("NotFound")
}

fn without_finalizer(item: &Item<'_>, meta: &Meta, finalizer: &str) -> Write {
    let rest: Vec<&String> = meta.finalizers.iter().filter(|f| *f != finalizer).collect();
    own(
        item,
        meta,
        json!({"metadata": {"finalizers": if rest.is_empty() { Value::Null } else { json!(rest) }}}),
    )
}

/// Sets the dependents free, then lets the owner go.
fn orphan(item: &Item<'_>, meta: &Meta, dependents: &[Dependent]) -> Plan {
    let free = |d: &Dependent| {
        let rest: Vec<&OwnerReference> =
            d.metadata.owner_references.iter().filter(|r| r.uid != meta.uid).collect();
        Write::patch(&d.api_version, &d.resource, &d.metadata, references(&rest))
            .at_revision(&d.metadata)
            .ignoring("NotFound")
            .in_parallel()
    };
    let mut writes: Vec<Write> = dependents.iter().map(free).collect();
    writes.push(without_finalizer(item, meta, ORPHAN));
    Plan::writes(writes)
}

/// Lets the owner go once no dependent blocks it. The dependents are deleted under their own keys.
fn foreground(item: &Item<'_>, meta: &Meta, dependents: &[Dependent]) -> Plan {
    let blocks = |d: &&Dependent| {
        d.metadata.owner_references.iter().any(|r| r.uid == meta.uid && r.block_owner_deletion == Some(true))
    };
    if dependents.iter().any(|d| blocks(&d)) {
        return Plan::default();
    }
    Plan::write(without_finalizer(item, meta, FOREGROUND))
}

orlop_sdk::export_controller!(GarbageCollector);
