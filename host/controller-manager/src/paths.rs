//! Reads single fields out of an object's canonical JSON, without building a tree: keys are sorted, so that
//! what comes after the last field is not looked at.

use serde_json::Value;

/// A parsed list of dotted paths, read together.
#[derive(Clone, Debug)]
pub(crate) struct Paths(Vec<Vec<String>>);

impl Paths {
    pub(crate) fn new(paths: &[String]) -> Self {
        Self(paths.iter().map(|p| p.split('.').map(str::to_owned).collect()).collect())
    }

    /// The bytes of each field as they stand, `None` where it is absent.
    fn read<'b>(&self, json: &'b [u8]) -> Vec<Option<&'b [u8]>> {
        let mut scan = Scan { json, at: 0, left: self.0.len(), found: vec![None; self.0.len()] };
        // Ends early where all is found; objects in a cache are well-formed.
        let _ = scan.object(self.0.iter().map(Vec::as_slice).enumerate().collect());
        scan.found
    }

    /// Whether an object in canonical JSON has at least one of the fields.
    pub(crate) fn any(&self, json: &[u8]) -> bool {
        self.read(json).iter().any(Option::is_some)
    }

    /// Whether at least one field differs between two objects in canonical JSON.
    pub(crate) fn differ(&self, a: &[u8], b: &[u8]) -> bool {
        self.read(a) != self.read(b)
    }
}

/// One field of an object; `None` where it is absent.
pub(crate) fn field(json: &[u8], path: &str) -> Option<Value> {
    let paths = Paths::new(&[path.to_owned()]);
    let raw = paths.read(json).into_iter().next().flatten()?;
    serde_json::from_slice(raw).ok()
}

/// One text field of an object; empty where it is absent or no text.
pub(crate) fn text(json: &[u8], path: &str) -> String {
    match field(json, path) {
        Some(Value::String(s)) => s,
        _ => String::new(),
    }
}

/// A walk over compact JSON with sorted keys. Its steps return `None` where it is over.
struct Scan<'b> {
    json: &'b [u8],
    at: usize,
    /// Paths of which nobody knows yet whether they are there.
    left: usize,
    found: Vec<Option<&'b [u8]>>,
}

impl<'b> Scan<'b> {
    fn peek(&self) -> Option<u8> {
        self.json.get(self.at).copied()
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    /// The raw text between the quotes.
    fn string(&mut self) -> Option<&'b [u8]> {
        self.expect(b'"')?;
        let start = self.at;
        loop {
            let rest = self.json.get(self.at..)?;
            self.at += rest.iter().position(|b| matches!(b, b'"' | b'\\'))?;
            if self.peek()? == b'"' {
                break;
            }
            self.at += 2;
        }
        let text = self.json.get(start..self.at)?;
        self.at += 1;
        Some(text)
    }

