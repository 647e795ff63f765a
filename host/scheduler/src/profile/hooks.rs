//! Calls of hooks that are not about classes.

use super::{ClassDef, Profile};
use crate::framework::{Descriptor, Hooks, PluginError, SchedulerPlugin};
use crate::table::NodeTable;
use serde_json::Value;
use std::sync::Arc;
use std::time::Instant;

impl Profile {
    /// Positions of the plugins that have one of the hooks enabled, in the order in which they are asked.
    pub fn with_hook(&self, hook: Hooks) -> impl Iterator<Item = usize> {
        let has = move |at: &usize| self.plugins.get(*at).is_some_and(|p| p.hooks.intersects(hook));
        let order = self.orders.iter().find(|(of, _)| of.intersects(hook)).map(|(_, order)| order.as_slice());
        let rest = (0..self.plugins.len()).filter(move |at| !order.is_some_and(|o| o.contains(at)));
        order.unwrap_or(&[]).iter().copied().chain(rest).filter(has)
    }

    /// Says at which hooks the plugins are asked in another order, by their names; those that are not named come last.
    #[must_use]
    pub fn with_orders(mut self, orders: &[(Hooks, Vec<String>)]) -> Self {
        let position = |name: &String| self.plugins.iter().position(|p| p.descriptor.name == *name);
        let order =
            |(hook, names): &(Hooks, Vec<String>)| (*hook, names.iter().filter_map(position).collect());
        self.orders = orders.iter().map(order).collect();
        self
    }

    /// What the plugin at a position declared.
    #[must_use]
    pub fn descriptor(&self, at: usize) -> Option<&Descriptor> {
        self.plugins.get(at).map(|p| &p.descriptor)
    }

    /// Who the plugin at a position is; empty for the scheduler's own user.
    #[must_use]
    pub fn user(&self, at: usize) -> Arc<str> {
        self.plugins.get(at).map_or_else(|| "".into(), |p| p.enabled.user.clone())
    }

    /// What the plugin at a position gets of a pod, in JSON; computed fields must be there.
    #[must_use]
    pub fn fields(&self, at: usize, pod: &Value) -> Arc<[u8]> {
        let fields = self.plugins.get(at).map(|p| p.projection.apply(pod).to_string());
        fields.unwrap_or_else(|| "{}".to_owned()).into_bytes().into()
    }

    /// Whether the plugin at a position said, when an open class was introduced to it, that the hooks from Reserve to
    /// PostBind are not to be called for its pods.
    #[must_use]
    pub fn skips_placing(&self, class: u32, at: usize) -> bool {
        let answers = self.classes.get(&class).and_then(|c| c.answers.get(at));
        answers.is_some_and(|a| a.generation != 0 && a.prepared.skip_placing)
    }

    /// Asks the plugin at a position something, after it was told of watched objects and, with `mirror`, of the table. A
    /// failure is noted, and the plugin rests.
    ///
    /// # Errors
    /// Where it gave no answer, or rests.
    pub fn ask<T>(
        &mut self,
        at: usize,
        table: &NodeTable,
        mirror: bool,
        now: Instant,
        question: impl FnOnce(&mut dyn SchedulerPlugin) -> Result<T, PluginError>,
    ) -> Result<T, PluginError> {
        let Some(loaded) = self.plugins.get_mut(at) else {
            return Err(PluginError::Refused { message: format!("the profile has no plugin at {at}") });
        };
        let ready =
            if mirror { loaded.sync(table, now) } else { loaded.sync_objects(table, now).map(|_| ()) };
        let answer = ready.and_then(|()| question(loaded.enabled.plugin.as_mut()));
        if let Err(error) = &answer {
            loaded.fail(error, now);
        }
        answer
    }
}

impl ClassDef {
    /// The fields that any plugin of the profile reads.
    #[must_use]
    pub fn pod(&self) -> &Value {
        &self.pod
    }
}
