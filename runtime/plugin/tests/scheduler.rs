//! Answers of scheduler plugins are checked, each against all that its interface says.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "fixtures/scheduler.rs"]
mod fixture;
#[allow(dead_code, reason = "shared with other tests")]
#[path = "fixtures/support.rs"]
mod support;

use fixture::{OPTIONAL, build, list, manifest, parts, words};
use orlop_plugin::scheduler::{Change, Delta, Placement, Pods, SchedulerWorld, bind, prepared};
use orlop_plugin::{Instance, Plugin, PluginError, PluginOptions, Runtime, RuntimeOptions};
use std::time::{Duration, Instant};

const HOOKS: &str = r#"{"hooks": ["filter", "score", "overlay", "pre-enqueue", "queue-sort", "reserve", "permit",
    "pre-bind", "bind", "post-bind", "post-filter"], "normalize": "default",
    "watches": [{"apiVersion": "v1", "resource": "configmaps"}]}"#;

fn link(wasm: &[u8]) -> Result<Plugin<SchedulerWorld>, PluginError> {
    let runtime = Runtime::new(&RuntimeOptions::default()).unwrap();
    let compiled = runtime.compile(wasm)?;
    runtime.link(&compiled, PluginOptions::from_manifest(compiled.manifest()))
}

const EMPTY: Delta<'static> = Delta {
    full: true,
    slots: 70,
    rows: &[],
    live: &[],
    dictionaries: &[],
    s64_columns: &[],
    u32_columns: &[],
    list_columns: &[],
};

const ROWS: Delta<'static> = Delta { full: false, rows: &[3, 3, 4], live: &[0b111], ..EMPTY };

const PLACEMENT: Placement<'static> =
    Placement { pod: 1, namespace: "shop", name: "web", uid: "u", fields: b"{}", slot: 3, node: "n" };

/// Two candidates, with two pods and one.
const PODS: Pods<'static> = Pods {
    offsets: &[0, 2, 3],
    priorities: &[0, 1, 2],
    started: &[0, 0, 0],
    violating: &[0, 0, 0],
    terminating: &[0, 0, 0],
};

type Bound = Instance<SchedulerWorld>;
type Ask = fn(&mut Bound) -> Result<(), PluginError>;

fn ask(function: &str) -> Ask {
    match function {
        "plugin.sync" => |i| i.sync(&EMPTY).map(drop),
        "plugin.prepare" => |i| i.prepare(2, b"{}").map(drop),
        "plugin.release" => |i| i.release(2),
        "plugin.filter" => |i| i.filter(1, &[]).map(drop),
        "plugin.score" => |i| i.score(1, &[0, 1]).map(drop),
        "plugin.score-raw" => |i| i.score_raw(1, &[0, 1]).map(drop),
        "plugin.normalize" => |i| i.normalize(1, &[0], &[0, 1]).map(drop),
        "plugin.explain" => |i| i.explain(1, &[0, 1]).map(drop),
        "overlay.filter" => |i| i.overlay(1, &ROWS).map(drop),
        "objects.update" => |i| {
            let change = Change { watch: 0, namespace: "a", name: "b", object: b"{}" };
            i.update_objects(true, &[change]).map(drop)
        },
        "queue.pre-enqueue" => |i| i.pre_enqueue(b"{}").map(drop),
        "queue.sort-key" => |i| i.sort_key(b"{}").map(drop),
        "placing.reserve" => |i| i.reserve(&PLACEMENT).map(drop),
        "placing.unreserve" => |i| i.unreserve(&PLACEMENT).map(drop),
        "placing.permit" => |i| i.permit(&PLACEMENT).map(drop),
        "placing.pre-bind" => |i| i.pre_bind(&PLACEMENT).map(drop),
        "placing.bind" => |i| i.bind(&PLACEMENT).map(drop),
        "placing.post-bind" => |i| i.post_bind(&PLACEMENT),
        "preemption.eligible" => |i| i.eligible(b"{}", 5, false).map(drop),
        "preemption.victims" => |i| i.victims(b"{}", &PODS).map(drop),
        "preemption.choose" => |i| i.choose(b"{}", &PODS).map(drop),
        other => panic!("no such function: {other}"),
    }
}

