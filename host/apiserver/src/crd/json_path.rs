//! The part of JSONPath that printer columns use: fields, indexes, `[*]`, `[?(@.a=="b")]`.

use serde_json::Value;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Field(String),
    Index(i64),
    All,
    /// Items whose field has this value.
    Where(Vec<String>, String),
}

/// A parsed path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JsonPath(Vec<Step>);

impl JsonPath {
    /// `None` where the text is no path, or uses what is not supported.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut rest = text.strip_prefix('$').unwrap_or(text);
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if let Some(inner) = rest.strip_prefix('[') {
                let end = closing(inner)?;
                let (body, after) = inner.split_at(end);
                steps.push(bracket(body.trim())?);
                rest = after.get(1..)?;
                continue;
            }
            let body = rest.strip_prefix('.')?;
            if body.starts_with('[') {
                rest = body;
                continue;
            }
            let (name, after) = name(body)?;
            steps.push(if name == "*" { Step::All } else { Step::Field(name) });
            rest = after;
        }
        (!steps.is_empty()).then_some(Self(steps))
    }

    /// The first value that the path leads to.
    pub(crate) fn first<'a>(&self, value: &'a Value) -> Option<&'a Value> {
        self.all(value).into_iter().next()
    }

    fn all<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        let mut here = vec![value];
        for step in &self.0 {
            here = here.into_iter().flat_map(|v| step.apply(v)).collect();
        }
        here
    }
}

impl Step {
    fn apply<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        match self {
            Self::Field(name) => value.get(name).into_iter().collect(),
            Self::Index(at) => {
                let Some(list) = value.as_array() else { return Vec::new() };
                let at = if *at < 0 { i64::try_from(list.len()).unwrap_or(0) + at } else { *at };
                usize::try_from(at).ok().and_then(|at| list.get(at)).into_iter().collect()
            }
            Self::All => match value {
                Value::Array(list) => list.iter().collect(),
                Value::Object(map) => map.values().collect(),
                _ => Vec::new(),
            },
            Self::Where(path, wanted) => {
                let items = value.as_array().into_iter().flatten();
                let matches = |item: &&Value| {
                    let found = path.iter().try_fold(*item, |v, key| v.get(key));
                    match found {
                        Some(Value::String(text)) => text == wanted,
                        Some(other) => serde_json::from_str(wanted).is_ok_and(|w: Value| w == *other),
                        None => false,
                    }
                };
                items.filter(matches).collect()
            }
        }
    }
}

/// Where the bracket ends, quotes aside.
fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (None, ']') => return Some(at),
            (None, '\'' | '"') => quote = Some(c),
            (Some(q), c) if q == c => quote = None,
            _ => {}
        }
    }
    None
}

fn bracket(body: &str) -> Option<Step> {
    if body == "*" {
        return Some(Step::All);
    }
    if let Some(name) = unquoted(body) {
        return Some(Step::Field(name.to_owned()));
    }
    if let Some(filter) = body.strip_prefix("?(").and_then(|b| b.strip_suffix(')')) {
        let (left, right) = filter.split_once("==")?;
        let mut path = Vec::new();
        let mut rest = left.trim().strip_prefix('@')?;
        while let Some(body) = rest.strip_prefix('.') {
            let (step, after) = name(body)?;
            path.push(step);
            rest = after;
        }
        let right = right.trim();
        let wanted = unquoted(right).unwrap_or(right);
        return rest.is_empty().then(|| Step::Where(path, wanted.to_owned()));
    }
    body.parse().ok().map(Step::Index)
}

fn unquoted(text: &str) -> Option<&str> {
    ['\'', '"'].into_iter().find_map(|q| text.strip_prefix(q)?.strip_suffix(q))
}

/// A field's name, in which a backslash keeps the next character from ending it.
fn name(text: &str) -> Option<(String, &str)> {
    let mut out = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => out.push(chars.next()?.1),
            '.' | '[' => return (!out.is_empty()).then(|| (out, text.get(at..).unwrap_or_default())),
            c => out.push(c),
        }
    }
    (!out.is_empty()).then_some((out, ""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_of_printer_columns_lead_to_values() {
        let value = json!({
            "spec": {"a.b": 1, "list": [{"n": 1}, {"n": 2}]},
            "status": {"conditions": [{"type": "X", "status": "no"}, {"type": "Ready", "status": "True"}]},
        });
        let first = |path: &str| JsonPath::parse(path).and_then(|p| p.first(&value).cloned());
        assert_eq!(first(".status.conditions[?(@.type==\"Ready\")].status"), Some(json!("True")));
        assert_eq!(first(".status.conditions[?(@.type=='Ready')].status"), Some(json!("True")));
        assert_eq!(first(".spec.a\\.b"), Some(json!(1)));
        assert_eq!(first(".spec['a.b']"), Some(json!(1)));
        assert_eq!(first(".spec.list[-1].n"), Some(json!(2)));
        assert_eq!(first(".spec.list[*].n"), Some(json!(1)));
        assert_eq!(first(".spec.none"), None);
        for broken in ["", "spec", ".spec[", ".a..b", ".a[?(x)]"] {
            assert_eq!(JsonPath::parse(broken), None, "{broken}");
        }
    }
}
