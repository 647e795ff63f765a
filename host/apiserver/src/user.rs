//! Who makes a request: the result of authentication, and what authorization and admission see.

use std::collections::BTreeMap;

/// Name of a request that presented no credential.
pub const ANONYMOUS: &str = "system:anonymous";
/// Group of every authenticated user.
pub const GROUP_AUTHENTICATED: &str = "system:authenticated";
/// Group of requests that presented no credential.
pub const GROUP_UNAUTHENTICATED: &str = "system:unauthenticated";
/// Members may do everything, whatever the policy says.
pub const GROUP_MASTERS: &str = "system:masters";
/// Group of all plugins.
pub const GROUP_PLUGINS: &str = "system:plugins";
/// Prefix of a plugin's user name; the name of its `Plugin` object follows.
pub const PLUGIN_PREFIX: &str = "system:plugin:";
/// Prefix of a service account's user name.
pub const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";

/// `authentication.k8s.io/v1 UserInfo`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// User name; never empty for a request that was let in.
    pub name: String,
    /// Empty where the authenticator knows none.
    pub uid: String,
    /// With `system:authenticated` or `system:unauthenticated` last.
    pub groups: Vec<String>,
    /// Such as `authentication.kubernetes.io/pod-name`.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// An authenticated user; `system:authenticated` is added to the groups.
    #[must_use]
    pub fn new(name: impl Into<String>, groups: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let mut groups: Vec<String> = groups.into_iter().map(Into::into).collect();
        if !groups.iter().any(|g| g == GROUP_AUTHENTICATED) {
            groups.push(GROUP_AUTHENTICATED.to_owned());
        }
        Self { name: name.into(), uid: String::new(), groups, extra: BTreeMap::new() }
    }

    /// `system:serviceaccount:<namespace>:<name>` with the groups that go with it.
    #[must_use]
    pub fn service_account(namespace: &str, name: &str, uid: &str) -> Self {
        Self {
            name: format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}"),
            uid: uid.to_owned(),
            groups: vec![
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{namespace}"),
                GROUP_AUTHENTICATED.to_owned(),
            ],
            extra: BTreeMap::new(),
        }
    }

    /// `system:plugin:<name>` with the groups that go with it. It may do what roles and policies say,
    /// which is nothing where nobody said anything.
    #[must_use]
    pub fn plugin(name: &str) -> Self {
        Self::new(format!("{PLUGIN_PREFIX}{name}"), [GROUP_PLUGINS])
    }

    /// `system:anonymous`
    #[must_use]
    pub fn anonymous() -> Self {
        Self {
            name: ANONYMOUS.to_owned(),
            uid: String::new(),
            groups: vec![GROUP_UNAUTHENTICATED.to_owned()],
            extra: BTreeMap::new(),
        }
    }

    /// A `system:masters` member of the given name: the host's own parts.
    #[must_use]
    pub fn master(name: impl Into<String>) -> Self {
        Self::new(name, [GROUP_MASTERS])
    }

    /// Whether the user is in `group`.
    #[must_use]
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}
