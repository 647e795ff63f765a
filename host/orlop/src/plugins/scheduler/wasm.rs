//! One scheduler plugin in WebAssembly, behind the scheduler's trait.

use orlop_plugin::scheduler as wit;
use orlop_plugin::scheduler::{SchedulerWorld, prepared};
use orlop_plugin::{Instance, Plugin};
use orlop_scheduler::framework::{
    Delta, Descriptor, Explanation, PluginError, Prepared, Reason, Rows, SchedulerPlugin, Synced,
};

/// Is told how each call ended.
pub(crate) type Observe = Box<dyn Fn(Result<(), &orlop_plugin::PluginError>) + Send>;

/// A linked plugin and its one instance.
pub(crate) struct WasmPlugin {
    descriptor: Descriptor,
    plugin: Plugin<SchedulerWorld>,
    instance: Option<Instance<SchedulerWorld>>,
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
        Ok(Self { descriptor, plugin, instance: Some(instance), required, observe })
    }

    fn call<R>(
        &mut self,
        f: impl FnOnce(&mut Instance<SchedulerWorld>) -> Result<R, orlop_plugin::PluginError>,
    ) -> Result<R, PluginError> {
        let Some(instance) = &mut self.instance else {
            return Err(PluginError::Trap { message: "the instance failed before".to_owned() });
        };
        match f(instance) {
            Ok(answer) => {
                (self.observe)(Ok(()));
                Ok(answer)
            }
            Err(error) => {
                // Its memory goes at once, not when it is needed again.
                self.instance = None;
                (self.observe)(Err(&error));
                Err(convert_error(&error))
            }
        }
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
        Ok(Synced { checksum: synced.checksum, stale: synced.stale != 0 })
    }

    fn prepare(&mut self, class: u32, pod: &[u8]) -> Result<Prepared, PluginError> {
        let answer = self.call(|i| i.prepare(class, pod))?;
        let answer = answer.map_err(|message| PluginError::Refused { message })?;
        let has = |flag: u32| answer.flags & flag != 0;
        Ok(Prepared {
            skip_filter: has(prepared::SKIP_FILTER),
            skip_score: has(prepared::SKIP_SCORE),
            rejected: has(prepared::REJECTED)
                .then(|| Reason { unresolvable: has(prepared::UNRESOLVABLE), text: answer.message }),
        })
    }

    fn release(&mut self, class: u32) -> Result<(), PluginError> {
        self.call(|i| i.release(class))
    }

    fn filter(&mut self, class: u32, asked: Rows<'_>) -> Result<Vec<u64>, PluginError> {
        self.call(|i| i.filter(class, rows(asked)))
    }

    fn score(&mut self, class: u32, asked: Rows<'_>) -> Result<Vec<u8>, PluginError> {
        self.call(|i| i.score(class, rows(asked)))
    }

    fn score_raw(&mut self, class: u32, asked: Rows<'_>) -> Result<Vec<i64>, PluginError> {
        self.call(|i| i.score_raw(class, rows(asked)))
    }

    fn normalize(&mut self, class: u32, feasible: &[u64], raw: &[i64]) -> Result<Vec<u8>, PluginError> {
        self.call(|i| i.normalize(class, feasible, raw))
    }

    fn explain(&mut self, class: u32, rows: &[u32]) -> Result<Explanation, PluginError> {
        let answer = self.call(|i| i.explain(class, rows))?;
        let reason = |r: wit::Reason| Reason { text: r.text, unresolvable: r.code == 1 };
        Ok(Explanation {
            reasons: answer.reasons.into_iter().map(reason).collect(),
            offsets: answer.offsets,
            refs: answer.refs,
        })
    }
}
