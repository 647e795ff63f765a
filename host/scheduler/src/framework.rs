//! What the scheduler asks of a plugin. The traits belong to the scheduler; whoever joins them to
//! WebAssembly (or to native code, in tests) lives elsewhere.
//!
//! Order of calls, meaning and units are those of `wit/scheduler/scheduler.wit`. One thread owns
//! all plugins and calls them one after the other.

use crate::columns::{self, ColumnSet};
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

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
    /// A pod was placed, or what plugins read of a placed pod changed.
    pub const POD_ADD: Self = Self(1 << 8);
    /// A watched object changed.
    pub const OBJECTS: Self = Self(1 << 9);
    /// The features that a node declares changed.
    pub const NODE_FEATURES: Self = Self(1 << 10);
    /// A node went.
    pub const NODE_DELETE: Self = Self(1 << 11);
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
            "node/update-declared-features" => Self::NODE_FEATURES,
            "node/delete" => Self::NODE_DELETE,
            "pod/add" => Self::POD_ADD,
            "pod/delete" => Self::POD_DELETE,
            "objects" => Self::OBJECTS,
            "pod/update" => Self::POD_UPDATE,
            _ => return None,
        })
    }
}

/// The extension points that a plugin implements, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hooks(pub u32);

impl Hooks {
    /// PreFilter and Filter.
    pub const FILTER: Self = Self(1);
    /// PreScore and Score.
    pub const SCORE: Self = Self(1 << 1);
    /// Filters under other circumstances.
    pub const OVERLAY: Self = Self(1 << 2);
    /// PreEnqueue.
    pub const PRE_ENQUEUE: Self = Self(1 << 3);
    /// QueueSort.
    pub const QUEUE_SORT: Self = Self(1 << 4);
    /// Reserve and Unreserve.
    pub const RESERVE: Self = Self(1 << 5);
    /// Permit.
    pub const PERMIT: Self = Self(1 << 6);
    /// PreBind.
    pub const PRE_BIND: Self = Self(1 << 7);
    /// Bind.
    pub const BIND: Self = Self(1 << 8);
    /// PostBind.
    pub const POST_BIND: Self = Self(1 << 9);
    /// PostFilter, that is preemption.
    pub const POST_FILTER: Self = Self(1 << 10);

    /// Name in manifests, and bit.
    pub const TABLE: [(&'static str, Self); 11] = [
        ("filter", Self::FILTER),
        ("score", Self::SCORE),
        ("overlay", Self::OVERLAY),
        ("pre-enqueue", Self::PRE_ENQUEUE),
        ("queue-sort", Self::QUEUE_SORT),
        ("reserve", Self::RESERVE),
        ("permit", Self::PERMIT),
        ("pre-bind", Self::PRE_BIND),
        ("bind", Self::BIND),
        ("post-bind", Self::POST_BIND),
        ("post-filter", Self::POST_FILTER),
    ];

    /// Both sets together.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` is in the set.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether the sets share a hook.
    #[must_use]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// Objects that a plugin is sent.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Watch {
    /// `v1`, `storage.k8s.io/v1`
    pub api_version: String,
    /// Plural.
    pub resource: String,
    /// Only objects there.
    #[serde(default)]
    pub namespace: String,
    /// Only objects that it selects.
    #[serde(default)]
    pub label_selector: String,
    /// Paths into the objects; all of each object where empty.
    #[serde(default)]
    pub fields: Vec<String>,
}

/// What a plugin declares about itself.
#[derive(Clone, Debug)]
pub struct Descriptor {
    /// `NodeResourcesFit`
    pub name: String,
    /// What it implements.
    pub hooks: Hooks,
    /// What it is sent of the node table.
    pub columns: ColumnSet,
    /// Paths into the pod.
    pub pod_fields: Vec<String>,
    /// Paths into placed pods; they make the entries of its dictionary of pods.
    pub placed_pod_fields: Vec<String>,
    /// Objects that it is sent.
    pub watches: Vec<Watch>,
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
    #[serde(default)]
    placed_pod_fields: Vec<String>,
    #[serde(default)]
    watches: Vec<Watch>,
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
            hooks: Hooks::default(),
            columns: ColumnSet::NONE,
            pod_fields: section.pod_fields,
            placed_pod_fields: section.placed_pod_fields,
            watches: section.watches,
            normalize: section.normalize,
            events: EventSet::ALL,
        };
        for hook in &section.hooks {
            let known = Hooks::TABLE.iter().find(|(name, _)| name == hook);
            let (_, bit) = known.ok_or_else(|| unknown("hook", hook))?;
            this.hooks = this.hooks.or(*bit);
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

/// Classes for which any row may have a new answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Stale {
    /// None.
    #[default]
    Nothing,
    /// These.
    Classes(Vec<u32>),
    /// All.
    Everything,
}

impl Stale {
    /// As on the wire, where 0 stands for all.
    #[must_use]
    pub fn from_wire(classes: Vec<u32>) -> Self {
        if classes.is_empty() {
            Self::Nothing
        } else if classes.contains(&0) {
            Self::Everything
        } else {
            Self::Classes(classes)
        }
    }
}

/// What `sync` answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Synced {
    /// Of the mirror; 0 where the plugin keeps none.
    pub checksum: u64,
    /// Answers that may have changed for rows that are not in the delta.
    pub stale: Stale,
}

