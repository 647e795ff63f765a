//! Reviews: virtual resources that answer at once and are stored nowhere.

use crate::authz::{Attributes, Decision};
use crate::core::{Core, RequestCx, Target};
use crate::registry::{Review, at};
use crate::user::UserInfo;
use orlop_apimachinery::{Object, Status, field};
use serde_json::{Map, Value, json};
use std::sync::Arc;

impl Core {
    /// POST of a review.
    pub(crate) async fn review(
        &self,
        cx: &RequestCx,
        target: &Target<'_>,
        review: Review,
        mut body: Value,
    ) -> Result<Arc<Object>, Status> {
        let row = target.row;
        let status = match review {
            Review::Token => self.token_review(&body),
            Review::SelfSubject => json!({"userInfo": user_value(&cx.user)}),
            Review::SubjectAccess | Review::LocalSubjectAccess => {
                let spec = body.get("spec").cloned().unwrap_or_default();
                let user = subject(&spec);
                if user.name.is_empty() && user.groups.is_empty() {
                    let path = field::Path::new("spec").child("user");
                    let fault = field::invalid(&path, "", "at least one of user or group must be specified");
                    return Err(Status::invalid(&row.gvr.group, row.kind, "", vec![fault]));
                }
                if review == Review::LocalSubjectAccess {
                    let namespace = at(&spec, &["resourceAttributes", "namespace"]).and_then(Value::as_str);
                    if namespace != Some(target.namespace) {
                        return Err(Status::bad_request(format!(
                            "spec.resourceAttributes.namespace must match namespace: {}",
                            target.namespace
                        )));
                    }
                }
                self.access(&user, &spec, row.kind).await?
            }
            Review::SelfSubjectAccess => {
                let spec = body.get("spec").cloned().unwrap_or_default();
                self.access(&cx.user, &spec, row.kind).await?
            }
            Review::SelfSubjectRules => {
                let namespace = at(&body, &["spec", "namespace"]).and_then(Value::as_str).unwrap_or_default();
                if namespace.is_empty() {
                    return Err(Status::bad_request("no namespace on request"));
                }
                let (resources, paths, incomplete) = self.authorizer.rules(&cx.user, namespace).await;
                json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": incomplete})
            }
        };
        if let Value::Object(map) = &mut body {
            map.insert("status".to_owned(), status);
            let meta = map.entry("metadata").or_insert_with(|| json!({}));
            if let Value::Object(meta) = meta {
                meta.entry("creationTimestamp").or_insert(Value::Null);
            }
        }
        Object::from_value(&body).map(Arc::new).map_err(|e| Status::internal(e.to_string()))
    }

    fn token_review(&self, body: &Value) -> Value {
        let token = at(body, &["spec", "token"]).and_then(Value::as_str).unwrap_or_default();
        let audiences: Vec<String> = list(at(body, &["spec", "audiences"]));
        match self.authenticator.token(token, &audiences) {
            Some(user) => {
                let audiences =
                    if audiences.is_empty() { self.tokens.audiences().to_vec() } else { audiences };
                json!({"authenticated": true, "user": user_value(&user), "audiences": audiences})
            }
            None => json!({"authenticated": false, "user": {}, "error": "invalid bearer token"}),
        }
    }

    async fn access(&self, user: &UserInfo, spec: &Value, kind: &str) -> Result<Value, Status> {
        let resource = spec.get("resourceAttributes").filter(|v| v.is_object());
        let path = spec.get("nonResourceAttributes").filter(|v| v.is_object());
        let attributes = match (resource, path) {
            (Some(r), None) => {
                let text = |key: &str| r.get(key).and_then(Value::as_str).unwrap_or_default();
                Attributes {
                    verb: text("verb"),
                    group: text("group"),
                    version: text("version"),
                    resource: text("resource"),
                    subresource: text("subresource"),
                    namespace: text("namespace"),
                    name: text("name"),
                    path: "",
                }
            }
            (None, Some(p)) => {
                let text = |key: &str| p.get(key).and_then(Value::as_str).unwrap_or_default();
                Attributes { verb: text("verb"), path: text("path"), ..Attributes::default() }
            }
            _ => {
                let fault = field::invalid(
                    &field::Path::new("spec").child("resourceAttributes"),
                    Value::Null,
                    "exactly one of nonResourceAttributes or resourceAttributes must be specified",
                );
                return Err(Status::invalid("authorization.k8s.io", kind, "", vec![fault]));
            }
        };
        Ok(match self.authorizer.authorize(user, &attributes).await {
            Decision::Allow(reason) => with_reason(json!({"allowed": true}), &reason),
            Decision::NoOpinion(reason) => with_reason(json!({"allowed": false}), &reason),
            Decision::Deny(reason) => with_reason(json!({"allowed": false, "denied": true}), &reason),
        })
    }
}

fn with_reason(mut status: Value, reason: &str) -> Value {
    if let (false, Value::Object(map)) = (reason.is_empty(), &mut status) {
        map.insert("reason".to_owned(), reason.into());
    }
    status
}

fn list(value: Option<&Value>) -> Vec<String> {
    let items = value.and_then(Value::as_array).into_iter().flatten();
    items.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn subject(spec: &Value) -> UserInfo {
    let text = |key: &str| spec.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    UserInfo { name: text("user"), uid: text("uid"), groups: list(spec.get("groups")), ..UserInfo::default() }
}

/// `UserInfo` as clients see it.
pub(crate) fn user_value(user: &UserInfo) -> Value {
    let mut out = Map::new();
    out.insert("username".to_owned(), user.name.clone().into());
    if !user.uid.is_empty() {
        out.insert("uid".to_owned(), user.uid.clone().into());
    }
    out.insert("groups".to_owned(), user.groups.clone().into());
    if !user.extra.is_empty() {
        out.insert("extra".to_owned(), json!(user.extra));
    }
    Value::Object(out)
}
