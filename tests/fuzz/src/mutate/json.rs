//! Changes one value somewhere in a JSON document.

use crate::random::Random;
use serde_json::{Value, json};

/// `None` where the input is no JSON.
pub(super) fn mutate(input: &[u8], other: &[u8], random: &mut Random) -> Option<Vec<u8>> {
    let mut document: Value = serde_json::from_slice(input).ok()?;
    let other: Option<Value> = serde_json::from_slice(other).ok();
    let count = nodes(&document);
    let mut at = random.below(count);
    let new = replacement(&document, other.as_ref(), random);
    change(&mut document, &mut at, new, random);
    serde_json::to_vec(&document).ok()
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(fields) => fields.values().collect(),
        _ => Vec::new(),
    }
}

fn nodes(value: &Value) -> usize {
    1 + children(value).into_iter().map(nodes).sum::<usize>()
}

fn nth<'a>(value: &'a Value, at: &mut usize) -> Option<&'a Value> {
    if *at == 0 {
        return Some(value);
    }
    *at -= 1;
    children(value).into_iter().find_map(|child| nth(child, at))
}

/// A value to put somewhere: an awkward one, or one from elsewhere.
fn replacement(document: &Value, other: Option<&Value>, random: &mut Random) -> Value {
    let from = if random.one_in(2) { other.unwrap_or(document) } else { document };
    match random.below(16) {
        0 => Value::Null,
        1 => json!(true),
        2 => json!(-1),
        3 => json!(u64::MAX),
        4 => json!(i64::MIN),
        5 => json!(1e308),
        6 => json!(""),
        7 => json!("x".repeat(1 << random.below(12))),
        8 => json!("é\u{0}\u{1f980}{}|'.[]/*~1"),
        9 => json!([]),
        10 => json!({}),
        11 => (0..random.below(200)).fold(json!(1), |inner, _| json!([inner])),
        12 => (0..random.below(200)).fold(json!(1), |inner, _| json!({ "a": inner })),
        13 => json!(vec![0; random.below(400)]),
        _ => nth(from, &mut random.below(nodes(from))).cloned().unwrap_or_default(),
    }
}

/// Counts down to the node that is meant and changes it. Tells whether it was found.
fn change(value: &mut Value, at: &mut usize, new: Value, random: &mut Random) -> bool {
    if *at == 0 {
        match (value, random.below(4)) {
            (Value::Object(fields), 0) => {
                let key = fields.keys().nth(random.below(fields.len())).cloned().unwrap_or_default();
                fields.remove(&key);
            }
            (Value::Object(fields), 1) => {
                let key = fields.keys().nth(random.below(fields.len())).cloned().unwrap_or_default();
                fields.insert(format!("{key}x"), new);
            }
            (Value::Array(items), 0) => drop(items.pop()),
            (Value::Array(items), 1 | 2) => items.push(new),
            (value, _) => *value = new,
        }
        return true;
    }
    *at -= 1;
    let inner: Vec<&mut Value> = match value {
        Value::Array(items) => items.iter_mut().collect(),
        Value::Object(fields) => fields.values_mut().collect(),
        _ => return false,
    };
    for child in inner {
        let size = nodes(child);
        if *at < size {
            return change(child, at, new, random);
        }
        *at -= size;
    }
    false
}
