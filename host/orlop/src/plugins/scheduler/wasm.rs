//! One scheduler plugin in WebAssembly, behind the scheduler's trait.
//!
//! An answer that the interface does not allow is a failure like a trap: it is counted, told to the user, and
//! ends the instance. Only answers about pods clear the record of a plugin that failed: one that starts
//! and mirrors well but traps when it is asked must not look healthy in between.

// By its path, because a bench includes this file from elsewhere.
#[path = "wasm/convert.rs"]
mod convert;
#[cfg(test)]
#[path = "wasm/tests.rs"]
mod tests;

pub(crate) use convert::convert_error;
use convert::{placement, pods, rows, stale, verdict, with_changes, with_delta};
use orlop_plugin::scheduler::{SchedulerWorld, bind, prepared};
use orlop_plugin::{Instance, Plugin, PluginError as RuntimeError};
use orlop_scheduler::framework::{
    Binder, CandidatePods, Decision, Delta, Descriptor, Explanation, ObjectChange, Placement, PluginError,
    Prepared, Reason, Rows, SchedulerPlugin, Stale, Synced, Verdict,
};
use std::time::{Duration, Instant};

/// Keeps the record of a plugin, and knows what it may do.
pub(crate) trait Supervisor: Send {
    /// A call failed, or gave a valid answer about pods.
    fn ended(&self, outcome: Result<(), &RuntimeError>);

    /// Whether the plugin may be asked now. After `true` the outcome is told by [`Self::ended`].
    fn admits(&self) -> bool;

    /// A call took so long.
    fn took(&mut self, duration: Duration) {
        let _ = duration;
    }

    /// The instance holds so many bytes now; none where it is gone.
    fn holds(&mut self, bytes: usize) {
        let _ = bytes;
    }

    /// Who the plugin is to the API server; empty for the scheduler's own user.
    fn user(&self) -> &str {
        ""
    }

    /// Why the plugin may not do a write, where it may not.
    fn refuses(&self, write: &[u8]) -> Option<String> {
        let _ = write;
        None
    }
}

/// A linked plugin and its one instance.
pub(crate) struct WasmPlugin {
    descriptor: Descriptor,
    plugin: Plugin<SchedulerWorld>,
    instance: Option<Instance<SchedulerWorld>>,
    required: bool,
    supervisor: Box<dyn Supervisor>,
}

impl WasmPlugin {
    /// Starts an instance.
    ///
    /// # Errors
    /// Where the manifest says what this scheduler does not know, or the instance does not start.
    pub(crate) fn new(
        plugin: Plugin<SchedulerWorld>,
        required: bool,
        supervisor: Box<dyn Supervisor>,
    ) -> Result<Self, PluginError> {
        let refused = |message: String| PluginError::Refused { message };
        let manifest = plugin.manifest();
        let section = serde_json::to_value(&manifest.scheduler).map_err(|e| refused(e.to_string()))?;
        let descriptor =
            Descriptor::from_manifest(&manifest.name, &section).map_err(|e| refused(e.to_string()))?;
        let instance = plugin.instantiate().map_err(|e| convert_error(&e))?;
        let mut this = Self { descriptor, plugin, instance: Some(instance), required, supervisor };
        this.weigh();
        Ok(this)
    }

    /// Records a failure and gives the instance's memory back at once, not when it is needed again.
    fn fail(&mut self, error: &RuntimeError) -> PluginError {
        self.instance = None;
        self.weigh();
        self.supervisor.ended(Err(error));
        convert_error(error)
    }

    fn call<R>(
        &mut self,
        f: impl FnOnce(&mut Instance<SchedulerWorld>) -> Result<R, RuntimeError>,
    ) -> Result<R, PluginError> {
        let Some(instance) = &mut self.instance else {
            return Err(PluginError::Trap { message: "the instance failed before".to_owned() });
        };
        let began = Instant::now();
        let answer = f(instance);
        self.supervisor.took(began.elapsed());
        let answer = answer.map_err(|error| self.fail(&error))?;
        self.weigh();
        Ok(answer)
    }

    fn weigh(&mut self) {
        self.supervisor.holds(self.instance.as_ref().map_or(0, Instance::memory_bytes));
    }

    /// Writes that it may not do are not even tried.
    fn permitted(&self, writes: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>, PluginError> {
        match writes.iter().find_map(|write| self.supervisor.refuses(write)) {
            Some(message) => Err(PluginError::Refused { message }),
            None => Ok(writes),
        }
    }

    /// As [`Self::call`], for an answer about pods: a good one clears the record.
    fn answer<R>(
        &mut self,
        f: impl FnOnce(&mut Instance<SchedulerWorld>) -> Result<R, RuntimeError>,
    ) -> Result<R, PluginError> {
        let answer = self.call(f)?;
        self.supervisor.ended(Ok(()));
        Ok(answer)
    }

    /// As [`Self::answer`]; on the wire no rows stand for all of them, so it is not called about none.
    fn about<R: Default>(
        &mut self,
        asked: Rows<'_>,
        f: impl FnOnce(&mut Instance<SchedulerWorld>, &[u32]) -> Result<R, RuntimeError>,
    ) -> Result<R, PluginError> {
        match asked {
            Rows::Some([]) => Ok(R::default()),
            asked => self.answer(|instance| f(instance, rows(asked))),
        }
    }
}

fn refused<T>(answer: Result<T, String>) -> Result<T, PluginError> {
    answer.map_err(|message| PluginError::Refused { message })
}

impl SchedulerPlugin for WasmPlugin {
    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    fn user(&self) -> &str {
        self.supervisor.user()
    }

    fn required(&self) -> bool {
        self.required
    }

    fn admits(&self) -> bool {
        self.supervisor.admits()
    }

