//! What a scheduler plugin exports: one major's `plugin`, and of 2.0 whichever optional interfaces it has.

use crate::compile::chain;
use crate::error::PluginError;
use crate::instance::{HostState, Store, World};
use crate::manifest::{Kind, Manifest, WorldRef};
use std::collections::HashSet;
use wasmtime::component::InstancePre;

pub(super) mod v1 {
    #![allow(missing_docs, unreachable_pub, dead_code, reason = "generated")]
    wasmtime::component::bindgen!({
        path: "../../wit/scheduler-1",
        world: "scheduler",
        ownership: Borrowing { duplicate_if_necessary: false },
    });
}

pub(super) mod v2 {
    #![allow(missing_docs, unreachable_pub, dead_code, reason = "generated")]
    wasmtime::component::bindgen!({
        path: "../../wit/scheduler",
        world: "scheduler-full",
        ownership: Borrowing { duplicate_if_necessary: false },
    });
}

use v1::exports::orlop::scheduler::plugin as plugin_v1;
use v2::exports::orlop::scheduler::{objects, overlay, placing, plugin, preemption, queue};

const PLUGIN_1: &str = "orlop:scheduler/plugin@1.0.0";
const PLUGIN_2: &str = "orlop:scheduler/plugin@2.0.0";

/// The interface that every plugin exports, in the plugin's major.
pub(super) enum PluginExports {
    V1(plugin_v1::Guest),
    V2(plugin::Guest),
}

/// World of scheduler plugins of every major that is served.
pub struct SchedulerWorld {
    pub(super) plugin: PluginExports,
    pub(super) overlay: Option<overlay::Guest>,
    pub(super) objects: Option<objects::Guest>,
    pub(super) queue: Option<queue::Guest>,
    pub(super) placing: Option<placing::Guest>,
    pub(super) preemption: Option<preemption::Guest>,
    /// Of the node table, as of the last `sync`.
    pub(super) slots: usize,
    /// Classes that are prepared and not released.
    pub(super) classes: HashSet<u32>,
    /// Whether raw scores are scaled by the host, which needs them not to be negative.
    pub(super) scaled: bool,
}

fn incompatible(message: String) -> PluginError {
    PluginError::Incompatible { message }
}

fn exports<T>(pre: &InstancePre<T>, interface: &str) -> bool {
    pre.component().get_export_index(None, interface).is_some()
}

/// Optional interfaces, each with its name, whether it is there in full, and the part of the manifest that asks for it.
fn optional(
    pre: &InstancePre<HostState>,
    manifest: &Manifest,
) -> [(&'static str, wasmtime::Result<()>, Option<String>); 5] {
    let section = manifest.scheduler.as_ref();
    let hook = |names: &[&str]| {
        let hooks = section.map(|s| s.hooks.as_slice()).unwrap_or_default();
        let hook = hooks.iter().find(|hook| names.contains(&hook.as_str()))?;
        Some(format!("hook `{hook}`"))
    };
    let watches = section.filter(|s| !s.watches.is_empty()).map(|_| "`watches`".to_owned());
    [
        ("overlay", overlay::GuestIndices::new(pre).map(drop), hook(&["overlay"])),
        ("objects", objects::GuestIndices::new(pre).map(drop), watches),
        ("queue", queue::GuestIndices::new(pre).map(drop), hook(&["pre-enqueue", "queue-sort"])),
        (
            "placing",
            placing::GuestIndices::new(pre).map(drop),
            hook(&["reserve", "permit", "pre-bind", "bind", "post-bind"]),
        ),
        ("preemption", preemption::GuestIndices::new(pre).map(drop), hook(&["post-filter"])),
    ]
}

impl World for SchedulerWorld {
    const KIND: Kind = Kind::Scheduler;

    fn check(pre: &InstancePre<HostState>, manifest: &Manifest) -> Result<(), PluginError> {
        let major = WorldRef::parse(&manifest.world).map_or(0, |world| world.version.0);
        let wanted = if major == 1 { PLUGIN_1 } else { PLUGIN_2 };
        if !exports(pre, wanted) {
            let message =
                format!("its manifest names world {}, but it does not export {wanted}", manifest.world);
            return Err(incompatible(message));
        }
        if major == 1 {
            return plugin_v1::GuestIndices::new(pre).map(drop).map_err(|e| incompatible(chain(&e)));
        }
        plugin::GuestIndices::new(pre).map_err(|e| incompatible(chain(&e)))?;
        for (interface, present, wanted_by) in optional(pre, manifest) {
            if let (Err(error), Some(by)) = (present, wanted_by) {
                let message = format!(
                    "its manifest declares {by}, which needs the interface orlop:scheduler/{interface}@2: {}",
                    chain(&error)
                );
                return Err(incompatible(message));
            }
        }
        Ok(())
    }

    fn new(
        store: &mut Store,
        instance: &wasmtime::component::Instance,
        manifest: &Manifest,
    ) -> wasmtime::Result<Self> {
        /// The exports of an optional interface, where they are there.
        macro_rules! find {
            ($pre:expr, $interface:ident) => {
                match $interface::GuestIndices::new(&$pre) {
                    Ok(found) => Some(found.load(&mut *store, instance)?),
                    Err(_) => None,
                }
            };
        }
        let pre = instance.instance_pre(&*store);
        let plugin = if exports(&pre, PLUGIN_2) {
            PluginExports::V2(plugin::GuestIndices::new(&pre)?.load(&mut *store, instance)?)
        } else {
            PluginExports::V1(plugin_v1::GuestIndices::new(&pre)?.load(&mut *store, instance)?)
        };
        let normalize = manifest.scheduler.as_ref().map(|s| s.normalize.as_str()).unwrap_or_default();
        Ok(Self {
            plugin,
            overlay: find!(pre, overlay),
            objects: find!(pre, objects),
            queue: find!(pre, queue),
            placing: find!(pre, placing),
            preemption: find!(pre, preemption),
            slots: 0,
            classes: HashSet::new(),
            scaled: matches!(normalize, "default" | "reverse"),
        })
    }
}
