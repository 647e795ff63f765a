//! The data folder: whose it is, full disks, starting again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use bytes::Bytes;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use orlop_raft::{OpenError, Options, RaftStore};
use orlop_store::{Op, Range, Store, StoreError, Txn};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

struct Running {
    store: Arc<RaftStore>,
    tracker: TaskTracker,
    cancel: CancellationToken,
}

async fn try_open(folder: &Path, options: Options) -> Result<Running, OpenError> {
    let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
    let store = RaftStore::open(folder, options, tracker.clone(), cancel.clone()).await?;
    Ok(Running { store, tracker, cancel })
}

async fn open(folder: &Path) -> Running {
    try_open(folder, Options::default()).await.unwrap()
}

impl Running {
    /// Ends everything, while somebody still has a handle to the store.
    async fn close(self) -> Arc<RaftStore> {
        self.cancel.cancel();
        self.tracker.close();
        self.tracker.wait().await;
        self.store
    }
}

fn put(key: &str, value: Bytes) -> Txn {
    Txn { success: vec![Op::Put { key: Bytes::copy_from_slice(key.as_bytes()), value }], ..Txn::default() }
}

async fn refusal(folder: &Path) -> OpenError {
    match try_open(folder, Options::default()).await {
        Ok(_) => panic!("{} was opened", folder.display()),
        Err(error) => error,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_store_opens_again_where_it_was() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("data");
    let mut revision = 0;
    for round in 1..=3u64 {
        let running = open(&folder).await;
        assert_eq!(running.store.revision(), revision);
        for n in 0..500 {
            revision = running
                .store
                .txn(put(&format!("k{n}"), Bytes::from(round.to_string())))
                .await
                .unwrap()
                .revision;
        }
        assert_eq!(revision, round * 500);
        if round == 2 {
            running.store.compact(700).await.unwrap();
        }
        let closed = running.close().await;
        assert!(matches!(closed.range(Range::default()).await, Err(StoreError::Unavailable)));
        assert!(matches!(closed.txn(put("k", Bytes::new())).await, Err(StoreError::Unavailable)));
    }
    let running = open(&folder).await;
    let past = |revision| Range { start: "k0".into(), revision, ..Range::default() };
    assert!(matches!(running.store.range(past(699)).await, Err(StoreError::Compacted { .. })));
    let then = running.store.range(past(700)).await.unwrap();
    assert_eq!(then.kvs.first().map(|kv| kv.value.clone()), Some(Bytes::from_static(b"2")));
    running.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn folders_that_cannot_be_used() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("used");
    let running = open(&folder).await;
    let error = refusal(&folder).await;
    assert!(matches!(&error, OpenError::Locked { .. }), "{error}");
    assert!(error.to_string().contains(&format!("in use by process {}", std::process::id())), "{error}");
    running.close().await;
    std::fs::write(folder.join("format"), "orlop store format 99\n").unwrap();
    let error = refusal(&folder).await;
    assert!(
        error.to_string().contains("has format version 99, this program reads and writes version 1"),
        "{error}"
    );

    let foreign = temp.path().join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("holiday.jpg"), "x").unwrap();
    let error = refusal(&foreign).await;
    assert!(matches!(&error, OpenError::Foreign { .. }), "{error}");
    assert_eq!(std::fs::read_dir(&foreign).unwrap().count(), 1, "nothing was left in it");

    let file = temp.path().join("file");
    std::fs::write(&file, "x").unwrap();
    assert!(matches!(refusal(&file).await, OpenError::Io { .. }));
}

fn damage(folder: &Path) -> usize {
    let mut damaged = 0;
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            damaged += damage(&path);
        } else if entry.file_name() != "lock" && entry.metadata().unwrap().len() > 0 {
            let len = entry.metadata().unwrap().len().min(1 << 16) as usize;
            std::fs::write(&path, vec![0x5a; len]).unwrap();
            damaged += 1;
        }
    }
    damaged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn corrupt_folders_are_refused() {
    for part in ["log", "state"] {
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path().join("data");
        let running = open(&folder).await;
        for n in 0..100 {
            running.store.txn(put(&format!("k{n}"), Bytes::from_static(b"v"))).await.unwrap();
        }
        running.close().await;
        assert!(damage(&folder.join(part)) > 2);
        let error = refusal(&folder).await;
        assert!(matches!(&error, OpenError::Corrupt { .. }), "{part}: {error:?}");
        assert!(error.to_string().contains("restore the folder from a backup"), "{error}");
    }
}

struct Tmpfs(PathBuf);

