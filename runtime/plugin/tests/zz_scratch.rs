#![allow(clippy::all, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "scratch")]
use orlop_plugin::scheduler::*;
use orlop_plugin::{PluginOptions, Runtime, RuntimeOptions};
use serde_json::{Value, json};
use std::time::Instant;

fn open(name: &str) -> orlop_plugin::Instance<SchedulerWorld> {
    let path = format!(
        "{}/../../target/wasm32-unknown-unknown/guest/orlop_plugin_{name}.wasm",
        env!("CARGO_MANIFEST_DIR")
    );
    let runtime = Runtime::new(&RuntimeOptions::default()).unwrap();
    let compiled = runtime.compile(&std::fs::read(path).unwrap()).unwrap();
    let mut options =
        PluginOptions { config: b"{}".to_vec(), ..PluginOptions::from_manifest(compiled.manifest()) };
    options.deadline = std::time::Duration::from_secs(60);
    options.limits.memory_bytes = 64 << 20;
    let plugin: orlop_plugin::Plugin<SchedulerWorld> = runtime.link(&compiled, options).unwrap();
    plugin.self_test().unwrap();
    plugin.instantiate().unwrap()
}

#[test]
fn all_load() {
    for name in [
        "scheduling_gates",
        "priority_sort",
        "default_binder",
        "default_preemption",
        "volume_binding",
        "volume_zone",
        "volume_restrictions",
        "node_volume_limits",
        "dynamic_resources",
        "node_declared_features",
    ] {
        let mut i = open(name);
        println!("{name} {:?}", i.prepare(1, b"{}").unwrap().unwrap());
        println!(
            "  gate {:?} sort {:?}",
            i.pre_enqueue(br#"{"spec":{"schedulingGates":[{"name":"a"}]}}"#).unwrap(),
            i.sort_key(br#"{"computed":{"priority":7}}"#).unwrap()
        );
    }
}

#[test]
fn scale() {
    const N: u32 = 5000;
    let names: Vec<String> = (0..N).map(|i| format!("node-{i}")).collect();
    let names: Vec<&str> = names.iter().map(|s| s.as_str()).collect();
    let labels: Vec<String> = (0..N)
        .map(|i| format!("kubernetes.io/hostname=node-{i}"))
        .chain((0..8).map(|i| format!("l{i}=x")))
        .collect();
    let labels: Vec<&str> = labels.iter().map(|s| s.as_str()).collect();
    let rows: Vec<u32> = (0..N).collect();
    let live = vec![u64::MAX; (N as usize).div_ceil(64)];
    let mut values = vec![];
    let mut offsets = vec![0u32];
    for i in 0..N {
        values.push(u64::from(i));
        for l in 0..8 {
            values.push(u64::from(N + l));
        }
        offsets.push(values.len() as u32);
    }
    let pods: Vec<String> = (0..N * 4)
        .map(|i| {
            json!({"computed":{"requestedClaims":[{"namespace":"shop","name":format!("c{i}")}]}}).to_string()
        })
        .collect();
    let pods: Vec<&str> = pods.iter().map(|s| s.as_str()).collect();
    let pvalues: Vec<u64> = (0..u64::from(N * 4)).collect();
    let poffsets: Vec<u32> = (0..=N).map(|i| i * 4).collect();
    let objects: Vec<(u32, String, String, Vec<u8>)> = {
        let mut o = vec![(
            2,
            String::new(),
            "local".to_string(),
            json!({"provisioner":"kubernetes.io/no-provisioner","volumeBindingMode":"WaitForFirstConsumer"})
                .to_string()
                .into_bytes(),
        )];
        for i in 0..N * 4 {
            let node = i / 4;
            o.push((1, String::new(), format!("pv{i}"), json!({"metadata":{"uid":format!("u{i}"),"resourceVersion":"1","labels":{"topology.kubernetes.io/zone":"a"}},"spec":{"csi":{"driver":"d","volumeHandle":format!("h{i}")},"capacity":{"storage":"100Gi"},"accessModes":["ReadWriteOnce"],"storageClassName":"local","nodeAffinity":{"required":{"nodeSelectorTerms":[{"matchExpressions":[{"key":"kubernetes.io/hostname","operator":"In","values":[format!("node-{node}")]}]}]}}},"status":{"phase":"Available"}}).to_string().into_bytes()));
            o.push((0, "shop".into(), format!("c{i}"), json!({"metadata":{"uid":format!("u{i}"),"resourceVersion":"1","annotations":{"pv.kubernetes.io/bind-completed":"yes"}},"spec":{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1Gi"}},"storageClassName":"local","volumeName":format!("pv{i}")},"status":{"phase":"Bound"}}).to_string().into_bytes()));
        }
        o.push((0, "shop".into(), "new".into(), json!({"metadata":{"uid":"n","resourceVersion":"1"},"spec":{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1Gi"}},"storageClassName":"local"}}).to_string().into_bytes()));
        for i in 0..N {
            o.push((3, String::new(), format!("node-{i}"), json!({"spec":{"drivers":[{"name":"d","allocatable":{"count":6}},{"name":"kubernetes.io/no-provisioner","allocatable":{"count":6}}]}}).to_string().into_bytes()));
        }
        o
    };
    for (name, lists) in [
        ("volume_binding", 64u32),
        ("volume_zone", 64),
        ("volume_restrictions", 68),
        ("node_volume_limits", 68),
    ] {
        let mut i = open(name);
        let changes: Vec<Change<'_>> = objects
            .iter()
            .filter(|o| o.0 < 3 || name == "node_volume_limits")
            .map(|(w, ns, n, o)| Change { watch: *w, namespace: ns, name: n, object: o })
            .collect();
        let t = Instant::now();
        for (k, part) in changes.chunks(500).enumerate() { i.update_objects(k == 0, part).unwrap(); }
        println!("{name}: objects {} in {:?}", changes.len(), t.elapsed());
        let mut dictionaries = vec![Dictionary { dictionary: 1, first: 0, entries: &names }];
        let list;
        if lists == 64 {
            dictionaries.push(Dictionary { dictionary: 2, first: 0, entries: &labels });
            list = ListColumn { column: 64, offsets: &offsets, values: &values };
        } else {
            dictionaries.push(Dictionary { dictionary: 8, first: 0, entries: &pods });
            list = ListColumn { column: 68, offsets: &poffsets, values: &pvalues };
        }
        let delta = Delta {
            full: true,
            slots: N,
            rows: &rows,
            live: &live,
            dictionaries: &dictionaries,
            s64_columns: &[],
            u32_columns: &[U32Column { column: 32, values: &rows }],
            list_columns: &[list],
        };
        let t = Instant::now();
        i.sync(&delta).unwrap();
        println!("  full sync {:?}", t.elapsed());
        for pod in [
            r#"{"computed":{"requestedClaims":[{"namespace":"shop","name":"new"}]}}"#,
            r#"{"computed":{"requestedClaims":[{"namespace":"shop","name":"c7"}]}}"#,
        ] {
            let t = Instant::now();
            let p = i.prepare(1, pod.as_bytes()).unwrap().unwrap();
            println!("  prepare {:?} flags {} {}", t.elapsed(), p.flags, p.message);
            if p.flags & 5 != 0 {
                continue;
            }
            for _ in 0..2 {
                let t = Instant::now();
                let m = i.filter(1, &[]).unwrap();
                println!("  filter {:?} fits {}", t.elapsed(), m.iter().map(|w| w.count_ones()).sum::<u32>());
            }
            let place = Placement {
                pod: 9,
                namespace: "shop",
                name: "p",
                uid: "u",
                fields: pod.as_bytes(),
                slot: 7,
                node: "node-7",
            };
            let t = Instant::now();
            let r = i.reserve(&place).unwrap();
            println!("  reserve {:?} {:?}", t.elapsed(), r);
        }
        let one = &objects[5];
        let t = Instant::now();
        i.update_objects(false, &[Change { watch: one.0, namespace: &one.1, name: &one.2, object: &one.3 }])
            .unwrap();
        println!("  one object {:?}", t.elapsed());
    }
    let _: Option<Value> = None;
}
