//! Nodes where a pod might fit after evictions, and what the plugin says of them.

use super::super::Pod;
use crate::framework::{CandidatePods, PluginError, SchedulerPlugin};
use crate::pod::Uid;
use crate::profile::{Failed, Profile};
use crate::table::{NodeTable, PodChange, Slot};
use serde_json::Value;
use std::sync::Arc;
use std::time::Instant;

/// A pod that might be evicted.
pub(super) struct Lower<'a> {
    pub(super) uid: &'a Uid,
    pub(super) pod: &'a Pod,
    pub(super) started: i64,
    pub(super) violating: bool,
}

/// A node and whom to evict there.
pub(super) struct Candidate<'a> {
    pub(super) slot: Slot,
    /// Nominated pods that count.
    pub(super) nominated: Vec<PodChange<'a>>,
    /// In order of importance.
    pub(super) pods: Vec<Lower<'a>>,
    /// Positions in `pods` of those that are taken away, in the order in which it is tried to spare them.
    pub(super) victims: Vec<usize>,
}

impl<'a> Candidate<'a> {
    /// The row without the victims, but with the one at `spared`.
    fn row(&self, spared: Option<usize>) -> (Slot, Vec<PodChange<'a>>) {
        let taken = self.victims.iter().filter(|at| Some(**at) != spared);
        let taken = taken.filter_map(|at| self.pods.get(*at)).map(|p| PodChange::Remove(&p.pod.footprint));
        (self.slot, self.nominated.iter().copied().chain(taken).collect())
    }
}

/// Who asks.
pub(super) struct Preemptor<'a> {
    pub(super) profile: &'a mut Profile,
    pub(super) table: &'a NodeTable,
    pub(super) plugin: usize,
    pub(super) class: u32,
    pub(super) fields: Arc<[u8]>,
    pub(super) now: Instant,
}

impl Preemptor<'_> {
    /// Keeps the candidates where the pod fits without all victims; returns the others' slots.
    pub(super) fn fitting(&mut self, candidates: &mut Vec<Candidate<'_>>) -> Result<Vec<Slot>, Failed> {
        let rows: Vec<_> = candidates.iter().map(|c| c.row(None)).collect();
        let fits = self.profile.overlay(self.class, self.table, &rows, self.now)?;
        drop(rows);
        let mut lost = Vec::new();
        let mut fits = fits.into_iter();
        candidates.retain(|candidate| {
            let keeps = fits.next().unwrap_or(false);
            if !keeps {
                lost.push(candidate.slot);
            }
            keeps
        });
        Ok(lost)
    }

    /// Lets the plugin say who may be evicted, and in which order pods are spared. Returns slots where too few may.
    pub(super) fn order(&mut self, candidates: &mut Vec<Candidate<'_>>) -> Result<Vec<Slot>, Failed> {
        if candidates.is_empty() {
            return Ok(Vec::new());
        }
        let pods = columns(candidates.iter().map(|c| c.pods.iter()));
        let fields = self.fields.clone();
        let chosen = self.ask(|p| p.victims(&fields, &pods))?;
        let ends = pods.offsets.get(1..).unwrap_or(&[]);
        let mut fewer = false;
        let mut chosen = chosen.into_iter().peekable();
        let mut first = 0;
        for (candidate, end) in candidates.iter_mut().zip(ends) {
            candidate.victims.clear();
            while let Some(at) = chosen.next_if(|at| (first..*end).contains(at)) {
                let at = (at - first) as usize;
                if !candidate.victims.contains(&at) {
                    candidate.victims.push(at);
                }
            }
            fewer |= candidate.victims.len() < candidate.pods.len();
            first = *end;
        }
        if chosen.next().is_some() {
            return Err(self.nonsense("victims that are no candidates' pods, or in no order"));
        }
        if fewer { self.fitting(candidates) } else { Ok(Vec::new()) }
    }

    /// Gives pods back one by one, on all candidates at once, where the pod still fits then.
    pub(super) fn spare(&mut self, candidates: &mut [Candidate<'_>]) -> Result<(), Failed> {
        let orders: Vec<Vec<usize>> = candidates.iter().map(|c| c.victims.clone()).collect();
        let longest = orders.iter().map(Vec::len).max().unwrap_or(0);
        for step in 0..longest {
            let asked: Vec<(usize, usize)> =
                orders.iter().enumerate().filter_map(|(i, order)| Some((i, *order.get(step)?))).collect();
            let rows: Vec<_> =
                asked.iter().filter_map(|(i, spared)| Some(candidates.get(*i)?.row(Some(*spared)))).collect();
            let fits = self.profile.overlay(self.class, self.table, &rows, self.now)?;
            drop(rows);
            for ((i, spared), fits) in asked.into_iter().zip(fits) {
                if fits && let Some(candidate) = candidates.get_mut(i) {
                    candidate.victims.retain(|at| *at != spared);
                }
            }
        }
        Ok(())
    }

    /// The position of the best candidate.
    pub(super) fn choose(&mut self, candidates: &[Candidate<'_>]) -> Result<usize, Failed> {
        let victims =
            columns(candidates.iter().map(|c| {
                c.pods.iter().enumerate().filter(|(at, _)| c.victims.contains(at)).map(|(_, pod)| pod)
            }));
        let fields = self.fields.clone();
        let best = self.ask(|p| p.choose(&fields, &victims))? as usize;
        if best >= candidates.len() {
            return Err(self.nonsense("a choice that is no candidate"));
        }
        Ok(best)
    }

    fn ask<R>(
        &mut self,
        ask: impl FnOnce(&mut dyn SchedulerPlugin) -> Result<R, PluginError>,
    ) -> Result<R, Failed> {
        let answer = self.profile.call(self.plugin, self.table, false, self.now, ask);
        answer.map_err(|error| self.failed(error.message()))
    }

    fn nonsense(&mut self, message: &str) -> Failed {
        let answer: Result<(), Failed> = self.ask(|p| Err(p.nonsense(message.to_owned())));
        answer.err().unwrap_or_else(|| self.failed(message))
    }

    fn failed(&self, message: &str) -> Failed {
        let plugin = self.profile.plugin_name(self.plugin).to_owned();
        Failed { message: format!("running PostFilter plugin {plugin:?}: {message}"), plugin }
    }
}

/// The pods of candidates, column by column.
fn columns<'a, 'b: 'a, P: Iterator<Item = &'a Lower<'b>>>(
    candidates: impl Iterator<Item = P>,
) -> CandidatePods {
    let mut columns = CandidatePods { offsets: vec![0], ..CandidatePods::default() };
    for pods in candidates {
        for lower in pods {
            columns.priorities.push(lower.pod.priority);
            columns.started.push(lower.started);
            columns.violating.push(lower.violating.into());
            columns.terminating.push((lower.pod.condemned || lower.pod.object.is_being_deleted()).into());
        }
        columns.offsets.push(u32::try_from(columns.priorities.len()).unwrap_or(u32::MAX));
    }
    columns
}

/// When a pod began to run; one that has not begun is the youngest.
pub(super) fn started(pod: &Pod) -> i64 {
    let value = pod.object.to_value();
    let at = value.pointer("/status/startTime").and_then(Value::as_str);
    at.and_then(|at| at.parse::<jiff::Timestamp>().ok()).map_or(i64::MAX, |at| at.as_millisecond())
}
