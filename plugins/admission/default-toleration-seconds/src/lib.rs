//! DefaultTolerationSeconds: how long a pod stays on a node that is not ready or unreachable.

mod tolerations;

use orlop_sdk::admission::{AdmissionPlugin, Request, Response};
use tolerations::Config;

/// The plugin.
#[derive(Debug)]
pub struct DefaultTolerationSeconds {
    config: Config,
}

impl AdmissionPlugin for DefaultTolerationSeconds {
    fn new(config: &[u8]) -> Result<Self, String> {
        Ok(Self { config: orlop_sdk::parse_config(config)? })
    }

    fn mutate(&self, request: &Request) -> Response {
        Response::patch(tolerations::patch(&self.config, &request.object))
    }
}

orlop_sdk::export_admission!(DefaultTolerationSeconds);
