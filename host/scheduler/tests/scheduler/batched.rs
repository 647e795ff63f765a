//! The batched answers are those of the reference, whatever happened before.

use crate::cluster::{cases, node, pod};
use crate::native::{Builtin, convert};
use crate::reference::State;
use orlop_apimachinery::Object;
use orlop_scheduler::columns::ColumnSet;
use orlop_scheduler::config::{DEFAULT_CONFIG, SchedulerConfig};
use orlop_scheduler::framework::PluginFactory;
use orlop_scheduler::pod::PodFacts;
use orlop_scheduler::profile::{Enabled, Profile};
use orlop_scheduler::surroundings::{Surrounding, Surroundings};
use orlop_scheduler::table::{Footprint, MirrorState, NodeFacts, NodeTable, PodChange, Slot};
use orlop_sdk::scheduler::Mirror;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Instant;

/// The default profile with native plugins.
pub(crate) fn profile() -> Profile {
    let config = SchedulerConfig::parse(DEFAULT_CONFIG, &Builtin.names()).unwrap();
    let enabled = config.profiles[0].plugins.iter().map(|p| Enabled {
        hooks: p.hooks,
        weight: p.weight,
        ..Enabled::new(Builtin.open(&p.name, &p.args).unwrap())
    });
    Profile::new("default-scheduler".to_owned(), enabled.collect())
}

#[derive(Clone, Debug)]
enum Step {
    Node(u8, Value),
    NoNode(u8),
    /// Class, node.
    Place(usize, u8),
    Remove(usize),
    /// A placed pod is being deleted.
    Terminate(usize),
    /// Class.
    Ask(usize),
}

fn steps() -> impl Strategy<Value = (Vec<Value>, Vec<Step>)> {
    let step = prop_oneof![
        3 => (0..9_u8, node()).prop_map(|(n, node)| Step::Node(n, node)),
        1 => (0..9_u8).prop_map(Step::NoNode),
        4 => (0..3_usize, 0..9_u8).prop_map(|(c, n)| Step::Place(c, n)),
        2 => any::<usize>().prop_map(Step::Remove),
        1 => any::<usize>().prop_map(Step::Terminate),
        6 => (0..3_usize).prop_map(Step::Ask),
    ];
    (prop::collection::vec(pod(), 3), prop::collection::vec(step, 1..60))
}

struct World {
    state: State,
    table: NodeTable,
    surroundings: Surroundings,
    placed: BTreeMap<String, (Slot, Footprint)>,
    names: u32,
}

impl World {
    /// Two namespaces, one of them with a label, and a Service in the other one.
    fn new(profile: &Profile) -> Self {
        let mut table = NodeTable::new();
        table.placed_mut().read(profile.placed_pod_fields().map(str::to_owned).collect());
        let mut surroundings = Surroundings::default();
        surroundings.read(true, true);
        let mut state = State::default();
        for (name, labels) in [("ns0", json!({})), ("ns1", json!({"team": "t1"}))] {
            let namespace = json!({"metadata": {"name": name, "uid": name, "labels": labels}});
            let object = Object::from_value(&namespace).unwrap();
            surroundings.change(Surrounding::Namespace, "", name, Some(&object));
            state.namespaces.insert(name.to_owned(), labels);
        }
        let service = json!({"metadata": {"namespace": "ns0", "name": "s", "uid": "s"}, "spec": {"selector": {"app": "a0"}}});
        let object = Object::from_value(&service).unwrap();
        surroundings.change(Surrounding::Service, "ns0", "s", Some(&object));
        state.services.push(service);
        Self { state, table, surroundings, placed: BTreeMap::new(), names: 0 }
    }

    fn facts(&mut self, pod: &Value) -> PodFacts {
        let mut facts = PodFacts::from_value(pod.clone());
        self.surroundings.complete(&mut facts.value);
        facts
    }

    fn pick(&self, at: usize) -> Option<String> {
        self.placed.keys().nth(at % self.placed.len().max(1)).cloned()
    }

    fn step(&mut self, step: &Step, pods: &[Value]) {
        match step {
            Step::Node(n, node) => {
                let name = format!("n{n}");
                let mut node = node.clone();
                node["metadata"]["labels"]["kubernetes.io/hostname"] = json!(name);
                self.table.set_node(&name, &NodeFacts::from_value(&node));
                self.state.nodes.insert(name, node);
            }
            Step::NoNode(n) => {
                self.table.remove_node(&format!("n{n}"));
                self.state.nodes.remove(&format!("n{n}"));
            }
            Step::Place(class, n) => {
                let footprint = self.facts(&pods[*class]).footprint(&mut self.table);
                let slot = self.table.add_pod(&format!("n{n}"), &footprint);
                self.names += 1;
                self.placed.insert(self.names.to_string(), (slot, footprint));
                self.state.placed.insert(self.names.to_string(), (format!("n{n}"), pods[*class].clone()));
            }
            Step::Remove(at) => {
                let Some(name) = self.pick(*at) else { return };
                let (slot, footprint) = self.placed.remove(&name).unwrap();
                self.table.remove_pod(slot, &footprint);
                self.state.placed.remove(&name);
            }
            Step::Terminate(at) => {
                let Some(name) = self.pick(*at) else { return };
                let (slot, before) = self.placed.remove(&name).unwrap();
                let (_, pod) = self.state.placed.get_mut(&name).unwrap();
                pod["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:00:00Z");
                let pod = pod.clone();
                let footprint = self.facts(&pod).footprint(&mut self.table);
                self.table.add_pod_at(slot, &footprint);
                self.table.remove_pod(slot, &before);
                self.placed.insert(name, (slot, footprint));
            }
            Step::Ask(_) => {}
        }
    }
}

