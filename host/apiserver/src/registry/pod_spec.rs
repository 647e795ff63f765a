//! What pods and pod templates share: the defaults of a pod spec.
//!
//! Source: `pkg/apis/core/v1/defaults.go`.

pub(super) mod placement;
mod surroundings;
pub(super) mod validation;
pub(super) mod warnings;

use super::json::{object, objects, set_default, set_text};
use orlop_apimachinery::quantity::Quantity;
use serde_json::{Map, Value, json};

/// 0644
const DEFAULT_MODE: i64 = 0o644;

/// `SetDefaults_PodSpec` and all below it.
pub(super) fn default_pod_spec(spec: &mut Map<String, Value>) {
    set_text(spec, "dnsPolicy", "ClusterFirst");
    set_text(spec, "restartPolicy", "Always");
    set_default(spec, "terminationGracePeriodSeconds", 30);
    set_text(spec, "schedulerName", "default-scheduler");
    set_default(spec, "securityContext", Map::new());
    // The old name of the field is kept equal to the new one.
    match (
        spec.get("serviceAccountName").and_then(Value::as_str),
        spec.get("serviceAccount").and_then(Value::as_str),
    ) {
        (Some(name), other) if !name.is_empty() && other != Some(name) => {
            let name = name.to_owned();
            spec.insert("serviceAccount".into(), name.into());
        }
        (None | Some(""), Some(old)) if !old.is_empty() => {
            let old = old.to_owned();
            spec.insert("serviceAccountName".into(), old.into());
        }
        _ => {}
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        objects(spec, list).for_each(default_container);
    }
    for volume in objects(spec, "volumes") {
        default_volume(volume);
    }
    for constraint in objects(spec, "topologySpreadConstraints") {
        set_default(constraint, "nodeAffinityPolicy", "Honor");
        set_default(constraint, "nodeTaintsPolicy", "Ignore");
    }
}

/// What a pod has beyond a template: `SetDefaults_Pod`.
pub(super) fn default_pod_only(spec: &mut Map<String, Value>) {
    set_default(spec, "enableServiceLinks", true);
    let host_network = spec.get("hostNetwork").and_then(Value::as_bool).unwrap_or(false);
    for list in ["initContainers", "containers"] {
        for container in objects(spec, list) {
            limits_become_requests(container);
            if host_network {
                ports_are_the_hosts(container);
            }
        }
    }
}

/// On the host's network every port of a container is one of the host.
fn ports_are_the_hosts(container: &mut Map<String, Value>) {
    for port in objects(container, "ports") {
        if let Some(number) = port.get("containerPort").cloned() {
            set_default(port, "hostPort", number);
        }
    }
}

fn limits_become_requests(container: &mut Map<String, Value>) {
    let Some(resources) = container.get_mut("resources").and_then(Value::as_object_mut) else { return };
    let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else { return };
    if limits.is_empty() {
        return;
    }
    if let Some(requests) = object(resources, "requests") {
        for (name, limit) in limits {
            set_default(requests, &name, limit);
        }
    }
}

