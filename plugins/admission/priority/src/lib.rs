//! Priority: gives pods the priority of their PriorityClass.

mod classes;

use orlop_sdk::admission::{AdmissionPlugin, Operation, Request, Response};

/// The plugin; it has no configuration.
#[derive(Debug)]
pub struct Priority;

impl AdmissionPlugin for Priority {
    fn new(_config: &[u8]) -> Result<Self, String> {
        Ok(Self)
    }

    fn mutate(&self, request: &Request) -> Response {
        let pod = &request.object;
        match (request.resource.as_str(), request.operation) {
            ("pods", Operation::Update) => Response::patch(classes::keep(pod, &request.old_object)),
            ("pods", Operation::Create) => {
                match classes::resolve(pod, request.context(0), request.context(1)) {
                    Ok(patch) => Response::patch(patch),
                    Err(why) => Response::deny(request.forbidden(&why)),
                }
            }
            _ => Response::allow(),
        }
    }

    fn validate(&self, request: &Request) -> Response {
        if request.resource != "priorityclasses" {
            return Response::allow();
        }
        match classes::only_default(&request.object, &request.name, request.operation, request.context(1)) {
            Ok(()) => Response::allow(),
            Err(why) => Response::deny(request.forbidden(&why)),
        }
    }
}

orlop_sdk::export_admission!(Priority);
