//! What is found by labels is what looking through all volumes finds.

use super::*;
use orlop_sdk::scheduler::ObjectChange;
use orlop_sdk::serde_json::{Value, json};

/// A small generator, so that each run is the same.
struct Draw(u64);

impl Draw {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    fn affinity(&mut self) -> Value {
        let expression = |key: &str, operator: &str, values: Vec<String>| json!({"key": key, "operator": operator, "values": values});
        let one = |expressions: Vec<Value>| json!({"nodeSelectorTerms": [{"matchExpressions": expressions}]});
        let (a, b) = (format!("{}", self.below(4)), format!("{}", self.below(4)));
        match self.below(6) {
            0 => Value::Null,
            1 => one(vec![expression("host", "In", vec![a, b])]),
            2 => one(vec![expression("zone", "In", vec![a])]),
            3 => one(vec![expression("host", "NotIn", vec![a, b])]),
            4 => one(vec![expression("host", "In", vec![a]), expression("zone", "In", vec![b])]),
            _ => json!({"nodeSelectorTerms": [
                {"matchExpressions": [expression("host", "In", vec![a])]},
                {"matchExpressions": [expression("zone", "In", vec![b])]},
            ]}),
        }
    }
}

#[test]
fn finding_by_labels_is_looking_through_all() {
    let mut draw = Draw(7);
    let mut found = 0;
    for _ in 0..200 {
        let mut storage = Storage::default();
        let put = |watch: u32, namespace: &str, name: String, object: Value| ObjectChange {
            watch,
            namespace: namespace.into(),
            name,
            object: Some(object),
        };
        let claim = json!({"spec": {"storageClassName": "s", "resources": {"requests": {"storage": "2"}}}});
        let mut objects = vec![put(0, "shop", "c".into(), claim)];
        for i in 0..draw.below(12) {
            let size = draw.below(9).to_string();
            let volume = json!({
                "spec": {
                    "storageClassName": "s",
                    "capacity": {"storage": size},
                    "nodeAffinity": {"required": draw.affinity()},
                },
                "status": {"phase": if draw.below(5) == 0 { "Released" } else { "Available" }},
            });
            objects.push(put(1, "", format!("pv-{i:02}"), volume));
        }
        storage.apply(true, objects);
        let key = ("shop".to_owned(), "c".to_owned());
        let claim = storage.claim("shop", "c").unwrap();
        let candidates = Candidates::of(&storage, &key, claim);
        for host in 0..5 {
            let (host, zone) = (host.to_string(), draw.below(5).to_string());
            let label = |name: &str| match name {
                "host" => Some(host.as_str()),
                "zone" => Some(zone.as_str()),
                _ => None,
            };
            let mut taken: Vec<&str> = Vec::new();
            // Take one after the other, until none is left.
            loop {
                let all = storage.of_class("s").filter(|(name, volume)| {
                    volume.suits(claim)
                        && volume.is_free_for(claim)
                        && volume.reaches(label)
                        && !taken.contains(name)
                });
                let smallest =
                    all.min_by_key(|(name, volume)| (volume.capacity, *name)).map(|(name, _)| name);
                assert_eq!(candidates.find(label, &taken), smallest);
                let Some(next) = smallest else { break };
                taken.push(next);
                found += 1;
            }
        }
    }
    assert!(found > 500, "the test finds volumes: {found}");
}
