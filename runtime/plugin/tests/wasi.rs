//! Programs that insist on WASI run, and find nothing behind it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "fixtures/command.rs"]
mod command;
#[allow(dead_code, reason = "shared with other tests")]
#[path = "fixtures/support.rs"]
mod support;

use orlop_plugin::admission::{AdmissionWorld, Request};
use orlop_plugin::{Observer, PluginError, PluginOptions, Runtime, RuntimeOptions, Slot};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

#[derive(Debug, Default)]
struct Log(Mutex<Vec<(u32, String)>>);

impl Observer for Log {
    fn log(&self, _plugin: &str, level: u32, message: &str) {
        self.0.lock().unwrap().push((level, message.to_owned()));
    }
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

/// The log of one call on each of two instances, and how the second ended.
fn run(manifest: &str, body: &str) -> (Vec<(u32, String)>, Result<(), PluginError>) {
    let log = Arc::new(Log::default());
    let options = RuntimeOptions { observer: Some(log.clone()), ..RuntimeOptions::default() };
    let runtime = Runtime::new(&options).unwrap();
    let compiled = runtime.compile(&command::command(manifest, body)).unwrap();
    let options = PluginOptions {
        deadline: Duration::from_secs(10),
        ..PluginOptions::from_manifest(compiled.manifest())
    };
    let mut slot = Slot::new(Arc::new(runtime.link::<AdmissionWorld>(&compiled, options).unwrap()));
    let _ = slot.mutate(&[request()]);
    slot.clear();
    let end = slot.mutate(&[request()]).map(|verdicts| assert!(verdicts[0].allowed));
    let said = std::mem::take(&mut *log.0.lock().unwrap());
    (said, end)
}

fn manifest() -> String {
    support::manifest("Program")
}

#[test]
fn output_goes_to_the_log_line_by_line() {
    let body = "(call $print (i32.const 1) (i32.const 128) (i32.const 11))
        (call $print (i32.const 2) (i32.const 128) (i32.const 5))";
    let (said, end) = run(&manifest(), body);
    end.unwrap();
    let once = [(2, "hello"), (2, "world"), (1, "hello")].map(|(level, line)| (level, line.to_owned()));
    // What has no end of line comes when the call ends, stdout first.
    assert_eq!(said, [once.clone(), once].concat());
}

#[test]
fn randomness_is_a_sequence_that_the_digest_determines() {
    let body = "(if (call $random_get (i32.const 4096) (i32.const 16)) (then unreachable))
        (call $hex (i32.const 4096) (i32.const 16))";
    let (said, end) = run(&manifest(), body);
    end.unwrap();
    assert_eq!(said.len(), 2);
    assert_eq!(said[0], said[1], "each instance starts anew");
    let (other, _) = run(&manifest().replace("Program", "Other"), body);
    assert_ne!(said[0], other[0], "another plugin draws other numbers");
    assert!(said[0].1.len() == 32 && said[0].1 != "0".repeat(32), "{said:?}");
}

#[test]
fn clocks_stand_still_unless_the_manifest_asks_for_time() {
    let body = "(if (call $clock_time_get (i32.const 0) (i64.const 1) (i32.const 4096)) (then unreachable))
        (i64.store (i32.const 4096) (i64.div_u (i64.load (i32.const 4096)) (i64.const 1000000000)))
        (call $hex (i32.const 4096) (i32.const 8))";
    let seconds = |line: &str| {
        let bytes = (0..8).map(|i| u8::from_str_radix(&line[i * 2..i * 2 + 2], 16).unwrap());
        u64::from_le_bytes(bytes.collect::<Vec<_>>().try_into().unwrap())
    };
    let (said, end) = run(&manifest(), body);
    end.unwrap();
    assert_eq!(seconds(&said[1].1), 946_684_800);
    let with_time = manifest().replacen('{', r#"{"wasi": {"time": true}, "#, 1);
    let (said, end) = run(&with_time, body);
    end.unwrap();
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    assert!(now.abs_diff(seconds(&said[1].1)) < 600, "{said:?}");
}

#[test]
fn there_are_no_files_no_environment_and_no_arguments() {
    // File 3 would be the first folder; 8 is EBADF.
    let body = "(if (i32.ne (call $prestat (i32.const 3) (i32.const 4096)) (i32.const 8)) (then unreachable))
        (i64.store (i32.const 4096) (i64.const -1))
        (if (call $environ (i32.const 4096) (i32.const 4100)) (then unreachable))
        (if (i64.ne (i64.load (i32.const 4096)) (i64.const 0)) (then unreachable))
        (i64.store (i32.const 4096) (i64.const -1))
        (if (call $args (i32.const 4096) (i32.const 4100)) (then unreachable))
        (if (i32.ne (i32.load (i32.const 4096)) (i32.const 0)) (then unreachable))";
    run(&manifest(), body).1.unwrap();
}

#[test]
fn nothing_waits() {
    // One subscription to the clock, in an hour.
    let body = "(i64.store (i32.const 4096) (i64.const 7))
        (i32.store (i32.const 4112) (i32.const 1))
        (i64.store (i32.const 4120) (i64.const 3600000000000))
        (if (call $poll (i32.const 4096) (i32.const 5000) (i32.const 1) (i32.const 6000)) (then unreachable))";
    let begun = Instant::now();
    run(&manifest(), body).1.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
}

#[test]
fn to_exit_is_to_trap_with_what_was_said_before() {
    let body = "(call $print (i32.const 2) (i32.const 128) (i32.const 5)) (call $exit (i32.const 3))";
    let error = run(&manifest(), body).1.unwrap_err();
    assert_eq!(error.reason(), "Trap");
    assert_eq!(error.to_string(), "trapped: it exits with a failure; it logged: hello");
}

#[test]
fn what_a_manifest_says_of_wasi_is_checked() {
    let parse =
        |text: String| orlop_plugin::Manifest::parse(text.as_bytes()).map(drop).map_err(|e| e.to_string());
    let with = |wasi: &str| parse(manifest().replacen('{', &format!("{{\"wasi\": {wasi}, "), 1));
    assert_eq!(with(r#"{"time": false}"#), Ok(()));
    assert!(with(r#"{"files": true}"#).unwrap_err().contains("unknown field `files`"));
}
