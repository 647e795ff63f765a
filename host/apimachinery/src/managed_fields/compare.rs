//! What changed between two objects, as field sets.

use super::field_set::{FieldSet, PathElement};
use super::typed::{self, View, item_element};
use crate::schema::{SchemaSet, TypeId};
use serde_json::{Map, Value};

/// The difference of two objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Only in the old one.
    pub removed: FieldSet,
    /// In both, with other values.
    pub modified: FieldSet,
    /// Only in the new one.
    pub added: FieldSet,
}

impl Comparison {
    /// Without paths that nobody may own: `exact` alone, `reset` with all that is below.
    #[must_use]
    pub fn without(mut self, exact: &FieldSet, reset: Option<&FieldSet>) -> Self {
        for set in [&mut self.removed, &mut self.modified, &mut self.added] {
            set.subtract(exact, false);
            if let Some(reset) = reset {
                set.subtract(reset, true);
            }
        }
        self
    }
}

/// Structs that upstream's Go types hold by value: they are there in the emptiest object, so
/// nobody adds them.
const BY_VALUE: [&str; 7] =
    ["metadata", "spec", "status", "template", "strategy", "updateStrategy", "jobTemplate"];

/// Compares two objects of a type. `metadata.managedFields` is not looked at.
#[must_use]
pub fn compare(set: &SchemaSet, id: TypeId, old: &Value, new: &Value) -> Comparison {
    let mut walk = Walk { set, result: Comparison::default(), path: Vec::new(), by_value: true };
    let empty = Value::Object(Map::new());
    let both = (old.as_object().map_or(&empty, |_| old), new.as_object().map_or(&empty, |_| new));
    walk.fields(typed::root(set, id), both.0, both.1);
    walk.result
}

struct Walk<'a> {
    set: &'a SchemaSet,
    result: Comparison,
    path: Vec<PathElement>,
    /// Whether everything on the path so far is held by value.
    by_value: bool,
}

impl<'a> Walk<'a> {
    fn leaf(&mut self, old: Option<&Value>, new: Option<&Value>) {
        match (old, new) {
            (None, Some(_)) => self.result.added.insert(&self.path),
            (Some(_), None) => self.result.removed.insert(&self.path),
            (Some(old), Some(new)) if old != new => self.result.modified.insert(&self.path),
            _ => {}
        }
    }

    fn value(&mut self, view: View<'a>, old: Option<&Value>, new: Option<&Value>) {
        if old == new {
            return;
        }
        let container = match view {
            View::Leaf => false,
            View::Struct(_) | View::Map(_) => old.or(new).is_some_and(Value::is_object),
            View::Set | View::Keyed(..) => old.or(new).is_some_and(Value::is_array),
        };
        let same_kind = match (old, new) {
            (Some(old), Some(new)) => old.is_object() == new.is_object() && old.is_array() == new.is_array(),
            _ => true,
        };
        if !container || !same_kind || (is_empty(old) && is_empty(new)) {
            return self.leaf(old, new);
        }
        match view {
            View::Struct(_) | View::Map(_) => {
                let empty = Value::Object(Map::new());
                self.fields(view, old.unwrap_or(&empty), new.unwrap_or(&empty));
            }
            _ => self.items(view, old, new),
        }
        // A container that comes or goes is itself a change.
        if old.is_none() {
            self.result.added.insert(&self.path);
        } else if new.is_none() {
            self.result.removed.insert(&self.path);
        }
    }

    fn fields(&mut self, view: View<'a>, old: &Value, new: &Value) {
        let empty = Map::new();
        let (old, new) = (old.as_object().unwrap_or(&empty), new.as_object().unwrap_or(&empty));
        let nothing = Value::Object(Map::new());
        let keys = old.keys().chain(new.keys().filter(|k| !old.contains_key(*k)));
        for key in keys {
            if key == "managedFields"
                && matches!(self.path.as_slice(), [PathElement::Field(f)] if f.as_ref() == "metadata")
            {
                continue;
            }
            let (mut before, mut after) = (old.get(key), new.get(key));
            let outer = self.by_value;
            self.by_value &= matches!(view, View::Struct(_)) && BY_VALUE.contains(&key.as_str());
            if self.by_value {
                before = before.or(Some(&nothing));
                after = after.or(Some(&nothing));
            }
            let inner = typed::view(self.set, view.child(key), before.or(after).unwrap_or(&nothing));
            self.path.push(PathElement::field(key));
            self.value(inner, before, after);
            self.path.pop();
            self.by_value = outer;
        }
    }

    fn items(&mut self, view: View<'a>, old: Option<&Value>, new: Option<&Value>) {
        let (old, new) = (group(self.set, view, old), group(self.set, view, new));
        let extra = new.iter().filter(|n| !old.iter().any(|o| o.element == n.element));
        let outer = std::mem::replace(&mut self.by_value, false);
        for Items { element, .. } in old.iter().chain(extra) {
            let (before, after) = (find(&old, element), find(&new, element));
            self.path.push(element.clone());
            if before.len() > 1 || after.len() > 1 {
                let list = |items: &[&Value]| items.iter().copied().cloned().collect::<Value>();
                self.leaf(Some(&list(before)), Some(&list(after)));
            } else {
                let (before, after) = (before.first().copied(), after.first().copied());
                let inner = match (view.item(), before.or(after)) {
                    (Some(node), Some(item)) => typed::view(self.set, Some(node), item),
                    _ => View::Leaf,
                };
                self.value(inner, before, after);
            }
            self.path.pop();
        }
        self.by_value = outer;
    }
}

/// Items that are told apart by `element`, in their order.
struct Items<'v> {
    element: PathElement,
    items: Vec<&'v Value>,
}

fn group<'v>(set: &SchemaSet, view: View<'_>, list: Option<&'v Value>) -> Vec<Items<'v>> {
    let mut groups: Vec<Items<'v>> = Vec::new();
    for item in list.and_then(Value::as_array).into_iter().flatten() {
        let element = item_element(set, view, item);
        match groups.iter_mut().find(|g| g.element == element) {
            Some(group) => group.items.push(item),
            None => groups.push(Items { element, items: vec![item] }),
        }
    }
    groups
}

fn find<'g, 'v>(groups: &'g [Items<'v>], element: &PathElement) -> &'g [&'v Value] {
    groups.iter().find(|g| g.element == *element).map_or(&[], |g| g.items.as_slice())
}

fn is_empty(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::Object(object)) => object.is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        Some(_) => false,
    }
}
