//! What the runtime is told about one container.

use super::env::expand;
use super::sandbox::{POD_NAME, POD_NAMESPACE, POD_UID, namespaces};
use crate::config::NodeConfig;
use crate::pod::model::{spec_hash, spec_of};
use crate::qos::{self, cpu_quota, cpu_shares};
use crate::quantity::{bytes_of, cpu_millis};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, SeccompProfile};
use orlop_container::cri::{
    Capability, ContainerConfig, ContainerMetadata, ContainerSecurityContext, Image, ImageSpec, KeyValue,
    LinuxContainerResources, Mount, SecurityProfile, SupplementalGroupsPolicy,
};
use std::path::PathBuf;

/// Label: name of the container.
pub(crate) const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// Annotation: [`spec_hash`] in hexadecimal.
pub(crate) const HASH: &str = "io.kubernetes.container.hash";
/// Annotation: how often the container was restarted.
pub(crate) const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
/// Annotation: where the container leaves its last words.
pub(crate) const MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
/// Annotation: `File` or `FallbackToLogsOnError`.
pub(crate) const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
/// Annotation: grace of the pod, for when its object is gone.
pub(crate) const POD_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";

/// What goes into a container's configuration besides the spec.
pub(crate) struct Inputs<'a> {
    pub(crate) attempt: u32,
    pub(crate) image_ref: &'a str,
    pub(crate) env: Vec<KeyValue>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) memory_capacity: i64,
}

/// Path of a container's log, relative to the pod's log folder.
pub(crate) fn log_path(container: &str, attempt: u32) -> String {
    format!("{container}/{attempt}.log")
}

/// File on the node that is mounted at `terminationMessagePath`.
pub(crate) fn message_file(node: &NodeConfig, uid: &str, container: &str, attempt: u32) -> PathBuf {
    node.pod_dir(uid).join("containers").join(container).join(attempt.to_string())
}

/// Where the container writes its last words.
pub(crate) fn message_path(spec: &Container) -> &str {
    spec.termination_message_path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/dev/termination-log")
}

/// The configuration of one container.
pub(crate) fn container_config(
    pod: &Pod,
    uid: &str,
    spec: &Container,
    inputs: Inputs<'_>,
) -> ContainerConfig {
    let lookup = |name: &str| inputs.env.iter().find(|kv| kv.key == name).map(|kv| kv.value.clone());
    let expand_all = |list: &Option<Vec<String>>| {
        list.iter().flatten().map(|text| expand(text, lookup)).collect::<Vec<_>>()
    };
    let image = spec.image.clone().unwrap_or_default();
    let labels = [
        (POD_NAME, pod.metadata.name.as_deref().unwrap_or_default()),
        (POD_NAMESPACE, pod.metadata.namespace.as_deref().unwrap_or_default()),
        (POD_UID, uid),
        (CONTAINER_NAME, &spec.name),
    ];
    let annotations = [
        (HASH, format!("{:x}", spec_hash(spec))),
        (RESTART_COUNT, inputs.attempt.to_string()),
        (MESSAGE_PATH, message_path(spec).to_owned()),
        (MESSAGE_POLICY, spec.termination_message_policy.clone().unwrap_or_else(|| "File".into())),
        (POD_GRACE, spec_of(pod).termination_grace_period_seconds.unwrap_or(30).to_string()),
    ];
    ContainerConfig {
        metadata: ContainerMetadata { name: spec.name.clone(), attempt: inputs.attempt },
        image: ImageSpec {
            image: if inputs.image_ref.is_empty() { image.clone() } else { inputs.image_ref.to_owned() },
            user_specified_image: image,
            annotations: std::collections::BTreeMap::new(),
        },
        command: expand_all(&spec.command),
        args: expand_all(&spec.args),
        working_dir: spec.working_dir.clone().unwrap_or_default(),
        mounts: inputs.mounts,
        devices: Vec::new(),
        labels: labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        annotations: annotations.map(|(k, v)| (k.to_owned(), v)).into(),
        log_path: log_path(&spec.name, inputs.attempt),
        stdin: spec.stdin == Some(true),
        stdin_once: spec.stdin_once == Some(true),
        tty: spec.tty == Some(true),
        resources: resources(spec_of(pod), spec, inputs.memory_capacity),
        security_context: security(spec_of(pod), spec),
        stop_signal: spec.lifecycle.as_ref().and_then(|l| l.stop_signal.clone()).unwrap_or_default(),
        envs: inputs.env,
    }
}

fn resources(pod: &PodSpec, spec: &Container, capacity: i64) -> LinuxContainerResources {
    let r = spec.resources.as_ref();
    let requests = r.and_then(|r| r.requests.as_ref());
    let limits = r.and_then(|r| r.limits.as_ref());
    let cpu_limit = cpu_millis(limits).unwrap_or(0);
    let cpu_request = cpu_millis(requests).unwrap_or(cpu_limit);
    let memory_limit = bytes_of(limits, "memory").unwrap_or(0);
    let memory_request = bytes_of(requests, "memory").unwrap_or(memory_limit);
    let quota = cpu_quota(cpu_limit);
    let critical = pod.priority.is_some_and(|p| p >= 2_000_000_000);
    let oom = qos::oom_score_adj(qos::class_of(pod), memory_request, capacity, critical);
    LinuxContainerResources {
        cpu_period: if quota > 0 { qos::CPU_PERIOD.unsigned_abs() } else { 0 },
        cpu_quota: quota,
        cpu_shares: cpu_shares(cpu_request).unsigned_abs(),
        memory_limit_in_bytes: memory_limit,
        oom_score_adj: i32::try_from(oom).unwrap_or(0),
        ..Default::default()
    }
}