impl Tmpfs {
    fn new(path: &Path, size: &str) -> Self {
        std::fs::create_dir_all(path).unwrap();
        mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some(format!("size={size}").as_str()))
            .expect("this test mounts a tmpfs and must run as root");
        Self(path.to_owned())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_writes_until_there_is_space() {
    let temp = tempfile::tempdir().unwrap();
    let disk = Tmpfs::new(&temp.path().join("disk"), "96m");
    let filler = disk.0.join("filler");
    std::fs::write(&filler, vec![0; 40 << 20]).unwrap();
    let folder = disk.0.join("data");
    let options = Options { min_free_bytes: 16 << 20, ..Options::default() };
    let running = try_open(&folder, options.clone()).await.unwrap();
    let value = Bytes::from(vec![7; 256 << 10]);
    let mut written = 0;
    let error = loop {
        match running.store.txn(put(&format!("big{written}"), value.clone())).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 1000, "the disk is never full");
    };
    assert!(matches!(error, StoreError::NoSpace), "{error}");
    assert!(written > 4, "only {written} writes went through");
    // Reads, deletions and compactions go on.
    let one = Range { start: "big0".into(), ..Range::default() };
    assert_eq!(
        running.store.range(one).await.unwrap().kvs.first().map(|kv| kv.value.clone()),
        Some(value.clone())
    );
    let delete = Txn { success: vec![Op::Delete { key: "big1".into() }], ..Txn::default() };
    running.store.txn(delete).await.unwrap();
    running.store.compact(running.store.revision()).await.unwrap();
    assert!(matches!(running.store.txn(put("small", Bytes::new())).await, Err(StoreError::NoSpace)));
    std::fs::remove_file(&filler).unwrap();
    running.store.txn(put("small", Bytes::from_static(b"x"))).await.unwrap();
    running.close().await;
    let running = try_open(&folder, options).await.unwrap();
    let all =
        running.store.range(Range { start: "".into(), end: "\0".into(), ..Range::default() }).await.unwrap();
    assert_eq!(all.count, written, "all but one of the big ones, and the small one");
    running.close().await;
}

/// Without a reserve the engine itself hits the end of the disk, in the middle of whatever it does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_ran_out_of_space_reads_on_and_loses_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let disk = Tmpfs::new(&temp.path().join("disk"), "64m");
    let filler = disk.0.join("filler");
    std::fs::write(&filler, vec![0; 40 << 20]).unwrap();
    let folder = disk.0.join("data");
    let options = Options { min_free_bytes: 0, ..Options::default() };
    let running = try_open(&folder, options.clone()).await.unwrap();
    let value = Bytes::from((0..256 << 10).map(|n| ((n * 7919) >> 3) as u8).collect::<Vec<_>>());
    let mut written = 0u64;
    let error = loop {
        match running.store.txn(put(&format!("big{written}"), value.clone())).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 1000, "the disk is never full");
    };
    assert!(matches!(error, StoreError::NoSpace), "{error}");
    assert!(written > 4, "only {written} writes went through");
    assert!(matches!(running.store.txn(put("small", Bytes::new())).await, Err(StoreError::NoSpace)));
    let all = || Range { start: "".into(), end: "\0".into(), ..Range::default() };
    assert_eq!(running.store.range(all()).await.unwrap().count, written);
    std::fs::remove_file(&filler).unwrap();
    let error = running.store.txn(put("small", Bytes::new())).await.unwrap_err();
    assert!(error.to_string().contains("restart the program"), "{error}");
    running.close().await;
    let running = try_open(&folder, options).await.unwrap();
    let after = running.store.range(all()).await.unwrap();
    assert!(after.count == written || after.count == written + 1, "{} of {written}", after.count);
    assert!(after.kvs.iter().all(|kv| kv.value == value));
    running.store.txn(put("small", Bytes::new())).await.unwrap();
    running.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_keys_open_soon() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("data");
    let started = Instant::now();
    let running = open(&folder).await;
    let empty = started.elapsed();
    let mut writes = tokio::task::JoinSet::new();
    for n in 0..10_000 {
        let store = running.store.clone();
        writes
            .spawn(async move { store.txn(put(&format!("/k/{n}"), vec![b'v'; 300].into())).await.unwrap() });
    }
    assert_eq!(writes.join_all().await.len(), 10_000);
    running.close().await;
    let started = Instant::now();
    let running = open(&folder).await;
    let full = started.elapsed();
    println!("empty {empty:?}, 10,000 keys {full:?}");
    assert_eq!(running.store.revision(), 10_000);
    // The goal is 100 ms in a release build; this only catches what is out of all proportion.
    assert!(empty + full < Duration::from_secs(20), "empty {empty:?}, full {full:?}");
    running.close().await;
}
