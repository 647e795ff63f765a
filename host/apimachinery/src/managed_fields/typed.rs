//! Values seen through their schema as server-side apply sees them: what is a leaf, how list
//! items are told apart; field sets of values, removal and merging.

use super::field_set::{FieldSet, PathElement};
use crate::schema::{ListType, Merge, Node, Resolved, SchemaSet, Shape, StructType, TypeId};
use serde_json::{Map, Value};

/// How a value is treated.
#[derive(Clone, Copy)]
pub(crate) enum View<'a> {
    /// One unit, whatever is inside.
    Leaf,
    Struct(&'a StructType),
    /// Free keys; `None` where nothing is known of the entries.
    Map(Option<&'a Node>),
    /// A list of scalars, each once.
    Set,
    /// A list whose items have keys.
    Keyed(&'a Node, &'a Merge),
}

pub(crate) fn root(set: &SchemaSet, id: TypeId) -> View<'_> {
    set.get(id).map_or(View::Map(None), View::Struct)
}

/// How a value in this place is treated.
pub(crate) fn view<'a>(set: &'a SchemaSet, node: Option<&'a Node>, value: &Value) -> View<'a> {
    let Some(node) = node else {
        return if value.is_object() { View::Map(None) } else { View::Leaf };
    };
    let merge = node.merge();
    match set.resolve(&node.shape) {
        Resolved::Struct(_, one) => {
            if merge.atomic.unwrap_or(one.atomic) {
                View::Leaf
            } else {
                View::Struct(one)
            }
        }
        Resolved::Shape(Shape::Map(item)) => {
            if merge.atomic == Some(true) {
                View::Leaf
            } else {
                View::Map(Some(item))
            }
        }
        Resolved::Shape(Shape::List(item)) => match merge.list {
            Some(ListType::Set) => View::Set,
            Some(ListType::Map) => View::Keyed(item, merge),
            Some(ListType::Atomic) | None => View::Leaf,
        },
        Resolved::Shape(Shape::Any) if value.is_object() => View::Map(None),
        Resolved::Shape(_) => View::Leaf,
    }
}

impl<'a> View<'a> {
    /// The place of a field or entry.
    pub(crate) fn child(self, name: &str) -> Option<&'a Node> {
        match self {
            View::Struct(one) => one.field(name).map(|f| &f.node),
            View::Map(item) => item,
            View::Leaf | View::Set | View::Keyed(..) => None,
        }
    }

    /// The place of a list's items.
    pub(crate) fn item(self) -> Option<&'a Node> {
        match self {
            View::Keyed(item, _) => Some(item),
            _ => None,
        }
    }
}

/// What tells an item of a list apart.
pub(crate) fn item_element(set: &SchemaSet, view: View<'_>, item: &Value) -> PathElement {
    let View::Keyed(node, merge) = view else { return PathElement::value(item) };
    let one = match set.resolve(&node.shape) {
        Resolved::Struct(_, one) => Some(one),
        Resolved::Shape(_) => None,
    };
    let mut keys = Map::new();
    for key in &merge.keys {
        let default = || one.and_then(|o| o.field(key)).and_then(|f| f.node.merge().default.clone());
        if let Some(value) = item.get(key.as_ref()).cloned().or_else(default) {
            keys.insert(key.to_string(), value);
        }
    }
    PathElement::key(keys)
}

/// All the fields that a value sets.
pub(crate) fn field_set(set: &SchemaSet, id: TypeId, value: &Value) -> FieldSet {
    below(set, root(set, id), value).1
}

/// Whether the value's own path is in the set, and the set below it.
fn below(set: &SchemaSet, view: View<'_>, value: &Value) -> (bool, FieldSet) {
    let mut fields = FieldSet::default();
    match (view, value) {
        (View::Struct(_) | View::Map(_), Value::Object(object)) => {
            for (key, inner) in object {
                let node = view.child(key);
                let (member, inner_set) = below(set, self::view(set, node, inner), inner);
                let empty = inner.is_null() || inner.as_object().is_some_and(Map::is_empty);
                let entry = !matches!(view, View::Struct(one) if one.field(key).is_some());
                fields.put(PathElement::field(key), member || empty || entry, inner_set);
            }
            (false, fields)
        }
        (View::Set | View::Keyed(..), Value::Array(items)) => {
            for item in items {
                let inner = match view.item() {
                    Some(node) => below(set, self::view(set, Some(node), item), item).1,
                    None => FieldSet::default(),
                };
                fields.put(item_element(set, view, item), true, inner);
            }
            (false, fields)
        }
        _ => (true, fields),
    }
}