    /// Passes over a value.
    fn value(&mut self) -> Option<()> {
        let mut depth = 0_usize;
        loop {
            match self.peek()? {
                b'"' => {
                    self.string()?;
                }
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                    continue;
                }
                b'}' | b']' => {
                    depth = depth.checked_sub(1)?;
                    self.at += 1;
                }
                b',' | b':' => {
                    self.at += 1;
                    continue;
                }
                _ => {
                    let rest = self.json.get(self.at..)?;
                    self.at += rest.iter().position(|b| matches!(b, b',' | b'}' | b']'))?;
                }
            }
            if depth == 0 {
                return Some(());
            }
        }
    }

    /// Notes that paths are settled, one way or the other.
    fn settle(&mut self, count: usize) -> Option<()> {
        self.left = self.left.saturating_sub(count);
        (self.left > 0).then_some(())
    }

    fn object(&mut self, mut wants: Vec<(usize, &[String])>) -> Option<()> {
        self.expect(b'{')?;
        while self.peek()? != b'}' {
            let key = self.string()?;
            self.expect(b':')?;
            let mut deeper = Vec::new();
            let mut here = Vec::new();
            let mut absent = 0;
            wants.retain(|(at, path)| {
                let Some((head, tail)) = path.split_first() else { return false };
                match head.as_bytes().cmp(key) {
                    std::cmp::Ordering::Equal if tail.is_empty() => here.push(*at),
                    std::cmp::Ordering::Equal => deeper.push((*at, tail)),
                    // A key with escapes does not lie where its raw text would.
                    std::cmp::Ordering::Less if !key.contains(&b'\\') => absent += 1,
                    _ => return true,
                }
                false
            });
            let start = self.at;
            if !here.is_empty() {
                self.value()?;
                let raw = self.json.get(start..self.at)?;
                for at in &here {
                    *self.found.get_mut(*at)? = Some(raw);
                }
            }
            self.settle(absent + here.len())?;
            if !deeper.is_empty() {
                self.at = start;
                self.inner(deeper)?;
            } else if here.is_empty() {
                self.value()?;
            }
            if self.peek()? == b',' {
                self.at += 1;
            }
        }
        self.at += 1;
        self.settle(wants.len())
    }

    /// Paths below a value; where it is no object there are none.
    fn inner(&mut self, wants: Vec<(usize, &[String])>) -> Option<()> {
        if self.peek()? == b'{' {
            return self.object(wants);
        }
        self.value()?;
        self.settle(wants.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_fields_and_sees_differences() {
        let pod = |node: &str, phase: &str| {
            json!({"metadata": {"labels": {"a": "b"}}, "spec": {"nodeName": node, "list": [1, {"x": null}]},
                   "status": {"phase": phase}})
            .to_string()
        };
        let (a, b) = (pod("n1", "Running"), pod("n1", "Failed"));
        assert_eq!(text(a.as_bytes(), "spec.nodeName"), "n1");
        assert_eq!(field(a.as_bytes(), "metadata.labels"), Some(json!({"a": "b"})));
        assert_eq!(field(a.as_bytes(), "spec.nothing"), None);
        assert_eq!(field(a.as_bytes(), "spec.nodeName.deeper"), None);
        let differ = |paths: &[&str]| {
            let paths: Vec<String> = paths.iter().map(|p| (*p).to_owned()).collect();
            Paths::new(&paths).differ(a.as_bytes(), b.as_bytes())
        };
        assert!(differ(&["status.phase"]));
        assert!(differ(&["spec", "status", "status.phase"]));
        assert!(!differ(&["spec.nodeName", "spec", "metadata.labels", "gone"]));
    }

    #[test]
    fn reads_what_a_parser_reads() {
        let objects = [
            json!({}),
            json!({"a": {}, "b": [], "c": "", "d": null, "e": -1.5e3}),
            json!({"a": {"b": {"c": [{"a": "}"}, "]", {"b": [1, [2]]}]}, "z": "q\"u\\"}, "spec": {"x": true}}),
            json!({"a\"b": {"a": 1}, "a0": {"b": 2}, "ab": {"b": "ü\n"}}),
            json!({"spec": [{"x": 1}], "status": {"x": {"y": {"z": 0}}}}),
        ];
        let all = [
            "a",
            "a.b",
            "a.b.c",
            "a0",
            "a0.b",
            "ab.b",
            "b",
            "spec.x",
            "status",
            "status.x",
            "status.x.y.z",
            "zz",
        ];
        let paths: Vec<String> = all.iter().map(|p| (*p).to_owned()).collect();
        for object in objects {
            let text = object.to_string();
            let expected = |path: &str| path.split('.').try_fold(&object, |at, key| at.get(key)).cloned();
            for (path, found) in all.iter().zip(Paths::new(&paths).read(text.as_bytes())) {
                let found = found.map(|raw| serde_json::from_slice(raw).unwrap());
                assert_eq!(found, expected(path), "{path} of {text}");
                assert_eq!(field(text.as_bytes(), path), expected(path), "{path} alone of {text}");
            }
        }
        for broken in ["", "[]", "{", "{\"a\"", "{\"a\":", "{\"a\":\"", "{\"a\":{\"b\":1"] {
            assert_eq!(field(broken.as_bytes(), "a.b.c"), None, "{broken}");
        }
    }
}
