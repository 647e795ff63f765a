use super::*;
use orlop_sdk::scheduler::testing::Nodes;
use orlop_sdk::scheduler::{column, dictionary, test_bit};
use orlop_sdk::serde_json::{Value, json, to_value};

mod bind;

const NODES: usize = 3;

fn changed(watch: u32, namespace: &str, name: &str, object: Option<Value>) -> ObjectChange {
    ObjectChange { watch, namespace: namespace.into(), name: name.into(), object }
}

/// A claim in namespace `shop` with this spec, merged over a small one.
fn claim(name: &str, class: &str, size: &str) -> Value {
    json!({
        "metadata": {"uid": format!("uid-{name}"), "resourceVersion": "1"},
        "spec": {
            "storageClassName": class,
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": size}},
        },
        "status": {"phase": "Pending"},
    })
}

fn bound_claim(name: &str, volume: &str) -> Value {
    let mut claim = claim(name, "wait", "1Gi");
    claim["spec"]["volumeName"] = volume.into();
    claim["metadata"]["annotations"] = json!({"pv.kubernetes.io/bind-completed": "yes"});
    claim
}

fn volume(class: &str, size: &str, node: Option<&str>) -> Value {
    let mut volume = json!({
        "metadata": {"uid": "uid-pv", "resourceVersion": "1"},
        "spec": {"storageClassName": class, "accessModes": ["ReadWriteOnce"], "capacity": {"storage": size}},
        "status": {"phase": "Available"},
    });
    if let Some(node) = node {
        let host = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": [node]});
        volume["spec"]["nodeAffinity"] =
            json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [host]}]}});
    }
    volume
}

fn class(mode: &str, provisioner: &str) -> Value {
    json!({"provisioner": provisioner, "volumeBindingMode": mode})
}

struct Cluster {
    plugin: VolumeBinding,
    claims: Vec<String>,
    prepared: Prepared,
}

