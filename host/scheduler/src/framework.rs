//! What the scheduler asks of a plugin. The traits belong to the scheduler; whoever joins them to
//! WebAssembly (or to native code, in tests) lives elsewhere.
//!
//! Order of calls, meaning and units are those of `wit/scheduler/scheduler.wit`. One thread owns
//! all plugins and calls them one after the other.

use crate::columns::{self, ColumnSet};
use serde::Deserialize;
use serde_json::Value;

/// Why a plugin gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// It trapped, or the runtime refused to go on. The instance is gone.
    #[error("plugin trapped: {message}")]
    Trap {
        /// What the runtime said.
        message: String,
    },
    /// It did not answer in time. The instance is gone.
    #[error("plugin missed its deadline")]
    Deadline,
    /// It asked for more memory than it may have. The instance is gone.
    #[error("plugin exceeded its memory limit")]
    MemoryLimit,
    /// Its answer makes no sense, such as a bit set of a wrong length. The instance is not trusted.
    #[error("plugin returned nonsense: {message}")]
    Nonsense {
        /// What was wrong with it.
        message: String,
    },
    /// It answered with an error of its own: bad arguments, or a pod that it cannot judge.
    #[error("{message}")]
    Refused {
        /// The plugin's words.
        message: String,
    },
}

/// How raw scores become 0 to 100.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Normalize {
    /// The plugin returns bytes.
    #[default]
    None,
    /// Scaled so that the highest among the feasible nodes is 100.
    Default,
    /// The same, then taken from 100.
    Reverse,
    /// The plugin's own.
    Custom,
}

/// Kinds of cluster events that may make a pod schedulable, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventSet(pub u32);

impl EventSet {
    /// No event.
    pub const NONE: Self = Self(0);
    /// A node appeared.
    pub const NODE_ADD: Self = Self(1);
    /// A node's allocatable resources changed.
    pub const NODE_ALLOCATABLE: Self = Self(1 << 1);
    /// A node's labels changed.
    pub const NODE_LABELS: Self = Self(1 << 2);
    /// A node's taints or `spec.unschedulable` changed.
    pub const NODE_TAINTS: Self = Self(1 << 3);
    /// A node's images changed.
    pub const NODE_IMAGES: Self = Self(1 << 4);
    /// A placed pod went, ended or shrank.
    pub const POD_DELETE: Self = Self(1 << 5);
    /// The waiting pod itself changed.
    pub const POD_UPDATE: Self = Self(1 << 6);
    /// The set of plugins or their configuration changed.
    pub const PROFILE: Self = Self(1 << 7);
    /// Every event.
    pub const ALL: Self = Self(u32::MAX);

    /// Both sets together.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether the sets share an event.
    #[must_use]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether the set is empty.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn by_name(name: &str) -> Option<Self> {
        Some(match name {
            "node/add" => Self::NODE_ADD,
            "node/update-allocatable" => Self::NODE_ALLOCATABLE,
            "node/update-labels" => Self::NODE_LABELS,
            "node/update-taints" => Self::NODE_TAINTS,
            "node/update-images" => Self::NODE_IMAGES,
            "pod/delete" => Self::POD_DELETE,
            "pod/update" => Self::POD_UPDATE,
            _ => return None,
        })
    }
}

/// What a plugin declares about itself.
#[derive(Clone, Debug)]
pub struct Descriptor {
    /// `NodeResourcesFit`
    pub name: String,
    /// Whether it filters.
    pub filter: bool,
    /// Whether it scores.
    pub score: bool,
    /// What it is sent of the node table.
    pub columns: ColumnSet,
    /// Paths into the pod.
    pub pod_fields: Vec<String>,
    /// How its scores become 0 to 100.
    pub normalize: Normalize,
    /// What may help a pod that its filter rejected.
    pub events: EventSet,
}

/// Why a manifest's `scheduler` object is refused.
#[derive(Debug, thiserror::Error)]
pub enum DescriptorError {
    /// Not the declared shape.
    #[error("the manifest's scheduler section is malformed")]
    Malformed(#[source] serde_json::Error),
    /// A name that this version does not know.
    #[error("the manifest names an unknown {what} `{name}`")]
    Unknown {
        /// `hook`, `column` or `event`
        what: &'static str,
        /// The name.
        name: String,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Section {
    hooks: Vec<String>,
    #[serde(default)]
    columns: Vec<String>,
    #[serde(default)]
    pod_fields: Vec<String>,
    /// Reserved for columns of single labels.
    #[serde(default, rename = "labelKeys")]
    _label_keys: Vec<String>,
    #[serde(default)]
    normalize: Normalize,
    events: Option<Vec<String>>,
}

impl Descriptor {
    /// Reads the `scheduler` object of a manifest.
    ///
    /// # Errors
    /// Where it is malformed or names what this version does not know.
    pub fn from_manifest(name: &str, section: &Value) -> Result<Self, DescriptorError> {
        let section = Section::deserialize(section).map_err(DescriptorError::Malformed)?;
        let unknown = |what, name: &str| DescriptorError::Unknown { what, name: name.to_owned() };
        let mut this = Self {
            name: name.to_owned(),
            filter: false,
            score: false,
            columns: ColumnSet::NONE,
            pod_fields: section.pod_fields,
            normalize: section.normalize,
            events: EventSet::ALL,
        };
        for hook in &section.hooks {
            match hook.as_str() {
                "filter" => this.filter = true,
                "score" => this.score = true,
                _ => return Err(unknown("hook", hook)),
            }
        }
        for column in &section.columns {
            let index = columns::by_name(column).ok_or_else(|| unknown("column", column))?;
            this.columns = this.columns.or(ColumnSet::one(index));
        }
        if let Some(events) = &section.events {
            this.events = EventSet::PROFILE;
            for event in events {
                let event = EventSet::by_name(event).ok_or_else(|| unknown("event", event))?;
                this.events = this.events.or(event);
            }
        }
        Ok(this)
    }
}

/// A column of numbers; `values` has one entry per row of the delta.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Column<T> {
    /// Number on the wire.
    pub column: u32,
    /// One per row.
    pub values: Vec<T>,
}

/// A column of lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListColumn {
    /// Number on the wire.
    pub column: u32,
    /// One more than there are rows.
    pub offsets: Vec<u32>,
    /// The cells, one after the other.
    pub values: Vec<u64>,
}

/// New entries of a dictionary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DictionaryDelta {
    /// Number on the wire.
    pub dictionary: u32,
    /// Number of the first entry.
    pub first: u32,
    /// The entries.
    pub entries: Vec<String>,
}

