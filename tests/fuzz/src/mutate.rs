//! Makes damaged inputs from valid ones: as bytes, as JSON, and as the sections of WebAssembly.

mod json;
mod sections;

use crate::random::Random;

/// Longest input.
const MAX_BYTES: usize = 1 << 20;

/// Bytes that parsers stumble over.
const AWKWARD: [&[u8]; 20] = [
    b"\0",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\xff\xff\xff\xff\x0f",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\xf0\x9f\xa6\x80",
    b"\xc3",
    b"\\u0000",
    b"\"",
    b"{",
    b"[",
    b"}",
    b",",
    b"-1",
    b"18446744073709551616",
    b"1e400",
    b"9223372036854775808",
    b"\r\n",
    b"null",
];

/// An endless source of damaged inputs.
#[derive(Debug)]
pub struct Mutator {
    random: Random,
    inputs: Vec<Vec<u8>>,
}

impl Mutator {
    /// From these inputs.
    #[must_use]
    pub const fn new(seed: u64, inputs: Vec<Vec<u8>>) -> Self {
        Self { random: Random::new(seed), inputs }
    }

    /// The next one.
    pub fn make(&mut self) -> Vec<u8> {
        let Self { random, inputs } = self;
        let mut input = random.pick(inputs).cloned().unwrap_or_default();
        let other = random.pick(inputs).cloned().unwrap_or_default();
        for _ in 0..=random.below(4) {
            let changed = match random.below(3) {
                0 => json::mutate(&input, &other, random),
                1 => sections::mutate(&input, &other, random),
                _ => None,
            };
            match changed {
                Some(changed) => input = changed,
                None => bytes(&mut input, &other, random),
            }
            input.truncate(MAX_BYTES);
        }
        input
    }
}

/// Changes some bytes.
fn bytes(input: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    let (begin, end) = random.range(input.len());
    let at = random.below(input.len());
    match random.below(8) {
        0 | 1 => {
            let bit = 1 << random.below(8);
            input.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= bit);
        }
        2 => {
            let new = random.next().to_le_bytes();
            input.iter_mut().skip(at).take(1 + random.below(4)).zip(new).for_each(|(byte, new)| *byte = new);
        }
        3 => drop(input.drain(begin..end)),
        4 => {
            let part = input.get(begin..end).unwrap_or_default().to_vec();
            input.splice(at..at, part);
        }
        5 => {
            let awkward = random.pick(&AWKWARD).copied().unwrap_or_default();
            let replaced = if random.one_in(2) { at } else { (at + awkward.len()).min(input.len()) };
            input.splice(at..replaced, awkward.iter().copied());
        }
        6 => {
            let (from, to) = random.range(other.len());
            let part = other.get(from..to).unwrap_or_default().iter().copied();
            input.splice(begin..end, part);
        }
        _ => {
            if random.one_in(4) {
                input.truncate(at);
            }
        }
    }
}
