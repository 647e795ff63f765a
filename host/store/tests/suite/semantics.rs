//! What every backend of the store must do. Each test binary that includes this file says how to
//! open an empty store.

use bytes::Bytes;
use orlop_store::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub(crate) type Opened = Arc<dyn Store>;

const PATIENCE: Duration = Duration::from_secs(30);

fn b(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn put_op(key: &str, value: &str) -> Op {
    Op::Put { key: b(key), value: b(value) }
}

pub(crate) async fn put(store: &dyn Store, key: &str, value: &str) -> u64 {
    let txn = Txn { success: vec![put_op(key, value)], ..Txn::default() };
    store.txn(txn).await.unwrap().revision
}

async fn delete(store: &dyn Store, key: &str) -> u64 {
    let txn = Txn { success: vec![Op::Delete { key: b(key) }], ..Txn::default() };
    store.txn(txn).await.unwrap().revision
}

async fn get(store: &dyn Store, key: &str) -> Option<KeyValue> {
    store.range(Range { start: b(key), ..Range::default() }).await.unwrap().kvs.pop()
}

async fn list_at(store: &dyn Store, start: &str, end: &str, revision: u64) -> Vec<(String, String)> {
    let result =
        store.range(Range { start: b(start), end: b(end), revision, ..Range::default() }).await.unwrap();
    result.kvs.iter().map(|kv| (text(&kv.key), text(&kv.value))).collect()
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Reads events until the watch has reached `revision`, checking what holds for every watch.
async fn events_until(rx: &mut WatchReceiver, after: u64, revision: u64) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    let mut reached = after;
    while reached < revision {
        let batch =
            tokio::time::timeout(PATIENCE, rx.recv()).await.expect("no event").expect("the end").unwrap();
        assert!(batch.revision >= reached, "a watch goes back from {reached} to {}", batch.revision);
        for event in batch.events.iter() {
            let last = events.last().map_or(after, |e| e.kv.mod_revision);
            assert!(event.kv.mod_revision >= last, "out of order");
            assert!(event.kv.mod_revision > reached || batch.revision == reached, "twice or too late");
            assert!(event.kv.mod_revision <= batch.revision, "an event beyond the batch's revision");
            events.push(event.clone());
        }
        reached = batch.revision;
    }
    events
}

fn brief(events: &[Event]) -> Vec<String> {
    events
        .iter()
        .map(|e| {
            let prev =
                e.prev.as_ref().map_or("-".to_owned(), |p| format!("{}@{}", text(&p.value), p.mod_revision));
            format!("{:?} {}={}@{} was {prev}", e.kind, text(&e.kv.key), text(&e.kv.value), e.kv.mod_revision)
        })
        .collect()
}

pub(crate) async fn revisions_and_versions(store: Opened) {
    let s = store.as_ref();
    assert_eq!(s.revision(), 0);
    assert_eq!(get(s, "a").await, None);
    assert_eq!(put(s, "a", "1").await, 1);
    assert_eq!(put(s, "b", "1").await, 2);
    assert_eq!(put(s, "a", "2").await, 3);
    let a = get(s, "a").await.unwrap();
    assert_eq!((a.create_revision, a.mod_revision, a.version, text(&a.value)), (1, 3, 2, "2".to_owned()));
    assert_eq!(delete(s, "a").await, 4);
    assert_eq!(get(s, "a").await, None);
    // Deleting nothing changes nothing.
    assert_eq!(delete(s, "a").await, 4);
    assert_eq!(put(s, "a", "3").await, 5);
    let a = get(s, "a").await.unwrap();
    assert_eq!((a.create_revision, a.mod_revision, a.version), (5, 5, 1));
    assert_eq!(s.read_index().await.unwrap(), 5);
    assert_eq!(s.revision(), 5);
}

pub(crate) async fn transactions(store: Opened) {
    let s = store.as_ref();
    put(s, "a", "1").await;
    let create = |key: &str| Txn {
        compares: vec![Compare::ModRevision { key: b(key), revision: 0 }],
        success: vec![put_op(key, "new")],
        failure: vec![Op::Get { key: b(key) }],
    };
    let result = s.txn(create("a")).await.unwrap();
    assert!(!result.succeeded);
    assert_eq!(result.revision, 1, "a transaction that only reads has no revision of its own");
    let [OpResult::Get(Some(found))] = result.results.as_slice() else { panic!("{result:?}") };
    assert_eq!(text(&found.value), "1");
    let result = s.txn(create("b")).await.unwrap();
    assert!(result.succeeded);
    let [OpResult::Put(kv)] = result.results.as_slice() else { panic!("{result:?}") };
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (2, 2, 1));
    // All compares must hold, and all steps share one revision and see those before.
    let txn = Txn {
        compares: vec![
            Compare::ModRevision { key: b("a"), revision: 1 },
            Compare::ModRevision { key: b("b"), revision: 2 },
        ],
        success: vec![
            put_op("a", "2"),
            Op::Get { key: b("a") },
            Op::Delete { key: b("b") },
            Op::Get { key: b("b") },
            put_op("c", "x"),
            Op::Delete { key: b("c") },
            Op::Delete { key: b("nothing") },
        ],
        failure: vec![],
    };
    let mut rx = s.watch(b(""), b("\0"), 2).await.unwrap();
    let result = s.txn(txn.clone()).await.unwrap();
    assert!(result.succeeded);
    assert_eq!(result.revision, 3);
    let values: Vec<String> = result
        .results
        .iter()
        .map(|r| match r {
            OpResult::Put(kv) => format!("put {}", kv.mod_revision),
            OpResult::Get(kv) => format!("get {:?}", kv.as_ref().map(|kv| text(&kv.value))),
            OpResult::Delete(kv) => format!("delete {:?}", kv.as_ref().map(|kv| text(&kv.value))),
        })
        .collect();
    let expected = [
        "put 3",
        "get Some(\"2\")",
        "delete Some(\"new\")",
        "get None",
        "put 3",
        "delete Some(\"x\")",
        "delete None",
    ];
    assert_eq!(values, expected);
    let events = events_until(&mut rx, 2, 3).await;
    assert_eq!(
        brief(&events),
        ["Put a=2@3 was 1@1", "Delete b=@3 was new@2"],
        "one event per key and revision"
    );
    assert!(!s.txn(txn).await.unwrap().succeeded, "the compares no longer hold");
    assert_eq!(s.revision(), 3);
    assert_eq!(list_at(s, "", "\0", 0).await, [("a".to_owned(), "2".to_owned())]);
    assert!(list_at(s, "c", "d", 3).await.is_empty());
}

