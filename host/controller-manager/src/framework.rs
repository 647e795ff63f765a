//! What the controller manager asks of the world around it.

use crate::declaration::{Declaration, Grant};
use orlop_apimachinery::{Gvk, Gvr};
use orlop_client::ApiClient;
use serde_json::Value;
use std::sync::Arc;

/// Why a call of a plugin gave no answer. The instance is not used again.
#[derive(Debug, thiserror::Error)]
pub enum PluginFailure {
    /// The code stopped itself. Retried with back-off on a new instance.
    #[error("trapped: {0}")]
    Trap(String),
    /// The call took longer than it may. Retried with back-off on a new instance.
    #[error("missed its deadline")]
    Deadline,
    /// It asked for more memory than it may have. Retried with back-off on a new instance.
    #[error("exceeded its memory limit")]
    MemoryLimit,
    /// It may not do what it asked for; the operator must grant it or the author must repair it.
    #[error("denied: {0}")]
    Denied(String),
    /// Its answer is no list of plans, or it could not be started. The author must repair it.
    #[error("gave an invalid answer: {0}")]
    Invalid(String),
}

/// One revision of a plugin, from which instances are made. Immutable; a new revision is a new value.
pub trait ControllerPlugin: Send + Sync + 'static {
    /// What it watches and reads.
    fn declaration(&self) -> &Declaration;

    /// Makes an instance. Called on the plugin's own thread, which alone uses the instance.
    ///
    /// # Errors
    /// See [`PluginFailure`].
    fn instantiate(&self) -> Result<Box<dyn ControllerInstance>, PluginFailure>;
}

/// An instance. After an error it is dropped.
pub trait ControllerInstance {
    /// Answers a request (JSON, see `wit/controller/controller.wit`) with as many plans as it has items.
    ///
    /// Obligation: returns within the plugin's deadline.
    ///
    /// # Errors
    /// See [`PluginFailure`].
    fn reconcile(&mut self, request: &[u8]) -> Result<Vec<u8>, PluginFailure>;
}

/// A plugin as the operator admits it.
#[derive(Clone)]
pub struct ControllerSpec {
    /// The code.
    pub plugin: Arc<dyn ControllerPlugin>,
    /// User on whose behalf it writes.
    pub user: String,
    /// What it may write; checked before RBAC, which checks again.
    pub grants: Vec<Grant>,
}

impl ControllerSpec {
    /// With upstream's identity, `system:serviceaccount:kube-system:<service account>`.
    #[must_use]
    pub fn new(plugin: Arc<dyn ControllerPlugin>, grants: Vec<Grant>) -> Self {
        let declaration = plugin.declaration();
        let account = if declaration.service_account.is_empty() {
            &declaration.name
        } else {
            &declaration.service_account
        };
        let user = format!("system:serviceaccount:kube-system:{account}");
        Self { plugin, user, grants }
    }
}

/// Gives out API clients that act as a given user.
pub trait Clients: Send + Sync + 'static {
    /// A client whose requests are authorized and audited as those of `user`.
    fn acting_as(&self, user: &str) -> Arc<dyn ApiClient>;
}

impl<F: Fn(&str) -> Arc<dyn ApiClient> + Send + Sync + 'static> Clients for F {
    fn acting_as(&self, user: &str) -> Arc<dyn ApiClient> {
        self(user)
    }
}

/// One resource that the API serves, as discovery describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiResource {
    /// Its plural name.
    pub gvr: Gvr,
    /// Its kind.
    pub gvk: Gvk,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// Whether its objects can be listed, watched and deleted; others are neither collected nor emptied.
    pub deletable: bool,
}

/// What one controller remembers about a key between two calls, in the plugin's own words.
pub(crate) type Memo = Value;
