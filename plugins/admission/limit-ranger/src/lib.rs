//! LimitRanger: defaults and bounds of resources, as the namespace's LimitRanges say.

mod bounds;
mod defaults;
mod resources;

use orlop_sdk::admission::{AdmissionPlugin, Operation, Patch, Request, Response};
use resources::LimitRange;

/// The plugin; it has no configuration.
#[derive(Debug)]
pub struct LimitRanger;

impl AdmissionPlugin for LimitRanger {
    fn new(_config: &[u8]) -> Result<Self, String> {
        Ok(Self)
    }

    fn mutate(&self, request: &Request) -> Response {
        if request.resource != "pods" || request.operation != Operation::Create {
            return Response::allow();
        }
        match resources::limit_ranges(request.context(0)) {
            Ok(ranges) => Response::patch(defaults::patch(&ranges, &request.object)),
            Err(why) => Response::deny(request.forbidden(&why)),
        }
    }

    fn validate(&self, request: &Request) -> Response {
        match resources::limit_ranges(request.context(0)).and_then(|ranges| check(&ranges, request)) {
            Ok(()) => Response::patch(Patch::new()),
            Err(why) => Response::deny(request.forbidden(&why)),
        }
    }
}

fn check(ranges: &[LimitRange], request: &Request) -> Result<(), String> {
    match request.resource.as_str() {
        "pods" => bounds::check_pod(ranges, &request.object),
        "persistentvolumeclaims" => bounds::check_claim(ranges, &request.object),
        _ => Ok(()),
    }
}

orlop_sdk::export_admission!(LimitRanger);
