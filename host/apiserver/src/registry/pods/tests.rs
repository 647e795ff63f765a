use super::*;
use crate::user::UserInfo;

fn with<T>(f: impl FnOnce(&Context<'_>) -> T) -> T {
    let user = UserInfo::master("admin");
    f(&Context { now: "2026-01-01T01:00:00Z".parse().unwrap(), user: &user, random: 0 })
}

fn pod(spec: Value) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "namespace": "default", "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": spec});
    Pods.default(&mut pod);
    pod
}

#[track_caller]
fn faults(spec: Value, expected: &[&str]) {
    let found = with(|cx| Pods.validate(cx, &pod(spec)));
    let found: Vec<String> = found.iter().map(|f| format!("{}: {}", f.field, f.message)).collect();
    assert_eq!(found, expected);
}

#[test]
fn faults_have_upstreams_paths_and_words() {
    faults(json!({"containers": [{"name": "a", "image": "i"}]}), &[]);
    faults(json!({}), &["spec.containers: Required value"]);
    faults(
        json!({"containers": [{"name": "a"}, {"name": "a", "image": "i"}]}),
        &["spec.containers[0].image: Required value", "spec.containers[1].name: Duplicate value: \"a\""],
    );
    faults(
        json!({"containers": [{"name": "A", "image": "i"}]}),
        &[
            "spec.containers[0].name: Invalid value: \"A\": a lowercase RFC 1123 label must consist of lower case \
           alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  \
           or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
        ],
    );
    faults(
        json!({"containers": [{"name": "a", "image": "i", "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}}]}),
        &[
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
        ],
    );
    faults(
        json!({"containers": [{"name": "a", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}),
        &["spec.containers[0].volumeMounts[0].name: Not found: \"v\""],
    );
    faults(
        json!({"restartPolicy": "Sometimes", "containers": [{"name": "a", "image": "i"}]}),
        &[
            "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"Never\", \"OnFailure\"",
        ],
    );
    faults(
        json!({"containers": [{"name": "a", "image": "i", "livenessProbe": {}}]}),
        &["spec.containers[0].livenessProbe: Required value: must specify a handler type"],
    );
    faults(
        json!({"containers": [{"name": "a", "image": "i"}],
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "k", "operator": "In"}]}]}}}}),
        &["spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].\
           matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'"],
    );
    faults(
        json!({"containers": [{"name": "a", "image": "i", "ports": [{"containerPort": 80, "hostPort": 81}]}],
            "hostNetwork": true}),
        &[
            "spec.containers[0].ports[0].hostPort: Invalid value: 81: must match `containerPort` when `hostNetwork` is true",
        ],
    );
}

#[test]
fn downward_references_have_upstreams_words() {
    let env = |source: Value| {
        json!({"containers": [{"name": "a", "image": "i",
        "env": [{"name": "A", "valueFrom": source}]}]})
    };
    faults(env(json!({"fieldRef": {"fieldPath": "metadata.labels['app']"}})), &[]);
    faults(
        env(json!({"fieldRef": {"fieldPath": "spec.foo"}})),
        &["spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.foo\": \
           error converting fieldPath: field label not supported: spec.foo"],
    );
    faults(
        env(json!({"fieldRef": {"fieldPath": "status.phase"}})),
        &["spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Unsupported value: \"status.phase\": \
           supported values: \"metadata.name\", \"metadata.namespace\", \"metadata.uid\", \"spec.nodeName\", \
           \"spec.serviceAccountName\", \"status.hostIP\", \"status.hostIPs\", \"status.podIP\", \"status.podIPs\""],
    );
    faults(env(json!({"resourceFieldRef": {"resource": "limits.cpu"}})), &[]);
    faults(
        json!({"containers": [{"name": "a", "image": "i"}], "volumes": [{"name": "v", "configMap": {"name": "c",
            "items": [{"key": "k", "path": "../x"}]}}]}),
        &["spec.volumes[0].configMap.items[0].path: Invalid value: \"../x\": must not contain '..'"],
    );
}

#[test]
fn empty_strings_count_as_unset() {
    let pod = pod(json!({"dnsPolicy": "", "schedulerName": "", "restartPolicy": "",
        "containers": [{"name": "a", "image": "i:1", "imagePullPolicy": ""}]}));
    assert_eq!(pod["spec"]["dnsPolicy"], "ClusterFirst");
    assert_eq!(pod["spec"]["schedulerName"], "default-scheduler");
    assert_eq!(pod["spec"]["restartPolicy"], "Always");
    assert_eq!(pod["spec"]["containers"][0]["imagePullPolicy"], "IfNotPresent");
}

