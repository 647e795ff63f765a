//! The logic, natively testable.

use crate::args::Args;
use crate::quotient::percent;
use crate::usual::Usual;
use orlop_sdk::scheduler::{
    Asked, BatchPlugin, Delta, Explanation, Mirror, Prepared, Reason, Synced, column, dictionary,
};
use orlop_sdk::serde_json::Value;
use std::collections::HashMap;

/// What a pod of a class requests.
#[derive(Clone, Debug, Default)]
struct Request {
    cpu: i64,
    memory: i64,
    ephemeral: i64,
    extended: Vec<(String, i64)>,
    nonzero_cpu: i64,
    nonzero_memory: i64,
}

impl Request {
    fn read(pod: &Value, args: &Args) -> Self {
        let number = |path: &str| pod.pointer(path).and_then(Value::as_i64).unwrap_or(0);
        let mut request = Self {
            nonzero_cpu: number("/computed/nonZeroRequests/cpu"),
            nonzero_memory: number("/computed/nonZeroRequests/memory"),
            ..Self::default()
        };
        for (name, units) in
            pod.pointer("/computed/requests").and_then(Value::as_object).into_iter().flatten()
        {
            let units = units.as_i64().unwrap_or(0);
            match name.as_str() {
                "cpu" => request.cpu = units,
                "memory" => request.memory = units,
                "ephemeral-storage" => request.ephemeral = units,
                "pods" => {}
                _ if units == 0 || args.ignores(name) => {}
                _ => request.extended.push((name.clone(), units)),
            }
        }
        request
    }

    fn of(&self, resource: &str) -> i64 {
        self.extended.iter().find(|(name, _)| name == resource).map_or(0, |(_, units)| *units)
    }
}

/// A resource that is compared: what the pod wants, what there is, what is taken.
struct Compared<'a> {
    name: &'a str,
    wanted: i64,
    allocatable: &'a [i64],
    requested: &'a [i64],
}

impl Compared<'_> {
    fn at(&self, slot: usize) -> (i64, i64) {
        let cell = |column: &[i64]| column.get(slot).copied().unwrap_or(0);
        (cell(self.allocatable), cell(self.requested))
    }

    fn fits(&self, slot: usize) -> bool {
        let (allocatable, requested) = self.at(slot);
        self.wanted <= allocatable - requested
    }
}

/// A resource that is scored.
struct Scored<'a> {
    wanted: i64,
    weight: i64,
    allocatable: &'a [i64],
    requested: &'a [i64],
}

/// The plugin.
#[derive(Debug)]
pub struct NodeResourcesFit {
    args: Args,
    mirror: Mirror,
    usual: Usual,
    classes: HashMap<u32, Request>,
}

fn extended<'a>(mirror: &'a Mirror, name: &str) -> (&'a [i64], &'a [i64]) {
    match mirror.number(dictionary::EXTENDED, name) {
        Some(k) => {
            let first = column::EXTENDED + 2 * k;
            (mirror.s64(first), mirror.s64(first + 1))
        }
        None => (&[], &[]),
    }
}

impl Request {
    /// What has to be compared, in Kubernetes' order.
    fn compared<'a>(&'a self, mirror: &'a Mirror) -> Vec<Compared<'a>> {
        let mut all = Vec::with_capacity(3 + self.extended.len());
        for (name, wanted, allocatable, requested) in [
            ("cpu", self.cpu, column::ALLOCATABLE_CPU, column::REQUESTED_CPU),
            ("memory", self.memory, column::ALLOCATABLE_MEMORY, column::REQUESTED_MEMORY),
            ("ephemeral-storage", self.ephemeral, column::ALLOCATABLE_EPHEMERAL, column::REQUESTED_EPHEMERAL),
        ] {
            if wanted > 0 {
                let (allocatable, requested) = (mirror.s64(allocatable), mirror.s64(requested));
                all.push(Compared { name, wanted, allocatable, requested });
            }
        }
        for (name, wanted) in &self.extended {
            let (allocatable, requested) = extended(mirror, name);
            all.push(Compared { name, wanted: *wanted, allocatable, requested });
        }
        all
    }
}

impl NodeResourcesFit {
    fn scored(&self, request: &Request) -> Vec<Scored<'_>> {
        let of = |name: &str, weight: i64| {
            let fixed = |wanted, allocatable, requested| {
                let (allocatable, requested) = (self.mirror.s64(allocatable), self.mirror.s64(requested));
                Some(Scored { wanted, weight, allocatable, requested })
            };
            match name {
                "cpu" => fixed(request.nonzero_cpu, column::ALLOCATABLE_CPU, column::NONZERO_CPU),
                "memory" => fixed(request.nonzero_memory, column::ALLOCATABLE_MEMORY, column::NONZERO_MEMORY),
                "ephemeral-storage" => {
                    fixed(request.ephemeral, column::ALLOCATABLE_EPHEMERAL, column::REQUESTED_EPHEMERAL)
                }
                // Extended resources that the pod does not request say nothing about it.
                _ if request.of(name) == 0 => None,
                _ => {
                    let (allocatable, requested) = extended(&self.mirror, name);
                    Some(Scored { wanted: request.of(name), weight, allocatable, requested })
                }
            }
        };
        self.args.scoring_strategy.resources.iter().filter_map(|r| of(&r.name, r.weight)).collect()
    }
}

/// Whether there is room for one more pod.
fn has_room(allocatable: &[i64], requested: &[i64], slot: usize) -> bool {
    let cell = |column: &[i64]| column.get(slot).copied().unwrap_or(0);
    cell(requested) < cell(allocatable)
}

