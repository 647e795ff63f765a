use super::*;
use orlop_sdk::serde_json::json;

fn plugin(args: Value) -> DefaultPreemption {
    DefaultPreemption::new(args.to_string().as_bytes()).unwrap()
}

fn pod(priority: i64) -> Value {
    json!({"computed": {"priority": priority}})
}

/// Candidates; each pod is priority, start, whether a budget would be violated.
fn pods(candidates: &[&[(i32, i64, bool)]]) -> CandidatePods {
    let mut pods = CandidatePods { offsets: vec![0], ..CandidatePods::default() };
    for candidate in candidates {
        for (priority, started, violating) in *candidate {
            pods.priorities.push(*priority);
            pods.started.push(*started);
            pods.violating.push(u8::from(*violating));
            pods.terminating.push(0);
        }
        pods.offsets.push(u32::try_from(pods.priorities.len()).unwrap());
    }
    pods
}

#[test]
fn arguments_are_checked() {
    let refused = |args: Value| DefaultPreemption::new(args.to_string().as_bytes()).unwrap_err();
    assert!(refused(json!({"minCandidateNodesPercentage": 101})).contains("not in valid range [0, 100]"));
    let neither = json!({"minCandidateNodesPercentage": 0, "minCandidateNodesAbsolute": 0});
    assert!(refused(neither).contains("cannot both be zero"));
    assert!(refused(json!({"minCandidates": 1})).contains("unknown field"));
}

#[test]
fn who_may_evict_and_on_how_many_nodes() {
    let mut plain = plugin(json!({}));
    let never = json!({"spec": {"preemptionPolicy": "Never"}, "computed": {"priority": 9}});
    assert_eq!(plain.eligible(&never, 5, false).unwrap_err(), "not eligible due to preemptionPolicy=Never.");
    assert_eq!(
        plain.eligible(&pod(9), 5, true).unwrap_err(),
        "not eligible due to a terminating pod on the nominated node."
    );
    for (nodes, tried) in [(0, 0), (5, 5), (100, 100), (500, 100), (5000, 500)] {
        assert_eq!(plain.eligible(&pod(9), nodes, false), Ok(tried), "{nodes} nodes");
    }
    let mut few = plugin(json!({"minCandidateNodesPercentage": 50, "minCandidateNodesAbsolute": 1}));
    assert_eq!(few.eligible(&pod(9), 10, false), Ok(5));
    assert_eq!(few.eligible(&pod(9), 1, false), Ok(1));
}

#[test]
fn victims_are_less_important_and_ordered_for_their_reprieve() {
    let mut plugin = plugin(json!({}));
    let candidates = pods(&[
        &[(5, 10, false), (10, 0, false), (3, 20, true), (5, 5, false), (-1, 0, false)],
        &[(10, 0, true)],
        &[(0, 1, false), (9, 1, true)],
    ]);
    // The violating one first, then by priority, then who has run longest; nobody of the same priority.
    assert_eq!(plugin.victims(&pod(10), &candidates), [2, 3, 0, 4, 7, 6]);
    assert_eq!(plugin.victims(&pod(-1), &candidates), [0_u32; 0]);
}

#[test]
fn the_best_node_by_each_criterion_in_turn() {
    let mut plugin = plugin(json!({}));
    type Candidates<'a> = &'a [&'a [(i32, i64, bool)]];
    let cases: &[(&str, Candidates<'_>, u32)] = &[
        ("violations", &[&[(1, 0, true)], &[(9, 0, false), (9, 0, false)]], 1),
        ("highest priority", &[&[(5, 0, false)], &[(4, 0, false), (4, 0, false)]], 1),
        ("sum of priorities", &[&[(5, 0, false), (4, 0, false)], &[(5, 0, false), (3, 0, false)]], 1),
        ("sum of negative priorities", &[&[(-5, 0, false), (-9, 0, false)], &[(-5, 0, false)]], 1),
        ("latest start", &[&[(5, 10, false), (4, 99, false)], &[(5, 20, false), (4, 1, false)]], 1),
        (
            "longest running of the highest",
            &[&[(5, 10, false), (5, 90, false)], &[(5, 20, false), (5, 21, false)]],
            1,
        ),
        ("the first", &[&[(5, 1, false)], &[(5, 1, false)]], 0),
        ("no victims at all", &[&[(i32::MIN, 1, false)], &[]], 1),
    ];
    for (what, candidates, best) in cases {
        assert_eq!(plugin.choose(&pod(10), &pods(candidates)), *best, "{what}");
    }
}

#[test]
fn fewer_victims_decide_where_sums_are_equal() {
    let mut plugin = plugin(json!({}));
    // The lowest priority there is adds nothing to the sum.
    let two = [(0, 0, false), (i32::MIN, 0, false)];
    let one = [(0, 0, false)];
    assert_eq!(plugin.choose(&pod(10), &pods(&[&two, &one])), 1);
}
