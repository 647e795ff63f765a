//! Ten thousand reloads leak nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "shared with other tests")]
#[path = "fixtures/scheduler.rs"]
mod fixture;
#[allow(dead_code, reason = "shared with other tests")]
#[path = "fixtures/support.rs"]
mod support;

use orlop_plugin::admission::{AdmissionWorld, Request};
use orlop_plugin::scheduler::{Delta, SchedulerWorld};
use orlop_plugin::{PluginOptions, Runtime, RuntimeOptions, Slot};
use std::fs;
use std::sync::Arc;

/// What this process holds: bytes in memory, and mappings.
fn held() -> (usize, usize) {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split_whitespace().nth(1).unwrap().parse().unwrap();
    let mappings = fs::read_to_string("/proc/self/maps").unwrap().lines().count();
    (pages * 4096, mappings)
}

fn request() -> Request {
    Request {
        operation: 1,
        group: String::new(),
        version: "v1".into(),
        resource: "pods".into(),
        subresource: String::new(),
        kind: "Pod".into(),
        namespace: "default".into(),
        name: "p".into(),
        dry_run: false,
        object: b"{}".to_vec(),
        old_object: Vec::new(),
        context: Vec::new(),
        attributes: b"{}".to_vec(),
        seed: 1,
    }
}

fn admit(runtime: &Runtime, wasm: &[u8]) -> bool {
    let compiled = runtime.compile(wasm).unwrap();
    let options = PluginOptions::from_manifest(compiled.manifest());
    let plugin = runtime.link::<AdmissionWorld>(&compiled, options).unwrap();
    drop(plugin.self_test().unwrap());
    Slot::new(Arc::new(plugin)).mutate(&[request()]).is_ok_and(|verdicts| verdicts[0].allowed)
}

fn schedule(runtime: &Runtime, wasm: &[u8]) -> Vec<u64> {
    let compiled = runtime.compile(wasm).unwrap();
    let options = PluginOptions::from_manifest(compiled.manifest());
    let plugin = runtime.link::<SchedulerWorld>(&compiled, options).unwrap();
    let mut instance = plugin.self_test().unwrap();
    let delta = Delta {
        full: true,
        slots: 64,
        rows: &[],
        live: &[],
        dictionaries: &[],
        s64_columns: &[],
        u32_columns: &[],
        list_columns: &[],
    };
    instance.sync(&delta).unwrap();
    instance.prepare(1, b"{}").unwrap().unwrap();
    instance.filter(1, &[]).unwrap()
}

#[test]
fn ten_thousand_reloads_leak_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let options = RuntimeOptions { cache: Some(folder.path().join("cache")), ..RuntimeOptions::default() };
    let runtime = Runtime::new(&options).unwrap();
    let allowing = support::plugin("Same", support::ALLOW);
    let denying = support::plugin("Same", support::DENY);
    let trapping = support::plugin("Same", "unreachable");
    let manifest = fixture::manifest(r#"{"hooks": ["filter"]}"#);
    let filter = fixture::list(1, &[0x0f; 8]);
    let filtering = fixture::build(&manifest, &fixture::OPTIONAL, &[("plugin.filter", &filter)]);
    let mut early = (0, 0);
    for reload in 1..=10_000 {
        match reload % 4 {
            0 => assert!(admit(&runtime, &allowing)),
            1 => assert!(!admit(&runtime, &denying)),
            2 => assert!(!admit(&runtime, &trapping)),
            _ => assert_eq!(schedule(&runtime, &filtering), [0x0f0f_0f0f_0f0f_0f0f]),
        }
        if reload == 2_000 {
            early = held();
        }
    }
    let (bytes, mappings) = held();
    assert!(
        bytes < early.0 + (2 << 20),
        "{} KiB after 2,000, {} KiB after 10,000",
        early.0 >> 10,
        bytes >> 10
    );
    assert!(mappings <= early.1 + 8, "{} mappings after 2,000, {mappings} after 10,000", early.1);
    println!("{} KiB, then {} KiB; {} mappings, then {mappings}", early.0 >> 10, bytes >> 10, early.1);
}
