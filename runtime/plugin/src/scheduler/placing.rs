//! The calls of `placing` and `preemption`.

use super::calls::missing;
use super::check;
use super::world::{SchedulerWorld, v2::exports::orlop::scheduler};
use super::{Decision, Placement, Pods, Verdict};
use crate::error::PluginError;
use crate::instance::Instance;

/// Codes of what [`Instance::bind`] answers.
pub mod bind {
    /// The host binds.
    pub const HOST: u32 = 0;
    /// The next plugin is asked.
    pub const NEXT: u32 = 1;
    /// The writes bind.
    pub const WRITES: u32 = 2;
}

fn placing(world: &SchedulerWorld) -> wasmtime::Result<&scheduler::placing::Guest> {
    world.placing.as_ref().ok_or_else(|| missing("placing"))
}

fn preemption(world: &SchedulerWorld) -> wasmtime::Result<&scheduler::preemption::Guest> {
    world.preemption.as_ref().ok_or_else(|| missing("preemption"))
}

/// Errors of all: as [`Instance::call`], and [`PluginError::BadOutput`] where the answer is not one that the
/// interface allows. Calls of an interface that the plugin does not export fail too.
impl Instance<SchedulerWorld> {
    /// Books a pod; the inner error is the plugin's own.
    ///
    /// # Errors
    /// See above.
    pub fn reserve(&mut self, placement: &Placement<'_>) -> Result<Result<(), String>, PluginError> {
        let answer = self.call(|world, store| placing(world)?.call_reserve(store, placement.clone()))?;
        Ok(answer.map_err(check::words))
    }

    /// Takes [`Self::reserve`] back.
    ///
    /// # Errors
    /// See above.
    pub fn unreserve(&mut self, placement: &Placement<'_>) -> Result<Vec<Decision>, PluginError> {
        self.call_checked(
            |world, store| placing(world)?.call_unreserve(store, placement.clone()),
            |_, answer| check::decisions(answer),
        )
    }

    /// Whether the pod may be bound now.
    ///
    /// # Errors
    /// See above.
    pub fn permit(&mut self, placement: &Placement<'_>) -> Result<(Verdict, Vec<Decision>), PluginError> {
        self.call_checked(
            |world, store| placing(world)?.call_permit(store, placement.clone()),
            |_, (verdict, decisions)| Ok((check::verdict(verdict)?, check::decisions(decisions)?)),
        )
    }

    /// What has to be written before the binding.
    ///
    /// # Errors
    /// See above.
    pub fn pre_bind(&mut self, placement: &Placement<'_>) -> Result<(Verdict, Vec<Vec<u8>>), PluginError> {
        self.call_checked(
            |world, store| placing(world)?.call_pre_bind(store, placement.clone()),
            |_, (verdict, writes)| Ok((check::verdict(verdict)?, check::writes(writes)?)),
        )
    }

    /// Who binds: one of [`bind`], and writes with [`bind::WRITES`] only.
    ///
    /// # Errors
    /// See above.
    pub fn bind(&mut self, placement: &Placement<'_>) -> Result<(u32, Vec<Vec<u8>>), PluginError> {
        self.call_checked(
            |world, store| placing(world)?.call_bind(store, placement.clone()),
            |_, (code, writes)| match code {
                bind::HOST | bind::NEXT if writes.is_empty() => Ok((code, writes)),
                bind::WRITES if !writes.is_empty() => Ok((code, check::writes(writes)?)),
                bind::HOST..=bind::WRITES => {
                    Err(PluginError::bad_output(format!("bind with code {code} and {} writes", writes.len())))
                }
                _ => Err(PluginError::bad_output(format!("bind with the reserved code {code}"))),
            },
        )
    }

    /// The pod is bound.
    ///
    /// # Errors
    /// See above.
    pub fn post_bind(&mut self, placement: &Placement<'_>) -> Result<(), PluginError> {
        self.call(|world, store| placing(world)?.call_post_bind(store, placement.clone()))
    }

    /// On how many of `nodes` nodes a preemption may be tried; the inner error says why on none.
    ///
    /// # Errors
    /// See above.
    pub fn eligible(
        &mut self,
        pod: &[u8],
        nodes: u32,
        terminating: bool,
    ) -> Result<Result<u32, String>, PluginError> {
        let answer =
            self.call(|world, store| preemption(world)?.call_eligible(store, pod, nodes, terminating))?;
        Ok(answer.map(|most| most.min(nodes)).map_err(check::words))
    }

    /// Positions of the pods that may be evicted, candidate after candidate.
    ///
    /// # Errors
    /// See above.
    pub fn victims(&mut self, pod: &[u8], pods: &Pods<'_>) -> Result<Vec<u32>, PluginError> {
        self.call_checked(
            |world, store| preemption(world)?.call_victims(store, pod, pods.clone()),
            |_, answer| check::victims(answer, pods),
        )
    }

    /// The best candidate.
    ///
    /// # Errors
    /// See above.
    pub fn choose(&mut self, pod: &[u8], victims: &Pods<'_>) -> Result<u32, PluginError> {
        let candidates = victims.offsets.len().saturating_sub(1);
        self.call_checked(
            |world, store| preemption(world)?.call_choose(store, pod, victims.clone()),
            |_, best| {
                if (best as usize) < candidates {
                    return Ok(best);
                }
                Err(PluginError::bad_output(format!("candidate {best} of {candidates}")))
            },
        )
    }
}
