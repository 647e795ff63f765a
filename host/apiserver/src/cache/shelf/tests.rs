use super::*;
use crate::cache::EventType;
use crate::registry::find;
use crate::selectors::FieldFilter;
use crate::storage;
use orlop_apimachinery::selector::Selector;
use serde_json::json;

fn pods() -> Shelf {
    Shelf::new(find("", "v1", "pods").unwrap())
}

fn entry(name: &str, node: &str, revision: u64) -> Entry {
    let pod = json!({"apiVersion":"v1","kind":"Pod","metadata":{"name":name,"namespace":"d"},"spec":{"nodeName":node}});
    Entry::decode(&storage::encode(&pod).unwrap(), revision).unwrap()
}

fn put(shelf: &Shelf, name: &str, node: &str, revision: u64) {
    let key = format!("d/{name}");
    shelf.apply([(key.as_str(), revision, Some(Arc::new(entry(name, node, revision))))].into_iter());
}

fn on_node(node: &str) -> Filter {
    let row = find("", "v1", "pods").unwrap();
    let fields = FieldFilter::parse(&format!("spec.nodeName={node}"), row, row).unwrap();
    Filter { scope: Scope::All, labels: Selector::everything(), fields }
}

fn everything() -> Filter {
    Filter { scope: Scope::All, labels: Selector::everything(), fields: FieldFilter::default() }
}

#[test]
fn a_pod_that_moves_leaves_one_watch_and_enters_another() {
    let shelf = pods();
    let (_, mut a) = shelf.watch_now(on_node("a"));
    let (_, mut b) = shelf.watch_now(on_node("b"));
    put(&shelf, "p", "a", 1);
    put(&shelf, "p", "b", 2);
    let kinds = |s: &mut Subscription| {
        let mut out = Vec::new();
        while let Ok(d) = s.changes.try_recv() {
            out.push((d.event, d.change.revision));
        }
        out
    };
    assert_eq!(kinds(&mut a), [(EventType::Added, 1), (EventType::Deleted, 2)]);
    assert_eq!(kinds(&mut b), [(EventType::Added, 2)]);
}

#[test]
fn a_watcher_that_reads_nothing_is_closed_and_the_others_go_on() {
    let shelf = pods();
    let (_, mut slow) = shelf.watch_now(everything());
    let most = u64::try_from(crate::cache::watcher::QUEUE).unwrap();
    for revision in 1..=most + 1 {
        put(&shelf, "p", "a", revision);
    }
    assert_eq!(shelf.watches(), 0);
    let mut seen = 0;
    while slow.changes.try_recv().is_ok() {
        seen += 1;
    }
    assert_eq!(seen, most);
    assert!(matches!(slow.changes.try_recv(), Err(tokio::sync::mpsc::error::TryRecvError::Disconnected)));
    let (missed, _later) = shelf.watch_since(everything(), most).unwrap();
    assert_eq!(missed.len(), 1);
}

#[test]
fn the_ring_is_bounded_and_says_what_it_forgot() {
    let shelf = pods();
    let most = u64::try_from(MOST).unwrap();
    for revision in 1..=most + 10 {
        put(&shelf, "p", "a", revision);
    }
    assert_eq!(shelf.watch_since(everything(), 9).unwrap_err().floor, 10);
    let (missed, _watch) = shelf.watch_since(everything(), 10).unwrap();
    assert_eq!(missed.len(), MOST);
    assert_eq!(missed[0].change.revision, 11);
}

#[test]
fn readers_who_have_gone_are_swept() {
    let shelf = pods();
    let (_, gone) = shelf.watch_now(on_node("a"));
    let (_, _stays) = shelf.watch_now(everything());
    assert_eq!(shelf.watches(), 2);
    drop(gone);
    shelf.sweep();
    assert_eq!(shelf.watches(), 1);
}
