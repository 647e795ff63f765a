use super::*;
use crate::schema::tests::{id, set};
use proptest::prelude::*;
use serde_json::json;

/// A field that holds bytes.
fn bytes(number: u32, content: &[u8]) -> Vec<u8> {
    let mut out = vec![];
    varint(u64::from(number) << 3 | 2, &mut out);
    varint(content.len() as u64, &mut out);
    out.extend_from_slice(content);
    out
}

fn int(number: u32, value: i64) -> Vec<u8> {
    let mut out = vec![];
    varint(u64::from(number) << 3, &mut out);
    varint(value.cast_unsigned(), &mut out);
    out
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap());
}

#[test]
fn envelopes_open() {
    let meta = [bytes(1, b"apps/v1"), bytes(2, b"Deployment")].concat();
    let body = [MAGIC.to_vec(), bytes(1, &meta), bytes(2, b"raw"), bytes(3, b""), bytes(4, b"")].concat();
    let opened = envelope(&body).unwrap();
    assert_eq!(opened.gvk, Gvk::new("apps", "v1", "Deployment"));
    assert_eq!(opened.raw, b"raw");
    assert_eq!(envelope(b"{}").unwrap_err(), ProtobufError::NoPrefix);
    assert!(matches!(envelope(b"k8s\0\x0a\xff"), Err(ProtobufError::Malformed { .. })));
}

#[test]
fn pods_are_read() {
    // Numbers as in Kubernetes' generated.proto.
    let label = [bytes(1, b"app"), bytes(2, b"web")].concat();
    let created = int(1, 1_767_225_600);
    let metadata = [bytes(1, b"p"), bytes(2, b""), bytes(11, &label), bytes(8, &created)].concat();
    let limit = [bytes(1, b"cpu"), bytes(2, &bytes(1, b"500m"))].concat();
    let probe = [
        bytes(
            1,
            &bytes(2, &[bytes(1, b"/"), bytes(2, &[int(1, 0), int(2, 80), bytes(3, b"")].concat())].concat()),
        ),
        int(2, 0),
        int(6, 3),
    ]
    .concat();
    let container = [
        bytes(1, b"a"),
        bytes(2, b"busybox"),
        bytes(3, b"sh"),
        bytes(3, b"-c"),
        bytes(8, &bytes(1, &limit)),
        bytes(10, &probe),
        int(16, 0),
    ]
    .concat();
    let volume = [bytes(1, b"v"), bytes(2, &bytes(2, b""))].concat();
    let spec = [bytes(1, &volume), bytes(2, &container), bytes(3, b"Always"), int(4, 0), int(21, 0)].concat();
    let raw = [bytes(1, &metadata), bytes(2, &spec), bytes(3, b"")].concat();
    let mut pod = set().decode_protobuf(id("api.core.v1.Pod"), &raw).unwrap();
    assert_eq!(set().normalize(id("api.core.v1.Pod"), &mut pod).unwrap(), Vec::<String>::new());
    assert_eq!(
        pod,
        json!({"metadata": {"name": "p", "labels": {"app": "web"}, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"containers": [{"name": "a", "image": "busybox", "command": ["sh", "-c"],
                "resources": {"limits": {"cpu": "500m"}},
                "livenessProbe": {"httpGet": {"path": "/", "port": 80}, "failureThreshold": 3}}],
                "volumes": [{"name": "v", "emptyDir": {}}], "restartPolicy": "Always",
                "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false},
            "status": {}})
    );
}

#[test]
fn secrets_and_negative_numbers() {
    let entry = |value: &[u8]| [bytes(1, b"k"), bytes(2, value)].concat();
    let read = |value: &[u8]| {
        let raw = bytes(2, &entry(value));
        set().decode_protobuf(id("api.core.v1.Secret"), &raw).unwrap()["data"]["k"].clone()
    };
    assert_eq!(read(b"hi"), "aGk=");
    assert_eq!(read(b"h"), "aA==");
    assert_eq!(read(b"hi!"), "aGkh");
    assert_eq!(read(&[0xfb, 0xff]), "+/8=");
    let replicas = set().decode_protobuf(id("api.apps.v1.DeploymentSpec"), &int(1, -1)).unwrap();
    assert_eq!(replicas, json!({"replicas": -1}));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(raw in proptest::collection::vec(any::<u8>(), 0..64)) {
        let _ = envelope(&raw);
        let _ = set().decode_protobuf(id("api.core.v1.Pod"), &raw);
    }
}
