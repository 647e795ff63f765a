//! Admission plugins: implement [`AdmissionPlugin`], then hand the type to
//! [`export_admission!`](crate::export_admission).
//!
//! ```
//! use orlop_sdk::admission::{AdmissionPlugin, Patch, Request, Response};
//! use orlop_sdk::serde_json::json;
//!
//! struct Team;
//!
//! impl AdmissionPlugin for Team {
//!     fn new(_config: &[u8]) -> Result<Self, String> {
//!         Ok(Self)
//!     }
//!
//!     fn mutate(&self, request: &Request) -> Response {
//!         if request.object.pointer("/metadata/labels/team").is_some() {
//!             return Response::allow();
//!         }
//!         let mut patch = Patch::new();
//!         patch.set(&request.object, &["metadata", "labels", "team"], json!("nobody"));
//!         Response::patch(patch)
//!     }
//! }
//! ```

mod patch;
mod request;

pub use patch::Patch;
pub use request::{Operation, Outcome, Request, Response, UserInfo};

/// What an admission plugin does. One value per instance; calls do not overlap.
pub trait AdmissionPlugin: 'static {
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

    /// May change or refuse a request. Called only with `mutate` among the manifest's phases.
    fn mutate(&self, request: &Request) -> Response {
        let _ = request;
        Response::allow()
    }

    /// May refuse a request. Called only with `validate` among the manifest's phases.
    fn validate(&self, request: &Request) -> Response {
        let _ = request;
        Response::allow()
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
        path: "../../wit/admission",
        inline: "package orlop:sdk-admission; world admission { export orlop:admission/plugin@1.0.0; }",
        generate_all,
        pub_export_macro: true,
        default_bindings_module: "orlop_sdk::admission::bindings",
    });
}

#[cfg(target_family = "wasm")]
#[doc(hidden)]
pub mod glue;

/// Exports a type that implements [`AdmissionPlugin`] as the plugin, and embeds `manifest.json`.
///
/// Takes the name of a type that is in scope. Expands to nothing but the manifest natively.
#[macro_export]
macro_rules! export_admission {
    ($plugin:ident) => {
        $crate::embed_manifest!();
        #[cfg(target_family = "wasm")]
        #[allow(unsafe_code, clippy::allow_attributes_without_reason, reason = "generated export glue")]
        mod orlop_export {
            type Exported = $crate::admission::glue::Glue<super::$plugin>;
            $crate::admission::bindings::export!(Exported with_types_in $crate::admission::bindings);
            $crate::lifecycle::bindings::export!(Exported with_types_in $crate::lifecycle::bindings);
        }
    };
}
