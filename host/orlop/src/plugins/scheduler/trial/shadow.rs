//! A plugin whose calls are made to a candidate as well, on a thread of its own.
//!
//! Nothing waits for the candidate: where it does not keep up it has lost the thread, and calls that are not
//! compared are counted.

use super::follower::{Answer, Follower, answer_of};
use super::{Course, Open};
use crate::plugins::comparison::Comparison;
use orlop_scheduler::framework::{
    Binder, CandidatePods, Choice, Decision, Delta, Descriptor, Explanation, ObjectChange, Placement,
    PluginError, Prepared, Rows, SchedulerPlugin, Stale, Synced, Verdict,
};
use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// Calls that may wait for the shadow.
const QUEUE: usize = 4096;
/// What they may weigh together, in bytes; one alone may weigh more.
const WEIGHT: usize = 32 << 20;

/// Not every pod's choice is compared: that costs two questions about all nodes.
const BETWEEN_CHOICES: Duration = Duration::from_millis(10);

type Task = Box<dyn FnOnce(&mut Follower) + Send>;

/// See the module.
pub(crate) struct Shadow {
    active: Box<dyn SchedulerPlugin>,
    comparison: Arc<Comparison>,
    tasks: SyncSender<(usize, Task)>,
    /// Bytes that wait.
    waiting: Arc<AtomicUsize>,
    /// Set by the follower.
    lost: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
    course: Course,
    /// Open classes, to introduce them again.
    classes: HashMap<u32, Arc<[u8]>>,
    /// Highest number of a pod, and that when the candidate began: it knows nothing of those up to there.
    newest: u64,
    since: u64,
    /// When a choice was last passed on.
    chosen: Option<Instant>,
}

impl Shadow {
    /// Starts the thread, which ends with the shadow.
    pub(crate) fn start(
        active: Box<dyn SchedulerPlugin>,
        comparison: Arc<Comparison>,
        open: Open,
    ) -> std::io::Result<Self> {
        let (tasks, inbox) = sync_channel(QUEUE);
        let (waiting, lost, over) = (Arc::default(), Arc::default(), Arc::default());
        let mut this = Self {
            active,
            comparison: comparison.clone(),
            tasks,
            waiting: Arc::clone(&waiting),
            lost: Arc::clone(&lost),
            over: Arc::clone(&over),
            course: Course::Following,
            classes: HashMap::new(),
            newest: 0,
            since: 0,
            chosen: None,
        };
        let follower = Follower::new(open, comparison, lost);
        thread::Builder::new()
            .name("scheduler-shadow".to_owned())
            .spawn(move || serve(follower, &inbox, &waiting, &over))?;
        this.send(0, Follower::start);
        Ok(this)
    }

    fn send(&mut self, weight: usize, task: impl FnOnce(&mut Follower) + Send + 'static) {
        let before = self.waiting.fetch_add(weight, Ordering::AcqRel);
        let fits = before == 0 || before + weight <= WEIGHT;
        if !fits || self.tasks.try_send((weight, Box::new(task))).is_err() {
            self.waiting.fetch_sub(weight, Ordering::AcqRel);
            self.comparison.dropped();
            self.course = Course::Lost(Instant::now());
        }
    }

    /// Whether the candidate follows; where it does not, a call to be compared is counted.
    fn follows(&mut self, compared: bool) -> bool {
        if self.lost.swap(false, Ordering::AcqRel) {
            self.course = Course::Lost(Instant::now());
        }
        let follows = self.course == Course::Following;
        if !follows && compared {
            self.comparison.dropped();
        }
        follows
    }

