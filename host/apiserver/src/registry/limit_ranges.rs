//! LimitRanges.
//!
//! Source: `SetDefaults_LimitRangeItem`, `ValidateLimitRange`. They are enforced by admission.

use super::json::{items, objects, text};
use super::{Column, Context, NAME_COLUMN, Strategy, at, name_cell};
use orlop_apimachinery::field::{Path, duplicate, forbidden, invalid};
use orlop_apimachinery::names;
use orlop_apimachinery::quantity::Quantity;
use orlop_apimachinery::status::Cause;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// The strategy of limitranges.
#[derive(Debug)]
pub(super) struct LimitRanges;

const MAPS: [&str; 5] = ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"];

impl Strategy for LimitRanges {
    fn default(&self, object: &mut Value) {
        let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
        for limit in objects(spec, "limits") {
            if limit.get("type").and_then(Value::as_str) != Some("Container") {
                continue;
            }
            // The limit defaults to the maximum, the request to the limit, then to the minimum.
            fill(limit, "default", &["max"]);
            fill(limit, "defaultRequest", &["default", "min"]);
        }
    }

    fn validate(&self, _cx: &Context<'_>, object: &Value) -> Vec<Cause> {
        let mut faults = Vec::new();
        let mut kinds = BTreeSet::new();
        for (i, limit) in items(object, &["spec", "limits"]).iter().enumerate() {
            let path = Path::new("spec").child("limits").index(i);
            let kind = text(limit, &["type"]);
            for why in names::qualified_name(kind) {
                faults.push(invalid(&path.child("type"), kind, &why));
            }
            if !kinds.insert(kind) {
                faults.push(duplicate(&path.child("type"), kind));
            }
            limit_faults(limit, kind, &path, &mut faults);
        }
        faults
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                NAME_COLUMN,
                Column::new("Created At", "CreationTimestamp is a timestamp representing the server time when this object was created.").typed("date"),
            ]
        }
    }

    fn cells(&self, _cx: &Context<'_>, object: &Value) -> Vec<Value> {
        vec![name_cell(object), text(object, &["metadata", "creationTimestamp"]).into()]
    }
}

/// Adds to one map what the first of the others says.
fn fill(limit: &mut Map<String, Value>, key: &str, from: &[&str]) {
    let mut filled = limit.get(key).and_then(Value::as_object).cloned().unwrap_or_default();
    for source in from {
        for (name, value) in limit.get(*source).and_then(Value::as_object).into_iter().flatten() {
            filled.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }
    if !filled.is_empty() {
        limit.insert(key.to_owned(), filled.into());
    }
}

fn limit_faults(limit: &Value, kind: &str, path: &Path, faults: &mut Vec<Cause>) {
    if kind == "Pod" {
        for key in ["default", "defaultRequest"] {
            if at(limit, &[key]).and_then(Value::as_object).is_some_and(|m| !m.is_empty()) {
                faults.push(forbidden(&path.child(key), "may not be specified when `type` is 'Pod'"));
            }
        }
    }
    let mut maps: BTreeMap<&str, BTreeMap<&str, Quantity>> = BTreeMap::new();
    let mut resources = BTreeSet::new();
    for key in MAPS {
        let map = maps.entry(key).or_default();
        for (name, value) in limit.get(key).and_then(Value::as_object).into_iter().flatten() {
            resources.insert(name.as_str());
            let at = path.child(key).key(name);
            for why in names::qualified_name(name) {
                faults.push(invalid(&at, name.as_str(), &why));
            }
            if let Some(quantity) = value.as_str().and_then(|t| Quantity::parse(t).ok()) {
                map.insert(name, quantity);
            }
        }
    }
    let of = |key: &str, name: &str| maps.get(key).and_then(|m| m.get(name)).copied();
    for name in resources {
        let (min, max) = (of("min", name), of("max", name));
        let (request, default) = (of("defaultRequest", name), of("default", name));
        let mut order = |small: Option<Quantity>,
                         large: Option<Quantity>,
                         key: &str,
                         value: Option<Quantity>,
                         words: [&str; 2]| {
            if let (Some(small), Some(large), Some(value)) = (small, large, value)
                && small > large
            {
                let detail = format!("{} value {small} is greater than {} value {large}", words[0], words[1]);
                faults.push(invalid(&path.child(key).key(name), value.to_string(), &detail));
            }
        };
        order(min, max, "min", min, ["min", "max"]);
        order(min, request, "defaultRequest", request, ["min", "default request"]);
        order(request, max, "defaultRequest", request, ["default request", "max"]);
        order(request, default, "defaultRequest", request, ["default request", "default limit"]);
        order(min, default, "default", min, ["min", "default"]);
        order(default, max, "default", default, ["default", "max"]);
        if let Some(ratio) = of("maxLimitRequestRatio", name) {
            let at = path.child("maxLimitRequestRatio").key(name);
            let one = Quantity::new(1, ratio.format());
            if ratio < one {
                faults.push(invalid(&at, ratio.to_string(), &format!("ratio {ratio} is less than 1")));
            }
            if let (Some(min), Some(max)) = (min, max)
                && min.signum() > 0
                && ratio.approximate() > max.approximate() / min.approximate()
            {
                let detail = format!(
                    "ratio {ratio} is greater than max/min = {:.6}",
                    max.approximate() / min.approximate()
                );
                faults.push(invalid(&at, ratio.to_string(), &detail));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(limit: Value) -> Vec<String> {
        let faults = limit_faults_of(&json!({"spec": {"limits": [limit]}}));
        faults.iter().map(|f| format!("{}: {}", f.field, f.message)).collect()
    }

    fn limit_faults_of(object: &Value) -> Vec<Cause> {
        let mut faults = Vec::new();
        for (i, limit) in items(object, &["spec", "limits"]).iter().enumerate() {
            limit_faults(
                limit,
                text(limit, &["type"]),
                &Path::new("spec").child("limits").index(i),
                &mut faults,
            );
        }
        faults
    }

    #[test]
    fn limits_default_from_each_other() {
        let mut object = json!({"spec": {"limits": [
            {"type": "Container", "max": {"cpu": "2"}, "min": {"memory": "1Mi"}},
            {"type": "Pod", "max": {"cpu": "2"}}]}});
        LimitRanges.default(&mut object);
        let limits = &object["spec"]["limits"];
        assert_eq!(limits[0]["default"], json!({"cpu": "2"}));
        assert_eq!(limits[0]["defaultRequest"], json!({"cpu": "2", "memory": "1Mi"}));
        assert_eq!(limits[1].get("default"), None);
    }

    #[test]
    fn limits_that_contradict_each_other_are_named() {
        assert_eq!(
            check(json!({"type": "Container", "min": {"cpu": "1"}, "max": {"cpu": "2"}})),
            Vec::<String>::new()
        );
        assert_eq!(
            check(json!({"type": "Container", "min": {"cpu": "3"}, "max": {"cpu": "2"}})),
            ["spec.limits[0].min[cpu]: Invalid value: \"3\": min value 3 is greater than max value 2"]
        );
        assert_eq!(
            check(json!({"type": "Pod", "default": {"cpu": "1"}})),
            ["spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'"]
        );
    }
}
