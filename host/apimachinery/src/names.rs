//! Names, labels, annotations, ports and addresses: what is allowed, and upstream's words where
//! something is not.
//!
//! Each check returns the faults as texts; empty means valid. Source of the rules and the words:
//! `k8s.io/apimachinery/pkg/util/validation` and `pkg/api/validation`.

use crate::field::{self, Path};
use crate::status::Cause;
use serde_json::{Map, Value};
use std::net::IpAddr;

/// Longest DNS-1123 label, in bytes.
pub const LABEL_MAX: usize = 63;
/// Longest DNS-1123 subdomain, in bytes.
pub const SUBDOMAIN_MAX: usize = 253;
/// Most bytes that all annotations of an object may have together.
pub const ANNOTATIONS_MAX: usize = 256 * 1024;

const LABEL_MESSAGE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN_MESSAGE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const DNS1035_MESSAGE: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED_PART: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE_MESSAGE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const CONFIG_KEY_MESSAGE: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";

fn too_long(most: usize) -> String {
    format!("must be no more than {most} bytes")
}

fn is_dns_label(text: &str) -> bool {
    let alnum = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.first().is_some_and(alnum)
        && bytes.last().is_some_and(alnum)
        && bytes.iter().all(|b| alnum(b) || *b == b'-')
}

fn is_qualified_part(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

/// `my-name`: a namespace, a container name.
#[must_use]
pub fn dns1123_label(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.len() > LABEL_MAX {
        faults.push(too_long(LABEL_MAX));
    }
    if !is_dns_label(value) {
        let plain = !value.is_empty() && value.split('.').all(is_dns_label);
        faults.push(if plain { "must not contain dots".to_owned() } else { LABEL_MESSAGE.to_owned() });
    }
    faults
}

/// `example.com`: most object names.
#[must_use]
pub fn dns1123_subdomain(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.len() > SUBDOMAIN_MAX {
        faults.push(too_long(SUBDOMAIN_MAX));
    }
    if value.is_empty() || !value.split('.').all(is_dns_label) {
        faults.push(SUBDOMAIN_MESSAGE.to_owned());
    }
    faults
}

/// `my-name` that begins with a letter: a Service.
#[must_use]
pub fn dns1035_label(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.len() > LABEL_MAX {
        faults.push(too_long(LABEL_MAX));
    }
    if !is_dns_label(value) || !value.as_bytes().first().is_some_and(u8::is_ascii_lowercase) {
        faults.push(DNS1035_MESSAGE.to_owned());
    }
    faults
}

/// `example.com/MyName`: keys of labels and annotations.
#[must_use]
pub fn qualified_name(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let parts: Vec<&str> = value.split('/').collect();
    let name = match parts.as_slice() {
        [name] => *name,
        [prefix, name] => {
            if prefix.is_empty() {
                faults.push("prefix part must be non-empty".to_owned());
            } else {
                faults.extend(
                    dns1123_subdomain(prefix).into_iter().map(|fault| format!("prefix part {fault}")),
                );
            }
            *name
        }
        _ => {
            return vec![format!(
                "a qualified name {QUALIFIED_PART} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        faults.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX {
        faults.push(format!("name part {}", too_long(LABEL_MAX)));
    }
    if !is_qualified_part(name) {
        faults.push(format!("name part {QUALIFIED_PART}"));
    }
    faults
}

/// A value of a label.
#[must_use]
pub fn label_value(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.len() > LABEL_MAX {
        faults.push(too_long(LABEL_MAX));
    }
    if !value.is_empty() && !is_qualified_part(value) {
        faults.push(LABEL_VALUE_MESSAGE.to_owned());
    }
    faults
}

/// A key of a ConfigMap or Secret.
#[must_use]
pub fn config_map_key(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.len() > SUBDOMAIN_MAX {
        faults.push(too_long(SUBDOMAIN_MAX));
    }
    if value.is_empty() || !value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
        faults.push(CONFIG_KEY_MESSAGE.to_owned());
    }
    if value == "." {
        faults.push("must not be '.'".to_owned());
    } else if value == ".." {
        faults.push("must not be '..'".to_owned());
    } else if value.starts_with("..") {
        faults.push("must not start with '..'".to_owned());
    }
    faults
}

/// A name of an environment variable: printable ASCII without `=`.
#[must_use]
pub fn env_var_name(value: &str) -> Vec<String> {
    if value.is_empty() {
        return vec!["environment variable name must be non-empty".to_owned()];
    }
    if value.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=') {
        return Vec::new();
    }
    vec![
        "a valid environment variable name must consist only of printable ASCII characters other than '='"
            .to_owned(),
    ]
}

/// A name of a port, as IANA service names: `http`.
#[must_use]
pub fn port_name(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.len() > 15 {
        faults.push(too_long(15));
    }
    if value.is_empty() || !value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        faults.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !value.bytes().any(|b| b.is_ascii_lowercase()) {
        faults.push("must contain at least one letter (a-z)".to_owned());
    }
    if value.contains("--") {
        faults.push("must not contain consecutive hyphens".to_owned());
    }
    if value.starts_with('-') || value.ends_with('-') {
        faults.push("must not begin or end with a hyphen".to_owned());
    }
    faults
}

/// A number of a port.
#[must_use]
pub fn port_number(value: i64) -> Vec<String> {
    if (1..=65535).contains(&value) {
        Vec::new()
    } else {
        vec!["must be between 1 and 65535, inclusive".to_owned()]
    }
}

/// An IPv4 or IPv6 address.
#[must_use]
pub fn ip(value: &str) -> Vec<String> {
    if value.parse::<IpAddr>().is_ok() {
        Vec::new()
    } else {
        vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()]
    }
}

/// A CIDR such as `10.244.0.0/24`.
#[must_use]
pub fn cidr(value: &str) -> Vec<String> {
    let valid = value.split_once('/').is_some_and(|(address, bits)| {
        let most = match address.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => 32,
            Ok(IpAddr::V6(_)) => 128,
            Err(_) => return false,
        };
        bits.parse::<u8>().is_ok_and(|bits| bits <= most)
    });
    if valid {
        Vec::new()
    } else {
        vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".to_owned()]
    }
}

