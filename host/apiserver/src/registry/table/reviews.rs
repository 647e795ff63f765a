//! Reviews of identities and permissions: nothing is stored.

use super::super::{Backing, Resource, Review};
use super::{CREATE, base};
use orlop_apimachinery::Gvr;

fn review(
    group: &'static str,
    resource: &'static str,
    kind: &'static str,
    singular: &'static str,
    review: Review,
    namespaced: bool,
) -> Resource {
    Resource {
        gvr: Gvr::new(group, "v1", resource),
        kind,
        singular,
        namespaced,
        verbs: CREATE,
        backing: Backing::Review(review),
        ..base()
    }
}

pub(super) fn rows() -> Vec<Resource> {
    vec![
        review(
            "authentication.k8s.io",
            "selfsubjectreviews",
            "SelfSubjectReview",
            "selfsubjectreview",
            Review::SelfSubject,
            false,
        ),
        review("authentication.k8s.io", "tokenreviews", "TokenReview", "tokenreview", Review::Token, false),
        review(
            "authorization.k8s.io",
            "localsubjectaccessreviews",
            "LocalSubjectAccessReview",
            "localsubjectaccessreview",
            Review::LocalSubjectAccess,
            true,
        ),
        review(
            "authorization.k8s.io",
            "selfsubjectaccessreviews",
            "SelfSubjectAccessReview",
            "selfsubjectaccessreview",
            Review::SelfSubjectAccess,
            false,
        ),
        review(
            "authorization.k8s.io",
            "selfsubjectrulesreviews",
            "SelfSubjectRulesReview",
            "selfsubjectrulesreview",
            Review::SelfSubjectRules,
            false,
        ),
        review(
            "authorization.k8s.io",
            "subjectaccessreviews",
            "SubjectAccessReview",
            "subjectaccessreview",
            Review::SubjectAccess,
            false,
        ),
    ]
}
