//! What a plugin answers: plans, as documented in `wit/controller/controller.wit`.

pub use orlop_client::write::{Event, Op, Reference, Write};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The answer to one request: one plan per item, in the same order.
#[derive(Debug, Deserialize)]
pub struct Response {
    /// The plans.
    pub plans: Vec<Plan>,
}

/// What shall happen for one key.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Plan {
    /// In this order; the first failure ends the plan.
    pub writes: Vec<Write>,
    /// Look again when so much time has passed, even where nothing changed.
    pub after_milliseconds: Option<u64>,
    /// What the plugin could not decide; the key is retried with back-off.
    pub error: String,
    /// Handed back with the key's next request; `null` forgets it.
    pub memo: Value,
}

/// How the last plan of a key failed; handed to the plugin with the key's next request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub op: &'static str,
    /// Plural name of the resource.
    pub resource: String,
    /// `Status.reason`; empty where the API could not be reached.
    pub reason: String,
    /// For a reader.
    pub message: String,
}
