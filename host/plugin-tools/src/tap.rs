//! A scheduler plugin whose calls are written down.

use crate::record::{self, Call, Outcome, bits, failure_of};
use orlop_scheduler::framework::{
    Binder, CandidatePods, Decision, Delta, Descriptor, Explanation, ObjectChange, Placement, PluginError,
    Prepared, Rows, SchedulerPlugin, Stale, Synced, Verdict,
};
use serde_json::{Value, json};

/// Where calls are written down.
pub trait Sink: Send {
    /// Takes a call in; `false` where nobody listens any more.
    fn put(&mut self, call: Call, outcome: Outcome) -> bool;
}

/// A plugin, and who listens. Costs one comparison a call where nobody does.
pub struct Tap {
    inner: Box<dyn SchedulerPlugin>,
    sink: Option<Box<dyn Sink>>,
}

impl Tap {
    /// A plugin from its first call on.
    #[must_use]
    pub fn new(inner: Box<dyn SchedulerPlugin>, sink: Box<dyn Sink>) -> Self {
        Self { inner, sink: Some(sink) }
    }

    fn note<T: Clone>(
        &mut self,
        answer: Result<T, PluginError>,
        call: impl FnOnce() -> Call,
        value: impl FnOnce(T) -> Value,
    ) -> Result<T, PluginError> {
        if let Some(sink) = &mut self.sink {
            let outcome = match &answer {
                Ok(answer) => Outcome::Answer(value(answer.clone())),
                Err(error) => Outcome::Failure(failure_of(error)),
            };
            if !sink.put(call(), outcome) {
                self.sink = None;
            }
        }
        answer
    }
}

