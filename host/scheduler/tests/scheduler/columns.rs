//! The numbers of the host are those of the SDK and of the WIT.

use orlop_scheduler::columns::{TABLE, dictionary};
use orlop_sdk::scheduler as sdk;

#[test]
fn the_wit_names_every_column() {
    let wit = include_str!("../../../../wit/scheduler/scheduler.wit");
    for (name, number) in TABLE {
        let row = if name == "extended" {
            format!("| {number} + 2k | `{name}` |")
        } else {
            format!("| {number} | `{name}` |")
        };
        assert!(wit.contains(&row), "{row}");
    }
}

#[test]
fn the_sdk_has_the_same_numbers() {
    use sdk::column as c;
    let numbers: Vec<u32> = TABLE.iter().map(|(_, n)| *n).collect();
    let theirs = [
        c::ALLOCATABLE_CPU,
        c::ALLOCATABLE_MEMORY,
        c::ALLOCATABLE_EPHEMERAL,
        c::ALLOCATABLE_PODS,
        c::REQUESTED_CPU,
        c::REQUESTED_MEMORY,
        c::REQUESTED_EPHEMERAL,
        c::REQUESTED_PODS,
        c::NONZERO_CPU,
        c::NONZERO_MEMORY,
        c::NAME,
        c::UNSCHEDULABLE,
        c::TAINTS,
        c::ZONE,
        c::LABELS,
        c::IMAGES,
        c::IMAGE_SIZES,
        c::HOST_PORTS,
        c::FEATURES,
        c::PODS,
        c::EXTENDED,
    ];
    assert_eq!(numbers, theirs);
    use sdk::dictionary as d;
    let theirs = [
        d::NAMES,
        d::LABELS,
        d::TAINT_SETS,
        d::ZONES,
        d::IMAGES,
        d::HOST_IPS,
        d::EXTENDED,
        d::PODS,
        d::FEATURES,
    ];
    let ours = [
        dictionary::NAMES,
        dictionary::LABELS,
        dictionary::TAINT_SETS,
        dictionary::ZONES,
        dictionary::IMAGES,
        dictionary::HOST_IPS,
        dictionary::EXTENDED,
        dictionary::PODS,
        dictionary::FEATURES,
    ];
    assert_eq!(ours.map(|n| u32::try_from(n).unwrap() + 1), theirs);
}
