//! A candidate beside an active revision, both played by what follows.

use super::{Canary, Open, REST, Shadow};
use crate::plugins::comparison::{Comparison, Numbers};
use orlop_scheduler::framework::{
    Choice, Decision, Delta, Descriptor, Explanation, Hooks, Placement, PluginError, Prepared, Reason, Rows,
    SchedulerPlugin, Synced, Verdict,
};
use orlop_scheduler::pod::PodFacts;
use orlop_scheduler::profile::{Enabled, Profile};
use orlop_scheduler::table::{NodeFacts, NodeTable};
use parking_lot::Mutex;
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a player answers, and what it was asked.
#[derive(Default)]
struct Part {
    mask: u64,
    score: u8,
    prepared: Prepared,
    waits: bool,
    fails: bool,
    asked: Vec<String>,
    started: u32,
}

type Shared = Arc<Mutex<Part>>;

struct Player {
    descriptor: Descriptor,
    part: Shared,
    /// Every answer waits for it.
    gate: Arc<Mutex<()>>,
}

impl Player {
    fn new(part: &Shared, gate: &Arc<Mutex<()>>) -> Self {
        let section = json!({
            "hooks": ["filter", "score", "reserve", "permit"],
            "columns": ["node.labels"],
            "podFields": ["metadata.labels"],
        });
        part.lock().started += 1;
        let descriptor = Descriptor::from_manifest("Player", &section).unwrap();
        assert!(descriptor.hooks.has(Hooks::PERMIT));
        Self { descriptor, part: part.clone(), gate: gate.clone() }
    }

    fn answer<T>(&self, what: String, answer: impl FnOnce(&Part) -> T) -> Result<T, PluginError> {
        drop(self.gate.lock());
        let mut part = self.part.lock();
        part.asked.push(what);
        if part.fails {
            return Err(PluginError::Trap { message: "as told".to_owned() });
        }
        Ok(answer(&part))
    }
}

impl SchedulerPlugin for Player {
    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    fn reset(&mut self) -> Result<(), PluginError> {
        self.answer("reset".to_owned(), |_| ())
    }

    fn sync(&mut self, delta: &Delta) -> Result<Synced, PluginError> {
        self.answer(format!("sync full={}", delta.full), |_| Synced::default())
    }

    fn prepare(&mut self, class: u32, _pod: &[u8]) -> Result<Prepared, PluginError> {
        self.answer(format!("prepare {class}"), |part| part.prepared.clone())
    }

    fn release(&mut self, class: u32) -> Result<(), PluginError> {
        self.answer(format!("release {class}"), |_| ())
    }

    fn filter(&mut self, class: u32, rows: Rows<'_>) -> Result<Vec<u64>, PluginError> {
        self.answer(format!("filter {class}"), |part| match rows {
            Rows::All => vec![part.mask],
            Rows::Some(rows) => {
                vec![rows.iter().enumerate().fold(0, |m, (i, row)| m | (part.mask >> row & 1) << i)]
            }
        })
    }

    fn score(&mut self, class: u32, rows: Rows<'_>) -> Result<Vec<u8>, PluginError> {
        self.answer(format!("score {class}"), |part| match rows {
            Rows::All => vec![part.score; 3],
            Rows::Some(rows) => vec![part.score; rows.len()],
        })
    }

    fn score_raw(&mut self, _class: u32, _rows: Rows<'_>) -> Result<Vec<i64>, PluginError> {
        unreachable!("it returns bytes")
    }

    fn normalize(&mut self, _: u32, _: &[u64], _: &[i64]) -> Result<Vec<u8>, PluginError> {
        unreachable!("it returns bytes")
    }

    fn explain(&mut self, _class: u32, rows: &[u32]) -> Result<Explanation, PluginError> {
        self.answer("explain".to_owned(), |_| Explanation {
            offsets: vec![0; rows.len() + 1],
            ..Explanation::default()
        })
    }

    fn reserve(&mut self, at: &Placement) -> Result<(), PluginError> {
        self.answer(format!("reserve {}", at.pod), |_| ())
    }

    fn unreserve(&mut self, at: &Placement) -> Result<Vec<Decision>, PluginError> {
        self.answer(format!("unreserve {}", at.pod), |_| Vec::new())
    }

    fn permit(&mut self, at: &Placement) -> Result<(Verdict, Vec<Decision>), PluginError> {
        let wait = || Verdict::Wait { timeout: Duration::from_secs(60), message: "for others".to_owned() };
        self.answer(format!("permit {}", at.pod), |part| {
            (if part.waits { wait() } else { Verdict::Allow }, Vec::new())
        })
    }
}

