//! Static pods: manifests in a folder, noticed by inotify and by a slow rescan.
//!
//! A pod's uid is the hash of its manifest, file and node, so that a changed file is another pod.
//! A bad manifest is reported and skipped; it keeps the pod of its last good version only while
//! the file's name lasts, never others from running.

use crate::config::NodeConfig;
use crate::logs::follow::Watch;
use crate::pods::Key;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Annotation of a mirror pod: hash of the static pod it mirrors.
pub(crate) const MIRROR: &str = "kubernetes.io/config.mirror";
const HASH: &str = "kubernetes.io/config.hash";
const SOURCE: &str = "kubernetes.io/config.source";
const SEEN: &str = "kubernetes.io/config.seen";

/// One static pod.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StaticPod {
    pub(crate) uid: Box<str>,
    pub(crate) pod: Arc<Pod>,
}

/// Reads one manifest: JSON or YAML, one Pod.
///
/// # Errors
/// What is wrong with it, for the log.
pub(crate) fn parse(text: &str, path: &Path, node: &str) -> Result<(Key, StaticPod), String> {
    let mut value: Value = serde_yaml::from_str(text).map_err(|e| format!("not valid YAML or JSON: {e}"))?;
    let kind = (value["apiVersion"].as_str(), value["kind"].as_str());
    if kind != (Some("v1"), Some("Pod")) {
        return Err("apiVersion and kind must be v1 and Pod".to_owned());
    }
    let name =
        value["metadata"]["name"].as_str().filter(|n| !n.is_empty()).ok_or("metadata.name is missing")?;
    if !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b)) {
        return Err(format!("metadata.name {name:?} is not a valid pod name"));
    }
    let full = format!("{name}-{}", node.to_lowercase());
    let namespace =
        value["metadata"]["namespace"].as_str().filter(|n| !n.is_empty()).unwrap_or("default").to_owned();
    if value["spec"]["containers"].as_array().is_none_or(Vec::is_empty) {
        return Err("spec.containers must name at least one container".to_owned());
    }
    for volume in value["spec"]["volumes"].as_array().into_iter().flatten() {
        if ["configMap", "secret", "projected"].iter().any(|k| volume.get(k).is_some()) {
            return Err(format!("a static pod may not reference API objects (volume {})", volume["name"]));
        }
    }
    if value["spec"]["serviceAccountName"].as_str().is_some_and(|s| !s.is_empty()) {
        return Err("a static pod may not have a service account".to_owned());
    }
    let mut hash = Sha256::new();
    for part in [text, &path.to_string_lossy(), node] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    let uid: Box<str> = hex::encode(hash.finalize()).chars().take(32).collect::<String>().into();
    value["metadata"]["name"] = json!(full);
    value["metadata"]["namespace"] = json!(namespace);
    value["metadata"]["uid"] = json!(uid);
    value["metadata"]["annotations"][HASH] = json!(uid);
    value["metadata"]["annotations"][SOURCE] = json!("file");
    value["spec"]["nodeName"] = json!(node);
    let mut pod: Pod = serde_json::from_value(value).map_err(|e| format!("not a valid Pod: {e}"))?;
    if let Some(spec) = &mut pod.spec {
        spec.enable_service_links.get_or_insert(true);
        // It outlives taints of its node, as upstream.
        let toleration = serde_json::from_value(json!({"operator": "Exists", "effect": "NoExecute"}));
        spec.tolerations.get_or_insert_default().extend(toleration);
        for c in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
            if c.name.is_empty() || c.image.as_deref().unwrap_or_default().is_empty() {
                return Err("every container needs a name and an image".to_owned());
            }
        }
    }
    pod.status = None;
    Ok(((namespace.into(), full.into()), StaticPod { uid, pod: Arc::new(pod) }))
}

/// The mirror of a static pod, to be created in the API.
pub(crate) fn mirror_of(static_pod: &StaticPod, node: &str, node_uid: &str) -> Value {
    let mut value = serde_json::to_value(static_pod.pod.as_ref()).unwrap_or_default();
    value["apiVersion"] = json!("v1");
    value["kind"] = json!("Pod");
    let meta = &mut value["metadata"];
    if let Some(fields) = meta.as_object_mut() {
        fields.remove("uid");
    }
    meta["annotations"][MIRROR] = json!(static_pod.uid);
    meta["annotations"][SEEN] = json!(jiff::Timestamp::now().to_string());
    if !node_uid.is_empty() {
        meta["ownerReferences"] = json!([
            {"apiVersion": "v1", "kind": "Node", "name": node, "uid": node_uid, "controller": true}
        ]);
    }
    value
}

