//! What is fed, and what it promises.

use crate::seeds;
use anyhow::{Result, ensure};
use orlop_apimachinery::patch::{json_patch, merge_diff, merge_patch};
use orlop_apimachinery::{FieldSelector, Quantity, Selector};
use orlop_controller_manager::declaration::Declaration;
use orlop_plugin::admission::{AdmissionWorld, Request};
use orlop_plugin::controller::ControllerWorld;
use orlop_plugin::scheduler::{Delta, SchedulerWorld};
use orlop_plugin::{Compiled, Kind, Manifest, PluginOptions, Runtime, RuntimeOptions, Slot};
use orlop_scheduler::config::SchedulerConfig;
use orlop_scheduler::framework::Descriptor;
use serde_json::Value;
use std::sync::{Arc, OnceLock};

/// Something that takes bytes from strangers.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// Valid inputs.
    pub seeds: fn() -> Result<Vec<Vec<u8>>>,
    /// Feeds it; an error is a broken promise. It must not panic.
    pub run: fn(&[u8]) -> Result<()>,
}

/// All of them.
pub const ALL: [Target; 7] = [
    Target { name: "manifest", seeds: seeds::manifests, run: manifest },
    Target { name: "inspect", seeds: seeds::frozen, run: inspect },
    Target { name: "load", seeds: seeds::plugins, run: load },
    Target { name: "document", seeds: seeds::manifests, run: document },
    Target { name: "patch", seeds: seeds::patches, run: patch },
    Target { name: "text", seeds: seeds::texts, run: text },
    Target { name: "configuration", seeds: seeds::configurations, run: configuration },
];

/// What is accepted can be written down and read again, and each consumer of a section takes it or says why not.
fn manifest(input: &[u8]) -> Result<()> {
    let Ok(manifest) = Manifest::parse(input) else { return Ok(()) };
    let again = Manifest::parse(&serde_json::to_vec(&manifest)?)?;
    ensure!(again == manifest, "it is another one after it was written down");
    ensure!(!manifest.name.is_empty() && manifest.name.len() <= 63, "its name is {:?}", manifest.name);
    if let Some(section) = &manifest.scheduler {
        let _ = Descriptor::from_manifest(&manifest.name, &serde_json::to_value(section)?);
    }
    if let Some(section) = &manifest.controller {
        let _ = Declaration::parse(&section.0);
    }
    for context in manifest.admission.iter().flat_map(|section| &section.context) {
        let _ = context.resolve("shop", "web", &serde_json::to_value(&manifest)?);
    }
    Ok(())
}

/// What is refused is refused in words.
fn inspect(input: &[u8]) -> Result<()> {
    match orlop_plugin::inspect(input) {
        Ok(inspection) => ensure!(inspection.size == input.len(), "its size is {}", inspection.size),
        Err(error) => ensure!(!error.to_string().is_empty(), "an error without words"),
    }
    Ok(())
}

/// Reads, compiles, links, starts and asks. Whatever comes of it comes in time.
fn load(input: &[u8]) -> Result<()> {
    static RUNTIME: OnceLock<Result<Runtime, String>> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| Runtime::new(&RuntimeOptions::default()).map_err(|e| e.to_string()));
    let runtime = runtime.as_ref().map_err(|e| anyhow::anyhow!("{e}"))?;
    let Ok(compiled) = runtime.compile(input) else { return Ok(()) };
    match compiled.manifest().kind {
        Kind::Scheduler => schedule(runtime, &compiled),
        Kind::Admission => admit(runtime, &compiled),
        Kind::Controller => {
            let linked = runtime.link::<ControllerWorld>(&compiled, options(&compiled));
            if let Ok(plugin) = linked {
                let _ = Slot::new(Arc::new(plugin)).reconcile(b"{}");
            }
        }
    }
    Ok(())
}

/// No more memory and no more time than this, whatever the manifest wishes.
fn options(compiled: &Compiled) -> PluginOptions {
    let mut options = PluginOptions::from_manifest(compiled.manifest());
    options.limits.memory_bytes = options.limits.memory_bytes.min(16 << 20);
    options.deadline = options.deadline.min(std::time::Duration::from_millis(50));
    options
}

