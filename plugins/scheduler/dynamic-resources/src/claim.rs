//! Resource claims, as pods ask for them and as they are.
//!
//! Source: `k8s.io/dynamic-resource-allocation/resourceclaim`.

use orlop_sdk::apimachinery::selector::NodeSelector;
use orlop_sdk::scheduler::Objects;
use orlop_sdk::serde_json::Value;

/// So many pods may share a claim.
const MOST_CONSUMERS: usize = 256;

fn text<'a>(of: &'a Value, pointer: &str) -> &'a str {
    of.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

/// One claim of a pod: an item of `computed.resourceClaims`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Requested {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// The pod that must own it; `None` where the pod names the claim itself.
    pod: Option<(String, String)>,
}

/// The claims that a pod needs.
///
/// # Errors
/// Where one of them was not made yet.
pub(crate) fn requested(pod: &Value) -> Result<Vec<Requested>, String> {
    let items = pod.pointer("/computed/resourceClaims").and_then(Value::as_array).into_iter().flatten();
    let mut claims = Vec::new();
    for item in items {
        let namespace = text(item, "/namespace");
        let pod =
            item.get("pod").map(|_| (text(item, "/pod/name").to_owned(), text(item, "/pod/uid").to_owned()));
        match (item.get("name"), pod) {
            // No claim was needed for the template.
            (Some(Value::Null), _) => {}
            (Some(name), pod) => claims.push(Requested {
                namespace: namespace.to_owned(),
                name: name.as_str().unwrap_or("").to_owned(),
                pod,
            }),
            (None, Some((pod, _))) => {
                return Err(format!("pod {:?}: ResourceClaim not created yet", format!("{namespace}/{pod}")));
            }
            (None, None) => {
                let request = text(item, "/request");
                return Err(format!("spec.resourceClaim {request:?}: none of the supported fields are set"));
            }
        }
    }
    Ok(claims)
}

/// Whether a pod is among those that a claim is reserved for.
pub(crate) fn is_reserved_for(claim: &Value, uid: &str) -> bool {
    consumers(claim).iter().any(|consumer| text(consumer, "/uid") == uid)
}

/// Those that a claim is reserved for.
pub(crate) fn consumers(claim: &Value) -> &[Value] {
    claim.pointer("/status/reservedFor").and_then(Value::as_array).map_or(&[], |list| list)
}

/// Whether somebody has allocated the claim.
pub(crate) fn is_allocated(claim: &Value) -> bool {
    claim.pointer("/status/allocation").is_some_and(|a| !a.is_null())
}

/// Whether the claim is going.
pub(crate) fn is_being_deleted(claim: &Value) -> bool {
    !text(claim, "/metadata/deletionTimestamp").is_empty()
}

impl Requested {
    /// `namespace/name`
    pub(crate) fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// The claim itself, if the pod may use it.
    ///
    /// # Errors
    /// Why the pod has to wait.
    pub(crate) fn find<'a>(&self, objects: &'a Objects) -> Result<&'a Value, String> {
        let claim = objects
            .get(0, &self.namespace, &self.name)
            .ok_or_else(|| format!("could not find ResourceClaim {:?}", self.key()))?;
        if is_being_deleted(claim) {
            return Err(format!("resourceclaim {:?} is being deleted", self.name));
        }
        let Some((pod, uid)) = &self.pod else { return Ok(claim) };
        let owners = claim.pointer("/metadata/ownerReferences").and_then(Value::as_array);
        let controller = owners
            .into_iter()
            .flatten()
            .find(|owner| owner.get("controller").and_then(Value::as_bool) == Some(true));
        if controller.is_some_and(|owner| text(owner, "/uid") == uid) {
            return Ok(claim);
        }
        let namespace = &self.namespace;
        let key = self.key();
        Err(format!("ResourceClaim {key} was not created for Pod {namespace}/{pod} (Pod is not owner)"))
    }

    /// Where a claim is available: `None` is everywhere.
    ///
    /// # Errors
    /// Why it is of no use for now.
    pub(crate) fn nodes(&self, claim: &Value) -> Result<Option<NodeSelector>, String> {
        if is_allocated(claim) {
            let own = self.pod.as_ref().is_some_and(|(_, uid)| is_reserved_for(claim, uid));
            if consumers(claim).len() >= MOST_CONSUMERS && !own {
                return Err("resourceclaim in use".to_owned());
            }
            let selector = claim.pointer("/status/allocation/nodeSelector").filter(|s| !s.is_null());
            return selector.map(NodeSelector::from_value).transpose().map_err(|fault| fault.0);
        }
        let requests = claim.pointer("/spec/devices/requests").and_then(Value::as_array);
        match requests.and_then(|requests| requests.first()) {
            None => Ok(None),
            Some(request) => Err(format!(
                "resource claim {}, request {}: allocating devices is not supported",
                self.key(),
                text(request, "/name")
            )),
        }
    }
}
