//! Reads structure files; the format is described beside `tools/schemagen`.

use super::{Field, Kind, ListType, Merge, Node, SchemaSet, Shape, StructType, Text, TypeId};
use crate::gvk::Gvk;
use std::borrow::Cow;
use std::collections::HashMap;

/// A structure file is wrong: a fault of the build, not of the user.
#[derive(Debug, thiserror::Error)]
#[error("schema file, line `{line}`: {fault}")]
pub struct LoadError {
    /// The line.
    pub line: String,
    /// What is wrong with it.
    pub fault: &'static str,
}

struct Types {
    names: HashMap<Text, TypeId>,
}

pub(super) fn load(files: &[&'static str]) -> Result<SchemaSet, LoadError> {
    // Types refer to each other in any order, so names come first.
    let mut types = Types { names: HashMap::new() };
    let mut next = 0;
    for (package, line) in lines(files) {
        if let Some(head) = line.strip_prefix("= ") {
            let name = head.split(' ').next().unwrap_or_default();
            let full = Cow::Owned(format!("{package}.{name}"));
            if types.names.insert(full, TypeId(next)).is_some() {
                return Err(fail(line, "the type is there twice"));
            }
            next += 1;
        }
    }
    let mut set = SchemaSet::default();
    let mut current: Option<StructType> = None;
    for (package, line) in lines(files) {
        if let Some(head) = line.strip_prefix("= ") {
            set.types.extend(current.take());
            current = Some(types.open(package, head)?);
            continue;
        }
        let one = current.as_mut().ok_or_else(|| fail(line, "no type is open"))?;
        if let Some(kind) = line.strip_prefix("kind ").filter(|rest| rest.split(' ').count() == 4) {
            let id = TypeId(u32::try_from(set.types.len()).unwrap_or(u32::MAX));
            let kind = parse_kind(package, kind).ok_or_else(|| fail(line, "not a kind"))?;
            set.kinds.insert(kind.gvk.clone(), id);
            one.kind = Some(Box::new(kind));
        } else {
            one.fields.push(types.field(package, line)?);
        }
    }
    set.types.extend(current);
    for one in &mut set.types {
        one.fields.sort_by(|a, b| a.name.cmp(&b.name));
        one.fields.shrink_to_fit();
    }
    set.names = types.names;
    Ok(set)
}

/// All lines with the package that they are in.
fn lines<'a>(files: &'a [&'static str]) -> impl Iterator<Item = (&'static str, &'static str)> + 'a {
    files
        .iter()
        .flat_map(|file| {
            file.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).scan(
                "",
                |package, line| match line.strip_prefix("package ") {
                    Some(name) => {
                        *package = name;
                        Some(None)
                    }
                    None => Some(Some((*package, line))),
                },
            )
        })
        .flatten()
}

fn fail(line: &str, fault: &'static str) -> LoadError {
    LoadError { line: line.to_owned(), fault }
}

fn parse_kind(package: &'static str, line: &'static str) -> Option<Kind> {
    let mut words = line.split(' ').map(|word| if word == "-" { "" } else { word });
    let (kind, list, plural, scope) = (words.next()?, words.next()?, words.next()?, words.next()?);
    Some(Kind {
        gvk: gvk_of(package, kind)?,
        list: Cow::Borrowed(list),
        plural: Cow::Borrowed(plural),
        namespaced: scope == "namespaced",
    })
}

/// Groups are named in full by clients but not in packages.
fn gvk_of(package: &'static str, kind: &'static str) -> Option<Gvk> {
    let (rest, version) = package.rsplit_once('.')?;
    let short = rest.rsplit('.').next()?;
    let group = match short {
        "core" | "meta" => "",
        "apps" | "autoscaling" | "batch" | "policy" => short,
        "admissionregistration" => "admissionregistration.k8s.io",
        "apiextensions" => "apiextensions.k8s.io",
        "apiregistration" => "apiregistration.k8s.io",
        "authentication" => "authentication.k8s.io",
        "authorization" => "authorization.k8s.io",
        "certificates" => "certificates.k8s.io",
        "coordination" => "coordination.k8s.io",
        "discovery" => "discovery.k8s.io",
        "events" => "events.k8s.io",
        "flowcontrol" => "flowcontrol.apiserver.k8s.io",
        "networking" => "networking.k8s.io",
        "node" => "node.k8s.io",
        "rbac" => "rbac.authorization.k8s.io",
        "resource" => "resource.k8s.io",
        "scheduling" => "scheduling.k8s.io",
        "storage" => "storage.k8s.io",
        // A package of another project is its reversed domain: `dev.orlop.v1`.
        _ => {
            return Some(Gvk {
                group: Cow::Owned(rest.split('.').rev().collect::<Vec<_>>().join(".")),
                version: Cow::Borrowed(version),
                kind: Cow::Borrowed(kind),
            });
        }
    };
    Some(Gvk::new(group, version, kind))
}

fn number(text: &str) -> Option<(u16, u16)> {
    match text.split_once('/') {
        Some((outer, inner)) => Some((outer.parse().ok()?, inner.parse().ok()?)),
        None => Some((text.parse().ok()?, 0)),
    }
}

impl Types {
    fn open(&self, package: &'static str, head: &'static str) -> Result<StructType, LoadError> {
        let mut words = head.split(' ');
        let short = words.next().unwrap_or_default();
        let name = Cow::Owned(format!("{package}.{short}"));
        let mut one =
            StructType { name, fields: Vec::new(), atomic: false, open: false, alias: None, kind: None };
        match (words.next(), words.next()) {
            (None, _) => {}
            (Some("atomic"), _) => one.atomic = true,
            (Some("open"), _) => one.open = true,
            (Some("alias"), Some(expression)) => one.alias = Some(self.shape(package, expression, head)?),
            _ => return Err(fail(head, "unknown property of a type")),
        }
        Ok(one)
    }

    fn field(&self, package: &'static str, line: &'static str) -> Result<Field, LoadError> {
        let mut words = line.split(' ');
        let (Some(name), Some(expression)) = (words.next(), words.next()) else {
            return Err(fail(line, "not a field"));
        };
        let (name, required) = match name.strip_suffix('!') {
            Some(name) => (name, true),
            None => (name, false),
        };
        let mut merge = Merge::default();
        let mut any = false;
        let mut numbers = (0, 0);
        for attribute in words {
            if let Some(value) = attribute.strip_prefix("pb=") {
                numbers = number(value).ok_or_else(|| fail(line, "not a protobuf number"))?;
                continue;
            }
            any = true;
            let (attribute, value) =
                attribute.split_once('=').ok_or_else(|| fail(line, "attribute without value"))?;
            match attribute {
                "patch" => {
                    for strategy in value.split(',') {
                        match strategy {
                            "merge" => merge.patch_merge = true,
                            "replace" => merge.patch_replace = true,
                            "retainKeys" => merge.retain_keys = true,
                            _ => return Err(fail(line, "unknown patch strategy")),
                        }
                    }
                }
                "key" => merge.merge_key = Some(Cow::Borrowed(value)),
                "list" => {
                    merge.list = Some(match value {
                        "atomic" => ListType::Atomic,
                        "set" => ListType::Set,
                        "map" => ListType::Map,
                        _ => return Err(fail(line, "unknown list type")),
                    });
                }
                "keys" => merge.keys = value.split(',').map(Cow::Borrowed).collect(),
                "map" => merge.atomic = Some(value == "atomic"),
                "default" => {
                    merge.default =
                        Some(serde_json::from_str(value).map_err(|_| fail(line, "the default is not JSON"))?);
                }
                _ => return Err(fail(line, "unknown attribute")),
            }
        }
        let node =
            Node { shape: self.shape(package, expression, line)?, merge: any.then(|| Box::new(merge)) };
        Ok(Field { name: Cow::Borrowed(name), required, number: numbers, node })
    }

    fn shape(&self, package: &str, expression: &str, line: &str) -> Result<Shape, LoadError> {
        let inner = |open, close| expression.strip_prefix(open).and_then(|rest| rest.strip_suffix(close));
        Ok(match expression {
            "any" => Shape::Any,
            "string" => Shape::String,
            "bytes" => Shape::Bytes,
            "time" => Shape::Time,
            "microtime" => Shape::MicroTime,
            "bool" => Shape::Bool,
            "int32" => Shape::Int32,
            "int64" => Shape::Int64,
            "number" => Shape::Number,
            "intstr" => Shape::IntOrString,
            "quantity" => Shape::Quantity,
            _ => {
                if let Some(item) = inner('[', ']') {
                    Shape::List(Box::new(Node::plain(self.shape(package, item, line)?)))
                } else if let Some(item) = inner('{', '}') {
                    Shape::Map(Box::new(Node::plain(self.shape(package, item, line)?)))
                } else if let Some(name) = expression.strip_prefix('#') {
                    let full = if name.contains('.') { name.to_owned() } else { format!("{package}.{name}") };
                    let id = self.names.get(full.as_str()).ok_or_else(|| fail(line, "unknown type"))?;
                    Shape::Struct(*id)
                } else {
                    return Err(fail(line, "unknown type expression"));
                }
            }
        })
    }
}
