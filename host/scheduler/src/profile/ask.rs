//! Brings a class up to date: mirrors first, then questions, only about what changed.

use super::loaded::Loaded;
use super::{Failed, Profile, refusal};
use crate::class::{Answers, Class, bit, put_bit};
use crate::columns::ColumnSet;
use crate::framework::{Normalize, PluginError, Prepared, Rows, SchedulerPlugin};
use crate::table::{NodeTable, Slot};
use std::time::Instant;

impl Profile {
    /// Makes the answers of a class those of the table as it is now.
    ///
    /// # Errors
    /// [`Failed`] where a required filter plugin gave no answer. The class is then not to be read.
    pub fn evaluate(&mut self, id: u32, table: &NodeTable, now: Instant) -> Result<(), Failed> {
        let Self { plugins, classes, .. } = self;
        let Some(class) = classes.get_mut(&id) else { return Ok(()) };
        let result = bring_up(plugins, class, table, now);
        if result.is_err() {
            // What was replaced and what was not is anybody's guess.
            class.answers.iter_mut().for_each(Answers::clear);
            class.void();
        }
        result
    }
}

/// What one plugin is to be asked.
enum Ask {
    Nothing,
    All,
    Rows(Vec<Slot>),
}

fn bring_up(
    plugins: &mut [Loaded],
    class: &mut Class,
    table: &NodeTable,
    now: Instant,
) -> Result<(), Failed> {
    let slots = table.slots() as usize;
    let everything = class.cursor.is_unset() || class.totals.len() > slots;
    let mut columns = ColumnSet::PRESENCE;
    let mut fresh = vec![false; plugins.len()];
    let mut replaced = false;
    for ((loaded, answers), fresh) in plugins.iter_mut().zip(&mut class.answers).zip(&mut fresh) {
        if !loaded.judges() {
            continue;
        }
        columns = columns.or(loaded.columns());
        let introduced = loaded.sync(table, now).and_then(|()| {
            let known = answers.generation == loaded.generation
                && !(answers.prepared.reads_objects && answers.objects_round != loaded.objects_round);
            *fresh = !known || answers.round != loaded.round || loaded.stale.contains(&class.id);
            if known {
                return Ok(());
            }
            replaced |= answers.generation != 0;
            introduce(loaded, class.id, &class.pod, answers)
        });
        loaded.stale.remove(&class.id);
        answers.round = loaded.round;
        answers.objects_round = loaded.objects_round;
        if let Err(error) = introduced {
            replaced |= answers.generation != 0;
            give_up(loaded, answers, &error, now)?;
            *fresh = false;
        }
    }
    if class.rejection().is_some() {
        // No node fits whatever it is like, so nobody is asked about nodes.
        class.void();
        return Ok(());
    }
    let changed = if everything { None } else { table.changed_since(class.cursor, columns) };
    let everything = changed.is_none();
    let changed = changed.unwrap_or_default();
    if !everything && changed.is_empty() && !replaced && !fresh.contains(&true) {
        class.cursor = table.head();
        return Ok(());
    }
    let touched: Vec<Slot> = changed.iter().map(|(slot, _)| *slot).collect();
    if everything || replaced {
        class.start_over();
    } else {
        class.unsettle(&touched);
    }
    let mut gone = false;
    for ((loaded, answers), fresh) in plugins.iter_mut().zip(&mut class.answers).zip(&fresh) {
        if answers.generation == 0 || !(answers.filters || answers.weight != 0) {
            continue;
        }
        answers.resize(slots);
        let ask = if everything || *fresh {
            Ask::All
        } else {
            let of = loaded.columns();
            let rows: Vec<Slot> =
                changed.iter().filter(|(_, c)| c.intersects(of)).map(|(slot, _)| *slot).collect();
            match rows.len() {
                0 => Ask::Nothing,
                n if n > slots / 4 + 16 => Ask::All,
                _ => Ask::Rows(rows),
            }
        };
        let answered = match &ask {
            Ask::Nothing => Ok(()),
            Ask::All => question(loaded, answers, class.id, Rows::All, slots),
            Ask::Rows(rows) => question(loaded, answers, class.id, Rows::Some(rows), slots),
        };
        if let Err(error) = answered {
            give_up(loaded, answers, &error, now)?;
            gone = true;
        }
        if !matches!(ask, Ask::Nothing) && answers.generation != 0 {
            loaded.failures = 0;
        }
    }
    loop {
        if gone {
            class.start_over();
        }
        let changed = class.settle_feasible(table.live(), slots, &touched);
        gone = normalize(plugins, class, &changed, slots, now)?;
        if !gone {
            break;
        }
    }
    class.settle_scores(&touched);
    class.cursor = table.head();
    Ok(())
}

