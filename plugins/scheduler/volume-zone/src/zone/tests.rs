use super::*;
use orlop_sdk::scheduler::testing::Nodes;
use orlop_sdk::scheduler::{column, dictionary, test_bit};
use orlop_sdk::serde_json::json;

const OLD_ZONE: &str = "failure-domain.beta.kubernetes.io/zone";
const ZONE: &str = "topology.kubernetes.io/zone";

fn put(watch: u32, namespace: &str, name: &str, object: Value) -> ObjectChange {
    ObjectChange { watch, namespace: namespace.into(), name: name.into(), object: Some(object) }
}

/// Nodes: no labels; zone a by the old label; zone a by the new one; zone b; region only.
fn plugin(objects: Vec<ObjectChange>) -> VolumeZone {
    let mut plugin = VolumeZone::new(b"{}").unwrap();
    plugin.objects(true, objects);
    let labels = [
        &format!("{OLD_ZONE}=a"),
        &format!("{ZONE}=a"),
        &format!("{ZONE}=b"),
        "topology.kubernetes.io/region=r",
    ];
    let nodes = Nodes::new(5)
        .dictionary(dictionary::LABELS, &labels.map(|l| l as &str))
        .lists(column::LABELS, &[&[], &[0], &[1], &[2], &[3]]);
    plugin.sync(nodes.delta());
    plugin
}

fn pod() -> Value {
    json!({"computed": {"requestedClaims": [{"namespace": "shop", "name": "c"}]}})
}

fn bound(labels: Value) -> Vec<ObjectChange> {
    vec![
        put(CLAIMS, "shop", "c", json!({"spec": {"volumeName": "pv"}})),
        put(VOLUMES, "", "pv", json!({"metadata": {"labels": labels}})),
    ]
}

#[test]
fn zones_of_volumes_and_nodes() {
    for (labels, fits) in [
        (json!({ZONE: "a"}), [true, false, true, false, false]),
        (json!({OLD_ZONE: "a"}), [true, true, true, false, false]),
        (json!({ZONE: "a__b"}), [true, false, true, true, false]),
        (json!({ZONE: "c"}), [true, false, false, false, false]),
        (json!({ZONE: "a", "topology.kubernetes.io/region": "r"}), [true, false, false, false, false]),
        (json!({"topology.kubernetes.io/region": "r"}), [true, false, false, false, true]),
    ] {
        let mut plugin = plugin(bound(labels.clone()));
        let prepared = plugin.prepare(1, &pod()).unwrap();
        assert!(!prepared.skip_filter && prepared.reads_objects && prepared.skip_placing);
        let mask = plugin.filter(1, &[]);
        assert_eq!([0, 1, 2, 3, 4].map(|slot| test_bit(&mask, slot)), fits, "{labels}");
    }
    let explanation = plugin(vec![]).explain(1, &[1]);
    assert_eq!(explanation.reasons, [Reason::unresolvable("node(s) had no available volume zone")]);
}

#[test]
fn what_has_no_zone_is_not_asked_about() {
    let unlabelled = plugin(bound(json!({"app": "x"}))).prepare(1, &pod()).unwrap();
    assert!(unlabelled.skip_filter && unlabelled.reads_objects);
    // A label that cannot be read does not count.
    assert!(plugin(bound(json!({ZONE: "a____b"}))).prepare(1, &pod()).unwrap().skip_filter);
    assert_eq!(plugin(vec![]).prepare(1, &json!({})).unwrap(), Prepared::skip());
}

#[test]
fn claims_without_a_volume() {
    let class = |mode: Value| {
        vec![
            put(CLAIMS, "shop", "c", json!({"spec": {"storageClassName": "s"}})),
            put(CLASSES, "", "s", json!({"volumeBindingMode": mode})),
        ]
    };
    let unbound = |spec: Value| vec![put(CLAIMS, "shop", "c", json!({ "spec": spec }))];
    let cases = [
        (class(json!("WaitForFirstConsumer")), None),
        (class(json!("Immediate")), Some("PersistentVolume had no name")),
        (class(json!(null)), Some("VolumeBindingMode not set for StorageClass \"s\"")),
        (unbound(json!({})), Some("PersistentVolumeClaim had no pv name and storageClass name")),
        (unbound(json!({"storageClassName": "s"})), Some("storageclass.storage.k8s.io \"s\" not found")),
        (unbound(json!({"volumeName": "pv"})), Some("persistentvolume \"pv\" not found")),
        (vec![], Some("persistentvolumeclaim \"c\" not found")),
    ];
    for (objects, message) in cases {
        let prepared = plugin(objects).prepare(1, &pod()).unwrap();
        assert_eq!(prepared.rejected, message.map(Reason::unresolvable));
        assert_eq!(prepared.skip_filter, message.is_none());
    }
}
