//! Images: whether one is there, pulling it, and the secrets for that.

use crate::events::Severity;
use crate::pod::actions::{Shared, chain};
use crate::pod::model::{Role, spec_of};
use base64::Engine;
use k8s_openapi::api::core::v1::{Container, Pod, Secret};
use orlop_container::RuntimeError;
use orlop_container::cri::{AuthConfig, ImageSpec};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// Why there is no image: the container's waiting reason and message.
#[derive(Clone, Debug)]
pub(crate) struct ImageFailure {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    /// Whether a try may succeed later.
    pub(crate) retry: bool,
}

/// The image to ask the runtime for.
pub(crate) fn spec_of_image(reference: &str, container: &Container) -> ImageSpec {
    let image = container.image.clone().unwrap_or_default();
    if reference.is_empty() {
        return ImageSpec::new(image);
    }
    ImageSpec { image: reference.to_owned(), user_specified_image: image, ..ImageSpec::default() }
}

fn policy(container: &Container) -> &str {
    container.image_pull_policy.as_deref().unwrap_or_else(|| {
        let image = container.image.as_deref().unwrap_or_default();
        let last = image.rsplit('/').next().unwrap_or_default();
        let tag = last.split_once(':').map_or("latest", |(_, tag)| tag);
        if tag == "latest" && !image.contains('@') { "Always" } else { "IfNotPresent" }
    })
}

/// Makes sure that a container's image is there, by its pull policy. Returns its reference.
pub(crate) async fn ensure(
    shared: &Shared,
    pod: &Pod,
    uid: &str,
    role: Role,
    container: &Container,
) -> Result<Box<str>, ImageFailure> {
    let name = container.image.as_deref().unwrap_or_default();
    let about = Some((role, container.name.as_str()));
    let event = |severity, reason, message: String| shared.event(pod, uid, about, severity, reason, message);
    let spec = ImageSpec::new(name);
    let present = match shared.runtime.image_status(&spec).await {
        Ok(present) => present,
        Err(e @ RuntimeError::InvalidImageName { .. }) => {
            let message = format!("Failed to apply default image tag {name:?}: {}", chain(&e));
            event(Severity::Warning, "InspectFailed", message.clone());
            return Err(ImageFailure { reason: "InvalidImageName", message, retry: false });
        }
        Err(e) => {
            let message = format!("Failed to inspect image {name:?}: {}", chain(&e));
            event(Severity::Warning, "InspectFailed", message.clone());
            return Err(ImageFailure { reason: "ImageInspectError", message, retry: true });
        }
    };
    match (policy(container), present) {
        ("IfNotPresent" | "Never", Some(image)) => {
            let message =
                format!("Container image {name:?} already present on machine and can be accessed by the pod");
            event(Severity::Normal, "Pulled", message);
            return Ok(image.id.into());
        }
        ("Never", None) => {
            let message = format!("Container image {name:?} is not present with pull policy of Never");
            event(Severity::Warning, "ErrImageNeverPull", message.clone());
            return Err(ImageFailure { reason: "ErrImageNeverPull", message, retry: true });
        }
        _ => {}
    }
    event(Severity::Normal, "Pulling", format!("Pulling image {name:?}"));
    let begun = Instant::now();
    match pull(shared, pod, uid, &spec).await {
        Ok(reference) => {
            let took = crate::pod::backoff::go_duration(
                jiff::SignedDuration::try_from(begun.elapsed()).unwrap_or_default(),
            );
            let size = match shared.runtime.image_status(&spec).await {
                Ok(Some(image)) => image.size,
                _ => 0,
            };
            let message = format!(
                "Successfully pulled image {name:?} in {took} ({took} including waiting). Image size: {size} bytes."
            );
            event(Severity::Normal, "Pulled", message);
            Ok(reference.into())
        }
        Err(e) => {
            let (reason, why) = match &e {
                RuntimeError::InvalidImageName { .. } => ("InvalidImageName", chain(&e)),
                RuntimeError::RegistryUnavailable { .. } => ("RegistryUnavailable", chain(&e)),
                _ => ("ErrImagePull", chain(&e)),
            };
            event(Severity::Warning, "Failed", format!("Failed to pull image {name:?}: {why}"));
            event(Severity::Warning, "Failed", format!("Error: {reason}"));
            Err(ImageFailure { reason, message: why, retry: reason != "InvalidImageName" })
        }
    }
}

async fn pull(shared: &Shared, pod: &Pod, uid: &str, spec: &ImageSpec) -> Result<String, RuntimeError> {
    let credentials = credentials(shared, pod, uid, &spec.image).await;
    let mut last = None;
    for auth in credentials.into_iter().map(Some) {
        match shared.runtime.pull_image(spec, auth).await {
            Ok(reference) => return Ok(reference),
            Err(e) => last = Some(e),
        }
    }
    match last {
        Some(error) => Err(error),
        None => shared.runtime.pull_image(spec, None).await,
    }
}

