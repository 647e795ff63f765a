//! Feeds parsers and the plugin loader with damaged input.
//!
//! A *target* ([`targets`]) takes bytes and must neither panic, nor hang, nor break the promises that it checks. Inputs
//! are made from *seeds* ([`seeds`]), which are valid, by a mutator that knows bytes, JSON and the sections of
//! WebAssembly ([`mutate`]). Everything follows from one number, so a failure is found again.
//!
//! The tests run a bounded number of cases of each target, and every file below `corpus/`, which holds inputs that once
//! failed. For hours of it: `cargo run --release -p orlop-fuzz -- TARGET --seconds 3600`.

pub mod mutate;
pub mod random;
pub mod seeds;
pub mod targets;

use anyhow::{Context, Result, bail};
use mutate::Mutator;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use targets::Target;

/// Longest time that one case may take. Far above every deadline: machines that run tests are busy.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// When to stop.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// After so many cases.
    Cases(u64),
    /// After so long.
    Elapsed(Duration),
}

/// The folder of inputs that once failed.
#[must_use]
pub fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target)
}

/// Runs a target over its seeds, its corpus, and then over what becomes of them. Returns the number of cases.
/// `journal` is a file that holds the input of the moment, for failures that end the process.
///
/// # Errors
/// At the first failure; its input is put into the corpus.
pub fn run(target: &Target, seed: u64, until: Until, journal: Option<&Path>) -> Result<u64> {
    let begun = Instant::now();
    let mut inputs = (target.seeds)().with_context(|| format!("seeds of {}", target.name))?;
    for file in fs::read_dir(corpus(target.name)).into_iter().flatten() {
        inputs.push(fs::read(file?.path())?);
    }
    for input in &inputs {
        case(target, input)?;
    }
    let mut mutator = Mutator::new(seed, inputs);
    let mut cases = 0;
    loop {
        match until {
            Until::Cases(most) if cases >= most => return Ok(cases),
            Until::Elapsed(most) if begun.elapsed() >= most => return Ok(cases),
            _ => cases += 1,
        }
        let input = mutator.make();
        if let Some(journal) = journal {
            fs::write(journal, &input)?;
        }
        case(target, &input).with_context(|| format!("case {cases} of seed {seed}"))?;
    }
}

fn case(target: &Target, input: &[u8]) -> Result<()> {
    let begun = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    let taken = begun.elapsed();
    let fault = match outcome {
        Err(_) => "it panicked".to_owned(),
        Ok(Err(error)) => format!("{error:#}"),
        Ok(Ok(())) if taken > PATIENCE => format!("it took {taken:?}"),
        Ok(Ok(())) => return Ok(()),
    };
    let folder = corpus(target.name);
    fs::create_dir_all(&folder)?;
    let file = folder.join(orlop_plugin::Digest::of(input).hex());
    fs::write(&file, input)?;
    bail!("{}: {fault}; the input is {}", target.name, file.display())
}
