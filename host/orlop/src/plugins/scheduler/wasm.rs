//! One scheduler plugin in WebAssembly, behind the scheduler's trait.
//!
//! An answer of a wrong length or range is a failure like a trap: it is counted, told to the user, and
//! ends the instance. Only answers about pods clear the record of a plugin that failed: one that starts
//! and mirrors well but traps when it is asked must not look healthy in between.

use orlop_plugin::scheduler as wit;
use orlop_plugin::scheduler::{SchedulerWorld, prepared};
use orlop_plugin::{Instance, Plugin};
use orlop_scheduler::framework::{
    Delta, Descriptor, Explanation, PluginError, Prepared, Reason, Rows, SchedulerPlugin, Stale, Synced,
};

/// Is told how each call ended.
pub(crate) type Observe = Box<dyn Fn(Result<(), &orlop_plugin::PluginError>) + Send>;

/// A linked plugin and its one instance.
pub(crate) struct WasmPlugin {
    descriptor: Descriptor,
    plugin: Plugin<SchedulerWorld>,
    instance: Option<Instance<SchedulerWorld>>,
    /// Of the node table, as of the last `sync`.
    slots: usize,
    required: bool,
    observe: Observe,
}

/// A failure in the scheduler's terms.
pub(crate) fn convert_error(error: &orlop_plugin::PluginError) -> PluginError {
    use orlop_plugin::PluginError as E;
    match error {
        E::Deadline { .. } => PluginError::Deadline,
        E::MemoryLimit { .. } => PluginError::MemoryLimit,
        E::BadOutput { message } => PluginError::Nonsense { message: message.clone() },
        E::Trap { message } => PluginError::Trap { message: message.clone() },
        E::Gone => PluginError::Trap { message: error.to_string() },
        _ => PluginError::Refused { message: error.to_string() },
    }
}

impl WasmPlugin {
    /// Starts an instance.
    ///
    /// # Errors
    /// Where the manifest says what this scheduler does not know, or the instance does not start.
    pub(crate) fn new(
        plugin: Plugin<SchedulerWorld>,
        required: bool,
        observe: Observe,
    ) -> Result<Self, PluginError> {
        let refused = |message: String| PluginError::Refused { message };
        let manifest = plugin.manifest();
        let section = serde_json::to_value(&manifest.scheduler).map_err(|e| refused(e.to_string()))?;
        let descriptor =
            Descriptor::from_manifest(&manifest.name, &section).map_err(|e| refused(e.to_string()))?;
        let instance = plugin.instantiate().map_err(|e| convert_error(&e))?;
        Ok(Self { descriptor, plugin, instance: Some(instance), slots: 0, required, observe })
    }

    fn call<R>(
        &mut self,
        f: impl FnOnce(&mut Instance<SchedulerWorld>) -> Result<R, orlop_plugin::PluginError>,
    ) -> Result<R, PluginError> {
        let Some(instance) = &mut self.instance else {
            return Err(PluginError::Trap { message: "the instance failed before".to_owned() });
        };
        match f(instance) {
            Ok(answer) => Ok(answer),
            Err(error) => {
                // Its memory goes at once, not when it is needed again.
                self.instance = None;
                (self.observe)(Err(&error));
                Err(convert_error(&error))
            }
        }
    }

    /// As [`Self::call`], for an answer about pods: a good one clears the record.
    fn answer<R>(
        &mut self,
        f: impl FnOnce(&mut Instance<SchedulerWorld>) -> Result<R, orlop_plugin::PluginError>,
    ) -> Result<R, PluginError> {
        let answer = self.call(f)?;
        (self.observe)(Ok(()));
        Ok(answer)
    }

    fn asked(&self, asked: Rows<'_>) -> usize {
        match asked {
            Rows::All => self.slots,
            Rows::Some(rows) => rows.len(),
        }
    }
}

fn nonsense(message: String) -> orlop_plugin::PluginError {
    orlop_plugin::PluginError::BadOutput { message }
}

fn check_length<T>(answer: Vec<T>, wanted: usize, what: &str) -> Result<Vec<T>, orlop_plugin::PluginError> {
    if answer.len() == wanted {
        return Ok(answer);
    }
    Err(nonsense(format!("{} {what} where {wanted} are due", answer.len())))
}

fn check_scores(answer: Vec<u8>, wanted: usize) -> Result<Vec<u8>, orlop_plugin::PluginError> {
    let answer = check_length(answer, wanted, "scores")?;
    match answer.iter().find(|score| **score > 100) {
        Some(score) => Err(nonsense(format!("a score of {score}, above 100"))),
        None => Ok(answer),
    }
}

