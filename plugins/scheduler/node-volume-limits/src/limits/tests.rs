use super::*;
use orlop_sdk::scheduler::testing::Nodes;
use orlop_sdk::scheduler::{DictionaryDelta, column, test_bit};
use orlop_sdk::serde_json::json;

const DRIVER: &str = "csi.example.com";

fn change(watch: u32, namespace: &str, name: &str, object: Option<Value>) -> ObjectChange {
    ObjectChange { watch, namespace: namespace.into(), name: name.into(), object }
}

fn put(watch: u32, name: &str, object: Value) -> ObjectChange {
    change(watch, if watch == 0 { "shop" } else { "" }, name, Some(object))
}

/// A pod with claims.
fn pod(claims: &[&str]) -> Value {
    let claims: Vec<Value> = claims.iter().map(|name| json!({"namespace": "shop", "name": name})).collect();
    json!({"computed": {"requestedClaims": claims}})
}

fn csi_node(driver: &str, count: Option<u64>) -> Value {
    let allocatable = count.map_or(Value::Null, |count| json!({"count": count}));
    json!({"spec": {"drivers": [{"name": driver, "allocatable": allocatable}]}})
}

/// Claims a, b, c are bound to volumes of the driver, `u` waits for its class, `other` is of another
/// driver. Node n0 has room for two volumes, n1 has no limit, n2 no CSINode.
fn plugin(pods: &[Value]) -> NodeVolumeLimits {
    let mut plugin = NodeVolumeLimits::new(b"{}").unwrap();
    let mut objects = vec![
        put(2, "class", json!({"provisioner": DRIVER})),
        put(0, "u", json!({"spec": {"storageClassName": "class"}})),
        put(0, "other", json!({"spec": {"volumeName": "pv-other"}})),
        put(1, "pv-other", json!({"spec": {"csi": {"driver": "other", "volumeHandle": "a"}}})),
        put(3, "n0", csi_node(DRIVER, Some(2))),
        put(3, "n1", csi_node(DRIVER, None)),
    ];
    for name in ["a", "b", "c"] {
        let volume = format!("pv-{name}");
        objects.push(put(0, name, json!({ "spec": {"volumeName": volume} })));
        objects.push(put(1, &volume, json!({"spec": {"csi": {"driver": DRIVER, "volumeHandle": name}}})));
    }
    plugin.objects(true, objects);
    let entries: Vec<String> = pods.iter().map(Value::to_string).collect();
    let entries: Vec<&str> = entries.iter().map(String::as_str).collect();
    let all: Vec<u64> = (0..u64::try_from(pods.len()).unwrap()).collect();
    let nodes = Nodes::new(3)
        .dictionary(dictionary::NAMES, &["n0", "n1", "n2"])
        .u32(column::NAME, &[0, 1, 2])
        .dictionary(dictionary::PODS, &entries)
        .lists(column::PODS, &[&all, &all, &all]);
    plugin.sync(nodes.delta());
    plugin
}

fn fits(plugin: &mut NodeVolumeLimits, pod: &Value) -> [bool; 3] {
    let prepared = plugin.prepare(1, pod).unwrap();
    assert!(!prepared.skip_filter && prepared.reads_objects && prepared.skip_placing);
    let mask = plugin.filter(1, &[]);
    [0, 1, 2].map(|slot| test_bit(&mask, slot))
}

const FULL: [bool; 3] = [false, true, true];
const ROOM: [bool; 3] = [true, true, true];

#[test]
fn volumes_of_a_driver_are_counted_once() {
    for (placed, new, expected) in [
        (vec![], pod(&["a", "b"]), ROOM),
        (vec![], pod(&["a", "b", "c"]), FULL),
        (vec![pod(&["a"])], pod(&["b"]), ROOM),
        (vec![pod(&["a"]), pod(&["b"])], pod(&["c"]), FULL),
        (vec![pod(&["a", "b"])], pod(&["a"]), ROOM),
        (vec![pod(&["a"]), pod(&["a"])], pod(&["b"]), ROOM),
        (vec![pod(&["a", "b"])], pod(&["other"]), ROOM),
        (vec![pod(&["a", "other"])], pod(&["b"]), ROOM),
        (vec![pod(&["a", "b"])], pod(&["u"]), FULL),
        (vec![pod(&["a", "u"])], pod(&["u"]), ROOM),
        (vec![pod(&["a", "u"])], pod(&["b"]), FULL),
        (vec![pod(&["a", "gone"])], pod(&["b"]), ROOM),
    ] {
        assert_eq!(fits(&mut plugin(&placed), &new), expected, "{new} beside {placed:?}");
    }
    let explanation = plugin(&[]).explain(1, &[0]);
    assert_eq!(explanation.reasons, [Reason::new("node(s) exceed max volume count")]);
}

