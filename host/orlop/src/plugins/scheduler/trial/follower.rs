//! The shadow's side of the channel: asks the candidate, and compares.

mod choice;

use super::{Open, bit, entries, or_rejected, unasked_mask, unasked_scores};
use crate::plugins::comparison::{Comparison, Example};
use orlop_scheduler::framework::{
    Delta, Hooks, Normalize, PluginError, Prepared, Rows, SchedulerPlugin, Synced,
};
use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A class as the candidate knows it.
struct Class {
    pod: Arc<[u8]>,
    prepared: Prepared,
}

/// An answer of the active revision; an inner error is its refusal. `None` where it failed.
pub(super) type Answer<T> = Option<Result<T, String>>;

/// An answer in these terms.
pub(super) fn answer_of<T: Clone>(answer: &Result<T, PluginError>) -> Answer<T> {
    match answer {
        Ok(answer) => Some(Ok(answer.clone())),
        Err(PluginError::Refused { message }) => Some(Err(message.clone())),
        Err(_) => None,
    }
}

/// The candidate on the shadow's thread.
pub(super) struct Follower {
    open: Open,
    plugin: Option<Box<dyn SchedulerPlugin>>,
    comparison: Arc<Comparison>,
    /// Told to the scheduling thread.
    lost: Arc<AtomicBool>,
    classes: HashMap<u32, Class>,
    slots: usize,
    live: Vec<u64>,
    /// Names of nodes, by slot.
    names: HashMap<u32, Arc<str>>,
}

impl Follower {
    pub(super) fn new(open: Open, comparison: Arc<Comparison>, lost: Arc<AtomicBool>) -> Self {
        Self {
            open,
            plugin: None,
            comparison,
            lost,
            classes: HashMap::new(),
            slots: 0,
            live: Vec::new(),
            names: HashMap::new(),
        }
    }

    /// Starts from nothing.
    pub(super) fn start(&mut self) {
        self.plugin = None;
        self.classes.clear();
        self.live.clear();
        self.plugin = (self.open)().ok().filter(|plugin| plugin.admits());
        self.lost.store(self.plugin.is_none(), Ordering::Release);
    }

    /// Asks, unless the candidate has lost the thread.
    fn ask<T>(
        &mut self,
        question: impl FnOnce(&mut dyn SchedulerPlugin) -> Result<T, PluginError>,
    ) -> Answer<T> {
        let answer = answer_of_owned(question(self.plugin.as_mut()?.as_mut()));
        if answer.is_none() {
            self.plugin = None;
            self.lost.store(true, Ordering::Release);
        }
        answer
    }

    /// Tells the candidate something that has no answer to be compared.
    pub(super) fn tell<T>(
        &mut self,
        question: impl FnOnce(&mut dyn SchedulerPlugin) -> Result<T, PluginError>,
    ) {
        self.ask(question);
    }

    /// Asks what the active revision answered about a pod, and compares.
    pub(super) fn compare<T: PartialEq + Debug>(
        &mut self,
        what: &str,
        active: Answer<T>,
        question: impl FnOnce(&mut dyn SchedulerPlugin) -> Result<T, PluginError>,
    ) {
        let (Some(candidate), Some(active)) = (self.ask(question), active) else { return };
        if active == candidate {
            self.comparison.same();
        } else {
            self.comparison.differs(|| Example {
                key: what.to_owned(),
                active: say(&active),
                candidate: say(&candidate),
            });
        }
    }

    pub(super) fn sync(&mut self, delta: &Delta, active: Option<&Synced>) {
        self.mirror(delta);
        let expected = active.map_or(0, |synced| synced.checksum);
        self.tell(|plugin| {
            let synced = plugin.sync(delta)?;
            if synced.checksum != 0 && expected != 0 && synced.checksum != expected {
                return Err(plugin.nonsense("the checksum of its mirror is wrong".to_owned()));
            }
            Ok(())
        });
    }

