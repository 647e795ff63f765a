//! Decision tables, and a simulation that throws faults at the decisions.

use super::super::model::{Health, Instance, Sandbox, StopKind};
use super::*;
use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).unwrap()
}

fn model(spec: Value) -> PodModel {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec
    }))
    .unwrap();
    PodModel::new("u", Arc::new(pod))
}

/// A pod whose sandbox, volumes and images are there.
fn prepared(spec: Value) -> PodModel {
    let mut m = model(spec);
    m.volumes = Volumes::Ready;
    m.sandbox = Some(Sandbox { id: "s0".into(), attempt: 0, ready: true, stopped: false, ips: Vec::new() });
    for c in &mut m.containers {
        c.image = Image::Present("i".into());
    }
    m
}

fn instance(m: &PodModel, at_: usize, attempt: u32, state: State, code: i32) -> Instance {
    Instance {
        id: format!("c{at_}-{attempt}").into(),
        sandbox_id: m.sandbox.as_ref().map_or("".into(), |s| s.id.clone()),
        attempt,
        state,
        started_at: Some(at(0)),
        finished_at: (state == State::Exited).then(|| at(1)),
        exit_code: code,
        reason: "".into(),
        message: "".into(),
        image: "i".into(),
        image_ref: "i".into(),
        spec_hash: m.container_spec(at_).map_or(0, spec_hash),
        user: None,
        hook_done: true,
    }
}

fn put(m: &mut PodModel, at: usize, state: State, code: i32) {
    let i = instance(m, at, 0, state, code);
    m.containers[at].current = Some(i);
}

