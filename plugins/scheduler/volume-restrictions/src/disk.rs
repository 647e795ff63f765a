//! Disks that a pod names itself.
//!
//! Source: `isVolumeConflict` of `k8s.io/kubernetes/pkg/scheduler/framework/plugins/volumerestrictions`.

use orlop_sdk::serde_json::Value;

/// One disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Disk {
    Gce { name: String, reads: bool },
    Aws { id: String },
    Iscsi { iqn: String, reads: bool },
    Rbd { monitors: Vec<String>, pool: String, image: String, reads: bool },
}

impl Disk {
    /// The disks of a pod's volumes.
    pub(crate) fn of(pod: &Value) -> Vec<Self> {
        let volumes = pod.pointer("/spec/volumes").and_then(Value::as_array).into_iter().flatten();
        volumes.flat_map(Self::read).collect()
    }

    fn read(volume: &Value) -> Vec<Self> {
        let text = |of: &Value, key: &str| of.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
        let reads = |of: &Value| of.get("readOnly").and_then(Value::as_bool) == Some(true);
        let source = |key: &str| volume.get(key).filter(|s| s.is_object());
        let mut disks = Vec::new();
        disks.extend(
            source("gcePersistentDisk").map(|s| Self::Gce { name: text(s, "pdName"), reads: reads(s) }),
        );
        disks.extend(source("awsElasticBlockStore").map(|s| Self::Aws { id: text(s, "volumeID") }));
        disks.extend(source("iscsi").map(|s| Self::Iscsi { iqn: text(s, "iqn"), reads: reads(s) }));
        disks.extend(source("rbd").map(|s| {
            let monitors = s.get("monitors").and_then(Value::as_array).into_iter().flatten();
            Self::Rbd {
                monitors: monitors.filter_map(Value::as_str).map(str::to_owned).collect(),
                pool: text(s, "pool"),
                image: text(s, "image"),
                reads: reads(s),
            }
        }));
        disks
    }

    /// Whether two pods of a node cannot use them at once.
    pub(crate) fn conflicts(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Gce { name: a, reads }, Self::Gce { name: b, reads: too })
            | (Self::Iscsi { iqn: a, reads }, Self::Iscsi { iqn: b, reads: too }) => {
                a == b && !(*reads && *too)
            }
            (Self::Aws { id: a }, Self::Aws { id: b }) => a == b,
            (
                Self::Rbd { monitors, pool, image, reads },
                Self::Rbd { monitors: others, pool: other_pool, image: other_image, reads: too },
            ) => {
                monitors.iter().any(|m| others.contains(m))
                    && (pool, image) == (other_pool, other_image)
                    && !(*reads && *too)
            }
            _ => false,
        }
    }
}