fn rows(rows: Rows<'_>) -> Option<Vec<u32>> {
    match rows {
        Rows::All => None,
        Rows::Some(rows) => Some(rows.to_vec()),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl SchedulerPlugin for Tap {
    fn descriptor(&self) -> &Descriptor {
        self.inner.descriptor()
    }

    fn user(&self) -> &str {
        self.inner.user()
    }

    fn required(&self) -> bool {
        self.inner.required()
    }

    fn admits(&self) -> bool {
        self.inner.admits()
    }

    fn wants_everything(&mut self) -> bool {
        self.inner.wants_everything()
    }

    fn nonsense(&mut self, message: String) -> PluginError {
        self.inner.nonsense(message)
    }

    fn reset(&mut self) -> Result<(), PluginError> {
        let answer = self.inner.reset();
        self.note(answer, || Call::Reset, |()| Value::Null)
    }

    fn sync(&mut self, delta: &Delta) -> Result<Synced, PluginError> {
        let answer = self.inner.sync(delta);
        self.note(answer, || Call::Sync { delta: delta.into() }, record::synced)
    }

    fn prepare(&mut self, class: u32, pod: &[u8]) -> Result<Prepared, PluginError> {
        let answer = self.inner.prepare(class, pod);
        self.note(answer, || Call::Prepare { class, pod: text(pod) }, record::prepared)
    }

    fn release(&mut self, class: u32) -> Result<(), PluginError> {
        let answer = self.inner.release(class);
        self.note(answer, || Call::Release { class }, |()| Value::Null)
    }

    fn filter(&mut self, class: u32, asked: Rows<'_>) -> Result<Vec<u64>, PluginError> {
        let answer = self.inner.filter(class, asked);
        self.note(answer, || Call::Filter { class, rows: rows(asked) }, record::mask)
    }

    fn score(&mut self, class: u32, asked: Rows<'_>) -> Result<Vec<u8>, PluginError> {
        let answer = self.inner.score(class, asked);
        self.note(answer, || Call::Score { class, rows: rows(asked) }, record::numbers)
    }

    fn score_raw(&mut self, class: u32, asked: Rows<'_>) -> Result<Vec<i64>, PluginError> {
        let answer = self.inner.score_raw(class, asked);
        self.note(answer, || Call::ScoreRaw { class, rows: rows(asked) }, record::numbers)
    }

    fn normalize(&mut self, class: u32, feasible: &[u64], raw: &[i64]) -> Result<Vec<u8>, PluginError> {
        let answer = self.inner.normalize(class, feasible, raw);
        self.note(
            answer,
            || Call::Normalize { class, feasible: bits(feasible), raw: raw.to_vec() },
            record::numbers,
        )
    }

    fn explain(&mut self, class: u32, rows: &[u32]) -> Result<Explanation, PluginError> {
        let answer = self.inner.explain(class, rows);
        self.note(answer, || Call::Explain { class, rows: rows.to_vec() }, record::explanation)
    }

    fn overlay(&mut self, class: u32, delta: &Delta) -> Result<Vec<u64>, PluginError> {
        let answer = self.inner.overlay(class, delta);
        self.note(answer, || Call::Overlay { class, delta: delta.into() }, record::mask)
    }

    fn objects(&mut self, full: bool, changes: &[ObjectChange]) -> Result<Stale, PluginError> {
        let answer = self.inner.objects(full, changes);
        self.note(
            answer,
            || Call::Objects { full, changes: changes.iter().map(Into::into).collect() },
            |s| record::stale(&s),
        )
    }

    fn pre_enqueue(&mut self, pod: &[u8]) -> Result<Option<String>, PluginError> {
        let answer = self.inner.pre_enqueue(pod);
        self.note(answer, || Call::PreEnqueue { pod: text(pod) }, |held| json!(held))
    }

    fn sort_key(&mut self, pod: &[u8]) -> Result<Vec<i64>, PluginError> {
        let answer = self.inner.sort_key(pod);
        self.note(answer, || Call::SortKey { pod: text(pod) }, record::numbers)
    }

    fn reserve(&mut self, placement: &Placement) -> Result<(), PluginError> {
        let answer = self.inner.reserve(placement);
        self.note(answer, || Call::Reserve { placement: placement.into() }, |()| Value::Null)
    }

    fn unreserve(&mut self, placement: &Placement) -> Result<Vec<Decision>, PluginError> {
        let answer = self.inner.unreserve(placement);
        self.note(answer, || Call::Unreserve { placement: placement.into() }, |d| record::decisions(&d))
    }

    fn permit(&mut self, placement: &Placement) -> Result<(Verdict, Vec<Decision>), PluginError> {
        let answer = self.inner.permit(placement);
        self.note(answer, || Call::Permit { placement: placement.into() }, record::permitted)
    }

    fn pre_bind(&mut self, placement: &Placement) -> Result<(Verdict, Vec<Vec<u8>>), PluginError> {
        let answer = self.inner.pre_bind(placement);
        self.note(answer, || Call::PreBind { placement: placement.into() }, record::pre_bound)
    }

    fn bind(&mut self, placement: &Placement) -> Result<Binder, PluginError> {
        let answer = self.inner.bind(placement);
        self.note(answer, || Call::Bind { placement: placement.into() }, record::bound)
    }

    fn post_bind(&mut self, placement: &Placement) -> Result<(), PluginError> {
        let answer = self.inner.post_bind(placement);
        self.note(answer, || Call::PostBind { placement: placement.into() }, |()| Value::Null)
    }

    fn eligible(
        &mut self,
        pod: &[u8],
        nodes: u32,
        terminating: bool,
    ) -> Result<Result<u32, String>, PluginError> {
        let answer = self.inner.eligible(pod, nodes, terminating);
        self.note(answer, || Call::Eligible { pod: text(pod), nodes, terminating }, record::eligible)
    }

    fn victims(&mut self, pod: &[u8], pods: &CandidatePods) -> Result<Vec<u32>, PluginError> {
        let answer = self.inner.victims(pod, pods);
        self.note(answer, || Call::Victims { pod: text(pod), pods: pods.into() }, record::numbers)
    }

    fn choose(&mut self, pod: &[u8], victims: &CandidatePods) -> Result<u32, PluginError> {
        let answer = self.inner.choose(pod, victims);
        self.note(answer, || Call::Choose { pod: text(pod), victims: victims.into() }, |chosen| json!(chosen))
    }
}