/// Keeps `out` equal to the folder, until `cancel`.
pub(crate) async fn follow(
    config: Arc<NodeConfig>,
    out: watch::Sender<Option<Arc<HashMap<Key, StaticPod>>>>,
    cancel: CancellationToken,
) {
    let Some(dir) = config.static_pod_dir.clone() else {
        out.send_replace(Some(Arc::default()));
        cancel.cancelled().await;
        return;
    };
    let mut faults: BTreeMap<PathBuf, String> = BTreeMap::new();
    let mut watch = None;
    loop {
        if watch.is_none() {
            watch = Watch::folder(&dir).ok();
        }
        match read(&dir, &config.node_name, &mut faults) {
            Ok(found) => {
                let found = Arc::new(found);
                out.send_if_modified(|current| {
                    let changed = current.as_ref() != Some(&found);
                    *current = Some(found.clone());
                    changed
                });
            }
            Err(error) => {
                tracing::warn!(%error, path = %dir.display(), "the folder of static pods cannot be read");
                // What ran goes on; the first answer must come, or orphans would never be swept.
                out.send_if_modified(|current| {
                    current.replace(current.clone().unwrap_or_default()).is_none()
                });
                watch = None;
            }
        }
        let changed = async {
            match &watch {
                Some(watch) => watch.changed().await.is_ok(),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = cancel.cancelled() => return,
            ok = changed => {
                if !ok {
                    watch = None;
                }
                // An editor writes in several steps.
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
            () = tokio::time::sleep(config.static_pod_rescan) => {}
        }
    }
}

fn read(
    dir: &Path,
    node: &str,
    faults: &mut BTreeMap<PathBuf, String>,
) -> io::Result<HashMap<Key, StaticPod>> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(dir)?.filter_map(|e| e.ok().map(|e| e.path())).collect();
    paths.sort();
    faults.retain(|path, _| paths.contains(path));
    let mut found = HashMap::new();
    for path in paths {
        let hidden = path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"."));
        let manifest = path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        if hidden || !manifest || !path.is_file() {
            continue;
        }
        let result = std::fs::read_to_string(&path)
            .map_err(|e| e.to_string())
            .and_then(|text| parse(&text, &path, node))
            .and_then(|(key, pod)| match found.contains_key(&key) {
                true => Err(format!("another manifest already has the name {}/{}", key.0, key.1)),
                false => Ok((key, pod)),
            });
        match result {
            Ok((key, pod)) => {
                faults.remove(&path);
                found.insert(key, pod);
            }
            Err(error) => {
                // Said once per fault, not at every rescan.
                if faults.get(&path) != Some(&error) {
                    tracing::warn!(path = %path.display(), error, "a static pod manifest is not usable; correct or remove the file");
                    faults.insert(path, error);
                }
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, labels: {a: b}}\n\
        spec: {containers: [{name: c, image: busybox}]}\n";

    #[test]
    fn manifests() {
        let path = Path::new("/m/web.yaml");
        let (key, pod) = parse(GOOD, path, "Node1").unwrap();
        assert_eq!((key.0.as_ref(), key.1.as_ref()), ("default", "web-node1"));
        assert_eq!(parse(GOOD, path, "Node1").unwrap().1.uid, pod.uid);
        assert_ne!(parse(&GOOD.replace("busybox", "other"), path, "Node1").unwrap().1.uid, pod.uid);
        assert_ne!(parse(GOOD, Path::new("/m/x.yaml"), "Node1").unwrap().1.uid, pod.uid);
        let mirror = mirror_of(&pod, "Node1", "n-uid");
        assert_eq!(mirror["metadata"]["annotations"][MIRROR], json!(pod.uid));
        assert_eq!(mirror["metadata"]["ownerReferences"][0]["kind"], "Node");
        assert!(mirror["metadata"].get("uid").is_none());
        assert_eq!(mirror["spec"]["nodeName"], "Node1");
    }

    #[test]
    fn bad_manifests_say_why_and_hurt_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("a.yaml", "}{");
        write("b.yaml", &GOOD.replace("Pod", "Service"));
        write("c.yaml", &GOOD.replace("containers: [{name: c, image: busybox}]", "containers: []"));
        write("d.yaml", &GOOD.replace("web", "NOT OK"));
        write("e.yaml", GOOD);
        write("f.yaml", GOOD);
        write(".g.yaml", GOOD);
        write("h.txt", GOOD);
        let mut faults = BTreeMap::new();
        let found = read(dir.path(), "n", &mut faults).unwrap();
        assert_eq!(found.len(), 1);
        let names: Vec<&str> = faults.keys().map(|p| p.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["a.yaml", "b.yaml", "c.yaml", "d.yaml", "f.yaml"]);
    }

    #[tokio::test]
    async fn the_folder_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = NodeConfig::new("n", "127.0.0.1".parse().unwrap(), dir.path().join("root"));
        config.static_pod_dir = Some(dir.path().to_owned());
        config.static_pod_rescan = std::time::Duration::from_secs(3600);
        let (tx, mut rx) = watch::channel(None);
        let cancel = CancellationToken::new();
        let task = tokio::spawn(follow(Arc::new(config), tx, cancel.clone()));
        rx.wait_for(Option::is_some).await.unwrap();
        std::fs::write(dir.path().join("web.yaml"), GOOD).unwrap();
        rx.wait_for(|pods| pods.as_ref().is_some_and(|p| p.len() == 1)).await.unwrap();
        std::fs::remove_file(dir.path().join("web.yaml")).unwrap();
        rx.wait_for(|pods| pods.as_ref().is_some_and(|p| p.is_empty())).await.unwrap();
        cancel.cancel();
        task.await.unwrap();
    }
}
