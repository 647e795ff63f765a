use super::*;
use orlop_sdk::scheduler::testing::Nodes;
use orlop_sdk::scheduler::{column, dictionary, test_bit};
use orlop_sdk::serde_json::to_value;

fn change(name: &str, object: Option<Value>) -> ObjectChange {
    ObjectChange { watch: 0, namespace: "shop".into(), name: name.into(), object }
}

fn claim() -> Value {
    json!({"metadata": {"uid": "uid-c", "resourceVersion": "1"}, "spec": {"devices": {}}, "status": {}})
}

fn plugin(claims: &[(&str, Value)]) -> DynamicResources {
    let mut plugin = DynamicResources::new(b"{}").unwrap();
    plugin.objects(true, claims.iter().map(|(name, claim)| change(name, Some(claim.clone()))).collect());
    let nodes = Nodes::new(2)
        .dictionary(dictionary::NAMES, &["n0", "n1"])
        .u32(column::NAME, &[0, 1])
        .dictionary(dictionary::LABELS, &["gpu=yes"])
        .lists(column::LABELS, &[&[], &[0]]);
    plugin.sync(nodes.delta());
    plugin
}

/// A pod that names claim `c`.
fn shared() -> Value {
    json!({"computed": {"resourceClaims": [{"namespace": "shop", "request": "r", "name": "c"}]}})
}

/// A pod whose claim is made from a template; `name` as in `computed.resourceClaims`.
fn own(name: Option<Value>) -> Value {
    let mut item = json!({"namespace": "shop", "request": "r", "pod": {"name": "web-0", "uid": "u"}});
    if let Some(name) = name {
        item["name"] = name;
    }
    json!({"computed": {"resourceClaims": [item]}})
}

fn placement(pod: u64, fields: &Value) -> Placement {
    Placement {
        pod,
        namespace: "shop".into(),
        name: format!("pod-{pod}"),
        uid: format!("uid-{pod}"),
        fields: fields.clone(),
        slot: 0,
        node: "n0".into(),
    }
}

fn rejected(plugin: &mut DynamicResources, pod: &Value) -> Option<String> {
    plugin.prepare(1, pod).unwrap().rejected.map(|reason| {
        assert!(reason.unresolvable);
        reason.text
    })
}

#[test]
fn pods_wait_until_their_claims_are_made() {
    let with = |mut base: Value, key: &str, value: Value| {
        base["metadata"][key] = value;
        base
    };
    let owned = with(claim(), "ownerReferences", json!([{"uid": "u", "controller": true}]));
    let deleted = with(claim(), "deletionTimestamp", json!("2026-01-01T00:00:00Z"));
    let cases = [
        (vec![], shared(), Some("could not find ResourceClaim \"shop/c\"")),
        (vec![("c", claim())], shared(), None),
        (vec![("c", deleted)], shared(), Some("resourceclaim \"c\" is being deleted")),
        (vec![], own(None), Some("pod \"shop/web-0\": ResourceClaim not created yet")),
        (vec![], own(Some(Value::Null)), None),
        (vec![("c", owned)], own(Some("c".into())), None),
        (
            vec![("c", claim())],
            own(Some("c".into())),
            Some("ResourceClaim shop/c was not created for Pod shop/web-0 (Pod is not owner)"),
        ),
        (
            vec![],
            json!({"computed": {"resourceClaims": [{"namespace": "shop", "request": "r"}]}}),
            Some("spec.resourceClaim \"r\": none of the supported fields are set"),
        ),
        (vec![], json!({}), None),
    ];
    for (claims, pod, message) in cases {
        let mut plugin = plugin(&claims);
        assert_eq!(plugin.pre_enqueue(&pod).as_deref(), message, "{pod}");
        assert_eq!(rejected(&mut plugin, &pod).as_deref(), message, "{pod}");
    }
}

#[test]
fn pods_without_claims_cost_nothing() {
    assert_eq!(plugin(&[]).prepare(1, &json!({})).unwrap(), Prepared::skip());
    assert_eq!(plugin(&[]).prepare(1, &own(Some(Value::Null))).unwrap(), Prepared::skip());
    let anywhere = plugin(&[("c", claim())]).prepare(1, &shared()).unwrap();
    assert!(anywhere.skip_filter && anywhere.reads_objects && !anywhere.skip_placing);
}

