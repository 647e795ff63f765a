//! Changes the sections of a WebAssembly module or component, and keeps their lengths right, so that what
//! is damaged is met by the parsers of sections and not by the first check.

use crate::random::Random;

const HEADER: usize = 8;

/// `None` where the input is no WebAssembly.
pub(super) fn mutate(input: &[u8], other: &[u8], random: &mut Random) -> Option<Vec<u8>> {
    let (header, mut sections) = split(input)?;
    let at = random.below(sections.len());
    match random.below(6) {
        0 => drop((!sections.is_empty()).then(|| sections.remove(at))),
        1 => {
            let again = sections.get(at)?.clone();
            sections.insert(random.below(sections.len() + 1), again);
        }
        2 => {
            let with = random.below(sections.len());
            sections.swap(at, with);
        }
        3 => {
            let (_, others) = split(other)?;
            let foreign = random.pick(&others)?.clone();
            sections.insert(random.below(sections.len() + 1), foreign);
        }
        4 => {
            let id = u8::try_from(random.below(14)).ok()?;
            sections.get_mut(at)?.0 = id;
        }
        _ => super::bytes(&mut sections.get_mut(at)?.1, other, random),
    }
    let mut output = header.to_vec();
    for (id, content) in sections {
        output.push(id);
        leb128(&mut output, content.len());
        output.extend(content);
    }
    Some(output)
}

type Sections = Vec<(u8, Vec<u8>)>;

fn split(input: &[u8]) -> Option<(&[u8], Sections)> {
    let (header, mut rest) = input.split_at_checked(HEADER)?;
    if !header.starts_with(b"\0asm") {
        return None;
    }
    let mut sections = Vec::new();
    while let [id, after @ ..] = rest {
        let (length, after) = length(after)?;
        let (content, after) = after.split_at_checked(length)?;
        sections.push((*id, content.to_vec()));
        rest = after;
    }
    Some((header, sections))
}

fn length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0_usize;
    for (i, byte) in bytes.iter().enumerate().take(5) {
        value |= usize::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(i + 1..)?));
        }
    }
    None
}

fn leb128(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).unwrap_or(0) | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap_or(0));
}
