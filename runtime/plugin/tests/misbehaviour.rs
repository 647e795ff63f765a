//! Plugins that misbehave are refused or contained, each within its deadline.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "shared with other tests")]
#[path = "fixtures/support.rs"]
mod support;

use orlop_plugin::admission::{AdmissionWorld, Request};
use orlop_plugin::{Compiled, Plugin, PluginError, PluginOptions, Runtime, RuntimeOptions, Slot};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Far above every deadline, far below for ever: machines that run tests are busy.
const SOON: Duration = Duration::from_secs(20);

fn runtime() -> Runtime {
    Runtime::new(&RuntimeOptions::default()).unwrap()
}

fn link(runtime: &Runtime, compiled: &Compiled) -> Arc<Plugin<AdmissionWorld>> {
    let options = PluginOptions::from_manifest(compiled.manifest());
    Arc::new(runtime.link(compiled, options).unwrap())
}

fn slot(runtime: &Runtime, wasm: &[u8]) -> Slot<AdmissionWorld> {
    Slot::new(link(runtime, &runtime.compile(wasm).unwrap()))
}

fn request(name: &str) -> Request {
    Request {
        operation: 1,
        group: String::new(),
        version: "v1".into(),
        resource: "pods".into(),
        subresource: String::new(),
        kind: "Pod".into(),
        namespace: "default".into(),
        name: name.into(),
        dry_run: false,
        object: br#"{"metadata":{"name":"p"}}"#.to_vec(),
        old_object: Vec::new(),
        context: vec![b"null".to_vec()],
        attributes: b"{}".to_vec(),
        seed: 1,
    }
}

#[test]
fn a_good_plugin_answers_again_and_again() {
    let runtime = runtime();
    let mut slot = slot(&runtime, &support::plugin("Good", support::ALLOW));
    for n in [1, 3, 64] {
        let requests: Vec<Request> = (0..n).map(|i| request(&format!("p{i}"))).collect();
        let verdicts = slot.mutate(&requests).unwrap();
        assert_eq!(verdicts.len(), n);
        assert!(verdicts.iter().all(|v| v.allowed && v.patch.is_empty()));
    }
}

#[test]
fn each_misbehaviour_ends_in_its_error_and_leaves_the_others_alone() {
    let runtime = runtime();
    let mut good = slot(&runtime, &support::plugin("Good", support::ALLOW));
    for (what, body, reason) in support::BAD {
        let mut bad = slot(&runtime, &support::plugin("Bad", body));
        for _ in 0..2 {
            let begin = Instant::now();
            let error = bad.mutate(&[request("p")]).expect_err(what);
            assert_eq!(error.reason(), *reason, "{what}: {error}");
            assert!(begin.elapsed() < SOON, "{what}: {:?}", begin.elapsed());
        }
        assert!(bad.validate(&[request("p")]).is_ok(), "{what}: a new instance works");
        assert!(good.mutate(&[request("p")]).is_ok(), "{what}: others go on");
    }
}

#[test]
fn a_broken_instance_takes_no_further_calls() {
    let runtime = runtime();
    let compiled = runtime.compile(&support::plugin("Bad", "unreachable")).unwrap();
    let mut instance = link(&runtime, &compiled).instantiate().unwrap();
    instance.condemn();
    let error = instance.call(|_, _| Ok(())).unwrap_err();
    assert!(matches!(error, PluginError::Gone));
}

#[test]
fn what_cannot_be_a_plugin_is_refused_with_its_reason() {
    let runtime = runtime();
    let compile = |wasm: &[u8]| runtime.compile(wasm).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(compile(b"").contains("not a loadable WebAssembly plugin"));
    assert!(compile(b"\x7fELF").contains("does not begin with"));
    assert!(compile(b"\0asm\x01\0\0\0").contains("it has no manifest"));
    assert!(compile(b"\0asm\x09\0\0\0\0").contains("not a loadable"));

    let imports = compile(&support::importing("Wasi", "other:clocks/wall-clock@0.2.0"));
    assert!(imports.contains("it imports \"other:clocks/wall-clock@0.2.0\""), "{imports}");

    let newer = support::manifest("New").replace("admission@1.0.0", "admission@1.7.0");
    let newer = compile(&support::build(&newer, "", "(i32.const 32)", support::ALLOW));
    assert!(newer.contains("built for world orlop:admission/admission@1.7.0, this host serves"), "{newer}");
    let other = support::manifest("Other").replace("\"kind\": \"admission\"", "\"kind\": \"scheduler\"");
    let other = compile(&support::build(&other, "", "(i32.const 32)", support::ALLOW));
    assert!(other.contains("this host serves orlop:scheduler/"), "{other}");

    let mut twice = support::plugin("Twice", support::ALLOW);
    support::section(&mut twice, "orlop:manifest", support::manifest("Twice").as_bytes());
    assert!(compile(&twice).contains("more than one manifest"));

    let mut cut = support::plugin("Cut", support::ALLOW);
    cut.truncate(cut.len() / 2);
    assert!(!compile(&cut).is_empty());

    // No `component-type`: a plain module of another toolchain.
    let mut plain = wat::parse_str("(module (func (export \"f\")))").unwrap();
    support::section(&mut plain, "orlop:manifest", support::manifest("Plain").as_bytes());
    let plain = runtime.compile(&plain).and_then(|c| {
        runtime.link::<AdmissionWorld>(&c, PluginOptions::from_manifest(c.manifest()))?.self_test().map(drop)
    });
    let plain = plain.unwrap_err();
    assert_eq!(plain.reason(), "Incompatible", "{plain}");
}

