//! Bindings of `orlop:admission@1`.

use crate::error::PluginError;
use crate::instance::{Slot, Store, World};
use crate::manifest::{Kind, Manifest};
use crate::observer::Asked;

mod bindings {
    #![allow(missing_docs, unreachable_pub, reason = "generated")]
    wasmtime::component::bindgen!({ path: "../../wit/admission", world: "admission" });
}

pub use bindings::exports::orlop::admission::plugin::{Request, Verdict};

/// The most requests of one call.
pub const MAX_BATCH: usize = 64;

/// World of admission plugins.
pub struct AdmissionWorld(bindings::Admission);

impl World for AdmissionWorld {
    const KIND: Kind = Kind::Admission;

    fn new(
        store: &mut Store,
        instance: &wasmtime::component::Instance,
        _manifest: &Manifest,
    ) -> wasmtime::Result<Self> {
        bindings::Admission::new(store, instance).map(Self)
    }
}

/// Codes of [`Request::operation`].
pub mod operation {
    /// POST
    pub const CREATE: u32 = 1;
    /// PUT, PATCH
    pub const UPDATE: u32 = 2;
    /// DELETE
    pub const DELETE: u32 = 3;
    /// exec, attach, port-forward, proxy
    pub const CONNECT: u32 = 4;
}

impl Slot<AdmissionWorld> {
    /// Calls `mutate`; returns as many verdicts as there are requests.
    ///
    /// # Errors
    /// As [`Slot::call`].
    pub fn mutate(&mut self, requests: &[Request]) -> Result<Vec<Verdict>, PluginError> {
        let answer = self.call(
            |world, store| world.0.orlop_admission_plugin().call_mutate(store, requests),
            |verdicts| checked(verdicts, requests.len()),
        );
        self.tell(|| Asked::Mutate(requests, answer.as_deref()));
        answer
    }

    /// Calls `validate`; returns as many verdicts as there are requests, all without a patch.
    ///
    /// # Errors
    /// As [`Slot::call`].
    pub fn validate(&mut self, requests: &[Request]) -> Result<Vec<Verdict>, PluginError> {
        let answer = self.call(
            |world, store| world.0.orlop_admission_plugin().call_validate(store, requests),
            |verdicts| {
                let verdicts = checked(verdicts, requests.len())?;
                if verdicts.iter().any(|v| v.allowed && !v.patch.is_empty()) {
                    return Err(PluginError::bad_output("validate returned a patch"));
                }
                Ok(verdicts)
            },
        );
        self.tell(|| Asked::Validate(requests, answer.as_deref()));
        answer
    }
}

fn checked(verdicts: Vec<Verdict>, expected: usize) -> Result<Vec<Verdict>, PluginError> {
    if verdicts.len() != expected {
        return Err(PluginError::bad_output(format!("{} verdicts for {expected} requests", verdicts.len())));
    }
    if let Some(v) =
        verdicts.iter().find(|v| v.warnings.len() > 16 || v.warnings.iter().any(|w| w.len() > 256))
    {
        let longest = v.warnings.iter().map(String::len).max().unwrap_or(0);
        return Err(PluginError::bad_output(format!(
            "{} warnings of up to {longest} bytes, more than 16 of 256",
            v.warnings.len()
        )));
    }
    Ok(verdicts)
}