fn schedule(runtime: &Runtime, compiled: &Compiled) {
    let Ok(plugin) = runtime.link::<SchedulerWorld>(compiled, options(compiled)) else { return };
    let Ok(mut instance) = plugin.self_test() else { return };
    let delta = Delta {
        full: true,
        slots: 3,
        rows: &[],
        live: &[],
        dictionaries: &[],
        s64_columns: &[],
        u32_columns: &[],
        list_columns: &[],
    };
    let _ = instance.sync(&delta);
    let _ = instance.prepare(1, b"{}");
    let _ = instance.filter(1, &[]);
    let _ = instance.score(1, &[0]);
    let _ = instance.explain(1, &[0, 1]);
    let _ = instance.sort_key(b"{}");
}

fn admit(runtime: &Runtime, compiled: &Compiled) {
    let Ok(plugin) = runtime.link::<AdmissionWorld>(compiled, options(compiled)) else { return };
    let request = Request {
        operation: 1,
        group: String::new(),
        version: "v1".to_owned(),
        resource: "pods".to_owned(),
        subresource: String::new(),
        kind: "Pod".to_owned(),
        namespace: "shop".to_owned(),
        name: "web".to_owned(),
        dry_run: false,
        object: b"{}".to_vec(),
        old_object: Vec::new(),
        context: Vec::new(),
        attributes: b"{}".to_vec(),
        seed: 1,
    };
    let mut slot = Slot::new(Arc::new(plugin));
    let _ = slot.mutate(std::slice::from_ref(&request));
    let _ = slot.validate(&[request]);
}

/// The decoder of request bodies finds what a plain parser of JSON finds, or an error.
fn document(input: &[u8]) -> Result<()> {
    let plain: Option<Value> = serde_json::from_slice(input).ok();
    if let Ok(decoded) = orlop_apimachinery::schema::decode::parse_json(input) {
        ensure!(plain.is_some_and(|plain| plain == decoded.value), "a plain parser reads it otherwise");
    }
    Ok(())
}

/// A patch that does not apply changes nothing; a difference, applied, gives what was compared.
fn patch(input: &[u8]) -> Result<()> {
    let Ok(mut pair) = serde_json::from_slice::<Value>(input) else { return Ok(()) };
    let Some(fields) = pair.as_object_mut() else { return Ok(()) };
    let (Some(target), Some(patch)) = (fields.remove("target"), fields.remove("patch")) else {
        return Ok(());
    };
    let mut patched = target.clone();
    if json_patch(&mut patched, &patch).is_err() {
        ensure!(patched == target, "a failed patch changed the target");
    }
    let mut merged = target.clone();
    merge_patch(&mut merged, &patch);
    let once = merged.clone();
    merge_patch(&mut merged, &patch);
    ensure!(merged == once, "a merge patch applied twice is another");
    if target.is_object() && once.is_object() {
        let mut rebuilt = target.clone();
        merge_patch(&mut rebuilt, &merge_diff(&target, &once));
        ensure!(rebuilt == once, "the difference does not lead from one to the other");
    }
    Ok(())
}

/// A quantity that is read and written is the same.
fn text(input: &[u8]) -> Result<()> {
    let Ok(text) = std::str::from_utf8(input) else { return Ok(()) };
    let _ = Selector::parse(text);
    let _ = FieldSelector::parse(text);
    if let Ok(quantity) = Quantity::parse(text) {
        let again = Quantity::parse(&quantity.to_string())?;
        ensure!(again == quantity, "{text} became {again}");
    }
    Ok(())
}

fn configuration(input: &[u8]) -> Result<()> {
    let Ok(text) = std::str::from_utf8(input) else { return Ok(()) };
    let known = ["NodeName".to_owned(), "NodeResourcesFit".to_owned()];
    let _ = SchedulerConfig::parse(text, &known);
    Ok(())
}
