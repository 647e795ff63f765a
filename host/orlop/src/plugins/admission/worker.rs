//! The threads that run admission plugins.
//!
//! A thread takes all jobs that wait, up to one batch, and leads them through the chain: one call per
//! plugin. Each thread has its own instance of a plugin, made when first needed and dropped when idle.

use super::chain::{Chain, Link};
use super::context::{ContextSource, Prefetched};
use super::trial::{self, Decided, Shadow, Trial};
use super::{is_exempt, memo, wire};
use crate::plugins::health::MemoryUse;
use crate::plugins::manager::record;
use crate::plugins::set::FailurePolicy;
use bytes::Bytes;
use orlop_apimachinery::Status;
use orlop_apiserver::admission::{AdmissionRequest, Verdict};
use orlop_plugin::admission::{AdmissionWorld, MAX_BATCH, Request};
use orlop_plugin::manifest::admission::{AdmissionManifest, Phase};
use orlop_plugin::{PluginError, Slot};
use parking_lot::{Condvar, Mutex};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, oneshot};

/// Threads; each may be held up by one bad plugin for one deadline.
const THREADS: usize = 2;
/// Jobs that may wait; more wait before the queue.
const QUEUE: usize = 1024;
/// Instances that nobody asked for so long are dropped.
const IDLE: Duration = Duration::from_secs(60);

/// Requests, and where the result goes.
pub(super) struct Job {
    pub(super) phase: Phase,
    pub(super) chain: Arc<Chain>,
    pub(super) cases: Vec<Case>,
    pub(super) reply: oneshot::Sender<Vec<Case>>,
}

struct Queue {
    jobs: Mutex<(VecDeque<Job>, bool)>,
    waiting: Condvar,
    room: Semaphore,
}

/// Handle of the threads; they end when it is dropped.
pub(super) struct Workers {
    queue: Arc<Queue>,
}

impl Workers {
    pub(super) fn start(context: &Arc<ContextSource>) -> std::io::Result<Self> {
        let queue =
            Arc::new(Queue { jobs: Mutex::default(), waiting: Condvar::new(), room: Semaphore::new(QUEUE) });
        let workers = Self { queue };
        let shadow = Shadow::start(context)?;
        for i in 0..THREADS {
            let (queue, context, shadow) = (workers.queue.clone(), context.clone(), shadow.clone());
            thread::Builder::new()
                .name(format!("admission-{i}"))
                .spawn(move || Worker { slots: HashMap::new(), context, shadow }.run(&queue))?;
        }
        Ok(workers)
    }

    /// Queues a job; waits while the queue is full. Cancel-safe: a cancelled job is not queued.
    pub(super) async fn send(&self, job: Job) {
        if let Ok(permit) = self.queue.room.acquire().await {
            permit.forget();
            self.queue.jobs.lock().0.push_back(job);
            self.queue.waiting.notify_one();
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.queue.jobs.lock().1 = true;
        self.queue.waiting.notify_all();
    }
}

/// One request on its way through the chain, with what was looked up for it.
pub(super) struct Case {
    pub(super) request: AdmissionRequest,
    prefetched: Prefetched,
    pub(super) verdict: Verdict,
    /// Place in the chain of the first plugin that still has to be asked.
    next: usize,
    /// What the plugin that is asked now remembers it by.
    key: Option<memo::Key>,
}

impl Case {
    pub(super) const fn new(request: AdmissionRequest, prefetched: Prefetched, verdict: Verdict) -> Self {
        Self { request, prefetched, verdict, next: 0, key: None }
    }

    /// Goes as far through the chain as plugins remember their verdicts. `true` at its end. Never blocks.
    pub(super) fn recall(&mut self, phase: Phase, chain: &Chain) -> bool {
        for (at, link) in chain.links().iter().enumerate() {
            self.next = at;
            if !link.concerns(phase, &self.request) {
                continue;
            }
            self.key = memo::prefetched_key(link, at, phase, &self.request, &self.prefetched);
            if !recall(link, self) {
                return false;
            }
        }
        self.next = usize::MAX;
        true
    }
}

struct Worker {
    slots: HashMap<u64, (Slot<AdmissionWorld>, MemoryUse)>,
    context: Arc<ContextSource>,
    shadow: Shadow,
}

impl Worker {
    fn run(mut self, queue: &Queue) {
        loop {
            let jobs = {
                let mut state = queue.jobs.lock();
                while state.0.is_empty() {
                    if state.1 {
                        return;
                    }
                    if self.slots.is_empty() {
                        queue.waiting.wait(&mut state);
                    } else if queue.waiting.wait_for(&mut state, IDLE).timed_out() {
                        self.slots.clear();
                    }
                }
                take_batch(&mut state.0)
            };
            queue.room.add_permits(jobs.len());
            self.process(jobs);
        }
    }