    fn mirror(&mut self, delta: &Delta) {
        if delta.full {
            self.live.clear();
        }
        self.slots = delta.slots as usize;
        self.live.resize(self.slots.div_ceil(64), 0);
        for (i, slot) in delta.rows.iter().enumerate() {
            let slot = *slot as usize;
            if let Some(word) = self.live.get_mut(slot / 64) {
                let mask = 1 << (slot % 64);
                *word = if bit(&delta.live, i) { *word | mask } else { *word & !mask };
            }
        }
    }

    /// Introduces a class. What one revision judges and the other does not is compared here, because the scheduler will
    /// not ask about it.
    pub(super) fn prepare(&mut self, id: u32, pod: &Arc<[u8]>, active: Option<&Prepared>) {
        let Some(Ok(prepared)) = self.ask(|plugin| or_rejected(plugin.prepare(id, pod))) else { return };
        self.classes.insert(id, Class { pod: pod.clone(), prepared });
        let (Some(active), slots) = (active, self.slots) else { return };
        let Some(declared) = self.plugin.as_ref().map(|p| (p.descriptor().hooks, p.descriptor().normalize))
        else {
            return;
        };
        if declared.0.has(Hooks::FILTER)
            && let Some(mask) = unasked_mask(active, slots)
        {
            self.filter(id, None, &mask, Duration::ZERO);
        }
        if declared.0.has(Hooks::SCORE) && active.skip_score && active.rejected.is_none() {
            if declared.1 == Normalize::None {
                self.score(id, None, &vec![0; slots], Duration::ZERO, |p, rows| p.score(id, rows));
            } else {
                self.score(id, None, &vec![0; slots], Duration::ZERO, |p, rows| p.score_raw(id, rows));
            }
        }
    }

    pub(super) fn release(&mut self, id: u32) {
        if self.classes.remove(&id).is_some() {
            self.tell(|plugin| plugin.release(id));
        }
    }

    pub(super) fn filter(&mut self, id: u32, rows: Option<&[u32]>, active: &[u64], took: Duration) {
        let Some(class) = self.classes.get(&id) else { return };
        let count = rows.map_or(self.slots, <[u32]>::len);
        let began = Instant::now();
        let mask = match unasked_mask(&class.prepared, count) {
            Some(mask) => mask,
            None => {
                let asked = rows.map_or(Rows::All, Rows::Some);
                let answer = self.ask(|plugin| {
                    let mask = plugin.filter(id, asked)?;
                    match mask.len() == count.div_ceil(64) {
                        true => Ok(mask),
                        false => {
                            Err(plugin.nonsense(format!("a mask of {} words for {count} nodes", mask.len())))
                        }
                    }
                });
                let Some(Ok(mask)) = answer else { return };
                mask
            }
        };
        self.time(took, began);
        let said = |mask: &[u64], i: usize| if bit(mask, i) { "fits" } else { "does not fit" };
        self.rows("filter", id, rows, count, |i| {
            (bit(active, i) != bit(&mask, i)).then(|| (said(active, i).to_owned(), said(&mask, i).to_owned()))
        });
    }

    pub(super) fn overlay(&mut self, id: u32, delta: &Delta, active: Option<&[u64]>) {
        let unasked = match self.classes.get(&id) {
            Some(class) => unasked_mask(&class.prepared, delta.rows.len()),
            None => Some(Vec::new()),
        };
        if unasked.is_some() {
            let entries = entries(delta, self.slots);
            self.tell(|plugin| plugin.sync(&entries));
        }
        let mask = match unasked {
            Some(mask) => mask,
            None => {
                let rows = delta.rows.len();
                let answer = self.ask(|plugin| {
                    let mask = plugin.overlay(id, delta)?;
                    match mask.len() == rows.div_ceil(64) {
                        true => Ok(mask),
                        false => {
                            Err(plugin.nonsense(format!("a mask of {} words for {rows} rows", mask.len())))
                        }
                    }
                });
                let Some(Ok(mask)) = answer else { return };
                mask
            }
        };
        let (Some(active), true) = (active, self.classes.contains_key(&id)) else { return };
        self.rows("overlay", id, Some(&delta.rows), delta.rows.len(), |i| {
            let said = |mask: &[u64]| if bit(mask, i) { "would fit" } else { "would not fit" };
            (bit(active, i) != bit(&mask, i)).then(|| (said(active).to_owned(), said(&mask).to_owned()))
        });
    }

