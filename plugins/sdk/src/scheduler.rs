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

mod mirror;
mod per_node;
pub mod testing;

pub use mirror::{Mirror, Taint, pack, set_bit, test_bit, tolerates};
pub use per_node::{Node, NodePlugin, PerNode, Preparation};

use serde_json::Value;

/// Numbers of columns, as in `wit/scheduler-1/scheduler.wit`.
pub mod column {
    /// Milli-CPU.
    pub const ALLOCATABLE_CPU: u32 = 1;
    /// Bytes.
    pub const ALLOCATABLE_MEMORY: u32 = 2;
    /// Bytes.
    pub const ALLOCATABLE_EPHEMERAL: u32 = 3;
    /// Pods.
    pub const ALLOCATABLE_PODS: u32 = 4;
    /// Milli-CPU.
    pub const REQUESTED_CPU: u32 = 5;
    /// Bytes.
    pub const REQUESTED_MEMORY: u32 = 6;
    /// Bytes.
    pub const REQUESTED_EPHEMERAL: u32 = 7;
    /// Pods.
    pub const REQUESTED_PODS: u32 = 8;
    /// Milli-CPU, containers without a request counted with 100.
    pub const NONZERO_CPU: u32 = 9;
    /// Bytes, containers without a request counted with 200 MiB.
    pub const NONZERO_MEMORY: u32 = 10;
    /// Entry of [`super::dictionary::NAMES`].
    pub const NAME: u32 = 32;
    /// 1 where unschedulable.
    pub const UNSCHEDULABLE: u32 = 33;
    /// Entry of [`super::dictionary::TAINT_SETS`].
    pub const TAINTS: u32 = 34;
    /// Entry of [`super::dictionary::ZONES`].
    pub const ZONE: u32 = 35;
    /// Entries of [`super::dictionary::LABELS`].
    pub const LABELS: u32 = 64;
    /// Entries of [`super::dictionary::IMAGES`].
    pub const IMAGES: u32 = 65;
    /// Bytes, in the order of [`IMAGES`].
    pub const IMAGE_SIZES: u32 = 66;
    /// Packed: IP, protocol, port.
    pub const HOST_PORTS: u32 = 67;
    /// Allocatable units of extended resource 0; requested units follow, then the next resource.
    pub const EXTENDED: u32 = 256;
}

/// Numbers of dictionaries, as in the WIT.
pub mod dictionary {
    /// Node names.
    pub const NAMES: u32 = 1;
    /// `key=value`
    pub const LABELS: u32 = 2;
    /// JSON arrays of taints.
    pub const TAINT_SETS: u32 = 3;
    /// `region/zone`
    pub const ZONES: u32 = 4;
    /// Image names.
    pub const IMAGES: u32 = 5;
    /// Host IPs.
    pub const HOST_IPS: u32 = 6;
    /// Names of extended resources.
    pub const EXTENDED: u32 = 7;
}

/// New entries of a dictionary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DictionaryDelta {
    /// Its number.
    pub dictionary: u32,
    /// Number of the first entry.
    pub first: u32,
    /// The entries.
    pub entries: Vec<String>,
}

/// Cells of a column of lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListCells {
    /// One more than rows.
    pub offsets: Vec<u32>,
    /// The cells, one after the other.
    pub values: Vec<u64>,
}

/// What changed in the node table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Start from nothing.
    pub full: bool,
    /// Number of slots from now on.
    pub slots: u32,
    /// Changed slots, ascending.
    pub rows: Vec<u32>,
    /// Bit i: `rows[i]` holds a node.
    pub live: Vec<u64>,
    /// New dictionary entries.
    pub dictionaries: Vec<DictionaryDelta>,
    /// Columns of s64 by number, one value per row.
    pub s64_columns: Vec<(u32, Vec<i64>)>,
    /// Columns of u32 by number, one value per row.
    pub u32_columns: Vec<(u32, Vec<u32>)>,
    /// Columns of lists by number.
    pub list_columns: Vec<(u32, ListCells)>,
}

/// What `sync` answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Synced {
    /// [`Mirror::checksum`], or 0.
    pub checksum: u64,
    /// Whether answers for other rows than those of the delta may have changed.
    pub stale: bool,
}

/// Why a node, or all of them, are rejected.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reason {
    /// What the user reads after the number of nodes.
    pub text: String,
    /// Whether evicting pods cannot help.
    pub unresolvable: bool,
}

impl Reason {
    /// Evicting pods could help.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), unresolvable: false }
    }

    /// Evicting pods cannot help.
    pub fn unresolvable(text: impl Into<String>) -> Self {
        Self { text: text.into(), unresolvable: true }
    }
}

