//! Laws of the queue, with a clock of our own.

use super::*;
use proptest::prelude::*;

fn uid(name: &str) -> Uid {
    name.into()
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn key(priority: i64) -> SortKey {
    Arc::from([-priority])
}

const STUCK: Group = Group(1);
const GATE: Group = Group(2);

#[test]
fn by_sort_key_then_age() {
    let (mut queue, now) = (Queue::default(), Instant::now());
    for (name, priority, at) in [("old", 0, 0), ("new", 0, 1), ("high", 10, 2), ("low", -5, 0)] {
        queue.update(&uid(name), key(priority), None, now + seconds(at));
    }
    queue.update(&uid("longer"), Arc::from([-10, i64::MIN]), None, now);
    let order: Vec<Uid> = std::iter::from_fn(|| queue.pop(now + seconds(3))).collect();
    assert_eq!(order, [uid("high"), uid("longer"), uid("old"), uid("new"), uid("low")]);
}

#[test]
fn only_its_own_group_wakes_a_pod_and_not_before_its_backoff() {
    let (mut queue, now) = (Queue::default(), Instant::now());
    queue.update(&uid("a"), key(0), None, now);
    assert!(queue.pop(now).is_some());
    queue.unschedulable(&uid("a"), STUCK, now);
    queue.wake(GATE, now + seconds(60));
    assert_eq!(queue.pop(now + seconds(60)), None);

    queue.wake(STUCK, now + seconds(61));
    assert_eq!(queue.pop(now + seconds(61)), Some(uid("a")));

    // The second failure waits two seconds.
    let now = now + seconds(61);
    queue.unschedulable(&uid("a"), STUCK, now);
    queue.wake(STUCK, now + seconds(1));
    assert!(!queue.has_group(STUCK));
    assert_eq!(queue.pop(now + seconds(1)), None);
    assert_eq!(queue.next_wakeup(), Some(now + seconds(2)));
    assert_eq!(queue.pop(now + seconds(2)), Some(uid("a")));
}

#[test]
fn backoff_doubles_up_to_ten_seconds() {
    let backoff = Backoff::default();
    let waits: Vec<u64> = (1..=6).map(|n| backoff.after(n).as_secs()).collect();
    assert_eq!(waits, [1, 2, 4, 8, 10, 10]);
    assert_eq!(backoff.after(u32::MAX), seconds(10));
}

#[test]
fn five_minutes_are_an_event() {
    let (mut queue, now) = (Queue::default(), Instant::now());
    queue.update(&uid("a"), key(0), None, now);
    assert!(queue.pop(now).is_some());
    queue.unschedulable(&uid("a"), STUCK, now);
    assert_eq!(queue.next_wakeup(), Some(now + seconds(300)));
    assert_eq!(queue.pop(now + seconds(299)), None);
    assert_eq!(queue.pop(now + seconds(300)), Some(uid("a")));
}

#[test]
fn a_gated_pod_waits_for_its_gates() {
    let (mut queue, now) = (Queue::default(), Instant::now());
    queue.update(&uid("a"), key(0), Some(GATE), now);
    queue.wake(STUCK, now);
    assert_eq!(queue.pop(now + seconds(1000)), None);
    queue.update(&uid("a"), key(0), None, now);
    assert_eq!(queue.pop(now), Some(uid("a")));
    queue.gate(&uid("a"), GATE);
    assert_eq!(queue.depths(), [0, 0, 0, 1]);
    queue.wake(GATE, now);
    assert_eq!(queue.pop(now), Some(uid("a")));
}

#[derive(Clone, Debug)]
enum Step {
    Update(u8, i8, Option<u8>),
    Remove(u8),
    Pop(Option<u8>),
    Wake(u8),
    WakeOne(u8),
    Wait(u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let gate = || prop::option::weighted(0.3, 0..4_u8);
    let step = prop_oneof![
        2 => (0..12_u8, any::<i8>(), gate()).prop_map(|(p, n, g)| Step::Update(p, n, g)),
        1 => (0..12_u8).prop_map(Step::Remove),
        2 => prop::option::of(0..4_u8).prop_map(Step::Pop),
        1 => (0..8_u8).prop_map(Step::Wake),
        1 => (0..12_u8).prop_map(Step::WakeOne),
        1 => (0..2000_u16).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 0..200)
}

proptest! {
    #[test]
    fn no_pod_is_lost_or_handed_out_twice(steps in steps()) {
        let (mut queue, mut now) = (Queue::default(), Instant::now());
        let mut known = std::collections::HashSet::new();
        let mut gated = std::collections::HashMap::new();
        let name = |n: u8| uid(&n.to_string());
        for step in steps {
            match step {
                Step::Update(n, priority, gate) => {
                    queue.update(&name(n), key(i64::from(priority)), gate.map(|g| Group(u64::from(g) + 4)), now);
                    known.insert(name(n));
                    gated.insert(name(n), gate);
                }
                Step::Remove(n) => {
                    queue.remove(&name(n));
                    known.remove(&name(n));
                }
                Step::Pop(stuck) => {
                    if let Some(uid) = queue.pop(now) {
                        prop_assert!(known.contains(&uid));
                        prop_assert!(gated[&uid].is_none());
                        match stuck {
                            None => {
                                queue.remove(&uid);
                                known.remove(&uid);
                            }
                            Some(group) => queue.unschedulable(&uid, Group(u64::from(group)), now),
                        }
                    }
                }
                Step::Wake(n) => {
                    queue.wake(Group(u64::from(n)), now);
                    for gate in gated.values_mut().filter(|g| g.map(|g| g + 4) == Some(n)) {
                        *gate = None;
                    }
                }
                Step::WakeOne(n) => queue.wake_one(&name(n), now),
                Step::Wait(ms) => now += Duration::from_millis(u64::from(ms)),
            }
            prop_assert_eq!(queue.len(), known.len());
            prop_assert_eq!(queue.depths().iter().sum::<usize>(), known.len());
        }
        // Whatever happened, every pod without a gate is handed out in the end, once.
        now += seconds(1000);
        let mut out = std::collections::HashSet::new();
        while let Some(uid) = queue.pop(now) {
            prop_assert!(out.insert(uid));
            now += Duration::from_millis(1);
        }
        let free: std::collections::HashSet<Uid> =
            known.into_iter().filter(|uid| gated[uid].is_none()).collect();
        prop_assert_eq!(out, free);
    }
}