    pub(super) fn score<T: PartialEq + Clone + Default + Debug>(
        &mut self,
        id: u32,
        rows: Option<&[u32]>,
        active: &[T],
        took: Duration,
        question: impl FnOnce(&mut dyn SchedulerPlugin, Rows<'_>) -> Result<Vec<T>, PluginError>,
    ) {
        let Some(class) = self.classes.get(&id) else { return };
        let count = rows.map_or(self.slots, <[u32]>::len);
        let began = Instant::now();
        let scores = match unasked_scores(&class.prepared, count) {
            Some(scores) => scores,
            None => {
                let answer = self.ask(|plugin| {
                    let scores = question(plugin, rows.map_or(Rows::All, Rows::Some))?;
                    match scores.len() == count {
                        true => Ok(scores),
                        false => Err(plugin.nonsense(format!("{} scores for {count} nodes", scores.len()))),
                    }
                });
                let Some(Ok(scores)) = answer else { return };
                scores
            }
        };
        self.time(took, began);
        self.rows("score", id, rows, count, |i| {
            let (a, b) = (active.get(i), scores.get(i));
            (a != b).then(|| {
                (
                    format!("scores {:?}", a.unwrap_or(&T::default())),
                    format!("scores {:?}", b.unwrap_or(&T::default())),
                )
            })
        });
    }

    /// Takes in what nodes are called.
    pub(super) fn learn(&mut self, names: Vec<(u32, Option<Arc<str>>)>) {
        for (slot, name) in names {
            match name {
                Some(name) => _ = self.names.insert(slot, name),
                None => _ = self.names.remove(&slot),
            }
        }
    }

    /// For a reader.
    fn node(&self, slot: usize) -> String {
        let name = u32::try_from(slot).ok().and_then(|slot| self.names.get(&slot));
        name.map_or_else(|| format!("row {slot}"), |name| format!("node {name}"))
    }

    fn time(&self, took: Duration, began: Instant) {
        self.comparison.active.add(took);
        self.comparison.candidate.add(began.elapsed());
    }

    /// Tells of answers about rows; those that hold no node do not count.
    fn rows(
        &self,
        hook: &str,
        id: u32,
        rows: Option<&[u32]>,
        count: usize,
        differs: impl Fn(usize) -> Option<(String, String)>,
    ) {
        let slot_of = |i: usize| rows.map_or(i, |rows| rows.get(i).map_or(0, |slot| *slot as usize));
        let mut found = (0..count)
            .filter(|i| bit(&self.live, slot_of(*i)))
            .filter_map(|i| Some((slot_of(i), differs(i)?)));
        let Some((slot, (active, candidate))) = found.next() else { return self.comparison.same() };
        let more = found.count();
        self.comparison.differs(|| {
            let pod = self.classes.get(&id).map(|c| String::from_utf8_lossy(&c.pod).into_owned());
            let others = if more == 0 { String::new() } else { format!(", and {more} more nodes otherwise") };
            Example {
                key: format!("{hook} {}", pod.unwrap_or_default()),
                active: format!("{} {active}", self.node(slot)),
                candidate: format!("{} {candidate}{others}", self.node(slot)),
            }
        });
    }
}

fn answer_of_owned<T>(answer: Result<T, PluginError>) -> Answer<T> {
    match answer {
        Ok(answer) => Some(Ok(answer)),
        Err(PluginError::Refused { message }) => Some(Err(message)),
        Err(_) => None,
    }
}

fn say<T: Debug>(answer: &Result<T, String>) -> String {
    match answer {
        Ok(answer) => format!("{answer:?}"),
        Err(message) => format!("refused: {message}"),
    }
}