/// What `prepare` answers. The default asks the plugin about everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prepared {
    /// Every node passes.
    pub skip_filter: bool,
    /// The score is 0 everywhere.
    pub skip_score: bool,
    /// No node fits, whatever its state.
    pub rejected: Option<Reason>,
}

/// Collects the reasons of several rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Each reason once.
    pub reasons: Vec<Reason>,
    /// One more than rows.
    pub offsets: Vec<u32>,
    /// Indexes into `reasons`.
    pub refs: Vec<u32>,
}

impl Default for Explanation {
    fn default() -> Self {
        Self { reasons: Vec::new(), offsets: vec![0], refs: Vec::new() }
    }
}

impl Explanation {
    /// Adds a reason to the row that is being explained.
    pub fn because(&mut self, reason: Reason) {
        let at = self.reasons.iter().position(|r| *r == reason).unwrap_or_else(|| {
            self.reasons.push(reason);
            self.reasons.len() - 1
        });
        self.refs.push(u32::try_from(at).unwrap_or(0));
    }

    /// Ends the row.
    pub fn end_row(&mut self) {
        self.offsets.push(u32::try_from(self.refs.len()).unwrap_or(u32::MAX));
    }
}

/// The rows of a question: those named, or all slots where none is.
#[derive(Clone, Copy, Debug)]
pub enum Asked<'a> {
    /// Slots from 0 to this.
    All(usize),
    /// These slots.
    Rows(&'a [u32]),
}

impl<'a> Asked<'a> {
    /// As the host asks: an empty list means all.
    #[must_use]
    pub const fn new(rows: &'a [u32], slots: usize) -> Self {
        if rows.is_empty() { Self::All(slots) } else { Self::Rows(rows) }
    }

    /// How many answers are due.
    #[must_use]
    pub const fn len(&self) -> usize {
        match self {
            Self::All(slots) => *slots,
            Self::Rows(rows) => rows.len(),
        }
    }

    /// Whether none is due.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One answer per row.
    pub fn map<T>(&self, mut f: impl FnMut(usize) -> T) -> Vec<T> {
        match self {
            Self::All(slots) => (0..*slots).map(f).collect(),
            Self::Rows(rows) => rows.iter().map(|slot| f(*slot as usize)).collect(),
        }
    }

    /// One bit per row.
    pub fn mask(&self, mut f: impl FnMut(usize) -> bool) -> Vec<u64> {
        match self {
            Self::All(slots) => pack(*slots, f),
            Self::Rows(rows) => pack(rows.len(), |i| rows.get(i).is_some_and(|slot| f(*slot as usize))),
        }
    }
}

/// The batch interface: `orlop:scheduler/plugin` in Rust's terms. One value per instance.
pub trait BatchPlugin: 'static {
    /// Reads the arguments: a JSON object.
    ///
    /// # Errors
    /// A message for the user; the arguments are refused.
    fn new(args: &[u8]) -> Result<Self, String>
    where
        Self: Sized;

    /// Checks what can be checked without input.
    ///
    /// # Errors
    /// A message for the user; the plugin is not activated.
    fn self_test(&self) -> Result<(), String> {
        Ok(())
    }

    /// Brings the mirror up to date.
    fn sync(&mut self, delta: Delta) -> Synced;

    /// Introduces a class.
    ///
    /// # Errors
    /// A message for the user; pods of the class stay Pending with it.
    fn prepare(&mut self, class: u32, pod: &Value) -> Result<Prepared, String>;

    /// Forgets a class.
    fn release(&mut self, class: u32);

    /// One bit per row asked for, or per slot where `rows` is empty.
    fn filter(&mut self, class: u32, rows: &[u32]) -> Vec<u64> {
        let _ = (class, rows);
        Vec::new()
    }

    /// 0 to 100 per row asked for, or per slot where `rows` is empty.
    fn score(&mut self, class: u32, rows: &[u32]) -> Vec<u8> {
        let _ = (class, rows);
        Vec::new()
    }

    /// As `score`, before the normalisation that the manifest names.
    fn score_raw(&mut self, class: u32, rows: &[u32]) -> Vec<i64> {
        let _ = (class, rows);
        Vec::new()
    }

    /// The plugin's own normalisation, 0 to 100 per slot.
    fn normalize(&mut self, class: u32, feasible: &[u64], raw: &[i64]) -> Vec<u8> {
        let _ = (class, feasible, raw);
        Vec::new()
    }

    /// Why `filter` rejected these rows.
    fn explain(&mut self, class: u32, rows: &[u32]) -> Explanation {
        let _ = class;
        let mut explanation = Explanation::default();
        rows.iter().for_each(|_| explanation.end_row());
        explanation
    }
}

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
        path: "../../wit/scheduler-1",
        inline: "package orlop:sdk-scheduler; world scheduler { export orlop:scheduler/plugin@1.0.0; }",
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
/// Expands to nothing but the manifest natively.
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
