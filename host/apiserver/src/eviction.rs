//! The eviction of a pod: a delete that a PodDisruptionBudget may refuse.
//!
//! Source: `pkg/registry/core/pod/storage/eviction.go`. A budget's `disruptionsAllowed` is counted
//! down before the pod goes, so that two evictions never take the same allowance.

use crate::cache::{Filter, Scope};
use crate::core::{Core, RequestCx, Target, rfc3339};
use crate::delete::{DeleteRequest, Deleted};
use crate::managed::WriteKind;
use crate::metadata;
use crate::query::{Query, WriteQuery};
use crate::registry::{Resource, at, find};
use crate::status;
use crate::subresources::set_condition;
use crate::write::{Part, Wish};
use orlop_apimachinery::selector::Selector;
use orlop_apimachinery::status::{Cause, Details};
use orlop_apimachinery::{Reason, Status};
use serde_json::{Map, Value, json};

/// How often an eviction is tried while the pod changes.
const ATTEMPTS: usize = 16;
/// Evictions that the controller of budgets has not seen yet.
const MOST_DISRUPTED: usize = 2000;
const REFUSAL: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

/// What the budgets of a pod say.
enum Verdict {
    /// No budget speaks against it. Only for the pod as it was looked at.
    Free,
    /// This budget must be asked.
    Ask(String),
}

impl Core {
    /// POST of an eviction.
    pub(crate) async fn evict(
        &self,
        cx: &RequestCx,
        target: &Target<'_>,
        body: &Value,
        dry_run: bool,
    ) -> Result<Status, Status> {
        let name = metadata::text(body, "name");
        if !name.is_empty() && name != target.name {
            return Err(Status::bad_request(format!(
                "name in URL does not match name in Eviction object: {} != {name}",
                target.name
            )));
        }
        let options = body.get("deleteOptions").filter(|o| o.is_object());
        let mut options = options.cloned().unwrap_or_else(|| json!({}));
        if let Value::Object(map) = &mut options {
            map.remove("kind");
        }
        let mut request = DeleteRequest::parse(Some(&options), &Query::default())?;
        request.dry_run |= dry_run;
        let pod = Target { subresource: None, ..*target };
        let budgets = find("policy", "v1", "poddisruptionbudgets").ok_or_else(status::no_such_path)?;
        for _ in 0..ATTEMPTS {
            let seen = self.get(&pod, None).await?.to_value();
            let mut request = request.clone();
            let version = crate::query::resource_version(metadata::text(&seen, "resourceVersion"))?;
            match self.budget_of(budgets, target.namespace, &seen).await? {
                Verdict::Free if request.resource_version.is_none() => {
                    // Only the pod as it was looked at goes without a budget.
                    request.resource_version = version;
                    match self.delete(cx, &pod, &request).await {
                        Err(refusal) if refusal.is(Reason::Conflict) => continue,
                        done => return done.map(|_| created()),
                    }
                }
                Verdict::Free => {}
                Verdict::Ask(budget) => {
                    self.take_allowance(cx, budgets, target, &budget, request.dry_run).await?;
                    if !request.dry_run {
                        self.mark_disrupted(cx, &pod).await;
                    }
                }
            }
            return self.delete(cx, &pod, &request).await.map(|_: Deleted| created());
        }
        Err(crate::write::modified(&pod))
    }

    /// Which budget has a say in the eviction of `pod`.
    async fn budget_of(
        &self,
        budgets: &'static Resource,
        namespace: &str,
        pod: &Value,
    ) -> Result<Verdict, Status> {
        let phase = at(pod, &["status", "phase"]).and_then(Value::as_str).unwrap_or_default();
        let going = !metadata::text(pod, "deletionTimestamp").is_empty();
        if going || matches!(phase, "Pending" | "Succeeded" | "Failed") {
            return Ok(Verdict::Free);
        }
        self.cache.wait_current().await.map_err(|e| status::from_store(&e))?;
        let filter = Filter {
            scope: Scope::Namespace(namespace.into()),
            labels: Selector::everything(),
            fields: Default::default(),
        };
        let labels = at(pod, &["metadata", "labels"]).unwrap_or(&Value::Null);
        let all = self.shelf(budgets)?.list(&filter, "", 0).entries;
        let matching = all.iter().map(|e| e.object().to_value()).filter(|budget| {
            let selector = at(budget, &["spec", "selector"]).unwrap_or(&Value::Null);
            Selector::from_label_selector(selector).is_ok_and(|s| s.matches_value(labels))
        });
        let matching: Vec<Value> = matching.collect();
        match matching.as_slice() {
            [] => Ok(Verdict::Free),
            [budget] if is_exempt(budget, pod) => Ok(Verdict::Free),
            [budget] => Ok(Verdict::Ask(metadata::text(budget, "name").to_owned())),
            _ => {
                let message = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
                let mut status = Status::internal("");
                status.message = message.to_owned();
                Err(status)
            }
        }
    }

    /// Counts one disruption of the budget, or refuses.
    async fn take_allowance(
        &self,
        cx: &RequestCx,
        row: &'static Resource,
        pod: &Target<'_>,
        name: &str,
        dry_run: bool,
    ) -> Result<(), Status> {
        let target = Target { row, namespace: pod.namespace, name, subresource: row.subresource("status") };
        let now = rfc3339(cx.now);
        let transform = |old: Option<&Value>| {
            let old = old.ok_or_else(|| target.not_found())?;
            let object = spend(old, pod.name, &now).map_err(|refusal| match refusal {
                Refusal::Busy(cause, retry) => too_many(cause, retry),
                Refusal::Forbidden(why) => Status::forbidden(&row.gvr, name, why),
            })?;
            Ok(Wish { object, kind: WriteKind::Update })
        };
        let query = WriteQuery { dry_run, ..WriteQuery::default() };
        self.update(cx, &target, Part::Status, false, &query, &transform).await.map(|_| ())
    }