/// An instance with `body` as `function`, which knows 70 slots and has class 1 prepared.
fn instance(function: &str, body: &str) -> Bound {
    let plugin = link(&build(&manifest(HOOKS), &OPTIONAL, &[(function, body)])).unwrap();
    let mut instance = plugin.instantiate().unwrap();
    if function != "plugin.sync" {
        instance.sync(&EMPTY).unwrap();
    }
    if function != "plugin.prepare" {
        instance.prepare(1, b"{}").unwrap().unwrap();
    }
    instance
}

#[test]
fn every_wrong_answer_is_found_and_ends_the_instance() {
    let two_words = list(2, &[0xff; 16]);
    let synced = |stale: &[u32]| parts(&[7, 0], &[(stale.len(), &words(stale))]);
    // A result: 0, then flags and a message.
    let flags = |bits: u32, message: &[u8]| parts(&[0, bits], &[(message.len(), message)]);
    let text_at = |at: u32, length: u32| [at.to_le_bytes(), length.to_le_bytes()].concat();
    let reason = |code: u32| [text_at(0, 0), code.to_le_bytes().to_vec()].concat();
    let explain = |reasons: &[u8], offsets: &[u32], refs: &[u32]| {
        let lists =
            [(reasons.len() / 12, reasons), (offsets.len(), &words(offsets)), (refs.len(), &words(refs))];
        parts(&[], &lists)
    };
    let decision = |code: u32| [words(&[9, 0, code]), text_at(0, 0), words(&[0])].concat();
    let verdict = |code, wait| parts(&[code, wait, 0, 0], &[(0, &[])]);
    let cases: Vec<(&str, String, &str)> = vec![
        ("plugin.sync", synced(&[5]), "class 5 is called stale, which is not prepared"),
        ("plugin.sync", synced(&[1, 1]), "2 stale classes where 1 are prepared"),
        ("objects.update", list(1, &words(&[9])), "class 9 is called stale"),
        ("plugin.prepare", flags(1 << 6, b""), "reserved flags are set: 0x40"),
        ("plugin.prepare", flags(1 << 31, b""), "reserved flags"),
        ("plugin.prepare", flags(1 << 3, b""), "but not that none does"),
        ("plugin.prepare", flags(0, b"why"), "but not that none does"),
        ("plugin.filter", list(1, &[0xff; 8]), "1 words of a bit set where 2 are due"),
        ("plugin.filter", list(3, &[0xff; 24]), "3 words of a bit set where 2 are due"),
        ("plugin.score", list(1, &[50]), "1 scores where 2 are due"),
        ("plugin.score", list(2, &[50, 101]), "a score of 101, above 100"),
        ("plugin.score-raw", list(3, &[0; 24]), "3 scores where 2 are due"),
        ("plugin.score-raw", two_words.clone(), "a raw score of -1, below 0"),
        ("plugin.normalize", list(2, &[0, 255]), "a score of 255, above 100"),
        ("plugin.normalize", list(70, &[0; 70]), "70 scores where 2 are due"),
        ("plugin.explain", explain(&reason(0), &[0, 1], &[0]), "2 offsets where 3 are due"),
        ("plugin.explain", explain(&reason(0), &[1, 1, 1], &[0]), "do not begin at 0 or descend"),
        ("plugin.explain", explain(&reason(0), &[0, 1, 0], &[0]), "do not begin at 0 or descend"),
        ("plugin.explain", explain(&reason(0), &[0, 1, 2], &[0]), "go beyond the 1 references"),
        ("plugin.explain", explain(&reason(0), &[0, 1, 1], &[1]), "reference to reason 1 of 1"),
        ("plugin.explain", explain(&reason(2), &[0, 1, 1], &[0]), "a reason with the reserved code 2"),
        ("overlay.filter", two_words.clone(), "2 words of a bit set where 1 are due"),
        ("queue.sort-key", list(17, &[0; 136]), "a sort key of 17 numbers, more than 16"),
        ("placing.unreserve", list(1, &decision(1)), "a decision with the reserved code 1"),
        ("placing.permit", verdict(3, 0), "a verdict with the reserved code 3"),
        ("placing.permit", verdict(1, 900_001), "a wait of 900001 ms"),
        ("placing.permit", parts(&[0, 0, 0, 0], &[(1, &decision(7))]), "a decision with the reserved code 7"),
        ("placing.pre-bind", verdict(u32::MAX, 0), "a verdict with the reserved code 4294967295"),
        (
            "placing.pre-bind",
            parts(&[0, 0, 0, 0], &[(1, &text_at(8400, 2)), (2, b"[]")]),
            "write 0 is not a JSON object",
        ),
        ("placing.pre-bind", parts(&[0, 0, 0, 0], &[(257, &[])]), "257 writes, more than 256"),
        ("placing.bind", parts(&[3], &[(0, &[])]), "bind with the reserved code 3"),
        ("placing.bind", parts(&[2], &[(0, &[])]), "bind with code 2 and 0 writes"),
        ("placing.bind", parts(&[0], &[(1, &text_at(0, 0))]), "bind with code 0 and 1 writes"),
        ("preemption.victims", list(1, &words(&[3])), "victim 3 is named twice or is none of the 3 pods"),
        ("preemption.victims", list(2, &words(&[1, 1])), "victim 1 is named twice"),
        ("preemption.victims", list(2, &words(&[2, 0])), "belongs to a candidate before"),
        ("preemption.choose", "(i32.const 2)".to_owned(), "candidate 2 of 2"),
    ];
    for (function, body, expected) in &cases {
        let mut bound = instance(function, body);
        let error = ask(function)(&mut bound).expect_err(expected);
        assert!(error.to_string().contains(expected), "{function}: {error} does not say {expected}");
        assert_eq!(error.reason(), "BadOutput", "{function}: {error}");
        assert!(bound.is_gone() && matches!(bound.release(1), Err(PluginError::Gone)), "{function}");
    }
}

