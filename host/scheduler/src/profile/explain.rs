//! Why a class fits nowhere, in numbers of nodes per reason.

use super::{Failed, Loaded, Profile};
use crate::class::{Unfit, bit, put_bit};
use crate::framework::{EventSet, Explanation, Hooks, PluginError, Reason};
use crate::table::{NodeTable, Slot};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

impl Profile {
    /// Why an evaluated class fits nowhere. A node counts for the first plugin that rejected it, as
    /// in Kubernetes; the answer is kept until the class changes.
    ///
    /// # Errors
    /// [`Failed`] where a plugin could not say.
    pub fn explain(&mut self, id: u32, table: &NodeTable, now: Instant) -> Result<Arc<Unfit>, Failed> {
        let Self { plugins, classes, .. } = self;
        let nodes = table.nodes();
        let nobody = Unfit {
            nodes,
            rejected: None,
            reasons: Vec::new(),
            unresolvable: 0,
            resolvable: table.live().to_vec(),
            deallocates: plugins
                .iter()
                .any(|p| p.descriptor.name == "DynamicResources" && p.enabled.hooks.has(Hooks::POST_FILTER)),
            events: EventSet::NODE_ADD.or(EventSet::PROFILE),
        };
        let Some(class) = classes.get_mut(&id) else { return Ok(Arc::new(nobody)) };
        if let Some(unfit) = &class.unfit
            && unfit.nodes == nodes
        {
            return Ok(unfit.clone());
        }
        let mut unfit = nobody;
        if let Some((plugin, reason)) = class.rejection() {
            unfit.rejected = Some(reason.text.clone());
            if reason.unresolvable {
                unfit.unresolvable = nodes;
                unfit.resolvable.fill(0);
            }
            unfit.events = plugins.get(plugin).map_or(Self::any_event(), |p| p.descriptor.events);
            let unfit = Arc::new(unfit);
            class.unfit = Some(unfit.clone());
            return Ok(unfit);
        }
        let mut left: Vec<Slot> = (0..table.slots()).filter(|slot| table.is_live(*slot)).collect();
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        for (loaded, answers) in plugins.iter_mut().zip(&class.answers).filter(|(_, a)| a.filters) {
            let (kept, rows): (Vec<Slot>, Vec<Slot>) =
                left.iter().partition(|slot| bit(&answers.mask, **slot as usize));
            left = kept;
            if rows.is_empty() {
                continue;
            }
            unfit.events = unfit.events.or(loaded.descriptor.events);
            let explained = loaded.explain(id, &rows, now)?;
            tally(&explained, &rows, &loaded.descriptor.name, &mut counts, &mut unfit);
        }
        // Nodes that fit are no business of evictions.
        for (word, feasible) in unfit.resolvable.iter_mut().zip(&class.feasible) {
            *word &= !feasible;
        }
        unfit.reasons = counts.into_iter().collect();
        let unfit = Arc::new(unfit);
        class.unfit = Some(unfit.clone());
        Ok(unfit)
    }

    /// The nodes that no filter rejected for good, as a packed bit set over slots: where evicting pods could
    /// make the class fit.
    ///
    /// # Errors
    /// [`Failed`] where a plugin could not say.
    pub fn resolvable(&mut self, id: u32, table: &NodeTable, now: Instant) -> Result<Vec<u64>, Failed> {
        Ok(self.explain(id, table, now)?.resolvable.clone())
    }
}

impl Loaded {
    /// What the plugin says of rows that it rejected.
    pub(super) fn explain(&mut self, class: u32, rows: &[Slot], now: Instant) -> Result<Explanation, Failed> {
        let explained = self.enabled.plugin.explain(class, rows).and_then(|e| check(e, rows.len()));
        explained.map_err(|error| {
            self.fail(&error, now);
            let plugin = self.descriptor.name.clone();
            Failed { message: format!("running {plugin:?} filter plugin: {error}"), plugin }
        })
    }
}

/// The reasons of the row at a position.
pub(super) fn reasons(explanation: &Explanation, row: usize) -> impl Iterator<Item = &Reason> {
    let range = explanation.offsets.get(row).zip(explanation.offsets.get(row + 1));
    let refs = range.and_then(|(from, to)| explanation.refs.get(*from as usize..*to as usize)).unwrap_or(&[]);
    refs.iter().filter_map(|r| explanation.reasons.get(*r as usize))
}

fn check(explanation: Explanation, rows: usize) -> Result<Explanation, PluginError> {
    let Explanation { reasons, offsets, refs } = &explanation;
    let ordered = offsets.is_sorted() && offsets.first() == Some(&0);
    let ends = offsets.last().is_some_and(|end| *end as usize == refs.len());
    if offsets.len() != rows + 1 || !ordered || !ends || refs.iter().any(|r| *r as usize >= reasons.len()) {
        return Err(PluginError::Nonsense { message: "an explanation whose parts do not fit".to_owned() });
    }
    Ok(explanation)
}

fn tally(
    explanation: &Explanation,
    rows: &[Slot],
    plugin: &str,
    counts: &mut BTreeMap<String, u32>,
    unfit: &mut Unfit,
) {
    for (row, slot) in rows.iter().enumerate() {
        let range = explanation.offsets.get(row).zip(explanation.offsets.get(row + 1));
        let refs =
            range.and_then(|(from, to)| explanation.refs.get(*from as usize..*to as usize)).unwrap_or(&[]);
        let mut helpless = false;
        for reason in refs.iter().filter_map(|r| explanation.reasons.get(*r as usize)) {
            *counts.entry(reason.text.clone()).or_insert(0) += 1;
            helpless |= reason.unresolvable;
        }
        if refs.is_empty() {
            *counts.entry(plugin.to_owned()).or_insert(0) += 1;
        }
        if helpless {
            unfit.unresolvable += 1;
            put_bit(&mut unfit.resolvable, *slot as usize, false);
        }
    }
}
