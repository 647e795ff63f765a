//! Pods on their way to a node, with two revisions.

use super::{Canary, Course};
use orlop_scheduler::framework::{Decision, Placement, PluginError, SchedulerPlugin, Verdict};
use std::time::Instant;

/// Who answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    Active,
    Candidate,
}

impl Canary {
    /// Whether the active revision and the candidate want to be left out of what becomes of the pod.
    fn skips(&self, at: &Placement) -> (bool, bool) {
        let class = self.classes.values().find(|class| *class.pod == *at.fields);
        class.map_or((false, false), |class| {
            (class.active.skip_placing, class.candidate.as_ref().is_some_and(|c| c.skip_placing))
        })
    }

    /// Whether the candidate knows of the pod, or may get to know it now.
    fn knows(&mut self, at: &Placement) -> bool {
        self.newest = self.newest.max(at.pod);
        self.course == Course::Following && at.pod > self.since
    }

    /// Asks whoever decides about the pod; `unasked` is the answer of one that wants to be left out.
    pub(super) fn of_placement<T>(
        &mut self,
        at: &Placement,
        unasked: impl Fn() -> T,
        question: impl Fn(&mut dyn SchedulerPlugin) -> Result<T, PluginError>,
    ) -> (By, Result<T, PluginError>) {
        let (skips, candidate_skips) = self.skips(at);
        if self.knows(at) && self.is_mine(&at.fields) {
            if candidate_skips {
                return (By::Candidate, Ok(unasked()));
            }
            let began = Instant::now();
            if let Some(answer) = self.try_candidate(&question) {
                self.comparison.candidate.add(began.elapsed());
                return (By::Candidate, answer);
            }
        }
        let answer = if skips { Ok(unasked()) } else { question(self.active.as_mut()) };
        (By::Active, answer)
    }

    pub(super) fn reserve_both(&mut self, at: &Placement) -> Result<(), PluginError> {
        let (skips, candidate_skips) = self.skips(at);
        let active = if skips { Ok(()) } else { self.active.reserve(at) };
        if !matches!(active, Ok(()) | Err(PluginError::Refused { .. })) || !self.knows(at) {
            return active;
        }
        let candidate = match candidate_skips {
            true => Some(Ok(())),
            false => self.try_candidate(|plugin| plugin.reserve(at)),
        };
        match candidate {
            Some(answer) if self.is_mine(&at.fields) => answer,
            _ => active,
        }
    }

    pub(super) fn unreserve_both(&mut self, at: &Placement) -> Result<Vec<Decision>, PluginError> {
        let (skips, candidate_skips) = self.skips(at);
        self.waiting.remove(&at.pod);
        let mut decisions = if skips { Vec::new() } else { self.active.unreserve(at)? };
        if self.knows(at)
            && !candidate_skips
            && let Some(Ok(more)) = self.try_candidate(|plugin| plugin.unreserve(at))
        {
            decisions.extend(more);
        }
        self.give_back_orphans(&mut decisions);
        Ok(decisions)
    }

    pub(super) fn permit_one(&mut self, at: &Placement) -> Result<(Verdict, Vec<Decision>), PluginError> {
        let (by, answer) = self.of_placement(at, || (Verdict::Allow, Vec::new()), |p| p.permit(at));
        let (verdict, mut decisions) = answer?;
        if by == By::Candidate && matches!(verdict, Verdict::Wait { .. }) {
            self.waiting.insert(at.pod);
        }
        for decision in &decisions {
            self.waiting.remove(&decision.pod);
        }
        self.give_back_orphans(&mut decisions);
        Ok((verdict, decisions))
    }

    pub(super) fn post_bind_both(&mut self, at: &Placement) -> Result<(), PluginError> {
        let (skips, candidate_skips) = self.skips(at);
        self.waiting.remove(&at.pod);
        if self.knows(at) && !candidate_skips {
            self.try_candidate(|plugin| plugin.post_bind(at));
        }
        if skips { Ok(()) } else { self.active.post_bind(at) }
    }

    /// Pods that wait for a candidate that is gone are tried again.
    fn give_back_orphans(&mut self, decisions: &mut Vec<Decision>) {
        if self.course == Course::Following {
            return;
        }
        let message = "the candidate that the pod waited for failed";
        let orphans = std::mem::take(&mut self.waiting).into_iter();
        decisions.extend(orphans.map(|pod| Decision { pod, rejected: Some(message.to_owned()) }));
    }
}