pub(crate) async fn ranges(store: Opened) {
    let s = store.as_ref();
    for key in ["/a", "/a/1", "/a/2", "/a/3", "/b/1", "/a0"] {
        put(s, key, key).await;
    }
    let keys = |result: &RangeResult| result.kvs.iter().map(|kv| text(&kv.key)).collect::<Vec<_>>();
    let range =
        |start: &str, end: &str, limit| Range { start: b(start), end: b(end), limit, ..Range::default() };
    let all = s.range(range("/a/", "/a0", 0)).await.unwrap();
    assert_eq!(keys(&all), ["/a/1", "/a/2", "/a/3"]);
    assert_eq!((all.count, all.more, all.revision), (3, false, 6));
    let some = s.range(range("/a/", "/a0", 2)).await.unwrap();
    assert_eq!(keys(&some), ["/a/1", "/a/2"]);
    assert_eq!((some.count, some.more), (3, true));
    assert!(!s.range(range("/a/", "/a0", 3)).await.unwrap().more);
    assert_eq!(s.range(range("/a/2", "\0", 0)).await.unwrap().count, 4);
    assert_eq!(s.range(range("", "\0", 0)).await.unwrap().count, 6);
    assert_eq!(s.range(range("/z", "/a", 0)).await.unwrap().count, 0);
    assert_eq!(s.range(range("/a", "", 0)).await.unwrap().count, 1);
}

