//! A candidate that decides about its share of the pod classes, beside the active revision.
//!
//! Both are told everything, the active one of every class as well, so that it can answer at once where the
//! candidate fails. The scheduler is told that nothing may be skipped of a class that the candidate decides about, because
//! the revisions may differ in that; what the deciding one wants to skip is answered here.
//!
//! Both book every pod that is reserved; only the one that decides about the pod is asked for permits and writes. The order
//! of the queue is the active revision's: keys of two revisions do not compare.

mod placing;

use super::{Course, Open, entries, or_rejected, unasked_mask, unasked_scores};
use crate::plugins::comparison::Comparison;
use orlop_scheduler::framework::{
    Binder, CandidatePods, Decision, Delta, Descriptor, Explanation, ObjectChange, Placement, PluginError,
    Prepared, Rows, SchedulerPlugin, Stale, Synced, Verdict,
};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

/// A class that the candidate decides about.
struct Class {
    pod: Arc<[u8]>,
    active: Prepared,
    /// `None` where the candidate does not know of it.
    candidate: Option<Prepared>,
}

/// Says by the fields of a pod whether the candidate decides about it.
pub(crate) type Decides = Box<dyn Fn(&str) -> bool + Send>;

/// See the module.
pub(crate) struct Canary {
    active: Box<dyn SchedulerPlugin>,
    candidate: Option<Box<dyn SchedulerPlugin>>,
    open: Open,
    decides: Decides,
    comparison: Arc<Comparison>,
    course: Course,
    /// Answers of a candidate that failed since are in use.
    outdated: bool,
    classes: HashMap<u32, Class>,
    slots: usize,
    /// Pods that wait because the candidate wants it so.
    waiting: BTreeSet<u64>,
    newest: u64,
    since: u64,
}

impl Canary {
    pub(crate) fn new(
        active: Box<dyn SchedulerPlugin>,
        comparison: Arc<Comparison>,
        open: Open,
        decides: Decides,
    ) -> Self {
        let candidate = open().ok();
        let course = if candidate.is_some() { Course::Following } else { Course::Lost(Instant::now()) };
        Self {
            active,
            candidate,
            open,
            decides,
            comparison,
            course,
            outdated: false,
            classes: HashMap::new(),
            slots: 0,
            waiting: BTreeSet::new(),
            newest: 0,
            since: 0,
        }
    }

    fn is_mine(&self, pod: &[u8]) -> bool {
        std::str::from_utf8(pod).is_ok_and(|pod| (self.decides)(pod))
    }

    /// The active revision takes over all classes.
    fn lose(&mut self) {
        self.candidate = None;
        self.course = Course::Lost(Instant::now());
        for class in self.classes.values_mut() {
            self.outdated |= class.candidate.take().is_some();
        }
    }

    /// Asks the candidate; `None` where it fails or does not follow. Refusals are answers.
    fn try_candidate<T>(
        &mut self,
        question: impl FnOnce(&mut dyn SchedulerPlugin) -> Result<T, PluginError>,
    ) -> Option<Result<T, PluginError>> {
        if self.course != Course::Following {
            return None;
        }
        self.tell(question)
    }

    /// The same, also while it resumes.
    fn tell<T>(
        &mut self,
        question: impl FnOnce(&mut dyn SchedulerPlugin) -> Result<T, PluginError>,
    ) -> Option<Result<T, PluginError>> {
        match question(self.candidate.as_mut()?.as_mut()) {
            Err(error) if !matches!(error, PluginError::Refused { .. }) => {
                self.lose();
                None
            }
            answer => Some(answer),
        }
    }

    /// Asks about a class whoever decides about it. `unasked` answers where that one wants to be left out, `faulty` says
    /// what the scheduler would object to.
    fn about<T>(
        &mut self,
        id: u32,
        unasked: impl Fn(&Prepared) -> Option<T>,
        faulty: impl FnOnce(&T) -> Option<String>,
        question: impl Fn(&mut dyn SchedulerPlugin) -> Result<T, PluginError>,
    ) -> Result<T, PluginError> {
        let mut left_out = None;
        if let Some(class) = self.classes.get(&id) {
            let began = Instant::now();
            let known = class.candidate.as_ref().map(&unasked);
            left_out = unasked(&class.active);
            let answer = match known {
                None => None,
                Some(Some(answer)) => Some(Ok(answer)),
                Some(None) => self.try_candidate(|plugin| {
                    let answer = question(plugin)?;
                    match faulty(&answer) {
                        None => Ok(answer),
                        Some(fault) => Err(plugin.nonsense(fault)),
                    }
                }),
            };
            if let Some(Ok(answer)) = answer {
                self.comparison.candidate.add(began.elapsed());
                return Ok(answer);
            }
        }
        if let Some(answer) = left_out {
            return Ok(answer);
        }
        let began = Instant::now();
        let answer = question(self.active.as_mut());
        self.comparison.active.add(began.elapsed());
        answer
    }

