//! Reserve, unreserve, pre-bind.

use super::*;

const TIMED_OUT: &str = "binding volumes: timed out waiting for the condition";

fn waits() -> Verdict {
    Verdict::wait(Duration::from_secs(60), TIMED_OUT)
}

fn local() -> Cluster {
    let objects = vec![
        in_shop(0, "c", claim("c", "wait", "1Gi")),
        in_shop(0, "d", claim("d", "wait", "1Gi")),
        pv("pv-0", volume("wait", "1Gi", Some("n0"))),
        pv("pv-1", volume("wait", "1Gi", Some("n1"))),
    ];
    Cluster::new(&["c"], objects)
}

#[test]
fn a_reserved_volume_is_nobody_elses() {
    let mut cluster = local();
    assert_eq!(cluster.fits(), [true, true, false]);
    let first = cluster.placement(1, 0);
    cluster.plugin.reserve(first.clone()).unwrap();
    // The claim's volume is chosen; another claim finds the other volume only.
    assert_eq!(cluster.fits(), [true, false, false]);
    cluster.claims = vec!["d".into()];
    let other = cluster.plugin.prepare(2, &cluster.pod()).unwrap();
    assert_eq!(other.rejected, None);
    assert_eq!(cluster.plugin.filter(2, &[0, 1, 2]), [0b010]);
    let late = cluster.placement(2, 0);
    assert_eq!(
        cluster.plugin.reserve(late.clone()).unwrap_err(),
        "node(s) didn't find available persistent volumes to bind"
    );
    cluster.plugin.unreserve(late);
    assert_eq!(cluster.plugin.filter(2, &[0, 1, 2]), [0b010], "only the pod that has it gives it back");
    cluster.plugin.unreserve(first);
    assert_eq!(cluster.plugin.filter(2, &[0, 1, 2]), [0b011]);
}

#[test]
fn a_volume_is_written_and_awaited() {
    let mut cluster = local();
    let placement = cluster.placement(1, 1);
    cluster.plugin.reserve(placement.clone()).unwrap();
    let (verdict, writes) = cluster.plugin.pre_bind(placement.clone());
    assert_eq!(verdict, waits());
    let expected = json!([{
        "op": "patch", "apiVersion": "v1", "resource": "persistentvolumes", "name": "pv-1",
        "uid": "uid-pv", "resourceVersion": "1",
        "body": {
            "metadata": {"annotations": {"pv.kubernetes.io/bound-by-controller": "yes"}},
            "spec": {"claimRef": {
                "kind": "PersistentVolumeClaim", "apiVersion": "v1", "namespace": "shop", "name": "c",
                "uid": "uid-c", "resourceVersion": "1",
            }},
        },
    }]);
    assert_eq!(to_value(&writes).unwrap(), expected);
    assert_eq!(cluster.plugin.pre_bind(placement.clone()), (waits(), vec![]), "the write is not seen yet");

    let mut written = volume("wait", "1Gi", Some("n1"));
    written["metadata"]["resourceVersion"] = "2".into();
    written["spec"]["claimRef"] = json!({"namespace": "shop", "name": "c", "uid": "uid-c"});
    cluster.change(pv("pv-1", written.clone()));
    assert_eq!(cluster.plugin.pre_bind(placement.clone()), (waits(), vec![]), "the claim is not bound yet");
    assert_eq!(cluster.fits(), [false, true, false], "the API now says what was assumed");
    cluster.change(in_shop(0, "c", bound_claim("c", "pv-1")));
    assert_eq!(cluster.plugin.pre_bind(placement), (Verdict::Allow, vec![]));
    assert!(cluster.plugin.bookings.is_empty() && cluster.prepared.skip_placing);
}

#[test]
fn a_volume_that_was_made_for_the_claim_gets_its_uid() {
    let mut cluster = local();
    let mut made = volume("wait", "1Gi", Some("n0"));
    made["spec"]["claimRef"] = json!({"namespace": "shop", "name": "c"});
    cluster.change(pv("pv-0", made));
    let placement = cluster.placement(1, 0);
    cluster.plugin.reserve(placement.clone()).unwrap();
    let (_, writes) = cluster.plugin.pre_bind(placement);
    let [write] = &writes[..] else { panic!("one write is due: {writes:?}") };
    assert_eq!(write.body.pointer("/spec/claimRef/uid"), Some(&json!("uid-c")));
    assert_eq!(write.body.get("metadata"), None, "its author bound it");
}