/// Lets plugins normalise what changed. Says whether one of them failed and is out.
fn normalize(
    plugins: &mut [Loaded],
    class: &mut Class,
    changed: &[bool],
    slots: usize,
    now: Instant,
) -> Result<bool, Failed> {
    let mut gone = false;
    for ((loaded, answers), changed) in plugins.iter_mut().zip(&mut class.answers).zip(changed) {
        if !changed || answers.weight == 0 || answers.normalize != Normalize::Custom {
            continue;
        }
        let plugin = &mut loaded.enabled.plugin;
        let normalized = plugin.normalize(class.id, &class.feasible, &answers.raw);
        match normalized.and_then(|bytes| check_bytes(plugin.as_mut(), bytes, slots)) {
            Ok(bytes) => answers.put_bytes(Rows::All, bytes),
            Err(error) => {
                give_up(loaded, answers, &error, now)?;
                gone = true;
            }
        }
    }
    Ok(gone)
}

/// Tells a plugin of the class.
fn introduce(
    loaded: &mut Loaded,
    id: u32,
    pod: &serde_json::Value,
    answers: &mut Answers,
) -> Result<(), PluginError> {
    let pod = loaded.projection.apply(pod).to_string();
    let prepared = match loaded.enabled.plugin.prepare(id, pod.as_bytes()) {
        Err(PluginError::Refused { message }) if loaded.filters() => {
            Prepared { rejected: Some(refusal(&message)), ..Prepared::default() }
        }
        other => other?,
    };
    answers.clear();
    answers.begin();
    answers.generation = loaded.generation;
    answers.filters = loaded.filters() && !prepared.skip_filter;
    answers.weight = if loaded.scores() && !prepared.skip_score { loaded.enabled.weight } else { 0 };
    answers.normalize = loaded.normalize();
    answers.prepared = Prepared { rejected: prepared.rejected.filter(|_| loaded.filters()), ..prepared };
    Ok(())
}

/// Applies the failure policy.
fn give_up(
    loaded: &mut Loaded,
    answers: &mut Answers,
    error: &PluginError,
    now: Instant,
) -> Result<(), Failed> {
    loaded.fail(error, now);
    answers.clear();
    if loaded.filters() && loaded.enabled.required {
        let plugin = loaded.descriptor.name.clone();
        let message = format!("running {plugin:?} filter plugin: {error}");
        return Err(Failed { plugin, message });
    }
    Ok(())
}

fn question(
    loaded: &mut Loaded,
    answers: &mut Answers,
    id: u32,
    rows: Rows<'_>,
    slots: usize,
) -> Result<(), PluginError> {
    let asked = match rows {
        Rows::All => slots,
        Rows::Some(rows) => rows.len(),
    };
    let plugin = &mut loaded.enabled.plugin;
    if answers.filters {
        let mask = plugin.filter(id, rows)?;
        if mask.len() != asked.div_ceil(64) {
            return Err(plugin.nonsense(format!("a mask of {} words for {asked} nodes", mask.len())));
        }
        match rows {
            Rows::All => answers.mask = mask,
            Rows::Some(rows) => {
                for (i, slot) in rows.iter().enumerate() {
                    put_bit(&mut answers.mask, *slot as usize, bit(&mask, i));
                }
            }
        }
    }
    if answers.weight == 0 {
        return Ok(());
    }
    if answers.normalize == Normalize::None {
        let bytes = plugin.score(id, rows)?;
        answers.put_bytes(rows, check_bytes(plugin.as_mut(), bytes, asked)?);
    } else {
        let raw = plugin.score_raw(id, rows)?;
        if raw.len() != asked {
            return Err(plugin.nonsense(format!("{} scores for {asked} nodes", raw.len())));
        }
        if answers.normalize != Normalize::Custom && raw.iter().any(|r| *r < 0) {
            return Err(plugin.nonsense("a raw score below 0".to_owned()));
        }
        answers.put_raw(rows, raw);
    }
    Ok(())
}

fn check_bytes(
    plugin: &mut dyn SchedulerPlugin,
    bytes: Vec<u8>,
    asked: usize,
) -> Result<Vec<u8>, PluginError> {
    if bytes.len() != asked {
        return Err(plugin.nonsense(format!("{} scores for {asked} nodes", bytes.len())));
    }
    if let Some(score) = bytes.iter().find(|b| **b > 100) {
        return Err(plugin.nonsense(format!("a score of {score}, above 100")));
    }
    Ok(bytes)
}
