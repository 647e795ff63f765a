use super::*;
use crate::record::{Delta, Dictionary, Outcome, U32Column, bits};
use serde_json::{Value, json};

fn answer(value: Value) -> Outcome {
    Outcome::Answer(value)
}

/// Three nodes, of which two have names.
fn names() -> Names {
    let mut names = Names::default();
    names.learn(&Call::Sync {
        delta: Delta {
            full: true,
            slots: 3,
            rows: vec![0, 1],
            dictionaries: vec![Dictionary { dictionary: 1, first: 0, entries: vec!["a".into(), "b".into()] }],
            u32_columns: vec![U32Column { column: 32, values: vec![0, 1] }],
            ..Delta::default()
        },
    });
    names.learn(&Call::Prepare { class: 7, pod: "{\"x\":1}".to_owned() });
    names
}

#[test]
fn nodes_that_fit_and_do_not_are_counted_and_named() {
    let mut part = Part::default();
    let call = Call::Filter { class: 7, rows: None };
    let names = names();
    describe::compare(
        &mut part,
        &names,
        &call,
        &answer(json!(bits(&[0b001]))),
        &answer(json!(bits(&[0b110]))),
    );
    describe::compare(&mut part, &names, &call, &answer(json!(bits(&[1]))), &answer(json!(bits(&[1]))));
    assert_eq!((part.asked, part.different), (2, 1));
    assert_eq!(part.totals["nodes that fit now"], 2);
    assert_eq!(part.totals["nodes that do not fit any more"], 1);
    assert_eq!(part.examples, ["pod {\"x\":1}: fits now: b, slot 2; does not fit any more: a"]);
    let mut part = Part::default();
    let call = Call::Filter { class: 7, rows: Some(vec![1]) };
    describe::compare(&mut part, &names, &call, &answer(json!(bits(&[0]))), &answer(json!(bits(&[1]))));
    assert_eq!(part.examples, ["pod {\"x\":1}: fits now: b"], "positions are rows");
}

#[test]
fn scores_verdicts_and_plans_are_compared_one_by_one() {
    let names = names();
    let mut part = Part::default();
    let call = Call::Score { class: 7, rows: None };
    describe::compare(&mut part, &names, &call, &answer(json!([1, 50, 3])), &answer(json!([1, 60, 100])));
    assert_eq!(part.totals["scores that changed"], 2);
    assert!(part.examples[0].ends_with("slot 2 3 -> 100, b 50 -> 60"), "{:?}", part.examples);

    let mut part = Part::default();
    let request =
        crate::record::AdmissionRequest { resource: "pods".into(), name: "p".into(), ..Default::default() };
    let call = Call::Validate { requests: vec![request.clone(), request] };
    let (yes, no) = (json!({ "allowed": true }), json!({ "allowed": false }));
    describe::compare(&mut part, &names, &call, &answer(json!([yes, yes])), &answer(json!([yes, no])));
    assert_eq!((part.asked, part.different, part.totals["refused now"]), (2, 1, 1));

    let mut part = Part::default();
    let call = Call::Reconcile { request: json!({ "items": [{ "key": { "name": "k" } }] }).to_string() };
    let failed = Outcome::Failure(crate::record::Failure { reason: "Trap".into(), message: "m".into() });
    describe::compare(&mut part, &names, &call, &answer(json!({ "plans": [{}] })), &failed);
    describe::compare(
        &mut part,
        &names,
        &call,
        &answer(json!({ "plans": [{}] })),
        &answer(json!({ "plans": [{ "writes": [{}] }] })),
    );
    assert_eq!((part.asked, part.different), (2, 2));
    assert_eq!(part.totals["failures of the new version"], 1);
    assert_eq!(part.totals["writes of the new version in these plans"], 1);
}

#[test]
fn a_new_version_that_reads_more_is_told_apart() {
    let manifest = |columns: Value, fields: Value| -> Manifest {
        let json = json!({ "manifestVersion": 1, "name": "p", "kind": "scheduler", "world": "w",
            "scheduler": { "hooks": ["filter"], "columns": columns, "podFields": fields } });
        serde_json::from_value(json).unwrap()
    };
    let old = manifest(json!(["node.labels"]), json!(["spec.x"]));
    assert_eq!(reads_more(&old, &manifest(json!([]), json!(["spec.x"]))), Vec::<String>::new());
    let more = reads_more(&old, &manifest(json!(["node.labels", "node.taints"]), json!(["spec.y"])));
    assert_eq!(more, ["column node.taints", "pod field spec.y"]);
}
