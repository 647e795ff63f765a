//! The files of ConfigMap, Secret, downward API and projected volumes.

use super::atomic::{File, Payload, valid_path};
use crate::container::env::Sources;
use crate::container::fields::{PodFacts, field, resource};
use crate::pod::model::spec_of;
use crate::tokens::{TokenKey, Tokens};
use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapVolumeSource, DownwardAPIVolumeFile, KeyToPath, Pod, ProjectedVolumeSource, Secret,
    SecretVolumeSource,
};

const DEFAULT_MODE: i32 = 0o644;

fn file(data: Vec<u8>, mode: i32) -> File {
    File { data, mode: u32::try_from(mode).unwrap_or(0o644) & 0o7777, uid: None }
}

/// `items` chosen from `all`, or everything.
fn select(
    all: Vec<(String, Vec<u8>)>,
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: bool,
    missing: impl Fn(&str) -> String,
) -> Result<Payload, String> {
    let Some(items) = items.filter(|i| !i.is_empty()) else {
        return Ok(all.into_iter().map(|(name, data)| (name, file(data, mode))).collect());
    };
    let mut out = Payload::new();
    for item in items {
        match all.iter().find(|(name, _)| *name == item.key) {
            Some((_, data)) => {
                out.insert(checked(&item.path)?, file(data.clone(), item.mode.unwrap_or(mode)));
            }
            None if optional => {}
            None => return Err(missing(&item.key)),
        }
    }
    Ok(out)
}

fn checked(path: &str) -> Result<String, String> {
    if valid_path(path) { Ok(path.to_owned()) } else { Err(format!("invalid path: {path}")) }
}

fn map_files(map: &ConfigMap) -> Vec<(String, Vec<u8>)> {
    let text = map.data.iter().flatten().map(|(k, v)| (k.clone(), v.clone().into_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone()));
    text.chain(binary).collect()
}

fn secret_files(secret: &Secret) -> Vec<(String, Vec<u8>)> {
    secret.data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone())).collect()
}

fn from_config_map(
    name: &str,
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: bool,
    sources: &Sources,
) -> Result<Payload, String> {
    match sources.config_maps.get(name).and_then(Option::as_ref) {
        Some(map) => select(map_files(map), items, mode, optional, |key| {
            format!("references non-existent config key: {key}")
        }),
        None if optional => Ok(Payload::new()),
        None => Err(format!("configmap \"{name}\" not found")),
    }
}

fn from_secret(
    name: &str,
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: bool,
    sources: &Sources,
) -> Result<Payload, String> {
    match sources.secrets.get(name).and_then(Option::as_ref) {
        Some(secret) => select(secret_files(secret), items, mode, optional, |key| {
            format!("references non-existent secret key: {key}")
        }),
        None if optional => Ok(Payload::new()),
        None => Err(format!("secret \"{name}\" not found")),
    }
}

pub(super) fn config_map(source: &ConfigMapVolumeSource, sources: &Sources) -> Result<Payload, String> {
    let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
    from_config_map(&source.name, source.items.as_deref(), mode, source.optional == Some(true), sources)
}

pub(super) fn secret(source: &SecretVolumeSource, sources: &Sources) -> Result<Payload, String> {
    let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
    let name = source.secret_name.as_deref().unwrap_or_default();
    from_secret(name, source.items.as_deref(), mode, source.optional == Some(true), sources)
}

pub(super) fn downward_api(
    items: Option<&[DownwardAPIVolumeFile]>,
    mode: Option<i32>,
    pod: &Pod,
    facts: &PodFacts,
) -> Result<Payload, String> {
    let mut out = Payload::new();
    for item in items.unwrap_or_default() {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(r), _) => field(pod, facts, &r.field_path)?,
            (_, Some(r)) => resource(pod, facts, "", r)?,
            _ => return Err(format!("no source for {}", item.path)),
        };
        let mode = item.mode.or(mode).unwrap_or(DEFAULT_MODE);
        out.insert(checked(&item.path)?, file(text.into_bytes(), mode));
    }
    Ok(out)
}

