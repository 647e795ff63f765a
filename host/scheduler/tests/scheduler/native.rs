//! The built-in plugins without WebAssembly, behind the same traits.

use orlop_scheduler::framework::{
    Binder, CandidatePods, Decision, Delta, Descriptor, Explanation, ObjectChange, Placement, PluginError,
    PluginFactory, Prepared, Reason, Rows, SchedulerPlugin, Stale, Synced, Verdict,
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

fn builtins() -> [(&'static str, Make); 20] {
    [
        builtin!("scheduling-gates", orlop_plugin_scheduling_gates::SchedulingGates),
        builtin!("priority-sort", orlop_plugin_priority_sort::PrioritySort),
        builtin!("node-unschedulable", orlop_plugin_node_unschedulable::NodeUnschedulable),
        builtin!("node-name", PerNode<orlop_plugin_node_name::NodeName>),
        builtin!("taint-toleration", orlop_plugin_taint_toleration::TaintToleration),
        builtin!("node-affinity", orlop_plugin_node_affinity::NodeAffinity),
        builtin!("node-ports", PerNode<orlop_plugin_node_ports::NodePorts>),
        builtin!("node-resources-fit", orlop_plugin_node_resources_fit::NodeResourcesFit),
        builtin!("volume-restrictions", orlop_plugin_volume_restrictions::VolumeRestrictions),
        builtin!("node-volume-limits", orlop_plugin_node_volume_limits::NodeVolumeLimits),
        builtin!("volume-binding", orlop_plugin_volume_binding::VolumeBinding),
        builtin!("volume-zone", orlop_plugin_volume_zone::VolumeZone),
        builtin!("pod-topology-spread", orlop_plugin_pod_topology_spread::PodTopologySpread),
        builtin!("inter-pod-affinity", orlop_plugin_inter_pod_affinity::InterPodAffinity),
        builtin!("dynamic-resources", orlop_plugin_dynamic_resources::DynamicResources),
        builtin!("default-preemption", orlop_plugin_default_preemption::DefaultPreemption),
        builtin!(
            "node-resources-balanced-allocation",
            orlop_plugin_node_resources_balanced_allocation::NodeResourcesBalancedAllocation
        ),
        builtin!("image-locality", orlop_plugin_image_locality::ImageLocality),
        builtin!("default-binder", orlop_plugin_default_binder::DefaultBinder),
        builtin!("node-declared-features", orlop_plugin_node_declared_features::NodeDeclaredFeatures),
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

fn refused(message: String) -> PluginError {
    PluginError::Refused { message }
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

fn stale(stale: sdk::Stale) -> Stale {
    Stale::from_wire(stale.into_wire())
}

fn placement(p: &Placement) -> sdk::Placement {
    sdk::Placement {
        pod: p.pod,
        namespace: p.namespace.to_string(),
        name: p.name.to_string(),
        uid: p.uid.to_string(),
        fields: json(&p.fields),
        slot: p.slot,
        node: p.node.to_string(),
    }
}

fn decisions(decisions: Vec<sdk::Decision>) -> Vec<Decision> {
    decisions.into_iter().map(|d| Decision { pod: d.pod, rejected: d.rejected }).collect()
}

fn verdict(verdict: sdk::Verdict) -> Verdict {
    match verdict {
        sdk::Verdict::Allow => Verdict::Allow,
        sdk::Verdict::Wait { timeout, message } => Verdict::Wait { timeout, message },
        sdk::Verdict::Reject { message } => Verdict::Reject { message },
    }
}

fn encode(writes: &[sdk::Write]) -> Vec<Vec<u8>> {
    writes.iter().map(|write| serde_json::to_vec(write).unwrap()).collect()
}

fn candidates(pods: &CandidatePods) -> sdk::CandidatePods {
    sdk::CandidatePods {
        offsets: pods.offsets.clone(),
        priorities: pods.priorities.clone(),
        started: pods.started.clone(),
        violating: pods.violating.clone(),
        terminating: pods.terminating.clone(),
    }
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
        Ok(Synced { checksum: synced.checksum, stale: stale(synced.stale) })
    }

    fn prepare(&mut self, class: u32, pod: &[u8]) -> Result<Prepared, PluginError> {
        let pod: Value = serde_json::from_slice(pod).unwrap();
        let prepared =
            self.plugin.prepare(class, &pod).map_err(|message| PluginError::Refused { message })?;
        Ok(Prepared {
            skip_filter: prepared.skip_filter,
            skip_score: prepared.skip_score,
            skip_placing: prepared.skip_placing,
            reads_objects: prepared.reads_objects,
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

    fn overlay(&mut self, class: u32, delta: &Delta) -> Result<Vec<u64>, PluginError> {
        Ok(self.plugin.overlay(class, convert(delta)))
    }

    fn objects(&mut self, full: bool, changes: &[ObjectChange]) -> Result<Stale, PluginError> {
        let change = |c: &ObjectChange| sdk::ObjectChange {
            watch: c.watch,
            namespace: c.namespace.to_string(),
            name: c.name.to_string(),
            object: (!c.object.is_empty()).then(|| json(&c.object)),
        };
        Ok(stale(self.plugin.objects(full, changes.iter().map(change).collect())))
    }

    fn pre_enqueue(&mut self, pod: &[u8]) -> Result<Option<String>, PluginError> {
        Ok(self.plugin.pre_enqueue(&json(pod)))
    }

    fn sort_key(&mut self, pod: &[u8]) -> Result<Vec<i64>, PluginError> {
        Ok(self.plugin.sort_key(&json(pod)))
    }

    fn reserve(&mut self, p: &Placement) -> Result<(), PluginError> {
        self.plugin.reserve(placement(p)).map_err(refused)
    }

    fn unreserve(&mut self, p: &Placement) -> Result<Vec<Decision>, PluginError> {
        Ok(decisions(self.plugin.unreserve(placement(p))))
    }

    fn permit(&mut self, p: &Placement) -> Result<(Verdict, Vec<Decision>), PluginError> {
        let (answer, others) = self.plugin.permit(placement(p));
        Ok((verdict(answer), decisions(others)))
    }

    fn pre_bind(&mut self, p: &Placement) -> Result<(Verdict, Vec<Vec<u8>>), PluginError> {
        let (answer, writes) = self.plugin.pre_bind(placement(p));
        Ok((verdict(answer), encode(&writes)))
    }

    fn bind(&mut self, p: &Placement) -> Result<Binder, PluginError> {
        Ok(match self.plugin.bind(placement(p)) {
            sdk::Binder::Host => Binder::Host,
            sdk::Binder::Next => Binder::Next,
            sdk::Binder::Writes(writes) => Binder::Writes(encode(&writes)),
        })
    }

    fn post_bind(&mut self, p: &Placement) -> Result<(), PluginError> {
        self.plugin.post_bind(placement(p));
        Ok(())
    }

    fn eligible(
        &mut self,
        pod: &[u8],
        nodes: u32,
        terminating: bool,
    ) -> Result<Result<u32, String>, PluginError> {
        Ok(self.plugin.eligible(&json(pod), nodes, terminating))
    }

    fn victims(&mut self, pod: &[u8], pods: &CandidatePods) -> Result<Vec<u32>, PluginError> {
        Ok(self.plugin.victims(&json(pod), &candidates(pods)))
    }

    fn choose(&mut self, pod: &[u8], victims: &CandidatePods) -> Result<u32, PluginError> {
        Ok(self.plugin.choose(&json(pod), &candidates(victims)))
    }
}
