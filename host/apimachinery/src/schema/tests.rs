use super::*;
use serde_json::json;
use std::sync::OnceLock;

/// The files that the API server embeds, as far as the tests of this crate need them.
pub(crate) fn set() -> &'static SchemaSet {
    static SET: OnceLock<SchemaSet> = OnceLock::new();
    SET.get_or_init(|| {
        SchemaSet::load(&[
            include_str!("../../../apiserver/data/schema/core_v1.txt"),
            include_str!("../../../apiserver/data/schema/apps_v1.txt"),
            include_str!("../../../apiserver/data/schema/meta_v1.txt"),
            include_str!("../../../apiserver/data/schema/apiextensions_v1.txt"),
        ])
        .unwrap()
    })
}

pub(crate) fn id(name: &str) -> TypeId {
    set().by_name(name).unwrap_or_else(|| panic!("no type {name}"))
}

fn deployment() -> TypeId {
    set().by_kind(&Gvk::new("apps", "v1", "Deployment")).unwrap()
}

#[test]
fn kinds_and_names_lead_to_types() {
    assert_eq!(id("io.k8s.api.apps.v1.Deployment"), deployment());
    let kind = set().get(deployment()).unwrap().kind.as_deref().unwrap();
    assert_eq!(
        (kind.plural.as_ref(), kind.list.as_ref(), kind.namespaced),
        ("deployments", "DeploymentList", true)
    );
    assert!(set().by_kind(&Gvk::new("apps", "v1", "DeploymentList")).is_some());
    assert!(set().by_kind(&Gvk::new("", "v1", "Node")).is_some());
}

#[track_caller]
fn mistyped(body: Value, message: &str) {
    let error = set().decode(deployment(), body.to_string().as_bytes()).unwrap_err();
    assert_eq!(error, DecodeError::Type { message: message.to_owned() });
}

#[test]
fn wrong_types_are_worded_as_go_does() {
    mistyped(
        json!({"spec": {"replicas": "x"}}),
        "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
    );
    mistyped(
        json!({"spec": {"replicas": 1.5}}),
        "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
    );
    mistyped(
        json!({"spec": {"replicas": 3_000_000_000_i64}}),
        "json: cannot unmarshal number 3000000000 into Go struct field DeploymentSpec.spec.replicas of type int32",
    );
    mistyped(
        json!({"spec": {"template": {"spec": {"containers": [{"env": [{"name": "a", "value": 1}]}]}}}}),
        "json: cannot unmarshal number into Go struct field EnvVar.spec.template.spec.containers.env.value of type string",
    );
    mistyped(
        json!({"spec": {"template": {"spec": {"containers": {}}}}}),
        "json: cannot unmarshal object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container",
    );
    mistyped(
        json!({"metadata": {"labels": {"a": true}}}),
        "json: cannot unmarshal bool into Go struct field ObjectMeta.metadata.labels of type string",
    );
    mistyped(
        json!({"spec": "x"}),
        "json: cannot unmarshal string into Go struct field Deployment.spec of type v1.DeploymentSpec",
    );
    mistyped(json!([1]), "json: cannot unmarshal array into Go value of type v1.Deployment");
    mistyped(
        json!({"spec": {"template": {"spec": {"containers": [{"resources": {"limits": {"cpu": "1x"}}}]}}}}),
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
    );
    mistyped(
        json!({"metadata": {"creationTimestamp": "soon"}}),
        "parsing time \"soon\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"soon\" as \"2006\"",
    );
}

#[test]
fn unknown_and_duplicate_fields_are_collected_and_left_out() {
    let body = r#"{"kind":"Deployment","spec":{"replica":1,"replicas":1,"replicas":2,
        "template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"a"},{"nmae":"b"}]}}}}"#;
    let decoded = set().decode(deployment(), body.as_bytes()).unwrap();
    assert_eq!(
        decoded.faults,
        [
            "duplicate field \"spec.replicas\"",
            "unknown field \"spec.replica\"",
            "unknown field \"spec.template.spec.containers[1].nmae\"",
        ]
    );
    assert_eq!(decoded.value["spec"]["replicas"], 2);
    assert_eq!(decoded.value["spec"]["template"]["spec"]["containers"], json!([{"name": "a"}, {}]));
    assert_eq!(
        decoded.strict().unwrap_err().to_string(),
        "strict decoding error: duplicate field \"spec.replicas\", unknown field \"spec.replica\", \
         unknown field \"spec.template.spec.containers[1].nmae\""
    );
}

