//! Subresources that are objects of another kind: scale, token, finalize.

use crate::core::{Core, RequestCx, Target, rfc3339};
use crate::decode;
use crate::managed::WriteKind;
use crate::metadata;
use crate::query::WriteQuery;
use crate::registry::{ScalePaths, SubresourceKind, at, find};
use crate::token::{KubernetesClaim, Reference};
use crate::write::{Part, Wish, modified};
use bytes::Bytes;
use orlop_apimachinery::selector::Selector;
use orlop_apimachinery::{Object, Status, field};
use orlop_client::PatchType;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Shortest life of a token that may be asked for, in seconds.
const MIN_TOKEN: i64 = 600;
/// Life of a token that names none.
const DEFAULT_TOKEN: i64 = 3600;
/// The life that the agents of nodes ask for; such tokens live a year, so that old clients that
/// never read them again go on working.
const EXTENDED_ASK: i64 = 3607;
const EXTENDED_TOKEN: i64 = 365 * 86_400;

impl Core {
    /// GET of a readable subresource of another kind (scale).
    pub(crate) async fn get_scale(
        &self,
        target: &Target<'_>,
        paths: &ScalePaths,
        resource_version: Option<u64>,
    ) -> Result<Arc<Object>, Status> {
        let object = self.get(target, resource_version).await?;
        scale_object(&object.to_value(), paths)
    }

    /// PUT and PATCH of `scale`.
    pub(crate) async fn write_scale(
        &self,
        cx: &RequestCx,
        target: &Target<'_>,
        paths: &ScalePaths,
        input: ScaleInput<'_>,
        query: &WriteQuery,
    ) -> Result<Arc<Object>, Status> {
        let transform = |old: Option<&Value>| {
            let old = old.ok_or_else(|| target.not_found())?;
            let scale = match input {
                ScaleInput::Whole(scale) => scale.clone(),
                ScaleInput::Patch(kind, body) => patch_scale(old, paths, kind, body)?,
            };
            let replicas = replicas(&scale)?;
            let mut object = old.clone();
            let meta = metadata::of(&mut object)?;
            match scale.pointer("/metadata/resourceVersion").and_then(Value::as_str) {
                Some(version) if !version.is_empty() => {
                    meta.insert("resourceVersion".to_owned(), version.into())
                }
                _ => meta.remove("resourceVersion"),
            };
            let wished_uid = metadata::text(&scale, "uid");
            if !wished_uid.is_empty() && wished_uid != metadata::text(old, "uid") {
                return Err(modified(target));
            }
            set_at(&mut object, paths.spec_replicas, replicas.into());
            Ok(Wish { object, kind: WriteKind::Update })
        };
        let written = self.update(cx, target, Part::Field, false, query, &transform).await?;
        scale_object(&written.object.to_value(), paths)
    }

