//! Strategic merge, after `k8s.io/apimachinery/pkg/util/strategicpatch`.
//!
//! Directives: `$patch: replace|delete|merge` in maps and list items, `$retainKeys`,
//! `$deleteFromPrimitiveList/x`, `$setElementOrder/x`.

use super::PatchError;
use crate::schema::{Node, Resolved, SchemaSet, Shape, StructType, TypeId};
use serde_json::{Map, Value};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

type Object = Map<String, Value>;

/// What is known of a value's type.
#[derive(Clone, Copy)]
enum Place<'a> {
    Struct(&'a StructType),
    /// Free keys, all of one type.
    Map(&'a Node),
    Unknown,
}

struct Merger<'a> {
    set: &'a SchemaSet,
}

pub(super) fn merge_root(
    set: &SchemaSet,
    id: TypeId,
    target: &Value,
    patch: &Object,
) -> Result<Value, PatchError> {
    let place = set.get(id).map_or(Place::Unknown, Place::Struct);
    let original = target.as_object().cloned().unwrap_or_default();
    Merger { set }.merge_map(place, original, patch).map(Value::Object)
}

fn malformed<T>(message: String) -> Result<T, PatchError> {
    Err(PatchError::Malformed(message))
}

fn is_directive(key: &str) -> bool {
    key == PATCH || key == RETAIN_KEYS || key.starts_with(DELETE_FROM) || key.starts_with(SET_ORDER)
}

/// A value of a patch that has nothing to merge with: without directives and nulls.
fn plain(value: &Value) -> Value {
    match value {
        Value::Object(object) => {
            if object.get(PATCH).and_then(Value::as_str) == Some("delete") {
                return Value::Object(Map::new());
            }
            let entries = object.iter().filter(|(k, v)| !is_directive(k) && !v.is_null());
            Value::Object(entries.map(|(k, v)| (k.clone(), plain(v))).collect())
        }
        Value::Array(items) => {
            let deleted = |item: &&Value| item.get(PATCH).and_then(Value::as_str) == Some("delete");
            let marker =
                |item: &&Value| item.as_object().is_some_and(|o| o.len() == 1 && o.contains_key(PATCH));
            Value::Array(items.iter().filter(|i| !deleted(i) && !marker(i)).map(plain).collect())
        }
        other => other.clone(),
    }
}