pub(crate) async fn reads_of_the_past(store: Opened) {
    let s = store.as_ref();
    // Every state the store ever had, by revision.
    let mut states: Vec<BTreeMap<String, String>> = vec![BTreeMap::new()];
    let mut seed = 7u64;
    for n in 0..200 {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let key = format!("k{}", (seed >> 33) % 12);
        let mut state = states.last().unwrap().clone();
        if (seed >> 60).is_multiple_of(4) && state.contains_key(&key) {
            delete(s, &key).await;
            state.remove(&key);
        } else {
            put(s, &key, &format!("v{n}")).await;
            state.insert(key, format!("v{n}"));
        }
        states.push(state);
    }
    let check = |from: usize| {
        let states = &states;
        async move {
            for (revision, state) in states.iter().enumerate().skip(from.max(1)) {
                let expected: Vec<_> = state.clone().into_iter().collect();
                let at = revision as u64;
                assert_eq!(list_at(s, "", "\0", at).await, expected, "at {revision}");
                let within: Vec<_> = state.range("k1".to_owned().."k3".to_owned()).collect();
                let cut = Range { start: b("k1"), end: b("k3"), revision: at, limit: 2, serializable: true };
                let result = s.range(cut).await.unwrap();
                assert_eq!(result.count as usize, within.len());
                assert_eq!(result.more, within.len() > 2);
                let found: Vec<_> = result.kvs.iter().map(|kv| (text(&kv.key), text(&kv.value))).collect();
                let expected: Vec<_> =
                    within.iter().take(2).map(|(k, v)| ((*k).clone(), (*v).clone())).collect();
                assert_eq!(found, expected);
                let one = Range { start: b("k5"), revision: at, ..Range::default() };
                let one = s.range(one).await.unwrap().kvs.pop().map(|kv| text(&kv.value));
                assert_eq!(one.as_ref(), state.get("k5"));
            }
        }
    };
    check(1).await;
    s.compact(150).await.unwrap();
    check(150).await;
    let past = |revision| Range { start: b("k5"), revision, ..Range::default() };
    assert!(matches!(
        s.range(past(149)).await,
        Err(StoreError::Compacted { requested: 149, compacted: 150 })
    ));
    assert!(matches!(s.range(past(201)).await, Err(StoreError::Future { requested: 201, current: 200 })));
    assert!(matches!(s.compact(150).await, Err(StoreError::Compacted { .. })));
    assert!(matches!(s.compact(201).await, Err(StoreError::Future { .. })));
    assert!(matches!(s.watch(b("k5"), b(""), 149).await, Err(StoreError::Compacted { .. })));
    assert!(matches!(s.watch(b("k5"), b(""), 201).await, Err(StoreError::Future { .. })));
    // The history after the compacted revision is whole.
    let mut rx = s.watch(b(""), b("\0"), 150).await.unwrap();
    let events = events_until(&mut rx, 150, 200).await;
    assert_eq!(events.len(), 50);
    let mut replayed = states[150].clone();
    for event in events {
        let key = text(&event.kv.key);
        let before = event.prev.as_ref().map(|p| text(&p.value));
        assert_eq!(before.as_ref(), replayed.get(&key), "the state before");
        match event.kind {
            EventKind::Put => replayed.insert(key, text(&event.kv.value)),
            EventKind::Delete => replayed.remove(&key),
        };
        assert_eq!(replayed, states[event.kv.mod_revision as usize]);
    }
}

pub(crate) async fn watches(store: Opened) {
    let s = store.as_ref();
    put(s, "/a/1", "x").await;
    put(s, "/b/1", "x").await;
    put(s, "/a/1", "y").await;
    let mut prefix = s.watch(b("/a/"), b("/a0"), 0).await.unwrap();
    let mut single = s.watch(b("/a/1"), b(""), 1).await.unwrap();
    let mut other = s.watch(b("/a/2"), b("/b/5"), 3).await.unwrap();
    delete(s, "/a/1").await;
    put(s, "/a/2", "z").await;
    put(s, "/b/2", "z").await;
    let all = ["Put /a/1=x@1 was -", "Put /a/1=y@3 was x@1", "Delete /a/1=@4 was y@3", "Put /a/2=z@5 was -"];
    // The last revision is another prefix's: it is reached by a progress notification.
    assert_eq!(brief(&events_until(&mut prefix, 0, 6).await), all);
    assert_eq!(brief(&events_until(&mut single, 1, 6).await), all[1..3]);
    let expected = ["Put /a/2=z@5 was -", "Put /b/2=z@6 was -"];
    assert_eq!(brief(&events_until(&mut other, 3, 6).await), expected);
    put(s, "/c", "").await;
    s.request_progress();
    assert!(events_until(&mut prefix, 6, 7).await.is_empty());
}