#[test]
fn values_become_canonical() {
    let pod = id("api.core.v1.Pod");
    let body = json!({
        "metadata": {"labels": {}, "annotations": null, "creationTimestamp": "2026-01-02T03:04:05+01:00"},
        "spec": {"containers": [{"name": "a", "command": [], "resources": {"limits": {"cpu": 0.5, "memory": "1024Mi"}},
            "livenessProbe": {"tcpSocket": {"port": "http"}}}], "volumes": [{"name": "v", "emptyDir": {}}],
            "nodeSelector": {"a": null}},
    });
    let decoded = set().decode(pod, body.to_string().as_bytes()).unwrap();
    assert_eq!(
        decoded.value,
        json!({
            "metadata": {"creationTimestamp": "2026-01-02T02:04:05Z"},
            "spec": {"containers": [{"name": "a", "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}},
                "livenessProbe": {"tcpSocket": {"port": "http"}}}], "volumes": [{"name": "v", "emptyDir": {}}],
                "nodeSelector": {"a": ""}},
        })
    );
    let secret = id("api.core.v1.Secret");
    assert!(set().decode(secret, br#"{"data":{"a":"aGk="}}"#).is_ok());
    let error = set().decode(secret, br#"{"data":{"a":"a!"}}"#).unwrap_err();
    assert_eq!(error.to_string(), "illegal base64 data at input byte 1");
}

#[test]
fn defaults_of_list_keys_are_there() {
    let mut pod = json!({"spec": {"containers": [{"ports": [{"containerPort": 80}]}]}});
    set().apply_defaults(id("api.core.v1.Pod"), &mut pod);
    assert_eq!(pod["spec"]["containers"][0]["ports"][0]["protocol"], "TCP");
}

#[test]
fn openapi_is_upstreams() {
    let docs = openapi::Docs::index(&[
        include_str!("../../../apiserver/data/docs/core_v1.txt"),
        include_str!("../../../apiserver/data/docs/apps_v1.txt"),
        include_str!("../../../apiserver/data/docs/meta_v1.txt"),
    ]);
    let v3 = openapi::schemas(set(), &docs, [deployment()], openapi::Dialect::V3);
    let one = &v3["io.k8s.api.apps.v1.Deployment"];
    assert_eq!(one["description"], "Deployment enables declarative updates for Pods and ReplicaSets.");
    assert_eq!(
        one["x-kubernetes-group-version-kind"],
        json!([{"group": "apps", "kind": "Deployment", "version": "v1"}])
    );
    assert_eq!(
        one["properties"]["spec"]["allOf"],
        json!([{"$ref": "#/components/schemas/io.k8s.api.apps.v1.DeploymentSpec"}])
    );
    let spec = &v3["io.k8s.api.apps.v1.DeploymentSpec"];
    assert_eq!(spec["required"], json!(["selector", "template"]));
    assert_eq!(spec["properties"]["strategy"]["x-kubernetes-patch-strategy"], "retainKeys");
    let containers = &v3["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-list-type"], "map");
    assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
    assert!(
        containers["description"].as_str().unwrap().starts_with("List of containers belonging to the pod.")
    );
    assert_eq!(
        v3["io.k8s.apimachinery.pkg.api.resource.Quantity"]["oneOf"],
        json!([{"type": "string"}, {"type": "number"}])
    );
    // Every reference is there.
    let text = serde_json::to_string(&v3).unwrap();
    for reference in text.split("#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(v3.contains_key(name), "{name}");
    }
    let v2 = openapi::schemas(set(), &docs, [deployment()], openapi::Dialect::V2);
    assert_eq!(
        v2["io.k8s.api.apps.v1.Deployment"]["properties"]["spec"]["$ref"],
        "#/definitions/io.k8s.api.apps.v1.DeploymentSpec"
    );
}

fn tree() -> impl proptest::strategy::Strategy<Value = Value> {
    use proptest::prelude::*;
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-z0-9./:-]{0,6}".prop_map(Value::from),
    ];
    let names = || {
        proptest::sample::select(vec![
            "metadata",
            "spec",
            "status",
            "labels",
            "containers",
            "name",
            "env",
            "value",
            "resources",
            "limits",
            "cpu",
            "ports",
            "containerPort",
            "volumes",
            "emptyDir",
            "managedFields",
            "x",
        ])
    };
    leaf.prop_recursive(6, 40, 4, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            proptest::collection::btree_map(names().prop_map(str::to_owned), inner, 0..4)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

proptest::proptest! {
    #[test]
    fn decoding_never_panics_and_is_idempotent(value in tree()) {
        let pod = id("api.core.v1.Pod");
        if let Ok(decoded) = set().decode(pod, value.to_string().as_bytes()) {
            let mut again = decoded.value.clone();
            proptest::prop_assert_eq!(set().normalize(pod, &mut again).unwrap(), Vec::<String>::new());
            proptest::prop_assert_eq!(again, decoded.value);
        }
    }
}
