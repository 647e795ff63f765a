//! The logic, natively testable.

use orlop_sdk::scheduler::{BatchPlugin, Binder, Delta, Placement, Prepared, Synced};
use orlop_sdk::serde_json::Value;

/// The plugin; it has no arguments and no state.
#[derive(Debug, Default)]
pub struct DefaultBinder;

impl BatchPlugin for DefaultBinder {
    fn new(_args: &[u8]) -> Result<Self, String> {
        Ok(Self)
    }

    fn sync(&mut self, _delta: Delta) -> Synced {
        Synced::default()
    }

    fn prepare(&mut self, _class: u32, _pod: &Value) -> Result<Prepared, String> {
        // It does bind: only the hooks of the filter are not wanted.
        Ok(Prepared { skip_filter: true, skip_score: true, ..Prepared::default() })
    }

    fn release(&mut self, _class: u32) {}

    fn bind(&mut self, _placement: Placement) -> Binder {
        Binder::Host
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orlop_sdk::serde_json::json;

    #[test]
    fn the_host_binds_every_pod() {
        let mut plugin = DefaultBinder;
        assert!(!plugin.prepare(1, &json!({})).unwrap().skip_placing);
        assert_eq!(plugin.bind(Placement::default()), Binder::Host);
    }
}
