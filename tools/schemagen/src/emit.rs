//! Writes structure and documentation files.

use crate::protobuf::{Tags, key, plain};
use crate::source::Type;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

/// Types that are no plain objects, by name.
const SPECIAL: &[(&str, &str)] = &[
    ("apimachinery.pkg.api.resource.Quantity", "quantity"),
    ("apimachinery.pkg.apis.meta.v1.FieldsV1", "any"),
    ("apimachinery.pkg.apis.meta.v1.MicroTime", "microtime"),
    ("apimachinery.pkg.apis.meta.v1.Patch", "any"),
    ("apimachinery.pkg.apis.meta.v1.Time", "time"),
    ("apimachinery.pkg.runtime.RawExtension", "any"),
    ("apimachinery.pkg.util.intstr.IntOrString", "intstr"),
    ("apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceSubresourceStatus", "any"),
    ("apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON", "any"),
    ("apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray", "any"),
    ("apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool", "any"),
    ("apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray", "any"),
];

/// Defaults that Kubernetes' schemas declare and that list-map keys need.
const DEFAULTS: &[(&str, &str, &str)] = &[
    ("api.core.v1.ContainerPort", "protocol", "\"TCP\""),
    ("api.core.v1.GRPCAction", "service", "\"\""),
    ("api.core.v1.ServicePort", "protocol", "\"TCP\""),
];

#[derive(Default, Clone)]
struct Fact {
    patch: String,
    merge_key: String,
    list: String,
    keys: String,
    map: String,
    default: String,
}

pub fn write(types: Vec<Type>, facts_text: &str, tags: &Tags, output: &Path) -> Result<String> {
    let mut facts = facts(facts_text)?;
    for (name, field, default) in DEFAULTS {
        facts.entry(((*name).to_owned(), (*field).to_owned())).or_default().default = (*default).to_owned();
    }
    let mut packages: BTreeMap<String, Vec<&Type>> = BTreeMap::new();
    for one in &types {
        let (package, _) = split(&one.name)?;
        if !stable(package) {
            continue;
        }
        packages.entry(file_of(package)).or_default().push(one);
    }
    for directory in ["schema", "docs"] {
        std::fs::create_dir_all(output.join(directory))?;
    }
    let mut used = BTreeSet::new();
    let (mut count, mut fields) = (0, 0);
    for (file, mut members) in packages {
        members.sort_by(|a, b| a.name.cmp(&b.name));
        let (mut schema, mut docs) = (String::new(), String::new());
        let mut package = String::new();
        for member in members {
            let (own, short) = split(&member.name)?;
            if own != package {
                own.clone_into(&mut package);
                writeln!(schema, "package {package}")?;
                writeln!(docs, "package {package}")?;
            }
            count += 1;
            fields += one(member, short, &package, &facts, tags, &mut used, &mut schema, &mut docs)?;
        }
        std::fs::write(output.join("schema").join(format!("{file}.txt")), schema)?;
        std::fs::write(output.join("docs").join(format!("{file}.txt")), docs)?;
    }
    for (name, field) in facts.keys() {
        let (package, _) = split(name)?;
        if stable(package) && !used.contains(&(name.clone(), field.clone())) {
            bail!("the merge facts name {name} {field}, which does not exist");
        }
    }
    std::fs::write(output.join("merge-facts.tsv"), facts_text)?;
    Ok(format!("{count} types, {fields} fields"))
}

