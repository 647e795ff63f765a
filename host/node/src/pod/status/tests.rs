//! Statuses as a kubelet writes them.

use super::super::model::{FailedProbe, Health, Op, Sandbox, Stop, StopKind, spec_hash};
use super::*;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use std::sync::Arc;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600 + seconds).unwrap()
}

fn model(spec: Value) -> PodModel {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "shop", "uid": "u-1", "generation": 1}, "spec": spec
    }))
    .unwrap();
    let mut m = PodModel::new("u-1", Arc::new(pod));
    m.start_time = Some(at(0));
    m
}

fn sandbox(m: &mut PodModel) {
    let ips = vec!["10.0.0.7".parse().unwrap()];
    m.sandbox = Some(Sandbox { id: "s".into(), attempt: 0, ready: true, stopped: false, ips });
}

fn put(m: &mut PodModel, at_: usize, attempt: u32, state: State, code: i32) {
    let spec = m.container_spec(at_).unwrap().clone();
    let instance = Instance {
        id: format!("c{attempt}").into(),
        sandbox_id: "s".into(),
        attempt,
        state,
        started_at: Some(at(1)),
        finished_at: (state == State::Exited).then(|| at(2)),
        exit_code: code,
        reason: "".into(),
        message: "".into(),
        image: spec.image.clone().unwrap_or_default().into(),
        image_ref: "sha256:0".into(),
        spec_hash: spec_hash(&spec),
        user: None,
        hook_done: true,
    };
    m.containers[at_].observe(instance, &spec);
}

fn status(m: &PodModel, old: &[core::PodCondition], seconds: i64) -> Value {
    let host = HostFacts { ip: "192.0.2.1".parse().unwrap() };
    serde_json::to_value(pod_status(m, host, old, at(seconds))).unwrap()
}

fn condition<'a>(status: &'a Value, kind: &str) -> &'a Value {
    status["conditions"].as_array().unwrap().iter().find(|c| c["type"] == kind).unwrap()
}

const ONE: &str = r#"{"containers": [{"name": "c", "image": "busybox:1"}]}"#;

fn one() -> Value {
    serde_json::from_str(ONE).unwrap()
}

