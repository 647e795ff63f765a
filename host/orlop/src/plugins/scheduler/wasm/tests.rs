//! The adapter between a real scheduler profile and small plugins of WebAssembly text.

use super::*;
use crate::plugins::access::grants;
use crate::plugins::health::Health;
use crate::plugins::manager::tests::support;
use crate::plugins::scheduler::Record;
use flate2::read::GzDecoder;
use orlop_plugin::manifest::Permission;
use orlop_plugin::{PluginOptions, Runtime, RuntimeOptions};
use orlop_scheduler::pod::PodFacts;
use orlop_scheduler::profile::{Enabled, Profile};
use orlop_scheduler::table::{NodeFacts, NodeTable};
use serde_json::{Value, json};
use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[allow(dead_code, reason = "shared with other tests")]
#[path = "../../../../../../runtime/plugin/tests/fixtures/scheduler.rs"]
mod fixture;

fn open(wasm: &[u8]) -> (WasmPlugin, Arc<Health>) {
    let runtime = Runtime::new(&RuntimeOptions::default()).unwrap();
    let compiled = runtime.compile(wasm).unwrap();
    let options = PluginOptions {
        deadline: Duration::from_secs(10),
        ..PluginOptions::from_manifest(compiled.manifest())
    };
    let health = Arc::new(Health::new(Arc::default()));
    let plugin = runtime.link(&compiled, options).unwrap();
    (WasmPlugin::new(plugin, true, Box::new(Record::new(health.clone()))).unwrap(), health)
}

fn fixture(section: &str, bodies: &[(&str, &str)]) -> Vec<u8> {
    fixture::build(&fixture::manifest(section), &fixture::OPTIONAL, bodies)
}

/// Three nodes: a, b and c.
fn table() -> NodeTable {
    let mut table = NodeTable::new();
    for name in ["a", "b", "c"] {
        let node = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}});
        table.set_node(name, &NodeFacts::from_value(&node));
    }
    table
}

/// The nodes that the plugins leave to a pod.
fn feasible(plugins: Vec<WasmPlugin>, pod: Value) -> Result<u64, String> {
    let enabled = plugins.into_iter().map(|p| Enabled::new(Box::new(p))).collect();
    let mut profile = Profile::new("default-scheduler".to_owned(), enabled);
    let def = profile.define(&PodFacts::from_value(pod).value);
    let id = profile.open(&def);
    profile.evaluate(id, &table(), Instant::now()).map_err(|failed| failed.message)?;
    Ok(profile.class(id).unwrap().feasible()[0])
}