#[test]
fn devices_are_not_allocated() {
    let mut wants = claim();
    wants["spec"]["devices"]["requests"] = json!([{"name": "gpu", "exactly": {"deviceClassName": "gpus"}}]);
    let mut plugin = plugin(&[("c", wants.clone())]);
    let message = "resource claim shop/c, request gpu: allocating devices is not supported";
    assert_eq!(rejected(&mut plugin, &shared()).as_deref(), Some(message));
    assert_eq!(plugin.reserve(placement(1, &shared())).unwrap_err(), message);
    // What somebody else has allocated can be used.
    wants["status"]["allocation"] = json!({"devices": {"results": [{"request": "gpu"}]}});
    plugin.objects(false, vec![change("c", Some(wants))]);
    assert_eq!(rejected(&mut plugin, &shared()), None);
}

#[test]
fn an_allocated_claim_binds_to_its_nodes_and_has_room_for_256() {
    let mut allocated = claim();
    let term = json!({"matchExpressions": [{"key": "gpu", "operator": "In", "values": ["yes"]}]});
    allocated["status"]["allocation"] = json!({"nodeSelector": {"nodeSelectorTerms": [term]}});
    let mut plugin = plugin(&[("c", allocated.clone())]);
    assert!(!plugin.prepare(1, &shared()).unwrap().skip_filter);
    let mask = plugin.filter(1, &[]);
    assert_eq!([0, 1].map(|slot| test_bit(&mask, slot)), [false, true]);
    assert_eq!(plugin.filter(1, &[1]), [1]);
    let reason = Reason::unresolvable("resourceclaim not available on the node");
    assert_eq!(plugin.explain(1, &[0]).reasons, [reason]);

    let consumer = |i: usize| json!({"resource": "pods", "uid": format!("x-{i}")});
    allocated["status"]["reservedFor"] = (0..256).map(consumer).collect();
    plugin.objects(false, vec![change("c", Some(allocated))]);
    assert_eq!(rejected(&mut plugin, &shared()).as_deref(), Some("resourceclaim in use"));
}

#[test]
fn a_claim_without_devices_is_allocated_and_reserved() {
    let mut plugin = plugin(&[("c", claim())]);
    let first = placement(1, &shared());
    plugin.reserve(first.clone()).unwrap();
    assert_eq!(
        plugin.reserve(placement(2, &shared())).unwrap_err(),
        "resource claim shop/c is in the process of being allocated"
    );
    plugin.unreserve(placement(2, &shared()));
    plugin.reserve(first.clone()).unwrap();
    let (verdict, writes) = plugin.pre_bind(first.clone());
    assert_eq!(verdict, Verdict::Allow);
    let consumer = json!({"resource": "pods", "name": "pod-1", "uid": "uid-1"});
    let expected = json!([
        {
            "op": "patch", "apiVersion": GROUP, "resource": "resourceclaims", "namespace": "shop", "name": "c",
            "uid": "uid-c", "resourceVersion": "1",
            "body": {"metadata": {"finalizers": ["resource.kubernetes.io/delete-protection"]}},
        },
        {
            "op": "patch", "apiVersion": GROUP, "resource": "resourceclaims", "namespace": "shop", "name": "c",
            "subresource": "status", "uid": "uid-c",
            "body": {"status": {"allocation": {"devices": {}}, "reservedFor": [consumer]}},
        },
    ]);
    assert_eq!(to_value(&writes).unwrap(), expected);
    plugin.unreserve(first);
    assert!(plugin.reserve(placement(2, &shared())).is_ok(), "what is given back is free");
}

#[test]
fn an_allocated_claim_is_reserved_beside_others() {
    let mut allocated = claim();
    allocated["status"] = json!({"allocation": {"devices": {}}, "reservedFor": [{"uid": "uid-1"}]});
    let mut plugin = plugin(&[("c", allocated)]);
    plugin.reserve(placement(2, &shared())).unwrap();
    assert_eq!(plugin.pre_bind(placement(1, &shared())), (Verdict::Allow, vec![]), "it has it already");
    let (_, writes) = plugin.pre_bind(placement(2, &shared()));
    let [write] = &writes[..] else { panic!("one write is due: {writes:?}") };
    assert_eq!((write.subresource.as_str(), write.resource_version.as_str()), ("status", "1"));
    let reserved = json!([{"uid": "uid-1"}, {"resource": "pods", "name": "pod-2", "uid": "uid-2"}]);
    assert_eq!(write.body, json!({"status": {"reservedFor": reserved}}));
    plugin.objects(false, vec![change("c", None)]);
    let gone = Verdict::reject("claim shop/c got deleted in the meantime");
    assert_eq!(plugin.pre_bind(placement(2, &shared())), (gone, vec![]));
}
