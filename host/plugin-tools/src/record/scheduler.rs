//! From a call to an outcome, for scheduler plugins: the one place that says how answers are written down.

use super::call::{Call, Failure, Outcome};
use super::wire::{bits, unpack_bits};
use orlop_scheduler::framework::{
    Binder, Decision, Explanation, PluginError, Prepared, Reason, Rows, SchedulerPlugin, Stale, Synced,
    Verdict,
};
use serde_json::{Value, json};

/// Makes a recorded call. Calls of other kinds of plugins fail.
pub fn perform(plugin: &mut dyn SchedulerPlugin, call: &Call) -> Outcome {
    match call {
        Call::Reset => of(plugin.reset(), |()| Value::Null),
        Call::Sync { delta } => of(plugin.sync(&delta.into()), synced),
        Call::Prepare { class, pod } => of(plugin.prepare(*class, pod.as_bytes()), prepared),
        Call::Release { class } => of(plugin.release(*class), |()| Value::Null),
        Call::Filter { class, rows: r } => of(plugin.filter(*class, rows(r)), mask),
        Call::Score { class, rows: r } => of(plugin.score(*class, rows(r)), numbers),
        Call::ScoreRaw { class, rows: r } => of(plugin.score_raw(*class, rows(r)), numbers),
        Call::Normalize { class, feasible, raw } => {
            of(plugin.normalize(*class, &unpack_bits(feasible), raw), numbers)
        }
        Call::Explain { class, rows } => of(plugin.explain(*class, rows), explanation),
        Call::Overlay { class, delta } => of(plugin.overlay(*class, &delta.into()), mask),
        Call::Objects { full, changes } => {
            let changes: Vec<_> = changes.iter().map(Into::into).collect();
            of(plugin.objects(*full, &changes), |s| stale(&s))
        }
        Call::PreEnqueue { pod } => of(plugin.pre_enqueue(pod.as_bytes()), |held| json!(held)),
        Call::SortKey { pod } => of(plugin.sort_key(pod.as_bytes()), numbers),
        Call::Reserve { placement } => of(plugin.reserve(&placement.into()), |()| Value::Null),
        Call::Unreserve { placement } => of(plugin.unreserve(&placement.into()), |d| decisions(&d)),
        Call::Permit { placement } => of(plugin.permit(&placement.into()), permitted),
        Call::PreBind { placement } => of(plugin.pre_bind(&placement.into()), pre_bound),
        Call::Bind { placement } => of(plugin.bind(&placement.into()), bound),
        Call::PostBind { placement } => of(plugin.post_bind(&placement.into()), |()| Value::Null),
        Call::Eligible { pod, nodes, terminating } => {
            of(plugin.eligible(pod.as_bytes(), *nodes, *terminating), eligible)
        }
        Call::Victims { pod, pods } => of(plugin.victims(pod.as_bytes(), &pods.into()), numbers),
        Call::Choose { pod, victims } => {
            of(plugin.choose(pod.as_bytes(), &victims.into()), |chosen| json!(chosen))
        }
        Call::Reconcile { .. } | Call::Mutate { .. } | Call::Validate { .. } => Outcome::Failure(Failure {
            reason: "Incompatible".to_owned(),
            message: format!("a scheduler plugin has no {}", call.hook()),
        }),
    }
}

/// A failure in the words of recordings.
#[must_use]
pub fn failure_of(error: &PluginError) -> Failure {
    let reason = match error {
        PluginError::Trap { .. } => "Trap",
        PluginError::Deadline => "Deadline",
        PluginError::MemoryLimit => "MemoryLimit",
        PluginError::Nonsense { .. } => "BadOutput",
        PluginError::Refused { .. } => "Refused",
    };
    Failure { reason: reason.to_owned(), message: error.to_string() }
}

/// An outcome of what the host's trait answered.
pub(crate) fn of<T>(answer: Result<T, PluginError>, value: impl FnOnce(T) -> Value) -> Outcome {
    match answer {
        Ok(answer) => Outcome::Answer(value(answer)),
        Err(error) => Outcome::Failure(failure_of(&error)),
    }
}

fn rows(rows: &Option<Vec<u32>>) -> Rows<'_> {
    rows.as_deref().map_or(Rows::All, Rows::Some)
}

pub(crate) fn mask(words: Vec<u64>) -> Value {
    Value::String(bits(&words))
}

pub(crate) fn numbers<T: Into<Value>>(list: Vec<T>) -> Value {
    Value::Array(list.into_iter().map(Into::into).collect())
}

pub(crate) fn stale(stale: &Stale) -> Value {
    match stale {
        Stale::Nothing => json!([]),
        Stale::Classes(classes) => json!(classes),
        Stale::Everything => json!([0]),
    }
}

pub(crate) fn synced(synced: Synced) -> Value {
    json!({ "checksum": synced.checksum, "stale": stale(&synced.stale) })
}

fn reason(reason: &Reason) -> Value {
    json!({ "text": reason.text, "unresolvable": reason.unresolvable })
}

pub(crate) fn prepared(p: Prepared) -> Value {
    json!({
        "skipFilter": p.skip_filter,
        "skipScore": p.skip_score,
        "skipPlacing": p.skip_placing,
        "readsObjects": p.reads_objects,
        "rejected": p.rejected.as_ref().map(reason),
    })
}

/// Reasons written out for each row, so that their order and sharing do not matter.
pub(crate) fn explanation(e: Explanation) -> Value {
    let of_row = |window: &[u32]| -> Value {
        let (from, to) = (window.first().copied().unwrap_or(0), window.last().copied().unwrap_or(0));
        let refs = e.refs.get(from as usize..to as usize).unwrap_or_default();
        refs.iter().filter_map(|r| e.reasons.get(*r as usize)).map(reason).collect()
    };
    e.offsets.windows(2).map(of_row).collect()
}

pub(crate) fn decisions(decisions: &[Decision]) -> Value {
    decisions.iter().map(|d| json!({ "pod": d.pod, "rejected": d.rejected })).collect()
}

pub(crate) fn verdict(verdict: &Verdict) -> Value {
    match verdict {
        Verdict::Allow => json!({ "allow": true }),
        Verdict::Wait { timeout, message } => {
            let milliseconds = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
            json!({ "waitMilliseconds": milliseconds, "message": message })
        }
        Verdict::Reject { message } => json!({ "reject": message }),
    }
}

pub(crate) fn permitted((permit, others): (Verdict, Vec<Decision>)) -> Value {
    json!({ "verdict": verdict(&permit), "decisions": decisions(&others) })
}

fn writes(writes: &[Vec<u8>]) -> Value {
    writes
        .iter()
        .map(|w| serde_json::from_slice(w).unwrap_or_else(|_| Value::String(super::wire::text(w))))
        .collect()
}

pub(crate) fn pre_bound((may, planned): (Verdict, Vec<Vec<u8>>)) -> Value {
    json!({ "verdict": verdict(&may), "writes": writes(&planned) })
}

pub(crate) fn bound(binder: Binder) -> Value {
    match binder {
        Binder::Host => json!("host"),
        Binder::Next => json!("next"),
        Binder::Writes(planned) => json!({ "writes": writes(&planned) }),
    }
}

pub(crate) fn eligible(answer: Result<u32, String>) -> Value {
    match answer {
        Ok(nodes) => json!({ "nodes": nodes }),
        Err(message) => json!({ "never": message }),
    }
}