/// Clears the bits of slots without `wanted` free units; eight slots per step.
fn clear_full(mask: &mut [u64], wanted: i64, allocatable: &[i64], requested: &[i64]) {
    for ((word, allocatable), requested) in
        mask.iter_mut().zip(allocatable.chunks(64)).zip(requested.chunks(64))
    {
        let mut fits = 0_u64;
        let (eights, tail) = allocatable.as_chunks::<8>();
        let (taken, taken_tail) = requested.as_chunks::<8>();
        for (step, (a, r)) in eights.iter().zip(taken).enumerate() {
            let mut byte = 0_u64;
            for i in 0..8 {
                byte |= u64::from(wanted <= a[i] - r[i]) << i;
            }
            fits |= byte << (8 * step);
        }
        for (i, (a, r)) in tail.iter().zip(taken_tail).enumerate() {
            fits |= u64::from(wanted <= a - r) << (8 * eights.len() + i);
        }
        *word &= fits;
    }
}

/// LeastAllocated of one resource.
fn least(wanted: i64, allocatable: i64, requested: i64) -> i64 {
    let requested = requested + wanted;
    if requested > allocatable { 0 } else { percent(allocatable - requested, allocatable) }
}

/// MostAllocated of one resource; what is over-committed counts as full.
fn most(wanted: i64, allocatable: i64, requested: i64) -> i64 {
    percent((requested + wanted).min(allocatable), allocatable)
}

fn byte(score: i64) -> u8 {
    u8::try_from(score).unwrap_or(u8::MAX)
}

impl BatchPlugin for NodeResourcesFit {
    fn new(args: &[u8]) -> Result<Self, String> {
        Ok(Self {
            args: Args::parse(args)?,
            mirror: Mirror::default(),
            usual: Usual::default(),
            classes: HashMap::new(),
        })
    }

    fn sync(&mut self, delta: Delta) -> Synced {
        if delta.full {
            self.usual = Usual::default();
        }
        let rows = self.mirror.apply(delta);
        if self.args.are_usual() {
            self.usual.follow(&self.mirror, &rows);
        }
        Synced::rows(self.mirror.checksum())
    }

    fn prepare(&mut self, class: u32, pod: &Value) -> Result<Prepared, String> {
        self.classes.insert(class, Request::read(pod, &self.args));
        Ok(Prepared::default())
    }

    fn release(&mut self, class: u32) {
        self.classes.remove(&class);
    }

    fn filter(&mut self, class: u32, rows: &[u32]) -> Vec<u64> {
        let Some(request) = self.classes.get(&class) else { return Vec::new() };
        let compared = request.compared(&self.mirror);
        let (most, taken) =
            (self.mirror.s64(column::ALLOCATABLE_PODS), self.mirror.s64(column::REQUESTED_PODS));
        if !rows.is_empty() {
            return Asked::new(rows, self.mirror.slots())
                .mask(|slot| has_room(most, taken, slot) && compared.iter().all(|c| c.fits(slot)));
        }
        let mut mask = self.mirror.live().to_vec();
        clear_full(&mut mask, 1, most, taken);
        for c in &compared {
            if c.allocatable.is_empty() {
                // Nobody ever offered it.
                mask.fill(0);
            }
            clear_full(&mut mask, c.wanted, c.allocatable, c.requested);
        }
        mask
    }

    fn score(&mut self, class: u32, rows: &[u32]) -> Vec<u8> {
        let Some(request) = self.classes.get(&class) else { return Vec::new() };
        if rows.is_empty()
            && self.args.are_usual()
            && let Some(scores) = self.usual.scores(request.nonzero_cpu, request.nonzero_memory)
        {
            return scores;
        }
        let scored = self.scored(request);
        let prefers_most = self.args.prefers_most();
        Asked::new(rows, self.mirror.slots()).map(|slot| {
            let (mut sum, mut weights) = (0, 0);
            for resource in &scored {
                let cell = |column: &[i64]| column.get(slot).copied().unwrap_or(0);
                let (allocatable, requested) = (cell(resource.allocatable), cell(resource.requested));
                if allocatable == 0 {
                    continue;
                }
                let score = if prefers_most { most } else { least };
                sum += resource.weight * score(resource.wanted, allocatable, requested);
                weights += resource.weight;
            }
            byte(if weights == 0 { 0 } else { sum / weights })
        })
    }

    fn overlay(&mut self, class: u32, delta: Delta) -> Vec<u64> {
        let Some(request) = self.classes.get(&class) else { return Vec::new() };
        self.mirror.overlay(delta, |mirror, slot| {
            let (most, taken) = (mirror.s64(column::ALLOCATABLE_PODS), mirror.s64(column::REQUESTED_PODS));
            mirror.is_live(slot)
                && has_room(most, taken, slot)
                && request.compared(mirror).iter().all(|c| c.fits(slot))
        })
    }

    fn explain(&mut self, class: u32, rows: &[u32]) -> Explanation {
        let mut explanation = Explanation::default();
        let Some(request) = self.classes.get(&class) else {
            rows.iter().for_each(|_| explanation.end_row());
            return explanation;
        };
        let compared = request.compared(&self.mirror);
        let (most, taken) =
            (self.mirror.s64(column::ALLOCATABLE_PODS), self.mirror.s64(column::REQUESTED_PODS));
        for slot in rows {
            let slot = *slot as usize;
            if !has_room(most, taken, slot) {
                explanation.because(Reason::new("Too many pods"));
            }
            for c in compared.iter().filter(|c| !c.fits(slot)) {
                // Where even the empty node is too small, evicting cannot help.
                let unresolvable = c.wanted > c.at(slot).0;
                explanation.because(Reason { text: format!("Insufficient {}", c.name), unresolvable });
            }
            explanation.end_row();
        }
        explanation
    }
}

#[cfg(test)]
mod tests;