    /// Has an answer about a pod compared.
    fn watch<T: Clone + PartialEq + Debug + Send + 'static>(
        &mut self,
        answer: &Result<T, PluginError>,
        what: impl FnOnce() -> String,
        question: impl FnOnce(&mut dyn SchedulerPlugin) -> Result<T, PluginError> + Send + 'static,
    ) {
        if !self.follows(true) {
            return;
        }
        let (what, active): (String, Answer<T>) = (what(), answer_of(answer));
        self.send(1024, move |follower| follower.compare(&what, active, question));
    }

    /// The same for a pod on its way to a node, where the candidate knows of it.
    fn watch_placing<T: Clone + PartialEq + Debug + Send + 'static>(
        &mut self,
        hook: &str,
        at: &Placement,
        answer: &Result<T, PluginError>,
        question: impl FnOnce(&mut dyn SchedulerPlugin, &Placement) -> Result<T, PluginError> + Send + 'static,
    ) {
        self.newest = self.newest.max(at.pod);
        if at.pod > self.since {
            let placement = at.clone();
            let what = || format!("{hook} {}/{} on {}", at.namespace, at.name, at.node);
            self.watch(answer, what, move |plugin| question(plugin, &placement));
        }
    }
}

impl Drop for Shadow {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
    }
}

fn serve(mut follower: Follower, inbox: &Receiver<(usize, Task)>, waiting: &AtomicUsize, over: &AtomicBool) {
    while let Ok((weight, task)) = inbox.recv() {
        if over.load(Ordering::Acquire) {
            return;
        }
        task(&mut follower);
        waiting.fetch_sub(weight, Ordering::AcqRel);
    }
}

fn weight(delta: &Delta) -> usize {
    let entries: usize = delta.dictionaries.iter().flat_map(|d| &d.entries).map(|e| e.len() + 24).sum();
    let lists: usize = delta.list_columns.iter().map(|c| 8 * c.values.len() + 4 * c.offsets.len()).sum();
    let rows = delta.rows.len() * (5 + 8 * delta.s64_columns.len() + 4 * delta.u32_columns.len());
    1024 + entries + lists + rows
}

fn owned(rows: Rows<'_>) -> Option<Vec<u32>> {
    match rows {
        Rows::All => None,
        Rows::Some(rows) => Some(rows.to_vec()),
    }
}

fn pod_key(hook: &str, pod: &[u8]) -> String {
    format!("{hook} {}", String::from_utf8_lossy(pod))
}

impl SchedulerPlugin for Shadow {
    fn descriptor(&self) -> &Descriptor {
        self.active.descriptor()
    }

    fn user(&self) -> &str {
        self.active.user()
    }

    fn required(&self) -> bool {
        self.active.required()
    }

    fn admits(&self) -> bool {
        self.active.admits()
    }

    fn nonsense(&mut self, message: String) -> PluginError {
        self.active.nonsense(message)
    }

    fn names(&mut self, rows: &[u32], name: &dyn Fn(u32) -> Option<Arc<str>>) {
        if self.follows(false) || self.course == Course::Resuming {
            let names: Vec<_> = rows.iter().map(|slot| (*slot, name(*slot))).collect();
            self.send(64 + 32 * names.len(), move |follower| follower.learn(names));
        }
    }

    fn follows_choices(&mut self) -> bool {
        let due = self.chosen.is_none_or(|at| at.elapsed() >= BETWEEN_CHOICES);
        if due && self.follows(false) {
            self.chosen = Some(Instant::now());
            return true;
        }
        false
    }

    fn chosen(&mut self, choice: Choice) {
        let weight = 256 + 8 * choice.others.len() + 8 * choice.totals.len();
        self.send(weight, move |follower| follower.choose(&choice));
    }

    fn wants_everything(&mut self) -> bool {
        self.follows(false);
        if self.waiting.load(Ordering::Acquire) > 0 || !self.course.has_rested() {
            return self.active.wants_everything();
        }
        self.course = Course::resumed(self.active.descriptor());
        self.send(0, Follower::start);
        !matches!(self.course, Course::Lost(_)) || self.active.wants_everything()
    }

    fn reset(&mut self) -> Result<(), PluginError> {
        self.classes.clear();
        self.since = self.newest;
        if self.follows(false) || self.course == Course::Resuming {
            self.course = Course::Following;
            self.send(0, Follower::start);
        }
        self.active.reset()
    }