fn default_container(container: &mut Map<String, Value>) {
    let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
    let policy = if pulls_always(image) { "Always" } else { "IfNotPresent" };
    set_text(container, "imagePullPolicy", policy);
    set_text(container, "terminationMessagePath", "/dev/termination-log");
    set_text(container, "terminationMessagePolicy", "File");
    set_default(container, "resources", Map::new());
    for port in objects(container, "ports") {
        set_text(port, "protocol", "TCP");
    }
    for env in objects(container, "env") {
        if let Some(source) = env.get_mut("valueFrom").and_then(Value::as_object_mut) {
            default_field_ref(source);
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(name).and_then(Value::as_object_mut) {
            default_probe(probe);
        }
    }
    if let Some(lifecycle) = container.get_mut("lifecycle").and_then(Value::as_object_mut) {
        for name in ["postStart", "preStop"] {
            if let Some(handler) = lifecycle.get_mut(name).and_then(Value::as_object_mut) {
                default_http_get(handler);
            }
        }
    }
    canonical_resources(container);
}

/// Quantities are stored in their canonical form: `1000m` becomes `1`, fractions below a thousandth
/// are rounded up.
fn canonical_resources(container: &mut Map<String, Value>) {
    let Some(resources) = container.get_mut("resources").and_then(Value::as_object_mut) else { return };
    for name in ["limits", "requests"] {
        for (_, value) in resources.get_mut(name).and_then(Value::as_object_mut).into_iter().flatten() {
            let parsed = match &*value {
                Value::String(text) => Quantity::parse(text),
                Value::Number(number) => Quantity::parse(&number.to_string()),
                _ => continue,
            };
            if let Ok(quantity) = parsed {
                *value = Value::String(quantity.round_up_milli().to_string());
            }
        }
    }
}

/// `latest`, whether written or implied, is pulled at every start.
fn pulls_always(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    last.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

fn default_probe(probe: &mut Map<String, Value>) {
    for (name, value) in
        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        // Zero means "not said" here, as in upstream's Go.
        if probe.get(name).and_then(Value::as_i64) == Some(0) {
            probe.remove(name);
        }
        set_default(probe, name, value);
    }
    default_http_get(probe);
    if let Some(grpc) = probe.get_mut("grpc").and_then(Value::as_object_mut) {
        set_default(grpc, "service", "");
    }
}

fn default_http_get(handler: &mut Map<String, Value>) {
    if let Some(http) = handler.get_mut("httpGet").and_then(Value::as_object_mut) {
        set_text(http, "path", "/");
        set_text(http, "scheme", "HTTP");
    }
}

fn default_field_ref(source: &mut Map<String, Value>) {
    if let Some(field) = source.get_mut("fieldRef").and_then(Value::as_object_mut) {
        set_text(field, "apiVersion", "v1");
    }
    if let Some(field) = source.get_mut("resourceFieldRef").and_then(Value::as_object_mut) {
        set_default(field, "divisor", "0");
    }
}

fn default_volume(volume: &mut Map<String, Value>) {
    let has_source = volume.iter().any(|(key, value)| key != "name" && !value.is_null());
    if !has_source {
        volume.insert("emptyDir".into(), json!({}));
    }
    for (source, settings) in volume.iter_mut() {
        let Some(settings) = settings.as_object_mut() else { continue };
        match source.as_str() {
            "secret" | "configMap" => set_default(settings, "defaultMode", DEFAULT_MODE),
            "hostPath" => set_default(settings, "type", ""),
            "downwardAPI" => {
                set_default(settings, "defaultMode", DEFAULT_MODE);
                objects(settings, "items").for_each(default_field_ref);
            }
            "projected" => {
                set_default(settings, "defaultMode", DEFAULT_MODE);
                for source in objects(settings, "sources") {
                    if let Some(token) = source.get_mut("serviceAccountToken").and_then(Value::as_object_mut)
                    {
                        set_default(token, "expirationSeconds", 3600);
                    }
                    if let Some(downward) = source.get_mut("downwardAPI").and_then(Value::as_object_mut) {
                        objects(downward, "items").for_each(default_field_ref);
                    }
                }
            }
            "iscsi" => set_text(settings, "iscsiInterface", "default"),
            _ => {}
        }
    }
}

/// `BestEffort`, `Burstable` or `Guaranteed`. Source: `pkg/apis/core/v1/helper/qos`.
pub(super) fn qos_class(spec: &Value) -> &'static str {
    const COMPUTE: [&str; 2] = ["cpu", "memory"];
    let mut requests = Map::new();
    let mut limits = Map::new();
    let mut guaranteed = true;
    let containers = super::json::items(spec, &["containers"]).iter();
    for container in containers.chain(super::json::items(spec, &["initContainers"])) {
        let positive = |kind: &str| -> Map<String, Value> {
            let listed = super::at(container, &["resources", kind]).and_then(Value::as_object);
            let named = listed.into_iter().flatten().filter(|(name, _)| COMPUTE.contains(&name.as_str()));
            let positive = named.filter(|(_, v)| {
                v.as_str().and_then(|t| Quantity::parse(t).ok()).is_some_and(|q| q.milli_value() > 0)
            });
            positive.map(|(k, v)| (k.clone(), v.clone())).collect()
        };
        let limited = positive("limits");
        if COMPUTE.iter().any(|name| !limited.contains_key(*name)) {
            guaranteed = false;
        }
        let requested = positive("requests");
        if requested.iter().any(|(name, value)| limited.get(name) != Some(value)) {
            guaranteed = false;
        }
        requests.extend(requested);
        limits.extend(limited);
    }
    if requests.is_empty() && limits.is_empty() {
        "BestEffort"
    } else if guaranteed {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_decides_the_pull_policy() {
        for (image, always) in [
            ("busybox", true),
            ("busybox:latest", true),
            ("busybox:1.36", false),
            ("localhost:5000/busybox", true),
            ("localhost:5000/busybox:1", false),
            ("busybox@sha256:00", false),
        ] {
            assert_eq!(pulls_always(image), always, "{image}");
        }
    }

    #[test]
    fn defaults_are_idempotent() {
        let mut pod = json!({
            "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}],
                "livenessProbe": {"httpGet": {"port": 80}},
                "resources": {"limits": {"cpu": "1000m", "memory": "64Mi"}},
                "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}],
            "volumes": [{"name": "v"}, {"name": "s", "secret": {"secretName": "x"}}],
            "hostNetwork": true,
        });
        let apply = |pod: &mut Value| {
            let spec = pod.as_object_mut().expect("an object");
            default_pod_spec(spec);
            default_pod_only(spec);
        };
        apply(&mut pod);
        let once = pod.clone();
        apply(&mut pod);
        assert_eq!(pod, once);
        assert_eq!(pod["containers"][0]["resources"]["requests"], json!({"cpu": "1", "memory": "64Mi"}));
        assert_eq!(pod["containers"][0]["ports"][0]["hostPort"], 80);
        assert_eq!(pod["containers"][0]["livenessProbe"]["failureThreshold"], 3);
        assert_eq!(pod["volumes"][0]["emptyDir"], json!({}));
        assert_eq!(pod["volumes"][1]["secret"]["defaultMode"], 420);
    }

    #[test]
    fn quality_of_service() {
        let one =
            |resources: Value| qos_class(&json!({"containers": [{"name": "c", "resources": resources}]}));
        assert_eq!(one(json!({})), "BestEffort");
        assert_eq!(one(json!({"requests": {"cpu": "1"}})), "Burstable");
        let both =
            json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}});
        assert_eq!(one(both), "Guaranteed");
        let less =
            json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "1Gi"}});
        assert_eq!(one(less), "Burstable");
    }
}
