//! DefaultRegistry: an image that names no registry, such as `nginx:1.27`, comes from the configured
//! one: `registry.example.com/nginx:1.27`. An image that names one is left alone.

use orlop_sdk::admission::{AdmissionPlugin, Patch, Request, Response};
use orlop_sdk::serde::Deserialize;
use orlop_sdk::serde_json::{Value, json};

/// Where a pod has containers.
const LISTS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];

/// The plugin, which is its configuration.
#[derive(Deserialize)]
#[serde(crate = "orlop_sdk::serde", deny_unknown_fields)]
pub struct DefaultRegistry {
    /// Put before the image and a slash; it may have a path of its own.
    registry: String,
}

/// Whether an image's name begins with a registry, by the rule that all clients follow: what is before
/// the first slash is one if it has a dot or a colon, or is `localhost`.
fn names_registry(image: &str) -> bool {
    let first = image.split_once('/').map(|(first, _)| first);
    first.is_some_and(|first| first == "localhost" || first.contains(['.', ':']))
}

impl AdmissionPlugin for DefaultRegistry {
    fn new(config: &[u8]) -> Result<Self, String> {
        let this: Self = orlop_sdk::parse_config(config)?;
        let registry = this.registry.trim_end_matches('/').to_owned();
        if !names_registry(&format!("{registry}/")) {
            return Err(format!(
                "config: registry `{registry}` is no host name; write it like registry.example.com"
            ));
        }
        Ok(Self { registry })
    }

    // Called again for what it changed itself, it changes nothing more. Containers that are there already
    // keep the image that they have: another one would restart them.
    fn mutate(&self, request: &Request) -> Response {
        let mut patch = Patch::new();
        for list in LISTS {
            let containers = request.object["spec"][list].as_array();
            let before = request.old_object["spec"][list].as_array();
            for (i, container) in containers.into_iter().flatten().enumerate() {
                let Some(image) = container["image"].as_str() else { continue };
                let stays = |old: &Value| old["name"] == container["name"] && old["image"] == image;
                if image.is_empty() || names_registry(image) || before.into_iter().flatten().any(stays) {
                    continue;
                }
                let image: Value = json!(format!("{}/{image}", self.registry));
                patch.set(&request.object, &["spec", list, &i.to_string(), "image"], image);
            }
        }
        Response::patch(patch)
    }
}

orlop_sdk::export_admission!(DefaultRegistry);

#[cfg(test)]
mod tests {
    use super::*;
    use orlop_sdk::admission::{Operation, Outcome};
    use orlop_sdk::apimachinery::Gvr;

    #[test]
    fn registries_are_told_from_paths() {
        for with in ["docker.io/library/nginx", "localhost/nginx", "host:5000/nginx", "a.b/c/d@sha256:00"] {
            assert!(names_registry(with), "{with}");
        }
        for without in ["nginx", "nginx:1.27", "library/nginx", "team/app:v1.2", "nginx@sha256:00"] {
            assert!(!names_registry(without), "{without}");
        }
    }

    #[test]
    fn a_second_time_changes_nothing() {
        let plugin = DefaultRegistry::new(br#"{"registry": "registry.example.com/mirror/"}"#).unwrap();
        let pods = Gvr::new("", "v1", "pods");
        let ask = |image: &str| {
            let pod = json!({"spec": {"containers": [{"image": image}]}});
            plugin.mutate(&Request::new(Operation::Create, &pods, "Pod", "shop", pod)).outcome
        };
        let Outcome::Allow(patch) = ask("nginx") else { panic!("a pod was refused") };
        let patch = String::from_utf8(patch.into_bytes()).unwrap();
        assert!(patch.contains(r#""registry.example.com/mirror/nginx""#), "{patch}");
        let Outcome::Allow(patch) = ask("registry.example.com/mirror/nginx") else {
            panic!("a pod was refused")
        };
        assert!(patch.is_empty());
    }

    #[test]
    fn a_registry_must_be_one() {
        assert!(DefaultRegistry::new(br#"{"registry": "mirror"}"#).is_err());
    }
}
