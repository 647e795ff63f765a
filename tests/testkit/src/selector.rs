//! Label and field selectors of list and watch, evaluated on whole objects.

use orlop_apimachinery::Status;
use serde_json::Value;

enum Op {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
}

/// A parsed pair of label and field selector.
pub struct Selector {
    labels: Vec<(String, Op)>,
    fields: Vec<(String, bool, String)>,
}

impl Selector {
    /// Parses both query parameters; empty selects everything.
    ///
    /// # Errors
    /// BadRequest where the syntax is wrong.
    pub fn parse(labels: &str, fields: &str) -> Result<Self, Status> {
        let labels = split(labels).into_iter().map(|r| requirement(&r)).collect::<Result<_, _>>()?;
        let fields = split(fields)
            .into_iter()
            .map(|r| {
                let (key, op, value) = operator(&r)
                    .ok_or_else(|| Status::bad_request(format!("invalid field selector: {r}")))?;
                Ok((key, op != "!=", value))
            })
            .collect::<Result<_, Status>>()?;
        Ok(Self { labels, fields })
    }

    /// Whether `object` is selected.
    #[must_use]
    pub fn matches(&self, object: &Value) -> bool {
        let label =
            |key: &str| object.pointer("/metadata/labels").and_then(|l| l.get(key)).and_then(Value::as_str);
        let labels = self.labels.iter().all(|(key, op)| match (op, label(key)) {
            (Op::In(values), Some(v)) => values.iter().any(|x| x == v),
            (Op::In(_), None) | (Op::Exists, None) | (Op::Absent, Some(_)) => false,
            (Op::NotIn(values), Some(v)) => values.iter().all(|x| x != v),
            (Op::NotIn(_) | Op::Absent, None) | (Op::Exists, Some(_)) => true,
        });
        let field = |path: &str| {
            let found = object.pointer(&format!("/{}", path.replace('.', "/")));
            match found {
                None | Some(Value::Null) => String::new(),
                Some(Value::String(s)) => s.clone(),
                Some(other) => other.to_string(),
            }
        };
        labels && self.fields.iter().all(|(path, equal, value)| (field(path) == *value) == *equal)
    }
}

fn split(selector: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut depth = 0;
    for c in selector.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(last) = parts.last_mut() {
            last.push(c);
        }
    }
    parts.into_iter().map(|p| p.trim().to_owned()).filter(|p| !p.is_empty()).collect()
}

fn operator(text: &str) -> Option<(String, &'static str, String)> {
    for op in ["!=", "==", "="] {
        if let Some((key, value)) = text.split_once(op) {
            return Some((key.trim().to_owned(), op, value.trim().to_owned()));
        }
    }
    None
}

fn requirement(text: &str) -> Result<(String, Op), Status> {
    let bad = || Status::bad_request(format!("unable to parse requirement: {text}"));
    if let Some((head, list)) = text.split_once('(') {
        let values: Vec<String> = list
            .trim_end()
            .strip_suffix(')')
            .ok_or_else(bad)?
            .split(',')
            .map(|v| v.trim().to_owned())
            .collect();
        let head = head.trim();
        return if let Some(key) = head.strip_suffix(" notin") {
            Ok((key.trim().to_owned(), Op::NotIn(values)))
        } else if let Some(key) = head.strip_suffix(" in") {
            Ok((key.trim().to_owned(), Op::In(values)))
        } else {
            Err(bad())
        };
    }
    if let Some((key, op, value)) = operator(text) {
        return Ok((key, if op == "!=" { Op::NotIn(vec![value]) } else { Op::In(vec![value]) }));
    }
    match text.strip_prefix('!') {
        Some(key) => Ok((key.trim().to_owned(), Op::Absent)),
        None => Ok((text.to_owned(), Op::Exists)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn selects_by_labels_and_fields() {
        let pod = json!({"metadata": {"name": "a", "labels": {"app": "web", "tier": "front"}},
                         "spec": {"nodeName": "n1"}});
        for (labels, fields, want) in [
            ("", "", true),
            ("app=web", "", true),
            ("app==web,tier!=back", "", true),
            ("app in (web, db),!gone", "spec.nodeName=n1", true),
            ("app notin (web)", "", false),
            ("gone", "", false),
            ("tier", "spec.nodeName!=n1", false),
            ("", "spec.nodeName=", false),
            ("", "metadata.name=a,status.phase=", true),
        ] {
            let got = Selector::parse(labels, fields).unwrap().matches(&pod);
            assert_eq!(got, want, "{labels} / {fields}");
        }
        assert!(Selector::parse("app like (x)", "").is_err());
    }
}
