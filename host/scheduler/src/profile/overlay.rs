//! What filters would say if other pods were on some nodes.

use super::{Failed, Profile};
use crate::class::bit;
use crate::framework::Hooks;
use crate::table::{NodeTable, PodChange, Slot};
use std::time::Instant;

impl Profile {
    /// Which of the rows would pass all filters for the class if the pods were added to or taken from each
    /// of them, each row on its own. A slot may come several times. A plugin that has no overlay is taken at
    /// what it says of the row as it is.
    ///
    /// The class is brought up to date first.
    ///
    /// # Errors
    /// [`Failed`] where a required filter plugin gave no answer.
    pub fn overlay(
        &mut self,
        id: u32,
        table: &NodeTable,
        rows: &[(Slot, Vec<PodChange<'_>>)],
        now: Instant,
    ) -> Result<Vec<bool>, Failed> {
        let mut fits = vec![false; rows.len()];
        self.evaluate(id, table, now)?;
        let Some(class) = self.classes.get_mut(&id) else { return Ok(fits) };
        if class.rejection().is_some() {
            return Ok(fits);
        }
        let asked = |loaded: &super::Loaded| loaded.hooks.has(Hooks::OVERLAY);
        let mut left: Vec<usize> = Vec::new();
        for (at, (slot, _)) in rows.iter().enumerate() {
            let fixed =
                self.plugins.iter().zip(&class.answers).filter(|(loaded, a)| a.filters && !asked(loaded));
            let fixed = fixed.map(|(_, a)| a);
            if table.is_live(*slot) && fixed.into_iter().all(|a| bit(&a.mask, *slot as usize)) {
                left.push(at);
            }
        }
        for (loaded, answers) in self.plugins.iter_mut().zip(&mut class.answers) {
            if !answers.filters || !asked(loaded) || left.is_empty() {
                continue;
            }
            let of_left: Vec<(Slot, &[PodChange<'_>])> = left
                .iter()
                .filter_map(|at| rows.get(*at))
                .map(|(slot, pods)| (*slot, pods.as_slice()))
                .collect();
            let delta = table.overlay(loaded.descriptor.columns, &mut loaded.state, &of_left);
            let words = left.len().div_ceil(64);
            let plugin = &mut loaded.enabled.plugin;
            let mask = match plugin.overlay(id, &delta) {
                Ok(mask) if mask.len() != words => {
                    let message = format!("a mask of {} words for {} overlay rows", mask.len(), left.len());
                    Err(plugin.nonsense(message))
                }
                other => other,
            };
            match mask {
                Ok(mask) => {
                    let mut position = 0;
                    left.retain(|_| {
                        position += 1;
                        bit(&mask, position - 1)
                    });
                }
                Err(error) => {
                    loaded.fail(&error, now);
                    if loaded.enabled.required {
                        let plugin = loaded.descriptor.name.clone();
                        let message = format!("running {plugin:?} filter plugin: {error}");
                        return Err(Failed { plugin, message });
                    }
                }
            }
        }
        for at in left {
            if let Some(fit) = fits.get_mut(at) {
                *fit = true;
            }
        }
        Ok(fits)
    }
}