    /// PUT of `finalize`: the finalizers of a namespace's spec; the last one gone removes it.
    pub(crate) async fn finalize(
        &self,
        cx: &RequestCx,
        target: &Target<'_>,
        body: &Value,
        query: &WriteQuery,
    ) -> Result<Arc<Object>, Status> {
        let finalizers = at(body, &["spec", "finalizers"]).cloned();
        let transform = |old: Option<&Value>| {
            let old = old.ok_or_else(|| target.not_found())?;
            let mut object = old.clone();
            let meta = metadata::of(&mut object)?;
            match body.pointer("/metadata/resourceVersion").and_then(Value::as_str) {
                Some(version) if !version.is_empty() => {
                    meta.insert("resourceVersion".to_owned(), version.into())
                }
                _ => meta.remove("resourceVersion"),
            };
            if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
                match &finalizers {
                    Some(list) => spec.insert("finalizers".to_owned(), list.clone()),
                    None => spec.remove("finalizers"),
                };
            }
            Ok(Wish { object, kind: WriteKind::Update })
        };
        let written = self.update(cx, target, Part::Field, false, query, &transform).await?;
        Ok(written.object)
    }

    /// POST of a TokenRequest.
    pub(crate) async fn issue_token(
        &self,
        cx: &RequestCx,
        target: &Target<'_>,
        body: Value,
        query: &WriteQuery,
    ) -> Result<Arc<Object>, Status> {
        let account = self.get(&Target { subresource: None, ..*target }, None).await?;
        let spec = body.get("spec").cloned().unwrap_or_else(|| json!({}));
        let audiences: Vec<String> = strings(spec.get("audiences"));
        let asked = spec.get("expirationSeconds").and_then(Value::as_i64).unwrap_or(DEFAULT_TOKEN);
        let mut faults = Vec::new();
        let path = field::Path::new("spec").child("expirationSeconds");
        if asked < MIN_TOKEN {
            faults.push(field::invalid(&path, asked, "may not specify a duration less than 10 minutes"));
        } else if asked > 1 << 32 {
            faults.push(field::invalid(&path, asked, "may not specify a duration larger than 2^32 seconds"));
        }
        if !faults.is_empty() {
            return Err(Status::invalid("authentication.k8s.io", "TokenRequest", target.name, faults));
        }
        let bound = spec.get("boundObjectRef").filter(|r| r.is_object());
        let mut claim = KubernetesClaim {
            namespace: target.namespace.to_owned(),
            serviceaccount: Reference { name: account.name().to_owned(), uid: account.uid().to_owned() },
            ..KubernetesClaim::default()
        };
        if let Some(reference) = bound {
            self.bind_claim(cx, target, reference, &mut claim).await?;
        }
        let now = cx.now.as_second();
        let mut lifetime = asked;
        if asked == EXTENDED_ASK
            && claim.pod.is_some()
            && audiences.iter().all(|a| self.tokens.audiences().contains(a))
        {
            lifetime = EXTENDED_TOKEN;
            claim.warnafter = Some(now + asked);
        }
        let token = if query.dry_run {
            String::new()
        } else {
            self.tokens
                .issue(claim, &audiences, now, lifetime)
                .map_err(|e| Status::internal(format!("failed to create token: {e}")))?
        };
        let audiences = if audiences.is_empty() { self.tokens.audiences().to_vec() } else { audiences };
        let expires = jiff::Timestamp::from_second(now + asked).unwrap_or(cx.now);
        let mut spec_out = json!({"audiences": audiences, "expirationSeconds": asked});
        if let (Some(reference), Value::Object(map)) = (bound, &mut spec_out) {
            map.insert("boundObjectRef".to_owned(), reference.clone());
        }
        let value = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "metadata": {"name": target.name, "namespace": target.namespace, "creationTimestamp": cx.timestamp()},
            "spec": spec_out,
            "status": {"token": token, "expirationTimestamp": rfc3339(expires)},
        });
        Object::from_value(&value).map(Arc::new).map_err(|e| Status::internal(e.to_string()))
    }

    async fn bind_claim(
        &self,
        cx: &RequestCx,
        target: &Target<'_>,
        reference: &Value,
        claim: &mut KubernetesClaim,
    ) -> Result<(), Status> {
        let text = |key: &str| reference.get(key).and_then(Value::as_str).unwrap_or_default();
        let (kind, name, uid) = (text("kind"), text("name"), text("uid"));
        let row = match (text("apiVersion"), kind) {
            ("v1", "Pod") => find("", "v1", "pods"),
            ("v1", "Secret") => find("", "v1", "secrets"),
            (version, kind) => {
                return Err(Status::bad_request(format!(
                    "cannot bind token for serviceaccount {:?} to type {version}, Kind={kind}",
                    target.name
                )));
            }
        };
        let Some(row) = row else { return Err(Status::internal("bound type is not served")) };
        let other = Target { row, namespace: target.namespace, name, subresource: None };
        let object = self.get(&other, None).await?;
        if !uid.is_empty() && uid != object.uid() {
            return Err(Status::conflict(
                &row.gvr,
                name,
                &format!(
                    "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
                ),
            ));
        }
        let bound = Reference { name: name.to_owned(), uid: object.uid().to_owned() };
        if kind == "Secret" {
            claim.secret = Some(bound);
            return Ok(());
        }
        let pod = object.to_value();
        let account = at(&pod, &["spec", "serviceAccountName"]).and_then(Value::as_str).unwrap_or_default();
        if account != target.name {
            return Err(Status::bad_request(format!(
                "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                target.name
            )));
        }
        let node = at(&pod, &["spec", "nodeName"]).and_then(Value::as_str).unwrap_or_default();
        if !node.is_empty()
            && let Some(nodes) = find("", "v1", "nodes")
        {
            let uid = self.shelf(nodes)?.get(node).map(|n| n.object().uid().to_owned()).unwrap_or_default();
            claim.node = Some(Reference { name: node.to_owned(), uid });
        }
        claim.pod = Some(bound);
        let _ = cx;
        Ok(())
    }
}