/// What `prepare` answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prepared {
    /// Every node passes.
    pub skip_filter: bool,
    /// The score is 0 everywhere.
    pub skip_score: bool,
    /// The hooks from Reserve to PostBind are not to be called.
    pub skip_placing: bool,
    /// To be prepared again after watched objects changed.
    pub reads_objects: bool,
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

/// A watched object that appeared, changed or went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectChange {
    /// Position in [`Descriptor::watches`].
    pub watch: u32,
    /// `metadata.namespace`
    pub namespace: Arc<str>,
    /// `metadata.name`
    pub name: Arc<str>,
    /// JSON with the declared fields; empty where the object went.
    pub object: Arc<[u8]>,
}

/// A pod and the node that was chosen for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Number of the pod in calls.
    pub pod: u64,
    /// `metadata.namespace`
    pub namespace: Arc<str>,
    /// `metadata.name`
    pub name: Arc<str>,
    /// `metadata.uid`
    pub uid: Arc<str>,
    /// JSON with the fields that the plugin declared.
    pub fields: Arc<[u8]>,
    /// Row of the node.
    pub slot: u32,
    /// Name of the node.
    pub node: Arc<str>,
}

/// What is to become of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may go on.
    Allow,
    /// It waits.
    Wait {
        /// So long at most.
        timeout: Duration,
        /// Why.
        message: String,
    },
    /// It goes back to the queue.
    Reject {
        /// Why.
        message: String,
    },
}

/// What is to become of another pod that waits in Permit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Its number.
    pub pod: u64,
    /// Why it is rejected; allowed where `None`.
    pub rejected: Option<String>,
}

/// Who binds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Binder {
    /// The host, by the subresource `binding`.
    Host,
    /// The next plugin.
    Next,
    /// These writes, in JSON.
    Writes(Vec<Vec<u8>>),
}

/// What was chosen for a pod, and from what, as seen by one plugin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// The pod's class.
    pub class: u32,
    /// `namespace/name`
    pub pod: String,
    /// The node; `None` where none fits.
    pub slot: Option<u32>,
    /// The nodes that every other plugin lets pass, by slot.
    pub others: Vec<u64>,
    /// What the scores of all other plugins add up to, by slot; means nothing where no node fits.
    pub totals: Vec<i64>,
    /// Whether the plugin's filter counts.
    pub filters: bool,
    /// What its score is multiplied by; 0 where it does not count.
    pub weight: i64,
}

/// Pods of lower priority on candidate nodes of a preemption, column by column.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CandidatePods {
    /// Those of candidate i are `offsets[i]..offsets[i + 1]` of the other lists.
    pub offsets: Vec<u32>,
    /// `spec.priority`
    pub priorities: Vec<i32>,
    /// Milliseconds since the epoch.
    pub started: Vec<i64>,
    /// 1 where an eviction would violate a PodDisruptionBudget.
    pub violating: Vec<u8>,
    /// 1 where the pod is being deleted.
    pub terminating: Vec<u8>,
}

/// A scheduler plugin, configured. After an error other than `Refused` the scheduler calls
/// [`SchedulerPlugin::reset`] before anything else, then sends a full delta.
pub trait SchedulerPlugin: Send {
    /// What it declared; never changes.
    fn descriptor(&self) -> &Descriptor;

    /// The user that reads the objects that it watches and does what it writes; empty for the scheduler's
    /// own. Never changes.
    fn user(&self) -> &str {
        ""
    }

    /// Whether pods wait while its filter fails; else every node passes meanwhile.
    fn required(&self) -> bool {
        true
    }

    /// Whether it may be asked now. `false` for a while after repeated failures; the scheduler then goes on
    /// as if it had failed, without a call. After `true` it has to make one.
    fn admits(&self) -> bool {
        true
    }

