//! What the API server's authorizer says of the users that plugins are.

use crate::plugins::access::Access;
use async_trait::async_trait;
use orlop_apimachinery::Gvr;
use orlop_apiserver::authz::Attributes;
use orlop_apiserver::{ApiServer, UserInfo};
use std::sync::{Arc, Weak};

/// Asks a server, for as long as it lives.
pub(super) struct Roles(Weak<ApiServer>);

impl Roles {
    pub(super) fn new(api: &Arc<ApiServer>) -> Self {
        Self(Arc::downgrade(api))
    }
}

#[async_trait]
impl Access for Roles {
    async fn allows(&self, user: &UserInfo, verb: &str, gvr: &Gvr) -> bool {
        let Some(api) = self.0.upgrade() else { return false };
        let attributes = Attributes {
            verb,
            group: &gvr.group,
            version: &gvr.version,
            resource: &gvr.resource,
            ..Attributes::default()
        };
        api.is_authorized(user, &attributes).await
    }
}
