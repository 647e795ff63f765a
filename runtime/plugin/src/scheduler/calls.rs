//! The calls of `plugin`, `overlay`, `objects` and `queue`.

use super::check;
use super::world::{PluginExports, SchedulerWorld, v1};
use super::{Change, Delta, Explanation, Prepared, Reason, Synced};
use crate::error::PluginError;
use crate::instance::{Instance, Store};

/// Bits of [`Prepared::flags`].
pub mod prepared {
    /// Every node passes.
    pub const SKIP_FILTER: u32 = 1;
    /// The score is 0 everywhere.
    pub const SKIP_SCORE: u32 = 1 << 1;
    /// No node fits, whatever its state.
    pub const REJECTED: u32 = 1 << 2;
    /// With [`REJECTED`]: evicting pods cannot help.
    pub const UNRESOLVABLE: u32 = 1 << 3;
    /// The answer depends on watched objects.
    pub const READS_OBJECTS: u32 = 1 << 4;
    /// The hooks of `placing` are not to be called.
    pub const SKIP_PLACING: u32 = 1 << 5;

    pub(super) const KNOWN_1: u32 = (1 << 4) - 1;
    pub(super) const KNOWN_2: u32 = (1 << 6) - 1;
}

/// For a call of an interface that the plugin does not export; the adapters never make one.
pub(super) fn missing(interface: &str) -> wasmtime::Error {
    wasmtime::Error::msg(format!("the plugin does not export orlop:scheduler/{interface}@2"))
}

type Answer<T> = wasmtime::Result<T>;

impl SchedulerWorld {
    fn call_sync(&self, store: &mut Store, delta: &Delta<'_>) -> Answer<Synced> {
        let guest = match &self.plugin {
            PluginExports::V2(guest) => return guest.call_sync(store, delta.clone()),
            PluginExports::V1(guest) => guest,
        };
        use v1::exports::orlop::scheduler::plugin as old;
        let dictionaries: Vec<_> = delta
            .dictionaries
            .iter()
            .map(|d| old::Dictionary { dictionary: d.dictionary, first: d.first, entries: d.entries })
            .collect();
        let s64 = delta.s64_columns.iter().map(|c| old::S64Column { column: c.column, values: c.values });
        let u32s = delta.u32_columns.iter().map(|c| old::U32Column { column: c.column, values: c.values });
        let lists = delta.list_columns.iter().map(|c| old::ListColumn {
            column: c.column,
            offsets: c.offsets,
            values: c.values,
        });
        let delta = old::Delta {
            full: delta.full,
            slots: delta.slots,
            rows: delta.rows,
            live: delta.live,
            dictionaries: &dictionaries,
            s64_columns: &s64.collect::<Vec<_>>(),
            u32_columns: &u32s.collect::<Vec<_>>(),
            list_columns: &lists.collect::<Vec<_>>(),
        };
        let old::Synced { checksum, stale } = guest.call_sync(store, delta)?;
        // In 1.0, 1 is what the single entry 0 is in 2.0; every other number is made one that no class has.
        let stale = match stale {
            0 => Vec::new(),
            1 => vec![0],
            reserved => return Err(wasmtime::Error::msg(format!("stale is {reserved}"))),
        };
        Ok(Synced { checksum, stale })
    }

    fn call_prepare(&self, store: &mut Store, class: u32, pod: &[u8]) -> Answer<Result<Prepared, String>> {
        match &self.plugin {
            PluginExports::V2(guest) => guest.call_prepare(store, class, pod),
            PluginExports::V1(guest) => {
                let answer = guest.call_prepare(store, class, pod)?;
                Ok(answer.map(|p| Prepared { flags: p.flags, message: p.message }))
            }
        }
    }

    fn call_explain(&self, store: &mut Store, class: u32, rows: &[u32]) -> Answer<Explanation> {
        match &self.plugin {
            PluginExports::V2(guest) => guest.call_explain(store, class, rows),
            PluginExports::V1(guest) => {
                let answer = guest.call_explain(store, class, rows)?;
                let reasons = answer.reasons.into_iter().map(|r| Reason { text: r.text, code: r.code });
                Ok(Explanation { reasons: reasons.collect(), offsets: answer.offsets, refs: answer.refs })
            }
        }
    }

    /// How many answers are due for `rows`.
    const fn due(&self, rows: &[u32]) -> usize {
        if rows.is_empty() { self.slots } else { rows.len() }
    }
}

/// Calls the same function of whichever major it is.
macro_rules! either {
    ($world:expr, $call:ident($($argument:expr),*)) => {
        match &$world.plugin {
            PluginExports::V1(guest) => guest.$call($($argument),*),
            PluginExports::V2(guest) => guest.$call($($argument),*),
        }
    };
}

/// Errors of all: as [`Instance::call`], and [`PluginError::BadOutput`] where the answer is not one that the
/// interface allows. Calls of an interface that the plugin does not export fail too.
impl Instance<SchedulerWorld> {
    /// Brings the mirror up to date. The checksum is not checked here.
    ///
    /// # Errors
    /// See above.
    pub fn sync(&mut self, delta: &Delta<'_>) -> Result<Synced, PluginError> {
        let synced = self.call_checked(
            |world, store| world.call_sync(store, delta),
            |world, Synced { checksum, stale }| {
                Ok(Synced { checksum, stale: check::stale(stale, &world.classes)? })
            },
        )?;
        self.world_mut().slots = delta.slots as usize;
        Ok(synced)
    }

