//! `kill -9` at any instant loses no acknowledged write: a child process writes and reports each
//! acknowledgement, is killed in the middle, and the store is opened again and checked.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use bytes::Bytes;
use orlop_raft::{Options, RaftStore};
use orlop_store::{Compare, Op, OpResult, Range, Store, Txn};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const FOLDER: &str = "ORLOP_CRASH_TEST_FOLDER";
const WRITERS: u64 = 24;
const ROUNDS: usize = 8;

struct Running {
    store: Arc<RaftStore>,
    tracker: TaskTracker,
    cancel: CancellationToken,
}

async fn open(folder: &Path) -> Running {
    let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
    let store = RaftStore::open(folder, Options::default(), tracker.clone(), cancel.clone()).await.unwrap();
    Running { store, tracker, cancel }
}

impl Running {
    async fn close(self) {
        self.cancel.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

fn key(writer: u64) -> Bytes {
    Bytes::from(format!("/w/{writer}"))
}

/// One line, in one piece, out of this process for good.
fn report(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}

/// The child: does nothing unless the test below started it.
#[test]
fn writes_until_it_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    // The test's runner leaves "test NAME ... " on the line that it began.
    report("");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async move {
        let running = open(Path::new(&folder)).await;
        let mut tasks = tokio::task::JoinSet::new();
        for writer in 0..WRITERS {
            let store = running.store.clone();
            tasks.spawn(async move {
                let read = Range { start: key(writer), ..Range::default() };
                let now = store.range(read).await.unwrap().kvs.pop();
                let mut revision = now.as_ref().map_or(0, |kv| kv.mod_revision);
                let mut n: u64 = now.map_or(0, |kv| std::str::from_utf8(&kv.value).unwrap().parse().unwrap());
                loop {
                    n += 1;
                    let txn = Txn {
                        compares: vec![Compare::ModRevision { key: key(writer), revision }],
                        success: vec![Op::Put { key: key(writer), value: Bytes::from(n.to_string()) }],
                        failure: vec![],
                    };
                    let result = store.txn(txn).await.unwrap();
                    assert!(result.succeeded, "somebody else wrote {writer}");
                    let [OpResult::Put(kv)] = result.results.as_slice() else { panic!("{result:?}") };
                    revision = kv.mod_revision;
                    report(&format!("ack {writer} {n} {revision}"));
                    if n.is_multiple_of(50) && writer == 0 {
                        let _ = store.compact(revision - 20).await;
                    }
                }
            });
        }
        while tasks.join_next().await.is_some() {}
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_write_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("data");
    let mut acknowledged: HashMap<u64, (u64, u64)> = HashMap::new();
    let mut total = 0;
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writes_until_it_is_killed", "--nocapture", "--test-threads=1"])
            .env(FOLDER, &folder)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        // The child dies after another number of acknowledgements each time: while it starts, in
        // its first batch, in full flight.
        let until = [0, 1, 5, 40, 300, 900, 2500, 77][round % 8];
        let mut seen = 0;
        if until == 0 {
            child.kill().unwrap();
        }
        for line in out.lines() {
            let Ok(line) = line else { break };
            let Some(numbers) = line.strip_prefix("ack ") else { continue };
            let numbers: Vec<u64> = numbers.split(' ').map(|n| n.parse().unwrap()).collect();
            let [writer, n, revision] = numbers.as_slice() else { continue };
            acknowledged.insert(*writer, (*n, *revision));
            seen += 1;
            if seen == until {
                child.kill().unwrap();
            }
        }
        let status = child.wait().unwrap();
        assert!(!status.success(), "the child ended by itself");
        assert!(seen >= until, "the child stopped after {seen} writes: {status}");
        total += seen;
        let running = open(&folder).await;
        for writer in 0..WRITERS {
            let (n, revision) = acknowledged.get(&writer).copied().unwrap_or_default();
            let kv = running
                .store
                .range(Range { start: key(writer), ..Range::default() })
                .await
                .unwrap()
                .kvs
                .pop();
            let found: u64 =
                kv.as_ref().map_or(0, |kv| std::str::from_utf8(&kv.value).unwrap().parse().unwrap());
            // One more may have been written whose acknowledgement did not come out.
            assert!(
                found == n || found == n + 1,
                "round {round}: writer {writer} has {found}, acknowledged {n}"
            );
            if found == n && n > 0 {
                assert_eq!(kv.unwrap().mod_revision, revision, "the same revision as was acknowledged");
            }
            acknowledged.insert(writer, (found, revision));
        }
        running.close().await;
    }
    assert!(total >= 3800, "only {total} writes");
}