fn rows(rows: Rows<'_>) -> &[u32] {
    match rows {
        Rows::All => &[],
        Rows::Some(rows) => rows,
    }
}

fn convert_delta(delta: &Delta) -> wit::Delta {
    let dictionary = |d: &orlop_scheduler::framework::DictionaryDelta| wit::Dictionary {
        dictionary: d.dictionary,
        first: d.first,
        entries: d.entries.clone(),
    };
    let list = |c: &orlop_scheduler::framework::ListColumn| wit::ListColumn {
        column: c.column,
        offsets: c.offsets.clone(),
        values: c.values.clone(),
    };
    wit::Delta {
        full: delta.full,
        slots: delta.slots,
        rows: delta.rows.clone(),
        live: delta.live.clone(),
        dictionaries: delta.dictionaries.iter().map(dictionary).collect(),
        s64_columns: delta
            .s64_columns
            .iter()
            .map(|c| wit::S64Column { column: c.column, values: c.values.clone() })
            .collect(),
        u32_columns: delta
            .u32_columns
            .iter()
            .map(|c| wit::U32Column { column: c.column, values: c.values.clone() })
            .collect(),
        list_columns: delta.list_columns.iter().map(list).collect(),
    }
}

impl SchedulerPlugin for WasmPlugin {
    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    fn required(&self) -> bool {
        self.required
    }

    fn reset(&mut self) -> Result<(), PluginError> {
        self.instance = None;
        match self.plugin.instantiate() {
            Ok(instance) => {
                self.instance = Some(instance);
                Ok(())
            }
            Err(error) => {
                (self.observe)(Err(&error));
                Err(convert_error(&error))
            }
        }
    }

    fn sync(&mut self, delta: &Delta) -> Result<Synced, PluginError> {
        let delta = convert_delta(delta);
        let synced = self.call(|i| i.sync(&delta))?;
        self.slots = delta.slots as usize;
        Ok(Synced {
            checksum: synced.checksum,
            stale: if synced.stale == 0 { Stale::Nothing } else { Stale::Everything },
        })
    }

    fn prepare(&mut self, class: u32, pod: &[u8]) -> Result<Prepared, PluginError> {
        let answer = self.call(|i| i.prepare(class, pod))?;
        let answer = answer.map_err(|message| PluginError::Refused { message })?;
        let has = |flag: u32| answer.flags & flag != 0;
        if has(prepared::SKIP_FILTER) || has(prepared::REJECTED) {
            (self.observe)(Ok(()));
        }
        Ok(Prepared {
            skip_filter: has(prepared::SKIP_FILTER),
            skip_score: has(prepared::SKIP_SCORE),
            skip_placing: true,
            reads_objects: false,
            rejected: has(prepared::REJECTED)
                .then(|| Reason { unresolvable: has(prepared::UNRESOLVABLE), text: answer.message }),
        })
    }

    fn release(&mut self, class: u32) -> Result<(), PluginError> {
        self.call(|i| i.release(class))
    }

    fn filter(&mut self, class: u32, asked: Rows<'_>) -> Result<Vec<u64>, PluginError> {
        let words = self.asked(asked).div_ceil(64);
        self.answer(|i| check_length(i.filter(class, rows(asked))?, words, "words of a bit set"))
    }

    fn score(&mut self, class: u32, asked: Rows<'_>) -> Result<Vec<u8>, PluginError> {
        let due = self.asked(asked);
        self.answer(|i| check_scores(i.score(class, rows(asked))?, due))
    }

    fn score_raw(&mut self, class: u32, asked: Rows<'_>) -> Result<Vec<i64>, PluginError> {
        let due = self.asked(asked);
        self.answer(|i| check_length(i.score_raw(class, rows(asked))?, due, "scores"))
    }

    fn normalize(&mut self, class: u32, feasible: &[u64], raw: &[i64]) -> Result<Vec<u8>, PluginError> {
        self.answer(|i| check_scores(i.normalize(class, feasible, raw)?, raw.len()))
    }

    fn explain(&mut self, class: u32, rows: &[u32]) -> Result<Explanation, PluginError> {
        let answer = self.answer(|i| i.explain(class, rows))?;
        let reason = |r: wit::Reason| Reason { text: r.text, unresolvable: r.code == 1 };
        Ok(Explanation {
            reasons: answer.reasons.into_iter().map(reason).collect(),
            offsets: answer.offsets,
            refs: answer.refs,
        })
    }
}
