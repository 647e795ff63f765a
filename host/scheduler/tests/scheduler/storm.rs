//! Whatever comes in whatever order, no pod is lost, placed twice or accounted for ever.

use crate::cluster::cases;
use crate::native::Builtin;
use crate::scripted::{Shared, add_node, on, pod, put, remove, scripted, wait};
use orlop_scheduler::columns::REQUESTED_PODS;
use orlop_scheduler::engine::{Action, BindResult, Engine, PodRef};
use orlop_scheduler::framework::{Decision, Hooks, PluginFactory, Verdict};
use orlop_scheduler::profile::{Enabled, Profile};
use orlop_scheduler::queue::Backoff;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

#[derive(Clone, Debug)]
enum Step {
    Node(u8, u8),
    NoNode(u8),
    /// Name, CPU, priority.
    Pod(u8, u8, u8),
    NoPod(u8),
    /// The oldest action that is under way ends well, badly, or after the pod's own news.
    End(u8),
    /// What Permit says to the next pods.
    Permit(u8),
    PreBind(u8),
    Reserve,
    Decide(u8, bool),
    Swap,
    Objects,
    Wait(u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => (0..4_u8, 1..5_u8).prop_map(|(n, cpu)| Step::Node(n, cpu)),
        1 => (0..4_u8).prop_map(Step::NoNode),
        8 => (0..12_u8, 1..4_u8, 0..4_u8).prop_map(|(n, cpu, p)| Step::Pod(n, cpu, p)),
        3 => (0..12_u8).prop_map(Step::NoPod),
        6 => (0..3_u8).prop_map(Step::End),
        2 => (0..3_u8).prop_map(Step::Permit),
        2 => (0..4_u8).prop_map(Step::PreBind),
        1 => Just(Step::Reserve),
        2 => (0..12_u8, any::<bool>()).prop_map(|(n, allow)| Step::Decide(n, allow)),
        1 => Just(Step::Swap),
        1 => Just(Step::Objects),
        3 => (0..20_000_u16).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..100)
}

/// The API server, and what the engine was told to do.
struct World {
    engine: Engine,
    script: Shared,
    now: Instant,
    pods: BTreeMap<String, Value>,
    /// Bindings and writes under way.
    under_way: VecDeque<Action>,
    /// Nodes by the pods that were bound to them.
    bound: BTreeMap<String, String>,
    /// Pods so far: each has a uid of its own.
    born: u32,
}

impl World {
    fn profile(script: &Shared) -> Profile {
        let hooks = [Hooks::RESERVE, Hooks::PERMIT, Hooks::PRE_BIND, Hooks::POST_BIND];
        let hooks = hooks.into_iter().fold(Hooks::default(), Hooks::or);
        let mut plugins: Vec<Enabled> = ["PrioritySort", "NodeResourcesFit", "DefaultPreemption"]
            .map(|name| Enabled::new(Builtin.open(name, &json!({})).unwrap()))
            .into();
        plugins.push(scripted("S", hooks, script));
        Profile::new("default-scheduler".into(), plugins)
    }

    fn new() -> Self {
        let script = Shared::default();
        let engine = Engine::new(vec![Self::profile(&script)], Backoff::default(), 3);
        let (pods, bound) = (BTreeMap::new(), BTreeMap::new());
        Self { engine, script, now: Instant::now(), pods, under_way: VecDeque::new(), bound, born: 0 }
    }

    fn step(&mut self, step: Step) {
        let Self { engine, now, .. } = self;
        match step {
            Step::Node(n, cpu) => add_node(engine, &format!("n{n}"), &cpu.to_string()),
            Step::NoNode(n) => engine.node(&format!("n{n}"), None),
            Step::Pod(n, cpu, priority) => {
                let name = format!("p{n}");
                if !self.pods.contains_key(&name) {
                    let mut pod = pod(&name, &cpu.to_string(), i32::from(priority));
                    self.born += 1;
                    pod["metadata"]["uid"] = json!(format!("uid-{}", self.born));
                    put(engine, &pod, *now);
                    self.pods.insert(name, pod);
                }
            }
            Step::NoPod(n) => self.delete(&format!("p{n}")),
            Step::End(how) => self.end(how),
            Step::Permit(how) => {
                let verdict = match how {
                    0 => wait(5),
                    1 => wait(60),
                    _ => (Verdict::Reject { message: "no".into() }, vec![]),
                };
                self.script.lock().unwrap().permit.push_back(verdict);
            }
            Step::PreBind(how) => {
                let write = vec![b"write".to_vec()];
                let verdict = match how {
                    0 => (wait(5).0, vec![]),
                    1 => (wait(5).0, write),
                    2 => (Verdict::Allow, write),
                    _ => (Verdict::Reject { message: "no".into() }, vec![]),
                };
                self.script.lock().unwrap().pre_bind.push_back(verdict);
            }
            Step::Reserve => self.script.lock().unwrap().reserve.push_back(Err("no".into())),
            Step::Decide(n, allow) => {
                let mut script = self.script.lock().unwrap();
                if let Some(number) = script.numbers.get(&format!("p{n}")).copied() {
                    let rejected = (!allow).then(|| "the gang is gone".to_owned());
                    let decision = Decision { pod: number, rejected };
                    script.permit.push_back((Verdict::Allow, vec![decision.clone()]));
                    script.unreserve.push_back(vec![decision]);
                }
            }
            Step::Swap => {
                let profile = Self::profile(&self.script);
                engine.set_profiles(vec![profile], Backoff::default(), *now);
            }
            Step::Objects => engine.objects_changed(*now),
            Step::Wait(ms) => *now += Duration::from_millis(u64::from(ms)),
        }
    }

