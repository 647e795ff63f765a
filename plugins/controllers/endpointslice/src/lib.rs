//! Says where the pods of a Service are, in EndpointSlices: the `endpointslice-controller`.

mod service;
mod slices;

use orlop_sdk::controller::{Controller, Item, Plan};
use serde::Deserialize;

/// The plugin.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EndpointSlice {
    /// Upstream's default is 100.
    #[serde(default = "hundred")]
    max_endpoints_per_slice: usize,
}

const fn hundred() -> usize {
    100
}

impl Controller for EndpointSlice {
    fn new(config: &[u8]) -> Result<Self, String> {
        let plugin: Self = orlop_sdk::parse_config(config)?;
        match plugin.max_endpoints_per_slice {
            1..=1000 => Ok(plugin),
            _ => Err("config: maxEndpointsPerSlice: must be 1 to 1000".into()),
        }
    }

    fn reconcile(&self, item: &Item<'_>, _now: i64) -> Plan {
        slices::reconcile(item, self.max_endpoints_per_slice).unwrap_or_else(Plan::error)
    }
}

orlop_sdk::export_controller!(EndpointSlice);
