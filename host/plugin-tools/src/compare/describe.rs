//! Differences of single decisions, in numbers and words.

use super::Part;
use crate::record::{Call, Outcome, unpack_bits};
use serde_json::Value;
use std::collections::HashMap;

/// Longest text of an example.
const MAX_TEXT: usize = 400;
/// Nodes named in an example.
const MAX_NODES: usize = 5;

/// Numbers of the wire: column `node.name` and the dictionary of names.
const NAME_COLUMN: u32 = 32;
const NAME_DICTIONARY: u32 = 1;

/// What is known of nodes and classes from what an instance was told.
#[derive(Debug, Default)]
pub(super) struct Names {
    entries: Vec<String>,
    nodes: HashMap<u32, u32>,
    classes: HashMap<u32, String>,
}

impl Names {
    pub(super) fn learn(&mut self, call: &Call) {
        match call {
            Call::Prepare { class, pod } => _ = self.classes.insert(*class, pod.clone()),
            Call::Sync { delta } => {
                if delta.full {
                    self.entries.clear();
                    self.nodes.clear();
                }
                for dictionary in delta.dictionaries.iter().filter(|d| d.dictionary == NAME_DICTIONARY) {
                    self.entries.truncate(dictionary.first as usize);
                    self.entries.extend(dictionary.entries.iter().cloned());
                }
                for column in delta.u32_columns.iter().filter(|c| c.column == NAME_COLUMN) {
                    self.nodes.extend(delta.rows.iter().copied().zip(column.values.iter().copied()));
                }
            }
            _ => {}
        }
    }

    fn node(&self, slot: u32) -> String {
        let name = self.nodes.get(&slot).and_then(|entry| self.entries.get(*entry as usize));
        name.cloned().unwrap_or_else(|| format!("slot {slot}"))
    }

    fn class(&self, class: u32) -> String {
        self.classes.get(&class).map_or_else(|| format!("class {class}"), |pod| format!("pod {}", cut(pod)))
    }
}

fn cut(text: &str) -> String {
    let mut out: String = text.chars().take(MAX_TEXT).collect();
    if out.len() < text.len() {
        out.push('…');
    }
    out
}

fn show(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Answer(answer) => cut(&answer.to_string()),
        Outcome::Failure(failure) => format!("failure: {failure}"),
    }
}

fn add(part: &mut Part, what: &str, count: usize) {
    if count > 0 {
        *part.totals.entry(what.to_owned()).or_default() += i64::try_from(count).unwrap_or(i64::MAX);
    }
}

/// Counts one decision, and describes it where it differs.
pub(super) fn compare(part: &mut Part, names: &Names, call: &Call, old: &Outcome, new: &Outcome) {
    // A batch of requests or keys is as many decisions.
    let lists = match (call, old, new) {
        (Call::Mutate { requests } | Call::Validate { requests }, Outcome::Answer(a), Outcome::Answer(b)) => {
            let titles: Vec<String> =
                requests.iter().map(|r| format!("{} {}/{}", r.resource, r.namespace, r.name)).collect();
            Some((titles, a.as_array(), b.as_array()))
        }
        (Call::Reconcile { request }, Outcome::Answer(a), Outcome::Answer(b)) => {
            let plans = |v: &'_ Value| v.get("plans").and_then(Value::as_array).cloned();
            return reconcile(part, request, plans(a).as_ref(), plans(b).as_ref(), old, new);
        }
        _ => None,
    };
    if let Some((titles, Some(a), Some(b))) = lists {
        return each(part, &titles, a, b);
    }
    part.asked += 1;
    if old.same_as(new) {
        return;
    }
    part.different += 1;
    let (Outcome::Answer(a), Outcome::Answer(b)) = (old, new) else {
        add(part, "failures of the old version", usize::from(matches!(old, Outcome::Failure(_))));
        add(part, "failures of the new version", usize::from(matches!(new, Outcome::Failure(_))));
        part.examples.push(format!("{}: {} -> {}", about(names, call), show(old), show(new)));
        return;
    };
    match call {
        Call::Filter { rows, .. } => masks(part, names, call, rows.as_deref(), a, b),
        Call::Overlay { delta, .. } => masks(part, names, call, Some(&delta.rows), a, b),
        Call::Score { rows, .. } | Call::ScoreRaw { rows, .. } => {
            scores(part, names, call, rows.as_deref(), a, b)
        }
        Call::Normalize { .. } => scores(part, names, call, None, a, b),
        _ => part.examples.push(format!("{}: {} -> {}", about(names, call), show(old), show(new))),
    }
}

fn about(names: &Names, call: &Call) -> String {
    match call {
        Call::Prepare { class, .. }
        | Call::Filter { class, .. }
        | Call::Score { class, .. }
        | Call::ScoreRaw { class, .. }
        | Call::Normalize { class, .. }
        | Call::Explain { class, .. }
        | Call::Overlay { class, .. } => names.class(*class),
        Call::PreEnqueue { pod }
        | Call::SortKey { pod }
        | Call::Eligible { pod, .. }
        | Call::Victims { pod, .. }
        | Call::Choose { pod, .. } => {
            format!("pod {}", cut(pod))
        }
        Call::Reserve { placement }
        | Call::Unreserve { placement }
        | Call::Permit { placement }
        | Call::PreBind { placement }
        | Call::Bind { placement }
        | Call::PostBind { placement } => {
            format!("pod {}/{} on {}", placement.namespace, placement.name, placement.node)
        }
        _ => call.hook().to_owned(),
    }
}