    /// Asks about a pod without a class.
    fn of_pod<T>(
        &mut self,
        pod: &[u8],
        question: impl Fn(&mut dyn SchedulerPlugin) -> Result<T, PluginError>,
    ) -> Result<T, PluginError> {
        if self.is_mine(pod) {
            let began = Instant::now();
            if let Some(Ok(answer)) = self.try_candidate(&question) {
                self.comparison.candidate.add(began.elapsed());
                return Ok(answer);
            }
        }
        question(self.active.as_mut())
    }

    fn introduce(&mut self, id: u32, pod: &[u8]) -> Option<Prepared> {
        self.try_candidate(|plugin| or_rejected(plugin.prepare(id, pod)))?.ok()
    }

    fn count(&self, rows: Rows<'_>) -> usize {
        match rows {
            Rows::All => self.slots,
            Rows::Some(rows) => rows.len(),
        }
    }
}

fn wrong_mask(mask: &[u64], rows: usize) -> Option<String> {
    let words = mask.len();
    (words != rows.div_ceil(64)).then(|| format!("a mask of {words} words for {rows} nodes"))
}

fn wrong_count(found: usize, rows: usize) -> Option<String> {
    (found != rows).then(|| format!("{found} scores for {rows} nodes"))
}

fn wrong_bytes(scores: &[u8], rows: usize) -> Option<String> {
    let high = scores.iter().find(|score| **score > 100);
    wrong_count(scores.len(), rows).or_else(|| high.map(|score| format!("a score of {score}, above 100")))
}

impl SchedulerPlugin for Canary {
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

    fn wants_everything(&mut self) -> bool {
        let mut resumes = false;
        if self.course.has_rested() {
            self.candidate = (self.open)().ok().filter(|plugin| plugin.admits());
            resumes = self.candidate.is_some();
            self.course = match &self.candidate {
                Some(candidate) => Course::resumed(candidate.descriptor()),
                None => Course::Lost(Instant::now()),
            };
        }
        std::mem::take(&mut self.outdated) | resumes | self.active.wants_everything()
    }

    fn reset(&mut self) -> Result<(), PluginError> {
        self.classes.clear();
        self.outdated = false;
        self.since = self.newest;
        if !matches!(self.course, Course::Lost(_)) {
            self.course = Course::Following;
            if !matches!(self.try_candidate(|plugin| plugin.reset()), Some(Ok(()))) {
                self.lose();
            }
        }
        self.active.reset()
    }

    fn sync(&mut self, delta: &Delta) -> Result<Synced, PluginError> {
        self.slots = delta.slots as usize;
        let mut synced = self.active.sync(delta)?;
        let resumes = self.course == Course::Resuming && delta.full;
        if resumes {
            self.course = Course::Following;
        }
        let expected = synced.checksum;
        let told = self.try_candidate(|plugin| {
            let synced = plugin.sync(delta)?;
            if synced.checksum != 0 && expected != 0 && synced.checksum != expected {
                return Err(plugin.nonsense("the checksum of its mirror is wrong".to_owned()));
            }
            Ok(synced)
        });
        if let Some(Ok(candidate)) = told {
            synced.stale = both(synced.stale, candidate.stale);
        }
        if std::mem::take(&mut self.outdated) {
            synced.stale = Stale::Everything;
        }
        if resumes {
            self.since = self.newest;
            let pods: Vec<_> = self.classes.iter().map(|(id, class)| (*id, class.pod.clone())).collect();
            for (id, pod) in pods {
                let prepared = self.introduce(id, &pod);
                if let Some(class) = self.classes.get_mut(&id) {
                    class.candidate = prepared;
                }
            }
        }
        Ok(synced)
    }

    fn prepare(&mut self, id: u32, pod: &[u8]) -> Result<Prepared, PluginError> {
        if !self.is_mine(pod) {
            return self.active.prepare(id, pod);
        }
        let active = or_rejected(self.active.prepare(id, pod))?;
        let candidate = self.introduce(id, pod);
        self.classes.insert(id, Class { pod: pod.into(), active, candidate });
        let reads_objects = !self.descriptor().watches.is_empty();
        Ok(Prepared { reads_objects, ..Prepared::default() })
    }

    fn release(&mut self, id: u32) -> Result<(), PluginError> {
        if self.classes.remove(&id).is_some_and(|class| class.candidate.is_some()) {
            self.try_candidate(|plugin| plugin.release(id));
        }
        self.active.release(id)
    }

    fn filter(&mut self, id: u32, asked: Rows<'_>) -> Result<Vec<u64>, PluginError> {
        let rows = self.count(asked);
        self.about(id, |p| unasked_mask(p, rows), |mask| wrong_mask(mask, rows), |p| p.filter(id, asked))
    }

    fn score(&mut self, id: u32, asked: Rows<'_>) -> Result<Vec<u8>, PluginError> {
        let rows = self.count(asked);
        let faulty = |scores: &Vec<u8>| wrong_bytes(scores, rows);
        self.about(id, |p| unasked_scores(p, rows), faulty, |p| p.score(id, asked))
    }

