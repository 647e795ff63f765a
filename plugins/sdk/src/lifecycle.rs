//! Bindings of `orlop:types/lifecycle`, which every world exports.
//!
//! They are generated once, and each world's bindings hold only what is its own: generated export
//! macros live at the root of the crate, where the same one may not be defined twice. The parts
//! are joined to the whole world when the module is made a component.

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
        path: "../../wit/types",
        inline: "package orlop:sdk-lifecycle; world lifecycle { export orlop:types/lifecycle@1.0.0; }",
        generate_all,
        pub_export_macro: true,
        default_bindings_module: "orlop_sdk::lifecycle::bindings",
    });
}
