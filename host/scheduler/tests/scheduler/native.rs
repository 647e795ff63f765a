//! The built-in plugins without WebAssembly, behind the same traits.

use orlop_scheduler::framework::{
    Delta, Descriptor, Explanation, PluginError, PluginFactory, Prepared, Reason, Rows, SchedulerPlugin,
    Stale, Synced,
};
use orlop_sdk::scheduler as sdk;
use orlop_sdk::scheduler::{BatchPlugin, PerNode};
use serde_json::Value;

type Make = fn(&[u8]) -> Result<Box<dyn BatchPlugin + Send>, String>;

fn make<P: BatchPlugin + Send>(args: &[u8]) -> Result<Box<dyn BatchPlugin + Send>, String> {
    Ok(Box::new(P::new(args)?))
}

macro_rules! builtin {
    ($folder:literal, $plugin:ty) => {
        (
            include_str!(concat!("../../../../plugins/scheduler/", $folder, "/manifest.json")),
            make::<$plugin> as Make,
        )
    };
}

fn builtins() -> [(&'static str, Make); 8] {
    [
        builtin!("node-unschedulable", PerNode<orlop_plugin_node_unschedulable::NodeUnschedulable>),
        builtin!("node-name", PerNode<orlop_plugin_node_name::NodeName>),
        builtin!("taint-toleration", orlop_plugin_taint_toleration::TaintToleration),
        builtin!("node-affinity", orlop_plugin_node_affinity::NodeAffinity),
        builtin!("node-ports", PerNode<orlop_plugin_node_ports::NodePorts>),
        builtin!("node-resources-fit", orlop_plugin_node_resources_fit::NodeResourcesFit),
        builtin!(
            "node-resources-balanced-allocation",
            orlop_plugin_node_resources_balanced_allocation::NodeResourcesBalancedAllocation
        ),
        builtin!("image-locality", orlop_plugin_image_locality::ImageLocality),
    ]
}

/// The built-in plugins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Builtin;

impl PluginFactory for Builtin {
    fn names(&self) -> Vec<String> {
        builtins().iter().map(|(manifest, _)| descriptor(manifest).name).collect()
    }

    fn open(&self, name: &str, args: &Value) -> Result<Box<dyn SchedulerPlugin>, PluginError> {
        let found = builtins().into_iter().find(|(manifest, _)| descriptor(manifest).name == name);
        let (manifest, make) = found.ok_or_else(|| PluginError::Refused { message: format!("no {name}") })?;
        let args = args.to_string().into_bytes();
        let plugin = make(&args).map_err(|message| PluginError::Refused { message })?;
        Ok(Box::new(Native { descriptor: descriptor(manifest), args, plugin, make }))
    }
}

fn descriptor(manifest: &str) -> Descriptor {
    let manifest: Value = serde_json::from_str(manifest).unwrap();
    Descriptor::from_manifest(manifest["name"].as_str().unwrap(), &manifest["scheduler"]).unwrap()
}

struct Native {
    descriptor: Descriptor,
    args: Vec<u8>,
    plugin: Box<dyn BatchPlugin + Send>,
    make: Make,
}

fn rows(rows: Rows<'_>) -> &[u32] {
    match rows {
        Rows::All => &[],
        Rows::Some(rows) => rows,
    }
}

fn reason(r: sdk::Reason) -> Reason {
    Reason { text: r.text, unresolvable: r.unresolvable }
}

/// The delta as the SDK sees it.
pub(crate) fn convert(delta: &Delta) -> sdk::Delta {
    let dictionary = |d: &orlop_scheduler::framework::DictionaryDelta| sdk::DictionaryDelta {
        dictionary: d.dictionary,
        first: d.first,
        entries: d.entries.clone(),
    };
    sdk::Delta {
        full: delta.full,
        slots: delta.slots,
        rows: delta.rows.clone(),
        live: delta.live.clone(),
        dictionaries: delta.dictionaries.iter().map(dictionary).collect(),
        s64_columns: delta.s64_columns.iter().map(|c| (c.column, c.values.clone())).collect(),
        u32_columns: delta.u32_columns.iter().map(|c| (c.column, c.values.clone())).collect(),
        list_columns: delta
            .list_columns
            .iter()
            .map(|c| (c.column, sdk::ListCells { offsets: c.offsets.clone(), values: c.values.clone() }))
            .collect(),
    }
}

impl SchedulerPlugin for Native {
    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    fn reset(&mut self) -> Result<(), PluginError> {
        self.plugin = (self.make)(&self.args).map_err(|message| PluginError::Refused { message })?;
        Ok(())
    }

    fn sync(&mut self, delta: &Delta) -> Result<Synced, PluginError> {
        let synced = self.plugin.sync(convert(delta));
        Ok(Synced {
            checksum: synced.checksum,
            stale: if synced.stale { Stale::Everything } else { Stale::Nothing },
        })
    }

    fn prepare(&mut self, class: u32, pod: &[u8]) -> Result<Prepared, PluginError> {
        let pod: Value = serde_json::from_slice(pod).unwrap();
        let prepared =
            self.plugin.prepare(class, &pod).map_err(|message| PluginError::Refused { message })?;
        Ok(Prepared {
            skip_filter: prepared.skip_filter,
            skip_score: prepared.skip_score,
            skip_placing: true,
            reads_objects: false,
            rejected: prepared.rejected.map(reason),
        })
    }

    fn release(&mut self, class: u32) -> Result<(), PluginError> {
        self.plugin.release(class);
        Ok(())
    }

    fn filter(&mut self, class: u32, asked: Rows<'_>) -> Result<Vec<u64>, PluginError> {
        Ok(self.plugin.filter(class, rows(asked)))
    }

    fn score(&mut self, class: u32, asked: Rows<'_>) -> Result<Vec<u8>, PluginError> {
        Ok(self.plugin.score(class, rows(asked)))
    }

    fn score_raw(&mut self, class: u32, asked: Rows<'_>) -> Result<Vec<i64>, PluginError> {
        Ok(self.plugin.score_raw(class, rows(asked)))
    }

    fn normalize(&mut self, class: u32, feasible: &[u64], raw: &[i64]) -> Result<Vec<u8>, PluginError> {
        Ok(self.plugin.normalize(class, feasible, raw))
    }

    fn explain(&mut self, class: u32, rows: &[u32]) -> Result<Explanation, PluginError> {
        let e = self.plugin.explain(class, rows);
        Ok(Explanation {
            reasons: e.reasons.into_iter().map(reason).collect(),
            offsets: e.offsets,
            refs: e.refs,
        })
    }
}