    fn sync(&mut self, delta: &Delta) -> Result<Synced, PluginError> {
        let answer = self.active.sync(delta);
        let follows = self.follows(false);
        let resumes = self.course == Course::Resuming && delta.full;
        if follows || resumes {
            self.course = Course::Following;
            let (copy, active) = (delta.clone(), answer.as_ref().ok().cloned());
            self.send(weight(delta), move |follower| follower.sync(&copy, active.as_ref()));
        }
        if resumes {
            self.since = self.newest;
            for (class, pod) in self.classes.clone() {
                self.send(pod.len(), move |follower| follower.prepare(class, &pod, None));
            }
        }
        answer
    }

    fn prepare(&mut self, class: u32, pod: &[u8]) -> Result<Prepared, PluginError> {
        let answer = self.active.prepare(class, pod);
        let pod: Arc<[u8]> = pod.into();
        self.classes.insert(class, pod.clone());
        if self.follows(false) {
            let active = super::or_rejected(match &answer {
                Err(PluginError::Refused { message }) => {
                    Err(PluginError::Refused { message: message.clone() })
                }
                Err(_) => return answer,
                Ok(prepared) => Ok(prepared.clone()),
            })?;
            self.send(1024, move |follower| follower.prepare(class, &pod, Some(&active)));
        }
        answer
    }

    fn release(&mut self, class: u32) -> Result<(), PluginError> {
        self.classes.remove(&class);
        if self.follows(false) {
            self.send(64, move |follower| follower.release(class));
        }
        self.active.release(class)
    }

    fn filter(&mut self, class: u32, asked: Rows<'_>) -> Result<Vec<u64>, PluginError> {
        let began = Instant::now();
        let answer = self.active.filter(class, asked);
        let took = began.elapsed();
        if let Ok(mask) = &answer
            && self.follows(true)
        {
            let (rows, mask) = (owned(asked), mask.clone());
            let weight = 128 + 8 * mask.len() + rows.as_ref().map_or(0, |r| 4 * r.len());
            self.send(weight, move |follower| follower.filter(class, rows.as_deref(), &mask, took));
        }
        answer
    }

    fn score(&mut self, class: u32, asked: Rows<'_>) -> Result<Vec<u8>, PluginError> {
        let began = Instant::now();
        let answer = self.active.score(class, asked);
        let took = began.elapsed();
        if let Ok(scores) = &answer
            && self.follows(true)
        {
            let (rows, scores) = (owned(asked), scores.clone());
            self.send(128 + 5 * scores.len(), move |follower| {
                follower.score(class, rows.as_deref(), &scores, took, |p, rows| p.score(class, rows));
            });
        }
        answer
    }

    fn score_raw(&mut self, class: u32, asked: Rows<'_>) -> Result<Vec<i64>, PluginError> {
        let began = Instant::now();
        let answer = self.active.score_raw(class, asked);
        let took = began.elapsed();
        if let Ok(scores) = &answer
            && self.follows(true)
        {
            let (rows, scores) = (owned(asked), scores.clone());
            self.send(128 + 12 * scores.len(), move |follower| {
                follower.score(class, rows.as_deref(), &scores, took, |p, rows| p.score_raw(class, rows));
            });
        }
        answer
    }

    fn normalize(&mut self, class: u32, feasible: &[u64], raw: &[i64]) -> Result<Vec<u8>, PluginError> {
        let began = Instant::now();
        let answer = self.active.normalize(class, feasible, raw);
        let took = began.elapsed();
        if let Ok(scores) = &answer
            && self.follows(true)
        {
            let (feasible, raw, scores) = (feasible.to_vec(), raw.to_vec(), scores.clone());
            self.send(128 + 10 * raw.len(), move |follower| {
                follower.score(class, None, &scores, took, |p, _| p.normalize(class, &feasible, &raw));
            });
        }
        answer
    }

    fn explain(&mut self, class: u32, rows: &[u32]) -> Result<Explanation, PluginError> {
        self.active.explain(class, rows)
    }