impl<'a> Merger<'a> {
    fn place(&self, shape: &'a Shape) -> Place<'a> {
        match self.set.resolve(shape) {
            Resolved::Struct(_, one) => Place::Struct(one),
            Resolved::Shape(Shape::Map(node)) => Place::Map(node),
            Resolved::Shape(_) => Place::Unknown,
        }
    }

    fn child(place: Place<'a>, key: &str) -> Option<&'a Node> {
        match place {
            Place::Struct(one) => one.field(key).map(|f| &f.node),
            Place::Map(node) => Some(node),
            Place::Unknown => None,
        }
    }

    fn merge_map(
        &self,
        place: Place<'a>,
        mut original: Object,
        patch: &Object,
    ) -> Result<Object, PatchError> {
        match patch.get(PATCH) {
            None => {}
            Some(Value::String(directive)) if directive == "replace" => {
                let rest: Object =
                    patch.iter().filter(|(k, _)| *k != PATCH).map(|(k, v)| (k.clone(), v.clone())).collect();
                return Ok(plain(&Value::Object(rest)).as_object().cloned().unwrap_or_default());
            }
            Some(Value::String(directive)) if directive == "delete" => return Ok(Map::new()),
            Some(Value::String(directive)) if directive == "merge" => {}
            Some(other) => {
                return malformed(format!(
                    "unknown patch type: {} in map: {}",
                    text(other),
                    Value::from(patch.clone())
                ));
            }
        }
        if let Some(retain) = patch.get(RETAIN_KEYS) {
            let Some(keys) = retain.as_array() else {
                return malformed("invalid retainKeys patch format".to_owned());
            };
            let kept = |key: &str| keys.iter().any(|k| k.as_str() == Some(key));
            if patch.iter().any(|(k, v)| !is_directive(k) && !v.is_null() && !kept(k)) {
                return malformed("patch doesn't match retainKeys list".to_owned());
            }
            original.retain(|key, _| kept(key));
        }
        self.merge_ordered_lists(place, &mut original, patch)?;
        for (key, change) in patch {
            let ordered =
                || patch.contains_key(&format!("{SET_ORDER}{key}")) && self.merges_lists(place, key);
            if is_directive(key) || (change.is_array() && original.contains_key(key) && ordered()) {
                continue;
            }
            if change.is_null() {
                original.remove(key);
                continue;
            }
            let Some(current) = original.get_mut(key) else {
                original.insert(key.clone(), plain(change));
                continue;
            };
            let node = Self::child(place, key);
            let replaces = node.is_some_and(|n| n.merge().patch_replace);
            *current = match (std::mem::take(current), change) {
                (Value::Object(before), Value::Object(change)) if !replaces => {
                    let place = node.map_or(Place::Unknown, |n| self.place(&n.shape));
                    Value::Object(self.merge_map(place, before, change)?)
                }
                (Value::Array(before), Value::Array(change))
                    if node.is_some_and(|n| n.merge().patch_merge) =>
                {
                    Value::Array(self.merge_list(node, before, change, None)?)
                }
                _ => plain(change),
            };
        }
        Ok(original)
    }

    fn merges_lists(&self, place: Place<'a>, key: &str) -> bool {
        Self::child(place, key).is_some_and(|n| n.merge().patch_merge)
    }

    /// `$deleteFromPrimitiveList` and `$setElementOrder`, together with the lists that they are
    /// about.
    fn merge_ordered_lists(
        &self,
        place: Place<'a>,
        original: &mut Object,
        patch: &Object,
    ) -> Result<(), PatchError> {
        for (key, gone) in patch {
            let Some(field) = key.strip_prefix(DELETE_FROM) else { continue };
            let Some(gone) = gone.as_array() else {
                return malformed("invalid deleteFromPrimitiveList patch format".to_owned());
            };
            if let Some(items) = original.get_mut(field).and_then(Value::as_array_mut) {
                items.retain(|item| !gone.contains(item));
            }
        }
        for (key, order) in patch {
            let Some(field) = key.strip_prefix(SET_ORDER) else { continue };
            let Some(order) = order.as_array() else {
                return malformed("invalid setElementOrder patch format".to_owned());
            };
            if !self.merges_lists(place, field) || !original.get(field).is_some_and(Value::is_array) {
                continue;
            }
            let empty = Vec::new();
            let change = match patch.get(field) {
                Some(Value::Array(change)) => change,
                None => &empty,
                Some(_) => continue,
            };
            let Some(Value::Array(before)) = original.get_mut(field).map(std::mem::take) else { continue };
            let merged = self.merge_list(Self::child(place, field), before, change, Some(order))?;
            original.insert(field.to_owned(), Value::Array(merged));
        }
        Ok(())
    }

    fn merge_list(
        &self,
        node: Option<&'a Node>,
        original: Vec<Value>,
        patch: &[Value],
        order: Option<&[Value]>,
    ) -> Result<Vec<Value>, PatchError> {
        let merge_key = node.and_then(|n| n.merge().merge_key.as_deref());
        let Some(merge_key) = merge_key else {
            let server_order = original.clone();
            let mut merged = original;
            for item in patch {
                if !merged.contains(item) {
                    merged.push(item.clone());
                }
            }
            let mut seen = Vec::new();
            merged.retain(|item| {
                !seen.contains(item) && {
                    seen.push(item.clone());
                    true
                }
            });
            return Ok(arrange(merged, order.unwrap_or(patch), &server_order, |item| item.clone()));
        };
        let item_place = match node.map(|n| &n.shape) {
            Some(Shape::List(item)) => self.place(&item.shape),
            _ => Place::Unknown,
        };
        let key_of = |item: &Value| item.get(merge_key).cloned().unwrap_or(Value::Null);
        let server_order: Vec<Value> = original.iter().map(key_of).collect();
        let mut merged = original;
        let mut changes = Vec::new();
        let mut replace = false;
        for item in patch {
            let Some(object) = item.as_object() else {
                return malformed(format!("expected a map with merge key {merge_key}, got {item}"));
            };
            match object.get(PATCH).map(text).as_deref() {
                Some("replace") => {
                    replace = true;
                    if object.len() > 1 {
                        changes.push(object);
                    }
                }
                Some("delete") => {
                    let Some(key) = object.get(merge_key) else { return missing_key(item, merge_key) };
                    merged.retain(|existing| existing.get(merge_key) != Some(key));
                }
                None | Some("merge") => changes.push(object),
                Some(other) => return malformed(format!("unknown patch type: {other} in map: {item}")),
            }
        }
        if replace {
            return Ok(changes.into_iter().map(|o| plain(&Value::Object(o.clone()))).collect());
        }
        for change in &changes {
            let Some(key) = change.get(merge_key) else {
                return missing_key(&Value::Object((*change).clone()), merge_key);
            };
            match merged.iter_mut().find(|item| item.get(merge_key) == Some(key)) {
                Some(item) => {
                    let before = std::mem::take(item).as_object().cloned().unwrap_or_default();
                    *item = Value::Object(self.merge_map(item_place, before, change)?);
                }
                None => merged.push(plain(&Value::Object((*change).clone()))),
            }
        }
        let wanted: Vec<Value> = match order {
            Some(order) => order.iter().map(key_of).collect(),
            None => changes.iter().filter_map(|c| c.get(merge_key).cloned()).collect(),
        };
        if order.is_some() && changes.iter().any(|c| c.get(merge_key).is_none_or(|k| !wanted.contains(k))) {
            return malformed(format!(
                "The order in patch list:\n{}\n doesn't match {SET_ORDER} list:\n{}\n",
                Value::from(patch.to_vec()),
                Value::from(order.unwrap_or_default().to_vec())
            ));
        }
        Ok(arrange(merged, &wanted, &server_order, key_of))
    }
}

fn missing_key<T>(item: &Value, merge_key: &str) -> Result<T, PatchError> {
    malformed(format!("map: {item} does not contain declared merge key: {merge_key}"))
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Items that the patch names, in the patch's order; the others are inserted where the live order
/// puts them.
fn arrange(
    merged: Vec<Value>,
    wanted: &[Value],
    live: &[Value],
    key_of: impl Fn(&Value) -> Value,
) -> Vec<Value> {
    let position = |list: &[Value], key: &Value| list.iter().position(|k| k == key);
    let (mut named, mut others): (Vec<_>, Vec<_>) =
        merged.into_iter().partition(|item| position(wanted, &key_of(item)).is_some());
    named.sort_by_key(|item| position(wanted, &key_of(item)));
    others.sort_by_key(|item| position(live, &key_of(item)));
    let mut result = Vec::with_capacity(named.len() + others.len());
    let mut others = others.into_iter().peekable();
    for item in named {
        let at = position(live, &key_of(&item));
        while let Some(other) = others.peek() {
            let before = position(live, &key_of(other)).zip(at).is_some_and(|(other, this)| other < this);
            if !before {
                break;
            }
            result.extend(others.next());
        }
        result.push(item);
    }
    result.extend(others);
    result
}