#[expect(clippy::too_many_arguments, reason = "the two files and what goes into them")]
fn one(
    member: &Type,
    short: &str,
    package: &str,
    facts: &BTreeMap<(String, String), Fact>,
    tags: &Tags,
    used: &mut BTreeSet<(String, String)>,
    schema: &mut String,
    docs: &mut String,
) -> Result<usize> {
    let text = |v: &Value| escape(v["description"].as_str().unwrap_or_default());
    writeln!(docs, "= {short}\t{}", text(&member.schema))?;
    if let Some((_, expression)) = SPECIAL.iter().find(|(name, _)| *name == member.name) {
        writeln!(schema, "= {short} alias {expression}")?;
        return Ok(0);
    }
    let key = (member.name.clone(), "(type)".to_owned());
    let atomic = facts.get(&key).is_some_and(|f| f.map == "atomic");
    used.insert(key);
    writeln!(schema, "= {short}{}", if atomic { " atomic" } else { "" })?;
    let mut list = None;
    if let Some(kind) = &member.kind {
        let scope = match kind.namespaced {
            Some(true) => "namespaced",
            Some(false) => "cluster",
            None => "-",
        };
        let none = "-".to_owned();
        let list_kind = kind.list.as_ref().unwrap_or(&none);
        let plural = if kind.plural.is_empty() { "-" } else { &kind.plural };
        writeln!(schema, "kind {} {list_kind} {plural} {scope}", kind.kind)?;
        list.clone_from(&kind.list);
    }
    let required: Vec<&str> =
        member.schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let Some(properties) = member.schema["properties"].as_object() else {
        if member.schema["type"] != "object" {
            bail!("{} is no object: {}", member.name, member.schema);
        }
        return Ok(0);
    };
    let mut names: Vec<&String> = properties.keys().collect();
    names.sort();
    for name in &names {
        let property = &properties[name.as_str()];
        // k8s-openapi makes the metadata of kinds required; Kubernetes does not.
        let is_required =
            required.contains(&name.as_str()) && !(member.kind.is_some() && *name == "metadata");
        write!(schema, "{name}{} {}", if is_required { "!" } else { "" }, expression(property, package)?)?;
        let key = (member.name.clone(), (*name).clone());
        if let Some(fact) = facts.get(&key) {
            for (attribute, value) in [
                ("patch", &fact.patch),
                ("key", &fact.merge_key),
                ("list", &fact.list),
                ("keys", &fact.keys),
                ("map", &fact.map),
                ("default", &fact.default),
            ] {
                if !value.is_empty() {
                    write!(schema, " {attribute}={value}")?;
                }
            }
        }
        used.insert(key);
        match number(tags, &member.name, name) {
            Some((number, None)) => write!(schema, " pb={number}")?,
            Some((outer, Some(inner))) => write!(schema, " pb={outer}/{inner}")?,
            None if matches!(name.as_str(), "apiVersion" | "kind") => {}
            None => eprintln!("no protobuf number: {} {name}", member.name),
        }
        schema.push('\n');
        writeln!(docs, "{name}\t{}", text(property))?;
    }
    if let Some(list) = list {
        writeln!(schema, "= {list}\nkind {list} - - -\napiVersion string\nitems! [#{short}]\nkind string")?;
        writeln!(schema, "metadata #apimachinery.pkg.apis.meta.v1.ListMeta")?;
        writeln!(docs, "= {list}\t{list} is a list of {short}.")?;
        let own = |field: &str| text(&properties[field]);
        writeln!(docs, "apiVersion\t{}\nitems\tItems is the list of {short} objects.", own("apiVersion"))?;
        writeln!(docs, "kind\t{}\nmetadata\tStandard list metadata.", own("kind"))?;
    }
    Ok(names.len())
}

/// The number of a field, or of the embedded struct that has it and there.
fn number(tags: &Tags, owner: &str, field: &str) -> Option<(u32, Option<u32>)> {
    let fields = tags.get(&key(owner))?;
    let wanted = plain(field);
    if let Some(tag) = fields.iter().find(|t| t.name == wanted) {
        return Some((tag.number, None));
    }
    fields.iter().find_map(|outer| {
        let inner = tags.get(outer.message.as_ref()?)?;
        inner.iter().find(|t| t.name == wanted).map(|inner| (outer.number, Some(inner.number)))
    })
}

fn expression(schema: &Value, package: &str) -> Result<String> {
    if let Some(reference) = schema["$ref"].as_str() {
        if let Some((_, special)) = SPECIAL.iter().find(|(name, _)| *name == reference) {
            return Ok((*special).to_owned());
        }
        let (other, short) = split(reference)?;
        return Ok(if other == package { format!("#{short}") } else { format!("#{reference}") });
    }
    let format = schema["format"].as_str().unwrap_or_default();
    Ok(match (schema["type"].as_str().unwrap_or_default(), format) {
        ("string", "byte") => "bytes".into(),
        ("string", "") => "string".into(),
        ("boolean", "") => "bool".into(),
        ("integer", "int32") => "int32".into(),
        ("integer", "int64") => "int64".into(),
        ("number", _) => "number".into(),
        ("array", "") => format!("[{}]", expression(&schema["items"], package)?),
        ("object", "") if schema["additionalProperties"].is_object() => {
            format!("{{{}}}", expression(&schema["additionalProperties"], package)?)
        }
        ("object", "") => "any".into(),
        other => bail!("unknown type {other:?}: {schema}"),
    })
}

fn facts(text: &str) -> Result<BTreeMap<(String, String), Fact>> {
    let mut facts = BTreeMap::new();
    for line in text.lines().filter(|l| !l.starts_with('#') && !l.is_empty()) {
        let columns: Vec<&str> = line.split('\t').collect();
        let column = |at: usize| columns.get(at).copied().unwrap_or_default().to_owned();
        if columns.len() < 3 {
            bail!("merge facts: `{line}`");
        }
        let fact = Fact {
            patch: column(2),
            merge_key: column(3),
            list: column(4),
            keys: column(5),
            map: column(6),
            default: column(7),
        };
        facts.insert((column(0), column(1)), fact);
    }
    Ok(facts)
}

fn split(name: &str) -> Result<(&str, &str)> {
    name.rsplit_once('.').with_context(|| format!("`{name}` has no package"))
}

/// Kubernetes serves no alpha or beta version by default, and neither do we.
fn stable(package: &str) -> bool {
    let last = package.rsplit('.').next().unwrap_or_default();
    !(last.contains("alpha") || last.contains("beta"))
}

fn file_of(package: &str) -> String {
    let parts: Vec<&str> = package.split('.').collect();
    match parts.as_slice() {
        ["apimachinery", ..] => "meta_v1".into(),
        [.., group, version] => format!("{group}_{version}"),
        _ => package.to_owned(),
    }
}

fn escape(text: &str) -> String {
    text.trim_end().replace('\\', "\\\\").replace('\n', "\\n").replace('\t', "\\t")
}
