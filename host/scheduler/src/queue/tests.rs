//! Laws of the queue, with a clock of our own.

use super::*;
use proptest::prelude::*;

fn uid(name: &str) -> Uid {
    name.into()
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn by_priority_then_age() {
    let (mut queue, now) = (Queue::default(), Instant::now());
    for (name, priority, at) in [("old", 0, 0), ("new", 0, 1), ("high", 10, 2), ("low", -5, 0)] {
        queue.add(&uid(name), priority, false, now + seconds(at));
    }
    let order: Vec<Uid> = std::iter::from_fn(|| queue.pop(now + seconds(3))).collect();
    assert_eq!(order, [uid("high"), uid("old"), uid("new"), uid("low")]);
}

#[test]
fn only_an_event_that_may_help_wakes_a_pod_and_not_before_its_backoff() {
    let (mut queue, now) = (Queue::default(), Instant::now());
    queue.add(&uid("a"), 0, false, now);
    assert!(queue.pop(now).is_some());
    queue.unschedulable(&uid("a"), EventSet::NODE_ADD.or(EventSet::POD_DELETE), now);
    queue.event(EventSet::NODE_LABELS, now + seconds(60));
    assert_eq!(queue.pop(now + seconds(60)), None);

    queue.event(EventSet::NODE_ADD, now + seconds(61));
    assert_eq!(queue.pop(now + seconds(61)), Some(uid("a")));

    // The second failure waits two seconds.
    let now = now + seconds(61);
    queue.unschedulable(&uid("a"), EventSet::NODE_ADD, now);
    queue.event(EventSet::NODE_ADD, now + seconds(1));
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
    queue.add(&uid("a"), 0, false, now);
    assert!(queue.pop(now).is_some());
    queue.unschedulable(&uid("a"), EventSet::NONE, now);
    assert_eq!(queue.next_wakeup(), Some(now + seconds(300)));
    assert_eq!(queue.pop(now + seconds(299)), None);
    assert_eq!(queue.pop(now + seconds(300)), Some(uid("a")));
}

#[test]
fn a_gated_pod_waits_for_its_gates() {
    let (mut queue, now) = (Queue::default(), Instant::now());
    queue.add(&uid("a"), 0, true, now);
    queue.event(EventSet::ALL, now);
    assert_eq!(queue.pop(now + seconds(1000)), None);
    queue.update(&uid("a"), 0, false, true, now);
    assert_eq!(queue.pop(now), Some(uid("a")));
}

#[derive(Clone, Debug)]
enum Step {
    Add(u8, i8, bool),
    Update(u8, i8, bool, bool),
    Remove(u8),
    Pop(bool),
    Event(u8),
    Wait(u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..12_u8, any::<i8>(), any::<bool>()).prop_map(|(p, n, g)| Step::Add(p, n, g)),
        (0..12_u8, any::<i8>(), any::<bool>(), any::<bool>())
            .prop_map(|(p, n, g, r)| Step::Update(p, n, g, r)),
        (0..12_u8).prop_map(Step::Remove),
        any::<bool>().prop_map(Step::Pop),
        (0..8_u8).prop_map(Step::Event),
        (0..2000_u16).prop_map(Step::Wait),
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
                Step::Add(n, priority, gate) => {
                    queue.add(&name(n), i32::from(priority), gate, now);
                    if known.insert(name(n)) {
                        gated.insert(name(n), gate);
                    }
                }
                Step::Update(n, priority, gate, relevant) => {
                    queue.update(&name(n), i32::from(priority), gate, relevant, now);
                    known.insert(name(n));
                    gated.insert(name(n), gate);
                }
                Step::Remove(n) => {
                    queue.remove(&name(n));
                    known.remove(&name(n));
                }
                Step::Pop(fits) => {
                    if let Some(uid) = queue.pop(now) {
                        prop_assert!(known.contains(&uid));
                        prop_assert!(!gated[&uid]);
                        if fits {
                            queue.remove(&uid);
                            known.remove(&uid);
                        } else {
                            queue.unschedulable(&uid, EventSet(1 << (known.len() % 7)), now);
                        }
                    }
                }
                Step::Event(n) => queue.event(EventSet(1 << n), now),
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
        let free: std::collections::HashSet<Uid> = known.into_iter().filter(|uid| !gated[uid]).collect();
        prop_assert_eq!(out, free);
    }
}
