//! NamespaceLifecycle: nothing is created in a namespace that is missing or ending.

mod lifecycle;

use orlop_sdk::admission::{AdmissionPlugin, Request, Response};

/// The plugin; it has no configuration.
#[derive(Debug)]
pub struct NamespaceLifecycle;

impl AdmissionPlugin for NamespaceLifecycle {
    fn new(_config: &[u8]) -> Result<Self, String> {
        Ok(Self)
    }

    fn mutate(&self, request: &Request) -> Response {
        lifecycle::admit(request)
    }
}

orlop_sdk::export_admission!(NamespaceLifecycle);