    /// Leads jobs of one phase and one chain through the chain.
    fn process(&mut self, jobs: Vec<Job>) {
        let Some((phase, chain)) = jobs.first().map(|j| (j.phase, j.chain.clone())) else { return };
        let is_of = |link: &Link, revision| {
            link.active.revision == revision
                || link.trial.as_ref().is_some_and(|t| t.link.active.revision == revision)
        };
        self.slots.retain(|revision, _| chain.links().iter().any(|l| is_of(l, *revision)));
        let mut replies = Vec::with_capacity(jobs.len());
        let mut cases = Vec::new();
        for job in jobs {
            replies.push((job.cases.len(), job.reply));
            cases.extend(job.cases);
        }
        for (at, link) in chain.links().iter().enumerate() {
            let mut wanted: Vec<&mut Case> = cases
                .iter_mut()
                .filter(|c| at >= c.next && c.verdict.denied.is_none() && link.concerns(phase, &c.request))
                .collect();
            for batch in wanted.chunks_mut(MAX_BATCH) {
                match &link.trial {
                    Some(trial) => self.ask_both(at, link, trial, phase, batch),
                    None => self.ask(at, link, phase, batch),
                }
            }
        }
        let mut done = cases.into_iter();
        for (count, reply) in replies {
            // The client may have gone meanwhile.
            let _ = reply.send(done.by_ref().take(count).collect());
        }
    }

    /// Asks a plugin that has a candidate.
    fn ask_both(
        &mut self,
        at: usize,
        link: &Arc<Link>,
        trial: &Arc<Trial>,
        phase: Phase,
        batch: &mut [&mut Case],
    ) {
        let mut left: Vec<&mut Case> = Vec::with_capacity(batch.len());
        for case in batch.iter_mut() {
            if !(trial.decides(&case.request) && self.ask_canary(trial, phase, case)) {
                left.push(case);
            }
        }
        let watched: Vec<Option<AdmissionRequest>> = left
            .iter()
            .map(|c| (trial.is_shadow() && self.shadow.has_room(trial)).then(|| c.request.clone()))
            .collect();
        let mut wanted: Vec<&mut Case> =
            left.iter_mut().filter(|c| link.wants(phase, &c.request)).map(|c| &mut **c).collect();
        let (began, count) = (Instant::now(), wanted.len());
        if count > 0 {
            self.ask(at, link, phase, &mut wanted);
        }
        let took = u32::try_from(count).ok().filter(|n| *n > 0).map(|n| began.elapsed() / n);
        if let Some(took) = took.filter(|_| !trial.is_shadow()) {
            trial.candidate.comparison.active.add(took);
        }
        for (case, request) in left.iter().zip(watched) {
            let Some(request) = request else { continue };
            let (denied, object) = (case.verdict.denied.as_deref().cloned(), case.request.object.clone());
            let trial = trial.clone();
            self.shadow.watch(Decided { trial, phase, request, denied, object, took });
        }
    }

    /// Lets the candidate decide. `false` where it fails: then the active revision is asked.
    fn ask_canary(&mut self, trial: &Arc<Trial>, phase: Phase, case: &mut Case) -> bool {
        if !trial.link.wants(phase, &case.request) {
            return true;
        }
        let began = Instant::now();
        let request = trial::prepare(&self.context, &trial.link, &mut case.prefetched, &case.request);
        case.key = None;
        let decided = request.and_then(|request| {
            self.call(&trial.link, phase, std::slice::from_ref(&request), &mut [&mut *case])
        });
        match decided {
            Ok(()) => {
                trial.candidate.comparison.candidate.add(began.elapsed());
                true
            }
            Err(error) => {
                tracing::warn!(plugin = trial.link.active.name(), %error, "canary failed, asking the active revision");
                false
            }
        }
    }

    /// Asks one plugin about a batch; where that fails, about each request alone.
    fn ask(&mut self, at: usize, link: &Arc<Link>, phase: Phase, batch: &mut [&mut Case]) {
        let mut requests = Vec::with_capacity(batch.len());
        let mut asked: Vec<&mut Case> = Vec::with_capacity(batch.len());
        let Some(manifest) = link.manifest() else { return };
        for case in batch.iter_mut() {
            match self.context(at, manifest, case) {
                Ok(context) => {
                    let remember = || memo::key(phase, manifest, &case.request, &context);
                    case.key = manifest.memoize.then(remember);
                    if recall(link, case) {
                        continue;
                    }
                    requests.push(wire::request(manifest, &case.request, context));
                    asked.push(case);
                }
                Err(message) => {
                    let message = format!(
                        "failed looking up context objects of admission plugin \"{}\": {message}",
                        link.active.name()
                    );
                    case.verdict.denied = Some(Box::new(Status::internal(message)));
                }
            }
        }
        match self.call(link, phase, &requests, &mut asked) {
            Ok(()) => {}
            Err(error) if asked.len() > 1 => {
                tracing::warn!(plugin = link.active.name(), %error, "admission plugin failed for a batch, asking one by one");
                for (case, request) in asked.iter_mut().zip(&requests) {
                    let alone = std::slice::from_mut(case);
                    if let Err(error) = self.call(link, phase, std::slice::from_ref(request), alone) {
                        failed(link, case, &error);
                    }
                }
            }
            Err(error) => asked.iter_mut().for_each(|case| failed(link, case, &error)),
        }
    }

