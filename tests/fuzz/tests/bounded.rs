//! Some cases of every target, the same in every run; for more see `docs/operations.md`.

use anyhow::Result;
use orlop_fuzz::{Until, run, targets};

fn bounded(name: &str, cases: u64) -> Result<()> {
    let target = targets::ALL.iter().find(|t| t.name == name);
    let target = target.ok_or_else(|| anyhow::anyhow!("there is no target {name}"))?;
    run(target, 0, Until::Cases(cases), None).map(drop)
}

#[test]
fn manifests() -> Result<()> {
    bounded("manifest", 4_000)
}

#[test]
fn files_of_plugins() -> Result<()> {
    bounded("inspect", 1_500)
}

#[test]
fn plugins_from_bytes_to_answers() -> Result<()> {
    bounded("load", 1_500)
}

#[test]
fn bodies_of_requests() -> Result<()> {
    bounded("document", 4_000)
}

#[test]
fn patches() -> Result<()> {
    bounded("patch", 4_000)
}

#[test]
fn selectors_and_quantities() -> Result<()> {
    bounded("text", 20_000)
}

#[test]
fn scheduler_configurations() -> Result<()> {
    bounded("configuration", 2_000)
}
