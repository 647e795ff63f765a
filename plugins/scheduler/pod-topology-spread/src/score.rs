//! How evenly a node would leave the pods.
//!
//! Source: `pkg/scheduler/framework/plugins/podtopologyspread/scoring.go`.

use crate::group::{Group, Sight};
use orlop_sdk::scheduler::{NO_DOMAIN, test_bit};

/// Calls `f` with every set bit.
fn each(set: &[u64], mut f: impl FnMut(usize)) {
    for (at, word) in set.iter().enumerate() {
        let mut rest = *word;
        while rest != 0 {
            f(at * 64 + rest.trailing_zeros() as usize);
            rest &= rest - 1;
        }
    }
}

/// Topologies with few domains are not to be drowned by those with many.
#[expect(clippy::cast_precision_loss, reason = "as upstream")]
fn weight(domains: usize) -> f64 {
    ((domains + 2) as f64).ln()
}

/// To the nearest, halves up; for numbers that are not negative.
#[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "as upstream")]
fn round(score: f64) -> i64 {
    let whole = score as i64;
    whole + i64::from(score - whole as f64 >= 0.5)
}

impl Group {
    /// 0 to 100 for each slot, where the `feasible` ones are left to choose from.
    pub(crate) fn scores(&self, sight: Sight<'_>, feasible: &[u64]) -> Vec<u8> {
        let slots = sight.mirror.slots();
        let mut scored = feasible.to_vec();
        scored.resize(slots.div_ceil(64), 0);
        if self.soft.strict {
            for constraint in &self.soft.all {
                for (word, domains) in
                    scored.iter_mut().zip(sight.topology.by_slot(constraint.key).chunks(64))
                {
                    let bits = domains.iter().enumerate();
                    *word &= bits.fold(0, |bits, (i, domain)| bits | u64::from(*domain != NO_DOMAIN) << i);
                }
            }
        }
        let mut sums = vec![0_f64; slots];
        for constraint in &self.soft.all {
            let domains = sight.topology.by_slot(constraint.key);
            let watered = f64::from(constraint.spec.max_skew.saturating_sub(1));
            let mut add = |slot: usize, part: f64| {
                if let Some(sum) = sums.get_mut(slot) {
                    *sum += part;
                }
            };
            if constraint.per_node {
                let nodes = scored.iter().map(|word| word.count_ones() as usize).sum();
                let weight = weight(nodes);
                let pods = sight.matchers.pods(constraint.matcher);
                each(&scored, |slot| {
                    if domains.get(slot).is_some_and(|domain| *domain != NO_DOMAIN) {
                        let count = pods.get(slot).copied().unwrap_or(0);
                        add(slot, f64::from(count) * weight + watered);
                    }
                });
            } else {
                let mut seen = vec![false; sight.topology.domains(constraint.key)];
                let (mut size, mut lacking) = (0, 0);
                each(&scored, |slot| {
                    let domain = domains.get(slot).copied().unwrap_or(NO_DOMAIN);
                    match seen.get_mut(domain as usize) {
                        Some(seen) if !*seen => {
                            *seen = true;
                            size += 1;
                        }
                        Some(_) => {}
                        // The lack of the label is a domain too.
                        None => lacking = 1,
                    }
                });
                let weight = weight(size + lacking);
                let part = |count: &i32| f64::from(*count) * weight + watered;
                let parts: Vec<f64> = constraint.counts.by_domain().iter().map(part).collect();
                each(&scored, |slot| {
                    let domain = domains.get(slot).copied().unwrap_or(NO_DOMAIN);
                    if domain != NO_DOMAIN {
                        add(slot, parts.get(domain as usize).copied().unwrap_or(watered));
                    }
                });
            }
        }
        normalized(&sums, &scored)
    }
}

/// The least sum becomes 100.
fn normalized(sums: &[f64], scored: &[u64]) -> Vec<u8> {
    let (mut least, mut most) = (i64::MAX, 0);
    let rounded: Vec<i64> = sums.iter().map(|sum| round(*sum)).collect();
    for (slot, score) in rounded.iter().enumerate() {
        if test_bit(scored, slot) {
            least = least.min(*score);
            most = most.max(*score);
        }
    }
    let of = |(slot, score): (usize, &i64)| match most {
        _ if !test_bit(scored, slot) => 0,
        0 => 100,
        _ => u8::try_from(100 * (most + least - score) / most).unwrap_or(100),
    };
    rounded.iter().enumerate().map(of).collect()
}
