//! Query parameters, checked as upstream checks them.

use orlop_apimachinery::status::Cause;
use orlop_apimachinery::{Status, field};
use std::collections::HashMap;

/// The parameters of a URL; of repeated ones the first counts, as with upstream's scalar options.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query {
    values: HashMap<String, Vec<String>>,
}

impl Query {
    pub(crate) fn parse(text: &str) -> Self {
        let mut values: HashMap<String, Vec<String>> = HashMap::new();
        for pair in text.split('&').filter(|p| !p.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            values.entry(percent_decode(key, true)).or_default().push(percent_decode(value, true));
        }
        Self { values }
    }

    /// The first value; empty where missing.
    /// Every parameter with its first value.
    pub(crate) fn firsts(&self) -> std::collections::BTreeMap<String, String> {
        self.values.iter().filter_map(|(k, v)| Some((k.clone(), v.first()?.clone()))).collect()
    }

    pub(crate) fn get(&self, key: &str) -> &str {
        self.values.get(key).and_then(|v| v.first()).map_or("", String::as_str)
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    pub(crate) fn all(&self, key: &str) -> &[String] {
        self.values.get(key).map_or(&[], Vec::as_slice)
    }

    /// Go's reading of a boolean option: present without value is true.
    pub(crate) fn flag(&self, key: &str) -> bool {
        match self.values.get(key).and_then(|v| v.first()) {
            None => false,
            Some(v) => !(v == "0" || v.eq_ignore_ascii_case("false")),
        }
    }

    pub(crate) fn optional_flag(&self, key: &str) -> Option<bool> {
        self.has(key).then(|| self.flag(key))
    }

    /// # Errors
    /// 400 where the value is no number.
    pub(crate) fn number(&self, key: &str) -> Result<Option<i64>, Status> {
        let text = self.get(key);
        if text.is_empty() {
            return Ok(None);
        }
        text.parse()
            .map(Some)
            .map_err(|_| Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax")))
    }
}

/// Undoes `%xx`, and `+` where `plus`.
pub(crate) fn percent_decode(text: &str, plus: bool) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&b) = bytes.get(at) {
        let hex = bytes.get(at + 1..at + 3).and_then(|h| std::str::from_utf8(h).ok());
        match (b, hex.and_then(|h| u8::from_str_radix(h, 16).ok())) {
            (b'%', Some(decoded)) => {
                out.push(decoded);
                at += 3;
                continue;
            }
            (b'+', _) if plus => out.push(b' '),
            _ => out.push(b),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// `resourceVersionMatch`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Match {
    Exact,
    NotOlderThan,
}

/// `meta/v1.ListOptions`
#[derive(Clone, Debug, Default)]
pub(crate) struct ListQuery {
    pub(crate) label_selector: String,
    pub(crate) field_selector: String,
    pub(crate) resource_version: Option<u64>,
    pub(crate) matching: Option<Match>,
    pub(crate) limit: usize,
    pub(crate) continue_token: String,
    pub(crate) watch: bool,
    pub(crate) bookmarks: bool,
    pub(crate) send_initial_events: Option<bool>,
    pub(crate) timeout_seconds: Option<u64>,
}

impl ListQuery {
    /// # Errors
    /// 400 or 422 with upstream's words.
    pub(crate) fn from_query(query: &Query) -> Result<Self, Status> {
        let limit = query.number("limit")?.unwrap_or(0);
        let out = Self {
            label_selector: query.get("labelSelector").to_owned(),
            field_selector: query.get("fieldSelector").to_owned(),
            resource_version: resource_version(query.get("resourceVersion"))?,
            matching: None,
            limit: usize::try_from(limit).unwrap_or(0),
            continue_token: query.get("continue").to_owned(),
            watch: query.flag("watch"),
            bookmarks: query.flag("allowWatchBookmarks"),
            send_initial_events: query.optional_flag("sendInitialEvents"),
            timeout_seconds: query
                .number("timeoutSeconds")?
                .and_then(|n| u64::try_from(n).ok())
                .filter(|n| *n > 0),
        };
        out.checked(query.get("resourceVersionMatch"))
    }

    fn checked(mut self, matching: &str) -> Result<Self, Status> {
        let mut faults: Vec<Cause> = Vec::new();
        let at_match = field::Path::new("resourceVersionMatch");
        let at_initial = field::Path::new("sendInitialEvents");
        match matching {
            "" => {}
            "Exact" => self.matching = Some(Match::Exact),
            "NotOlderThan" => self.matching = Some(Match::NotOlderThan),
            other => faults.push(field::not_supported(&at_match, other, &["Exact", "NotOlderThan", ""])),
        }
        if self.watch {
            match self.send_initial_events {
                Some(_) if matching != "NotOlderThan" => faults.push(field::forbidden(
                    &at_match,
                    "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                )),
                Some(true) if !self.bookmarks => faults.push(field::forbidden(
                    &at_initial,
                    "sendInitialEvents requires setting allowWatchBookmarks to true",
                )),
                None if !matching.is_empty() => faults.push(field::forbidden(
                    &at_match,
                    "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                )),
                _ => {}
            }
        } else {
            if self.send_initial_events.is_some() {
                faults.push(field::forbidden(&at_initial, "sendInitialEvents is forbidden for list"));
            }
            if !matching.is_empty() {
                if self.resource_version.is_none() {
                    faults.push(field::forbidden(
                        &at_match,
                        "resourceVersionMatch is forbidden unless resourceVersion is provided",
                    ));
                }
                if !self.continue_token.is_empty() {
                    faults.push(field::forbidden(
                        &at_match,
                        "resourceVersionMatch is forbidden when continue is provided",
                    ));
                }
                if self.matching == Some(Match::Exact) && self.resource_version == Some(0) {
                    faults.push(field::forbidden(
                        &at_match,
                        "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
                    ));
                }
            }
        }
        if faults.is_empty() {
            Ok(self)
        } else {
            Err(Status::invalid("meta.k8s.io", "ListOptions", "", faults))
        }
    }
}

/// `None` for empty.
///
/// # Errors
/// 400 where it is no number.
pub(crate) fn resource_version(text: &str) -> Result<Option<u64>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        Status::bad_request(format!(
            "resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
        ))
    })
}

/// How strictly unknown and duplicate fields are treated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

/// Options of a write that come in the URL.
#[derive(Clone, Debug, Default)]
pub(crate) struct WriteQuery {
    pub(crate) dry_run: bool,
    pub(crate) field_manager: String,
    pub(crate) field_validation: FieldValidation,
    pub(crate) force: Option<bool>,
}

impl WriteQuery {
    /// `kind` is `CreateOptions`, `UpdateOptions` or `PatchOptions`.
    ///
    /// # Errors
    /// 422 with upstream's words.
    pub(crate) fn from_query(query: &Query, kind: &str) -> Result<Self, Status> {
        let mut faults = Vec::new();
        let dry_run = dry_run(query.all("dryRun"), &mut faults);
        let field_validation = match query.get("fieldValidation") {
            "" | "Warn" => FieldValidation::Warn,
            "Ignore" => FieldValidation::Ignore,
            "Strict" => FieldValidation::Strict,
            other => {
                faults.push(field::not_supported(
                    &field::Path::new("fieldValidation"),
                    other,
                    &["", "Ignore", "Warn", "Strict"],
                ));
                FieldValidation::Warn
            }
        };
        let field_manager = query.get("fieldManager").to_owned();
        if field_manager.len() > 128 {
            faults.push(field::too_long(&field::Path::new("fieldManager"), 128));
        }
        if faults.is_empty() {
            Ok(Self { dry_run, field_manager, field_validation, force: query.optional_flag("force") })
        } else {
            Err(Status::invalid("meta.k8s.io", kind, "", faults))
        }
    }
}

/// `dryRun=All`
pub(crate) fn dry_run(values: &[String], faults: &mut Vec<Cause>) -> bool {
    for value in values.iter().filter(|v| v.as_str() != "All") {
        faults.push(field::not_supported(&field::Path::new("dryRun"), value.as_str(), &["All"]));
    }
    values.iter().any(|v| v == "All")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Result<ListQuery, String> {
        ListQuery::from_query(&Query::parse(text)).map_err(|s| s.message)
    }

    #[test]
    fn list_options_are_refused_in_upstreams_words() {
        assert!(list("resourceVersion=7&resourceVersionMatch=Exact").is_ok());
        assert!(
            list("watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=1")
                .is_ok()
        );
        for (query, words) in [
            ("resourceVersionMatch=Exact", "forbidden unless resourceVersion is provided"),
            ("resourceVersion=0&resourceVersionMatch=Exact", "is forbidden for resourceVersion \"0\""),
            ("resourceVersion=1&resourceVersionMatch=x", "Unsupported value: \"x\""),
            ("watch=1&sendInitialEvents=true", "sendInitialEvents requires setting resourceVersionMatch"),
            ("sendInitialEvents=true", "sendInitialEvents is forbidden for list"),
            ("resourceVersion=a", "invalid syntax"),
            ("limit=a", "invalid syntax"),
        ] {
            let message = list(query).unwrap_err();
            assert!(message.contains(words), "{query}: {message}");
        }
    }

    #[test]
    fn escapes_are_undone() {
        let query = Query::parse("labelSelector=a%3Db%2Cc+in&watch");
        assert_eq!(query.get("labelSelector"), "a=b,c in");
        assert!(query.flag("watch"));
        assert!(!Query::parse("watch=0").flag("watch"));
    }
}
