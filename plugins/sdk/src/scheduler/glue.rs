//! Between the generated exports and [`BatchPlugin`].

use super::bindings::exports::orlop::scheduler::{
    objects, overlay, placing, plugin as wit, preemption, queue,
};
use super::{
    BatchPlugin, Binder, CandidatePods, Decision, Delta, DictionaryDelta, ListCells, ObjectChange, Placement,
    Verdict,
};
use crate::controller::Write;
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
        wit::Synced { checksum: synced.checksum, stale: synced.stale.into_wire() }
    }

    fn prepare(class: u32, pod: Vec<u8>) -> Result<wit::Prepared, String> {
        let pod = serde_json::from_slice(&pod).map_err(|e| format!("pod: {e}"))?;
        let prepared = with(|plugin| plugin.prepare(class, &pod))?;
        let flags = prepared.flags();
        let message = prepared.rejected.map_or_else(String::new, |reason| reason.text);
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

impl<P: BatchPlugin> overlay::Guest for Glue<P> {
    fn filter(class: u32, delta: wit::Delta) -> Vec<u64> {
        with(|plugin| plugin.overlay(class, convert(delta)))
    }
}

impl<P: BatchPlugin> objects::Guest for Glue<P> {
    fn update(full: bool, changes: Vec<objects::Change>) -> Vec<u32> {
        let change = |c: objects::Change| ObjectChange {
            watch: c.watch,
            namespace: c.namespace,
            name: c.name,
            object: (!c.object.is_empty()).then(|| json(&c.object)),
        };
        with(|plugin| plugin.objects(full, changes.into_iter().map(change).collect())).into_wire()
    }
}

impl<P: BatchPlugin> queue::Guest for Glue<P> {
    fn pre_enqueue(pod: Vec<u8>) -> Option<String> {
        with(|plugin| plugin.pre_enqueue(&json(&pod)))
    }

    fn sort_key(pod: Vec<u8>) -> Vec<i64> {
        with(|plugin| plugin.sort_key(&json(&pod)))
    }
}

impl<P: BatchPlugin> placing::Guest for Glue<P> {
    fn reserve(p: placing::Placement) -> Result<(), String> {
        with(|plugin| plugin.reserve(placement(p)))
    }

    fn unreserve(p: placing::Placement) -> Vec<placing::Decision> {
        decisions(with(|plugin| plugin.unreserve(placement(p))))
    }

    fn permit(p: placing::Placement) -> (placing::Verdict, Vec<placing::Decision>) {
        let (answer, others) = with(|plugin| plugin.permit(placement(p)));
        (verdict(answer), decisions(others))
    }

    fn pre_bind(p: placing::Placement) -> (placing::Verdict, Vec<placing::Write>) {
        let (answer, writes) = with(|plugin| plugin.pre_bind(placement(p)));
        (verdict(answer), encode(&writes))
    }

    fn bind(p: placing::Placement) -> (u32, Vec<placing::Write>) {
        match with(|plugin| plugin.bind(placement(p))) {
            Binder::Host => (0, Vec::new()),
            Binder::Next => (1, Vec::new()),
            Binder::Writes(writes) => (2, encode(&writes)),
        }
    }

    fn post_bind(p: placing::Placement) {
        with(|plugin| plugin.post_bind(placement(p)));
    }
}

impl<P: BatchPlugin> preemption::Guest for Glue<P> {
    fn eligible(pod: Vec<u8>, nodes: u32, terminating: bool) -> Result<u32, String> {
        with(|plugin| plugin.eligible(&json(&pod), nodes, terminating))
    }

    fn victims(pod: Vec<u8>, pods: preemption::Pods) -> Vec<u32> {
        with(|plugin| plugin.victims(&json(&pod), &candidates(pods)))
    }

    fn choose(pod: Vec<u8>, victims: preemption::Pods) -> u32 {
        with(|plugin| plugin.choose(&json(&pod), &candidates(victims)))
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

#[expect(clippy::panic, reason = "the host sends JSON; a trap is the answer to anything else")]
fn json(bytes: &[u8]) -> Value {
    match serde_json::from_slice(bytes) {
        Ok(value) => value,
        Err(e) => panic!("not JSON: {e}"),
    }
}

fn placement(p: placing::Placement) -> Placement {
    let placing::Placement { pod, namespace, name, uid, fields, slot, node } = p;
    Placement { pod, namespace, name, uid, fields: json(&fields), slot, node }
}

fn decisions(decisions: Vec<Decision>) -> Vec<placing::Decision> {
    let wire = |d: Decision| placing::Decision {
        pod: d.pod,
        code: if d.rejected.is_some() { 2 } else { 0 },
        message: d.rejected.unwrap_or_default(),
    };
    decisions.into_iter().map(wire).collect()
}

fn verdict(verdict: Verdict) -> placing::Verdict {
    let (code, timeout_milliseconds, message) = match verdict {
        Verdict::Allow => (0, 0, String::new()),
        Verdict::Wait { timeout, message } => {
            (1, u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX), message)
        }
        Verdict::Reject { message } => (2, 0, message),
    };
    placing::Verdict { code, timeout_milliseconds, message }
}

fn encode(writes: &[Write]) -> Vec<placing::Write> {
    writes.iter().map(|write| serde_json::to_vec(write).unwrap_or_default()).collect()
}

fn candidates(pods: preemption::Pods) -> CandidatePods {
    let preemption::Pods { offsets, priorities, started, violating, terminating } = pods;
    CandidatePods { offsets, priorities, started, violating, terminating }
}
