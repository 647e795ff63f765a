//! The set of active plugins: an immutable snapshot, swapped as a whole.
//!
//! Whoever decides takes one snapshot at the beginning of a cycle, batch or request, and ends on it.

use super::comparison::Candidate;
use super::health::Health;
use orlop_plugin::{Compiled, Digest, Kind, Manifest, PluginOptions};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;

/// What becomes of a decision for which a plugin fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum FailurePolicy {
    /// The request is refused; the pod stays Pending.
    #[default]
    Fail,
    /// It is decided without the plugin.
    Ignore,
}

/// One revision of a plugin, ready to be asked: the active one, or a candidate to become it.
pub(crate) struct ActivePlugin {
    /// Name of the `Plugin` object, such as `node-name`.
    pub(crate) object: String,
    /// Counts the revisions of this process; unique.
    pub(crate) revision: u64,
    /// The code, ready to be linked by the adapter of its kind.
    pub(crate) compiled: Compiled,
    /// Configuration and limits.
    pub(crate) options: PluginOptions,
    /// See [`FailurePolicy`].
    pub(crate) failure_policy: FailurePolicy,
    /// Whoever calls it reports here.
    pub(crate) health: Arc<Health>,
    /// Whether it came with this program.
    pub(crate) builtin: bool,
}

impl ActivePlugin {
    pub(crate) fn manifest(&self) -> &Arc<Manifest> {
        self.compiled.manifest()
    }

    /// Name in profiles and policies, such as `NodeName`.
    pub(crate) fn name(&self) -> &str {
        &self.manifest().name
    }

    pub(crate) fn digest(&self) -> Digest {
        self.compiled.digest()
    }
}

/// A snapshot.
#[derive(Clone, Default)]
pub(crate) struct PluginSet {
    /// Grows with every change.
    pub(crate) generation: u64,
    /// By name of the `Plugin` object.
    pub(crate) plugins: BTreeMap<String, Arc<ActivePlugin>>,
    /// Revisions in shadow or canary, by name of the `Plugin` object; see [`super::comparison`]. The
    /// object need not be among `plugins`: a new plugin may begin in shadow.
    pub(crate) candidates: BTreeMap<String, Arc<Candidate>>,
}

impl PluginSet {
    /// The plugins of one kind, in the order of their objects' names.
    pub(crate) fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Arc<ActivePlugin>> {
        self.plugins.values().filter(move |p| p.manifest().kind == kind)
    }

    /// The candidates of one kind, in the order of their objects' names.
    pub(crate) fn candidates_of_kind(&self, kind: Kind) -> impl Iterator<Item = &Arc<Candidate>> {
        self.candidates.values().filter(move |c| c.plugin.manifest().kind == kind)
    }

    /// The plugin that calls itself `name`.
    pub(crate) fn named(&self, name: &str) -> Option<&Arc<ActivePlugin>> {
        self.plugins.values().find(|p| p.name() == name)
    }
}

/// Where snapshots come from: `borrow` it at a cycle boundary, or wait for changes.
pub(crate) type PluginSets = watch::Receiver<Arc<PluginSet>>;
