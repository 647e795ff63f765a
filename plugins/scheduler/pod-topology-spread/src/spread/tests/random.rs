//! Random clusters, changed step by step, against counting from nothing.

use super::*;
use orlop_sdk::scheduler::test_bit;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }
}

/// The cluster as the count from nothing sees it: labels of each node, and its pods' labels.
#[derive(Default)]
struct Plain {
    nodes: Vec<Option<Vec<(String, String)>>>,
}

fn label<'a>(node: &'a [(String, String)], key: &str) -> Option<&'a str> {
    node.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
}

/// Constraints as (key, max skew, min domains, hard).
type Wish = Vec<(&'static str, i64, usize, bool)>;

fn counted(pods: &[Value]) -> i64 {
    i64::try_from(pods.iter().filter(|p| p["metadata"]["labels"].get("foo").is_some()).count()).unwrap()
}

impl Plain {
    /// Whether a node fits if it had these pods.
    fn fits(&self, cluster: &Cluster, wish: &Wish, slot: usize, instead: &[Value]) -> bool {
        let Some(Some(node)) = self.nodes.get(slot) else { return false };
        let keys: Vec<&str> = wish.iter().filter(|w| w.3).map(|w| w.0).collect();
        wish.iter().filter(|w| w.3).all(|(key, max_skew, min_domains, _)| {
            let Some(own) = label(node, key) else { return false };
            let mut domains: HashMap<&str, i64> = HashMap::new();
            for (at, other) in self.nodes.iter().enumerate() {
                let Some(other) = other else { continue };
                if keys.iter().all(|k| label(other, k).is_some()) {
                    let pods = if at == slot { instead } else { cluster.pods(u32::try_from(at).unwrap()) };
                    *domains.entry(label(other, key).unwrap()).or_default() += counted(pods);
                }
            }
            let least = if domains.len() < *min_domains { 0 } else { *domains.values().min().unwrap_or(&0) };
            domains.get(own).unwrap_or(&0) + 1 - least <= *max_skew
        })
    }

    fn scores(&self, cluster: &Cluster, wish: &Wish, feasible: &[bool]) -> Vec<u8> {
        let soft: Vec<_> = wish.iter().filter(|w| !w.3).collect();
        let whole = |node: &[(String, String)]| soft.iter().all(|w| label(node, w.0).is_some());
        let scored = |at: usize| self.nodes[at].as_ref().filter(|node| feasible[at] && whole(node));
        let pods = |at: usize| counted(cluster.pods(u32::try_from(at).unwrap()));
        let raw: Vec<Option<i64>> = (0..self.nodes.len())
            .map(|at| {
                let node = scored(at)?;
                let mut sum = 0.0;
                for (key, max_skew, ..) in &soft {
                    let values: BTreeSet<&str> =
                        (0..self.nodes.len()).filter_map(|at| label(scored(at)?, key)).collect();
                    let own = label(node, key);
                    let of_node = |other: &usize| {
                        self.nodes[*other].as_ref().is_some_and(|o| whole(o) && label(o, key) == own)
                    };
                    let count: i64 = (0..self.nodes.len()).filter(of_node).map(pods).sum();
                    sum += count as f64 * ((values.len() + 2) as f64).ln() + (max_skew - 1) as f64;
                }
                Some(sum.round() as i64)
            })
            .collect();
        let most = raw.iter().flatten().max().copied().unwrap_or(0);
        let least = raw.iter().flatten().min().copied().unwrap_or(0);
        let byte = |s: &Option<i64>| match s {
            None => 0,
            Some(_) if most == 0 => 100,
            Some(s) => u8::try_from(100 * (most + least - s) / most).unwrap(),
        };
        raw.iter().map(byte).collect()
    }
}

const WISHES: [&[(&str, i64, usize, bool)]; 5] = [
    &[("zone", 1, 1, true)],
    &[("zone", 2, 3, true), ("host", 1, 1, true)],
    &[("host", 2, 1, true), ("zone", 1, 1, false)],
    &[("zone", 1, 1, false), ("host", 3, 1, false)],
    &[("rack", 1, 2, true), ("zone", 3, 1, true), ("rack", 2, 1, false)],
];

fn change(random: &mut Random, cluster: &mut Cluster, plain: &mut Plain) {
    let slot = u32::try_from(random.below(plain.nodes.len().max(1))).unwrap();
    match if plain.nodes.is_empty() { 0 } else { random.below(20) } {
        0 | 1 => {
            let name = format!("n{}", plain.nodes.len());
            let labels = labels(random, &name);
            let borrowed: Vec<(&str, &str)> = labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            cluster.node(&name, &borrowed);
            plain.nodes.push(Some(labels));
        }
        2 => {
            cluster.remove(slot);
            if let Some(node) = plain.nodes.get_mut(slot as usize) {
                *node = None;
            }
        }
        3 => {
            let labels = labels(random, &format!("n{slot}"));
            if let Some(Some(node)) = plain.nodes.get_mut(slot as usize) {
                let borrowed: Vec<(&str, &str)> =
                    labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
                cluster.label(slot, &borrowed);
                *node = labels;
            }
        }
        4..=7 => {
            let pod = cluster.pods(slot).first().cloned();
            if let Some(pod) = pod {
                cluster.take(slot, &pod);
            }
        }
        8 => cluster.place(slot, placed(&json!({"bar": ""}))),
        _ => cluster.place(slot, placed(&json!({"foo": random.below(2).to_string()}))),
    }
}

fn labels(random: &mut Random, name: &str) -> Vec<(String, String)> {
    let mut labels = vec![("host".to_owned(), name.to_owned())];
    for (key, values) in [("zone", 3), ("rack", 4)] {
        let value = random.below(values + 1);
        if value > 0 {
            labels.push((key.to_owned(), value.to_string()));
        }
    }
    labels
}

#[test]
fn agree_with_counting_from_nothing() {
    for seed in 0..20 {
        let mut random = Random(seed);
        let (mut cluster, mut plain) = (Cluster::default(), Plain::default());
        (0..30).for_each(|_| change(&mut random, &mut cluster, &mut plain));
        let mut plugin = PodTopologySpread::new(b"{}").unwrap();
        plugin.sync(cluster.delta());
        let wishes: Vec<Wish> = WISHES.iter().map(|w| w.to_vec()).collect();
        let prepare = |plugin: &mut PodTopologySpread, class: usize, wish: &Wish| {
            let constraints: Vec<Value> = wish
                .iter()
                .map(|(key, max_skew, min_domains, is_hard)| {
                    let action = if *is_hard { "DoNotSchedule" } else { "ScheduleAnyway" };
                    hard(key, *max_skew, &json!({"minDomains": min_domains, "whenUnsatisfiable": action}))
                })
                .collect();
            plugin.prepare(u32::try_from(class).unwrap(), &pod(&constraints)).unwrap();
        };
        wishes.iter().enumerate().for_each(|(at, wish)| prepare(&mut plugin, at + 1, wish));
        let mut known: Vec<Vec<u64>> = (1..=5).map(|class| plugin.filter(class, &[])).collect();
        for step in 0..60 {
            (0..=random.below(3)).for_each(|_| change(&mut random, &mut cluster, &mut plain));
            if random.below(20) == 0 {
                cluster.start_over();
            }
            let delta = cluster.delta();
            let rows = delta.rows.clone();
            let stale = plugin.sync(delta).stale;
            if random.below(10) == 0 {
                prepare(&mut plugin, 1, &wishes[0]);
            }
            for ((class, wish), known) in (1_u32..).zip(&wishes).zip(&mut known) {
                let told = format!("seed {seed}, step {step}, class {class}");
                let mask = plugin.filter(class, &[]);
                let mut feasible = Vec::new();
                for slot in 0..plain.nodes.len() {
                    let own = cluster.pods(u32::try_from(slot).unwrap());
                    let fits = plain.fits(&cluster, wish, slot, own);
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
                if wish.iter().any(|w| !w.3) {
                    let feasible_bits = orlop_sdk::scheduler::pack(feasible.len(), |i| feasible[i]);
                    let raw = plugin.score_raw(class, &[]);
                    let scores = plugin.normalize(class, &feasible_bits, &raw);
                    assert_eq!(scores, plain.scores(&cluster, wish, &feasible), "{told}");
                }
                let slot = random.below(plain.nodes.len());
                let mut pods = cluster.pods(u32::try_from(slot).unwrap()).to_vec();
                if random.below(2) == 0 {
                    pods.clear();
                } else {
                    pods.push(foo());
                }
                let fits = plain.fits(&cluster, wish, slot, &pods);
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