/// Watches begin at every moment of a storm of writes, and each sees exactly what it should.
pub(crate) async fn watches_that_join_late(store: Opened) {
    const WRITES: u64 = 12_000;
    let writer = {
        let store = store.clone();
        tokio::spawn(async move {
            let mut writes = tokio::task::JoinSet::new();
            for n in 0..WRITES {
                let store = store.clone();
                writes.spawn(
                    async move { put(store.as_ref(), &format!("/{}/{}", n % 2, n % 7), "value").await },
                );
                if n % 64 == 0 {
                    while writes.join_next().await.is_some() {}
                }
            }
            while writes.join_next().await.is_some() {}
        })
    };
    let mut watchers = tokio::task::JoinSet::new();
    for n in 0..16 {
        let store = store.clone();
        watchers.spawn(async move {
            let target = n * WRITES / 20;
            while store.revision() < target {
                tokio::task::yield_now().await;
            }
            // Half of them start from the beginning, half from the present.
            let after = if n % 2 == 0 { 0 } else { store.revision() };
            let mut rx = store.watch(b("/1/"), b("/10"), after).await.unwrap();
            let events = events_until(&mut rx, after, WRITES).await;
            (after, events.iter().map(|e| e.kv.mod_revision).collect::<Vec<_>>())
        });
    }
    writer.await.unwrap();
    let mut whole: Option<Vec<u64>> = None;
    let mut parts = Vec::new();
    while let Some(result) = watchers.join_next().await {
        let (after, revisions) = result.unwrap();
        if after == 0 {
            assert_eq!(revisions.len() as u64, WRITES / 2);
            let first = whole.get_or_insert_with(|| revisions.clone());
            assert_eq!(*first, revisions);
        } else {
            parts.push((after, revisions));
        }
    }
    let whole = whole.unwrap();
    for (after, revisions) in parts {
        let expected: Vec<u64> = whole.iter().copied().filter(|r| *r > after).collect();
        assert_eq!(revisions, expected, "after {after}");
    }
}

pub(crate) async fn slow_watchers_are_closed(store: Opened) {
    let s = store.as_ref();
    let mut slow = s.watch(b("k"), b(""), 0).await.unwrap();
    let mut quick = s.watch(b("k"), b(""), 0).await.unwrap();
    let target = (WATCH_BUFFER + 10) as u64;
    for n in 1..=target {
        put(s, "k", "v").await;
        assert_eq!(events_until(&mut quick, n - 1, n).await.len(), 1);
    }
    let mut reached = 0;
    let error = loop {
        match tokio::time::timeout(PATIENCE, slow.recv()).await.unwrap().expect("an error before the end") {
            Ok(batch) => reached = batch.revision,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::SlowWatcher), "{error}");
    assert!(slow.recv().await.is_none(), "the error is the last item");
    // It may go on from where it was.
    let mut again = s.watch(b("k"), b(""), reached).await.unwrap();
    assert_eq!(events_until(&mut again, reached, target).await.len() as u64, target - reached);
}

pub(crate) async fn bad_requests(store: Opened) {
    let s = store.as_ref();
    let one = |op| Txn { success: vec![op], ..Txn::default() };
    let refused = [
        one(Op::Put { key: Bytes::new(), value: b("x") }),
        one(Op::Get { key: Bytes::new() }),
        one(Op::Put { key: Bytes::from(vec![b'x'; MAX_KEY + 1]), value: b("x") }),
        one(Op::Put { key: b("x"), value: Bytes::from(vec![b'x'; MAX_TXN]) }),
        Txn { failure: vec![Op::Get { key: b("x") }; MAX_OPS + 1], ..Txn::default() },
    ];
    for txn in refused {
        assert!(matches!(s.txn(txn).await, Err(StoreError::Invalid { .. })));
    }
    assert_eq!(s.revision(), 0);
    // The largest that is allowed goes through.
    let key = Bytes::from(vec![0u8; MAX_KEY]);
    let value = Bytes::from(vec![b'v'; MAX_TXN - MAX_KEY]);
    s.txn(one(Op::Put { key: key.clone(), value: value.clone() })).await.unwrap();
    s.txn(one(Op::Put { key: key.clone(), value: b("") })).await.unwrap();
    let past = s.range(Range { start: key, revision: 1, ..Range::default() }).await.unwrap();
    assert_eq!(past.kvs.first().map(|kv| kv.value.clone()), Some(value));
}

/// One test per case of the suite; `$open` opens an empty store and gives what must outlive it.
#[macro_export]
macro_rules! store_suite {
    ($open:path: $($case:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let (store, _guard) = $open().await;
                semantics::$case(store).await;
            }
        )*
    };
}
