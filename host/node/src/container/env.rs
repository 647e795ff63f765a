//! The environment of a container.
//!
//! Order and precedence as upstream: service variables, then `envFrom`, then `env`; a later
//! variable wins, and `env` may refer to what came before it.

use super::fields::{PodFacts, field, resource};
use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVar, Pod, Secret};
use orlop_container::cri::KeyValue;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// ConfigMaps and Secrets that a pod refers to; `None` where the object does not exist.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources {
    pub(crate) config_maps: BTreeMap<String, Option<Arc<ConfigMap>>>,
    pub(crate) secrets: BTreeMap<String, Option<Arc<Secret>>>,
}

/// Names of ConfigMaps and Secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) config_maps: BTreeSet<String>,
    pub(crate) secrets: BTreeSet<String>,
}

/// What the environment of `container` refers to.
pub(crate) fn references(container: &Container) -> Names {
    let mut names = Names::default();
    for from in container.env_from.iter().flatten() {
        names.config_maps.extend(from.config_map_ref.iter().map(|r| r.name.clone()));
        names.secrets.extend(from.secret_ref.iter().map(|r| r.name.clone()));
    }
    for source in container.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
        names.config_maps.extend(source.config_map_key_ref.iter().map(|r| r.name.clone()));
        names.secrets.extend(source.secret_key_ref.iter().map(|r| r.name.clone()));
    }
    names
}