fn some_nodes(names: &Names, slots: &[u32]) -> String {
    let mut shown: Vec<String> = slots.iter().take(MAX_NODES).map(|s| names.node(*s)).collect();
    if slots.len() > MAX_NODES {
        shown.push(format!("and {} more", slots.len() - MAX_NODES));
    }
    shown.join(", ")
}

fn masks(part: &mut Part, names: &Names, call: &Call, rows: Option<&[u32]>, a: &Value, b: &Value) {
    let words = |v: &Value| unpack_bits(v.as_str().unwrap_or_default());
    let (a, b) = (words(a), words(b));
    let (mut gained, mut lost) = (Vec::new(), Vec::new());
    for at in 0..a.len().max(b.len()) * 64 {
        let bit = |words: &[u64]| words.get(at / 64).is_some_and(|w| w >> (at % 64) & 1 == 1);
        let Some(slot) = rows.map_or(u32::try_from(at).ok(), |rows| rows.get(at).copied()) else { continue };
        match (bit(&a), bit(&b)) {
            (false, true) => gained.push(slot),
            (true, false) => lost.push(slot),
            _ => {}
        }
    }
    add(part, "nodes that fit now", gained.len());
    add(part, "nodes that do not fit any more", lost.len());
    let mut words = Vec::new();
    if !gained.is_empty() {
        words.push(format!("fits now: {}", some_nodes(names, &gained)));
    }
    if !lost.is_empty() {
        words.push(format!("does not fit any more: {}", some_nodes(names, &lost)));
    }
    part.examples.push(format!("{}: {}", about(names, call), words.join("; ")));
}

fn scores(part: &mut Part, names: &Names, call: &Call, rows: Option<&[u32]>, a: &Value, b: &Value) {
    let list = |v: &Value| -> Vec<i64> {
        v.as_array().into_iter().flatten().map(|n| n.as_i64().unwrap_or(0)).collect()
    };
    let (a, b) = (list(a), list(b));
    let mut changed = Vec::new();
    for (at, (a, b)) in a.iter().zip(&b).enumerate() {
        let slot = rows.map_or(u32::try_from(at).ok(), |rows| rows.get(at).copied());
        if let Some(slot) = slot.filter(|_| a != b) {
            changed.push((slot, *a, *b));
        }
    }
    add(part, "scores that changed", changed.len());
    changed.sort_by_key(|(_, a, b)| std::cmp::Reverse(a.abs_diff(*b)));
    let shown: Vec<String> = changed
        .iter()
        .take(MAX_NODES)
        .map(|(slot, a, b)| format!("{} {a} -> {b}", names.node(*slot)))
        .collect();
    part.examples.push(format!("{}: {}", about(names, call), shown.join(", ")));
}

fn each(part: &mut Part, titles: &[String], a: &[Value], b: &[Value]) {
    for (i, title) in titles.iter().enumerate() {
        let (a, b) = (a.get(i).unwrap_or(&Value::Null), b.get(i).unwrap_or(&Value::Null));
        part.asked += 1;
        if a == b {
            continue;
        }
        part.different += 1;
        match (a["allowed"].as_bool(), b["allowed"].as_bool()) {
            (Some(true), Some(false)) => add(part, "refused now", 1),
            (Some(false), Some(true)) => add(part, "allowed now", 1),
            _ => {}
        }
        let patch = |v: &Value| v.get("patch").cloned().unwrap_or(Value::Null);
        add(part, "patches that changed", usize::from(patch(a) != patch(b)));
        part.examples.push(format!("{title}: {} -> {}", cut(&a.to_string()), cut(&b.to_string())));
    }
}

fn reconcile(
    part: &mut Part,
    request: &str,
    a: Option<&Vec<Value>>,
    b: Option<&Vec<Value>>,
    old: &Outcome,
    new: &Outcome,
) {
    let request: Value = serde_json::from_str(request).unwrap_or(Value::Null);
    let items = request.get("items").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let (Some(a), Some(b)) = (a, b) else {
        part.asked += 1;
        if !old.same_as(new) {
            part.different += 1;
            part.examples.push(format!("{} -> {}", show(old), show(new)));
        }
        return;
    };
    for (i, item) in items.iter().enumerate() {
        let (a, b) = (a.get(i).unwrap_or(&Value::Null), b.get(i).unwrap_or(&Value::Null));
        part.asked += 1;
        if a == b {
            continue;
        }
        part.different += 1;
        let writes = |v: &Value| v.get("writes").and_then(Value::as_array).map_or(0, Vec::len);
        add(part, "writes of the old version in these plans", writes(a));
        add(part, "writes of the new version in these plans", writes(b));
        let text = |pointer: &str| item.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let key = format!("{}/{}", text("/key/namespace"), text("/key/name"));
        part.examples.push(format!(
            "{}: {} -> {}",
            key.trim_start_matches('/'),
            cut(&a.to_string()),
            cut(&b.to_string())
        ));
    }
}
