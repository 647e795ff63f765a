//! Storage and devices.

use super::super::{Resource, devices, storage};
use super::{row, status};

const STORAGE: &str = "storage.k8s.io";
const DEVICES: &str = "resource.k8s.io";

pub(super) fn rows() -> Vec<Resource> {
    vec![
        Resource {
            namespaced: false,
            ..row(STORAGE, "csidrivers", "CSIDriver", "csidriver", &storage::CsiDrivers)
        },
        Resource { namespaced: false, ..row(STORAGE, "csinodes", "CSINode", "csinode", &storage::CsiNodes) },
        row(
            STORAGE,
            "csistoragecapacities",
            "CSIStorageCapacity",
            "csistoragecapacity",
            &storage::CsiStorageCapacities,
        ),
        Resource {
            short_names: &["sc"],
            namespaced: false,
            ..row(STORAGE, "storageclasses", "StorageClass", "storageclass", &storage::StorageClasses)
        },
        Resource {
            namespaced: false,
            subresources: const { &[status("VolumeAttachment")] },
            ..row(STORAGE, "volumeattachments", "VolumeAttachment", "volumeattachment", &storage::Attachments)
        },
        Resource {
            short_names: &["vac"],
            namespaced: false,
            ..row(
                STORAGE,
                "volumeattributesclasses",
                "VolumeAttributesClass",
                "volumeattributesclass",
                &storage::AttributesClasses,
            )
        },
        Resource {
            namespaced: false,
            ..row(DEVICES, "deviceclasses", "DeviceClass", "deviceclass", &devices::DeviceClasses)
        },
        Resource {
            subresources: const { &[status("ResourceClaim")] },
            ..row(DEVICES, "resourceclaims", "ResourceClaim", "resourceclaim", &devices::ResourceClaims)
        },
        row(
            DEVICES,
            "resourceclaimtemplates",
            "ResourceClaimTemplate",
            "resourceclaimtemplate",
            &devices::ResourceClaimTemplates,
        ),
        Resource {
            namespaced: false,
            ..row(DEVICES, "resourceslices", "ResourceSlice", "resourceslice", &devices::ResourceSlices)
        },
    ]
}