#[test]
fn every_function_is_contained() {
    const BODIES: [(&str, &str); 5] = [
        ("unreachable", "Trap"),
        ("(i32.load (i32.const -16)) unreachable", "Trap"),
        ("(call $recurse (i32.const 0)) unreachable", "Trap"),
        ("(loop $forever (br $forever)) unreachable", "Deadline"),
        ("(loop $more (drop (memory.grow (i32.const 16))) (br $more)) unreachable", "MemoryLimit"),
    ];
    let functions = [
        "plugin.sync",
        "plugin.prepare",
        "plugin.release",
        "plugin.filter",
        "plugin.score",
        "plugin.score-raw",
        "plugin.normalize",
        "plugin.explain",
        "overlay.filter",
        "objects.update",
        "queue.pre-enqueue",
        "queue.sort-key",
        "placing.reserve",
        "placing.unreserve",
        "placing.permit",
        "placing.pre-bind",
        "placing.bind",
        "placing.post-bind",
        "preemption.eligible",
        "preemption.victims",
        "preemption.choose",
    ];
    for (i, function) in functions.iter().enumerate() {
        let (body, reason) = BODIES[i % BODIES.len()];
        let mut bound = instance(function, body);
        let begun = Instant::now();
        let error = ask(function)(&mut bound).expect_err(function);
        assert_eq!(error.reason(), reason, "{function}: {error}");
        assert!(begun.elapsed() < Duration::from_secs(20), "{function}: {:?}", begun.elapsed());
        assert!(bound.is_gone(), "{function}");
    }
}

#[test]
fn bits_beyond_the_last_row_are_cleared() {
    let all = list(2, &[0xff; 16]);
    assert_eq!(instance("plugin.filter", &all).filter(1, &[]).unwrap(), [u64::MAX, 0b11_1111]);
    let one = list(1, &[0xff; 8]);
    assert_eq!(instance("plugin.filter", &one).filter(1, &[5, 6]).unwrap(), [0b11]);
    assert_eq!(instance("overlay.filter", &one).overlay(1, &ROWS).unwrap(), [0b111]);
}

