//! Two JSON values, line by line.

use serde_json::Value;
use std::fmt::Write;

/// Lines around a difference.
const AROUND: usize = 3;
/// Longest texts that are compared line by line.
const MAX_LINES: usize = 4000;

/// What differs, with `-` before what was expected and `+` before what came; `None` where nothing does.
#[must_use]
pub fn difference(expected: &Value, found: &Value) -> Option<String> {
    if expected == found {
        return None;
    }
    let lines = |value: &Value| -> Vec<String> {
        let text = serde_json::to_string_pretty(value).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    };
    Some(unified(&lines(expected), &lines(found)))
}

fn unified(old: &[String], new: &[String]) -> String {
    let edits = edits(old, new);
    let keep: Vec<bool> = (0..edits.len())
        .map(|i| {
            let window = edits.get(i.saturating_sub(AROUND)..(i + AROUND + 1).min(edits.len()));
            window.unwrap_or_default().iter().any(|(sign, _)| *sign != ' ')
        })
        .collect();
    let mut out = String::new();
    let mut skipped = false;
    for ((sign, line), keep) in edits.iter().zip(keep) {
        if !keep {
            skipped = true;
            continue;
        }
        if skipped {
            out.push_str("  ...\n");
            skipped = false;
        }
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{sign} {line}");
    }
    out
}

/// The longest common subsequence, between common heads and tails.
fn edits<'a>(old: &'a [String], new: &'a [String]) -> Vec<(char, &'a str)> {
    let head = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let (old_rest, new_rest) = (old.get(head..).unwrap_or_default(), new.get(head..).unwrap_or_default());
    let tail = old_rest.iter().rev().zip(new_rest.iter().rev()).take_while(|(a, b)| a == b).count();
    let middle_old = old_rest.get(..old_rest.len() - tail).unwrap_or_default();
    let middle_new = new_rest.get(..new_rest.len() - tail).unwrap_or_default();
    let same = |line: &'a String| (' ', line.as_str());
    let mut out: Vec<(char, &str)> = old.iter().take(head).map(same).collect();
    if middle_old.len().max(middle_new.len()) > MAX_LINES {
        out.extend(middle_old.iter().map(|l| ('-', l.as_str())));
        out.extend(middle_new.iter().map(|l| ('+', l.as_str())));
    } else {
        out.extend(table_edits(middle_old, middle_new));
    }
    out.extend(old.iter().skip(old.len() - tail).map(same));
    out
}

fn table_edits<'a>(old: &'a [String], new: &'a [String]) -> Vec<(char, &'a str)> {
    let width = new.len() + 1;
    // Length of the longest common subsequence of what follows.
    let mut table = vec![0_u32; (old.len() + 1) * width];
    let at = |table: &[u32], i: usize, j: usize| table.get(i * width + j).copied().unwrap_or(0);
    for (i, a) in old.iter().enumerate().rev() {
        for (j, b) in new.iter().enumerate().rev() {
            let best = if a == b {
                at(&table, i + 1, j + 1) + 1
            } else {
                at(&table, i + 1, j).max(at(&table, i, j + 1))
            };
            if let Some(cell) = table.get_mut(i * width + j) {
                *cell = best;
            }
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut out = Vec::new();
    loop {
        match (old.get(i), new.get(j)) {
            (Some(a), Some(b)) if a == b => {
                out.push((' ', a.as_str()));
                (i, j) = (i + 1, j + 1);
            }
            (Some(a), b) if b.is_none() || at(&table, i + 1, j) >= at(&table, i, j + 1) => {
                out.push(('-', a.as_str()));
                i += 1;
            }
            (_, Some(b)) => {
                out.push(('+', b.as_str()));
                j += 1;
            }
            (_, None) => return out,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn differences_are_shown_with_what_is_around() {
        let old = json!({ "a": [1, 2, 3, 4, 5, 6, 7, 8, 9], "b": "x" });
        let new = json!({ "a": [1, 2, 3, 4, 55, 6, 7, 8, 9], "b": "x" });
        assert_eq!(difference(&old, &old), None);
        let shown = difference(&old, &new).unwrap();
        assert!(shown.starts_with("  ...\n"), "{shown}");
        assert!(shown.contains("-     5,\n+     55,\n"), "{shown}");
        assert!(!shown.contains("\"b\""), "{shown}");
    }
}
