use super::*;
use orlop_sdk::scheduler::testing::Nodes;
use orlop_sdk::scheduler::{DictionaryDelta, column, test_bit};
use orlop_sdk::serde_json::json;

/// One node for each list of pods, and one without pods; `c` is ReadWriteOncePod, `shared` is not.
fn plugin(nodes: &[&[Value]]) -> VolumeRestrictions {
    let mut plugin = VolumeRestrictions::new(b"{}").unwrap();
    let claim = |name: &str, mode: &str| ObjectChange {
        watch: 0,
        namespace: "shop".into(),
        name: name.into(),
        object: Some(json!({"spec": {"accessModes": [mode]}})),
    };
    plugin.objects(true, vec![claim("c", "ReadWriteOncePod"), claim("shared", "ReadWriteMany")]);
    let entries: Vec<String> = nodes.iter().flat_map(|n| n.iter()).map(Value::to_string).collect();
    let entries: Vec<&str> = entries.iter().map(String::as_str).collect();
    let mut next = 0_u64;
    let mut cells: Vec<Vec<u64>> = Vec::new();
    for pods in nodes {
        let first = next;
        next += u64::try_from(pods.len()).unwrap();
        cells.push((first..next).collect());
    }
    cells.push(Vec::new());
    let cells: Vec<&[u64]> = cells.iter().map(Vec::as_slice).collect();
    let slots = u32::try_from(cells.len()).unwrap();
    plugin.sync(Nodes::new(slots).dictionary(dictionary::PODS, &entries).lists(column::PODS, &cells).delta());
    plugin
}

fn uses(claim: &str) -> Value {
    json!({"computed": {"requestedClaims": [{"namespace": "shop", "name": claim}]}})
}

fn volume(source: Value) -> Value {
    json!({"spec": {"volumes": [{}, source]}})
}

fn fits(plugin: &mut VolumeRestrictions, nodes: usize) -> Vec<bool> {
    let mask = plugin.filter(1, &[]);
    (0..nodes).map(|slot| test_bit(&mask, slot)).collect()
}

#[test]
fn disks_of_two_pods_on_a_node() {
    let gce = |name: &str, reads: bool| json!({"gcePersistentDisk": {"pdName": name, "readOnly": reads}});
    let aws = |id: &str| json!({"awsElasticBlockStore": {"volumeID": id, "readOnly": true}});
    let iscsi = |iqn: &str, reads: bool| json!({"iscsi": {"iqn": iqn, "readOnly": reads}});
    let rbd = |monitors: Value, image: &str, reads: bool| json!({"rbd": {"monitors": monitors, "pool": "p", "image": image, "readOnly": reads}});
    let cases = [
        (gce("a", false), gce("a", false), false),
        (gce("a", true), gce("a", false), false),
        (gce("a", true), gce("a", true), true),
        (gce("a", false), gce("b", false), true),
        (aws("a"), aws("a"), false),
        (aws("a"), aws("b"), true),
        (iscsi("a", true), iscsi("a", false), false),
        (iscsi("a", true), iscsi("a", true), true),
        (rbd(json!(["m", "n"]), "i", false), rbd(json!(["n", "o"]), "i", true), false),
        (rbd(json!(["m"]), "i", false), rbd(json!(["o"]), "i", false), true),
        (rbd(json!(["m"]), "i", false), rbd(json!(["m"]), "j", false), true),
        (rbd(json!(["m"]), "i", true), rbd(json!(["m"]), "i", true), true),
        (gce("a", false), aws("a"), true),
    ];
    for (new, placed, together) in cases {
        let mut plugin = plugin(&[&[volume(placed.clone())]]);
        let prepared = plugin.prepare(1, &volume(new.clone())).unwrap();
        assert_eq!(prepared, Prepared { skip_filter: false, ..Prepared::skip() });
        assert_eq!(fits(&mut plugin, 2), [together, true], "{new} beside {placed}");
        assert_eq!(plugin.explain(1, &[0]).reasons, [Reason::new(if together { IN_USE } else { DISK })]);
    }
}

#[test]
fn a_claim_for_one_pod_is_taken_everywhere() {
    let mut free = plugin(&[&[uses("shared")]]);
    free.prepare(1, &uses("c")).unwrap();
    assert_eq!(fits(&mut free, 2), [true, true]);
    let mut plugin = plugin(&[&[uses("shared"), uses("c")]]);
    let prepared = plugin.prepare(1, &uses("c")).unwrap();
    assert!(!prepared.skip_filter && prepared.reads_objects);
    assert_eq!(fits(&mut plugin, 2), [false, false]);
    assert_eq!(plugin.explain(1, &[1]).reasons, [Reason::new(IN_USE)]);
    assert!(plugin.prepare(2, &uses("shared")).unwrap().skip_filter);
}

#[test]
fn the_claim_of_another_namespace_is_another_claim() {
    let other = json!({"computed": {"requestedClaims": [{"namespace": "other", "name": "c"}]}});
    let mut plugin = plugin(&[&[other]]);
    plugin.prepare(1, &uses("c")).unwrap();
    assert_eq!(fits(&mut plugin, 2), [true, true]);
}

#[test]
fn missing_claims_and_pods_without_any() {
    let mut plugin = plugin(&[]);
    let rejected = plugin.prepare(1, &uses("gone")).unwrap();
    assert_eq!(rejected.rejected, Some(Reason::unresolvable("persistentvolumeclaim \"gone\" not found")));
    assert!(rejected.reads_objects);
    assert_eq!(plugin.prepare(2, &json!({})).unwrap(), Prepared::skip());
}

#[test]
fn a_class_is_stale_when_its_claim_is_taken_or_given_back() {
    let mut plugin = plugin(&[&[uses("shared")]]);
    plugin.prepare(1, &uses("c")).unwrap();
    plugin.prepare(2, &volume(json!({"awsElasticBlockStore": {"volumeID": "a"}}))).unwrap();
    let placed = |cell: &[u64]| Nodes::rows(2, &[1]).lists(column::PODS, &[cell]).delta();
    let mut come = placed(&[1]);
    let entries = vec![uses("c").to_string()];
    come.dictionaries.push(DictionaryDelta { dictionary: dictionary::PODS, first: 1, entries });
    assert_eq!(plugin.sync(come).stale, Stale::Classes(vec![1]));
    assert_eq!(plugin.sync(placed(&[1])).stale, Stale::Nothing, "the same again");
    assert_eq!(plugin.sync(placed(&[0, 1])).stale, Stale::Nothing);
    assert_eq!(fits(&mut plugin, 2), [false, false]);
    assert_eq!(plugin.sync(placed(&[])).stale, Stale::Classes(vec![1]));
    assert_eq!(fits(&mut plugin, 2), [true, true]);
}

#[test]
fn eviction_frees_the_claim_for_the_node_of_its_pod() {
    let disk = volume(json!({"awsElasticBlockStore": {"volumeID": "a"}}));
    let mut plugin = plugin(&[&[uses("c"), disk.clone()], std::slice::from_ref(&disk)]);
    plugin.prepare(1, &uses("c")).unwrap();
    let rows = || Nodes::rows(3, &[0, 0, 1]).lists(column::PODS, &[&[1], &[0], &[]]).delta();
    assert_eq!(plugin.overlay(1, rows()), [0b001]);
    plugin.prepare(2, &disk).unwrap();
    assert_eq!(plugin.overlay(2, rows()), [0b110]);
    assert_eq!(fits(&mut plugin, 3), [false, false, false], "nothing stays of it");
}
