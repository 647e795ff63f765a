//! Whether an answer is one that the interface allows. Pure.

use super::{Decision, Explanation, Pods, Prepared, Reason, Verdict};
use crate::error::PluginError;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::collections::{HashMap, HashSet};

/// Longest text that a plugin's words are cut to, in bytes.
const MAX_WORDS: usize = 4096;
/// Longest sort key.
pub(super) const MAX_KEY: usize = 16;
/// Most writes of one answer.
pub(super) const MAX_WRITES: usize = 256;
/// Longest wait in Permit or PreBind.
const MAX_WAIT_MILLISECONDS: u32 = 900_000;

fn bad<T>(message: impl Into<String>) -> Result<T, PluginError> {
    Err(PluginError::bad_output(message))
}

/// What a plugin says, so short that it can be shown.
pub(super) fn words(mut text: String) -> String {
    let mut end = text.len().min(MAX_WORDS);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

/// A list with as many items as are due.
pub(super) fn length<T>(answer: Vec<T>, due: usize, what: &str) -> Result<Vec<T>, PluginError> {
    if answer.len() == due { Ok(answer) } else { bad(format!("{} {what} where {due} are due", answer.len())) }
}

/// A bit set of so many bits; what is set beyond them is cleared.
pub(super) fn bits(answer: Vec<u64>, due: usize) -> Result<Vec<u64>, PluginError> {
    let mut answer = length(answer, due.div_ceil(64), "words of a bit set")?;
    if let Some(last) = answer.last_mut()
        && !due.is_multiple_of(64)
    {
        *last &= (1 << (due % 64)) - 1;
    }
    Ok(answer)
}

/// Scores of so many rows.
pub(super) fn scores(answer: Vec<u8>, due: usize) -> Result<Vec<u8>, PluginError> {
    let answer = length(answer, due, "scores")?;
    // One pass without an early end, so that it is done many at a time.
    match answer.iter().fold(0, |most, score| most.max(*score)) {
        0..=100 => Ok(answer),
        most => bad(format!("a score of {most}, above 100")),
    }
}

/// Raw scores of so many rows; `scaled` by the host, they must not be negative.
pub(super) fn raw_scores(answer: Vec<i64>, due: usize, scaled: bool) -> Result<Vec<i64>, PluginError> {
    let answer = length(answer, due, "scores")?;
    // The sign of all of them together, which is found many at a time; a minimum is not.
    if scaled && answer.iter().fold(0, |bits, score| bits | *score) < 0 {
        return bad(format!("a raw score of {}, below 0", answer.iter().min().unwrap_or(&0)));
    }
    Ok(answer)
}

/// Classes whose answers are stale: each is prepared, or 0 alone.
pub(super) fn stale(classes: Vec<u32>, prepared: &HashSet<u32>) -> Result<Vec<u32>, PluginError> {
    if classes == [0] {
        return Ok(classes);
    }
    if classes.len() > prepared.len() {
        return bad(format!("{} stale classes where {} are prepared", classes.len(), prepared.len()));
    }
    match classes.iter().find(|class| !prepared.contains(class)) {
        Some(0) => bad("class 0, which stands for all, among other stale classes"),
        Some(class) => bad(format!("class {class} is called stale, which is not prepared")),
        None => Ok(classes),
    }
}

/// What `prepare` answers, with no bits but `known` ones.
pub(super) fn prepared(answer: Prepared, known: u32) -> Result<Prepared, PluginError> {
    use super::calls::prepared::{REJECTED, UNRESOLVABLE};
    let Prepared { flags, message } = answer;
    if flags & !known != 0 {
        return bad(format!("reserved flags are set: {flags:#x}"));
    }
    if flags & REJECTED == 0 && (flags & UNRESOLVABLE != 0 || !message.is_empty()) {
        return bad("prepare says why no node fits, but not that none does");
    }
    Ok(Prepared { flags, message: words(message) })
}

/// The reasons of so many rows.
pub(super) fn explanation(answer: Explanation, rows: usize) -> Result<Explanation, PluginError> {
    let Explanation { reasons, offsets, refs } = answer;
    let offsets = length(offsets, rows + 1, "offsets")?;
    if offsets.first() != Some(&0) || !offsets.is_sorted() {
        return bad("the offsets of the reasons do not begin at 0 or descend");
    }
    if offsets.last().is_some_and(|last| *last as usize > refs.len()) {
        return bad(format!("the offsets of the reasons go beyond the {} references", refs.len()));
    }
    if let Some(far) = refs.iter().find(|r| **r as usize >= reasons.len()) {
        return bad(format!("reference to reason {far} of {}", reasons.len()));
    }
    if let Some(reason) = reasons.iter().find(|r| r.code > 1) {
        return bad(format!("a reason with the reserved code {}", reason.code));
    }
    let reasons = reasons.into_iter().map(|r| Reason { text: words(r.text), code: r.code }).collect();
    Ok(Explanation { reasons, offsets, refs })
}

/// What is to become of a pod.
pub(super) fn verdict(answer: Verdict) -> Result<Verdict, PluginError> {
    let Verdict { code, timeout_milliseconds, message } = answer;
    match code {
        1 if timeout_milliseconds > MAX_WAIT_MILLISECONDS => {
            bad(format!("a wait of {timeout_milliseconds} ms, more than {MAX_WAIT_MILLISECONDS}"))
        }
        0..=2 => Ok(Verdict { code, timeout_milliseconds, message: words(message) }),
        _ => bad(format!("a verdict with the reserved code {code}")),
    }
}

/// What is to become of other pods.
pub(super) fn decisions(answer: Vec<Decision>) -> Result<Vec<Decision>, PluginError> {
    let one = |d: Decision| match d.code {
        0 | 2 => Ok(Decision { message: words(d.message), ..d }),
        code => bad(format!("a decision with the reserved code {code}")),
    };
    answer.into_iter().map(one).collect()
}

/// Writes: JSON objects, and not too many. What they say is checked by whoever does them.
pub(super) fn writes(answer: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>, PluginError> {
    if answer.len() > MAX_WRITES {
        return bad(format!("{} writes, more than {MAX_WRITES}", answer.len()));
    }
    for (i, write) in answer.iter().enumerate() {
        let parsed: Result<HashMap<String, IgnoredAny>, _> = {
            let mut json = serde_json::Deserializer::from_slice(write);
            HashMap::deserialize(&mut json).and_then(|parsed| json.end().map(|()| parsed))
        };
        if let Err(error) = parsed {
            return bad(format!("write {i} is not a JSON object: {error}"));
        }
    }
    Ok(answer)
}

/// Positions in `pods`, candidate after candidate, none twice.
pub(super) fn victims(answer: Vec<u32>, pods: &Pods<'_>) -> Result<Vec<u32>, PluginError> {
    let total = pods.offsets.last().copied().unwrap_or(0);
    let mut seen = HashSet::new();
    let mut candidate = 0;
    for at in &answer {
        if *at >= total || !seen.insert(*at) {
            return bad(format!("victim {at} is named twice or is none of the {total} pods"));
        }
        let of = pods.offsets.partition_point(|offset| offset <= at);
        if of < candidate {
            return bad(format!("victim {at} belongs to a candidate before the one of the victim before it"));
        }
        candidate = of;
    }
    Ok(answer)
}