#[test]
fn init_may_refuse_in_its_own_words() {
    let runtime = runtime();
    let compiled = runtime.compile(&support::refusing("Choosy")).unwrap();
    let error = link(&runtime, &compiled).self_test().err().unwrap();
    assert_eq!(error.to_string(), "init failed: no!!");
}

#[test]
fn start_up_is_limited_too() {
    let runtime = runtime();
    for (init, reason) in [
        ("unreachable", "Trap"),
        ("(loop $forever (br $forever)) unreachable", "Deadline"),
        ("(loop $more (drop (memory.grow (i32.const 16))) (br $more)) unreachable", "MemoryLimit"),
    ] {
        let wasm = support::build(&support::manifest("Bad"), "", init, support::ALLOW);
        let error = link(&runtime, &runtime.compile(&wasm).unwrap()).instantiate().err().unwrap();
        assert_eq!(error.reason(), reason, "{error}");
    }
}

#[test]
fn compiled_code_is_kept_on_disk_where_nobody_else_writes() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let wasm = support::plugin("Good", support::ALLOW);
    let options = RuntimeOptions { cache: Some(cache.clone()), ..RuntimeOptions::default() };
    for _ in 0..2 {
        let runtime = Runtime::new(&options).unwrap();
        assert!(slot(&runtime, &wasm).mutate(&[request("p")]).is_ok());
    }
    assert_eq!(std::fs::metadata(&cache).unwrap().permissions().mode() & 0o777, 0o700);
    let code: Vec<_> = std::fs::read_dir(&cache)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "cwasm"))
        .collect();
    assert_eq!(code.len(), 1);

    // A torn or tampered file is not executed but made again.
    let mut bytes = std::fs::read(&code[0]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    std::fs::write(&code[0], &bytes).unwrap();
    let runtime = Runtime::new(&options).unwrap();
    assert!(slot(&runtime, &wasm).mutate(&[request("p")]).is_ok());

    std::fs::set_permissions(&cache, std::fs::Permissions::from_mode(0o770)).unwrap();
    let error = Runtime::new(&options).err().unwrap();
    assert!(error.to_string().contains("cannot be used"), "{error}");
}

#[test]
fn instances_come_and_go_without_a_leak() {
    let runtime = runtime();
    let plugin = link(&runtime, &runtime.compile(&support::plugin("Good", support::ALLOW)).unwrap());
    for _ in 0..2_000 {
        let mut slot = Slot::new(plugin.clone());
        slot.mutate(&[request("p")]).unwrap();
        assert!(slot.instance().unwrap().0.memory_bytes() <= 1 << 20);
    }
}

#[test]
fn damaged_plugins_are_refused_or_contained() {
    let runtime = runtime();
    let good = support::plugin("Good", support::ALLOW);
    // A linear congruential generator: the same damage in every run.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below
    };
    let mut loaded = 0;
    for _ in 0..400 {
        let mut bytes = good.clone();
        for _ in 0..=next(3) {
            let at = next(bytes.len());
            bytes[at] = u8::try_from(next(256)).unwrap();
        }
        let begin = Instant::now();
        if let Ok(compiled) = runtime.compile(&bytes)
            && let Ok(plugin) =
                runtime.link::<AdmissionWorld>(&compiled, PluginOptions::from_manifest(compiled.manifest()))
        {
            // Whatever it answers, it answers in time.
            let _ = Slot::new(Arc::new(plugin)).mutate(&[request("p")]);
            loaded += 1;
        }
        assert!(begin.elapsed() < SOON);
    }
    assert!(loaded > 0, "some damage is in places that do not matter");
}
