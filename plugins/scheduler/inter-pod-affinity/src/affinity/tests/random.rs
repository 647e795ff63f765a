//! Random clusters, changed step by step, against a look at every pod.
use super::*;
use orlop_sdk::scheduler::{pack, test_bit};

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }
}

type Labels = Vec<(String, String)>;

/// Labels of the nodes.
type Nodes = Vec<Option<Labels>>;

fn label<'a>(node: &'a [(String, String)], key: &str) -> Option<&'a str> {
    node.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
}

fn terms<'a>(pod: &'a Value, kind: &str, strength: &str) -> Vec<&'a Value> {
    let path = format!("/spec/affinity/{kind}/{strength}DuringSchedulingIgnoredDuringExecution");
    pod.pointer(&path).and_then(Value::as_array).into_iter().flatten().collect()
}

fn means(term: &Value, pod: &Value) -> bool {
    // All pods here are of one namespace.
    term["labelSelector"]["matchLabels"]["app"] == pod["metadata"]["labels"]["app"]
}

/// A look at every pod, on behalf of one that waits.
struct Look<'a> {
    nodes: &'a Nodes,
    pods: Vec<Vec<Value>>,
    pod: &'a Value,
}

impl Look<'_> {
    fn near(&self, term: &Value, slot: usize, other: usize) -> bool {
        let key = term["topologyKey"].as_str().unwrap();
        let value = |at: usize| self.nodes[at].as_ref().and_then(|node| label(node, key));
        value(slot).is_some() && value(slot) == value(other)
    }

    fn placed(&self) -> impl Iterator<Item = (usize, &Value)> {
        let live = |(at, _): &(usize, &Vec<Value>)| self.nodes[*at].is_some();
        self.pods.iter().enumerate().filter(live).flat_map(|(at, pods)| pods.iter().map(move |pod| (at, pod)))
    }

    fn fits(&self, slot: usize) -> bool {
        let Some(Some(node)) = self.nodes.get(slot) else { return false };
        let wanted = terms(self.pod, "podAffinity", "required");
        let all = |pod: &Value| wanted.iter().all(|term| means(term, pod));
        let attracting: Vec<(usize, &Value)> = self.placed().filter(|(_, pod)| all(pod)).collect();
        let anywhere = wanted.iter().any(|term| attracting.iter().any(|(at, _)| self.near(term, *at, *at)));
        for term in &wanted {
            let there = attracting.iter().any(|(at, _)| self.near(term, slot, *at));
            let labelled = label(node, term["topologyKey"].as_str().unwrap()).is_some();
            if !labelled || !there && (anywhere || !all(self.pod)) {
                return false;
            }
        }
        let hostile = |(at, other): (usize, &Value)| {
            let ours = terms(self.pod, "podAntiAffinity", "required");
            let theirs = terms(other, "podAntiAffinity", "required");
            ours.iter().any(|term| means(term, other) && self.near(term, slot, at))
                || theirs.iter().any(|term| means(term, self.pod) && self.near(term, slot, at))
        };
        !self.placed().any(hostile)
    }

    fn sum(&self, slot: usize) -> i64 {
        let mut sum = 0;
        for (at, other) in self.placed() {
            for (one, two) in [(self.pod, other), (other, self.pod)] {
                for (kind, sign) in [("podAffinity", 1), ("podAntiAffinity", -1)] {
                    for weighed in terms(one, kind, "preferred") {
                        let term = &weighed["podAffinityTerm"];
                        if means(term, two) && self.near(term, slot, at) {
                            sum += sign * weighed["weight"].as_i64().unwrap();
                        }
                    }
                }
            }
            for term in terms(other, "podAffinity", "required") {
                sum += i64::from(means(term, self.pod) && self.near(term, slot, at));
            }
        }
        sum
    }

    fn scores(&self, feasible: &[bool]) -> Vec<Option<u8>> {
        let sums: Vec<Option<i64>> =
            (0..feasible.len()).map(|at| feasible[at].then(|| self.sum(at))).collect();
        let least = sums.iter().flatten().min().copied().unwrap_or(0);
        let most = sums.iter().flatten().max().copied().unwrap_or(0);
        let byte = |sum: i64| match most - least {
            0 => 0,
            span => (100.0 * ((sum - least) as f64 / span as f64)) as u8,
        };
        sums.into_iter().map(|sum| sum.map(byte)).collect()
    }
}

fn kinds() -> Vec<Value> {
    let both = json!({
        "podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 7, "podAffinityTerm": term("zone", "c")}]},
        "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 3, "podAffinityTerm": term("host", "b")}]},
    });
    vec![
        plain("a"),
        plain("c"),
        pod("a", &required("podAffinity", &[term("zone", "a")])),
        pod("b", &required("podAntiAffinity", &[term("host", "b")])),
        pod("b", &required("podAntiAffinity", &[term("zone", "c"), term("rack", "b")])),
        pod("c", &required("podAffinity", &[term("zone", "b"), term("rack", "b")])),
        pod("a", &both),
        pod("c", &preferred("podAntiAffinity", 9, &term("rack", "c"))),
    ]
}

