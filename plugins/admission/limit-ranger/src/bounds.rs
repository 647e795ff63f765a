//! Refuses what is out of bounds, in upstream's words. Source: `plugin/pkg/admission/limitranger`.

use crate::resources::{Item, LimitRange, ResourceList, list, of_pod};
use orlop_sdk::apimachinery::quantity::Quantity;
use serde_json::Value;

/// Beyond this, thousandths would overflow and whole units are compared.
const MAX_MILLI: i64 = i64::MAX / 1000;

/// Checks a pod. The error is what stands after `is forbidden: `; the first LimitRange that is
/// violated speaks.
pub(crate) fn check_pod(ranges: &[LimitRange], pod: &Value) -> Result<(), String> {
    let mut whole: Option<(ResourceList, ResourceList)> = None;
    for range in ranges {
        let mut faults = Vec::new();
        for item in &range.spec.limits {
            match item.kind.as_str() {
                "Container" => {
                    for field in ["containers", "initContainers"] {
                        let containers =
                            pod.pointer("/spec").and_then(|s| s.get(field)).and_then(Value::as_array);
                        for container in containers.into_iter().flatten() {
                            let requests = list(container, "/resources/requests");
                            check_item(item, &requests, &list(container, "/resources/limits"), &mut faults);
                        }
                    }
                }
                "Pod" => {
                    let (requests, limits) =
                        whole.get_or_insert_with(|| (of_pod(pod, "requests"), of_pod(pod, "limits")));
                    check_item(item, requests, limits, &mut faults);
                }
                _ => {}
            }
        }
        aggregate(faults)?;
    }
    Ok(())
}

/// Checks a PersistentVolumeClaim: only its requests count.
pub(crate) fn check_claim(ranges: &[LimitRange], claim: &Value) -> Result<(), String> {
    let requests = list(claim, "/spec/resources/requests");
    for range in ranges {
        let mut faults = Vec::new();
        for item in range.spec.limits.iter().filter(|i| i.kind == "PersistentVolumeClaim") {
            for (name, bound) in &item.min {
                faults.extend(min(&item.kind, name, *bound, &requests, &ResourceList::new()));
            }
            for (name, bound) in &item.max {
                faults.extend(max_request(&item.kind, name, *bound, &requests));
            }
        }
        aggregate(faults)?;
    }
    Ok(())
}

/// One fault is said as it is, several in brackets, each once.
fn aggregate(mut faults: Vec<String>) -> Result<(), String> {
    let mut seen = std::collections::BTreeSet::new();
    faults.retain(|f| seen.insert(f.clone()));
    match faults.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        many => Err(format!("[{}]", many.join(", "))),
    }
}

fn check_item(item: &Item, requests: &ResourceList, limits: &ResourceList, faults: &mut Vec<String>) {
    for (name, bound) in &item.min {
        faults.extend(min(&item.kind, name, *bound, requests, limits));
    }
    for (name, bound) in &item.max {
        faults.extend(max(&item.kind, name, *bound, requests, limits));
    }
    for (name, bound) in &item.max_limit_request_ratio {
        faults.extend(ratio(&item.kind, name, *bound, requests, limits));
    }
}

/// Request, limit and bound in units that can be compared.
fn comparable(request: Quantity, limit: Quantity, bound: Quantity) -> (i64, i64, i64) {
    let all = [request, limit, bound];
    if all.iter().all(|q| q.value() <= MAX_MILLI) {
        (request.milli_value(), limit.milli_value(), bound.milli_value())
    } else {
        (request.value(), limit.value(), bound.value())
    }
}

fn observed(
    name: &str,
    bound: Quantity,
    requests: &ResourceList,
    limits: &ResourceList,
) -> (Option<Quantity>, Option<Quantity>, (i64, i64, i64)) {
    let (request, limit) = (requests.get(name).copied(), limits.get(name).copied());
    (request, limit, comparable(request.unwrap_or_default(), limit.unwrap_or_default(), bound))
}

fn min(
    kind: &str,
    name: &str,
    bound: Quantity,
    requests: &ResourceList,
    limits: &ResourceList,
) -> Option<String> {
    let (request, limit, (has, may, least)) = observed(name, bound, requests, limits);
    let Some(request) = request else {
        return Some(format!("minimum {name} usage per {kind} is {bound}.  No request is specified"));
    };
    if has < least {
        return Some(format!("minimum {name} usage per {kind} is {bound}, but request is {request}"));
    }
    let limit = limit.filter(|_| may < least)?;
    Some(format!("minimum {name} usage per {kind} is {bound}, but limit is {limit}"))
}

fn max(
    kind: &str,
    name: &str,
    bound: Quantity,
    requests: &ResourceList,
    limits: &ResourceList,
) -> Option<String> {
    let (request, limit, (has, may, most)) = observed(name, bound, requests, limits);
    let Some(limit) = limit else {
        return Some(format!("maximum {name} usage per {kind} is {bound}.  No limit is specified"));
    };
    if may > most {
        return Some(format!("maximum {name} usage per {kind} is {bound}, but limit is {limit}"));
    }
    let request = request.filter(|_| has > most)?;
    Some(format!("maximum {name} usage per {kind} is {bound}, but request is {request}"))
}

fn max_request(kind: &str, name: &str, bound: Quantity, requests: &ResourceList) -> Option<String> {
    let (request, _, (has, _, most)) = observed(name, bound, requests, &ResourceList::new());
    let Some(request) = request else {
        return Some(format!("maximum {name} usage per {kind} is {bound}.  No request is specified"));
    };
    (has > most).then(|| format!("maximum {name} usage per {kind} is {bound}, but request is {request}"))
}

fn ratio(
    kind: &str,
    name: &str,
    bound: Quantity,
    requests: &ResourceList,
    limits: &ResourceList,
) -> Option<String> {
    let (request, limit, (has, may, _)) = observed(name, bound, requests, limits);
    let head = format!("{name} max limit to request ratio per {kind} is {bound}");
    if request.is_none() || has == 0 {
        return Some(format!("{head}, but no request is specified or request is 0"));
    }
    if limit.is_none() || may == 0 {
        return Some(format!("{head}, but no limit is specified or limit is 0"));
    }
    #[expect(clippy::cast_precision_loss, reason = "upstream compares and prints floating point too")]
    let (actual, most) = (may as f64 / has as f64, bound.milli_value() as f64 / 1000.0);
    (actual > most).then(|| format!("{head}, but provided ratio is {actual:.6}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::limit_ranges;

    #[test]
    fn every_case_of_the_table() {
        let cases: Value = serde_json::from_str(include_str!("../testdata/bounds.json")).unwrap();
        for case in cases.as_array().unwrap() {
            let ranges = limit_ranges(&case["limitRanges"]).unwrap();
            let result = match case.get("claim") {
                Some(claim) => check_claim(&ranges, claim),
                None => check_pod(&ranges, &case["pod"]),
            };
            assert_eq!(result.err().as_deref(), case["denied"].as_str(), "{}", case["name"]);
        }
    }
}