#[test]
fn a_plugin_of_the_first_major_works_beside_one_of_the_second() {
    let frozen = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/frozen/node-name.wasm.gz");
    let mut first = Vec::new();
    GzDecoder::new(std::fs::File::open(frozen).unwrap()).read_to_end(&mut first).unwrap();
    let answer = fixture::list(1, &[0b0000_0110, 0, 0, 0, 0, 0, 0, 0]);
    let second = fixture(r#"{"hooks": ["filter"]}"#, &[("plugin.filter", &answer)]);
    let plugins = || vec![open(&first).0, open(&second).0];
    assert_eq!(feasible(plugins(), json!({"spec": {"nodeName": "b"}})), Ok(0b010));
    assert_eq!(feasible(plugins(), json!({"spec": {"nodeName": "a"}})), Ok(0));
    assert_eq!(feasible(plugins(), json!({"spec": {}})), Ok(0b110));
}

#[test]
fn bits_of_nodes_that_are_not_there_mean_nothing() {
    let lie = fixture::list(1, &[0xff; 8]);
    let wasm = fixture(r#"{"hooks": ["filter"]}"#, &[("plugin.filter", &lie)]);
    assert_eq!(feasible(vec![open(&wasm).0], json!({})), Ok(0b111));
}

#[test]
fn a_corrupt_mirror_is_a_failure_that_is_counted() {
    // The same checksum, whatever it is told.
    let wrong = fixture::parts(&[12_345, 0], &[(0, &[])]);
    let wasm = fixture(
        r#"{"hooks": ["filter"], "columns": ["node.labels"]}"#,
        &[("plugin.sync", &wrong), ("plugin.filter", &fixture::list(1, &[0xff; 8]))],
    );
    let (plugin, health) = open(&wasm);
    let said = feasible(vec![plugin], json!({})).unwrap_err();
    assert!(said.contains("checksum"), "{said}");
    let report = health.report();
    assert_eq!(report.failures, 1);
    let (reason, message) = report.last.unwrap();
    assert_eq!(reason, "BadOutput");
    assert!(message.contains("the checksum of its mirror is wrong after a full sync"), "{message}");
}

#[test]
fn failures_end_the_instance_and_open_the_breaker_until_an_answer_about_pods() {
    let wasm = fixture(r#"{"hooks": ["filter"]}"#, &[("plugin.filter", "unreachable")]);
    let (mut plugin, health) = open(&wasm);
    let delta = Delta { full: true, slots: 3, ..Delta::default() };
    for failures in 1..=3 {
        assert!(plugin.admits());
        plugin.sync(&delta).unwrap();
        plugin.prepare(1, b"{}").unwrap();
        assert!(matches!(plugin.filter(1, Rows::All), Err(PluginError::Trap { .. })));
        assert!(matches!(plugin.filter(1, Rows::All), Err(PluginError::Trap { .. })), "the instance is gone");
        assert_eq!(health.report().failures, failures, "a call that was not made is no failure");
        plugin.reset().unwrap();
    }
    assert!(!plugin.admits() && health.report().open);
}

#[test]
fn nobody_is_asked_about_no_rows() {
    let wasm = fixture(
        r#"{"hooks": ["filter", "score"]}"#,
        &[
            ("plugin.filter", "unreachable"),
            ("plugin.score", "unreachable"),
            ("plugin.explain", "unreachable"),
        ],
    );
    let (mut plugin, health) = open(&wasm);
    plugin.sync(&Delta { full: true, slots: 3, ..Delta::default() }).unwrap();
    assert!(plugin.filter(1, Rows::Some(&[])).unwrap().is_empty());
    assert!(plugin.score(1, Rows::Some(&[])).unwrap().is_empty());
    assert_eq!(plugin.explain(1, &[]).unwrap().offsets, [0]);
    assert_eq!(health.report().failures, 0);
}

#[test]
fn calls_are_timed_and_the_instance_is_weighed() {
    let wasm = fixture(r#"{"hooks": ["filter"]}"#, &[("plugin.filter", "unreachable")]);
    let (mut plugin, health) = open(&wasm);
    assert!(health.memory_bytes() >= 65_536, "{}", health.memory_bytes());
    plugin.sync(&Delta { full: true, slots: 3, ..Delta::default() }).unwrap();
    assert!(plugin.filter(1, Rows::All).is_err());
    assert_eq!((health.memory_bytes(), health.latency.count()), (0, 2));
    plugin.reset().unwrap();
    assert!(health.memory_bytes() >= 65_536);
    drop(plugin);
    assert_eq!(health.memory_bytes(), 0);
}

#[test]
fn a_users_plugin_writes_what_its_manifest_asks_for() {
    let permissions: Vec<Permission> = serde_json::from_value(json!([
        { "apiGroups": [""], "resources": ["configmaps", "pods/binding"], "verbs": ["create"] },
    ]))
    .unwrap();
    let health = Arc::new(Health::new(Arc::default()));
    let builtin = Record::new(health.clone());
    let record = Record {
        user: "system:plugin:mine".to_owned(),
        permissions: grants(&permissions),
        ..Record::new(health)
    };
    let write = |op: &str, resource: &str, subresource: &str| {
        json!({ "op": op, "apiVersion": "v1", "resource": resource, "subresource": subresource, "name": "a" })
            .to_string()
            .into_bytes()
    };
    assert_eq!(record.refuses(&write("create", "configmaps", "")), None);
    assert_eq!(record.refuses(&write("create", "pods", "binding")), None);
    for (op, resource, subresource) in
        [("delete", "configmaps", ""), ("create", "secrets", ""), ("create", "pods", "")]
    {
        let refused = record.refuses(&write(op, resource, subresource)).unwrap();
        assert!(refused.contains(&format!("wants to {op} {resource} of API group \"\"")), "{refused}");
        assert_eq!(builtin.refuses(&write(op, resource, subresource)), None);
    }
    assert!(record.refuses(b"{").unwrap().contains("malformed"));
}