/// Credentials for the image's registry, from the pod's `imagePullSecrets`.
async fn credentials(shared: &Shared, pod: &Pod, uid: &str, image: &str) -> Vec<AuthConfig> {
    let secrets: BTreeSet<String> =
        spec_of(pod).image_pull_secrets.iter().flatten().map(|r| r.name.clone()).collect();
    if secrets.is_empty() {
        return Vec::new();
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let names = crate::container::env::Names { secrets, ..Default::default() };
    let sources = match shared.objects.fetch(namespace, uid, &names).await {
        Ok(sources) => sources,
        Err(error) => {
            tracing::warn!(
                namespace,
                name = pod.metadata.name,
                error,
                "image pull secrets could not be read"
            );
            return Vec::new();
        }
    };
    sources.secrets.values().flatten().flat_map(|secret| matching(secret, image)).collect()
}

#[derive(Deserialize)]
struct DockerConfigJson {
    #[serde(default)]
    auths: BTreeMap<String, DockerAuth>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct DockerAuth {
    username: String,
    password: String,
    auth: String,
    identitytoken: String,
    registrytoken: String,
}

/// Registry host of an image name.
fn registry(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => "docker.io",
    }
}

/// The credentials of a secret that are for the image's registry, the longest key first.
fn matching(secret: &Secret, image: &str) -> Vec<AuthConfig> {
    let data = secret.data.as_ref();
    let json = data.and_then(|d| d.get(".dockerconfigjson")).map(|b| b.0.as_slice());
    let old = data.and_then(|d| d.get(".dockercfg")).map(|b| b.0.as_slice());
    let auths = match (json, old) {
        (Some(json), _) => serde_json::from_slice::<DockerConfigJson>(json).map(|c| c.auths),
        (None, Some(old)) => serde_json::from_slice(old),
        (None, None) => return Vec::new(),
    };
    let Ok(auths) = auths else {
        tracing::warn!(
            namespace = secret.metadata.namespace,
            name = secret.metadata.name,
            "an image pull secret is malformed"
        );
        return Vec::new();
    };
    let host = registry(image);
    let full = if host == "docker.io" && !image.starts_with("docker.io/") {
        format!("docker.io/{image}")
    } else {
        image.to_owned()
    };
    let mut found: Vec<(usize, AuthConfig)> = auths
        .into_iter()
        .filter_map(|(key, auth)| {
            let bare = key.strip_prefix("https://").or(key.strip_prefix("http://")).unwrap_or(&key);
            let bare = bare.trim_end_matches('/');
            let bare = bare.strip_suffix("/v1").or(bare.strip_suffix("/v2")).unwrap_or(bare);
            let bare =
                if matches!(bare, "index.docker.io" | "registry-1.docker.io") { "docker.io" } else { bare };
            let matches = bare == host || full == bare || full.starts_with(&format!("{bare}/"));
            matches.then(|| (bare.len(), auth_config(auth)))
        })
        .collect();
    found.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    found.into_iter().map(|(_, auth)| auth).collect()
}

fn auth_config(auth: DockerAuth) -> AuthConfig {
    let mut config = AuthConfig {
        username: auth.username,
        password: auth.password,
        auth: auth.auth,
        identity_token: auth.identitytoken,
        registry_token: auth.registrytoken,
    };
    if config.username.is_empty()
        && let Ok(plain) = base64::engine::general_purpose::STANDARD.decode(config.auth.trim())
        && let Ok(plain) = String::from_utf8(plain)
        && let Some((user, password)) = plain.split_once(':')
    {
        config.username = user.to_owned();
        config.password = password.trim_end_matches('\0').to_owned();
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn policies() {
        for (image, explicit, want) in [
            ("busybox", None, "Always"),
            ("busybox:latest", None, "Always"),
            ("busybox:1", None, "IfNotPresent"),
            ("localhost:5000/busybox", None, "Always"),
            ("localhost:5000/busybox:1", None, "IfNotPresent"),
            ("busybox@sha256:00", None, "IfNotPresent"),
            ("busybox", Some("Never"), "Never"),
        ] {
            let c: Container =
                serde_json::from_value(json!({"name": "c", "image": image, "imagePullPolicy": explicit}))
                    .unwrap();
            assert_eq!(policy(&c), want, "{image}");
        }
    }

    #[test]
    fn pull_secrets() {
        let config = json!({"auths": {
            "https://index.docker.io/v1/": {"auth": "dTpw"},
            "example.org": {"username": "a", "password": "b"},
            "example.org/team": {"username": "c", "password": "d"}
        }});
        let data = base64::engine::general_purpose::STANDARD.encode(config.to_string());
        let secret: Secret = serde_json::from_value(json!({"data": {".dockerconfigjson": data}})).unwrap();
        let users = |image| matching(&secret, image).into_iter().map(|a| a.username).collect::<Vec<_>>();
        assert_eq!(users("busybox"), ["u"]);
        assert_eq!(users("docker.io/library/busybox"), ["u"]);
        assert_eq!(users("example.org/team/x"), ["c", "a"]);
        assert_eq!(users("example.org/other"), ["a"]);
        assert!(users("example.com/x").is_empty());
    }
}
