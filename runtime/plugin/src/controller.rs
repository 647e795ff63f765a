//! Bindings of `orlop:controller@1`.

use crate::error::PluginError;
use crate::instance::{Slot, Store, World};
use crate::manifest::{Kind, Manifest};
use crate::observer::Asked;

mod bindings {
    #![allow(missing_docs, unreachable_pub, reason = "generated")]
    wasmtime::component::bindgen!({ path: "../../wit/controller", world: "controller" });
}

/// World of controller plugins.
pub struct ControllerWorld(bindings::Controller);

impl World for ControllerWorld {
    const KIND: Kind = Kind::Controller;

    fn new(
        store: &mut Store,
        instance: &wasmtime::component::Instance,
        _manifest: &Manifest,
    ) -> wasmtime::Result<Self> {
        bindings::Controller::new(store, instance).map(Self)
    }
}

impl Slot<ControllerWorld> {
    /// Calls `reconcile` with a request in JSON; the answer is JSON that the caller must check.
    ///
    /// # Errors
    /// As [`Slot::call`]; [`PluginError::BadOutput`] where the plugin returns an error.
    pub fn reconcile(&mut self, request: &[u8]) -> Result<Vec<u8>, PluginError> {
        let answer = self.call(
            |world, store| world.0.orlop_controller_reconciler().call_reconcile(store, request),
            |answer| answer.map_err(PluginError::bad_output),
        );
        self.tell(|| Asked::Reconcile(request, answer.as_deref()));
        answer
    }
}
