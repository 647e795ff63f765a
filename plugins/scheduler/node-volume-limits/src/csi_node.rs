//! What a CSINode says.

use crate::volume::Volume;
use orlop_sdk::serde_json::Value;

const MIGRATED: &str = "storage.alpha.kubernetes.io/migrated-plugins";

/// A CSINode, as far as it is read.
#[derive(Clone, Debug, Default)]
pub(crate) struct CsiNode {
    /// Drivers that have a limit, and the limit.
    pub(crate) limits: Vec<(Box<str>, usize)>,
    /// In-tree plugins whose volumes CSI drivers attach, joined by commas.
    pub(crate) migrated: String,
}

impl CsiNode {
    pub(crate) fn read(object: &Value) -> Self {
        let drivers = object.pointer("/spec/drivers").and_then(Value::as_array).into_iter().flatten();
        let limit = |driver: &Value| {
            let count = driver.pointer("/allocatable/count")?.as_u64()?;
            Some((driver.get("name")?.as_str()?.into(), usize::try_from(count).ok()?))
        };
        let migrated = object.pointer("/metadata/annotations").and_then(|a| a.get(MIGRATED));
        Self {
            limits: drivers.filter_map(limit).collect(),
            migrated: migrated.and_then(Value::as_str).unwrap_or("").to_owned(),
        }
    }

    /// Whether a volume is attached by its CSI driver on this node.
    pub(crate) fn attaches(&self, volume: &Volume) -> bool {
        volume.if_migrated.is_none_or(|plugin| self.migrated.split(',').any(|p| p == plugin))
    }
}