    fn nonsense(&mut self, message: String) -> PluginError {
        self.fail(&RuntimeError::BadOutput { message })
    }

    fn reset(&mut self) -> Result<(), PluginError> {
        self.instance = None;
        self.instance = Some(self.plugin.instantiate().map_err(|error| self.fail(&error))?);
        self.weigh();
        Ok(())
    }

    fn sync(&mut self, delta: &Delta) -> Result<Synced, PluginError> {
        let synced = self.call(|i| with_delta(delta, |delta| i.sync(delta)))?;
        Ok(Synced { checksum: synced.checksum, stale: stale(synced.stale) })
    }

    fn prepare(&mut self, class: u32, pod: &[u8]) -> Result<Prepared, PluginError> {
        let answer = refused(self.call(|i| i.prepare(class, pod))?)?;
        let has = |flag: u32| answer.flags & flag != 0;
        if has(prepared::SKIP_FILTER) || has(prepared::REJECTED) {
            self.supervisor.ended(Ok(()));
        }
        Ok(Prepared {
            skip_filter: has(prepared::SKIP_FILTER),
            skip_score: has(prepared::SKIP_SCORE),
            skip_placing: has(prepared::SKIP_PLACING),
            reads_objects: has(prepared::READS_OBJECTS),
            rejected: has(prepared::REJECTED)
                .then(|| Reason { unresolvable: has(prepared::UNRESOLVABLE), text: answer.message }),
        })
    }

    fn release(&mut self, class: u32) -> Result<(), PluginError> {
        self.call(|i| i.release(class))
    }

    fn filter(&mut self, class: u32, asked: Rows<'_>) -> Result<Vec<u64>, PluginError> {
        self.about(asked, |i, rows| i.filter(class, rows))
    }

    fn score(&mut self, class: u32, asked: Rows<'_>) -> Result<Vec<u8>, PluginError> {
        self.about(asked, |i, rows| i.score(class, rows))
    }

    fn score_raw(&mut self, class: u32, asked: Rows<'_>) -> Result<Vec<i64>, PluginError> {
        self.about(asked, |i, rows| i.score_raw(class, rows))
    }

    fn normalize(&mut self, class: u32, feasible: &[u64], raw: &[i64]) -> Result<Vec<u8>, PluginError> {
        self.answer(|i| i.normalize(class, feasible, raw))
    }

    fn explain(&mut self, class: u32, rows: &[u32]) -> Result<Explanation, PluginError> {
        if rows.is_empty() {
            return Ok(Explanation { offsets: vec![0], ..Explanation::default() });
        }
        let answer = self.answer(|i| i.explain(class, rows))?;
        let reasons = answer.reasons.into_iter().map(|r| Reason { text: r.text, unresolvable: r.code == 1 });
        Ok(Explanation { reasons: reasons.collect(), offsets: answer.offsets, refs: answer.refs })
    }

    fn overlay(&mut self, class: u32, delta: &Delta) -> Result<Vec<u64>, PluginError> {
        if delta.rows.is_empty() {
            return Ok(Vec::new());
        }
        self.answer(|i| with_delta(delta, |delta| i.overlay(class, delta)))
    }

    fn objects(&mut self, full: bool, changes: &[ObjectChange]) -> Result<Stale, PluginError> {
        self.call(|i| with_changes(changes, |changes| i.update_objects(full, changes))).map(stale)
    }

    fn pre_enqueue(&mut self, pod: &[u8]) -> Result<Option<String>, PluginError> {
        self.answer(|i| i.pre_enqueue(pod))
    }

    fn sort_key(&mut self, pod: &[u8]) -> Result<Vec<i64>, PluginError> {
        self.answer(|i| i.sort_key(pod))
    }

    fn reserve(&mut self, at: &Placement) -> Result<(), PluginError> {
        refused(self.answer(|i| i.reserve(&placement(at)))?)
    }

    fn unreserve(&mut self, at: &Placement) -> Result<Vec<Decision>, PluginError> {
        self.answer(|i| i.unreserve(&placement(at))).map(convert::decisions)
    }

    fn permit(&mut self, at: &Placement) -> Result<(Verdict, Vec<Decision>), PluginError> {
        let (answer, others) = self.answer(|i| i.permit(&placement(at)))?;
        Ok((verdict(answer), convert::decisions(others)))
    }

    fn pre_bind(&mut self, at: &Placement) -> Result<(Verdict, Vec<Vec<u8>>), PluginError> {
        let (answer, writes) = self.answer(|i| i.pre_bind(&placement(at)))?;
        Ok((verdict(answer), self.permitted(writes)?))
    }

    fn bind(&mut self, at: &Placement) -> Result<Binder, PluginError> {
        let (code, writes) = self.answer(|i| i.bind(&placement(at)))?;
        Ok(match code {
            bind::HOST => Binder::Host,
            bind::NEXT => Binder::Next,
            _ => Binder::Writes(self.permitted(writes)?),
        })
    }

    fn post_bind(&mut self, at: &Placement) -> Result<(), PluginError> {
        self.answer(|i| i.post_bind(&placement(at)))
    }

    fn eligible(
        &mut self,
        pod: &[u8],
        nodes: u32,
        terminating: bool,
    ) -> Result<Result<u32, String>, PluginError> {
        self.answer(|i| i.eligible(pod, nodes, terminating))
    }

    fn victims(&mut self, pod: &[u8], candidates: &CandidatePods) -> Result<Vec<u32>, PluginError> {
        self.answer(|i| i.victims(pod, &pods(candidates)))
    }

    fn choose(&mut self, pod: &[u8], victims: &CandidatePods) -> Result<u32, PluginError> {
        self.answer(|i| i.choose(pod, &pods(victims)))
    }
}