    fn overlay(&mut self, class: u32, delta: &Delta) -> Result<Vec<u64>, PluginError> {
        let answer = self.active.overlay(class, delta);
        if self.follows(true) {
            let (copy, active) = (delta.clone(), answer.as_ref().ok().cloned());
            self.send(weight(delta), move |follower| follower.overlay(class, &copy, active.as_deref()));
        }
        answer
    }

    fn objects(&mut self, full: bool, changes: &[ObjectChange]) -> Result<Stale, PluginError> {
        if self.follows(false) || self.course == Course::Resuming {
            let copy = changes.to_vec();
            let weight = copy.iter().map(|c| c.object.len() + 128).sum();
            self.send(weight, move |follower| follower.tell(|p| p.objects(full, &copy)));
        }
        self.active.objects(full, changes)
    }

    fn pre_enqueue(&mut self, pod: &[u8]) -> Result<Option<String>, PluginError> {
        let answer = self.active.pre_enqueue(pod);
        let copy = pod.to_vec();
        self.watch(&answer, || pod_key("preEnqueue", pod), move |p| p.pre_enqueue(&copy));
        answer
    }

    fn sort_key(&mut self, pod: &[u8]) -> Result<Vec<i64>, PluginError> {
        let answer = self.active.sort_key(pod);
        let copy = pod.to_vec();
        self.watch(&answer, || pod_key("queueSort", pod), move |p| p.sort_key(&copy));
        answer
    }

    fn reserve(&mut self, at: &Placement) -> Result<(), PluginError> {
        let answer = self.active.reserve(at);
        self.watch_placing("reserve", at, &answer, |p, at| p.reserve(at));
        answer
    }

    fn unreserve(&mut self, at: &Placement) -> Result<Vec<Decision>, PluginError> {
        let answer = self.active.unreserve(at);
        self.watch_placing("unreserve", at, &answer, |p, at| p.unreserve(at));
        answer
    }

    fn permit(&mut self, at: &Placement) -> Result<(Verdict, Vec<Decision>), PluginError> {
        let answer = self.active.permit(at);
        self.watch_placing("permit", at, &answer, |p, at| p.permit(at));
        answer
    }

    fn pre_bind(&mut self, at: &Placement) -> Result<(Verdict, Vec<Vec<u8>>), PluginError> {
        let answer = self.active.pre_bind(at);
        self.watch_placing("preBind", at, &answer, |p, at| p.pre_bind(at));
        answer
    }

    fn bind(&mut self, at: &Placement) -> Result<Binder, PluginError> {
        let answer = self.active.bind(at);
        self.watch_placing("bind", at, &answer, |p, at| p.bind(at));
        answer
    }

    fn post_bind(&mut self, at: &Placement) -> Result<(), PluginError> {
        let answer = self.active.post_bind(at);
        self.watch_placing("postBind", at, &answer, |p, at| p.post_bind(at));
        answer
    }

    fn eligible(
        &mut self,
        pod: &[u8],
        nodes: u32,
        terminating: bool,
    ) -> Result<Result<u32, String>, PluginError> {
        let answer = self.active.eligible(pod, nodes, terminating);
        let copy = pod.to_vec();
        self.watch(&answer, || pod_key("eligible", pod), move |p| p.eligible(&copy, nodes, terminating));
        answer
    }

    fn victims(&mut self, pod: &[u8], pods: &CandidatePods) -> Result<Vec<u32>, PluginError> {
        let answer = self.active.victims(pod, pods);
        let (copy, pods) = (pod.to_vec(), pods.clone());
        self.watch(&answer, || pod_key("victims", pod), move |p| p.victims(&copy, &pods));
        answer
    }

    fn choose(&mut self, pod: &[u8], victims: &CandidatePods) -> Result<u32, PluginError> {
        let answer = self.active.choose(pod, victims);
        let (copy, victims) = (pod.to_vec(), victims.clone());
        self.watch(&answer, || pod_key("choose", pod), move |p| p.choose(&copy, &victims));
        answer
    }
}
