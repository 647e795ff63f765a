//! Between the scheduler's terms and those of the wire. Questions are lent, not copied: of a delta only
//! the headers of its columns are made anew.

use orlop_plugin::scheduler as wit;
use orlop_scheduler::framework::{
    CandidatePods, Decision, Delta, ObjectChange, Placement, PluginError, Rows, Stale, Verdict,
};
use std::time::Duration;

/// A failure in the scheduler's terms.
pub(crate) fn convert_error(error: &orlop_plugin::PluginError) -> PluginError {
    use orlop_plugin::PluginError as E;
    match error {
        E::Deadline { .. } => PluginError::Deadline,
        E::MemoryLimit { .. } => PluginError::MemoryLimit,
        E::BadOutput { message } => PluginError::Nonsense { message: message.clone() },
        E::Trap { message } => PluginError::Trap { message: message.clone() },
        E::Gone => PluginError::Trap { message: error.to_string() },
        _ => PluginError::Refused { message: error.to_string() },
    }
}

/// As on the wire, where none stand for all.
pub(super) const fn rows(rows: Rows<'_>) -> &[u32] {
    match rows {
        Rows::All => &[],
        Rows::Some(rows) => rows,
    }
}

/// Calls `f` with the delta as it goes to the plugin.
pub(super) fn with_delta<R>(delta: &Delta, f: impl FnOnce(&wit::Delta<'_>) -> R) -> R {
    let entries: Vec<Vec<&str>> =
        delta.dictionaries.iter().map(|d| d.entries.iter().map(|e| &**e).collect()).collect();
    let dictionaries: Vec<_> = delta
        .dictionaries
        .iter()
        .zip(&entries)
        .map(|(d, entries)| wit::Dictionary { dictionary: d.dictionary, first: d.first, entries })
        .collect();
    let s64 = delta.s64_columns.iter().map(|c| wit::S64Column { column: c.column, values: &c.values });
    let u32s = delta.u32_columns.iter().map(|c| wit::U32Column { column: c.column, values: &c.values });
    let lists = delta.list_columns.iter().map(|c| wit::ListColumn {
        column: c.column,
        offsets: &c.offsets,
        values: &c.values,
    });
    f(&wit::Delta {
        full: delta.full,
        slots: delta.slots,
        rows: &delta.rows,
        live: &delta.live,
        dictionaries: &dictionaries,
        s64_columns: &s64.collect::<Vec<_>>(),
        u32_columns: &u32s.collect::<Vec<_>>(),
        list_columns: &lists.collect::<Vec<_>>(),
    })
}

/// Calls `f` with the changes as they go to the plugin.
pub(super) fn with_changes<R>(changes: &[ObjectChange], f: impl FnOnce(&[wit::Change<'_>]) -> R) -> R {
    let changes: Vec<_> = changes
        .iter()
        .map(|c| wit::Change { watch: c.watch, namespace: &c.namespace, name: &c.name, object: &c.object })
        .collect();
    f(&changes)
}

pub(super) fn placement(placement: &Placement) -> wit::Placement<'_> {
    wit::Placement {
        pod: placement.pod,
        namespace: &placement.namespace,
        name: &placement.name,
        uid: &placement.uid,
        fields: &placement.fields,
        slot: placement.slot,
        node: &placement.node,
    }
}

pub(super) fn pods(pods: &CandidatePods) -> wit::Pods<'_> {
    wit::Pods {
        offsets: &pods.offsets,
        priorities: &pods.priorities,
        started: &pods.started,
        violating: &pods.violating,
        terminating: &pods.terminating,
    }
}

pub(super) fn stale(classes: Vec<u32>) -> Stale {
    Stale::from_wire(classes)
}

/// The codes are checked where the answer comes in.
pub(super) fn verdict(verdict: wit::Verdict) -> Verdict {
    let wit::Verdict { code, timeout_milliseconds, message } = verdict;
    match code {
        0 => Verdict::Allow,
        1 => Verdict::Wait { timeout: Duration::from_millis(timeout_milliseconds.into()), message },
        _ => Verdict::Reject { message },
    }
}

pub(super) fn decisions(decisions: Vec<wit::Decision>) -> Vec<Decision> {
    let decision = |d: wit::Decision| Decision { pod: d.pod, rejected: (d.code != 0).then_some(d.message) };
    decisions.into_iter().map(decision).collect()
}
