use super::*;
use crate::record::Entry;
use orlop_plugin::Digest;
use std::time::Duration;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

fn reconcile(monitor: &Monitor, plugin: &str, answer: &[u8]) {
    if monitor.listens(plugin) {
        let call = Asked::Reconcile(br#"{"items":[]}"#, Ok(answer));
        monitor.exchanged(&Exchange { plugin, digest: Digest::of(b"x"), config: b"{}", call });
    }
}

#[test]
fn the_tail_of_a_log_is_kept_and_followed() {
    let monitor = Monitor::default();
    for i in 0..1200 {
        monitor.log("p", 2, &format!("line {i}"));
    }
    monitor.log("other", 0, "not this");
    runtime().block_on(async {
        let mut lines = monitor.lines("p", 2, true);
        assert!(lines.next().await.unwrap().ends_with(b"INFO  line 1198\n"));
        assert!(lines.next().await.unwrap().ends_with(b"INFO  line 1199\n"));
        monitor.log("p", 0, "two\nlines");
        assert!(lines.next().await.unwrap().ends_with(b"ERROR two\\nlines\n"));
        let mut all = monitor.lines("p", usize::MAX, false);
        let mut count = 0;
        while all.next().await.is_some() {
            count += 1;
        }
        assert_eq!(count, 1000);
    });
}

#[test]
fn a_recording_ends_after_its_calls_and_takes_in_no_other_plugin() {
    let monitor = Monitor::default();
    reconcile(&monitor, "p", b"{}");
    let mut begun = monitor.begun();
    let mut recorded = monitor.record("p", Limit { calls: 2, time: Duration::from_secs(60) });
    assert!(begun.has_changed().unwrap());
    begun.borrow_and_update();
    for plugin in ["p", "q", "p", "p"] {
        reconcile(&monitor, plugin, br#"{"plans":[]}"#);
    }
    let lines = runtime().block_on(async {
        let mut lines = Vec::new();
        while let Some(line) = recorded.next().await {
            lines.push(line);
        }
        lines
    });
    assert_eq!(lines.len(), 4, "header, opened, two calls");
    let entry: Entry = serde_json::from_slice(&lines[3]).unwrap();
    let Entry::Called { call: Call::Reconcile { request }, outcome, .. } = entry else { panic!("{entry:?}") };
    assert_eq!(request, r#"{"items":[]}"#);
    assert_eq!(outcome, Outcome::Answer(serde_json::json!({"plans": []})));
    assert!(!monitor.listens("p"), "nothing is paid for once it is over");
}

#[test]
fn a_recording_ends_after_its_time_and_with_its_listener() {
    runtime().block_on(async {
        let monitor = Monitor::default();
        let mut recorded = monitor.record("p", Limit { calls: 100, time: Duration::from_millis(30) });
        assert!(recorded.next().await.is_some(), "the header");
        assert!(recorded.next().await.is_none());
        assert!(!monitor.listens("p"));
        let recorded = monitor.record("p", Limit { calls: 100, time: Duration::from_secs(5) });
        assert!(monitor.listens("p"));
        drop(recorded);
        assert!(!monitor.listens("p"));
    });
}

#[test]
fn what_the_listener_is_too_slow_for_is_counted() {
    let monitor = Monitor::default();
    let mut recorded = monitor.record("p", Limit { calls: 10_000, time: Duration::from_secs(60) });
    for _ in 0..2000 {
        reconcile(&monitor, "p", b"{}");
    }
    runtime().block_on(async {
        for _ in 0..1024 {
            recorded.next().await.unwrap();
        }
        reconcile(&monitor, "p", b"{}");
        let entry: Entry = serde_json::from_slice(&recorded.next().await.unwrap()).unwrap();
        assert_eq!(entry, Entry::Dropped(2000 - 1022));
    });
}