pub(super) async fn projected(
    source: &ProjectedVolumeSource,
    sources: &Sources,
    pod: &Pod,
    uid: &str,
    facts: &PodFacts,
    tokens: &Tokens,
) -> Result<Payload, String> {
    let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
    let spec = spec_of(pod);
    let mut out = Payload::new();
    for part in source.sources.iter().flatten() {
        if let Some(s) = &part.config_map {
            out.append(&mut from_config_map(
                &s.name,
                s.items.as_deref(),
                mode,
                s.optional == Some(true),
                sources,
            )?);
        }
        if let Some(s) = &part.secret {
            out.append(&mut from_secret(
                &s.name,
                s.items.as_deref(),
                mode,
                s.optional == Some(true),
                sources,
            )?);
        }
        if let Some(s) = &part.downward_api {
            out.append(&mut downward_api(s.items.as_deref(), Some(mode), pod, facts)?);
        }
        if let Some(s) = &part.service_account_token {
            let key = TokenKey {
                namespace: pod.metadata.namespace.clone().unwrap_or_default(),
                service_account: spec.service_account_name.clone().unwrap_or_else(|| "default".into()),
                pod_name: pod.metadata.name.clone().unwrap_or_default(),
                pod_uid: uid.to_owned(),
                audience: s.audience.clone().unwrap_or_default(),
                expiration_seconds: s.expiration_seconds.unwrap_or(3600),
            };
            let token = tokens.get(&key).await?;
            out.insert(checked(&s.path)?, token_file(&token, pod, mode));
        }
        if part.cluster_trust_bundle.is_some() || part.pod_certificate.is_some() {
            return Err(
                "projected sources clusterTrustBundle and podCertificate are not supported".to_owned()
            );
        }
    }
    Ok(out)
}

/// A token is for its pod's user only, where that user is known.
fn token_file(token: &str, pod: &Pod, mode: i32) -> File {
    let spec = spec_of(pod);
    let context = spec.security_context.as_ref();
    let fs_group = context.and_then(|c| c.fs_group);
    let users: Vec<Option<i64>> = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .map(|c| {
            c.security_context.as_ref().and_then(|s| s.run_as_user).or(context.and_then(|c| c.run_as_user))
        })
        .collect();
    let same = users.first().copied().flatten().filter(|first| users.iter().all(|u| *u == Some(*first)));
    let uid = same.filter(|_| fs_group.is_none()).and_then(|u| u32::try_from(u).ok());
    let mode = if uid.is_some() || fs_group.is_some() { 0o600 } else { mode };
    File { uid, ..file(token.as_bytes().to_vec(), mode) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;

    fn sources() -> Sources {
        let map: ConfigMap =
            serde_json::from_value(json!({"data": {"a": "1"}, "binaryData": {"b": "AgM="}})).unwrap();
        let mut sources = Sources::default();
        sources.config_maps.insert("m".into(), Some(Arc::new(map)));
        sources
    }

    fn source(value: serde_json::Value) -> ConfigMapVolumeSource {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn files_of_a_config_map() {
        let all = config_map(&source(json!({"name": "m", "defaultMode": 256})), &sources()).unwrap();
        assert_eq!(all["a"], File { data: b"1".to_vec(), mode: 0o400, uid: None });
        assert_eq!(all["b"].data, [2, 3]);
        let some = config_map(
            &source(json!({"name": "m", "items": [{"key": "a", "path": "x/y", "mode": 384}]})),
            &sources(),
        );
        assert_eq!(some.unwrap()["x/y"].mode, 0o600);
        let missing = |v| config_map(&source(v), &sources()).unwrap_err();
        assert_eq!(missing(json!({"name": "none"})), "configmap \"none\" not found");
        assert_eq!(
            missing(json!({"name": "m", "items": [{"key": "z", "path": "z"}]})),
            "references non-existent config key: z"
        );
        assert!(
            config_map(&source(json!({"name": "none", "optional": true})), &sources()).unwrap().is_empty()
        );
    }

    #[test]
    fn who_may_read_a_token() {
        let mode = |spec| {
            let pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
            let f = token_file("t", &pod, 0o644);
            (f.mode, f.uid)
        };
        assert_eq!(mode(json!({"containers": [{"name": "a"}]})), (0o644, None));
        assert_eq!(
            mode(json!({"containers": [{"name": "a"}], "securityContext": {"runAsUser": 5}})),
            (0o600, Some(5))
        );
        assert_eq!(
            mode(json!({"containers": [{"name": "a"}], "securityContext": {"fsGroup": 5}})),
            (0o600, None)
        );
    }
}