    /// Whether it has to be told everything again, although it did not fail: all watched objects and a full delta.
    /// All its answers are then asked for anew. Says `true` once.
    fn wants_everything(&mut self) -> bool {
        false
    }

    /// What the nodes are called that the rows of the next delta are about; for those who tell a user of nodes.
    fn names(&mut self, rows: &[u32], name: &dyn Fn(u32) -> Option<Arc<str>>) {
        let _ = (rows, name);
    }

    /// Whether it wants to be told what is chosen for the next pod, by [`SchedulerPlugin::chosen`].
    fn follows_choices(&mut self) -> bool {
        false
    }

    /// What was chosen for a pod of a class that it answered about.
    fn chosen(&mut self, choice: Choice) {
        let _ = choice;
    }

    /// To be called where an answer is wrong in a way that only the scheduler can see, such as a checksum: the
    /// instance ends, and the failure, which is returned, is counted.
    fn nonsense(&mut self, message: String) -> PluginError {
        PluginError::Nonsense { message }
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

    /// As `filter` for the rows of `delta`, if they had these values; only with [`Hooks::OVERLAY`].
    fn overlay(&mut self, class: u32, delta: &Delta) -> Result<Vec<u64>, PluginError> {
        let _ = (class, delta);
        Err(undeclared("overlay"))
    }

    /// Tells of watched objects; only where there are [`Descriptor::watches`].
    fn objects(&mut self, full: bool, changes: &[ObjectChange]) -> Result<Stale, PluginError> {
        let _ = (full, changes);
        Err(undeclared("objects"))
    }

    /// Why the pod may not be tried, where it may not; only with [`Hooks::PRE_ENQUEUE`].
    fn pre_enqueue(&mut self, pod: &[u8]) -> Result<Option<String>, PluginError> {
        let _ = pod;
        Err(undeclared("pre-enqueue"))
    }

    /// Where the pod stands in the queue; only with [`Hooks::QUEUE_SORT`].
    fn sort_key(&mut self, pod: &[u8]) -> Result<Vec<i64>, PluginError> {
        let _ = pod;
        Err(undeclared("queue-sort"))
    }

    /// Books a pod; only with [`Hooks::RESERVE`].
    fn reserve(&mut self, placement: &Placement) -> Result<(), PluginError> {
        let _ = placement;
        Err(undeclared("reserve"))
    }

    /// Takes `reserve` back; only with [`Hooks::RESERVE`] or [`Hooks::PERMIT`].
    fn unreserve(&mut self, placement: &Placement) -> Result<Vec<Decision>, PluginError> {
        let _ = placement;
        Err(undeclared("reserve"))
    }

    /// Whether the pod may be bound now; only with [`Hooks::PERMIT`].
    fn permit(&mut self, placement: &Placement) -> Result<(Verdict, Vec<Decision>), PluginError> {
        let _ = placement;
        Err(undeclared("permit"))
    }

    /// What has to be written before the binding, in JSON; only with [`Hooks::PRE_BIND`].
    fn pre_bind(&mut self, placement: &Placement) -> Result<(Verdict, Vec<Vec<u8>>), PluginError> {
        let _ = placement;
        Err(undeclared("pre-bind"))
    }

    /// Who binds the pod; only with [`Hooks::BIND`].
    fn bind(&mut self, placement: &Placement) -> Result<Binder, PluginError> {
        let _ = placement;
        Err(undeclared("bind"))
    }

    /// The pod is bound; only with [`Hooks::POST_BIND`].
    fn post_bind(&mut self, placement: &Placement) -> Result<(), PluginError> {
        let _ = placement;
        Err(undeclared("post-bind"))
    }

    /// On how many of `nodes` nodes a preemption may be tried; an inner error says why not at all. Only with
    /// [`Hooks::POST_FILTER`], as the next two.
    fn eligible(
        &mut self,
        pod: &[u8],
        nodes: u32,
        terminating: bool,
    ) -> Result<Result<u32, String>, PluginError> {
        let _ = (pod, nodes, terminating);
        Err(undeclared("post-filter"))
    }

    /// Positions of the pods that may be evicted, in the order in which it is tried to spare them.
    fn victims(&mut self, pod: &[u8], pods: &CandidatePods) -> Result<Vec<u32>, PluginError> {
        let _ = (pod, pods);
        Err(undeclared("post-filter"))
    }

    /// The best candidate.
    fn choose(&mut self, pod: &[u8], victims: &CandidatePods) -> Result<u32, PluginError> {
        let _ = (pod, victims);
        Err(undeclared("post-filter"))
    }
}

fn undeclared(hook: &str) -> PluginError {
    PluginError::Refused { message: format!("the plugin does not implement {hook}") }
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