#[test]
fn a_new_pod() {
    let s = status(&model(one()), &[], 0);
    assert_eq!(
        s,
        json!({
            "phase": "Pending",
            "conditions": [
                {"type": "PodReadyToStartContainers", "status": "False", "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1},
                {"type": "Initialized", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1},
                {"type": "Ready", "status": "False", "reason": "ContainersNotReady", "message": "containers with unready status: [c]", "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1},
                {"type": "ContainersReady", "status": "False", "reason": "ContainersNotReady", "message": "containers with unready status: [c]", "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1},
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1}
            ],
            "hostIP": "192.0.2.1", "hostIPs": [{"ip": "192.0.2.1"}],
            "startTime": "2026-01-01T00:00:00Z",
            "containerStatuses": [{
                "name": "c", "image": "busybox:1", "imageID": "", "ready": false, "started": false, "restartCount": 0,
                "state": {"waiting": {"reason": "ContainerCreating"}}, "lastState": {}
            }],
            "qosClass": "BestEffort", "observedGeneration": 1
        })
    );
}

#[test]
fn running_and_ready_keeps_transition_times() {
    let mut m = model(one());
    let before: core::PodStatus = serde_json::from_value(status(&m, &[], 0)).unwrap();
    sandbox(&mut m);
    put(&mut m, 0, 0, State::Running, 0);
    let s = status(&m, before.conditions.as_deref().unwrap(), 5);
    assert_eq!(s["phase"], "Running");
    assert_eq!(s["podIP"], "10.0.0.7");
    assert_eq!(s["podIPs"], json!([{"ip": "10.0.0.7"}]));
    assert_eq!(condition(&s, "Ready")["status"], "True");
    assert_eq!(condition(&s, "Ready")["lastTransitionTime"], "2026-01-01T00:00:05Z");
    assert_eq!(condition(&s, "Initialized")["lastTransitionTime"], "2026-01-01T00:00:00Z");
    let c = &s["containerStatuses"][0];
    assert_eq!(c["state"], json!({"running": {"startedAt": "2026-01-01T00:00:01Z"}}));
    assert_eq!((&c["containerID"], &c["imageID"]), (&json!("runc://c0"), &json!("sha256:0")));
    assert_eq!((&c["ready"], &c["started"]), (&json!(true), &json!(true)));
}

#[test]
fn a_crash_loop() {
    let mut m = model(one());
    sandbox(&mut m);
    put(&mut m, 0, 0, State::Exited, 1);
    let s = status(&m, &[], 3);
    assert_eq!(s["containerStatuses"][0]["state"]["terminated"]["reason"], "Error");
    assert_eq!(s["phase"], "Running");
    m.containers[0].backoff.next(at(2), at(2));
    let s = status(&m, &[], 3);
    let c = &s["containerStatuses"][0];
    assert_eq!(
        c["state"]["waiting"],
        json!({"reason": "CrashLoopBackOff",
               "message": "back-off 10s restarting failed container=c pod=web_shop(u-1)"})
    );
    assert_eq!(
        c["lastState"]["terminated"],
        json!({"exitCode": 1, "reason": "Error", "containerID": "runc://c0",
               "startedAt": "2026-01-01T00:00:01Z", "finishedAt": "2026-01-01T00:00:02Z"})
    );
    put(&mut m, 0, 1, State::Running, 0);
    let s = status(&m, &[], 13);
    let c = &s["containerStatuses"][0];
    assert_eq!(c["restartCount"], 1);
    assert_eq!(c["lastState"]["terminated"]["containerID"], "runc://c0");
}

#[test]
fn ends() {
    // Policy, exit code, phase, reason of Ready.
    for (policy, code, phase, reason) in [
        ("Never", 0, "Succeeded", "PodCompleted"),
        ("Never", 1, "Failed", "PodFailed"),
        ("OnFailure", 0, "Succeeded", "PodCompleted"),
    ] {
        let mut m = model(json!({"restartPolicy": policy, "containers": [{"name": "c", "image": "i"}]}));
        sandbox(&mut m);
        put(&mut m, 0, 0, State::Exited, code);
        let s = status(&m, &[], 3);
        assert_eq!(
            (&s["phase"], &condition(&s, "Ready")["reason"]),
            (&json!(phase), &json!(reason)),
            "{policy} {code}"
        );
        let state = &s["containerStatuses"][0]["state"]["terminated"];
        assert_eq!(state["reason"], if code == 0 { "Completed" } else { "Error" });
    }
    let mut m = model(one());
    sandbox(&mut m);
    put(&mut m, 0, 0, State::Running, 0);
    m.stop = Some(Stop { kind: StopKind::Deleted, deadline: at(30) });
    m.containers[0].op = Some(Op::Killing { deadline: at(30) });
    assert_eq!(status(&m, &[], 3)["phase"], "Running");
    m.containers[0].op = None;
    put(&mut m, 0, 0, State::Exited, 143);
    assert_eq!(status(&m, &[], 3)["phase"], "Failed");
}

#[test]
fn init_containers() {
    let mut m = model(
        json!({"initContainers": [{"name": "i", "image": "i"}], "containers": [{"name": "c", "image": "i"}]}),
    );
    sandbox(&mut m);
    let s = status(&m, &[], 0);
    assert_eq!(condition(&s, "Initialized")["reason"], "ContainersNotInitialized");
    assert_eq!(condition(&s, "Initialized")["message"], "containers with incomplete status: [i]");
    assert_eq!(s["containerStatuses"][0]["state"]["waiting"]["reason"], "PodInitializing");
    assert_eq!(s["initContainerStatuses"][0]["state"]["waiting"]["reason"], "PodInitializing");
    put(&mut m, 0, 0, State::Running, 0);
    assert_eq!(status(&m, &[], 0)["phase"], "Pending");
    put(&mut m, 0, 0, State::Exited, 0);
    let s = status(&m, &[], 0);
    assert_eq!((&s["phase"], &condition(&s, "Initialized")["status"]), (&json!("Pending"), &json!("True")));
    put(&mut m, 1, 0, State::Running, 0);
    let s = status(&m, &[], 0);
    assert_eq!((&s["phase"], &s["initContainerStatuses"][0]["ready"]), (&json!("Running"), &json!(true)));
}

#[test]
fn probes_gates_and_pulls() {
    let mut m = model(json!({"readinessGates": [{"conditionType": "example.com/g"}],
        "containers": [{"name": "c", "image": "i", "readinessProbe": {"exec": {}}}]}));
    sandbox(&mut m);
    m.containers[0].image = Image::Failed { reason: "ErrImagePull", message: "no".into(), retry_at: None };
    let s = status(&m, &[], 0);
    assert_eq!(
        s["containerStatuses"][0]["state"]["waiting"],
        json!({"reason": "ErrImagePull", "message": "no"})
    );
    put(&mut m, 0, 0, State::Running, 0);
    let s = status(&m, &[], 0);
    assert_eq!(condition(&s, "Ready")["reason"], "ContainersNotReady");
    m.containers[0].health.ready = true;
    let s = status(&m, &[], 0);
    assert_eq!(condition(&s, "ContainersReady")["status"], "True");
    assert_eq!(
        condition(&s, "Ready")["message"],
        "corresponding condition of pod readiness gate \"example.com/g\" does not exist."
    );
    let gate = serde_json::from_value(json!({"type": "example.com/g", "status": "True"})).unwrap();
    assert_eq!(condition(&status(&m, &[gate], 0), "Ready")["status"], "True");
    m.containers[0].health = Health { started: true, ready: true, failed: Some(FailedProbe::Liveness) };
    m.failure = Some(("Evicted".into(), "x".into()));
    let s = status(&m, &[], 0);
    assert_eq!((&s["phase"], &s["reason"]), (&json!("Failed"), &json!("Evicted")));
}