#[test]
fn what_is_undone_meanwhile_rejects_the_pod() {
    let reset = |change: ObjectChange| {
        let mut cluster = local();
        let placement = cluster.placement(1, 0);
        cluster.plugin.reserve(placement.clone()).unwrap();
        cluster.plugin.pre_bind(placement.clone());
        cluster.change(change);
        let (verdict, writes) = cluster.plugin.pre_bind(placement);
        assert!(writes.is_empty());
        verdict
    };
    let mut later = volume("wait", "1Gi", Some("n0"));
    later["metadata"]["resourceVersion"] = "3".into();
    assert_eq!(
        reset(pv("pv-0", later.clone())),
        Verdict::reject("binding volumes: ClaimRef got reset for pv \"pv-0\"")
    );
    assert_eq!(
        reset(changed(1, "", "pv-0", None)),
        Verdict::reject(
            "binding volumes: failed to check binding: could not find v1.PersistentVolume \"pv-0\""
        )
    );
    let mut moved = volume("wait", "1Gi", Some("n2"));
    moved["metadata"]["resourceVersion"] = "3".into();
    assert_eq!(
        reset(pv("pv-0", moved)),
        Verdict::reject(
            "binding volumes: pv \"pv-0\" node affinity doesn't match node \"n0\": no matching NodeSelectorTerms"
        )
    );
}

#[test]
fn a_claim_is_sent_to_its_node_and_awaited() {
    let mut cluster = Cluster::new(&["c"], vec![in_shop(0, "c", claim("c", "make", "1Gi"))]);
    let placement = cluster.placement(7, 2);
    cluster.plugin.reserve(placement.clone()).unwrap();
    assert_eq!(cluster.fits(), [false, false, true], "other pods with the claim go to the same node");
    let (verdict, writes) = cluster.plugin.pre_bind(placement.clone());
    assert_eq!(verdict, waits());
    let expected = json!([{
        "op": "patch", "apiVersion": "v1", "resource": "persistentvolumeclaims", "namespace": "shop", "name": "c",
        "uid": "uid-c", "resourceVersion": "1",
        "body": {"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "n2"}}},
    }]);
    assert_eq!(to_value(&writes).unwrap(), expected);

    let mut sent = claim("c", "make", "1Gi");
    sent["metadata"]["resourceVersion"] = "2".into();
    sent["metadata"]["annotations"] = json!({"volume.kubernetes.io/selected-node": "n2"});
    cluster.change(in_shop(0, "c", sent.clone()));
    assert_eq!(cluster.plugin.pre_bind(placement.clone()), (waits(), vec![]));
    let mut failed = sent.clone();
    failed["metadata"]["resourceVersion"] = "3".into();
    failed["metadata"]["annotations"] = json!({});
    let mut made = sent;
    made["metadata"]["annotations"]["pv.kubernetes.io/bind-completed"] = "yes".into();
    made["spec"]["volumeName"] = "pv-new".into();
    cluster.change(in_shop(0, "c", made));
    assert_eq!(cluster.plugin.pre_bind(placement.clone()), (waits(), vec![]), "the volume is not seen yet");
    cluster.change(in_shop(0, "c", failed));
    assert_eq!(
        cluster.plugin.pre_bind(placement.clone()),
        (Verdict::reject("binding volumes: provisioning failed for PVC \"c\""), vec![])
    );
    cluster.plugin.unreserve(placement);
    assert_eq!(cluster.fits(), [true; NODES]);
}

#[test]
fn a_fresh_instance_books_what_an_older_one_had_reserved() {
    let mut cluster = local();
    let (verdict, writes) = cluster.plugin.pre_bind(cluster.placement(1, 0));
    assert_eq!((verdict, writes.len()), (waits(), 1));
    let (verdict, writes) = cluster.plugin.pre_bind(cluster.placement(2, 2));
    let refused = Verdict::reject("node(s) didn't find available persistent volumes to bind");
    assert_eq!((verdict, writes.len()), (refused, 0));
}
