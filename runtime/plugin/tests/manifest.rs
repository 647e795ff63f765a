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
