//! Scheduler plugins, at two heights.
//!
//! Simple: implement [`NodePlugin`] and export it with
//! [`export_scheduler!`](crate::export_scheduler)`(per_node MyPlugin)`. You judge one pod and one
//! node; the SDK keeps the mirror, loops, packs and explains.
//!
//! ```
//! use orlop_sdk::scheduler::{Node, NodePlugin, Preparation, Reason};
//! use orlop_sdk::serde_json::Value;
//!
//! /// A pod that names a disk type fits only where the node's label says the same.
//! struct DiskType;
//!
//! impl NodePlugin for DiskType {
//!     type Prepared = String;
//!
//!     fn new(_args: &[u8]) -> Result<Self, String> {
//!         Ok(Self)
//!     }
//!
//!     fn prepare(&self, pod: &Value) -> Result<Preparation<String>, String> {
//!         let wanted = pod.pointer("/metadata/annotations/disk-type").and_then(Value::as_str);
//!         Ok(wanted.map_or(Preparation::Skip, |w| Preparation::Ask(w.to_owned())))
//!     }
//!
//!     fn filter(&self, wanted: &String, node: &Node<'_>) -> Result<(), Reason> {
//!         if node.label("disk-type") == Some(wanted) {
//!             return Ok(());
//!         }
//!         Err(Reason::unresolvable("node(s) didn't have the wanted disk type"))
//!     }
//! }
//! ```
//!
//! Fast: implement [`BatchPlugin`], which is the WIT in Rust's terms, over a [`Mirror`] of your own.
//! Both are tested natively: feed them [`Delta`]s by hand, or with [`testing`].

mod answer;
mod batch;
pub mod column;
mod delta;
pub mod dictionary;
mod mirror;
pub mod node_selector;
mod objects;
mod per_node;
mod placing;
pub mod testing;
mod topology;
pub mod volumes;

pub use crate::controller::Write;
pub use answer::{Asked, Explanation, Prepared, Reason};
pub use batch::BatchPlugin;
pub use delta::{Delta, DictionaryDelta, ListCells, Stale, Synced};
pub use mirror::{Mirror, Replaced, Taint, pack, set_bit, test_bit, tolerates};
pub use objects::{ObjectChange, Objects};
pub use per_node::{Node, NodePlugin, PerNode, Preparation};
pub use placing::{Binder, CandidatePods, Decision, Placement, Verdict};
pub use topology::{NO_DOMAIN, Topology, pod_changes};

#[cfg(target_family = "wasm")]
#[doc(hidden)]
#[allow(
    unsafe_code,
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated bindings"
)]
pub mod bindings {
    wit_bindgen::generate!({
        path: "../../wit/scheduler",
        inline: "package orlop:sdk-scheduler;
            world scheduler {
                export orlop:scheduler/plugin@2.0.0;
                export orlop:scheduler/overlay@2.0.0;
                export orlop:scheduler/objects@2.0.0;
                export orlop:scheduler/queue@2.0.0;
                export orlop:scheduler/placing@2.0.0;
                export orlop:scheduler/preemption@2.0.0;
            }",
        generate_all,
        pub_export_macro: true,
        default_bindings_module: "orlop_sdk::scheduler::bindings",
    });
}

#[cfg(target_family = "wasm")]
#[doc(hidden)]
pub mod glue;

/// Exports a type as the plugin, and embeds `manifest.json`: `export_scheduler!(T)` where `T`
/// implements [`BatchPlugin`](crate::scheduler::BatchPlugin), `export_scheduler!(per_node T)` where
/// it implements [`NodePlugin`](crate::scheduler::NodePlugin).
///
/// The plugin exports every interface of `orlop:scheduler/scheduler-full@2.0.0`; the host calls those
/// whose hooks the manifest declares. Expands to nothing but the manifest natively.
#[macro_export]
macro_rules! export_scheduler {
    (per_node $plugin:ident) => {
        $crate::export_scheduler!(@ $crate::scheduler::PerNode<super::$plugin>);
    };
    ($plugin:ident) => {
        $crate::export_scheduler!(@ super::$plugin);
    };
    (@ $plugin:ty) => {
        $crate::embed_manifest!();
        #[cfg(target_family = "wasm")]
        #[allow(unsafe_code, clippy::allow_attributes_without_reason, reason = "generated export glue")]
        mod orlop_export {
            type Exported = $crate::scheduler::glue::Glue<$plugin>;
            $crate::scheduler::bindings::export!(Exported with_types_in $crate::scheduler::bindings);
            $crate::lifecycle::bindings::export!(Exported with_types_in $crate::lifecycle::bindings);
        }
    };
}