/// Replaces `$(NAME)` by what `lookup` knows; unknown references stay, `$$` is a dollar.
pub(crate) fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some(tail) = after.strip_prefix('(') {
            if let Some((name, tail)) = tail.split_once(')') {
                match lookup(name) {
                    Some(value) => out.push_str(&value),
                    None => {
                        out.push_str("$(");
                        out.push_str(name);
                        out.push(')');
                    }
                }
                rest = tail;
            } else {
                out.push_str("$(");
                rest = tail;
            }
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// The environment, in the order of definition.
///
/// # Errors
/// The message of `CreateContainerConfigError`.
pub(crate) fn environment(
    pod: &Pod,
    container: &Container,
    services: Vec<(String, String)>,
    sources: &Sources,
    facts: &PodFacts,
) -> Result<Vec<KeyValue>, String> {
    let mut vars = Vars::default();
    for (key, value) in services {
        vars.set(key, value);
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(r) = &from.config_map_ref {
            match sources.config_maps.get(&r.name).and_then(Option::as_ref) {
                Some(map) => {
                    for (key, value) in map.data.iter().flatten() {
                        vars.set(format!("{prefix}{key}"), value.clone());
                    }
                }
                None if r.optional == Some(true) => {}
                None => return Err(format!("configmap \"{}\" not found", r.name)),
            }
        }
        if let Some(r) = &from.secret_ref {
            match sources.secrets.get(&r.name).and_then(Option::as_ref) {
                Some(secret) => {
                    for (key, value) in secret.data.iter().flatten() {
                        vars.set(format!("{prefix}{key}"), String::from_utf8_lossy(&value.0).into_owned());
                    }
                }
                None if r.optional == Some(true) => {}
                None => return Err(format!("secret \"{}\" not found", r.name)),
            }
        }
    }
    for e in container.env.iter().flatten() {
        if let Some(value) = value_of(pod, container, namespace, e, &vars, sources, facts)? {
            vars.set(e.name.clone(), value);
        }
    }
    Ok(vars.list)
}

#[derive(Default)]
struct Vars {
    list: Vec<KeyValue>,
    at: BTreeMap<String, usize>,
}

impl Vars {
    fn set(&mut self, key: String, value: String) {
        match self.at.get(&key).and_then(|at| self.list.get_mut(*at)) {
            Some(old) => old.value = value,
            None => {
                self.at.insert(key.clone(), self.list.len());
                self.list.push(KeyValue { key, value });
            }
        }
    }

    fn get(&self, key: &str) -> Option<String> {
        self.at.get(key).and_then(|at| self.list.get(*at)).map(|kv| kv.value.clone())
    }
}

fn value_of(
    pod: &Pod,
    container: &Container,
    namespace: &str,
    e: &EnvVar,
    vars: &Vars,
    sources: &Sources,
    facts: &PodFacts,
) -> Result<Option<String>, String> {
    let Some(from) = &e.value_from else {
        return Ok(Some(expand(e.value.as_deref().unwrap_or_default(), |name| vars.get(name))));
    };
    if let Some(r) = &from.field_ref {
        return field(pod, facts, &r.field_path).map(Some);
    }
    if let Some(r) = &from.resource_field_ref {
        return resource(pod, facts, &container.name, r).map(Some);
    }
    if let Some(r) = &from.config_map_key_ref {
        let optional = r.optional == Some(true);
        return match sources.config_maps.get(&r.name).and_then(Option::as_ref) {
            None if optional => Ok(None),
            None => Err(format!("configmap \"{}\" not found", r.name)),
            Some(map) => match map.data.as_ref().and_then(|d| d.get(&r.key)) {
                Some(value) => Ok(Some(value.clone())),
                None if optional => Ok(None),
                None => Err(format!("couldn't find key {} in ConfigMap {namespace}/{}", r.key, r.name)),
            },
        };
    }
    if let Some(r) = &from.secret_key_ref {
        let optional = r.optional == Some(true);
        return match sources.secrets.get(&r.name).and_then(Option::as_ref) {
            None if optional => Ok(None),
            None => Err(format!("secret \"{}\" not found", r.name)),
            Some(secret) => match secret.data.as_ref().and_then(|d| d.get(&r.key)) {
                Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
                None if optional => Ok(None),
                None => Err(format!("couldn't find key {} in Secret {namespace}/{}", r.key, r.name)),
            },
        };
    }
    if from.file_key_ref.is_some() {
        return Err(format!("environment variable {:?}: fileKeyRef is not supported", e.name));
    }
    Ok(Some(String::new()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn expansion_follows_upstream() {
        let lookup = |name: &str| match name {
            "A" => Some("1".to_owned()),
            "EMPTY" => Some(String::new()),
            "REF" => Some("$(A)".to_owned()),
            _ => None,
        };
        for (text, want) in [
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$(NONE)", "$(NONE)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$$$$(A)", "$$(A)"),
            ("$(EMPTY)", ""),
            ("$(REF)", "$(A)"),
            ("$A", "$A"),
            ("$(A", "$(A"),
            ("end$", "end$"),
            ("\u{e9}$(A)\u{e9}", "\u{e9}1\u{e9}"),
            ("$()", "$()"),
        ] {
            assert_eq!(expand(text, lookup), want, "{text}");
        }
    }

    fn facts() -> PodFacts {
        PodFacts {
            host_ip: "192.0.2.1".parse().unwrap(),
            pod_ips: vec!["10.0.0.7".parse().unwrap()],
            allocatable: BTreeMap::new(),
        }
    }

    #[test]
    fn precedence_and_errors() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}})).unwrap();
        let container: Container = serde_json::from_value(json!({
            "name": "c",
            "envFrom": [{"prefix": "P_", "configMapRef": {"name": "m"}}, {"secretRef": {"name": "s", "optional": true}}],
            "env": [
                {"name": "A", "value": "$(P_x)-$(B)"},
                {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "x"}}},
                {"name": "C", "value": "$(A)$(SVC)"},
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "P_x", "value": "over"},
                {"name": "GONE", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": true}}}
            ]
        }))
        .unwrap();
        let names = references(&container);
        assert_eq!(names.config_maps.into_iter().collect::<Vec<_>>(), ["m"]);
        assert_eq!(names.secrets.into_iter().collect::<Vec<_>>(), ["s"]);
        let map: ConfigMap = serde_json::from_value(json!({"data": {"x": "1"}})).unwrap();
        let mut sources = Sources::default();
        sources.config_maps.insert("m".into(), Some(Arc::new(map)));
        let services = vec![("SVC".to_owned(), "10.0.0.1".to_owned())];
        let env = environment(&pod, &container, services.clone(), &sources, &facts()).unwrap();
        let flat: Vec<String> = env.iter().map(|kv| format!("{}={}", kv.key, kv.value)).collect();
        assert_eq!(flat, ["SVC=10.0.0.1", "P_x=over", "A=1-$(B)", "B=1", "C=1-$(B)10.0.0.1", "IP=10.0.0.7"]);

        sources.config_maps.insert("m".into(), None);
        let error = environment(&pod, &container, services, &sources, &facts()).unwrap_err();
        assert_eq!(error, "configmap \"m\" not found");
    }
}