#[test]
fn good_answers_come_through() {
    let mut bound = instance("plugin.sync", &parts(&[7, 1], &[(1, &words(&[0]))]));
    let synced = bound.sync(&EMPTY).unwrap();
    assert_eq!((synced.checksum, synced.stale), (7 | 1 << 32, vec![0]));
    let all = prepared::REJECTED | prepared::UNRESOLVABLE | prepared::READS_OBJECTS | prepared::SKIP_PLACING;
    let mut bound = instance("plugin.prepare", &parts(&[0, all], &[(3, b"why")]));
    let answer = bound.prepare(2, b"{}").unwrap().unwrap();
    assert_eq!((answer.flags, answer.message.as_str()), (all, "why"));
    assert_eq!(bound.prepare(3, b"{}").unwrap().unwrap().flags, all);
    let mut bound = instance("objects.update", &list(1, &words(&[1])));
    assert_eq!(bound.update_objects(false, &[]).unwrap(), [1]);
    bound.release(1).unwrap();
    assert!(bound.update_objects(false, &[]).is_err(), "a class that was released is not prepared");
    let mut bound = instance("queue.sort-key", &list(2, &words(&[1, 0, u32::MAX, u32::MAX])));
    assert_eq!(bound.sort_key(b"{}").unwrap(), [1, -1]);
    assert_eq!(bound.pre_enqueue(b"{}").unwrap(), None);
    assert_eq!(bound.reserve(&PLACEMENT).unwrap(), Ok(()));
    assert_eq!(bound.bind(&PLACEMENT).unwrap(), (bind::HOST, vec![]));
    assert_eq!(bound.unreserve(&PLACEMENT).unwrap().len(), 0);
    assert_eq!(bound.post_bind(&PLACEMENT).unwrap(), ());
    assert_eq!(bound.choose(b"{}", &PODS).unwrap(), 0);
    let mut bound = instance("placing.permit", &parts(&[1, 900_000, 0, 0], &[(0, &[])]));
    assert_eq!(bound.permit(&PLACEMENT).unwrap().0.timeout_milliseconds, 900_000);
    let writes = [words(&[9216, 2]).as_slice(), &[]].concat();
    let mut bound = instance("placing.bind", &parts(&[bind::WRITES], &[(1, &writes), (2, b"{}")]));
    assert_eq!(bound.bind(&PLACEMENT).unwrap(), (bind::WRITES, vec![b"{}".to_vec()]));
    let mut bound = instance("preemption.victims", &list(3, &words(&[1, 0, 2])));
    assert_eq!(bound.victims(b"{}", &PODS).unwrap(), [1, 0, 2]);
    // More nodes than there are stand for all of them.
    let mut bound = instance("preemption.eligible", &parts(&[0, 100], &[]));
    assert_eq!(bound.eligible(b"{}", 5, false).unwrap(), Ok(5));
}

#[test]
fn a_hook_without_its_interface_is_refused_when_it_is_linked() {
    let refused = |section: &str, interfaces: &[&str]| {
        let error = link(&build(&manifest(section), interfaces, &[])).err();
        error.map(|e| (e.reason(), e.to_string()))
    };
    for (interface, section) in [
        ("overlay", r#"{"hooks": ["filter", "overlay"]}"#),
        ("objects", r#"{"hooks": ["filter"], "watches": [{"apiVersion": "v1", "resource": "pods"}]}"#),
        ("queue", r#"{"hooks": ["queue-sort"]}"#),
        ("placing", r#"{"hooks": ["permit"]}"#),
        ("preemption", r#"{"hooks": ["post-filter"]}"#),
    ] {
        let others: Vec<&str> = OPTIONAL.into_iter().filter(|i| *i != interface).collect();
        let (reason, said) = refused(section, &others).expect(interface);
        let expected = format!("which needs the interface orlop:scheduler/{interface}@2");
        assert!(reason == "Incompatible" && said.contains(&expected), "{said}");
        assert_eq!(refused(section, &[interface]), None);
    }
    // Interfaces that no hook asks for do not matter, and neither do those that are not there.
    assert_eq!(refused(r#"{"hooks": ["filter"]}"#, &[]), None);
    let first = manifest(r#"{"hooks": ["filter"]}"#).replace("scheduler-full@2.0.0", "scheduler@1.0.0");
    let said = link(&build(&first, &[], &[])).err().unwrap().to_string();
    assert!(said.contains("names world orlop:scheduler/scheduler@1.0.0, but it does not export"), "{said}");
}