    fn context(
        &self,
        at: usize,
        manifest: &AdmissionManifest,
        case: &mut Case,
    ) -> Result<Vec<Bytes>, String> {
        let mut context = Vec::with_capacity(manifest.context.len());
        for (i, declared) in manifest.context.iter().enumerate() {
            context.push(self.context.get(&mut case.prefetched, at, i, declared, &case.request)?);
        }
        Ok(context)
    }

    fn call(
        &mut self,
        link: &Arc<Link>,
        phase: Phase,
        requests: &[Request],
        cases: &mut [&mut Case],
    ) -> Result<(), PluginError> {
        if requests.is_empty() {
            return Ok(());
        }
        let health = &link.active.health;
        if !health.admits(Instant::now()) {
            return Err(PluginError::Denied {
                message: "the plugin is suspended after repeated failures".into(),
            });
        }
        let (slot, memory) = self
            .slots
            .entry(link.active.revision)
            .or_insert_with(|| (Slot::new(link.plugin.clone()), MemoryUse::new(health.clone())));
        let began = Instant::now();
        let answered = match phase {
            Phase::Mutate => slot.mutate(requests),
            Phase::Validate => slot.validate(requests),
        };
        health.latency.add(began.elapsed());
        // Refusals and patches are read before anything is applied, so that a bad one leaves no traces.
        let outcome = answered.and_then(|verdicts| {
            let mut changes = Vec::with_capacity(verdicts.len());
            for (case, verdict) in cases.iter().zip(verdicts) {
                let denied =
                    if verdict.allowed { None } else { Some(wire::refusal(&case.request, &verdict)?) };
                let mut changed = None;
                if denied.is_none() && !verdict.patch.is_empty() {
                    let mut object = case.request.object.clone();
                    changed = wire::apply(object.as_mut(), &verdict.patch)?.then_some(object).flatten();
                }
                changes.push((changed, denied, verdict));
            }
            Ok(changes)
        });
        record(health, &outcome);
        if outcome.is_err() {
            slot.clear();
        }
        memory.set(if outcome.is_ok() { slot.instance().map_or(0, |(i, _)| i.memory_bytes()) } else { 0 });
        for (case, (changed, denied, verdict)) in cases.iter_mut().zip(outcome?) {
            if let (Some(key), None) = (case.key, &denied)
                && let Some(known) = memo::Known::new(&verdict.patch, &verdict.warnings)
            {
                link.memo.put(key, known);
            }
            if changed.is_some() {
                case.request.object = changed;
                case.verdict.changed = true;
            }
            case.verdict.denied = denied.map(Box::new);
            case.verdict.warnings.extend(verdict.warnings);
        }
        Ok(())
    }
}

/// Does what the plugin said to an equal request. `false` where it was not asked before, or its patch does not
/// fit here.
fn recall(link: &Link, case: &mut Case) -> bool {
    let Some(known) = case.key.and_then(|key| link.memo.get(&key)) else { return false };
    if let Some(patch) = &known.patch {
        let Some(object) = &mut case.request.object else { return false };
        if json_patch::patch(object, patch).is_err() {
            return false;
        }
        case.verdict.changed = true;
    }
    case.verdict.warnings.extend(known.warnings.iter().cloned());
    true
}

/// The first jobs that share phase and chain, up to one batch of requests.
fn take_batch(jobs: &mut VecDeque<Job>) -> Vec<Job> {
    let mut taken: Vec<Job> = Vec::new();
    let mut count = 0;
    while let Some(next) = jobs.front() {
        let fits = taken.first().is_none_or(|first| {
            first.phase == next.phase
                && Arc::ptr_eq(&first.chain, &next.chain)
                && count + next.cases.len() <= MAX_BATCH
        });
        if !fits {
            break;
        }
        count += next.cases.len();
        taken.extend(jobs.pop_front());
    }
    taken
}

/// The failure policy.
fn failed(link: &Link, case: &mut Case, error: &PluginError) {
    let name = link.active.name();
    let message = format!("failed calling admission plugin \"{name}\": {error}");
    let ignore = link.active.failure_policy == FailurePolicy::Ignore;
    if ignore || is_exempt(&case.request) {
        tracing::warn!(plugin = name, %error, "admission plugin failed, the request passes");
        let mut end = message.len().min(256);
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        case.verdict.warnings.push(message.get(..end).unwrap_or_default().to_owned());
        case.verdict
            .audit_annotations
            .push((format!("{}/failed-open", link.active.object), error.reason().to_owned()));
    } else {
        case.verdict.denied = Some(Box::new(Status::internal(message)));
    }
}
