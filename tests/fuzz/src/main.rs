//! Feeds one target for as long as one likes.

use anyhow::{Context, Result};
use clap::Parser;
use orlop_fuzz::{Until, run, targets};
use std::time::Duration;

/// Feeds a parser or the plugin loader with damaged input, until it fails or the time is over.
#[derive(Parser)]
struct Options {
    /// manifest, inspect, load, document, patch, text or configuration
    target: String,
    /// How long.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// What the inputs follow from; another number, other inputs.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let names = targets::ALL.map(|t| t.name).join(", ");
    let target = targets::ALL.iter().find(|t| t.name == options.target);
    let target =
        target.with_context(|| format!("there is no target {}; there are {names}", options.target))?;
    let journal = std::env::temp_dir().join(format!("orlop-fuzz-{}-{}", target.name, std::process::id()));
    println!("the input of the moment is in {}, should the process end", journal.display());
    let until = Until::Elapsed(Duration::from_secs(options.seconds));
    let cases = run(target, options.seed, until, Some(&journal))?;
    std::fs::remove_file(&journal).context("the journal")?;
    println!("{}: {cases} cases, none failed", target.name);
    Ok(())
}