fn two(extra: Value) -> Value {
    let mut spec = json!({"containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]});
    spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    spec
}

#[test]
fn everything_at_once_for_a_new_pod() {
    let m = model(two(json!({})));
    let plan = decide(&m, at(0));
    assert_eq!(
        plan.actions,
        [
            Action::MountVolumes,
            Action::CreateSandbox { attempt: 0 },
            Action::EnsureImage { at: 0 },
            Action::EnsureImage { at: 1 }
        ]
    );
    assert_eq!(decide(&m, at(0)), plan, "the same question has the same answer");
}

#[test]
fn init_containers_in_order_then_the_rest() {
    let spec = two(json!({"initContainers": [
        {"name": "i0", "image": "i"}, {"name": "s", "image": "i", "restartPolicy": "Always"}, {"name": "i1", "image": "i"}
    ]}));
    let mut m = prepared(spec);
    let starts = |m: &PodModel| -> Vec<usize> {
        decide(m, at(2))
            .actions
            .into_iter()
            .map(|a| match a {
                Action::Start { at, .. } => at,
                other => panic!("{other:?}"),
            })
            .collect()
    };
    assert_eq!(starts(&m), [0]);
    put(&mut m, 0, State::Running, 0);
    assert_eq!(starts(&m), [] as [usize; 0]);
    put(&mut m, 0, State::Exited, 0);
    assert_eq!(starts(&m), [1], "the sidecar");
    put(&mut m, 1, State::Running, 0);
    m.containers[1].health.started = false;
    assert_eq!(starts(&m), [] as [usize; 0], "its startup probe is waited for");
    m.containers[1].health.started = true;
    assert_eq!(starts(&m), [2]);
    put(&mut m, 2, State::Exited, 0);
    assert_eq!(starts(&m), [3, 4]);
    put(&mut m, 3, State::Running, 0);
    put(&mut m, 4, State::Running, 0);
    assert_eq!(starts(&m), [] as [usize; 0]);
    put(&mut m, 1, State::Exited, 1);
    assert_eq!(starts(&m), [1], "a sidecar that ends is started again");
}

#[test]
fn restart_policies() {
    // Policy, exit codes of the two containers, containers started again, pod finished.
    let table: [(&str, [i32; 2], &[usize], bool); 7] = [
        ("Always", [0, 0], &[0, 1], false),
        ("Always", [0, 1], &[0, 1], false),
        ("OnFailure", [0, 1], &[1], false),
        ("OnFailure", [0, 0], &[], true),
        ("Never", [0, 1], &[], true),
        ("Never", [0, 0], &[], true),
        ("OnFailure", [2, 2], &[0, 1], false),
    ];
    for (policy, codes, again, done) in table {
        let mut m = prepared(two(json!({"restartPolicy": policy})));
        put(&mut m, 0, State::Exited, codes[0]);
        put(&mut m, 1, State::Exited, codes[1]);
        let plan = decide(&m, at(2));
        let started: Vec<usize> = plan
            .actions
            .iter()
            .filter_map(|a| if let Action::Start { at, attempt: 1 } = a { Some(*at) } else { None })
            .collect();
        assert_eq!(
            (started.as_slice(), plan.actions.contains(&Action::Finish)),
            (again, done),
            "{policy} {codes:?}"
        );
    }
}

#[test]
fn a_crash_loop_waits_and_says_when() {
    let mut m = prepared(json!({"containers": [{"name": "a", "image": "i"}]}));
    put(&mut m, 0, State::Exited, 1);
    m.containers[0].backoff.next(at(1), at(1));
    let plan = decide(&m, at(5));
    assert_eq!((plan.actions, plan.wake), (vec![], Some(at(11))));
    assert_eq!(decide(&m, at(11)).actions, [Action::Start { at: 0, attempt: 1 }]);
}

#[test]
fn a_lost_sandbox_is_rebuilt() {
    let mut m = prepared(two(json!({})));
    put(&mut m, 0, State::Running, 0);
    put(&mut m, 1, State::Exited, 0);
    m.sandbox.as_mut().unwrap().ready = false;
    let plan = decide(&m, at(2));
    assert_eq!(plan.actions, [Action::Kill { at: 0, deadline: at(32), why: Why::SandboxChanged }]);
    put(&mut m, 0, State::Exited, 137);
    assert_eq!(decide(&m, at(3)).actions, [Action::StopSandbox]);
    m.sandbox.as_mut().unwrap().stopped = true;
    assert_eq!(decide(&m, at(3)).actions, [Action::CreateSandbox { attempt: 1 }]);

    let mut never = prepared(two(json!({"restartPolicy": "Never"})));
    put(&mut never, 0, State::Exited, 137);
    put(&mut never, 1, State::Exited, 0);
    never.sandbox.as_mut().unwrap().ready = false;
    assert_eq!(decide(&never, at(3)).actions, [Action::Finish], "nothing would run in a new one");
}

#[test]
fn probes_and_changes_kill() {
    let mut m = prepared(json!({"terminationGracePeriodSeconds": 7, "containers": [
        {"name": "a", "image": "i", "livenessProbe": {"terminationGracePeriodSeconds": 3}}]}));
    put(&mut m, 0, State::Running, 0);
    assert!(decide(&m, at(0)).actions.is_empty());
    m.containers[0].health.failed = Some(FailedProbe::Liveness);
    assert_eq!(decide(&m, at(0)).actions, [Action::Kill { at: 0, deadline: at(3), why: Why::Liveness }]);
    m.containers[0].health.failed = None;
    m.containers[0].current.as_mut().unwrap().spec_hash = 1;
    assert_eq!(decide(&m, at(0)).actions, [Action::Kill { at: 0, deadline: at(7), why: Why::SpecChanged }]);
    m.containers[0].op = Some(Op::Killing { deadline: at(7) });
    assert!(decide(&m, at(1)).actions.is_empty(), "once is enough");
}

#[test]
fn the_end_in_order() {
    let spec = two(json!({"initContainers": [{"name": "s", "image": "i", "restartPolicy": "Always"}]}));
    let mut m = prepared(spec);
    for i in 0..3 {
        put(&mut m, i, State::Running, 0);
    }
    m.stop = Some(Stop { kind: StopKind::Deleted, deadline: at(30) });
    let kill = |at_: usize, deadline| Action::Kill { at: at_, deadline, why: Why::PodEnds };
    assert_eq!(decide(&m, at(0)).actions, [kill(1, at(30)), kill(2, at(30))]);
    m.containers[1].op = Some(Op::Killing { deadline: at(30) });
    put(&mut m, 2, State::Exited, 0);
    m.stop = Some(Stop { kind: StopKind::Deleted, deadline: at(5) });
    assert_eq!(decide(&m, at(0)).actions, [kill(1, at(5))], "a shorter grace is passed on");
    m.containers[1].op = None;
    put(&mut m, 1, State::Exited, 0);
    assert_eq!(decide(&m, at(0)).actions, [kill(0, at(5))], "the sidecar last");
    put(&mut m, 0, State::Exited, 0);
    assert_eq!(decide(&m, at(0)).actions, [Action::StopSandbox]);
    m.sandbox.as_mut().unwrap().stopped = true;
    assert_eq!(decide(&m, at(0)).actions, [Action::UnmountVolumes]);
    m.volumes = Volumes::Gone;
    assert_eq!(decide(&m, at(0)).actions, [Action::Forget]);
    m.stop = Some(Stop { kind: StopKind::Finished, deadline: at(5) });
    assert!(decide(&m, at(0)).actions.is_empty(), "a finished pod stays for its logs");
}

#[test]
fn deadlines_and_hooks() {
    let mut m = prepared(json!({"activeDeadlineSeconds": 60, "containers": [{"name": "a", "image": "i"}]}));
    m.start_time = Some(at(0));
    put(&mut m, 0, State::Running, 0);
    assert_eq!(decide(&m, at(1)).wake, Some(at(60)));
    assert_eq!(decide(&m, at(60)).actions, [Action::FailDeadline]);

    let hook = json!({"postStart": {"exec": {"command": ["x"]}}});
    let m = prepared(json!({"containers": [
        {"name": "a", "image": "i", "lifecycle": hook}, {"name": "b", "image": "i"}]}));
    assert_eq!(decide(&m, at(0)).actions, [Action::Start { at: 0, attempt: 0 }], "b waits for a's hook");
    let mut m = m;
    put(&mut m, 0, State::Running, 0);
    m.containers[0].current.as_mut().unwrap().hook_done = false;
    assert!(decide(&m, at(0)).actions.is_empty());
    m.containers[0].current.as_mut().unwrap().hook_done = true;
    assert_eq!(decide(&m, at(0)).actions, [Action::Start { at: 1, attempt: 0 }]);
}

// === simulation ===

/// A world in which actions take effect late, out of order, or not at all.
struct World {
    m: PodModel,
    now: i64,
    pending: Vec<Pending>,
    /// What really runs: instance id by container.
    running: BTreeMap<usize, Vec<Box<str>>>,
    sandboxes: u32,
}

enum Pending {
    Mount,
    Unmount,
    Sandbox(u32),
    StopSandbox,
    Image(usize),
    Start(usize, u32),
    Kill(usize, Box<str>),
    Remove(usize, Box<str>),
    RemoveSandbox(Box<str>),
    Forget,
}

impl World {
    fn new(spec: Value) -> Self {
        Self { m: model(spec), now: 0, pending: Vec::new(), running: BTreeMap::new(), sandboxes: 0 }
    }

    fn act(&mut self) -> usize {
        let plan = decide(&self.m, at(self.now));
        let again = decide(&self.m, at(self.now));
        assert_eq!(plan, again);
        let count = plan.actions.len();
        for action in plan.actions {
            match action {
                Action::MountVolumes => {
                    self.m.volumes = Volumes::Busy;
                    self.pending.push(Pending::Mount);
                }
                Action::UnmountVolumes => {
                    assert!(self.running.values().all(Vec::is_empty), "volumes go after containers");
                    self.m.volumes = Volumes::Leaving;
                    self.pending.push(Pending::Unmount);
                }
                Action::CreateSandbox { attempt } => {
                    assert!(self.m.sandbox_op.is_none());
                    self.m.sandbox_op = Some(SandboxOp::Creating);
                    self.pending.push(Pending::Sandbox(attempt));
                }
                Action::StopSandbox => {
                    self.m.sandbox_op = Some(SandboxOp::Stopping);
                    self.pending.push(Pending::StopSandbox);
                }
                Action::EnsureImage { at } => {
                    self.m.containers[at].image = Image::Busy(None);
                    self.pending.push(Pending::Image(at));
                }
                Action::Start { at, attempt } => {
                    let c = &mut self.m.containers[at];
                    assert!(c.op.is_none() && !c.is_live());
                    assert!(
                        self.running.get(&at).is_none_or(Vec::is_empty),
                        "two instances of container {at}"
                    );
                    if let Some(finished) = c.current.as_ref().and_then(|i| i.finished_at) {
                        c.backoff.next(finished, super::super::decide::tests::at(self.now));
                    }
                    c.op = Some(Op::Starting);
                    self.pending.push(Pending::Start(at, attempt));
                }
                Action::Kill { at, deadline, .. } => {
                    let c = &mut self.m.containers[at];
                    c.op = Some(Op::Killing { deadline });
                    self.pending.push(Pending::Kill(at, c.current.as_ref().unwrap().id.clone()));
                }
                Action::RemoveContainer { at, id } => {
                    assert!(!self.running.get(&at).is_some_and(|r| r.contains(&id)), "removed while it runs");
                    self.m.containers[at].dead.iter_mut().for_each(|(d, busy)| *busy |= *d == id);
                    self.pending.push(Pending::Remove(at, id));
                }
                Action::RemoveSandbox { id } => {
                    self.m.dead_sandboxes.iter_mut().for_each(|(d, busy)| *busy |= *d == id);
                    self.pending.push(Pending::RemoveSandbox(id));
                }
                Action::Finish => self.stop(StopKind::Finished),
                Action::FailDeadline => self.stop(StopKind::Failed),
                Action::Forget => {
                    self.m.farewell = Farewell::Busy;
                    self.pending.push(Pending::Forget);
                }
            }
        }
        count
    }

    fn stop(&mut self, kind: StopKind) {
        self.m.stop = Some(Stop { kind, deadline: at(self.now + 30) });
        for c in &mut self.m.containers {
            if matches!(c.image, Image::Busy(_)) {
                c.image = Image::Unknown;
            }
        }
    }

    fn exit(&mut self, at_: usize, id: &str, code: i32) {
        if let Some(running) = self.running.get_mut(&at_) {
            running.retain(|r| r.as_ref() != id);
        }
        let spec = self.m.container_spec(at_).unwrap().clone();
        let now = at(self.now);
        let Some(old) = self.m.containers[at_].current.clone().filter(|i| i.id.as_ref() == id) else {
            return;
        };
        if old.state != State::Exited {
            let new = Instance { state: State::Exited, exit_code: code, finished_at: Some(now), ..old };
            self.m.containers[at_].observe(new, &spec);
        }
    }

    fn complete(&mut self, op: Pending, ok: bool) {
        match op {
            Pending::Mount if ok => self.m.volumes = Volumes::Ready,
            Pending::Mount => self.m.volumes = Volumes::Failed { retry_at: at(self.now + 1) },
            Pending::Unmount if ok => self.m.volumes = Volumes::Gone,
            Pending::Unmount => self.m.volumes = Volumes::Stuck { retry_at: at(self.now + 1) },
            Pending::Sandbox(attempt) => {
                self.m.sandbox_op = None;
                if ok {
                    self.sandboxes += 1;
                    let id = format!("s{}", self.sandboxes).into();
                    let fresh = Sandbox { id, attempt, ready: true, stopped: false, ips: Vec::new() };
                    self.m.sandbox_retry_at = None;
                    if let Some(old) = self.m.sandbox.replace(fresh) {
                        self.m.dead_sandboxes.push((old.id, false));
                    }
                } else {
                    self.m.sandbox_retry_at = Some(at(self.now + 10));
                }
            }
            Pending::StopSandbox => {
                self.m.sandbox_op = None;
                if ok {
                    let s = self.m.sandbox.as_mut().unwrap();
                    (s.ready, s.stopped) = (false, true);
                    self.m.sandbox_retry_at = None;
                } else {
                    self.m.sandbox_retry_at = Some(at(self.now + 10));
                }
            }
            Pending::Image(at_) => {
                let c = &mut self.m.containers[at_];
                if matches!(c.image, Image::Busy(_)) {
                    c.image = if ok {
                        Image::Present("i".into())
                    } else {
                        let retry_at = Some(at(self.now + 10));
                        Image::Failed { reason: "ErrImagePull", message: "".into(), retry_at }
                    };
                }
            }
            Pending::Start(at_, attempt) => {
                self.m.containers[at_].op = None;
                if ok {
                    let i = instance(&self.m, at_, attempt, State::Running, 0);
                    let i = Instance { started_at: Some(at(self.now)), ..i };
                    self.running.entry(at_).or_default().push(i.id.clone());
                    let spec = self.m.container_spec(at_).unwrap().clone();
                    self.m.containers[at_].start_failure = None;
                    self.m.containers[at_].observe(i, &spec);
                    self.m.containers[at_].health = Health { started: true, ready: true, failed: None };
                } else {
                    self.m.containers[at_].start_failure = Some(super::super::model::StartFailure {
                        reason: "CreateContainerError",
                        message: "".into(),
                        retry_at: at(self.now + 10),
                    });
                }
            }
            Pending::Kill(at_, id) => {
                if ok {
                    self.exit(at_, &id, 137);
                }
                self.m.containers[at_].op = None;
            }
            Pending::Remove(at_, id) if ok => self.m.containers[at_].forget(&id),
            Pending::Remove(at_, id) => {
                self.m.containers[at_].dead.iter_mut().for_each(|(d, busy)| *busy &= *d != id);
            }
            Pending::RemoveSandbox(id) if ok => self.m.dead_sandboxes.retain(|(d, _)| *d != id),
            Pending::RemoveSandbox(id) => {
                self.m.dead_sandboxes.iter_mut().for_each(|(d, busy)| *busy &= *d != id);
            }
            Pending::Forget => self.m.farewell = Farewell::Done,
        }
    }

    /// Lets everything end well until nothing is left to do.
    fn settle(&mut self) {
        for _ in 0..400 {
            let acted = self.act();
            while let Some(op) = self.pending.pop() {
                self.complete(op, true);
            }
            // Init containers end well by themselves.
            for i in 0..self.m.containers.len() {
                if self.m.containers[i].role == Role::Init && self.m.containers[i].is_live() {
                    let id = self.m.containers[i].current.as_ref().unwrap().id.clone();
                    self.exit(i, &id, 0);
                }
            }
            if acted == 0 {
                let plan = decide(&self.m, at(self.now));
                match plan.wake {
                    Some(_) if plan.actions.is_empty() => self.now += 301,
                    _ if plan.actions.is_empty() => return,
                    _ => {}
                }
            }
        }
        panic!("does not converge: {:#?}\n{:?}", self.m, decide(&self.m, at(self.now)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn never_two_instances_and_always_an_end(
        policy in prop_oneof!["Always", "OnFailure", "Never"],
        init in any::<bool>(),
        sidecar in any::<bool>(),
        steps in proptest::collection::vec((0_u8..12, any::<u8>(), any::<bool>()), 0..120),
    ) {
        let mut spec = two(json!({"restartPolicy": policy}));
        let mut inits = Vec::new();
        if init { inits.push(json!({"name": "i", "image": "i"})); }
        if sidecar { inits.push(json!({"name": "s", "image": "i", "restartPolicy": "Always"})); }
        spec["initContainers"] = json!(inits);
        let mut w = World::new(spec);
        for (what, which, ok) in steps {
            match what {
                0..=3 => { w.act(); }
                4..=7 => if !w.pending.is_empty() {
                    let op = w.pending.remove(usize::from(which) % w.pending.len());
                    w.complete(op, ok || which % 4 != 0);
                },
                8 => {
                    let all: Vec<(usize, Box<str>)> =
                        w.running.iter().flat_map(|(c, ids)| ids.iter().map(|i| (*c, i.clone()))).collect();
                    if !all.is_empty() {
                        let (c, id) = all[usize::from(which) % all.len()].clone();
                        w.exit(c, &id, i32::from(!ok));
                    }
                }
                9 => if let Some(s) = &mut w.m.sandbox { s.ready &= ok; },
                10 => w.now += i64::from(which),
                _ => if which < 16 { w.stop(StopKind::Deleted); },
            }
        }
        w.settle();
        let live = w.running.values().map(Vec::len).sum::<usize>();
        match w.m.stop {
            None => {
                let wanted = w.m.containers.iter().filter(|c| c.role == Role::Main).count();
                prop_assert!(live >= 1 && live <= wanted + usize::from(sidecar));
                if policy == "Always" {
                    prop_assert_eq!(live, wanted + usize::from(sidecar));
                }
            }
            Some(stop) => {
                prop_assert_eq!(live, 0);
                prop_assert_eq!(w.m.farewell == Farewell::Done, stop.removes());
            }
        }
    }
}
