//! ServiceAccount: every pod runs as a service account, with its token and its pull secrets.

mod account;
mod references;
mod token;

use orlop_sdk::admission::{AdmissionPlugin, Request, Response};

/// The plugin; it has no configuration.
#[derive(Debug)]
pub struct ServiceAccount;

impl AdmissionPlugin for ServiceAccount {
    fn new(_config: &[u8]) -> Result<Self, String> {
        Ok(Self)
    }

    fn mutate(&self, request: &Request) -> Response {
        account::mutate(request)
    }

    fn validate(&self, request: &Request) -> Response {
        match account::check(request) {
            Ok(()) => Response::allow(),
            Err(why) => Response::deny(request.forbidden(&why)),
        }
    }
}

orlop_sdk::export_admission!(ServiceAccount);
