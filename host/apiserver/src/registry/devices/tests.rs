use super::*;
use crate::user::UserInfo;

fn with<T>(f: impl FnOnce(&Context<'_>) -> T) -> T {
    let user = UserInfo::master("admin");
    f(&Context { now: jiff::Timestamp::UNIX_EPOCH, user: &user, random: 0 })
}

fn words(faults: &[Cause]) -> Vec<String> {
    faults.iter().map(|f| format!("{}: {}", f.field, f.message)).collect()
}

fn claim(requests: Value) -> Value {
    let mut claim = json!({"metadata": {"name": "c"}, "spec": {"devices": {"requests": requests}}});
    ResourceClaims.default(&mut claim);
    claim
}

#[test]
fn one_device_is_asked_for_where_nothing_is_said() {
    let claim = claim(json!([{"name": "gpu", "exactly": {"deviceClassName": "gpu.example.com"}}]));
    let exactly = &claim["spec"]["devices"]["requests"][0]["exactly"];
    assert_eq!((&exactly["allocationMode"], &exactly["count"]), (&json!("ExactCount"), &json!(1)));
    assert_eq!(words(&with(|cx| ResourceClaims.validate(cx, &claim))), [""; 0]);
}

#[test]
fn a_request_says_exactly_or_what_first() {
    let found =
        with(|cx| ResourceClaims.validate(cx, &claim(json!([{"name": "a"}, {"name": "a", "exactly": {}}]))));
    assert_eq!(
        words(&found),
        [
            "spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required",
            "spec.devices.requests[1].name: Duplicate value: \"a\"",
            "spec.devices.requests[1].exactly.deviceClassName: Required value",
        ]
    );
}

#[test]
fn an_allocation_stays_and_only_an_allocated_claim_is_reserved() {
    let mut new = claim(json!([{"name": "a", "exactly": {"deviceClassName": "x"}}]));
    let old = new.clone();
    new["status"] = json!({"reservedFor": [{"resource": "pods", "name": "p", "uid": "u"}]});
    assert_eq!(
        words(&with(|cx| ResourceClaims.validate_status_update(cx, &new, &old))),
        ["status.reservedFor: Forbidden: may not be specified when `allocated` is not set"]
    );
    new["status"]["allocation"] = json!({"devices": {"results": [{"request": "b"}]}});
    assert_eq!(
        words(&with(|cx| ResourceClaims.validate_status_update(cx, &new, &old))),
        ["status.allocation.devices.results[0].request: Not found: \"b\""]
    );
    new["status"]["allocation"] = json!({"devices": {"results": [{"request": "a"}]}});
    assert_eq!(words(&with(|cx| ResourceClaims.validate_status_update(cx, &new, &old))), [""; 0]);
    assert_eq!(with(|cx| ResourceClaims.cells(cx, &new))[1], "allocated,reserved");
    let mut other = new.clone();
    other["status"]["allocation"] = json!({"devices": {}});
    assert_eq!(with(|cx| ResourceClaims.validate_status_update(cx, &other, &new)).len(), 1);
}

#[test]
fn a_slice_says_where_its_devices_are() {
    let slice = json!({"spec": {"driver": "d", "pool": {"name": "p", "resourceSliceCount": 1}, "devices": [{"name": "a"}, {"name": "a"}]}});
    assert_eq!(
        words(&with(|cx| ResourceSlices.validate(cx, &slice))),
        [
            "spec: Required value: exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required",
            "spec.devices[1].name: Duplicate value: \"a\"",
        ]
    );
}