fn profile(profile: Option<&SeccompProfile>) -> Option<SecurityProfile> {
    let profile = profile?;
    Some(match profile.type_.as_str() {
        "RuntimeDefault" => SecurityProfile::RuntimeDefault,
        "Localhost" => {
            let file = profile.localhost_profile.clone().unwrap_or_default();
            SecurityProfile::Localhost(PathBuf::from("/var/lib/kubelet/seccomp").join(file))
        }
        _ => SecurityProfile::Unconfined,
    })
}

fn security(pod: &PodSpec, spec: &Container) -> ContainerSecurityContext {
    let p = pod.security_context.as_ref();
    let c = spec.security_context.as_ref();
    let capabilities = c.and_then(|c| c.capabilities.as_ref());
    let mut groups = p.and_then(|p| p.supplemental_groups.clone()).unwrap_or_default();
    groups.extend(p.and_then(|p| p.fs_group));
    let seccomp = profile(c.and_then(|c| c.seccomp_profile.as_ref()))
        .or_else(|| profile(p.and_then(|p| p.seccomp_profile.as_ref())))
        .unwrap_or_default();
    let unmasked = c.and_then(|c| c.proc_mount.as_deref()) == Some("Unmasked");
    ContainerSecurityContext {
        capabilities: Capability {
            add_capabilities: capabilities.and_then(|c| c.add.clone()).unwrap_or_default(),
            drop_capabilities: capabilities.and_then(|c| c.drop.clone()).unwrap_or_default(),
        },
        privileged: c.is_some_and(|c| c.privileged == Some(true)),
        namespace_options: namespaces(pod),
        run_as_user: c.and_then(|c| c.run_as_user).or(p.and_then(|p| p.run_as_user)),
        run_as_group: c.and_then(|c| c.run_as_group).or(p.and_then(|p| p.run_as_group)),
        run_as_username: String::new(),
        readonly_rootfs: c.is_some_and(|c| c.read_only_root_filesystem == Some(true)),
        supplemental_groups: groups,
        supplemental_groups_policy: match p.and_then(|p| p.supplemental_groups_policy.as_deref()) {
            Some("Strict") => SupplementalGroupsPolicy::Strict,
            _ => SupplementalGroupsPolicy::Merge,
        },
        no_new_privs: c.is_some_and(|c| c.allow_privilege_escalation == Some(false)),
        masked_paths: unmasked.then(Vec::new),
        readonly_paths: unmasked.then(Vec::new),
        seccomp,
    }
}

/// `runAsNonRoot`.
///
/// # Errors
/// The message of `CreateContainerConfigError`.
pub(crate) fn verify_non_root(pod: &Pod, uid: &str, spec: &Container, image: &Image) -> Result<(), String> {
    let p = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let c = spec.security_context.as_ref();
    let wanted = c.and_then(|c| c.run_as_non_root).or(p.and_then(|p| p.run_as_non_root));
    if wanted != Some(true) {
        return Ok(());
    }
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let whom = format!("(pod: \"{name}_{namespace}({uid})\", container: {})", spec.name);
    match c.and_then(|c| c.run_as_user).or(p.and_then(|p| p.run_as_user)) {
        Some(0) => return Err(format!("container's runAsUser breaks non-root policy {whom}")),
        Some(_) => return Ok(()),
        None => {}
    }
    match (image.uid, image.username.as_str()) {
        (Some(0), _) | (None, "") => {
            Err(format!("container has runAsNonRoot and image will run as root {whom}"))
        }
        (Some(_), _) => Ok(()),
        (None, user) => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root {whom}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn configuration_of_a_container() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "u1"},
            "spec": {
                "securityContext": {"runAsUser": 5, "fsGroup": 7, "supplementalGroups": [6], "runAsNonRoot": true},
                "containers": [{"name": "a", "image": "busybox", "command": ["sh", "-c"], "args": ["echo $(A) $(B)"],
                    "resources": {"limits": {"cpu": "500m", "memory": "64Mi"}},
                    "securityContext": {"capabilities": {"drop": ["ALL"]}, "allowPrivilegeEscalation": false}}]}
        }))
        .unwrap();
        let spec = &pod.spec.as_ref().unwrap().containers[0];
        let inputs = Inputs {
            attempt: 3,
            image_ref: "sha256:1",
            env: vec![KeyValue { key: "A".into(), value: "1".into() }],
            mounts: Vec::new(),
            memory_capacity: 1 << 30,
        };
        let c = container_config(&pod, "u1", spec, inputs);
        assert_eq!(c.args, ["echo 1 $(B)"]);
        assert_eq!(c.log_path, "a/3.log");
        assert_eq!((c.resources.cpu_quota, c.resources.cpu_shares), (50_000, 512));
        assert_eq!(c.resources.oom_score_adj, -997, "guaranteed");
        assert_eq!(c.security_context.run_as_user, Some(5));
        assert_eq!(c.security_context.supplemental_groups, [6, 7]);
        assert!(c.security_context.no_new_privs);
        assert_eq!(c.annotations[RESTART_COUNT], "3");
        let image = Image {
            id: String::new(),
            repo_tags: Vec::new(),
            repo_digests: Vec::new(),
            size: 0,
            uid: Some(0),
            username: String::new(),
            pinned: false,
        };
        assert_eq!(verify_non_root(&pod, "u1", spec, &image), Ok(()));
    }
}
