//! Plugins that were built for the first version of each interface go on running, as they are.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use flate2::read::GzDecoder;
use orlop_plugin::admission::{AdmissionWorld, Request};
use orlop_plugin::controller::ControllerWorld;
use orlop_plugin::scheduler::{Delta, Dictionary, SchedulerWorld, U32Column, prepared};
use orlop_plugin::{Plugin, PluginError, PluginOptions, Runtime, RuntimeOptions, Slot, World};
use serde_json::{Value, json};
use std::io::Read;
use std::sync::Arc;

fn frozen(name: &str) -> Vec<u8> {
    let path = format!("{}/../../tests/fixtures/frozen/{name}.wasm.gz", env!("CARGO_MANIFEST_DIR"));
    let mut wasm = Vec::new();
    GzDecoder::new(std::fs::File::open(path).unwrap()).read_to_end(&mut wasm).unwrap();
    wasm
}

fn link<W: World>(name: &str, config: Value) -> Result<Arc<Plugin<W>>, PluginError> {
    let runtime = Runtime::new(&RuntimeOptions::default()).unwrap();
    let compiled = runtime.compile(&frozen(name))?;
    let options = PluginOptions {
        config: config.to_string().into_bytes(),
        deadline: std::time::Duration::from_secs(10),
        ..PluginOptions::from_manifest(compiled.manifest())
    };
    let plugin = runtime.link(&compiled, options)?;
    plugin.self_test()?;
    Ok(Arc::new(plugin))
}

#[test]
fn a_scheduler_plugin_of_the_first_major() {
    let plugin = link::<SchedulerWorld>("node-name", json!({})).unwrap();
    assert_eq!(plugin.manifest().world, "orlop:scheduler/scheduler@1.0.0");
    let mut instance = plugin.instantiate().unwrap();
    let synced = instance
        .sync(&Delta {
            full: true,
            slots: 3,
            rows: &[0, 1, 2],
            live: &[0b111],
            dictionaries: &[Dictionary { dictionary: 1, first: 0, entries: &["a", "b", "c"] }],
            s64_columns: &[],
            u32_columns: &[U32Column { column: 32, values: &[0, 1, 2] }],
            list_columns: &[],
        })
        .unwrap();
    assert_eq!(synced.stale, Vec::<u32>::new());
    assert_ne!(synced.checksum, 0);
    let answer = instance.prepare(1, br#"{"spec":{"nodeName":"b"}}"#).unwrap().unwrap();
    assert_eq!(answer.flags, prepared::SKIP_SCORE);
    assert_eq!(instance.filter(1, &[]).unwrap(), [0b010]);
    assert_eq!(instance.filter(1, &[1, 2]).unwrap(), [0b01]);
    let why = instance.explain(1, &[2]).unwrap();
    assert_eq!(why.reasons[0].text, "node(s) didn't match the requested node name");
    instance.release(1).unwrap();
    // What 1.0 does not have is never asked; where it is, that is an error and no panic.
    assert!(instance.sort_key(b"{}").unwrap_err().to_string().contains("does not export"));
}

fn request(object: Value, context: Vec<Value>) -> Request {
    Request {
        operation: 1,
        group: String::new(),
        version: "v1".into(),
        resource: "pods".into(),
        subresource: String::new(),
        kind: "Pod".into(),
        namespace: "shop".into(),
        name: "web".into(),
        dry_run: false,
        object: object.to_string().into_bytes(),
        old_object: Vec::new(),
        context: context.iter().map(|c| c.to_string().into_bytes()).collect(),
        attributes: br#"{"user":{"username":"x"}}"#.to_vec(),
        seed: 1,
    }
}

#[test]
fn admission_plugins_of_the_first_version() {
    let plugin =
        link::<AdmissionWorld>("default-toleration-seconds", json!({"notReadyTolerationSeconds": 7}));
    let mut slot = Slot::new(plugin.unwrap());
    let verdicts = slot.mutate(&[request(json!({"spec": {}}), vec![])]).unwrap();
    assert!(verdicts[0].allowed);
    let patch = String::from_utf8(verdicts[0].patch.clone()).unwrap();
    assert!(patch.contains("node.kubernetes.io/not-ready") && patch.contains(":7"), "{patch}");

    let mut slot = Slot::new(link::<AdmissionWorld>("namespace-lifecycle", json!({})).unwrap());
    let active = json!({"metadata": {"name": "shop"}, "status": {"phase": "Active"}});
    let ending = json!({"metadata": {"name": "shop"}, "status": {"phase": "Terminating"}});
    let asked = [active, ending, Value::Null].map(|namespace| request(json!({}), vec![namespace]));
    let verdicts = slot.mutate(&asked).unwrap();
    assert_eq!(verdicts.iter().map(|v| v.allowed).collect::<Vec<_>>(), [true, false, false]);
    let status: Value = serde_json::from_slice(&verdicts[2].status).unwrap();
    assert_eq!(status["code"], 404, "{status}");
}

#[test]
fn a_controller_plugin_of_the_first_version() {
    let certificate = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";
    let refused = link::<ControllerWorld>("root-ca-certificate-publisher", json!({"rootCA": "none"})).err();
    assert!(refused.unwrap().to_string().contains("rootCA"));
    let plugin = link::<ControllerWorld>("root-ca-certificate-publisher", json!({"rootCA": certificate}));
    let mut slot = Slot::new(plugin.unwrap());
    let item = json!({"key": {"name": "shop"}, "object": {"metadata": {"name": "shop"}}, "inputs": {"published": []}});
    let answer = slot.reconcile(json!({"now": 0, "items": [item]}).to_string().as_bytes()).unwrap();
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    let write = &answer["plans"][0]["writes"][0];
    assert_eq!((&write["op"], &write["namespace"]), (&json!("create"), &json!("shop")), "{answer}");
    assert_eq!(write["body"]["data"]["ca.crt"], certificate);
}