#[test]
fn a_pods_spec_is_fixed_but_for_a_few_fields() {
    let old = pod(json!({"nodeName": "n", "containers": [{"name": "a", "image": "i:1"}]}));
    let mut new = old.clone();
    new["spec"]["containers"][0]["image"] = "i:2".into();
    new["spec"]["tolerations"] = json!([{"key": "k", "operator": "Exists"}]);
    assert_eq!(with(|cx| Pods.validate_update(cx, &new, &old)), Vec::new());
    new["spec"]["containers"][0]["command"] = json!(["x"]);
    let found = with(|cx| Pods.validate_update(cx, &new, &old));
    assert_eq!(found.len(), 1);
    assert!(
        found[0].message.starts_with(
            "Forbidden: pod updates may not change fields other than `spec.containers[*].image`"
        )
    );
}

#[test]
fn warnings_have_upstreams_words() {
    let pod = pod(json!({"terminationGracePeriodSeconds": -1, "containers": [{"name": "a", "image": "i",
        "env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}],
        "resources": {"limits": {"memory": "100m"}}}]}));
    assert_eq!(
        with(|cx| Pods.warnings(cx, &pod, None)),
        [
            "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1",
            "spec.containers[0].resources.requests[memory]: fractional byte value \"100m\" is invalid, must be an integer",
            "spec.containers[0].resources.limits[memory]: fractional byte value \"100m\" is invalid, must be an integer",
            "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
        ]
    );
}

#[track_caller]
fn row(spec: Value, status: Value, expected: [&str; 3]) {
    let mut pod = pod(spec);
    pod["status"] = status;
    let cells = with(|cx| Pods.cells(cx, &pod));
    assert_eq!([&cells[1], &cells[2], &cells[3]], expected);
    assert_eq!(cells.len(), Pods.columns().len());
}

#[test]
fn the_status_column_says_what_kubectl_says() {
    let two = || json!({"containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]});
    row(two(), json!({"phase": "Pending"}), ["0/2", "Pending", "0"]);
    row(
        two(),
        json!({"phase": "Running", "containerStatuses": [
            {"name": "a", "ready": true, "restartCount": 0, "state": {"running": {}}},
            {"name": "b", "ready": false, "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
             "lastState": {"terminated": {"exitCode": 1, "finishedAt": "2026-01-01T00:59:55Z"}}}]}),
        ["1/2", "CrashLoopBackOff", "3 (5s ago)"],
    );
    row(
        two(),
        json!({"phase": "Succeeded", "containerStatuses": [
            {"name": "a", "restartCount": 0, "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}},
            {"name": "b", "restartCount": 0, "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]}),
        ["0/2", "Completed", "0"],
    );
    row(
        two(),
        json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}], "containerStatuses": [
            {"name": "a", "restartCount": 0, "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}},
            {"name": "b", "ready": true, "restartCount": 0, "state": {"running": {}}}]}),
        ["1/2", "Running", "0"],
    );
    row(
        two(),
        json!({"phase": "Failed", "containerStatuses": [
            {"name": "a", "restartCount": 0, "state": {"terminated": {"exitCode": 137, "signal": 9}}}]}),
        ["0/2", "Signal:9", "0"],
    );
    row(two(), json!({"phase": "Failed", "reason": "Evicted"}), ["0/2", "Evicted", "0"]);
    let init = || {
        json!({"initContainers": [{"name": "x", "image": "i"}, {"name": "y", "image": "i"}],
        "containers": [{"name": "a", "image": "i"}]})
    };
    row(
        init(),
        json!({"phase": "Pending", "initContainerStatuses": [
            {"name": "x", "restartCount": 0, "state": {"terminated": {"exitCode": 0}}},
            {"name": "y", "restartCount": 0, "state": {"running": {}}}]}),
        ["0/1", "Init:1/2", "0"],
    );
    row(
        init(),
        json!({"phase": "Pending", "initContainerStatuses": [
            {"name": "x", "restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}),
        ["0/1", "Init:CrashLoopBackOff", "2"],
    );
    row(
        init(),
        json!({"phase": "Pending", "initContainerStatuses": [
            {"name": "x", "restartCount": 0, "state": {"terminated": {"exitCode": 3, "reason": "Error"}}}]}),
        ["0/1", "Init:Error", "0"],
    );
    let sidecar = json!({"initContainers": [{"name": "s", "image": "i", "restartPolicy": "Always"}],
        "containers": [{"name": "a", "image": "i"}]});
    row(
        sidecar,
        json!({"phase": "Running", "conditions": [{"type": "Initialized", "status": "True"}],
            "initContainerStatuses": [{"name": "s", "ready": true, "started": true, "restartCount": 1, "state": {"running": {}}}],
            "containerStatuses": [{"name": "a", "ready": true, "restartCount": 2, "state": {"running": {}}}]}),
        ["2/2", "Running", "3"],
    );
    let mut gone = pod(two());
    gone["metadata"]["deletionTimestamp"] = "2026-01-01T00:59:00Z".into();
    gone["status"] = json!({"phase": "Running"});
    assert_eq!(with(|cx| Pods.cells(cx, &gone))[2], "Terminating");
    assert_eq!(with(|cx| Pods.cells(cx, &gone))[4], "60m");
}