fn labels(random: &mut Random, name: &str) -> Labels {
    let mut labels = vec![("host".to_owned(), name.to_owned())];
    for (key, values) in [("zone", 3), ("rack", 5)] {
        let value = random.below(values + 1);
        if value > 0 {
            labels.push((key.to_owned(), value.to_string()));
        }
    }
    labels
}

fn change(random: &mut Random, cluster: &mut Cluster, nodes: &mut Nodes, kinds: &[Value]) {
    let at = random.below(nodes.len().max(1));
    let slot = u32::try_from(at).unwrap();
    match if nodes.is_empty() { 0 } else { random.below(24) } {
        0 | 1 => {
            let name = format!("n{}", nodes.len());
            let labels = labels(random, &name);
            let borrowed: Vec<(&str, &str)> = labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            cluster.node(&name, &borrowed);
            nodes.push(Some(labels));
        }
        2 => {
            cluster.remove(slot);
            if let Some(node) = nodes.get_mut(at) {
                *node = None;
            }
        }
        3 => {
            let labels = labels(random, &format!("n{at}"));
            if let Some(Some(node)) = nodes.get_mut(at) {
                let borrowed: Vec<(&str, &str)> =
                    labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
                cluster.label(slot, &borrowed);
                *node = labels;
            }
        }
        4..=14 => {
            let pod = cluster.pods(slot).first().cloned();
            if let Some(pod) = pod {
                cluster.take(slot, &pod);
            }
        }
        _ => cluster.place(slot, kinds[random.below(kinds.len())].clone()),
    }
}

#[test]
fn agree_with_a_look_at_every_pod() {
    let kinds = kinds();
    for seed in 0..20 {
        let mut random = Random(seed);
        let (mut cluster, mut nodes) = (Cluster::default(), Nodes::new());
        (0..30).for_each(|_| change(&mut random, &mut cluster, &mut nodes, &kinds));
        let mut plugin = InterPodAffinity::new(b"{}").unwrap();
        plugin.sync(cluster.delta());
        for (pod, class) in kinds.iter().zip(1..) {
            plugin.prepare(class, pod).unwrap();
        }
        let mut known: Vec<Vec<u64>> = (1..=8).map(|class| plugin.filter(class, &[])).collect();
        for step in 0..60 {
            (0..=random.below(3)).for_each(|_| change(&mut random, &mut cluster, &mut nodes, &kinds));
            if random.below(20) == 0 {
                cluster.start_over();
            }
            let delta = cluster.delta();
            let rows = delta.rows.clone();
            let stale = plugin.sync(delta).stale;
            if random.below(10) == 0 {
                plugin.prepare(1, &kinds[0]).unwrap();
            }
            let all =
                || (0..nodes.len()).map(|at| cluster.pods(u32::try_from(at).unwrap()).to_vec()).collect();
            let looked: Vec<Vec<Value>> = all();
            for ((class, pod), known) in (1_u32..).zip(&kinds).zip(&mut known) {
                let told = format!("seed {seed}, step {step}, class {class}");
                let mut look = Look { nodes: &nodes, pods: looked.clone(), pod };
                let mask = plugin.filter(class, &[]);
                let mut feasible = Vec::new();
                for slot in 0..nodes.len() {
                    let fits = look.fits(slot);
                    assert_eq!(test_bit(&mask, slot), fits, "{told}, slot {slot}");
                    feasible.push(fits);
                    let is_stale = match &stale {
                        Stale::Nothing => false,
                        Stale::Classes(classes) => classes.contains(&class),
                        Stale::Everything => true,
                    };
                    let told_of = is_stale || rows.contains(&u32::try_from(slot).unwrap());
                    assert!(told_of || test_bit(known, slot) == fits, "{told}, slot {slot} is not stale");
                }
                *known = mask;
                let scores = plugin.normalize(class, &pack(feasible.len(), |i| feasible[i]), &[]);
                for (slot, score) in look.scores(&feasible).into_iter().enumerate() {
                    assert_eq!(score.unwrap_or(scores[slot]), scores[slot], "{told}, score of slot {slot}");
                }
                let slot = random.below(nodes.len());
                let mut pods = looked[slot].clone();
                match random.below(2) {
                    0 => pods.clear(),
                    _ => pods.push(kinds[random.below(kinds.len())].clone()),
                }
                look.pods[slot].clone_from(&pods);
                let fits = look.fits(slot);
                let overlay = cluster.overlay(&[(u32::try_from(slot).unwrap(), pods)]);
                assert_eq!(
                    plugin.overlay(class, overlay)[0] & 1 == 1,
                    fits,
                    "{told}, overlay of slot {slot}"
                );
            }
        }
    }
}