    fn score_raw(&mut self, id: u32, asked: Rows<'_>) -> Result<Vec<i64>, PluginError> {
        use orlop_scheduler::framework::Normalize;
        let rows = self.count(asked);
        let signed = self.descriptor().normalize == Normalize::Custom;
        let faulty = |scores: &Vec<i64>| {
            let negative = !signed && scores.iter().any(|score| *score < 0);
            wrong_count(scores.len(), rows).or_else(|| negative.then(|| "a raw score below 0".to_owned()))
        };
        self.about(id, |p| unasked_scores(p, rows), faulty, |p| p.score_raw(id, asked))
    }

    fn normalize(&mut self, id: u32, feasible: &[u64], raw: &[i64]) -> Result<Vec<u8>, PluginError> {
        let faulty = |scores: &Vec<u8>| wrong_bytes(scores, raw.len());
        self.about(id, |p| unasked_scores(p, raw.len()), faulty, |p| p.normalize(id, feasible, raw))
    }

    fn explain(&mut self, id: u32, rows: &[u32]) -> Result<Explanation, PluginError> {
        let unasked = |prepared: &Prepared| {
            let reason = prepared.rejected.clone();
            let each = u32::from(reason.is_some());
            let unasked = prepared.skip_filter || reason.is_some();
            unasked.then(|| Explanation {
                reasons: reason.into_iter().collect(),
                offsets: (0..=u32::try_from(rows.len()).unwrap_or(0)).map(|row| row * each).collect(),
                refs: vec![0; rows.len() * each as usize],
            })
        };
        self.about(id, unasked, |_| None, |p| p.explain(id, rows))
    }

    fn overlay(&mut self, id: u32, delta: &Delta) -> Result<Vec<u64>, PluginError> {
        let rows = delta.rows.len();
        if !delta.dictionaries.is_empty() {
            // Whoever is not asked has to learn the new entries, too.
            let entries = entries(delta, self.slots);
            self.active.sync(&entries)?;
            self.try_candidate(|plugin| plugin.sync(&entries));
        }
        let delta = &Delta { dictionaries: Vec::new(), ..delta.clone() };
        self.about(id, |p| unasked_mask(p, rows), |mask| wrong_mask(mask, rows), |p| p.overlay(id, delta))
    }

    fn objects(&mut self, full: bool, changes: &[ObjectChange]) -> Result<Stale, PluginError> {
        let stale = self.active.objects(full, changes)?;
        match self.tell(|plugin| plugin.objects(full, changes)) {
            Some(Ok(candidate)) => Ok(both(stale, candidate)),
            _ => Ok(stale),
        }
    }

    fn pre_enqueue(&mut self, pod: &[u8]) -> Result<Option<String>, PluginError> {
        self.of_pod(pod, |plugin| plugin.pre_enqueue(pod))
    }

    fn sort_key(&mut self, pod: &[u8]) -> Result<Vec<i64>, PluginError> {
        self.active.sort_key(pod)
    }

    fn reserve(&mut self, at: &Placement) -> Result<(), PluginError> {
        self.reserve_both(at)
    }

    fn unreserve(&mut self, at: &Placement) -> Result<Vec<Decision>, PluginError> {
        self.unreserve_both(at)
    }

    fn permit(&mut self, at: &Placement) -> Result<(Verdict, Vec<Decision>), PluginError> {
        self.permit_one(at)
    }

    fn pre_bind(&mut self, at: &Placement) -> Result<(Verdict, Vec<Vec<u8>>), PluginError> {
        self.of_placement(at, || (Verdict::Allow, Vec::new()), |p| p.pre_bind(at)).1
    }

    fn bind(&mut self, at: &Placement) -> Result<Binder, PluginError> {
        self.of_placement(at, || Binder::Next, |p| p.bind(at)).1
    }

    fn post_bind(&mut self, at: &Placement) -> Result<(), PluginError> {
        self.post_bind_both(at)
    }

    fn eligible(
        &mut self,
        pod: &[u8],
        nodes: u32,
        terminating: bool,
    ) -> Result<Result<u32, String>, PluginError> {
        self.of_pod(pod, |plugin| plugin.eligible(pod, nodes, terminating))
    }

    fn victims(&mut self, pod: &[u8], pods: &CandidatePods) -> Result<Vec<u32>, PluginError> {
        self.of_pod(pod, |plugin| plugin.victims(pod, pods))
    }

    fn choose(&mut self, pod: &[u8], victims: &CandidatePods) -> Result<u32, PluginError> {
        self.of_pod(pod, |plugin| plugin.choose(pod, victims))
    }
}

fn both(a: Stale, b: Stale) -> Stale {
    match (a, b) {
        (Stale::Nothing, other) | (other, Stale::Nothing) => other,
        (Stale::Classes(mut a), Stale::Classes(b)) => {
            a.extend(b);
            Stale::Classes(a)
        }
        _ => Stale::Everything,
    }
}
