//! The few calls that the node makes on pods.

use bytes::Bytes;
use orlop_apimachinery::{Gvr, Object};
use orlop_client::{ApiClient, ApiError, DeleteOptions, PatchType, ResourceRef, WriteOptions};
use std::sync::Arc;

/// `pods`
pub(crate) static PODS: Gvr = Gvr::new("", "v1", "pods");

/// Deletes a pod at once; that it is gone, or is another by now, is fine.
pub(crate) async fn delete_pod(
    client: &dyn ApiClient,
    namespace: &str,
    name: &str,
    uid: &str,
) -> Result<(), ApiError> {
    let options =
        DeleteOptions { grace_period_seconds: Some(0), uid: uid.to_owned(), ..DeleteOptions::default() };
    match client.delete(ResourceRef::new(&PODS, namespace, name), &options).await {
        Err(e) if e.is_not_found() || e.is_conflict() => Ok(()),
        other => other,
    }
}

/// Patches a pod's status.
pub(crate) async fn patch_status(
    client: &dyn ApiClient,
    namespace: &str,
    name: &str,
    patch: Bytes,
) -> Result<Arc<Object>, ApiError> {
    let at = ResourceRef::new(&PODS, namespace, name).subresource("status");
    client.patch(at, PatchType::StrategicMerge, patch, &WriteOptions::default()).await
}
