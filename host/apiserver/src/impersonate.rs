//! `Impersonate-*` headers: somebody who may, acts as somebody else.

use crate::authz::Attributes;
use crate::core::Core;
use crate::query::percent_decode;
use crate::user::{ANONYMOUS, GROUP_AUTHENTICATED, GROUP_UNAUTHENTICATED, SERVICE_ACCOUNT_PREFIX, UserInfo};
use http::HeaderMap;
use orlop_apimachinery::Status;
use std::collections::BTreeMap;
use std::sync::Arc;

const EXTRA: &str = "impersonate-extra-";

/// The user as whom the request is made: the authenticated one, or the one that he names.
///
/// # Errors
/// 403 where he may not be that user, group, uid or extra; 400 where no user is named.
pub(crate) async fn effective(
    core: &Core,
    user: Arc<UserInfo>,
    headers: &HeaderMap,
) -> Result<Arc<UserInfo>, Status> {
    let texts = |name: &str| -> Vec<String> {
        headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect()
    };
    let name = texts("impersonate-user").into_iter().next().unwrap_or_default();
    let mut groups = texts("impersonate-group");
    let uid = texts("impersonate-uid").into_iter().next().unwrap_or_default();
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for header in headers.keys().filter_map(|k| k.as_str().strip_prefix(EXTRA)) {
        extra.insert(percent_decode(header, false), texts(&format!("{EXTRA}{header}")));
    }
    if name.is_empty() {
        if groups.is_empty() && uid.is_empty() && extra.is_empty() {
            return Ok(user);
        }
        return Err(Status::bad_request(
            "requested groups, uid or extra to impersonate without impersonating a user",
        ));
    }
    let base = Attributes { verb: "impersonate", version: "v1", ..Attributes::default() };
    match name.strip_prefix(SERVICE_ACCOUNT_PREFIX).and_then(|rest| rest.split_once(':')) {
        Some((namespace, account)) => {
            core.authorize(
                &user,
                &Attributes { resource: "serviceaccounts", namespace, name: account, ..base },
            )
            .await?;
            if groups.is_empty() {
                groups = UserInfo::service_account(namespace, account, "").groups;
            }
        }
        None => core.authorize(&user, &Attributes { resource: "users", name: &name, ..base }).await?,
    }
    for group in texts("impersonate-group") {
        core.authorize(&user, &Attributes { resource: "groups", name: &group, ..base }).await?;
    }
    let own = Attributes { group: "authentication.k8s.io", ..base };
    if !uid.is_empty() {
        core.authorize(&user, &Attributes { resource: "uids", name: &uid, ..own }).await?;
    }
    for (key, values) in &extra {
        for value in values {
            let wanted = Attributes { resource: "userextras", subresource: key, name: value, ..own };
            core.authorize(&user, &wanted).await?;
        }
    }
    let known = if name == ANONYMOUS { GROUP_UNAUTHENTICATED } else { GROUP_AUTHENTICATED };
    if !groups.iter().any(|g| g == known) {
        groups.push(known.to_owned());
    }
    Ok(Arc::new(UserInfo { name, uid, groups, extra }))
}
