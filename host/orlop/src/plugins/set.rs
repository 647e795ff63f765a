//! The set of active plugins: an immutable snapshot, swapped as a whole.
//!
//! Whoever decides takes one snapshot at the beginning of a cycle, batch or request, and ends on it.

use super::comparison::Candidate;
use super::health::Health;
use super::object::PluginSpec;
use orlop_plugin::manifest::Permission;
use orlop_plugin::{Compiled, Digest, Kind, Manifest, PluginOptions};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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
    /// What it is made of, as its `PluginRevision` records it.
    pub(crate) facts: Arc<Facts>,
    /// What `spec.grants` give it; for a built-in plugin what its manifest asks for, where they are silent.
    pub(crate) grants: Vec<Permission>,
    /// Number of its `PluginRevision`; 0 while there is none. See [`ActivePlugin::number`].
    pub(crate) number: AtomicU64,
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

    /// Number of its `PluginRevision`; 0 while there is none.
    pub(crate) fn number(&self) -> u64 {
        self.number.load(Ordering::Relaxed)
    }
}

/// What a revision is made of.
#[derive(Debug)]
pub(crate) struct Facts {
    /// What was asked for, without what only says how it takes effect.
    pub(crate) spec: PluginSpec,
    /// Of the module.
    pub(crate) digest: Digest,
    /// What the plugin decides.
    pub(crate) kind: Kind,
    /// What it was built for.
    pub(crate) world: String,
    /// Of the object or of the artifact.
    pub(crate) signature: Option<String>,
    /// The key that made it, where the policy knows it.
    pub(crate) signed_by: Option<String>,
    /// The module, gzipped, in base64; not for what came with the program, nor where it is too large.
    pub(crate) packed: Option<String>,
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
