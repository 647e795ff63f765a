//! Packing.

use super::*;

fn endpoints(range: std::ops::Range<usize>) -> Vec<Endpoint> {
    range
        .map(|i| Endpoint {
            addresses: vec![format!("10.0.0.{i:03}")],
            target_ref: Some(Target { uid: i.to_string(), ..Target::default() }),
            ..Endpoint::default()
        })
        .collect()
}

fn slice(name: &str, range: std::ops::Range<usize>) -> Slice {
    Slice {
        metadata: Meta { name: name.into(), labels: labels(&Service::default()), ..Meta::default() },
        address_type: "IPv4".into(),
        endpoints: endpoints(range),
        ports: vec![Port::default()],
    }
}

fn packed(existing: Vec<Slice>, wanted: Vec<Endpoint>) -> (Vec<usize>, Vec<(String, usize)>, Vec<String>) {
    let mut changes = Changes::default();
    pack(&Service::default(), &("IPv4".into(), vec![Port::default()]), existing, wanted, 10, &mut changes);
    (
        changes.creates.iter().map(|(_, e)| e.len()).collect(),
        changes.updates.iter().map(|s| (s.metadata.name.clone(), s.endpoints.len())).collect(),
        changes.deletes.iter().map(|s| s.metadata.name.clone()).collect(),
    )
}

#[test]
fn packs_with_few_writes() {
    let none: Vec<Slice> = Vec::new();
    assert_eq!(packed(none, endpoints(0..25)), (vec![10, 10, 5], vec![], vec![]));
    let two = || vec![slice("a", 0..10), slice("b", 10..15)];
    assert_eq!(packed(two(), endpoints(0..15)), (vec![], vec![], vec![]), "nothing to do");
    assert_eq!(packed(two(), endpoints(0..18)), (vec![], vec![("b".into(), 8)], vec![]), "fills the fullest");
    assert_eq!(packed(two(), endpoints(0..30)), (vec![10], vec![("b".into(), 10)], vec![]));
    assert_eq!(
        packed(two(), endpoints(3..16)),
        (vec![], vec![("a".into(), 8)], vec![]),
        "fills what changes"
    );
    assert_eq!(packed(two(), endpoints(0..10)), (vec![], vec![], vec!["b".into()]));
    assert_eq!(packed(two(), endpoints(20..22)), (vec![], vec![("a".into(), 2)], vec!["b".into()]));
}

#[test]
fn a_change_of_state_is_an_update_in_place() {
    let mut wanted = endpoints(0..5);
    wanted[2].conditions.ready = Some(false);
    assert_eq!(packed(vec![slice("a", 0..5)], wanted), (vec![], vec![("a".into(), 5)], vec![]));
}

#[test]
fn packing_again_changes_nothing() {
    for (before, after) in [(0, 7), (25, 31), (40, 3), (12, 12), (99, 100)] {
        let mut slices: Vec<Slice> = Vec::new();
        for wanted in [endpoints(0..before), endpoints(before / 2..after)] {
            let mut changes = Changes::default();
            let group = ("IPv4".to_owned(), vec![Port::default()]);
            pack(&Service::default(), &group, slices.clone(), wanted.clone(), 10, &mut changes);
            let gone: Vec<String> = changes.deletes.iter().map(|s| s.metadata.name.clone()).collect();
            slices.retain(|s| !gone.contains(&s.metadata.name));
            for update in changes.updates {
                let old = slices.iter_mut().find(|s| s.metadata.name == update.metadata.name).unwrap();
                *old = update;
            }
            for (_, endpoints) in changes.creates {
                slices
                    .push(Slice { endpoints, ..slice(&format!("{before}-{after}-{}", slices.len()), 0..0) });
            }
            let mut held: Vec<_> = slices.iter().flat_map(|s| s.endpoints.clone()).collect();
            held.sort_by(|a, b| a.addresses.cmp(&b.addresses));
            assert_eq!(held, wanted);
            assert_eq!(packed(slices.clone(), wanted), (vec![], vec![], vec![]));
        }
    }
}
