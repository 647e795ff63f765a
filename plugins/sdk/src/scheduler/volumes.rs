//! Claims and volumes, as plugins that care for storage read them.

use serde_json::Value;

const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// The pod that a claim is made for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// Name of the pod.
    pub name: String,
    /// Uid of the pod.
    pub uid: String,
}

/// A PersistentVolumeClaim that a volume of a pod asks for: an item of `computed.requestedClaims`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestedClaim {
    /// Namespace of pod and claim.
    pub namespace: String,
    /// Name of the claim.
    pub name: String,
    /// Where a generic ephemeral volume has a claim of its own: the pod that must own it.
    pub pod: Option<Owner>,
}

impl RequestedClaim {
    /// What upstream says where the claim does not exist.
    #[must_use]
    pub fn not_found(&self) -> String {
        not_found("persistentvolumeclaim", &self.name)
    }

    /// Why the claim cannot be this one, where it must belong to the pod and does not. `controller`: the
    /// uid of the claim's controller, see [`controller`].
    ///
    /// # Errors
    /// What upstream says.
    pub fn check_owner(&self, controller: Option<&str>) -> Result<(), String> {
        let Some(pod) = &self.pod else { return Ok(()) };
        if controller == Some(pod.uid.as_str()) {
            return Ok(());
        }
        let Self { namespace, name, .. } = self;
        let pod = &pod.name;
        Err(format!("PVC {namespace}/{name} was not created for pod {namespace}/{pod} (pod is not owner)"))
    }
}

/// The uid of the owner that controls an object.
#[must_use]
pub fn controller(object: &Value) -> Option<&str> {
    let owners = object.pointer("/metadata/ownerReferences")?.as_array()?;
    let controls = |owner: &&Value| owner.get("controller").and_then(Value::as_bool) == Some(true);
    owners.iter().find(controls)?.get("uid")?.as_str()
}

/// The claims of a pod or of a placed pod; declare `computed.requestedClaims`.
#[must_use]
pub fn requested_claims(pod: &Value) -> Vec<RequestedClaim> {
    let text = |of: &Value, key: &str| of.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
    let claims = pod.pointer("/computed/requestedClaims").and_then(Value::as_array).into_iter().flatten();
    let claim = |claim: &Value| RequestedClaim {
        namespace: text(claim, "namespace"),
        name: text(claim, "name"),
        pod: claim.get("pod").map(|pod| Owner { name: text(pod, "name"), uid: text(pod, "uid") }),
    };
    claims.map(claim).collect()
}

/// The storage class of a PersistentVolumeClaim or PersistentVolume; empty where it has none.
///
/// The annotation of old wins, as upstream.
#[must_use]
pub fn storage_class(object: &Value) -> &str {
    let annotation = object.pointer("/metadata/annotations").and_then(|a| a.get(CLASS_ANNOTATION));
    let class = annotation.or_else(|| object.pointer("/spec/storageClassName"));
    class.and_then(Value::as_str).unwrap_or("")
}

/// What upstream says where an object does not exist; `resource` is singular, with its group.
#[must_use]
pub fn not_found(resource: &str, name: &str) -> String {
    format!("{resource} {name:?} not found")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn claims_and_their_owners() {
        let pod = json!({"computed": {"requestedClaims": [
            {"namespace": "shop", "name": "data"},
            {"namespace": "shop", "name": "web-0-tmp", "pod": {"name": "web-0", "uid": "u"}},
        ]}});
        let claims = requested_claims(&pod);
        assert_eq!(claims[0], RequestedClaim { namespace: "shop".into(), name: "data".into(), pod: None });
        assert_eq!(claims[0].not_found(), "persistentvolumeclaim \"data\" not found");
        assert_eq!(claims[0].check_owner(None), Ok(()));
        let owned = |uid: &str, controls: bool| {
            let owner = json!({"kind": "Pod", "uid": uid, "controller": controls});
            claims[1].check_owner(controller(&json!({"metadata": {"ownerReferences": [owner]}})))
        };
        assert_eq!(owned("u", true), Ok(()));
        let refused = "PVC shop/web-0-tmp was not created for pod shop/web-0 (pod is not owner)";
        assert_eq!(owned("v", true), Err(refused.to_owned()));
        assert_eq!(owned("u", false), Err(refused.to_owned()));
        assert_eq!(requested_claims(&json!({})), []);
    }

    #[test]
    fn the_annotation_wins() {
        assert_eq!(storage_class(&json!({"spec": {"storageClassName": "fast"}})), "fast");
        let annotated = json!({
            "metadata": {"annotations": {"volume.beta.kubernetes.io/storage-class": "old"}},
            "spec": {"storageClassName": "fast"},
        });
        assert_eq!(storage_class(&annotated), "old");
        assert_eq!(storage_class(&json!({"spec": {}})), "");
    }
}