    /// Introduces a class; the inner error is the plugin's own.
    ///
    /// # Errors
    /// See above.
    pub fn prepare(&mut self, class: u32, pod: &[u8]) -> Result<Result<Prepared, String>, PluginError> {
        let answer = self.call_checked(
            |world, store| world.call_prepare(store, class, pod),
            |world, answer| {
                let known = match &world.plugin {
                    PluginExports::V1(_) => prepared::KNOWN_1,
                    PluginExports::V2(_) => prepared::KNOWN_2,
                };
                match answer {
                    Ok(prepared) => check::prepared(prepared, known).map(Ok),
                    Err(message) => Ok(Err(check::words(message))),
                }
            },
        )?;
        self.world_mut().classes.insert(class);
        Ok(answer)
    }

    /// Forgets a class.
    ///
    /// # Errors
    /// See above.
    pub fn release(&mut self, class: u32) -> Result<(), PluginError> {
        self.world_mut().classes.remove(&class);
        self.call(|world, store| either!(world, call_release(store, class)))
    }

    /// Which rows fit; all slots where `rows` is empty. Bits beyond the last row are clear.
    ///
    /// # Errors
    /// See above.
    pub fn filter(&mut self, class: u32, rows: &[u32]) -> Result<Vec<u64>, PluginError> {
        self.call_checked(
            |world, store| either!(world, call_filter(store, class, rows)),
            |world, answer| check::bits(answer, world.due(rows)),
        )
    }

    /// 0 to 100 per row; all slots where `rows` is empty.
    ///
    /// # Errors
    /// See above.
    pub fn score(&mut self, class: u32, rows: &[u32]) -> Result<Vec<u8>, PluginError> {
        self.call_checked(
            |world, store| either!(world, call_score(store, class, rows)),
            |world, answer| check::scores(answer, world.due(rows)),
        )
    }

    /// A raw score per row, not negative where the host scales them; all slots where `rows` is empty.
    ///
    /// # Errors
    /// See above.
    pub fn score_raw(&mut self, class: u32, rows: &[u32]) -> Result<Vec<i64>, PluginError> {
        self.call_checked(
            |world, store| either!(world, call_score_raw(store, class, rows)),
            |world, answer| check::raw_scores(answer, world.due(rows), world.scaled),
        )
    }

    /// 0 to 100 per slot.
    ///
    /// # Errors
    /// See above.
    pub fn normalize(&mut self, class: u32, feasible: &[u64], raw: &[i64]) -> Result<Vec<u8>, PluginError> {
        self.call_checked(
            |world, store| either!(world, call_normalize(store, class, feasible, raw)),
            |_, answer| check::scores(answer, raw.len()),
        )
    }

    /// Why rows were rejected.
    ///
    /// # Errors
    /// See above.
    pub fn explain(&mut self, class: u32, rows: &[u32]) -> Result<Explanation, PluginError> {
        self.call_checked(
            |world, store| world.call_explain(store, class, rows),
            |_, answer| check::explanation(answer, rows.len()),
        )
    }

    /// As [`Self::filter`] for the rows of `delta`, if they had its values.
    ///
    /// # Errors
    /// See above.
    pub fn overlay(&mut self, class: u32, delta: &Delta<'_>) -> Result<Vec<u64>, PluginError> {
        self.call_checked(
            |world, store| {
                world.overlay.as_ref().ok_or_else(|| missing("overlay"))?.call_filter(
                    store,
                    class,
                    delta.clone(),
                )
            },
            |_, answer| check::bits(answer, delta.rows.len()),
        )
    }

    /// Tells of watched objects; answers the classes that are stale, as [`Synced::stale`].
    ///
    /// # Errors
    /// See above.
    pub fn update_objects(&mut self, full: bool, changes: &[Change<'_>]) -> Result<Vec<u32>, PluginError> {
        self.call_checked(
            |world, store| {
                world.objects.as_ref().ok_or_else(|| missing("objects"))?.call_update(store, full, changes)
            },
            |world, answer| check::stale(answer, &world.classes),
        )
    }

    /// Why the pod may not be tried, where it may not.
    ///
    /// # Errors
    /// See above.
    pub fn pre_enqueue(&mut self, pod: &[u8]) -> Result<Option<String>, PluginError> {
        let answer = self.call(|world, store| {
            world.queue.as_ref().ok_or_else(|| missing("queue"))?.call_pre_enqueue(store, pod)
        })?;
        Ok(answer.map(check::words))
    }

    /// Where the pod stands in the queue.
    ///
    /// # Errors
    /// See above.
    pub fn sort_key(&mut self, pod: &[u8]) -> Result<Vec<i64>, PluginError> {
        self.call_checked(
            |world, store| world.queue.as_ref().ok_or_else(|| missing("queue"))?.call_sort_key(store, pod),
            |_, key| match key.len() {
                0..=check::MAX_KEY => Ok(key),
                long => Err(PluginError::bad_output(format!(
                    "a sort key of {long} numbers, more than {}",
                    check::MAX_KEY
                ))),
            },
        )
    }
}
