//! LeastAllocated of CPU and memory with equal weights: what nearly every cluster runs.
//!
//! What a node has and gives is kept as floating numbers, so that it costs two divisions when it is asked
//! about. Up to [`EXACT`] units the quotient is at most 100, and nearer to the exact one than that
//! is to the next whole number; so it is rounded down to the same score as by integers.

use orlop_sdk::scheduler::{Mirror, column};

/// 32 TiB of memory, 35 thousand million CPUs.
const EXACT: i64 = 1 << 45;

/// A slot without a node: full.
const NOBODY: (f64, f64) = (1.0, 2.0);

/// By slot, CPU and memory.
#[derive(Debug, Default)]
pub(crate) struct Usual {
    allocatable: [Vec<f64>; 2],
    requested: [Vec<f64>; 2],
    /// Nodes that must be scored by integers: they lack a resource, or have more of it than [`EXACT`].
    odd: Vec<bool>,
    odd_ones: usize,
}

impl Usual {
    /// Takes in the slots that changed.
    #[expect(clippy::cast_precision_loss, reason = "not beyond `EXACT`")]
    pub(crate) fn follow(&mut self, mirror: &Mirror, rows: &[u32]) {
        let slots = mirror.slots();
        self.odd.resize(slots, false);
        self.allocatable.iter_mut().for_each(|column| column.resize(slots, NOBODY.0));
        self.requested.iter_mut().for_each(|column| column.resize(slots, NOBODY.1));
        let columns = [
            (mirror.s64(column::ALLOCATABLE_CPU), mirror.s64(column::NONZERO_CPU)),
            (mirror.s64(column::ALLOCATABLE_MEMORY), mirror.s64(column::NONZERO_MEMORY)),
        ];
        for slot in rows {
            let at = *slot as usize;
            let cells = columns.map(|(allocatable, requested)| {
                let cell = |column: &[i64]| column.get(at).copied().unwrap_or(0);
                (cell(allocatable), cell(requested))
            });
            let live = mirror.is_live(at);
            let usual = |(a, r): &(i64, i64)| (1..=EXACT).contains(a) && (0..=EXACT).contains(r);
            let odd = live && !cells.iter().all(usual);
            if let Some(was) = self.odd.get_mut(at) {
                self.odd_ones = self.odd_ones + usize::from(odd) - usize::from(*was);
                *was = odd;
            }
            for (i, (a, r)) in cells.into_iter().enumerate() {
                let (a, r) = if live && !odd { (a as f64, r as f64) } else { NOBODY };
                if let (Some(has), Some(gives)) =
                    (self.allocatable[i].get_mut(at), self.requested[i].get_mut(at))
                {
                    (*has, *gives) = (a, r);
                }
            }
        }
    }

    /// The scores of all slots for a pod that wants so much; `None` where integers have to tell.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "not beyond `EXACT`; scores are 0 to 100"
    )]
    pub(crate) fn scores(&self, cpu: i64, memory: i64) -> Option<Vec<u8>> {
        if self.odd_ones > 0 || !(0..=EXACT).contains(&cpu) || !(0..=EXACT).contains(&memory) {
            return None;
        }
        let (cpu, memory) = (cpu as f64, memory as f64);
        let least = |allocatable: f64, requested: f64| {
            let free = allocatable - requested;
            if free < 0.0 { 0 } else { (free * 100.0 / allocatable) as i32 }
        };
        let one =
            |ca: f64, cr: f64, ma: f64, mr: f64| ((least(ca, cr + cpu) + least(ma, mr + memory)) / 2) as u8;
        let [ca, ma] = &self.allocatable;
        let [cr, mr] = &self.requested;
        let mut scores = Vec::with_capacity(ca.len());
        let (ca8, ca1) = ca.as_chunks::<8>();
        let (cr8, cr1) = cr.as_chunks::<8>();
        let (ma8, ma1) = ma.as_chunks::<8>();
        let (mr8, mr1) = mr.as_chunks::<8>();
        for (((ca, cr), ma), mr) in ca8.iter().zip(cr8).zip(ma8).zip(mr8) {
            let mut eight = [0_u8; 8];
            for i in 0..8 {
                eight[i] = one(ca[i], cr[i], ma[i], mr[i]);
            }
            scores.extend_from_slice(&eight);
        }
        for (((ca, cr), ma), mr) in ca1.iter().zip(cr1).zip(ma1).zip(mr1) {
            scores.push(one(*ca, *cr, *ma, *mr));
        }
        Some(scores)
    }
}
