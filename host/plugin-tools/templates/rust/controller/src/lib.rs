//! {{name}}: every namespace with the label `{{name}}` gets a ConfigMap `{{name}}` whose entry `value` is
//! that of the label.

use orlop_sdk::controller::{Controller, Item, Meta, Object, Plan, Write};
use orlop_sdk::serde_json::{Value, json};

/// The label on namespaces, and the name of the ConfigMap.
const NAME: &str = "{{name}}";

/// The plugin; it has no configuration.
pub struct {{camel}};

impl Controller for {{camel}} {
    fn new(_config: &[u8]) -> Result<Self, String> {
        Ok(Self)
    }

    // Called with what is, it says what to write so that it becomes what shall be. It is called again
    // whenever one of the two changes, so it must be content with what it wrote itself.
    fn reconcile(&self, item: &Item<'_>, _now: i64) -> Plan {
        plan(item).unwrap_or_else(Plan::error)
    }
}

fn plan(item: &Item<'_>) -> Result<Plan, String> {
    let Some(namespace) = item.object::<Object<Value>>()? else { return Ok(Plan::default()) };
    let Some(wanted) = namespace.metadata.labels.get(NAME) else { return Ok(Plan::default()) };
    if namespace.metadata.is_being_deleted() {
        return Ok(Plan::default());
    }
    let Some(notes) = item.first::<Value>("notes")? else {
        let body = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": NAME},
            "data": {"value": wanted},
        });
        let create = Write::create("v1", "configmaps", &item.key.name, body);
        return Ok(Plan::write(create.ignoring("AlreadyExists").ignoring("NamespaceTerminating")));
    };
    if notes["data"]["value"] == wanted.as_str() {
        return Ok(Plan::default());
    }
    let meta = item.metas("notes").into_iter().next().unwrap_or_else(Meta::default);
    let patch = Write::patch("v1", "configmaps", &meta, json!({"data": {"value": wanted}}));
    Ok(Plan::write(patch.ignoring("NotFound")))
}

orlop_sdk::export_controller!({{camel}});

#[cfg(test)]
mod tests {
    use super::*;
    use orlop_sdk::serde_json::from_slice;

    #[test]
    fn a_namespace_without_the_label_is_left_alone() {
        let request = json!({"now": 0, "items": [{
            "key": {"name": "shop"}, "object": {"metadata": {"name": "shop"}}, "inputs": {"notes": []},
        }]});
        let answer = orlop_sdk::controller::serve(&{{camel}}, request.to_string().as_bytes()).unwrap();
        assert_eq!(from_slice::<Value>(&answer).unwrap()["plans"][0]["writes"], Value::Null);
    }
}
