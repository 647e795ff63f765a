//! Which account a pod runs as, and what the account brings along. Source:
//! `plugin/pkg/admission/serviceaccount`.

use crate::{references, token};
use orlop_sdk::admission::{Patch, Request, Response};
use serde_json::{Value, json};

const DEFAULT: &str = "default";
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Text at a JSON pointer; empty where there is none.
pub(crate) fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Items at a JSON pointer; empty where there is no list.
pub(crate) fn items<'v>(value: &'v Value, pointer: &str) -> &'v [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn is_mirror(pod: &Value) -> bool {
    pod.pointer("/metadata/annotations").is_some_and(|a| a.get(MIRROR).is_some())
}

/// The account that the pod names, by either of the two fields.
fn named(pod: &Value) -> &str {
    match text(pod, "/spec/serviceAccountName") {
        "" => text(pod, "/spec/serviceAccount"),
        name => name,
    }
}

/// Fills in what is missing, then refuses what [`check`] refuses.
pub(crate) fn mutate(request: &Request) -> Response {
    let pod = &request.object;
    if is_mirror(pod) {
        return match check(request) {
            Ok(()) => Response::allow(),
            Err(why) => Response::deny(request.forbidden(&why)),
        };
    }
    let name = match named(pod) {
        "" => DEFAULT,
        name => name,
    };
    let account = request.context(0);
    if let Err(why) = exists(request, name).and_then(|()| references::check(account, pod)) {
        return Response::deny(request.forbidden(&why));
    }
    let mut patch = Patch::new();
    for field in ["serviceAccountName", "serviceAccount"] {
        if pod.pointer("/spec").and_then(|s| s.get(field)).and_then(Value::as_str) != Some(name) {
            patch.set(pod, &["spec", field], json!(name));
        }
    }
    if should_mount(account, pod) {
        token::mount(&mut patch, pod);
    }
    if items(pod, "/spec/imagePullSecrets").is_empty() {
        let secrets: Vec<Value> =
            items(account, "/imagePullSecrets").iter().map(|s| json!({ "name": text(s, "/name") })).collect();
        if !secrets.is_empty() {
            patch.set(pod, &["spec", "imagePullSecrets"], Value::Array(secrets));
        }
    }
    Response::patch(patch)
}

/// Refuses pods that refer to what they may not use. The error is what stands after `is forbidden: `.
pub(crate) fn check(request: &Request) -> Result<(), String> {
    let pod = &request.object;
    if is_mirror(pod) {
        return check_mirror(pod);
    }
    let name = named(pod);
    if name.is_empty() {
        return Err(format!("no service account specified for pod {}/{}", request.namespace, request.name));
    }
    exists(request, name)?;
    references::check(request.context(0), pod)
}

/// Mirror pods are the node's report of what it runs already: nobody may add rights to them.
fn check_mirror(pod: &Value) -> Result<(), String> {
    if !named(pod).is_empty() {
        return Err("a mirror pod may not reference service accounts".to_owned());
    }
    if references::names_a_secret(pod) {
        return Err("a mirror pod may not reference secrets".to_owned());
    }
    let projects_token = items(pod, "/spec/volumes")
        .iter()
        .flat_map(|v| items(v, "/projected/sources"))
        .any(|s| s.get("serviceAccountToken").is_some());
    if projects_token {
        return Err("a mirror pod may not use ServiceAccountToken volume projections".to_owned());
    }
    Ok(())
}

fn exists(request: &Request, name: &str) -> Result<(), String> {
    if request.context(0).is_null() {
        let namespace = &request.namespace;
        return Err(format!(
            "error looking up service account {namespace}/{name}: serviceaccount \"{name}\" not found"
        ));
    }
    Ok(())
}

/// The pod's word counts before the account's; without either it is mounted.
fn should_mount(account: &Value, pod: &Value) -> bool {
    let said = |value: Option<&Value>| value.and_then(Value::as_bool);
    said(pod.pointer("/spec/automountServiceAccountToken"))
        .or_else(|| said(account.get("automountServiceAccountToken")))
        .unwrap_or(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use orlop_sdk::admission::{Operation, Outcome};
    use orlop_sdk::apimachinery::Gvr;

    fn request(pod: Value, account: Value) -> Request {
        let pods = Gvr::new("", "v1", "pods");
        Request { context: vec![account], ..Request::new(Operation::Create, &pods, "Pod", "shop", pod) }
    }

    fn patch(response: Response) -> Value {
        match response.outcome {
            Outcome::Allow(patch) => serde_json::from_slice(&patch.into_bytes()).unwrap_or(Value::Null),
            Outcome::Deny(status) => panic!("{status}"),
        }
    }

    fn denied(response: &Response) -> &str {
        response.denied().map_or("", |s| s.message.as_str())
    }

    #[test]
    fn every_case_of_the_table() {
        let cases: Value = serde_json::from_str(include_str!("../testdata/cases.json")).unwrap();
        for case in cases.as_array().unwrap() {
            let request = request(case["pod"].clone(), case["account"].clone());
            let response = mutate(&request);
            match case["denied"].as_str() {
                Some(message) => assert_eq!(denied(&response), message, "{}", case["name"]),
                None => assert_eq!(patch(response), case["patch"], "{}", case["name"]),
            }
        }
    }

    #[test]
    fn a_pod_without_an_account_is_refused_by_the_second_phase() {
        let request = request(json!({ "metadata": { "name": "p" }, "spec": {} }), json!({}));
        assert_eq!(check(&request).unwrap_err(), "no service account specified for pod shop/p");
    }
}
