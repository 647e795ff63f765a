//! Between the generated exports and [`AdmissionPlugin`].

use super::bindings::exports::orlop::admission::plugin as wit;
use super::{AdmissionPlugin, Operation, Outcome, Request, Response};
use crate::lifecycle::bindings::exports::orlop::types::lifecycle;
use std::cell::RefCell;
use std::marker::PhantomData;

thread_local! {
    static PLUGIN: RefCell<Option<Box<dyn AdmissionPlugin>>> = const { RefCell::new(None) };
}

/// Implements the generated traits for a plugin type.
pub struct Glue<P>(PhantomData<P>);

impl<P: AdmissionPlugin> lifecycle::Guest for Glue<P> {
    fn init(config: Vec<u8>) -> Result<(), String> {
        crate::log::install_panic_hook();
        let plugin = P::new(&config)?;
        PLUGIN.with_borrow_mut(|slot| *slot = Some(Box::new(plugin)));
        Ok(())
    }

    fn self_test() -> Result<(), String> {
        with(|plugin| plugin.self_test())
    }
}

impl<P: AdmissionPlugin> wit::Guest for Glue<P> {
    fn mutate(requests: Vec<wit::Request>) -> Vec<wit::Verdict> {
        with(|plugin| requests.into_iter().map(|r| answer(plugin.mutate(&request(r)))).collect())
    }

    fn validate(requests: Vec<wit::Request>) -> Vec<wit::Verdict> {
        with(|plugin| requests.into_iter().map(|r| answer(plugin.validate(&request(r)))).collect())
    }
}

#[expect(clippy::panic, reason = "the host broke the order of calls; a trap is the answer")]
fn with<R>(f: impl FnOnce(&dyn AdmissionPlugin) -> R) -> R {
    PLUGIN.with_borrow(|plugin| match plugin {
        Some(plugin) => f(plugin.as_ref()),
        None => panic!("called before init"),
    })
}

fn request(r: wit::Request) -> Request {
    let parse = |bytes: &[u8]| serde_json::from_slice(bytes).unwrap_or_default();
    Request {
        operation: Operation::from_code(r.operation),
        group: r.group,
        version: r.version,
        resource: r.resource,
        subresource: r.subresource,
        kind: r.kind,
        namespace: r.namespace,
        name: r.name,
        dry_run: r.dry_run,
        object: parse(&r.object),
        old_object: parse(&r.old_object),
        context: r.context.iter().map(|bytes| parse(bytes)).collect(),
        attributes: r.attributes,
        seed: r.seed,
    }
}

fn answer(response: Response) -> wit::Verdict {
    let (allowed, patch, status) = match response.outcome {
        Outcome::Allow(patch) => (true, patch.into_bytes(), Vec::new()),
        Outcome::Deny(status) => (false, Vec::new(), status.to_json()),
    };
    wit::Verdict { allowed, patch, status, warnings: response.warnings }
}
