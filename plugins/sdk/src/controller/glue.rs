//! Between the generated exports and [`Controller`].

use super::Controller;
use super::bindings::exports::orlop::controller::reconciler as wit;
use crate::lifecycle::bindings::exports::orlop::types::lifecycle;
use std::cell::RefCell;
use std::marker::PhantomData;

thread_local! {
    static PLUGIN: RefCell<Option<Box<dyn Controller>>> = const { RefCell::new(None) };
}

/// Implements the generated traits for a plugin type.
pub struct Glue<P>(PhantomData<P>);

impl<P: Controller> lifecycle::Guest for Glue<P> {
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

impl<P: Controller> wit::Guest for Glue<P> {
    fn reconcile(request: Vec<u8>) -> Result<Vec<u8>, String> {
        with(|plugin| super::serve(plugin, &request))
    }
}

#[expect(clippy::panic, reason = "the host broke the order of calls; a trap is the answer")]
fn with<R>(f: impl FnOnce(&dyn Controller) -> R) -> R {
    PLUGIN.with_borrow(|plugin| match plugin {
        Some(plugin) => f(plugin.as_ref()),
        None => panic!("called before init"),
    })
}
