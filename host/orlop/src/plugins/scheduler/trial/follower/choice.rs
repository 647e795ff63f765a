//! Which node a pod would have been given, had the candidate answered in the place of the active revision.

use super::Follower;
use crate::plugins::comparison::Example;
use crate::plugins::scheduler::trial::{bit, unasked_mask, unasked_scores};
use orlop_scheduler::framework::{Choice, Normalize, Rows};

impl Follower {
    /// Compares what was chosen with what would have been. Among equals any choice is the same.
    pub(in crate::plugins::scheduler::trial) fn choose(&mut self, choice: &Choice) {
        let Some(feasible) = self.feasible(choice) else { return };
        let Some(scores) = self.scores(choice, &feasible) else { return };
        let score = |slot: usize| scores.get(slot).copied().map_or(0, i64::from);
        let total = |slot: usize| choice.totals.get(slot).copied().unwrap_or(0) + choice.weight * score(slot);
        let fits = (0..self.slots).filter(|slot| bit(&feasible, *slot));
        let best = fits
            .map(|slot| (total(slot), slot))
            .max_by_key(|(total, slot)| (*total, std::cmp::Reverse(*slot)));
        let chosen = choice.slot.map(|slot| slot as usize);
        let same = match (chosen, best) {
            (None, None) => true,
            (Some(slot), Some((best, _))) => bit(&feasible, slot) && total(slot) == best,
            _ => false,
        };
        if same {
            return self.comparison.same();
        }
        let say = |slot: Option<usize>, verb: &str| match slot {
            Some(slot) => format!("{verb} {}", self.node(slot)),
            None => "no node fits".to_owned(),
        };
        self.comparison.differs(|| Example {
            key: format!("choice {}", choice.pod),
            active: say(chosen, "bound to"),
            candidate: say(best.map(|(_, slot)| slot), "would have been bound to"),
        });
    }

    /// The nodes that all others and the candidate let pass.
    fn feasible(&mut self, choice: &Choice) -> Option<Vec<u64>> {
        let prepared = &self.classes.get(&choice.class)?.prepared;
        let slots = self.slots;
        let mask = match unasked_mask(prepared, slots).filter(|_| choice.filters) {
            Some(mask) => mask,
            None if !choice.filters => vec![u64::MAX; slots.div_ceil(64)],
            None => self.ask(|plugin| plugin.filter(choice.class, Rows::All))?.ok()?,
        };
        let others = choice.others.iter().chain(std::iter::repeat(&0));
        Some(
            mask.iter()
                .zip(others)
                .zip(&self.live)
                .map(|((mask, others), live)| mask & others & live)
                .collect(),
        )
    }

    /// The candidate's scores, 0 to 100; none where they do not count.
    fn scores(&mut self, choice: &Choice, feasible: &[u64]) -> Option<Vec<u8>> {
        let class = choice.class;
        let prepared = &self.classes.get(&class)?.prepared;
        if choice.weight == 0 || unasked_scores::<u8>(prepared, 0).is_some() {
            return Some(Vec::new());
        }
        let normalize = self.plugin.as_ref()?.descriptor().normalize;
        if normalize == Normalize::None {
            return self.ask(|plugin| plugin.score(class, Rows::All))?.ok();
        }
        let raw = self.ask(|plugin| plugin.score_raw(class, Rows::All))?.ok()?;
        if normalize == Normalize::Custom {
            return self.ask(|plugin| plugin.normalize(class, feasible, &raw))?.ok();
        }
        let fit = raw.iter().enumerate().filter(|(slot, _)| bit(feasible, *slot)).map(|(_, raw)| *raw);
        let top = i128::from(fit.max().unwrap_or(0));
        let share = |raw: &i64| {
            let share = if top == 0 { 0 } else { (100 * i128::from(*raw) / top).clamp(0, 100) };
            let share = u8::try_from(share).unwrap_or(100);
            if normalize == Normalize::Reverse { 100 - share } else { share }
        };
        Some(raw.iter().map(share).collect())
    }
}
