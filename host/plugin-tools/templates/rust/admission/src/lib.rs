//! {{camel}}: a pod without the label `{{name}}` gets one; one whose label is empty is refused.

use orlop_sdk::admission::{AdmissionPlugin, Patch, Request, Response};
use orlop_sdk::serde::Deserialize;
use orlop_sdk::serde_json::{Value, json};

/// The label.
const LABEL: &str = "{{name}}";

/// The plugin, which is its configuration.
#[derive(Deserialize)]
#[serde(crate = "orlop_sdk::serde", deny_unknown_fields)]
pub struct {{camel}} {
    /// Value of the label where a pod has none.
    #[serde(default = "nobody")]
    default: String,
}

fn nobody() -> String {
    "nobody".to_owned()
}

fn label(request: &Request) -> Option<&str> {
    request.object["metadata"]["labels"][LABEL].as_str()
}

impl AdmissionPlugin for {{camel}} {
    fn new(config: &[u8]) -> Result<Self, String> {
        orlop_sdk::parse_config(config)
    }

    fn mutate(&self, request: &Request) -> Response {
        if label(request).is_some() || request.object == Value::Null {
            return Response::allow();
        }
        let mut patch = Patch::new();
        patch.set(&request.object, &["metadata", "labels", LABEL], json!(self.default));
        Response::patch(patch)
    }

    fn validate(&self, request: &Request) -> Response {
        match label(request) {
            Some("") => Response::deny(request.forbidden(&format!("the label {LABEL} must not be empty"))),
            _ => Response::allow(),
        }
    }
}

orlop_sdk::export_admission!({{camel}});

#[cfg(test)]
mod tests {
    use super::*;
    use orlop_sdk::admission::Operation;
    use orlop_sdk::apimachinery::Gvr;

    #[test]
    fn an_empty_label_is_refused() {
        let pod = json!({"metadata": {"name": "web", "labels": {"{{name}}": ""}}});
        let request = Request::new(Operation::Create, &Gvr::new("", "v1", "pods"), "Pod", "shop", pod);
        let plugin = {{camel}}::new(b"{}").unwrap();
        let refusal = plugin.validate(&request);
        assert!(refusal.denied().unwrap().message.contains("must not be empty"));
    }
}
