//! What of two lists of permissions is common.

use super::*;

fn permission(groups: &[&str], resources: &[&str], verbs: &[&str]) -> Permission {
    let texts = |list: &[&str]| list.iter().map(|t| (*t).to_owned()).collect();
    Permission { api_groups: texts(groups), resources: texts(resources), verbs: texts(verbs) }
}

#[test]
fn what_both_lists_allow_and_nothing_else() {
    let asked = [
        permission(&[""], &["pods", "pods/status", "secrets"], &["create", "delete", "patch"]),
        permission(&["apps"], &["*"], &["*"]),
    ];
    let given = [
        permission(&["*"], &["pods", "*/status"], &["create", "patch", "update"]),
        permission(&["apps"], &["deployments"], &["delete"]),
    ];
    let common = both(&asked, &given);
    let allows = |verb, group, resource, sub| common.iter().any(|g| g.allows(verb, group, resource, sub));
    assert!(allows("create", "", "pods", ""));
    assert!(allows("patch", "", "pods", "status"));
    assert!(allows("delete", "apps", "deployments", ""));
    assert!(
        allows("update", "apps", "pods", ""),
        "both allow it, though by different rules of the first list"
    );
    for (verb, group, resource, sub) in [
        ("delete", "", "pods", ""),
        ("update", "", "pods", ""),
        ("create", "", "secrets", ""),
        ("delete", "apps", "replicasets", ""),
        ("create", "batch", "pods", ""),
    ] {
        assert!(!allows(verb, group, resource, sub), "{verb} {group} {resource} {sub}");
    }
    assert!(both(&asked, &[]).is_empty());
    assert_eq!(both(&asked, &asked).iter().filter(|g| g.allows("create", "", "secrets", "")).count(), 1);
}