/// Both revisions, and a scheduler profile that asks them about three nodes.
struct Stage {
    active: Shared,
    candidate: Shared,
    /// The candidate's answers wait for it.
    gate: Arc<Mutex<()>>,
    comparison: Arc<Comparison>,
    table: NodeTable,
    profile: Profile,
}

fn part(mask: u64, score: u8) -> Shared {
    Arc::new(Mutex::new(Part { mask, score, ..Part::default() }))
}

fn labels(label: &str) -> serde_json::Value {
    json!({ "metadata": { "labels": { "app": label } } })
}

impl Stage {
    /// The active revision lets the first two nodes pass, the candidate the last two.
    fn set(
        join: impl FnOnce(Box<dyn SchedulerPlugin>, Arc<Comparison>, Open) -> Box<dyn SchedulerPlugin>,
    ) -> Self {
        let (active, candidate) = (part(0b011, 10), part(0b110, 90));
        let (gate, comparison) = (Arc::default(), Arc::<Comparison>::default());
        let open: Open = {
            let (part, gate) = (candidate.clone(), Arc::clone(&gate));
            Box::new(move || Ok(Box::new(Player::new(&part, &gate))))
        };
        let joined = join(Box::new(Player::new(&active, &Arc::default())), comparison.clone(), open);
        let profile = Profile::new("default-scheduler".to_owned(), vec![Enabled::new(joined)]);
        let mut stage = Self { active, candidate, gate, comparison, table: NodeTable::new(), profile };
        for name in ["a", "b", "c"] {
            stage.label(name, "0");
        }
        stage
    }

    fn shadow() -> Self {
        Self::set(|active, comparison, open| Box::new(Shadow::start(active, comparison, open).unwrap()))
    }

    /// The candidate decides about what is labelled `new`.
    fn canary() -> Self {
        let decides = |pod: &str| pod.contains("new");
        Self::set(|active, comparison, open| {
            Box::new(Canary::new(active, comparison, open, Box::new(decides)))
        })
    }

    fn label(&mut self, node: &str, value: &str) {
        let node_object = json!({ "metadata": { "name": node, "labels": { "x": value } } });
        self.table.set_node(node, &NodeFacts::from_value(&node_object));
    }

    /// The nodes for a pod with this label.
    fn feasible(&mut self, label: &str) -> Result<u64, String> {
        let def = self.profile.define(&PodFacts::from_value(labels(label)).value);
        let id = self.profile.open(&def);
        self.profile.evaluate(id, &self.table, Instant::now()).map_err(|failed| failed.message)?;
        Ok(self.profile.class(id).unwrap().feasible().first().copied().unwrap_or(0))
    }

    fn ask<T>(
        &mut self,
        question: impl FnOnce(&mut dyn SchedulerPlugin) -> Result<T, PluginError>,
    ) -> Result<T, PluginError> {
        self.profile.ask(0, &self.table, true, Instant::now(), question)
    }

