//! The manifest parser: strict, and its faults name the field.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "shared with other tests")]
#[path = "fixtures/support.rs"]
mod support;

use orlop_plugin::{Kind, Manifest, WorldRef};
use serde_json::{Value, json};

fn fault(change: impl FnOnce(&mut Value)) -> String {
    let mut value: Value = serde_json::from_str(&support::manifest("Good")).unwrap();
    change(&mut value);
    Manifest::parse(value.to_string().as_bytes()).map(|_| String::new()).unwrap_or_else(|e| e.to_string())
}

#[test]
fn a_good_one_is_read() {
    let manifest = Manifest::parse(support::manifest("Good").as_bytes()).unwrap();
    assert_eq!((manifest.name.as_str(), manifest.kind), ("Good", Kind::Admission));
    assert_eq!(fault(|_| {}), "");
    let again = serde_json::to_vec(&manifest).unwrap();
    assert_eq!(Manifest::parse(&again).unwrap(), manifest);
}

#[test]
fn faults_name_the_field() {
    for (got, expected) in [
        (fault(|m| m["manifestVersion"] = json!(2)), "manifestVersion: 2 is not supported"),
        (fault(|m| m["name"] = json!("")), "name: must be 1 to 63"),
        (fault(|m| m["name"] = json!("a b")), "name: must be 1 to 63"),
        (fault(|m| m["nmae"] = json!("x")), "unknown field `nmae`"),
        (fault(|m| m["kind"] = json!("storage")), "unknown variant `storage`"),
        (fault(|m| m["world"] = json!("orlop:admission/admission@2.0.0")), "built for world"),
        (fault(|m| m["world"] = json!("x")), "built for world x"),
        (fault(|m| m["limits"]["memoryBytes"] = json!(1)), "limits.memoryBytes: 1 is not within"),
        (fault(|m| m["limits"]["deadlineMilliseconds"] = json!(0)), "limits.deadlineMilliseconds"),
        (fault(|m| m["scheduler"] = json!({})), "scheduler: must not be there"),
        (fault(|m| _ = m.as_object_mut().unwrap().remove("admission")), "admission: is missing"),
        (fault(|m| m["admission"]["phases"] = json!([])), "admission.phases: must name"),
        (fault(|m| m["admission"]["rules"] = json!([])), "admission.rules: must have"),
        (
            fault(|m| m["admission"]["rules"][0]["operations"] = json!(["PATCH"])),
            "admission.rules[0].operations: \"PATCH\" is none of",
        ),
        (
            fault(|m| m["admission"]["projection"] = json!(vec!["x"; 300])),
            "admission.projection: has 300 items",
        ),
        (fault(|m| m["description"] = json!("x".repeat(600))), "description: has 600 bytes"),
    ] {
        assert!(got.contains(expected), "{got:?} does not say {expected:?}");
    }
    assert!(Manifest::parse(b"{").unwrap_err().to_string().contains("cannot be read"));
    assert!(Manifest::parse(&vec![b' '; 300 << 10]).unwrap_err().to_string().contains("more than"));
}

fn scheduler(world: &str, section: Value) -> String {
    let manifest = json!({
        "manifestVersion": 1, "name": "S", "kind": "scheduler",
        "world": format!("orlop:scheduler/{world}"), "scheduler": section,
    });
    Manifest::parse(manifest.to_string().as_bytes()).map(|_| String::new()).unwrap_or_else(|e| e.to_string())
}

#[test]
fn two_majors_of_the_scheduler_are_served_each_with_what_it_has() {
    let small = || json!({"hooks": ["filter", "score"], "columns": ["node.labels"]});
    for world in ["scheduler@1.0.0", "scheduler@1.0.3", "scheduler@2.0.0", "scheduler-full@2.0.1"] {
        assert_eq!(scheduler(world, small()), "", "{world}");
    }
    for world in
        ["scheduler@0.9.0", "scheduler@1.1.0", "scheduler@2.1.0", "scheduler@3.0.0", "scheduler-full@1.0.0"]
    {
        let said = scheduler(world, small());
        assert!(said.contains("scheduler@1.0.0, orlop:scheduler/scheduler@2.0.0"), "{world}: {said}");
    }
    let watch = || json!({"apiVersion": "v1", "resource": "configmaps", "namespace": "kube-system", "fields": ["data"]});
    let all = json!({
        "hooks": ["filter", "score", "overlay", "pre-enqueue", "queue-sort", "reserve", "permit", "pre-bind", "bind",
            "post-bind", "post-filter"],
        "columns": ["node.pods"], "placedPodFields": ["metadata.labels"], "watches": [watch()],
    });
    assert_eq!(scheduler("scheduler-full@2.0.0", all), "");
    for (section, old, new) in [
        (json!({"hooks": ["permit"]}), "scheduler.hooks[0]: \"permit\" is none of filter, score", ""),
        (
            json!({"hooks": [], "placedPodFields": ["spec"]}),
            "scheduler.placedPodFields: needs world version 2",
            "",
        ),
        (json!({"hooks": [], "watches": [watch()]}), "scheduler.watches: needs world version 2", ""),
        (json!({"hooks": [], "columns": ["node.pods"]}), "node.pods: needs world version 2", ""),
        (
            json!({"hooks": ["nonesuch"]}),
            "\"nonesuch\" is none of",
            "\"nonesuch\" is none of filter, score, overlay",
        ),
        (
            json!({"hooks": ["filter", "filter"]}),
            "is there twice",
            "scheduler.hooks[1]: \"filter\" is there twice",
        ),
        (
            json!({"hooks": [], "watches": [{"apiVersion": "", "resource": "x"}]}),
            "must not be empty",
            "scheduler.watches[0].*: apiVersion and resource must not be empty",
        ),
        (json!({"hooks": [], "watches": [{"resource": "x"}]}), "missing field", "missing field `apiVersion`"),
        (
            json!({"hooks": [], "watches": vec![watch(); 33]}),
            "more than 32",
            "scheduler.watches: has 33 items, more than 32",
        ),
        (json!({"hooks": [], "normalize": "best"}), "scheduler.normalize", "scheduler.normalize: must be"),
    ] {
        for (world, expected) in [("scheduler@1.0.0", old), ("scheduler@2.0.0", new)] {
            let said = scheduler(world, section.clone());
            assert!(said.contains(expected) && said.is_empty() == expected.is_empty(), "{world}: {said:?}");
        }
    }
}

#[test]
fn hosts_serve_older_minors_of_the_same_major() {
    let host = WorldRef::parse("orlop:admission/admission@1.2.0").unwrap();
    for (plugin, served) in [
        ("orlop:admission/admission@1.0.0", true),
        ("orlop:admission/admission@1.2.9", true),
        ("orlop:admission/admission@1.3.0", false),
        ("orlop:admission/admission@2.0.0", false),
        ("orlop:scheduler/scheduler@1.0.0", false),
    ] {
        assert_eq!(host.serves(&WorldRef::parse(plugin).unwrap()), served, "{plugin}");
    }
    assert_eq!(WorldRef::parse("orlop:admission/admission"), None);
    assert_eq!(WorldRef::parse("a@1.0"), None);
    assert_eq!(WorldRef::parse("a@1.0.0.0"), None);
}
