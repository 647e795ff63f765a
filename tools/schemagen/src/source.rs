//! Reads the `JsonSchema` and `Resource` implementations out of a generated source file.

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};

/// What a source file says of one type.
pub struct Type {
    /// Without `io.k8s.`, such as `api.apps.v1.Deployment`.
    pub name: String,
    /// The schema; a reference to another type is `{"$ref": "api.core.v1.PodSpec"}`.
    pub schema: Value,
    pub kind: Option<Kind>,
}

/// What `impl Resource` says.
pub struct Kind {
    pub kind: String,
    pub list: Option<String>,
    pub plural: String,
    pub namespaced: Option<bool>,
}

pub fn parse(text: &str) -> Result<Vec<Type>> {
    let mut types = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("JsonSchema for ") {
        rest = &rest[at..];
        let name = between(rest, "\"io.k8s.", "\"").context("schema without a name")?.to_owned();
        let start = rest.find("json_schema!(").context("no json_schema")? + "json_schema!(".len();
        let mut reader = Reader { text: &rest[start..] };
        let schema = reader.value().with_context(|| name.clone())?;
        rest = reader.text;
        types.push(Type { name, schema, kind: None });
    }
    if let (Some(kind), [only]) = (kind(text), types.as_mut_slice()) {
        only.kind = Some(kind);
    }
    Ok(types)
}

fn kind(text: &str) -> Option<Kind> {
    let text = &text[text.find("impl crate::Resource for ")?..];
    let constant =
        |name: &str| between(text, &format!("const {name}: &'static str = \""), "\"").map(str::to_owned);
    Some(Kind {
        kind: constant("KIND")?,
        list: constant("LIST_KIND"),
        plural: constant("URL_PATH_SEGMENT")?,
        namespaced: match between(text, "type Scope = crate::", "ResourceScope;")? {
            "Namespace" => Some(true),
            "Cluster" => Some(false),
            _ => None,
        },
    })
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let start = text.find(before)? + before.len();
    let rest = &text[start..];
    Some(&rest[..rest.find(after)?])
}

struct Reader<'a> {
    text: &'a str,
}

impl Reader<'_> {
    fn skip(&mut self) {
        self.text = self.text.trim_start();
    }

    fn eat(&mut self, token: &str) -> bool {
        self.skip();
        match self.text.strip_prefix(token) {
            Some(rest) => {
                self.text = rest;
                true
            }
            None => false,
        }
    }

    fn value(&mut self) -> Result<Value> {
        self.skip();
        if self.eat("{") {
            let mut object = Map::new();
            while !self.eat("}") {
                let key = self.string()?;
                if !self.eat(":") {
                    bail!("expected a colon");
                }
                object.insert(key, self.value()?);
                self.eat(",");
            }
            return Ok(object.into());
        }
        if self.eat("[") {
            let mut array = Vec::new();
            while !self.eat("]") {
                array.push(self.value()?);
                self.eat(",");
            }
            return Ok(array.into());
        }
        let parenthesised = self.eat("(");
        if parenthesised || self.text.starts_with("__gen.") {
            let value = self.expression()?;
            if parenthesised && !self.eat(")") {
                bail!("expected a closing parenthesis");
            }
            return Ok(value);
        }
        if self.text.starts_with('"') {
            return Ok(self.string()?.into());
        }
        let end = self.text.find([',', '}', ']', '\n']).context("unterminated value")?;
        let (word, rest) = self.text.split_at(end);
        self.text = rest;
        serde_json::from_str(word.trim()).with_context(|| format!("`{word}`"))
    }

    /// `__gen.subschema_for::<T>()`, or a block that also inserts a description.
    fn expression(&mut self) -> Result<Value> {
        let described = self.eat("{");
        let start =
            self.text.find("subschema_for::<").context("no subschema_for")? + "subschema_for::<".len();
        self.text = &self.text[start..];
        let end = self.text.find(">(").context("unterminated type")?;
        let (path, rest) = self.text.split_at(end);
        self.text = rest;
        let mut object = Map::new();
        object.insert("$ref".into(), type_name(path)?.into());
        if described {
            let at = self.text.find("insert(\"description\".into(), ").context("no description")?;
            self.text = &self.text[at + "insert(\"description\".into(), ".len()..];
            object.insert("description".into(), self.string()?.into());
            let end = self.text.find('}').context("unterminated block")?;
            self.text = &self.text[end + 1..];
        } else if !self.eat(">()") {
            bail!("expected a call");
        }
        Ok(object.into())
    }

    fn string(&mut self) -> Result<String> {
        if !self.eat("\"") {
            bail!("expected a string at `{}`", self.text.chars().take(40).collect::<String>());
        }
        let mut string = String::new();
        let mut chars = self.text.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.text = &self.text[at + 1..];
                    return Ok(string);
                }
                '\\' => match chars.next().context("unterminated escape")?.1 {
                    'n' => string.push('\n'),
                    't' => string.push('\t'),
                    'r' => string.push('\r'),
                    'u' => {
                        let code: String =
                            chars.by_ref().map(|(_, c)| c).skip(1).take_while(|c| *c != '}').collect();
                        let code = u32::from_str_radix(&code, 16)?;
                        string.push(char::from_u32(code).context("not a character")?);
                    }
                    other => string.push(other),
                },
                _ => string.push(c),
            }
        }
        bail!("unterminated string")
    }
}

fn type_name(path: &str) -> Result<String> {
    let path = path.trim().strip_prefix("crate::").with_context(|| format!("type {path}"))?;
    let name = path.replace("::", ".");
    Ok(name
        .replace("apiextensions_apiserver.", "apiextensions-apiserver.")
        .replace("kube_aggregator.", "kube-aggregator."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_what_the_generator_writes() {
        let text = r#"
impl crate::Resource for X { const KIND: &'static str = "X"; const URL_PATH_SEGMENT: &'static str = "xs";
    type Scope = crate::NamespaceResourceScope; }
impl crate::schemars::JsonSchema for X {
    fn schema_name() { "io.k8s.api.apps.v1.X".into() }
    fn json_schema() { crate::schemars::json_schema!({
        "description": "a \"b\"\n",
        "properties": {
            "items": { "type": "array", "items": (__gen.subschema_for::<crate::api::core::v1::Pod>()), },
            "spec": ({
                let mut schema_obj = __gen.subschema_for::<crate::api::core::v1::PodSpec>();
                schema_obj.ensure_object().insert("description".into(), "d".into());
                schema_obj
            }),
        },
        "required": ["items",],
    }) }
}"#;
        let types = parse(text).unwrap();
        assert_eq!(types[0].name, "api.apps.v1.X");
        assert_eq!(types[0].kind.as_ref().unwrap().plural, "xs");
        let expected = json!({"description": "a \"b\"\n", "properties": {
            "items": {"type": "array", "items": {"$ref": "api.core.v1.Pod"}},
            "spec": {"$ref": "api.core.v1.PodSpec", "description": "d"}}, "required": ["items"]});
        assert_eq!(types[0].schema, expected);
    }
}
