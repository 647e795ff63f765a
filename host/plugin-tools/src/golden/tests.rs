use super::*;
use crate::record::{Entry, Outcome};
use crate::replay::replay;
use orlop_scheduler::framework::PluginError;
use serde_json::json;
use std::io::Read;

/// A plugin that was built once and is kept.
fn frozen(workbench: &Workbench, name: &str) -> Compiled {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/frozen").join(name);
    let mut wasm = Vec::new();
    flate2::read::GzDecoder::new(fs::File::open(path).unwrap()).read_to_end(&mut wasm).unwrap();
    workbench.load(&wasm).unwrap()
}

fn workbench() -> Workbench {
    let none =
        |_: &_, _: &_, _| Err(PluginError::Refused { message: "no scheduler plugins here".to_owned() });
    Workbench::deterministic(none, None).unwrap()
}

fn golden(input: Value) -> Golden {
    Golden { path: PathBuf::from("input.json"), input }
}

#[test]
fn an_admission_plugin_is_shown_requests_and_its_patch_is_applied() {
    let workbench = workbench();
    let plugin = frozen(&workbench, "default-toleration-seconds.wasm.gz");
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p", "namespace": "n" }, "spec": {} });
    let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "x" } });
    let test = golden(json!({ "requests": [
        { "operation": "CREATE", "resource": "pods", "object": pod },
        { "operation": "CREATE", "resource": "nodes", "object": node },
    ] }));
    let out = test.run(&workbench, &plugin).unwrap();
    let first = &out["requests"][0];
    assert_eq!(first["title"], "CREATE pods/p");
    assert_eq!(first["allowed"], true);
    assert_eq!(first["object"]["spec"]["tolerations"].as_array().unwrap().len(), 2, "{first}");
    assert_eq!(out["requests"][1], json!({ "title": "CREATE nodes/x", "asked": false }));
    assert_eq!(test.run(&workbench, &plugin).unwrap(), out, "it is deterministic");
}

#[test]
fn a_controller_plugin_plans_and_a_bad_configuration_comes_out_as_a_failure() {
    let workbench = workbench();
    let plugin = frozen(&workbench, "root-ca-certificate-publisher.wasm.gz");
    let requests = json!([{ "title": "new", "key": { "name": "shop" }, "object": { "metadata": { "name": "shop" } }, "inputs": { "published": [] } }]);
    let config = json!({ "rootCA": "-----BEGIN CERTIFICATE-----" });
    let out = golden(json!({ "config": config, "requests": requests })).run(&workbench, &plugin).unwrap();
    assert_eq!(out["requests"][0]["title"], "new");
    assert_eq!(out["requests"][0]["plan"]["writes"][0]["op"], "create", "{out}");
    let out = golden(json!({ "config": { "rootCA": "no" }, "requests": requests }))
        .run(&workbench, &plugin)
        .unwrap();
    assert_eq!(out["failure"]["reason"], "Refused", "{out}");
}

#[test]
fn what_is_wrong_with_an_input_is_named() {
    let workbench = workbench();
    let controller = frozen(&workbench, "root-ca-certificate-publisher.wasm.gz");
    let admission = frozen(&workbench, "default-toleration-seconds.wasm.gz");
    let config = json!({ "rootCA": "-----BEGIN CERTIFICATE-----" });
    for (plugin, input, fault) in [
        (&controller, json!({ "request": [] }), "unknown field `request`"),
        (&controller, json!({ "config": config, "requests": [{}] }), "requests[0].key.name is missing"),
        (&controller, json!({ "config": config, "requests": 1 }), "requests is no list"),
        (&admission, json!({ "requests": [{ "operation": "MAKE" }] }), "`MAKE` is none of CREATE"),
        (&admission, json!({ "requests": [{ "operation": "CREATE" }] }), "resource is missing"),
        (&admission, json!([]), "the input is no object"),
    ] {
        let error = golden(input).run(&workbench, plugin).unwrap_err().to_string();
        assert!(error.contains(fault) && error.contains("input.json"), "{error} / {fault}");
    }
}

#[test]
fn files_are_found_and_expectations_written() {
    let folder = tempfile::tempdir().unwrap();
    let error = load(&folder.path().join("tests")).unwrap_err().to_string();
    assert!(error.contains("there are no golden tests") && error.contains("--update"), "{error}");
    fs::write(folder.path().join("b.yaml"), "pods: []\nconfig: {a: 1}\n").unwrap();
    fs::write(folder.path().join("a.json"), "{}").unwrap();
    fs::write(folder.path().join("a.expected.json"), "{}").unwrap();
    let tests = load(folder.path()).unwrap();
    assert_eq!(tests.iter().map(Golden::name).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(tests[1].config(), json!({ "a": 1 }));
    assert_eq!(tests[1].expected().unwrap(), None);
    tests[1].update(&json!({ "pods": [] })).unwrap();
    assert_eq!(tests[1].expected().unwrap(), Some(json!({ "pods": [] })));
    fs::write(folder.path().join("c.json"), "{").unwrap();
    assert!(load(folder.path()).unwrap_err().to_string().contains("c.json"));
}

#[test]
fn a_recording_is_made_again_and_a_changed_answer_is_found() {
    let workbench = workbench();
    let plugin = frozen(&workbench, "root-ca-certificate-publisher.wasm.gz");
    let config = json!({ "rootCA": "-----BEGIN CERTIFICATE-----" });
    let request = controller::request(
        &json!(0),
        &json!({ "key": { "name": "shop" }, "object": { "metadata": { "name": "shop" } } }),
    );
    let call = crate::record::Call::Reconcile { request };
    let outcome = workbench.open(&plugin, &config).unwrap().perform(&call);
    assert!(matches!(&outcome, Outcome::Answer(a) if a["plans"][0]["writes"].is_array()), "{outcome:?}");
    let opened = Entry::Opened { instance: 0, digest: plugin.digest().to_string(), config };
    let called =
        |outcome: &Outcome| Entry::Called { instance: 0, call: call.clone(), outcome: outcome.clone() };
    let same = [opened.clone(), called(&outcome), called(&outcome)];
    let result = replay(&workbench, &plugin, same.into_iter().map(Ok)).unwrap();
    assert_eq!((result.calls(), result.different(), result.is_same()), (2, 0, true));
    let other = Outcome::Answer(json!({ "plans": [{}] }));
    let result =
        replay(&workbench, &plugin, [opened, called(&outcome), called(&other)].into_iter().map(Ok)).unwrap();
    assert_eq!((result.calls(), result.different(), result.is_same()), (2, 1, false));
    assert_eq!(result.differences[0].number, 2);
    let lost = replay(&workbench, &plugin, [called(&outcome)].into_iter().map(Ok)).unwrap();
    assert!(!lost.is_same(), "a call of an instance that was never opened");
}