    /// Waits until the numbers are as wanted.
    fn until(&self, what: &str, wanted: impl Fn(&Numbers) -> bool) -> Numbers {
        until(what, || Some(self.comparison.numbers()).filter(&wanted))
    }
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn placement(pod: u64, label: &str) -> Placement {
    Placement {
        pod,
        namespace: "default".into(),
        name: format!("pod-{pod}").into(),
        uid: pod.to_string().into(),
        fields: labels(label).to_string().into_bytes().into(),
        slot: 0,
        node: "a".into(),
    }
}

#[test]
fn a_shadow_is_asked_the_same_and_decides_nothing() {
    let mut stage = Stage::shadow();
    assert_eq!(stage.feasible("x"), Ok(0b011));
    let numbers = stage.until("a mask and scores", |n| n.compared == 2);
    assert_eq!(numbers.different, 2);
    let examples = stage.comparison.examples();
    let filter = examples.iter().find(|e| e.key.starts_with("filter")).unwrap();
    assert!(filter.key.contains(r#""app":"x""#), "{filter:?}");
    assert_eq!(filter.active, "node a fits");
    assert_eq!(filter.candidate, "node a does not fit, and 1 more nodes otherwise");
    let score = examples.iter().find(|e| e.key.starts_with("score")).unwrap();
    assert!(
        score.active == "node a scores 10" && score.candidate.starts_with("node a scores 90"),
        "{score:?}"
    );

    // Nothing is asked again where nothing changed; then one row.
    stage.candidate.lock().mask = 0b011;
    stage.candidate.lock().score = 10;
    assert_eq!(stage.feasible("x"), Ok(0b011));
    stage.label("b", "1");
    assert_eq!(stage.feasible("x"), Ok(0b011));
    let numbers = stage.until("a row", |n| n.compared == 4);
    assert_eq!((numbers.different, numbers.dropped), (2, 0));

    // Pods on their way.
    stage.candidate.lock().waits = true;
    let (verdict, _) = stage.ask(|p| p.permit(&placement(7, "x"))).unwrap();
    assert_eq!(verdict, Verdict::Allow);
    stage.until("the permit", |n| n.compared == 5 && n.different == 3);
    assert!(stage.comparison.examples()[2].key.starts_with("permit default/pod-7 on a"));
    assert_eq!(stage.comparison.numbers().active.count, 4, "answers about classes are timed");
}

#[test]
fn what_only_one_revision_leaves_out_is_compared() {
    let mut stage = Stage::shadow();
    stage.active.lock().prepared = Prepared { skip_filter: true, skip_score: true, ..Prepared::default() };
    assert_eq!(stage.feasible("x"), Ok(0b111));
    stage.until("both", |n| n.compared == 2 && n.different == 2);
    let reason = Some(Reason { text: "no".to_owned(), unresolvable: false });
    stage.active.lock().prepared = Prepared { rejected: reason.clone(), ..Prepared::default() };
    stage.candidate.lock().prepared = Prepared { rejected: reason, ..Prepared::default() };
    assert_eq!(stage.feasible("y"), Ok(0));
    stage.until("the same", |n| n.compared == 3 && n.different == 2);
}

#[test]
fn another_node_that_would_have_been_chosen_is_named() {
    let mut stage = Stage::shadow();
    assert_eq!(stage.feasible("x"), Ok(0b011));
    stage.until("a mask and scores", |n| n.compared == 2);
    let choice = |slot, totals: [i64; 3]| Choice {
        class: 1,
        pod: "default/one".to_owned(),
        slot,
        others: vec![0b111],
        totals: totals.to_vec(),
        filters: true,
        weight: 2,
    };
    // The candidate lets b and c pass.
    let mut tell = |choice: Choice, compared, different| {
        until("the choice is due", || stage.ask(|p| Ok(p.follows_choices())).unwrap().then_some(()));
        let told = stage.ask(|p| {
            p.chosen(choice);
            Ok(())
        });
        told.unwrap();
        stage.until("the choice", |n| n.compared == compared && n.different == different);
        stage.comparison.examples().pop().unwrap()
    };
    tell(choice(Some(2), [9, 5, 7]), 3, 2);
    tell(choice(Some(1), [0, 0, 0]), 4, 2);
    let other = tell(choice(Some(0), [9, 5, 7]), 5, 3);
    assert_eq!(
        (&*other.key, &*other.active, &*other.candidate),
        ("choice default/one", "bound to node a", "would have been bound to node c")
    );
    let none = tell(Choice { others: vec![0b001], ..choice(Some(0), [0, 0, 0]) }, 6, 4);
    assert_eq!(none.candidate, "no node fits");
    let some = tell(choice(None, [0, 0, 0]), 7, 5);
    assert_eq!((&*some.active, &*some.candidate), ("no node fits", "would have been bound to node b"));
}

#[test]
fn a_shadow_that_fails_rests_and_is_told_everything_again() {
    let mut stage = Stage::shadow();
    stage.candidate.lock().fails = true;
    assert_eq!(stage.feasible("x"), Ok(0b011));
    until("the failure", || (!stage.candidate.lock().asked.is_empty()).then_some(()));
    stage.candidate.lock().fails = false;
    let lost = Instant::now();
    until("it follows again", || {
        stage.label("c", &lost.elapsed().as_nanos().to_string());
        assert_eq!(stage.feasible("x"), Ok(0b011));
        (stage.comparison.numbers().compared > 0).then_some(())
    });
    assert!(lost.elapsed() >= REST - Duration::from_millis(100));
    let candidate = stage.candidate.lock();
    assert_eq!(candidate.started, 2);
    let again = candidate.asked.iter().rposition(|asked| asked == "sync full=true").unwrap();
    assert_eq!(candidate.asked[again + 1], "prepare 1", "{:?}", candidate.asked);
    drop(candidate);
    assert!(stage.comparison.numbers().dropped > 0);
    assert_eq!(stage.active.lock().started, 1);
    assert!(!stage.active.lock().asked.contains(&"reset".to_owned()));
}

#[test]
fn nobody_waits_for_a_shadow_that_hangs() {
    let mut stage = Stage::shadow();
    let gate = stage.gate.clone();
    let hangs = gate.lock();
    for i in 0..6000 {
        stage.label("c", &i.to_string());
        assert_eq!(stage.feasible("x"), Ok(0b011));
    }
    let numbers = stage.comparison.numbers();
    assert!(numbers.compared == 0 && numbers.dropped > 0, "{numbers:?}");
    drop(hangs);
    until("it follows again", || {
        stage.label("c", "last");
        stage.label("b", &stage.comparison.numbers().dropped.to_string());
        assert_eq!(stage.feasible("x"), Ok(0b011));
        (stage.candidate.lock().started == 2).then_some(())
    });
}

#[test]
fn an_active_revision_that_starts_anew_takes_its_shadow_along() {
    let mut stage = Stage::shadow();
    stage.active.lock().fails = true;
    assert!(stage.feasible("x").unwrap_err().contains("as told"));
    stage.active.lock().fails = false;
    until("the rest is over", || (stage.feasible("x") == Ok(0b011)).then_some(()));
    stage.until("a mask and scores", |n| n.compared == 2);
    assert_eq!(stage.candidate.lock().started, 2);
}

#[test]
fn a_canary_decides_about_its_classes_and_no_others() {
    let mut stage = Stage::canary();
    assert_eq!(stage.feasible("old"), Ok(0b011));
    assert_eq!(stage.feasible("new"), Ok(0b110));
    assert!(!stage.candidate.lock().asked.contains(&"prepare 1".to_owned()));
    let numbers = stage.comparison.numbers();
    assert_eq!((numbers.candidate.count, numbers.active.count), (2, 2), "a mask and scores each");

    // What it leaves out is answered for it.
    stage.candidate.lock().prepared = Prepared { skip_filter: true, skip_score: true, ..Prepared::default() };
    assert_eq!(stage.feasible("new too"), Ok(0b111));
    let reason = Some(Reason { text: "no".to_owned(), unresolvable: false });
    stage.candidate.lock().prepared = Prepared { rejected: reason, ..Prepared::default() };
    assert_eq!(stage.feasible("new three"), Ok(0));
}

#[test]
fn where_a_canary_fails_the_active_revision_answers_at_once() {
    let mut stage = Stage::canary();
    assert_eq!(stage.feasible("new"), Ok(0b110));
    assert_eq!(stage.feasible("new too"), Ok(0b110));
    stage.candidate.lock().fails = true;
    stage.label("c", "1");
    assert_eq!(stage.feasible("new"), Ok(0b011));
    assert_eq!(stage.feasible("new too"), Ok(0b011), "old answers of the candidate are not in use any more");
    stage.candidate.lock().fails = false;
    let lost = Instant::now();
    until("it decides again", || (stage.feasible("new") == Ok(0b110)).then_some(()));
    assert!(lost.elapsed() >= REST - Duration::from_millis(500));
    assert_eq!(stage.feasible("new too"), Ok(0b110));
    assert_eq!(stage.candidate.lock().started, 2);
    assert!(!stage.active.lock().asked.contains(&"reset".to_owned()));
}

#[test]
fn both_revisions_book_a_pod_and_one_lets_it_go() {
    let mut stage = Stage::canary();
    stage.candidate.lock().waits = true;
    let (old, new) = (placement(1, "old"), placement(2, "new"));
    for at in [&old, &new] {
        stage.ask(|p| p.reserve(at)).unwrap();
    }
    assert_eq!(stage.ask(|p| p.permit(&old)).unwrap().0, Verdict::Allow);
    assert!(matches!(stage.ask(|p| p.permit(&new)).unwrap().0, Verdict::Wait { .. }));
    for (part, permit) in [(&stage.active, "permit 1"), (&stage.candidate, "permit 2")] {
        let asked = &part.lock().asked;
        let placing: Vec<_> = asked.iter().filter(|a| !a.starts_with("sync")).map(String::as_str).collect();
        assert_eq!(placing, ["reserve 1", "reserve 2", permit]);
    }

    // A candidate that fails keeps nobody waiting.
    stage.candidate.lock().fails = true;
    let other = placement(3, "new");
    stage.ask(|p| p.reserve(&other)).unwrap();
    let (verdict, decisions) = stage.ask(|p| p.permit(&other)).unwrap();
    assert_eq!(verdict, Verdict::Allow);
    assert_eq!((decisions.len(), decisions[0].pod), (1, 2));
    assert!(decisions[0].rejected.as_ref().unwrap().contains("the candidate that the pod waited for failed"));
}