#[test]
fn disks_that_a_csi_driver_took_over() {
    let disk = |source: Value| json!({"spec": {"volumes": [{}, source]}});
    let aws = |id: &str| disk(json!({"awsElasticBlockStore": {"volumeID": id}}));
    let mut full = plugin(&[aws("aws://zone/vol-1")]);
    full.objects(false, vec![put(3, "n0", csi_node("ebs.csi.aws.com", Some(1)))]);
    assert_eq!(fits(&mut full, &aws("vol-2")), FULL);
    assert_eq!(fits(&mut full, &aws("vol-1")), ROOM);
    full.objects(
        false,
        vec![put(1, "pv-a", json!({"spec": {"awsElasticBlockStore": {"volumeID": "vol-3"}}}))],
    );
    assert_eq!(fits(&mut full, &pod(&["a"])), FULL);

    let portworx = |id: &str| disk(json!({"portworxVolume": {"volumeID": id}}));
    let mut optional = plugin(&[portworx("x")]);
    let mut node = csi_node("pxd.portworx.com", Some(1));
    optional.objects(false, vec![put(3, "n0", node.clone())]);
    assert_eq!(fits(&mut optional, &portworx("y")), ROOM);
    node["metadata"] = json!({"annotations": {
        "storage.alpha.kubernetes.io/migrated-plugins": "kubernetes.io/aws-ebs,kubernetes.io/portworx-volume",
    }});
    optional.objects(false, vec![put(3, "n0", node)]);
    assert_eq!(fits(&mut optional, &portworx("y")), FULL);
}

#[test]
fn attachments_count_too() {
    let attachment = |node: &str, volume: &str| json!({"spec": {"attacher": DRIVER, "nodeName": node, "source": {"persistentVolumeName": volume}}});
    let mut plugin = plugin(&[pod(&["a"])]);
    plugin.objects(false, vec![put(4, "va-1", attachment("n0", "pv-a"))]);
    assert_eq!(fits(&mut plugin, &pod(&["c"])), ROOM, "the volume of the pod is attached once");
    plugin.objects(false, vec![put(4, "va-2", attachment("n0", "pv-b"))]);
    assert_eq!(fits(&mut plugin, &pod(&["c"])), FULL);
    plugin.objects(false, vec![put(4, "va-2", attachment("n1", "pv-b"))]);
    assert_eq!(fits(&mut plugin, &pod(&["c"])), ROOM);
    plugin.objects(false, vec![put(4, "va-3", attachment("n0", "pv-b"))]);
    assert_eq!(fits(&mut plugin, &pod(&["c"])), FULL);
    plugin.objects(false, vec![change(4, "", "va-3", None)]);
    assert_eq!(fits(&mut plugin, &pod(&["c"])), ROOM);
}

#[test]
fn counts_follow_pods_and_objects() {
    let mut plugin = plugin(&[pod(&["a"]), pod(&["u"])]);
    assert_eq!(fits(&mut plugin, &pod(&["c"])), FULL);
    // The claim that waited is bound to a volume that is there already.
    plugin.objects(false, vec![put(0, "u", json!({"spec": {"volumeName": "pv-a"}}))]);
    assert_eq!(fits(&mut plugin, &pod(&["c"])), ROOM);
    plugin.objects(
        false,
        vec![put(1, "pv-a", json!({"spec": {"csi": {"driver": "other", "volumeHandle": "a"}}}))],
    );
    assert_eq!(fits(&mut plugin, &pod(&["b", "c"])), ROOM);
    plugin.objects(false, vec![put(3, "n0", csi_node(DRIVER, Some(1)))]);
    assert_eq!(fits(&mut plugin, &pod(&["b", "c"])), FULL);
    assert_eq!(fits(&mut plugin, &pod(&["c"])), ROOM);
    let mut row = Nodes::rows(3, &[0]).u32(column::NAME, &[0]).lists(column::PODS, &[&[2]]).delta();
    let entries = vec![pod(&["b"]).to_string()];
    row.dictionaries.push(DictionaryDelta { dictionary: dictionary::PODS, first: 2, entries });
    plugin.sync(row);
    assert_eq!(fits(&mut plugin, &pod(&["c"])), FULL);
    plugin.objects(false, vec![put(2, "class", json!({"provisioner": "other"}))]);
    plugin.objects(false, vec![put(0, "b", json!({"spec": {"storageClassName": "class"}}))]);
    assert_eq!(fits(&mut plugin, &pod(&["c"])), ROOM);
}

