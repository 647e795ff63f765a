//! Volumes as the limits count them.
//!
//! Source: `k8s.io/kubernetes/pkg/scheduler/framework/plugins/nodevolumelimits` and
//! `k8s.io/csi-translation-lib`.

use orlop_sdk::serde_json::Value;

/// One volume of a CSI driver.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Volume {
    pub(crate) driver: String,
    /// Which of the driver's volumes.
    pub(crate) handle: String,
    /// Counts only on nodes whose CSINode lists this in-tree plugin as migrated.
    pub(crate) if_migrated: Option<&'static str>,
}

/// An in-tree plugin that a CSI driver took over.
struct InTree {
    plugin: &'static str,
    /// Field of a pod's volume, and of a PersistentVolume's spec.
    source: &'static str,
    id: &'static str,
    driver: &'static str,
    /// Whether each node decides.
    optional: bool,
}

const fn in_tree(
    plugin: &'static str,
    source: &'static str,
    id: &'static str,
    driver: &'static str,
) -> InTree {
    InTree { plugin, source, id, driver, optional: false }
}

const IN_TREE: [InTree; 5] = [
    in_tree("kubernetes.io/aws-ebs", "awsElasticBlockStore", "volumeID", "ebs.csi.aws.com"),
    in_tree("kubernetes.io/azure-disk", "azureDisk", "diskURI", "disk.csi.azure.com"),
    in_tree("kubernetes.io/cinder", "cinder", "volumeID", "cinder.csi.openstack.org"),
    in_tree("kubernetes.io/gce-pd", "gcePersistentDisk", "pdName", "pd.csi.storage.gke.io"),
    InTree {
        plugin: "kubernetes.io/portworx-volume",
        source: "portworxVolume",
        id: "volumeID",
        driver: "pxd.portworx.com",
        optional: true,
    },
];

impl InTree {
    fn volume(&self, handle: &str) -> Volume {
        Volume {
            driver: self.driver.to_owned(),
            handle: handle.to_owned(),
            if_migrated: self.optional.then_some(self.plugin),
        }
    }

    fn read(&self, holder: &Value) -> Option<Volume> {
        let id = holder.get(self.source)?.get(self.id)?.as_str()?;
        // `aws://zone/vol-1` is the driver's `vol-1`.
        let id = if id.starts_with("aws://") { id.rsplit('/').next().unwrap_or(id) } else { id };
        Some(self.volume(id))
    }
}

/// A volume that a pod names itself, or that is the spec of a PersistentVolume; `None` where it is not
/// attached by a CSI driver.
pub(crate) fn in_tree_volume(holder: &Value) -> Option<Volume> {
    IN_TREE.iter().find_map(|plugin| plugin.read(holder))
}

/// The volumes that a pod names itself.
pub(crate) fn inline(pod: &Value) -> Vec<Volume> {
    let volumes = pod.pointer("/spec/volumes").and_then(Value::as_array).into_iter().flatten();
    volumes.filter_map(in_tree_volume).collect()
}

/// The volume of a PersistentVolume.
pub(crate) fn of_persistent_volume(object: &Value) -> Option<Volume> {
    let spec = object.get("spec")?;
    let Some(csi) = spec.get("csi").filter(|csi| csi.is_object()) else {
        return in_tree_volume(spec);
    };
    let text = |key: &str| csi.get(key).and_then(Value::as_str).filter(|t| !t.is_empty());
    Some(Volume {
        driver: text("driver")?.to_owned(),
        handle: text("volumeHandle")?.to_owned(),
        if_migrated: None,
    })
}

/// The volume that a provisioner will make for a claim.
pub(crate) fn to_come(provisioner: &str, namespace: &str, name: &str) -> Option<Volume> {
    // No handle of a driver begins with a control character.
    let handle = format!("\u{1}{namespace}/{name}");
    match IN_TREE.iter().find(|plugin| plugin.plugin == provisioner) {
        Some(plugin) => Some(plugin.volume(&handle)),
        None if provisioner.is_empty() => None,
        None => Some(Volume { driver: provisioner.to_owned(), handle, if_migrated: None }),
    }
}
