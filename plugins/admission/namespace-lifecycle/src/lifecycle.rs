//! The rule. Source: `k8s.io/apiserver/pkg/admission/plugin/namespace/lifecycle`.

use orlop_sdk::admission::{Operation, Request, Response};
use orlop_sdk::apimachinery::{Cause, Gvr, Status};
use serde_json::Value;

/// These are never deleted. `kube-node-lease` is not among them upstream either.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

const NAMESPACES: Gvr = Gvr::new("", "v1", "namespaces");

/// Decides about one request.
pub(crate) fn admit(request: &Request) -> Response {
    let about_namespace = request.group.is_empty() && request.resource == "namespaces";
    if request.operation == Operation::Delete {
        let immortal =
            about_namespace && request.subresource.is_empty() && IMMORTAL.contains(&request.name.as_str());
        return if immortal {
            Response::deny(request.forbidden("this namespace may not be deleted"))
        } else {
            Response::allow()
        };
    }
    if about_namespace || request.namespace.is_empty() || is_access_review(request) {
        return Response::allow();
    }
    let namespace = request.context(0);
    if namespace.is_null() {
        return Response::deny(Status::not_found(&NAMESPACES, &request.namespace));
    }
    let ending = namespace.pointer("/status/phase").and_then(Value::as_str) == Some("Terminating");
    if ending && request.operation == Operation::Create {
        return Response::deny(terminating(request));
    }
    Response::allow()
}

/// Questions about access may be asked about namespaces that do not exist.
fn is_access_review(request: &Request) -> bool {
    request.group == "authorization.k8s.io" && request.resource == "localsubjectaccessreviews"
}

fn terminating(request: &Request) -> Status {
    let namespace = &request.namespace;
    let mut status = request.forbidden(&format!(
        "unable to create new content in namespace {namespace} because it is being terminated"
    ));
    if let Some(details) = &mut status.details {
        details.causes.push(Cause {
            reason: "NamespaceTerminating".to_owned(),
            message: format!("namespace {namespace} is being terminated"),
            field: "metadata.namespace".to_owned(),
        });
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn create(namespace: &Value) -> Request {
        let object = json!({ "metadata": { "name": "web", "namespace": "shop" } });
        let pods = Gvr::new("", "v1", "pods");
        Request {
            context: vec![namespace.clone()],
            ..Request::new(Operation::Create, &pods, "Pod", "shop", object)
        }
    }

    fn message(response: &Response) -> &str {
        response.denied().map_or("", |s| s.message.as_str())
    }

    #[test]
    fn a_missing_namespace_is_not_found() {
        let response = admit(&create(&Value::Null));
        assert_eq!(message(&response), "namespaces \"shop\" not found");
        assert_eq!(response.denied().unwrap().code, 404);
        let update = Request { operation: Operation::Update, ..create(&Value::Null) };
        assert_eq!(admit(&update).denied().unwrap().code, 404);
    }

    #[test]
    fn an_ending_namespace_takes_nothing_new_but_lets_what_is_there_change() {
        let ending: Value = serde_json::from_str(include_str!("../testdata/terminating.json")).unwrap();
        let response = admit(&create(&ending));
        assert_eq!(
            message(&response),
            "pods \"web\" is forbidden: unable to create new content in namespace shop because it is being terminated"
        );
        let status = response.denied().unwrap();
        let causes = &status.details.as_ref().unwrap().causes;
        assert_eq!(status.code, 403);
        assert_eq!(causes.len(), 1);
        assert_eq!(causes[0].reason, "NamespaceTerminating");
        assert_eq!(causes[0].message, "namespace shop is being terminated");
        assert_eq!(causes[0].field, "metadata.namespace");
        for operation in [Operation::Update, Operation::Delete] {
            assert!(admit(&Request { operation, ..create(&ending) }).denied().is_none());
        }
    }

    #[test]
    fn a_live_namespace_takes_everything() {
        assert!(admit(&create(&json!({ "status": { "phase": "Active" } }))).denied().is_none());
        assert!(admit(&create(&json!({ "metadata": {} }))).denied().is_none());
    }

    #[test]
    fn generated_names_show_their_prefix() {
        let mut request = create(&json!({ "status": { "phase": "Terminating" } }));
        request.name = String::new();
        request.object = json!({ "metadata": { "generateName": "web-" } });
        assert!(message(&admit(&request)).starts_with("pods \"web-\" is forbidden: "));
    }

    #[test]
    fn the_systems_namespaces_are_immortal() {
        for (name, immortal) in
            [("default", true), ("kube-system", true), ("kube-public", true), ("shop", false)]
        {
            let mut request = Request::new(Operation::Delete, &NAMESPACES, "Namespace", "", Value::Null);
            request.name = name.to_owned();
            let response = admit(&request);
            assert_eq!(response.denied().is_some(), immortal, "{name}");
            if immortal {
                let expected =
                    format!("namespaces \"{name}\" is forbidden: this namespace may not be deleted");
                assert_eq!(message(&response), expected);
            }
        }
    }

    #[test]
    fn access_reviews_pass() {
        let gvr = Gvr::new("authorization.k8s.io", "v1", "localsubjectaccessreviews");
        let request = Request::new(Operation::Create, &gvr, "LocalSubjectAccessReview", "nowhere", json!({}));
        assert!(admit(&request).denied().is_none());
    }
}