impl Cluster {
    /// Nodes n0, n1 in zone a, n2 in zone b; a pod of namespace `shop` with these claims.
    fn new(claims: &[&str], objects: Vec<ObjectChange>) -> Self {
        let mut plugin = VolumeBinding::new(br#"{"bindTimeoutSeconds": 60}"#).unwrap();
        let mut all = vec![
            changed(2, "", "wait", Some(class("WaitForFirstConsumer", "kubernetes.io/no-provisioner"))),
            changed(2, "", "make", Some(class("WaitForFirstConsumer", "csi.example.com"))),
            changed(2, "", "now", Some(class("Immediate", "csi.example.com"))),
        ];
        all.extend(objects);
        plugin.objects(true, all);
        let labels = [
            "kubernetes.io/hostname=n0",
            "kubernetes.io/hostname=n1",
            "kubernetes.io/hostname=n2",
            "zone=a",
            "zone=b",
        ];
        let nodes = Nodes::new(3)
            .dictionary(dictionary::NAMES, &["n0", "n1", "n2"])
            .u32(column::NAME, &[0, 1, 2])
            .dictionary(dictionary::LABELS, &labels)
            .lists(column::LABELS, &[&[0, 3], &[1, 3], &[2, 4]]);
        plugin.sync(nodes.delta());
        let claims = claims.iter().map(|c| (*c).to_owned()).collect();
        let mut cluster = Self { plugin, claims, prepared: Prepared::default() };
        cluster.prepare();
        cluster
    }

    fn pod(&self) -> Value {
        let claims: Vec<Value> =
            self.claims.iter().map(|name| json!({"namespace": "shop", "name": name})).collect();
        json!({"computed": {"requestedClaims": claims}})
    }

    fn prepare(&mut self) {
        let pod = self.pod();
        self.prepared = self.plugin.prepare(1, &pod).unwrap();
    }

    fn change(&mut self, change: ObjectChange) {
        self.plugin.objects(false, vec![change]);
        self.prepare();
    }

    fn fits(&mut self) -> [bool; NODES] {
        let mask = self.plugin.filter(1, &[]);
        [0, 1, 2].map(|slot| test_bit(&mask, slot))
    }

    fn reasons(&mut self, slot: u32) -> Vec<String> {
        self.plugin.explain(1, &[slot]).reasons.into_iter().map(|r| r.text).collect()
    }

    fn rejected(&self) -> &str {
        let reason = self.prepared.rejected.as_ref().unwrap();
        assert!(reason.unresolvable && self.prepared.reads_objects);
        &reason.text
    }

    fn placement(&self, pod: u64, slot: u32) -> Placement {
        Placement {
            pod,
            namespace: "shop".into(),
            name: format!("pod-{pod}"),
            uid: format!("uid-{pod}"),
            fields: self.pod(),
            slot,
            node: format!("n{slot}"),
        }
    }
}

fn in_shop(watch: u32, name: &str, object: Value) -> ObjectChange {
    changed(watch, "shop", name, Some(object))
}

fn pv(name: &str, object: Value) -> ObjectChange {
    changed(1, "", name, Some(object))
}

#[test]
fn pods_without_claims_cost_nothing() {
    assert_eq!(Cluster::new(&[], vec![]).prepared, Prepared::skip());
}

#[test]
fn claims_that_stop_a_pod_on_every_node() {
    let lost = {
        let mut lost = bound_claim("c", "gone");
        lost["status"]["phase"] = "Lost".into();
        lost
    };
    let deleted = {
        let mut deleted = claim("c", "wait", "1Gi");
        deleted["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        deleted
    };
    let prebound = {
        let mut prebound = claim("c", "wait", "1Gi");
        prebound["spec"]["volumeName"] = "pv".into();
        prebound
    };
    let cases = [
        (None, "persistentvolumeclaim \"c\" not found"),
        (Some(lost), "persistentvolumeclaim \"c\" bound to non-existent persistentvolume \"gone\""),
        (Some(deleted), "persistentvolumeclaim \"c\" is being deleted"),
        (Some(prebound), "pod has unbound immediate PersistentVolumeClaims"),
        (Some(claim("c", "now", "1Gi")), "pod has unbound immediate PersistentVolumeClaims"),
        (Some(claim("c", "", "1Gi")), "pod has unbound immediate PersistentVolumeClaims"),
        (Some(claim("c", "unknown", "1Gi")), "pod has unbound immediate PersistentVolumeClaims"),
        (Some(claim("c", "odd", "1Gi")), "VolumeBindingMode not set for StorageClass \"odd\""),
    ];
    for (claim, message) in cases {
        let mut objects = vec![changed(2, "", "odd", Some(json!({"provisioner": "x"})))];
        objects.extend(claim.map(|claim| in_shop(0, "c", claim)));
        assert_eq!(Cluster::new(&["c"], objects).rejected(), message);
    }
}

#[test]
fn claims_of_ephemeral_volumes_belong_to_the_pod() {
    let mut plugin = VolumeBinding::new(b"{}").unwrap();
    let owner = json!({"name": "web-0", "uid": "u"});
    let pod =
        json!({"computed": {"requestedClaims": [{"namespace": "shop", "name": "web-0-tmp", "pod": owner}]}});
    let rejected = |plugin: &mut VolumeBinding| plugin.prepare(1, &pod).unwrap().rejected.map(|r| r.text);
    assert_eq!(
        rejected(&mut plugin).as_deref(),
        Some("waiting for ephemeral volume controller to create the persistentvolumeclaim \"web-0-tmp\"")
    );
    let mut made = bound_claim("web-0-tmp", "pv");
    plugin.objects(false, vec![in_shop(0, "web-0-tmp", made.clone())]);
    assert_eq!(
        rejected(&mut plugin).as_deref(),
        Some("PVC shop/web-0-tmp was not created for pod shop/web-0 (pod is not owner)")
    );
    made["metadata"]["ownerReferences"] = json!([{"uid": "u", "controller": true}]);
    plugin.objects(false, vec![in_shop(0, "web-0-tmp", made)]);
    assert_eq!(rejected(&mut plugin), None);
}

#[test]
fn bound_volumes_must_be_reachable() {
    let objects = vec![in_shop(0, "c", bound_claim("c", "pv")), pv("pv", volume("wait", "1Gi", Some("n1")))];
    let mut cluster = Cluster::new(&["c"], objects);
    assert!(!cluster.prepared.skip_filter && cluster.prepared.skip_placing);
    assert_eq!(cluster.fits(), [false, true, false]);
    assert_eq!(cluster.reasons(0), ["node(s) had volume node affinity conflict"]);

    cluster.change(changed(1, "", "pv", None));
    assert_eq!(cluster.fits(), [false; NODES]);
    let missing = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";
    assert_eq!(cluster.reasons(0), [missing]);

    cluster.change(pv("pv", volume("wait", "1Gi", None)));
    assert!(cluster.prepared.skip_filter && cluster.prepared.skip_placing && cluster.prepared.reads_objects);
}

#[test]
fn a_volume_must_suit_the_claim() {
    let suits = |volume: Value, claim: Value| {
        let objects = vec![in_shop(0, "c", claim), pv("pv", volume)];
        Cluster::new(&["c"], objects).fits() == [false, true, false]
    };
    let of = |change: &dyn Fn(&mut Value)| {
        let mut volume = volume("wait", "2Gi", Some("n1"));
        change(&mut volume);
        volume
    };
    let plain = claim("c", "wait", "2Gi");
    assert!(suits(of(&|_| {}), plain.clone()));
    assert!(!suits(of(&|v| v["spec"]["capacity"]["storage"] = "1Gi".into()), plain.clone()));
    assert!(!suits(of(&|v| v["spec"]["storageClassName"] = "make".into()), plain.clone()));
    assert!(!suits(of(&|v| v["spec"]["volumeMode"] = "Block".into()), plain.clone()));
    assert!(!suits(of(&|v| v["spec"]["accessModes"] = json!(["ReadOnlyMany"])), plain.clone()));
    assert!(!suits(of(&|v| v["status"]["phase"] = "Released".into()), plain.clone()));
    assert!(!suits(
        of(&|v| v["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into()),
        plain.clone()
    ));
    let of_other = json!({"namespace": "shop", "name": "other", "uid": "x"});
    assert!(!suits(of(&|v| v["spec"]["claimRef"] = of_other.clone()), plain.clone()));
    let of_this = json!({"namespace": "shop", "name": "c"});
    assert!(suits(of(&|v| v["spec"]["claimRef"] = of_this.clone()), plain.clone()));

    let mut selecting = plain;
    selecting["spec"]["selector"] = json!({"matchLabels": {"disk": "fast"}});
    assert!(!suits(of(&|_| {}), selecting.clone()));
    assert!(suits(of(&|v| v["metadata"]["labels"] = json!({"disk": "fast"})), selecting));
}

#[test]
fn without_a_volume_or_a_provisioner_no_node_fits() {
    let mut cluster = Cluster::new(&["c"], vec![in_shop(0, "c", claim("c", "wait", "1Gi"))]);
    assert_eq!(cluster.fits(), [false; NODES]);
    assert_eq!(cluster.reasons(2), ["node(s) didn't find available persistent volumes to bind"]);
    assert!(cluster.prepared.rejected.is_none() && !cluster.prepared.skip_placing);
}

#[test]
fn each_claim_takes_a_volume_of_its_own() {
    let objects = vec![
        in_shop(0, "big", claim("big", "wait", "10Gi")),
        in_shop(0, "small", claim("small", "wait", "1Gi")),
        pv("n0-10", volume("wait", "10Gi", Some("n0"))),
        pv("n1-1", volume("wait", "1Gi", Some("n1"))),
        pv("n1-10", volume("wait", "10Gi", Some("n1"))),
        pv("n2-10", volume("wait", "10Gi", Some("n2"))),
        pv("n2-20", volume("wait", "20Gi", Some("n2"))),
    ];
    // The small claim is served first: on n0 it takes the only volume.
    assert_eq!(Cluster::new(&["big", "small"], objects).fits(), [false, true, true]);
}

#[test]
fn new_volumes_by_topology_and_capacity() {
    let objects = vec![in_shop(0, "c", claim("c", "make", "5Gi"))];
    let mut cluster = Cluster::new(&["c"], objects);
    assert_eq!(cluster.fits(), [true; NODES]);

    let mut class = class("WaitForFirstConsumer", "csi.example.com");
    let zone = |zone: &str| json!({"matchLabelExpressions": [{"key": "zone", "values": [zone]}]});
    class["allowedTopologies"] = json!([zone("b"), zone("c")]);
    cluster.change(changed(2, "", "make", Some(class.clone())));
    assert_eq!(cluster.fits(), [false, false, true]);
    assert_eq!(cluster.reasons(0), ["node(s) didn't find available persistent volumes to bind"]);

    class["allowedTopologies"] = json!([]);
    cluster.change(changed(2, "", "make", Some(class)));
    cluster.change(changed(3, "", "csi.example.com", Some(json!({"spec": {"storageCapacity": true}}))));
    assert_eq!(cluster.fits(), [false; NODES]);
    assert_eq!(cluster.reasons(0), ["node(s) did not have enough free storage"]);

    let capacity = |capacity: &str, zone: &str| {
        let topology = json!({"matchLabels": {"zone": zone}});
        json!({"storageClassName": "make", "capacity": capacity, "nodeTopology": topology})
    };
    cluster.change(changed(4, "kube-system", "a", Some(capacity("5Gi", "a"))));
    cluster.change(changed(4, "kube-system", "b", Some(capacity("4Gi", "b"))));
    assert_eq!(cluster.fits(), [true, true, false]);
    let mut limited = capacity("5Gi", "a");
    limited["maximumVolumeSize"] = "1Gi".into();
    cluster.change(changed(4, "kube-system", "a", Some(limited)));
    assert_eq!(cluster.fits(), [false; NODES]);
    cluster.change(changed(3, "", "csi.example.com", None));
    assert_eq!(cluster.fits(), [true; NODES]);
}

#[test]
fn a_claim_that_is_being_provisioned_keeps_its_node() {
    let mut selected = claim("c", "make", "1Gi");
    selected["metadata"]["annotations"] = json!({"volume.kubernetes.io/selected-node": "n2"});
    let mut cluster = Cluster::new(&["c"], vec![in_shop(0, "c", selected)]);
    assert_eq!(cluster.fits(), [false, false, true]);
    assert_eq!(cluster.reasons(0), ["node(s) didn't find available persistent volumes to bind"]);
}