/// What a client sends to `scale`.
#[derive(Clone, Copy)]
pub(crate) enum ScaleInput<'a> {
    Whole(&'a Value),
    Patch(PatchType, &'a Bytes),
}

fn strings(value: Option<&Value>) -> Vec<String> {
    let items = value.and_then(Value::as_array).into_iter().flatten();
    items.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn replicas(scale: &Value) -> Result<i64, Status> {
    let replicas = at(scale, &["spec", "replicas"]).and_then(Value::as_i64).unwrap_or(0);
    if (0..=i64::from(i32::MAX)).contains(&replicas) {
        return Ok(replicas);
    }
    let path = field::Path::new("spec").child("replicas");
    let fault = field::invalid(&path, replicas, "must be greater than or equal to 0");
    Err(Status::invalid("autoscaling", "Scale", metadata::text(scale, "name"), vec![fault]))
}

fn scale_value(object: &Value, paths: &ScalePaths) -> Value {
    let replicas = at(object, paths.spec_replicas).and_then(Value::as_i64).unwrap_or(0);
    let current = at(object, paths.status_replicas).and_then(Value::as_i64).unwrap_or(0);
    let found = at(object, paths.selector).filter(|_| !paths.selector.is_empty());
    let selector = found.map(|selector| {
        if let Some(text) = selector.as_str() {
            // Custom types keep it as text.
            text.to_owned()
        } else if paths.selector_is_map {
            Selector::from_map(selector).to_string()
        } else {
            Selector::from_label_selector(selector).map(|s| s.to_string()).unwrap_or_default()
        }
    });
    let mut meta = Map::new();
    for key in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = at(object, &["metadata", key]) {
            meta.insert(key.to_owned(), value.clone());
        }
    }
    let mut spec = Map::new();
    if replicas != 0 {
        spec.insert("replicas".to_owned(), replicas.into());
    }
    let mut status = Map::new();
    status.insert("replicas".to_owned(), current.into());
    if let Some(selector) = selector.filter(|s| !s.is_empty()) {
        status.insert("selector".to_owned(), selector.into());
    }
    json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": meta, "spec": spec, "status": status})
}

fn scale_object(object: &Value, paths: &ScalePaths) -> Result<Arc<Object>, Status> {
    Object::from_value(&scale_value(object, paths)).map(Arc::new).map_err(|e| Status::internal(e.to_string()))
}

fn patch_scale(object: &Value, paths: &ScalePaths, kind: PatchType, body: &Bytes) -> Result<Value, Status> {
    use orlop_apimachinery::patch;
    let mut scale = scale_value(object, paths);
    if let Ok(meta) = metadata::of(&mut scale) {
        // A patch that names no revision does not insist on one.
        meta.remove("resourceVersion");
    }
    let body: Value = if kind == PatchType::Apply {
        decode::yaml_to_json(body)?
    } else {
        serde_json::from_slice(body).map_err(|e| Status::bad_request(format!("error decoding patch: {e}")))?
    };
    match kind {
        PatchType::Json => {
            patch::json_patch(&mut scale, &body).map_err(|e| Status::bad_request(e.to_string()))?;
        }
        // A Scale has no lists: all three merge alike.
        PatchType::Merge | PatchType::StrategicMerge | PatchType::Apply => {
            patch::merge_patch(&mut scale, &body)
        }
    }
    if at(&scale, &["spec", "replicas"]).is_some_and(|r| !r.is_i64() && !r.is_null()) {
        return Err(Status::bad_request(
            "Scale in version \"v1\" cannot be handled as a Scale: json: cannot unmarshal into Go struct field ScaleSpec.spec.replicas of type int32",
        ));
    }
    Ok(scale)
}

pub(crate) fn set_at(object: &mut Value, path: &[&str], value: Value) {
    let mut here = object;
    for key in path {
        if !here.is_object() {
            *here = Value::Object(Map::new());
        }
        let Value::Object(map) = here else { return };
        here = map.entry(*key).or_insert(Value::Null);
    }
    *here = value;
}

/// Sets one condition of a status, keeping its place.
pub(crate) fn set_condition(object: &mut Value, condition: Value) {
    let Some(map) = object.as_object_mut() else { return };
    let status = map.entry("status").or_insert_with(|| json!({}));
    let Some(status) = status.as_object_mut() else { return };
    let Value::Array(list) = status.entry("conditions").or_insert_with(|| json!([])) else { return };
    let kind = condition.get("type").cloned();
    match list.iter_mut().find(|c| c.get("type") == kind.as_ref()) {
        Some(slot) => *slot = condition,
        None => list.push(condition),
    }
}

/// Whether a subresource is one that a GET answers with an object.
pub(crate) const fn is_readable(kind: SubresourceKind) -> bool {
    matches!(kind, SubresourceKind::Status | SubresourceKind::Scale(_))
}
