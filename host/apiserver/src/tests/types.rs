//! Types as `kubectl` meets them: a manifest goes in, comes back complete, and is shown in a table.

use super::*;

const TABLE: (&str, &str) = ("accept", "application/json;as=Table;v=v1;g=meta.k8s.io");

impl Fixture {
    /// Creates the object, and returns its row in the table.
    async fn row(&self, path: &str, object: &Value) -> Vec<(String, Value)> {
        self.post(path, object).await.ok();
        let name = object["metadata"]["name"].as_str().unwrap();
        let table = self.call(Caller::Admin, "GET", &format!("{path}/{name}"), &[TABLE], "").await.ok();
        let heads = table["columnDefinitions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["name"].as_str().unwrap().to_owned());
        heads.zip(table["rows"][0]["cells"].as_array().unwrap().iter().cloned()).collect()
    }
}

fn cell<'a>(row: &'a [(String, Value)], head: &str) -> &'a Value {
    &row.iter().find(|(name, _)| name == head).unwrap_or_else(|| panic!("no column {head}: {row:?}")).1
}

#[test]
fn every_type_is_made_and_shown() {
    run(async {
        let f = start().await;
        let template = json!({"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
        let selector = json!({"matchLabels": {"app": "a"}});
        let claim = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": "fast", "resources": {"requests": {"storage": "1Gi"}}});
        let cases = [
            (
                "/apis/apps/v1/namespaces/default/statefulsets",
                json!({"spec": {"replicas": 2, "serviceName": "s", "selector": selector, "template": template, "volumeClaimTemplates": [{"metadata": {"name": "d"}, "spec": claim}]}}),
                "Ready",
                json!("0/2"),
            ),
            (
                "/apis/apps/v1/namespaces/default/daemonsets",
                json!({"spec": {"selector": selector, "template": template}}),
                "Node Selector",
                json!("<none>"),
            ),
            (
                "/apis/apps/v1/namespaces/default/controllerrevisions",
                json!({"revision": 7, "data": {"spec": {}}}),
                "Revision",
                json!(7),
            ),
            (
                "/apis/policy/v1/namespaces/default/poddisruptionbudgets",
                json!({"spec": {"maxUnavailable": "25%", "selector": selector}}),
                "Max Unavailable",
                json!("25%"),
            ),
            (
                "/apis/scheduling.k8s.io/v1/priorityclasses",
                json!({"value": 1000}),
                "PreemptionPolicy",
                json!("PreemptLowerPriority"),
            ),
            (
                "/api/v1/persistentvolumes",
                json!({"spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce", "ReadOnlyMany"], "hostPath": {"path": "/x"}}}),
                "Access Modes",
                json!("RWO,ROX"),
            ),
            (
                "/api/v1/namespaces/default/persistentvolumeclaims",
                json!({"spec": claim}),
                "Status",
                json!("Pending"),
            ),
            (
                "/apis/storage.k8s.io/v1/storageclasses",
                json!({"provisioner": "x.io/p"}),
                "ReclaimPolicy",
                json!("Delete"),
            ),
            ("/apis/storage.k8s.io/v1/csidrivers", json!({"spec": {}}), "Modes", json!("Persistent")),
            (
                "/apis/storage.k8s.io/v1/csinodes",
                json!({"spec": {"drivers": [{"name": "d", "nodeID": "n", "topologyKeys": ["zone"]}]}}),
                "Drivers",
                json!(1),
            ),
            (
                "/apis/storage.k8s.io/v1/namespaces/default/csistoragecapacities",
                json!({"storageClassName": "fast", "capacity": "5Gi"}),
                "Capacity",
                json!("5Gi"),
            ),
            (
                "/apis/storage.k8s.io/v1/volumeattachments",
                json!({"spec": {"attacher": "d", "nodeName": "n", "source": {"persistentVolumeName": "v"}}}),
                "Attached",
                json!(false),
            ),
            (
                "/apis/storage.k8s.io/v1/volumeattributesclasses",
                json!({"driverName": "d", "parameters": {"iops": "1"}}),
                "DriverName",
                json!("d"),
            ),
            ("/apis/resource.k8s.io/v1/deviceclasses", json!({"spec": {}}), "Name", json!("x")),
            (
                "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims",
                json!({"spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "x"}}]}}}),
                "State",
                json!("pending"),
            ),
            (
                "/apis/resource.k8s.io/v1/namespaces/default/resourceclaimtemplates",
                json!({"spec": {"spec": {"devices": {}}}}),
                "Name",
                json!("x"),
            ),
            (
                "/apis/resource.k8s.io/v1/resourceslices",
                json!({"spec": {"driver": "d", "nodeName": "n1", "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}}}),
                "Node",
                json!("n1"),
            ),
            (
                "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
                json!({"roleRef": {"kind": "ClusterRole", "name": "view"}, "subjects": [{"kind": "Group", "name": "devs"}]}),
                "Groups",
                json!("devs"),
            ),
            (
                "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings",
                json!({"roleRef": {"kind": "ClusterRole", "name": "view"}}),
                "Role",
                json!("ClusterRole/view"),
            ),
            (
                "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles",
                json!({"rules": []}),
                "Name",
                json!("x"),
            ),
            (
                "/apis/orlop.dev/v1/pluginrevisions",
                json!({"spec": {"plugin": "p", "revision": 2, "config": {"any": [1]}}}),
                "Revision",
                json!(2),
            ),
        ];
        for (path, mut object, head, expected) in cases {
            object["metadata"] = json!({"name": "x"});
            let row = f.row(path, &object).await;
            assert_eq!(cell(&row, head), &expected, "{path}");
        }
        let documents = f.get("/openapi/v2").await.ok();
        assert!(documents["definitions"]["io.k8s.api.policy.v1.PodDisruptionBudget"].is_object());
        assert!(
            documents["paths"]["/apis/apps/v1/namespaces/{namespace}/statefulsets/{name}/scale"].is_object()
        );
    });
}

#[test]
fn only_status_writes_the_status() {
    run(async {
        let f = start().await;
        let path = "/api/v1/namespaces/default/persistentvolumeclaims";
        let mut claim = json!({"metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}}, "status": {"phase": "Bound"}});
        let made = f.post(path, &claim).await.ok();
        assert_eq!(
            (&made["status"]["phase"], &made["spec"]["volumeMode"]),
            (&json!("Pending"), &json!("Filesystem"))
        );
        claim["spec"]["volumeName"] = json!("v");
        f.put(&format!("{path}/c"), &claim).await.ok();
        let status = json!({"status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}, "spec": {"volumeName": "w"}});
        let bound = f.patch(&format!("{path}/c/status"), "merge-patch+json", &status).await.ok();
        assert_eq!((&bound["status"]["phase"], &bound["spec"]["volumeName"]), (&json!("Bound"), &json!("v")));
        let words = f
            .patch(&format!("{path}/c"), "merge-patch+json", &json!({"spec": {"volumeName": "w"}}))
            .await
            .refused(422);
        assert!(words.contains("spec is immutable after creation except resources.requests"), "{words}");
    });
}

#[test]
fn a_fresh_cluster_has_the_systems_priority_classes() {
    run(async {
        let f = start().await;
        let path = "/apis/scheduling.k8s.io/v1/priorityclasses";
        for (name, value) in
            [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)]
        {
            assert_eq!(f.get(&format!("{path}/{name}")).await.ok()["value"], value);
        }
        let mine = json!({"metadata": {"name": "system-mine"}, "value": 1});
        let words = f.post(path, &mine).await.refused(422);
        assert!(words.contains("reserved for system use only"), "{words}");
        let change =
            f.patch(&format!("{path}/system-node-critical"), "merge-patch+json", &json!({"value": 1})).await;
        assert!(change.refused(422).contains("value: Forbidden: may not be changed in an update."));
        let set = json!({"metadata": {"name": "db"}, "spec": {"replicas": 1, "serviceName": "s", "selector": {"matchLabels": {"app": "a"}},
            "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
        let sets = "/apis/apps/v1/namespaces/default/statefulsets";
        f.post(sets, &set).await.ok();
        let scale = json!({"spec": {"replicas": 4}});
        f.patch(&format!("{sets}/db/scale"), "merge-patch+json", &scale).await.ok();
        let scaled = f.get(&format!("{sets}/db")).await.ok();
        assert_eq!((&scaled["spec"]["replicas"], &scaled["metadata"]["generation"]), (&json!(4), &json!(2)));
    });
}