#[test]
fn eviction_makes_room() {
    let mut plugin = plugin(&[pod(&["a"]), pod(&["b"])]);
    assert_eq!(fits(&mut plugin, &pod(&["c"])), FULL);
    let rows =
        Nodes::rows(3, &[0, 0, 2]).u32(column::NAME, &[0, 0, 2]).lists(column::PODS, &[&[0], &[0, 1], &[]]);
    assert_eq!(plugin.overlay(1, rows.delta()), [0b101]);
    assert_eq!(fits(&mut plugin, &pod(&["c"])), FULL, "nothing stays of it");
}

#[test]
fn pods_without_such_volumes_and_claims_with_faults() {
    let mut plugin = plugin(&[]);
    assert_eq!(plugin.prepare(1, &json!({})).unwrap(), Prepared::skip());
    plugin.objects(false, vec![put(0, "plain", json!({"spec": {}}))]);
    let plain = plugin.prepare(1, &pod(&["plain"])).unwrap();
    assert!(plain.skip_filter && plain.reads_objects);
    assert_eq!(fits(&mut plugin, &pod(&["gone"])), [false; 3]);
    let message = "looking up PVC shop/gone: persistentvolumeclaim \"gone\" not found";
    assert_eq!(plugin.explain(1, &[0]).reasons, [Reason::unresolvable(message)]);
}

/// Counts that are remembered are those that would be made anew, whatever happens in between.
#[test]
fn remembered_counts_are_true() {
    let mut seed = 11_u64;
    let mut draw = |end: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % end
    };
    let names = ["a", "b", "c", "u"];
    let mut plugin = plugin(&names.map(|name| pod(&[name])));
    let mut answers = [0, 0];
    for _ in 0..2000 {
        let name = names[usize::try_from(draw(4)).unwrap()];
        let volume = format!("pv-{}", names[usize::try_from(draw(4)).unwrap()]);
        let node = format!("n{}", draw(3));
        let gone = draw(4) == 0;
        let change = match draw(6) {
            0 => {
                let claim = json!({"spec": {"volumeName": if draw(2) == 0 { "" } else { &volume }, "storageClassName": "class"}});
                change(0, "shop", name, (!gone).then_some(claim))
            }
            1 => {
                let csi =
                    json!({"driver": if draw(3) == 0 { "other" } else { DRIVER }, "volumeHandle": name});
                change(1, "", &volume, (!gone).then(|| json!({"spec": {"csi": csi}})))
            }
            2 => change(3, "", &node, (!gone).then(|| csi_node(DRIVER, Some(draw(4))))),
            3 => {
                let source = json!({"persistentVolumeName": volume});
                let attachment = json!({"spec": {"attacher": DRIVER, "nodeName": node, "source": source}});
                change(4, "", &format!("va-{name}"), (!gone).then_some(attachment))
            }
            4 => change(2, "", "class", (!gone).then(|| json!({"provisioner": DRIVER}))),
            _ => {
                let slot = u32::try_from(draw(3)).unwrap();
                let mut cell: Vec<u64> = (0..4).filter(|_| draw(2) == 0).collect();
                cell.sort_unstable();
                let row = Nodes::rows(3, &[slot]).u32(column::NAME, &[slot]).lists(column::PODS, &[&cell]);
                plugin.sync(row.delta());
                continue;
            }
        };
        plugin.objects(false, vec![change]);
        let new = pod(&[name, "b"]);
        plugin.prepare(1, &new).unwrap();
        if !plugin.classes.contains_key(&1) {
            continue;
        }
        let remembered = plugin.filter(1, &[]);
        plugin.attached.forget_all();
        assert_eq!(remembered, plugin.filter(1, &[]));
        answers[usize::from(remembered == [0b111])] += 1;
    }
    assert!(answers[0] > 100 && answers[1] > 100, "both answers come up: {answers:?}");
}
