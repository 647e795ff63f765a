//! `pods/binding`: puts a pod on a node.
//!
//! As upstream, this changes the stored pod itself and passes by what an update of a pod runs through: nobody
//! comes to own a field, and the generation stays.

use crate::admission::Operation;
use crate::core::{Core, RequestCx, Target};
use crate::metadata;
use crate::query::{WriteQuery, resource_version};
use crate::registry::at;
use crate::status;
use crate::subresources::{set_at, set_condition};
use crate::write::{ATTEMPTS, Commit, modified, options, refuse};
use orlop_apimachinery::{Object, Status, field};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// What a `Binding` asks for.
struct Binding<'b> {
    node: &'b str,
    uid: &'b str,
    version: Option<u64>,
    annotations: Option<&'b Map<String, Value>>,
    labels: Option<&'b Map<String, Value>>,
}

impl<'b> Binding<'b> {
    fn read(target: &Target<'_>, body: &'b Value) -> Result<Self, Status> {
        let named = metadata::text(body, "name");
        if !named.is_empty() && named != target.name {
            return Err(Status::bad_request(format!(
                "the name of the object ({named}) does not match the name on the URL ({})",
                target.name
            )));
        }
        let namespace = metadata::text(body, "namespace");
        if !namespace.is_empty() && namespace != target.namespace {
            return Err(Status::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        let node = at(body, &["target", "name"]).and_then(Value::as_str).unwrap_or_default();
        let kind = at(body, &["target", "kind"]).and_then(Value::as_str).unwrap_or_default();
        let mut faults = Vec::new();
        let path = field::Path::new("target");
        if !matches!(kind, "" | "Node") {
            faults.push(field::not_supported(&path.child("kind"), kind, &["Node", "<empty>"]));
        }
        if node.is_empty() {
            faults.push(field::required(&path.child("name"), ""));
        }
        if !faults.is_empty() {
            return Err(Status::invalid("", "Binding", target.name, faults));
        }
        Ok(Self {
            node,
            uid: metadata::text(body, "uid"),
            version: resource_version(metadata::text(body, "resourceVersion"))?.filter(|v| *v != 0),
            annotations: at(body, &["metadata", "annotations"]).and_then(Value::as_object),
            labels: at(body, &["metadata", "labels"]).and_then(Value::as_object),
        })
    }

    /// Why the pod cannot be bound.
    fn refusal(&self, target: &Target<'_>, pod: &Value) -> Option<Status> {
        let uid = metadata::text(pod, "uid");
        let assigned = at(pod, &["spec", "nodeName"]).and_then(Value::as_str).unwrap_or_default();
        let why = if !self.uid.is_empty() && self.uid != uid {
            format!("Precondition failed: UID in precondition: {}, UID in object meta: {uid}", self.uid)
        } else if !metadata::text(pod, "deletionTimestamp").is_empty() {
            format!("pod {} is being deleted, cannot be assigned to a host", target.name)
        } else if !assigned.is_empty() {
            format!("pod {} is already assigned to node {assigned:?}", target.name)
        } else if at(pod, &["spec", "schedulingGates"])
            .and_then(Value::as_array)
            .is_some_and(|g| !g.is_empty())
        {
            format!("pod {} has non-empty .spec.schedulingGates", target.name)
        } else {
            return None;
        };
        let mut status = Status::conflict(&target.row.gvr, target.name, &why);
        status.message = format!("Operation cannot be fulfilled on pods/binding \"{}\": {why}", target.name);
        Some(status)
    }

    fn apply(&self, pod: &mut Value, now: &str) -> Result<(), Status> {
        let meta = metadata::of(pod)?;
        meta.remove("resourceVersion");
        for (key, extra) in [("annotations", self.annotations), ("labels", self.labels)] {
            let Some(extra) = extra else { continue };
            let slot = meta.entry(key).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(map) = slot {
                map.extend(extra.iter().map(|(k, v)| (k.clone(), v.clone())));
            }
        }
        set_at(pod, &["spec", "nodeName"], self.node.into());
        if let Some(status) = pod.get_mut("status").and_then(Value::as_object_mut) {
            status.remove("nominatedNodeName");
        }
        let scheduled = |c: &&Value| c.get("type").and_then(Value::as_str) == Some("PodScheduled");
        let before = at(pod, &["status", "conditions"]).and_then(Value::as_array);
        let since = before
            .and_then(|conditions| conditions.iter().find(scheduled))
            .filter(|c| c.get("status").and_then(Value::as_str) == Some("True"))
            .and_then(|c| c.get("lastTransitionTime").and_then(Value::as_str))
            .unwrap_or(now)
            .to_owned();
        set_condition(
            pod,
            json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": since}),
        );
        Ok(())
    }
}

impl Core {
    /// POST of a binding.
    pub(crate) async fn bind(
        &self,
        cx: &RequestCx,
        target: &Target<'_>,
        body: &Value,
        query: &WriteQuery,
    ) -> Result<Status, Status> {
        let binding = Binding::read(target, body)?;
        let now = cx.timestamp();
        let mut current = self.shelf(target.row)?.get(&target.key());
        let mut fresh = false;
        for _ in 0..ATTEMPTS {
            if current.is_none() && !fresh {
                current = self.fresh(target.row, target.namespace, target.name).await?;
                fresh = true;
            }
            let entry = current.as_ref().ok_or_else(|| target.not_found())?;
            let revision = entry.object().meta().resource_version;
            let mut pod = entry.object().to_value();
            let refused = binding.refusal(target, &pod).or_else(|| {
                binding.version.is_some_and(|wanted| wanted != revision).then(|| modified(target))
            });
            match refused {
                None => {}
                Some(refused) if fresh => return Err(refused),
                // What the cache has may be old: the store's state judges.
                Some(_) => {
                    current = None;
                    continue;
                }
            }
            binding.apply(&mut pod, &now)?;
            let pod = self.admit_binding(cx, target, query, pod, entry.object()).await?;
            if query.dry_run {
                return Ok(bound());
            }
            match self.commit(target, &pod, revision).await? {
                Commit::Done(_) => return Ok(bound()),
                Commit::Lost(_) if binding.version.is_some() => return Err(modified(target)),
                Commit::Lost(latest) => {
                    current = latest;
                    fresh = true;
                }
            }
        }
        Err(modified(target))
    }

    /// The plugins' word, and what holds for all metadata.
    async fn admit_binding(
        &self,
        cx: &RequestCx,
        target: &Target<'_>,
        query: &WriteQuery,
        pod: Value,
        old: &Arc<Object>,
    ) -> Result<Value, Status> {
        let row = target.row;
        if !self.admits(target, Operation::Update) {
            refuse(row, &pod, metadata::faults(row, &pod))?;
            return Ok(pod);
        }
        let options = options("UpdateOptions", query);
        let old = Some(old.clone());
        let mut request =
            self.admission_request(cx, target, Operation::Update, Some(pod), old, options, query.dry_run);
        let changed = self.mutate(cx, &mut request).await?;
        let mut pod = request.object.take().unwrap_or_default();
        if changed {
            crate::schema::after_admission(row, &mut pod)?;
            row.strategy.default(&mut pod);
        }
        refuse(row, &pod, metadata::faults(row, &pod))?;
        request.object = Some(pod);
        self.validate(cx, &request).await?;
        Ok(request.object.take().unwrap_or_default())
    }
}

fn bound() -> Status {
    let mut done = status::success(None);
    done.code = 201;
    done
}
