//! Between the generated exports and [`BatchPlugin`].

use super::bindings::exports::orlop::scheduler::plugin as wit;
use super::{BatchPlugin, Delta, DictionaryDelta, ListCells};
use crate::lifecycle::bindings::exports::orlop::types::lifecycle;
use serde_json::Value;
use std::cell::RefCell;
use std::marker::PhantomData;

thread_local! {
    static PLUGIN: RefCell<Option<Box<dyn BatchPlugin>>> = const { RefCell::new(None) };
}

/// Implements the generated traits for a plugin type.
pub struct Glue<P>(PhantomData<P>);

impl<P: BatchPlugin> lifecycle::Guest for Glue<P> {
    fn init(config: Vec<u8>) -> Result<(), String> {
        crate::log::install_panic_hook();
        let plugin = P::new(&config)?;
        PLUGIN.with_borrow_mut(|slot| *slot = Some(Box::new(plugin)));
        Ok(())
    }

    fn self_test() -> Result<(), String> {
        with(|plugin| plugin.self_test())
    }
}

impl<P: BatchPlugin> wit::Guest for Glue<P> {
    fn sync(delta: wit::Delta) -> wit::Synced {
        let synced = with(|plugin| plugin.sync(convert(delta)));
        wit::Synced { checksum: synced.checksum, stale: u32::from(synced.stale) }
    }

    fn prepare(class: u32, pod: Vec<u8>) -> Result<wit::Prepared, String> {
        let pod: Value = serde_json::from_slice(&pod).map_err(|e| format!("pod: {e}"))?;
        let prepared = with(|plugin| plugin.prepare(class, &pod))?;
        let mut flags = u32::from(prepared.skip_filter) | u32::from(prepared.skip_score) << 1;
        let mut message = String::new();
        if let Some(reason) = prepared.rejected {
            flags |= 1 << 2 | u32::from(reason.unresolvable) << 3;
            message = reason.text;
        }
        Ok(wit::Prepared { flags, message })
    }

    fn release(class: u32) {
        with(|plugin| plugin.release(class));
    }

    fn filter(class: u32, rows: Vec<u32>) -> Vec<u64> {
        with(|plugin| plugin.filter(class, &rows))
    }

    fn score(class: u32, rows: Vec<u32>) -> Vec<u8> {
        with(|plugin| plugin.score(class, &rows))
    }

    fn score_raw(class: u32, rows: Vec<u32>) -> Vec<i64> {
        with(|plugin| plugin.score_raw(class, &rows))
    }

    fn normalize(class: u32, feasible: Vec<u64>, raw: Vec<i64>) -> Vec<u8> {
        with(|plugin| plugin.normalize(class, &feasible, &raw))
    }

    fn explain(class: u32, rows: Vec<u32>) -> wit::Explanation {
        let explanation = with(|plugin| plugin.explain(class, &rows));
        let reason = |r: super::Reason| wit::Reason { text: r.text, code: u32::from(r.unresolvable) };
        wit::Explanation {
            reasons: explanation.reasons.into_iter().map(reason).collect(),
            offsets: explanation.offsets,
            refs: explanation.refs,
        }
    }
}

#[expect(clippy::panic, reason = "the host broke the order of calls; a trap is the answer")]
fn with<R>(f: impl FnOnce(&mut dyn BatchPlugin) -> R) -> R {
    PLUGIN.with_borrow_mut(|plugin| match plugin {
        Some(plugin) => f(plugin.as_mut()),
        None => panic!("called before init"),
    })
}

fn convert(delta: wit::Delta) -> Delta {
    let dictionary =
        |d: wit::Dictionary| DictionaryDelta { dictionary: d.dictionary, first: d.first, entries: d.entries };
    let list = |c: wit::ListColumn| (c.column, ListCells { offsets: c.offsets, values: c.values });
    Delta {
        full: delta.full,
        slots: delta.slots,
        rows: delta.rows,
        live: delta.live,
        dictionaries: delta.dictionaries.into_iter().map(dictionary).collect(),
        s64_columns: delta.s64_columns.into_iter().map(|c| (c.column, c.values)).collect(),
        u32_columns: delta.u32_columns.into_iter().map(|c| (c.column, c.values)).collect(),
        list_columns: delta.list_columns.into_iter().map(list).collect(),
    }
}