/// Adds to a set every struct field on the way to its members.
pub(crate) fn with_named_fields(set: &SchemaSet, view: View<'_>, fields: &FieldSet) -> FieldSet {
    let mut result = FieldSet::default();
    for (element, member, inner) in fields.iter() {
        let (named, node) = match element {
            PathElement::Field(name) => {
                (matches!(view, View::Struct(one) if one.field(name).is_some()), view.child(name))
            }
            _ => (false, view.item()),
        };
        // What the values are is told by the node alone here; a free object stands in for them.
        let inner_view = self::view(set, node, &Value::Object(Map::new()));
        let inner = with_named_fields(set, inner_view, inner);
        result.put(element.clone(), member || (named && !inner.is_empty()), inner);
    }
    result
}

/// A value without the items of a set; `None` where nothing is left of a value that had something.
pub(crate) fn remove(set: &SchemaSet, view: View<'_>, value: &Value, gone: &FieldSet) -> Option<Value> {
    match (view, value) {
        (View::Struct(_) | View::Map(_), Value::Object(object)) => {
            if object.is_empty() {
                return Some(value.clone());
            }
            let mut kept = Map::new();
            for (key, inner) in object {
                let element = PathElement::field(key);
                if gone.has_member(&element) {
                    continue;
                }
                let inner = match gone.below(&element) {
                    Some(gone) => remove(set, self::view(set, view.child(key), inner), inner, gone),
                    None => Some(inner.clone()),
                };
                if let Some(inner) = inner {
                    kept.insert(key.clone(), inner);
                }
            }
            (!kept.is_empty()).then_some(Value::Object(kept))
        }
        (View::Set | View::Keyed(..), Value::Array(items)) => {
            if items.is_empty() {
                return Some(value.clone());
            }
            let mut kept = Vec::new();
            for item in items {
                let element = item_element(set, view, item);
                if gone.has_member(&element) {
                    continue;
                }
                match gone.below(&element) {
                    Some(gone) => kept.extend(remove(set, self::view(set, view.item(), item), item, gone)),
                    None => kept.push(item.clone()),
                }
            }
            (!kept.is_empty()).then_some(Value::Array(kept))
        }
        _ => Some(value.clone()),
    }
}

/// `applied` laid over `live`.
pub(crate) fn merge(set: &SchemaSet, view: View<'_>, live: &Value, applied: &Value) -> Value {
    match (view, live, applied) {
        (View::Struct(_) | View::Map(_), Value::Object(old), Value::Object(new)) => {
            let mut result = old.clone();
            for (key, value) in new {
                let node = view.child(key);
                let merged = match old.get(key) {
                    Some(before) => merge(set, self::view(set, node, value), before, value),
                    None => value.clone(),
                };
                result.insert(key.clone(), merged);
            }
            Value::Object(result)
        }
        (View::Set | View::Keyed(..), Value::Array(old), Value::Array(new)) => {
            Value::Array(merge_lists(set, view, old, new))
        }
        _ => applied.clone(),
    }
}

/// Items of both lists: the applied order among the items that both have, new ones after their
/// applied predecessor, live-only ones where they were.
fn merge_lists(set: &SchemaSet, view: View<'_>, live: &[Value], applied: &[Value]) -> Vec<Value> {
    let element = |item: &Value| item_element(set, view, item);
    let left: Vec<PathElement> = live.iter().map(element).collect();
    let right: Vec<PathElement> = applied.iter().map(element).collect();
    let of = |keys: &[PathElement], items: &[Value], key: &PathElement| {
        keys.iter().position(|k| k == key).and_then(|at| items.get(at)).cloned()
    };
    let joined = |key: &PathElement| -> Option<Value> {
        let new = of(&right, applied, key)?;
        Some(match of(&left, live, key) {
            Some(old) => merge(set, self::view(set, view.item(), &new), &old, &new),
            None => new,
        })
    };
    let mut shared = right.iter().filter(|key| left.contains(key));
    let mut next_shared = shared.next();
    let mut done: Vec<&PathElement> = Vec::new();
    let mut result = Vec::new();
    let (mut l, mut r) = (0, 0);
    while l < left.len() || r < right.len() {
        if let (Some(lk), Some(rk)) = (left.get(l), right.get(r)) {
            if lk == rk {
                if !done.contains(&rk) {
                    done.push(rk);
                    result.extend(joined(rk));
                }
                l += 1;
                r += 1;
                next_shared = shared.next();
                continue;
            }
            if right.contains(lk) && next_shared.is_some_and(|next| next != lk) {
                l += 1;
                continue;
            }
        }
        if let Some(lk) = left.get(l) {
            if !right.contains(lk) {
                result.extend(live.get(l).cloned());
                l += 1;
                continue;
            }
            if done.contains(&lk) {
                l += 1;
            }
        }
        if let Some(rk) = right.get(r) {
            if !done.contains(&rk) {
                done.push(rk);
                result.extend(joined(rk));
            }
            r += 1;
            if next_shared == Some(rk) {
                next_shared = shared.next();
            }
        } else if left.get(l).is_some_and(|lk| right.contains(lk)) {
            // A duplicate of an item that is already merged.
            l += 1;
        }
    }
    result
}
