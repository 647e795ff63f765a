//! The rows that exist beside the built-in ones.

use super::Custom;
use crate::registry::Resource;
use arc_swap::ArcSwap;
use orlop_apimachinery::{Gvk, Gvr};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

type Rows = &'static [&'static Resource];

/// What is served now.
#[derive(Default)]
pub(crate) struct Snapshot {
    pub(crate) rows: Vec<&'static Resource>,
    by_resource: HashMap<Gvr, &'static Resource>,
    by_kind: HashMap<Gvk, &'static Custom>,
    /// Grows with every change.
    pub(crate) generation: u64,
}

static NOW: LazyLock<ArcSwap<Snapshot>> = LazyLock::new(ArcSwap::default);
static PUBLISHED: LazyLock<Mutex<BTreeMap<(String, u64), Rows>>> = LazyLock::new(Mutex::default);
static NEXT: AtomicU64 = AtomicU64::new(1);

/// One server of this process; what it published goes with it.
pub(crate) struct Publisher(u64);

impl Publisher {
    pub(crate) fn new() -> Self {
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// Sets the rows of a definition.
    pub(crate) fn publish(&self, definition: &str, rows: Rows) {
        let mut published = PUBLISHED.lock();
        let key = (definition.to_owned(), self.0);
        if rows.is_empty() {
            published.remove(&key);
        } else {
            published.insert(key, rows);
        }
        refresh(&published);
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        let mut published = PUBLISHED.lock();
        published.retain(|(_, publisher), _| *publisher != self.0);
        refresh(&published);
    }
}

fn refresh(published: &BTreeMap<(String, u64), Rows>) {
    let mut next = Snapshot { generation: NOW.load().generation + 1, ..Snapshot::default() };
    for row in published.values().copied().flatten() {
        let row: &'static Resource = row;
        if next.by_resource.insert(row.gvr.clone(), row).is_none() {
            next.rows.push(row);
        }
        next.by_kind.extend(row.custom.map(|c| (row.gvk(), c)));
    }
    NOW.store(Arc::new(next));
}

/// What is served now.
pub(crate) fn now() -> Arc<Snapshot> {
    NOW.load_full()
}

/// The row of a resource.
pub(crate) fn find(group: &str, version: &str, resource: &str) -> Option<&'static Resource> {
    let now = NOW.load();
    if now.rows.is_empty() {
        return None;
    }
    let gvr = Gvr {
        group: group.to_owned().into(),
        version: version.to_owned().into(),
        resource: resource.to_owned().into(),
    };
    now.by_resource.get(&gvr).copied()
}

/// What is known of a custom kind.
pub(crate) fn of_kind(gvk: &Gvk) -> Option<&'static Custom> {
    NOW.load().by_kind.get(gvk).copied()
}