/// An absolute path segment, as RBAC and most cluster objects name themselves.
#[must_use]
pub fn path_segment(value: &str) -> Vec<String> {
    if value == "." || value == ".." {
        return vec![format!("may not be '{value}'")];
    }
    ["/", "%"].iter().filter(|s| value.contains(**s)).map(|s| format!("may not contain '{s}'")).collect()
}

/// The alphabet of generated suffixes: no vowels, nothing that looks alike.
const SUFFIX_ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// `generateName` with a suffix of five characters; `random` decides which.
#[must_use]
pub fn generate_name(base: &str, random: u64) -> String {
    let mut cut = base.len().min(LABEL_MAX - 5);
    while !base.is_char_boundary(cut) {
        cut -= 1;
    }
    let mut name = base.get(..cut).unwrap_or_default().to_owned();
    let mut rest = random;
    for _ in 0..5 {
        let at = usize::try_from(rest % 27).unwrap_or(0);
        rest /= 27;
        name.push(char::from(SUFFIX_ALPHABET.get(at).copied().unwrap_or(b'b')));
    }
    name
}

/// `metadata.labels`, or another map of labels at `path`.
pub fn check_labels(labels: &Map<String, Value>, path: &Path, faults: &mut Vec<Cause>) {
    for (key, value) in labels {
        check_label_name(key, path, faults);
        let text = value.as_str().unwrap_or_default();
        for fault in label_value(text) {
            faults.push(field::invalid(path, text, &fault));
        }
    }
}

/// One key of a label.
pub fn check_label_name(key: &str, path: &Path, faults: &mut Vec<Cause>) {
    for fault in qualified_name(key) {
        faults.push(field::invalid(path, key, &fault));
    }
}

/// `metadata.annotations` at `path`.
pub fn check_annotations(annotations: &Map<String, Value>, path: &Path, faults: &mut Vec<Cause>) {
    let mut size = 0;
    for (key, value) in annotations {
        for fault in qualified_name(&key.to_lowercase()) {
            faults.push(field::invalid(path, key.as_str(), &fault));
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > ANNOTATIONS_MAX {
        faults.push(field::too_long(path, ANNOTATIONS_MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_subdomains() {
        assert!(dns1123_label("a-1").is_empty());
        assert!(dns1123_subdomain("a.b-c.1").is_empty());
        assert_eq!(dns1123_label("A"), [LABEL_MESSAGE]);
        assert_eq!(dns1123_subdomain("a..b"), [SUBDOMAIN_MESSAGE]);
        assert_eq!(dns1123_subdomain(""), [SUBDOMAIN_MESSAGE]);
        assert_eq!(dns1123_label(&"a".repeat(64)), ["must be no more than 63 bytes"]);
        assert_eq!(dns1035_label("1a"), [DNS1035_MESSAGE]);
        assert!(dns1035_label("a1").is_empty());
    }

    #[test]
    fn qualified_names() {
        assert!(qualified_name("example.com/My_name.x").is_empty());
        assert!(qualified_name("a").is_empty());
        assert_eq!(qualified_name("/a"), ["prefix part must be non-empty"]);
        assert!(qualified_name("a/b/c")[0].starts_with("a qualified name must consist of"));
        assert_eq!(qualified_name("a/").len(), 2);
        assert!(label_value("").is_empty());
        assert_eq!(label_value("-"), [LABEL_VALUE_MESSAGE]);
    }

    #[test]
    fn ports_and_addresses() {
        assert!(port_name("http-2").is_empty());
        assert_eq!(port_name("80"), ["must contain at least one letter (a-z)"]);
        assert_eq!(port_number(0), ["must be between 1 and 65535, inclusive"]);
        assert!(ip("2001:db8::1").is_empty());
        assert_eq!(ip("10.0.0.256").len(), 1);
        assert!(cidr("10.0.0.0/8").is_empty());
        assert_eq!(cidr("10.0.0.0/33").len(), 1);
    }

    #[test]
    fn generated_names_fit_a_label() {
        assert_eq!(generate_name("web-", 0), "web-bbbbb");
        let long = generate_name(&"x".repeat(100), u64::MAX);
        assert_eq!(long.len(), 63);
        assert!(dns1123_label(&long).is_empty());
    }
}