    /// Writes into the pod why it ends. Its eviction goes on where that fails.
    async fn mark_disrupted(&self, cx: &RequestCx, pod: &Target<'_>) {
        let target = Target { subresource: pod.row.subresource("status"), ..*pod };
        let now = rfc3339(cx.now);
        let transform = |old: Option<&Value>| {
            let mut object = old.cloned().ok_or_else(|| target.not_found())?;
            metadata::of(&mut object)?.remove("resourceVersion");
            let condition = json!({
                "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
                "message": "Eviction API: evicting", "lastProbeTime": null, "lastTransitionTime": now,
            });
            set_condition(&mut object, condition);
            Ok(Wish { object, kind: WriteKind::Update })
        };
        let query = WriteQuery::default();
        if let Err(error) = self.update(cx, &target, Part::Status, false, &query, &transform).await {
            tracing::debug!(namespace = pod.namespace, name = pod.name, %error, "evicted pod not marked");
        }
    }
}

fn created() -> Status {
    let mut done = status::success(None);
    done.code = 201;
    done
}

/// Whether a pod that is not ready may go although the budget has nothing to spare.
fn is_exempt(budget: &Value, pod: &Value) -> bool {
    let conditions = at(pod, &["status", "conditions"]).and_then(Value::as_array);
    let ready = |c: &&Value| c.get("type").is_some_and(|t| t == "Ready");
    let ready = conditions.into_iter().flatten().find(ready);
    if ready.is_some_and(|c| c.get("status").is_some_and(|s| s == "True")) {
        return false;
    }
    let policy = at(budget, &["spec", "unhealthyPodEvictionPolicy"]).and_then(Value::as_str);
    let (healthy, wanted) = (count(budget, "currentHealthy"), count(budget, "desiredHealthy"));
    policy == Some("AlwaysAllow") || (wanted > 0 && healthy >= wanted)
}

fn count(budget: &Value, key: &str) -> i64 {
    at(budget, &["status", key]).and_then(Value::as_i64).unwrap_or(0)
}

/// Why a budget says no.
#[derive(Debug)]
enum Refusal {
    /// Not now: the cause, and the seconds after which to ask again.
    Busy(String, i32),
    Forbidden(&'static str),
}

/// The budget after the eviction of one more pod.
fn spend(budget: &Value, pod: &str, now: &str) -> Result<Value, Refusal> {
    let name = metadata::text(budget, "name");
    let generation = at(budget, &["metadata", "generation"]).and_then(Value::as_i64).unwrap_or(0);
    if count(budget, "observedGeneration") < generation {
        let cause = format!("The disruption budget {name} is still being processed by the server.");
        return Err(Refusal::Busy(cause, 10));
    }
    let allowed = count(budget, "disruptionsAllowed");
    if allowed < 0 {
        return Err(Refusal::Forbidden("pdb disruptions allowed is negative"));
    }
    let disrupted = at(budget, &["status", "disruptedPods"]).and_then(Value::as_object);
    if disrupted.is_some_and(|d| d.len() > MOST_DISRUPTED) {
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(Refusal::Forbidden(why));
    }
    if allowed == 0 {
        return Err(Refusal::Busy(nothing_left(budget, name), 0));
    }
    let mut new = budget.clone();
    if let Some(status) = new.get_mut("status").and_then(Value::as_object_mut) {
        status.insert("disruptionsAllowed".to_owned(), (allowed - 1).into());
        let disrupted = status.entry("disruptedPods").or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(disrupted) = disrupted {
            disrupted.insert(pod.to_owned(), now.into());
        }
    }
    if allowed == 1 {
        set_condition(
            &mut new,
            json!({
                "type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods", "message": "",
                "observedGeneration": count(budget, "observedGeneration"), "lastTransitionTime": now,
            }),
        );
    }
    if let Ok(meta) = metadata::of(&mut new) {
        meta.remove("resourceVersion");
    }
    Ok(new)
}

fn nothing_left(budget: &Value, name: &str) -> String {
    let conditions = at(budget, &["status", "conditions"]).and_then(Value::as_array);
    let failed =
        conditions.into_iter().flatten().find(|c| c.get("reason").is_some_and(|r| r == "SyncFailed"));
    match failed {
        Some(condition) => {
            let why = condition.get("message").and_then(Value::as_str).unwrap_or_default();
            format!(
                "The disruption budget {name} does not allow evicting pods currently because it failed sync: {why}"
            )
        }
        None => format!(
            "The disruption budget {name} needs {} healthy pods and has {} currently",
            count(budget, "desiredHealthy"),
            count(budget, "currentHealthy")
        ),
    }
}

fn too_many(cause: String, retry: i32) -> Status {
    let mut status = Status::failure(Reason::TooManyRequests, REFUSAL);
    let cause = Cause { reason: "DisruptionBudget".to_owned(), message: cause, field: String::new() };
    let details = Details { causes: vec![cause], retry_after_seconds: retry, ..Details::default() };
    status.details = Some(Box::new(details));
    status
}
