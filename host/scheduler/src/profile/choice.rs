//! Tells plugins that want to know it what was chosen, and from what.

use super::Profile;
use crate::framework::Choice;
use crate::table::{NodeTable, Slot};

impl Profile {
    /// To be called when a node, or none, was chosen for a pod of an evaluated class. Costs nothing where no plugin
    /// wants to know it, else a pass over all nodes for each that does.
    pub(crate) fn tell_choice(&mut self, id: u32, pod: (&str, &str), slot: Option<Slot>, table: &NodeTable) {
        for at in 0..self.plugins.len() {
            let Some(loaded) = self.plugins.get_mut(at) else { return };
            if !loaded.judges() || !loaded.enabled.plugin.follows_choices() {
                continue;
            }
            let Some(class) = self.classes.get(&id) else { return };
            let Some(own) = class.answers.get(at).filter(|own| own.generation != 0) else { continue };
            // Whoever comes after a plugin that rejects the class as a whole was not asked.
            if class.rejection().is_some() {
                continue;
            }
            let mut others = table.live().to_vec();
            let rest = class.answers.iter().enumerate().filter(|(i, a)| *i != at && a.filters);
            for (_, answers) in rest {
                for (word, mask) in others.iter_mut().zip(&answers.mask) {
                    *word &= mask;
                }
            }
            let mut totals = class.totals.clone();
            own.take_from(&mut totals);
            let weight = if loaded.scores() { loaded.enabled.weight } else { 0 };
            let pod = format!("{}/{}", pod.0, pod.1);
            let filters = loaded.filters();
            loaded.enabled.plugin.chosen(Choice { class: id, pod, slot, others, totals, filters, weight });
        }
    }
}
