use super::*;
use crate::user::UserInfo;

fn with<T>(f: impl FnOnce(&Context<'_>) -> T) -> T {
    let user = UserInfo::master("admin");
    f(&Context { now: jiff::Timestamp::UNIX_EPOCH, user: &user, random: 0 })
}

fn words(faults: &[Cause]) -> Vec<String> {
    faults.iter().map(|f| format!("{}: {}", f.field, f.message)).collect()
}

#[test]
fn the_parameters_of_a_class_stay_as_they_are() {
    let mut class = json!({"metadata": {"name": "fast"}, "provisioner": "x.io/p"});
    StorageClasses.default(&mut class);
    assert_eq!(class["reclaimPolicy"], "Delete");
    assert_eq!(class["volumeBindingMode"], "Immediate");
    assert_eq!(words(&with(|cx| StorageClasses.validate(cx, &class))), [""; 0]);
    let mut other = class.clone();
    other["parameters"] = json!({"type": "ssd"});
    other["volumeBindingMode"] = json!("WaitForFirstConsumer");
    assert_eq!(
        words(&with(|cx| StorageClasses.validate_update(cx, &other, &class))),
        [
            "parameters: Forbidden: updates to parameters are forbidden.",
            "volumeBindingMode: Invalid value: \"WaitForFirstConsumer\": field is immutable"
        ]
    );
    class["metadata"]["annotations"] = json!({"storageclass.kubernetes.io/is-default-class": "true"});
    assert_eq!(with(|cx| StorageClasses.cells(cx, &class))[0], "fast (default)");
}

#[test]
fn an_attachment_names_one_source() {
    let attachment = |source: Value| json!({"spec": {"attacher": "a", "nodeName": "n", "source": source}});
    assert_eq!(
        words(&with(|cx| Attachments.validate(cx, &attachment(json!({}))))),
        [
            "spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName"
        ]
    );
    let named = attachment(json!({"persistentVolumeName": "v"}));
    assert_eq!(words(&with(|cx| Attachments.validate(cx, &named))), [""; 0]);
}

#[test]
fn the_drivers_of_a_node_have_names_of_their_own() {
    let driver = json!({"name": "d", "nodeID": "n", "allocatable": {"count": -1}});
    let node = json!({"spec": {"drivers": [driver, {"name": "d", "nodeID": ""}]}});
    assert_eq!(
        words(&with(|cx| CsiNodes.validate(cx, &node))),
        [
            "spec.drivers[0].allocatable.count: Invalid value: -1: must be greater than or equal to 0",
            "spec.drivers[1].name: Duplicate value: \"d\"",
            "spec.drivers[1].nodeID: Required value"
        ]
    );
    let shown = with(|cx| CsiNodes.cells(cx, &node));
    assert_eq!(shown[1], 2);
}