/// What changed since the plugin was last told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// The plugin starts from nothing.
    pub full: bool,
    /// Number of slots from now on.
    pub slots: u32,
    /// Changed slots, strictly ascending.
    pub rows: Vec<u32>,
    /// Bit i: `rows[i]` holds a node.
    pub live: Vec<u64>,
    /// New entries.
    pub dictionaries: Vec<DictionaryDelta>,
    /// Columns of s64.
    pub s64_columns: Vec<Column<i64>>,
    /// Columns of u32.
    pub u32_columns: Vec<Column<u32>>,
    /// Columns of lists.
    pub list_columns: Vec<ListColumn>,
}

/// What `sync` answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Synced {
    /// Of the mirror; 0 where the plugin keeps none.
    pub checksum: u64,
    /// Whether answers may have changed for rows that are not in the delta.
    pub stale: bool,
}

/// What `prepare` answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prepared {
    /// Every node passes.
    pub skip_filter: bool,
    /// The score is 0 everywhere.
    pub skip_score: bool,
    /// No node fits, whatever its state.
    pub rejected: Option<Reason>,
}

/// Why a node, or all of them, are rejected.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reason {
    /// `Insufficient cpu`
    pub text: String,
    /// Evicting pods cannot help (Kubernetes' UnschedulableAndUnresolvable).
    pub unresolvable: bool,
}

/// Reasons of several rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explanation {
    /// Each reason once.
    pub reasons: Vec<Reason>,
    /// One more than rows.
    pub offsets: Vec<u32>,
    /// Indexes into `reasons`.
    pub refs: Vec<u32>,
}

/// Which rows a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows<'a> {
    /// All slots; the answer is by slot.
    All,
    /// These slots; the answer is by position.
    Some(&'a [u32]),
}

/// A scheduler plugin, configured. After an error other than `Refused` the scheduler calls
/// [`SchedulerPlugin::reset`] before anything else, then sends a full delta.
pub trait SchedulerPlugin: Send {
    /// What it declared; never changes.
    fn descriptor(&self) -> &Descriptor;

    /// Whether pods wait while its filter fails; else every node passes meanwhile.
    fn required(&self) -> bool {
        true
    }

    /// Starts over with a fresh instance, with the same arguments.
    fn reset(&mut self) -> Result<(), PluginError>;

    /// Brings the mirror up to date.
    fn sync(&mut self, delta: &Delta) -> Result<Synced, PluginError>;

    /// Introduces a class; `pod` is JSON with the declared fields.
    fn prepare(&mut self, class: u32, pod: &[u8]) -> Result<Prepared, PluginError>;

    /// Forgets a class.
    fn release(&mut self, class: u32) -> Result<(), PluginError>;

    /// Which rows fit, as a packed bit set.
    fn filter(&mut self, class: u32, rows: Rows<'_>) -> Result<Vec<u64>, PluginError>;

    /// 0 to 100 for each row; only with [`Normalize::None`].
    fn score(&mut self, class: u32, rows: Rows<'_>) -> Result<Vec<u8>, PluginError>;

    /// A raw number for each row; only with another [`Normalize`].
    fn score_raw(&mut self, class: u32, rows: Rows<'_>) -> Result<Vec<i64>, PluginError>;

    /// 0 to 100 for each slot; only with [`Normalize::Custom`].
    fn normalize(&mut self, class: u32, feasible: &[u64], raw: &[i64]) -> Result<Vec<u8>, PluginError>;

    /// Why the filter rejected these rows.
    fn explain(&mut self, class: u32, rows: &[u32]) -> Result<Explanation, PluginError>;
}

/// Where plugins come from.
pub trait PluginFactory: Send + Sync + 'static {
    /// The names that [`PluginFactory::open`] knows.
    fn names(&self) -> Vec<String>;

    /// A configured plugin. `args` is a JSON object.
    ///
    /// # Errors
    /// Where the plugin is unknown, cannot be started, or refuses its arguments.
    fn open(&self, name: &str, args: &Value) -> Result<Box<dyn SchedulerPlugin>, PluginError>;
}
