//! Candidates of scheduler plugins: a shadow is asked what the active revision is asked, a canary decides about
//! its share of the pod classes.
//!
//! A plugin's answers depend on all that it was told before. So a candidate that failed, or that could not
//! keep up, has *lost the thread*: it is asked nothing more until it has rested, starts from nothing and is
//! told everything again, which the scheduler is asked for.

mod canary;
mod follower;
mod shadow;
#[cfg(test)]
mod tests;

pub(super) use canary::Canary;
use orlop_scheduler::framework::{
    Column, Delta, Descriptor, Hooks, ListColumn, PluginError, Prepared, Reason, SchedulerPlugin,
};
pub(super) use shadow::Shadow;
use std::time::{Duration, Instant};

/// A candidate that lost the thread rests so long.
const REST: Duration = Duration::from_secs(1);

/// Starts an instance of the candidate; counts it where that fails.
pub(super) type Open = Box<dyn Fn() -> Result<Box<dyn SchedulerPlugin>, PluginError> + Send>;

/// How well the candidate follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    /// It was told all that the active revision was told.
    Following,
    /// It lost the thread.
    Lost(Instant),
    /// It started from nothing, and a full delta is to come.
    Resuming,
}

impl Course {
    /// Where a candidate stands that was just started: it waits for a full delta, where it is sent any.
    fn resumed(descriptor: &Descriptor) -> Self {
        let mirrored = Hooks(!Hooks::PRE_ENQUEUE.or(Hooks::QUEUE_SORT).0);
        if descriptor.hooks.intersects(mirrored) { Self::Resuming } else { Self::Following }
    }

    /// Whether it may start again.
    fn has_rested(self) -> bool {
        matches!(self, Self::Lost(since) if since.elapsed() >= REST)
    }
}

/// What `prepare` says, with a refusal as the scheduler takes it: no node fits.
fn or_rejected(prepared: Result<Prepared, PluginError>) -> Result<Prepared, PluginError> {
    match prepared {
        Err(PluginError::Refused { message: text }) => {
            let rejected = Some(Reason { text, unresolvable: true });
            Ok(Prepared { rejected, ..Prepared::default() })
        }
        other => other,
    }
}

fn bit(words: &[u64], at: usize) -> bool {
    words.get(at / 64).is_some_and(|word| word >> (at % 64) & 1 == 1)
}

/// The mask of a plugin that is not asked about so many rows; `None` where it is to be asked.
fn unasked_mask(prepared: &Prepared, rows: usize) -> Option<Vec<u64>> {
    match prepared {
        Prepared { rejected: Some(_), .. } => Some(vec![0; rows.div_ceil(64)]),
        Prepared { skip_filter: true, .. } => Some(vec![u64::MAX; rows.div_ceil(64)]),
        _ => None,
    }
}

/// Scores of a plugin that is not asked about so many rows.
fn unasked_scores<T: Clone + Default>(prepared: &Prepared, rows: usize) -> Option<Vec<T>> {
    (prepared.skip_score || prepared.rejected.is_some()).then(|| vec![T::default(); rows])
}

/// A delta that brings nothing but the dictionary entries of another one.
fn entries(delta: &Delta, slots: usize) -> Delta {
    let s64 = delta.s64_columns.iter().map(|c| Column { column: c.column, values: Vec::new() });
    let u32s = delta.u32_columns.iter().map(|c| Column { column: c.column, values: Vec::new() });
    let lists = delta.list_columns.iter();
    let lists = lists.map(|c| ListColumn { column: c.column, offsets: vec![0], values: Vec::new() });
    Delta {
        slots: u32::try_from(slots).unwrap_or(u32::MAX),
        dictionaries: delta.dictionaries.clone(),
        s64_columns: s64.collect(),
        u32_columns: u32s.collect(),
        list_columns: lists.collect(),
        ..Delta::default()
    }
}