proptest! {
    #![proptest_config(cases(100))]
    #[test]
    fn agrees_with_the_reference((pods, steps) in steps()) {
        let mut profile = profile();
        let mut world = World::new(&profile);
        let now = Instant::now();
        for step in &steps {
            world.step(step, &pods);
            let Step::Ask(class) = step else { continue };
            let pod = &pods[*class];
            let def = profile.define(&world.facts(pod).value);
            let id = profile.open(&def);
            profile.evaluate(id, &world.table, now).unwrap();
            let verdict = world.state.judge(pod);
            let class = profile.class(id).unwrap();
            let mut totals = BTreeMap::new();
            for slot in 0..world.table.slots() {
                if class.feasible().get(slot as usize / 64).is_some_and(|w| w >> (slot % 64) & 1 == 1) {
                    totals.insert(world.table.name(slot).unwrap().to_string(), class.total(slot));
                }
            }
            prop_assert_eq!(&totals, &verdict.totals);
            let best = verdict.totals.values().max();
            for draw in 0..5_u64 {
                let chosen = class.choose(draw.wrapping_mul(0x9E37_79B9_7F4A_7C15));
                let chosen = chosen.map(|slot| world.table.name(slot).unwrap().to_string());
                prop_assert_eq!(chosen.map(|name| totals[&name]), best.copied());
            }
            if totals.is_empty() {
                let unfit = profile.explain(id, &world.table, now).unwrap();
                let reasons: BTreeMap<String, u32> = unfit.reasons.iter().cloned().collect();
                prop_assert_eq!(reasons, verdict.reasons);
                prop_assert_eq!(unfit.unresolvable, verdict.unresolvable);
            }
        }
    }

    #[test]
    fn overlays_say_what_would_be((pods, steps) in steps()) {
        let mut profile = profile();
        let mut world = World::new(&profile);
        let now = Instant::now();
        for step in &steps {
            world.step(step, &pods);
        }
        let def = profile.define(&world.facts(&pods[0]).value);
        let id = profile.open(&def);
        profile.evaluate(id, &world.table, now).unwrap();
        let guest = world.facts(&pods[1]).footprint(&mut world.table);
        let gone = world.placed.values().map(|(slot, pod)| (*slot, vec![PodChange::Remove(pod)]));
        let come = (0..world.table.slots()).map(|slot| (slot, vec![PodChange::Add(&guest)]));
        let both = world.placed.values().map(|(slot, pod)| (*slot, vec![PodChange::Remove(pod), PodChange::Add(&guest)]));
        let rows: Vec<(Slot, Vec<PodChange<'_>>)> =
            gone.chain(come).chain(both).filter(|(slot, _)| world.table.is_live(*slot)).collect();
        let said = profile.overlay(id, &world.table, &rows, now).unwrap();
        for ((slot, changes), said) in rows.iter().zip(said) {
            for change in changes {
                match change {
                    PodChange::Add(pod) => world.table.add_pod_at(*slot, pod),
                    PodChange::Remove(pod) => world.table.remove_pod(*slot, pod),
                }
            }
            profile.evaluate(id, &world.table, now).unwrap();
            let feasible = profile.class(id).unwrap().feasible();
            let fits = feasible.get(*slot as usize / 64).is_some_and(|w| w >> (slot % 64) & 1 == 1);
            prop_assert_eq!(said, fits, "slot {} with {:?}", slot, changes);
            for change in changes.iter().rev() {
                match change {
                    PodChange::Add(pod) => world.table.remove_pod(*slot, pod),
                    PodChange::Remove(pod) => world.table.add_pod_at(*slot, pod),
                }
            }
        }
    }

    #[test]
    fn mirrors_have_the_checksum_of_the_table((pods, steps) in steps(), mask in any::<u32>()) {
        let columns = ColumnSet(mask & ColumnSet::ALL.0 & !ColumnSet::PRESENCE.0);
        let mut world = World::new(&profile());
        let fields = ["computed.requests".to_owned()];
        world.table.placed_mut().read(fields.to_vec());
        let (mut mirror, mut state) = (Mirror::default(), MirrorState::new(&fields));
        for step in &steps {
            world.step(step, &pods);
            let Step::Ask(_) = step else { continue };
            if let Some(delta) = world.table.delta(columns, &mut state) {
                mirror.apply(convert(&delta));
            }
            prop_assert_eq!(mirror.checksum(), world.table.checksum(columns, &state));
            prop_assert_eq!(mirror.nodes(), world.table.nodes() as usize);
            // A mirror that starts now is told the same, with entries of its own.
            let mut told = MirrorState::new(&fields);
            if let Some(full) = world.table.delta(columns, &mut told) {
                let mut fresh = Mirror::default();
                fresh.apply(convert(&full));
                prop_assert_eq!(fresh.checksum(), world.table.checksum(columns, &told));
            }
        }
    }
}
