//! What a Website consists of.

use orlop_sdk::controller::{Meta, OwnerReference};
use orlop_sdk::serde_json::{Value, json};

/// Where the server listens, in its pod.
const PORT: u16 = 8080;

/// A Website, as far as its children depend on it.
pub(crate) struct Site<'a> {
    pub(crate) meta: &'a Meta,
    pub(crate) page: &'a str,
    pub(crate) replicas: i64,
}

/// An object that belongs to a Website and has its name.
pub(crate) struct Child {
    pub(crate) api_version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) resource: &'static str,
    /// What the controller insists on; everything else is the cluster's or somebody else's business.
    pub(crate) content: Value,
    name: String,
    owner: OwnerReference,
}

impl Child {
    /// The whole object, to create it.
    pub(crate) fn object(&self) -> Value {
        let mut object = self.content.clone();
        object["apiVersion"] = json!(self.api_version);
        object["kind"] = json!(self.kind);
        object["metadata"]["name"] = json!(self.name);
        object["metadata"]["ownerReferences"] = json!([self.owner]);
        object
    }
}

impl Site<'_> {
    pub(crate) fn children(&self, image: &str) -> [Child; 3] {
        let labels = json!({ "example.org/website": self.meta.name });
        let page = json!({ "metadata": { "labels": labels }, "data": { "index.html": self.page } });
        let service = json!({
            "metadata": { "labels": labels },
            "spec": { "selector": labels, "ports": [{ "port": 80, "protocol": "TCP", "targetPort": PORT }] },
        });
        let deployment = json!({
            "metadata": { "labels": labels },
            "spec": {
                "replicas": self.replicas,
                "selector": { "matchLabels": labels },
                "template": {
                    // Another page makes other pods, so a new page is served as soon as they run.
                    "metadata": { "labels": labels, "annotations": { "example.org/page": digest(self.page) } },
                    "spec": {
                        "terminationGracePeriodSeconds": 1,
                        "containers": [{
                            "name": "httpd",
                            "image": image,
                            "imagePullPolicy": "IfNotPresent",
                            "command": ["httpd", "-f", "-p", PORT.to_string(), "-h", "/www"],
                            "readinessProbe": { "tcpSocket": { "port": PORT }, "periodSeconds": 1 },
                            "volumeMounts": [{ "name": "page", "mountPath": "/www" }],
                        }],
                        "volumes": [{ "name": "page", "configMap": { "name": self.meta.name } }],
                    },
                },
            },
        });
        [
            self.child("v1", "ConfigMap", "configmaps", page),
            self.child("v1", "Service", "services", service),
            self.child("apps/v1", "Deployment", "deployments", deployment),
        ]
    }

    fn child(
        &self,
        api_version: &'static str,
        kind: &'static str,
        resource: &'static str,
        content: Value,
    ) -> Child {
        let owner = OwnerReference::controller_of("example.org/v1", "Website", self.meta);
        Child { api_version, kind, resource, content, name: self.meta.name.clone(), owner }
    }
}

/// Whether an object has all that is wanted of it. What the cluster filled in does not count as a
/// difference, or the controller would write for ever.
pub(crate) fn covers(there: &Value, wanted: &Value) -> bool {
    match (there, wanted) {
        (Value::Object(there), Value::Object(wanted)) => {
            wanted.iter().all(|(key, value)| there.get(key).is_some_and(|t| covers(t, value)))
        }
        (Value::Array(there), Value::Array(wanted)) => {
            there.len() == wanted.len() && there.iter().zip(wanted).all(|(t, w)| covers(t, w))
        }
        _ => there == wanted,
    }
}

/// FNV-1a of the page: the same on every machine and in every version.
fn digest(page: &str) -> String {
    let hash = page
        .bytes()
        .fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3));
    format!("{hash:016x}")
}
