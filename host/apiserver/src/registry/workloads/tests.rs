use super::*;
use crate::user::UserInfo;

fn with<T>(f: impl FnOnce(&Context<'_>) -> T) -> T {
    let user = UserInfo::master("admin");
    f(&Context { now: "2026-01-01T01:00:00Z".parse().unwrap(), user: &user, random: 0 })
}

fn deployment(spec: Value) -> Value {
    let mut object = json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "creationTimestamp": "2026-01-01T00:50:00Z"}, "spec": spec});
    Deployments.default(&mut object);
    object
}

fn good() -> Value {
    json!({"selector": {"matchLabels": {"app": "web"}}, "template": {"metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "j:1"}]}}})
}

#[track_caller]
fn faults(spec: Value, expected: &[&str]) {
    let found = with(|cx| Deployments.validate(cx, &deployment(spec)));
    let found: Vec<String> = found.iter().map(|f| format!("{}: {}", f.field, f.message)).collect();
    assert_eq!(found, expected);
}

#[test]
fn defaults_are_upstreams() {
    let object = deployment(good());
    assert_eq!(object["spec"]["replicas"], 1);
    assert_eq!(object["spec"]["revisionHistoryLimit"], 10);
    assert_eq!(object["spec"]["progressDeadlineSeconds"], 600);
    assert_eq!(
        object["spec"]["strategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})
    );
    let pod = &object["spec"]["template"]["spec"];
    assert_eq!(pod["restartPolicy"], "Always");
    assert_eq!(pod["securityContext"], json!({}));
    assert_eq!(pod.get("enableServiceLinks"), None);
    assert_eq!(pod["containers"][0]["imagePullPolicy"], "Always");
    assert_eq!(pod["containers"][1]["imagePullPolicy"], "IfNotPresent");
}

#[test]
fn faults_have_upstreams_paths_and_words() {
    faults(good(), &[]);
    let mut other = good();
    other["selector"]["matchLabels"]["app"] = "other".into();
    faults(
        other,
        &[
            "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`",
        ],
    );
    let mut never = good();
    never["template"]["spec"]["restartPolicy"] = "Never".into();
    faults(
        never,
        &["spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\""],
    );
    let mut negative = good();
    negative["replicas"] = (-1).into();
    faults(negative, &["spec.replicas: Invalid value: -1: must be greater than or equal to 0"]);
    let mut none = good();
    none.as_object_mut().unwrap().remove("selector");
    faults(none, &["spec.selector: Required value"]);
    let mut recreate = good();
    recreate["strategy"] = json!({"type": "Recreate", "rollingUpdate": {"maxSurge": 1}});
    faults(
        recreate,
        &["spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"],
    );
    let mut still = good();
    still["strategy"] = json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}});
    faults(
        still,
        &["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0"],
    );
}

#[test]
fn the_selector_is_fixed() {
    let old = deployment(good());
    let mut new = old.clone();
    new["spec"]["selector"]["matchLabels"] = json!({"app": "web", "x": "y"});
    new["spec"]["template"]["metadata"]["labels"] = json!({"app": "web", "x": "y"});
    let found = with(|cx| Deployments.validate_update(cx, &new, &old));
    assert_eq!(found.len(), 1);
    assert_eq!(
        format!("{}: {}", found[0].field, found[0].message),
        "spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"web\",\"x\":\"y\"}}: field is immutable"
    );
}

#[test]
fn rows_are_kubectls() {
    let mut object = deployment(good());
    object["spec"]["replicas"] = 3.into();
    object["status"] =
        json!({"replicas": 3, "updatedReplicas": 2, "readyReplicas": 1, "availableReplicas": 1});
    assert_eq!(
        with(|cx| Deployments.cells(cx, &object)),
        [
            json!("web"),
            json!("1/3"),
            json!(2),
            json!(1),
            json!("10m"),
            json!("a,b"),
            json!("i,j:1"),
            json!("app=web")
        ]
    );
    let heads: Vec<&str> = Deployments.columns().iter().map(|c| c.name).collect();
    assert_eq!(
        heads,
        ["Name", "Ready", "Up-to-date", "Available", "Age", "Containers", "Images", "Selector"]
    );
    let mut controller = json!({"metadata": {"name": "rc"}, "spec": {"template": good()["template"]}});
    ReplicationControllers.default(&mut controller);
    assert_eq!(controller["spec"]["selector"], json!({"app": "web"}));
    assert_eq!(controller["metadata"]["labels"], json!({"app": "web"}));
    assert_eq!(with(|cx| ReplicationControllers.cells(cx, &controller))[7], "app=web");
}
