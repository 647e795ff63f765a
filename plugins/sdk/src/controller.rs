//! Controller plugins: implement [`Controller`], then hand the type to
//! [`export_controller!`](crate::export_controller).
//!
//! The meaning of keys, inputs, plans and the manifest is described in `wit/controller/controller.wit`.
//!
//! ```
//! use orlop_sdk::controller::{Controller, Item, Plan, Write, now_text};
//! use orlop_sdk::serde_json::json;
//!
//! /// Gives every namespace a ConfigMap.
//! struct Greeter;
//!
//! impl Controller for Greeter {
//!     fn new(_config: &[u8]) -> Result<Self, String> {
//!         Ok(Self)
//!     }
//!
//!     fn reconcile(&self, item: &Item, _now: i64) -> Plan {
//!         let there: Vec<orlop_sdk::controller::Meta> = item.metas("greeting");
//!         if item.is_absent() || !there.is_empty() {
//!             return Plan::default();
//!         }
//!         let body = json!({"metadata": {"name": "greeting"}, "data": {"hello": "world"}});
//!         Plan::write(Write::create("v1", "configmaps", &item.key.name, body))
//!     }
//! }
//! ```

mod meta;
mod plan;
mod time;

pub use meta::{Condition, Meta, Object, OwnerReference};
pub use plan::{Event, Plan, Reference, Write};
pub use time::{now_text, parse_time};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// What a controller plugin does. One value per instance; calls do not overlap.
pub trait Controller: 'static {
    /// Reads the configuration: the JSON object of `spec.config`, `{}` where there is none.
    ///
    /// # Errors
    /// A message for the user; the configuration is refused.
    fn new(config: &[u8]) -> Result<Self, String>
    where
        Self: Sized;

    /// Checks what can be checked without input.
    ///
    /// # Errors
    /// A message for the user; the plugin is not activated.
    fn self_test(&self) -> Result<(), String> {
        Ok(())
    }

    /// Decides about one key. `now` is in milliseconds since 1970. The same arguments give the same plan.
    fn reconcile(&self, item: &Item, now: i64) -> Plan;
}

/// What a key names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Key {
    /// With the rule `ownership`: `v1` or `apps/v1`.
    pub api_version: String,
    /// With the rule `ownership`: plural name.
    pub resource: String,
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// How a write of the key's last plan failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Failure {
    /// `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub op: String,
    /// Plural name of the resource.
    pub resource: String,
    /// `Status.reason`.
    pub reason: String,
    /// For a reader.
    pub message: String,
}

/// One key with its object and inputs, parsed when asked for.
#[derive(Debug, Deserialize)]
#[serde(bound = "'de: 'a")]
pub struct Item<'a> {
    /// The key.
    pub key: Key,
    #[serde(borrow, default)]
    object: Option<&'a RawValue>,
    #[serde(borrow, default)]
    inputs: BTreeMap<String, Vec<&'a RawValue>>,
    /// Failures of this key in a row.
    #[serde(default)]
    pub attempt: u32,
    /// How the last plan failed, if it did.
    #[serde(default)]
    pub failure: Option<Failure>,
    /// What the last plan noted.
    #[serde(default)]
    pub memo: Value,
}

impl Item<'_> {
    /// Whether the key's object does not exist.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        self.object.is_none()
    }

    /// The key's object; `None` where it does not exist.
    ///
    /// # Errors
    /// What does not fit `T`, for the plan's `error`.
    pub fn object<T: DeserializeOwned>(&self) -> Result<Option<T>, String> {
        let Some(raw) = self.object else { return Ok(None) };
        serde_json::from_str(raw.get()).map(Some).map_err(|e| format!("object of {}: {e}", self.key.name))
    }

    /// The key's object as it stands; null where it does not exist.
    #[must_use]
    pub fn raw_object(&self) -> Value {
        self.object.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default()
    }

    /// The objects of an input; empty for one that is not declared.
    ///
    /// # Errors
    /// What does not fit `T`, for the plan's `error`.
    pub fn input<T: DeserializeOwned>(&self, name: &str) -> Result<Vec<T>, String> {
        let raw = self.inputs.get(name).map(Vec::as_slice).unwrap_or_default();
        raw.iter().map(|r| serde_json::from_str(r.get()).map_err(|e| format!("input {name}: {e}"))).collect()
    }

    /// The first object of an input.
    ///
    /// # Errors
    /// As [`Item::input`].
    pub fn first<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, String> {
        Ok(self.input(name)?.into_iter().next())
    }

    /// Only the metadata of an input's objects.
    #[must_use]
    pub fn metas(&self, name: &str) -> Vec<Meta> {
        self.input::<MetaOnly>(name).unwrap_or_default().into_iter().map(|o| o.metadata).collect()
    }
}

#[derive(Deserialize)]
struct MetaOnly {
    #[serde(default)]
    metadata: Meta,
}

#[derive(Deserialize)]
#[serde(bound = "'de: 'a")]
struct Request<'a> {
    now: i64,
    #[serde(borrow)]
    items: Vec<Item<'a>>,
}

#[derive(serde::Serialize)]
struct Response {
    plans: Vec<Plan>,
}

/// Answers a request as the host sends it. The export macro calls it; so do native tests.
///
/// # Errors
/// Where the request is not what the WIT describes.
pub fn serve(controller: &dyn Controller, request: &[u8]) -> Result<Vec<u8>, String> {
    let request: Request<'_> = serde_json::from_slice(request).map_err(|e| format!("request: {e}"))?;
    let plans = request.items.iter().map(|item| controller.reconcile(item, request.now)).collect();
    serde_json::to_vec(&Response { plans }).map_err(|e| format!("response: {e}"))
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
        path: "../../wit/controller",
        inline: "package orlop:sdk-controller; world controller { export orlop:controller/reconciler@1.0.0; }",
        generate_all,
        pub_export_macro: true,
        default_bindings_module: "orlop_sdk::controller::bindings",
    });
}

#[cfg(target_family = "wasm")]
#[doc(hidden)]
pub mod glue;

/// Exports a type that implements [`Controller`] as the plugin, and embeds `manifest.json`.
///
/// Takes the name of a type that is in scope. Natively it expands to the constant `MANIFEST` only.
#[macro_export]
macro_rules! export_controller {
    ($plugin:ident) => {
        /// The manifest, as embedded in the plugin.
        pub const MANIFEST: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/manifest.json"));
        $crate::embed_manifest!();
        #[cfg(target_family = "wasm")]
        #[allow(unsafe_code, clippy::allow_attributes_without_reason, reason = "generated export glue")]
        mod orlop_export {
            type Exported = $crate::controller::glue::Glue<super::$plugin>;
            $crate::controller::bindings::export!(Exported with_types_in $crate::controller::bindings);
            $crate::lifecycle::bindings::export!(Exported with_types_in $crate::lifecycle::bindings);
        }
    };
}