    fn delete(&mut self, name: &str) {
        if self.pods.remove(name).is_some() {
            self.bound.remove(name);
            // What is under way for it fails, as the API server would have it.
            remove(&mut self.engine, name, self.now);
        }
    }

    fn end(&mut self, how: u8) {
        match self.under_way.pop_front() {
            Some(Action::Bind { pod, node }) => {
                let name = pod.name.to_string();
                let Some(object) = self.pods.get(&name).filter(|_| self.is_current(&pod)) else {
                    return self.engine.bound(&pod.uid, &node, BindResult::Gone, self.now);
                };
                if how == 0 {
                    let failed = BindResult::Failed("no".into());
                    return self.engine.bound(&pod.uid, &node, failed, self.now);
                }
                let object = on(object.clone(), &node);
                if how == 1 {
                    put(&mut self.engine, &object, self.now);
                }
                self.engine.bound(&pod.uid, &node, BindResult::Bound, self.now);
                if how == 2 {
                    put(&mut self.engine, &object, self.now);
                }
                self.bound.insert(name.clone(), node.to_string());
                self.pods.insert(name, object);
            }
            Some(Action::Write { pod, ticket, .. }) => {
                let result = if how == 0 { Err("no".into()) } else { Ok(()) };
                self.engine.written(&pod.uid, ticket, result, self.now);
            }
            _ => {}
        }
    }

    /// Does what the engine decided, and what it decides because of that, and checks it.
    fn act(&mut self) -> Result<(), TestCaseError> {
        loop {
            while self.engine.cycle(self.now) {}
            let actions = self.engine.take_actions();
            if actions.is_empty() {
                break;
            }
            for action in actions {
                self.follow(action)?;
            }
        }
        prop_assert_eq!(self.engine.in_flight(), self.under_way.len());
        Ok(())
    }

    fn follow(&mut self, action: Action) -> Result<(), TestCaseError> {
        match action {
            Action::Bind { ref pod, .. } => {
                let same = |a: &Action| matches!(a, Action::Bind { pod: other, .. } if other.uid == pod.uid);
                prop_assert!(!self.under_way.iter().any(same), "{} is bound twice", pod.name);
                prop_assert!(!self.bound.contains_key(&*pod.name), "{} is bound already", pod.name);
                prop_assert!(self.is_current(pod), "{} is there no more", pod.name);
                self.under_way.push_back(action);
            }
            Action::Write { .. } => self.under_way.push_back(action),
            Action::Evict { pod, .. } => self.delete(&pod.name),
            _ => {}
        }
        Ok(())
    }

    fn is_current(&self, pod: &PodRef) -> bool {
        self.pods.get(&*pod.name).is_some_and(|p| p["metadata"]["uid"] == *pod.uid)
    }
}

proptest! {
    #![proptest_config(cases(300))]
    #[test]
    fn no_pod_is_lost_or_placed_twice(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
            world.act()?;
        }
        // Now everything goes well, and there is room for all.
        {
            let mut script = world.script.lock().unwrap();
            script.permit.clear();
            script.pre_bind.clear();
            script.reserve.clear();
            script.unreserve.clear();
        }
        for n in 0..4 {
            add_node(&mut world.engine, &format!("n{n}"), "100");
        }
        for _ in 0..8 {
            world.now += Duration::from_secs(1_000);
            world.act()?;
            while !world.under_way.is_empty() {
                world.end(2);
                world.act()?;
            }
        }
        let waiting: Vec<&String> = world.pods.keys().filter(|name| !world.bound.contains_key(*name)).collect();
        prop_assert!(waiting.is_empty(), "{:?} are lost", waiting);
        prop_assert!(world.engine.queue().is_empty());
        prop_assert_eq!((world.engine.waiting(), world.engine.in_flight()), (0, 0));
        // What is accounted is what is bound, and nothing is left in the end.
        let placed = |engine: &Engine| -> i64 {
            (0..engine.table().slots()).map(|slot| engine.table().s64(REQUESTED_PODS, slot)).sum()
        };
        prop_assert_eq!(usize::try_from(placed(&world.engine)).unwrap(), world.bound.len());
        for name in world.pods.keys().cloned().collect::<Vec<_>>() {
            world.delete(&name);
        }
        prop_assert_eq!(placed(&world.engine), 0);
    }
}
