//! What needs no cluster: new, build, test, bench, replay, diff.

use super::inspect::load;
use super::{
    BenchArgs, BuildArgs, DiffArgs, ModuleArgs, NewArgs, ReplayArgs, TestArgs, Verdict, opener, show,
};
use anyhow::{Context, Result, bail};
use orlop_plugin::Compiled;
use orlop_plugin_tools::bench::{Bench, Report, Tolerance};
use orlop_plugin_tools::compare::{self, Comparison};
use orlop_plugin_tools::golden::{self, difference};
use orlop_plugin_tools::project::Project;
use orlop_plugin_tools::record;
use orlop_plugin_tools::replay;
use orlop_plugin_tools::template::{New, find_sdk};
use orlop_plugin_tools::workbench::Workbench;
use orlop_plugin_tools::{builder, record::Outcome};
use serde_json::Value;
use std::path::{Path, PathBuf};

pub(super) fn new(args: NewArgs) -> Result<Verdict> {
    let sdk = match args.sdk {
        Some(sdk) => {
            if !sdk.join("Cargo.toml").is_file() {
                bail!(
                    "--sdk {}: there is no SDK; it is plugins/sdk in a clone of the repository",
                    sdk.display()
                );
            }
            Some(sdk)
        }
        None => [std::env::current_dir().ok(), std::env::current_exe().ok()]
            .into_iter()
            .flatten()
            .find_map(|from| find_sdk(&from)),
    };
    let sdk = match sdk {
        Some(sdk) => {
            Some(std::fs::canonicalize(&sdk).with_context(|| format!("cannot use {}", sdk.display()))?)
        }
        None => None,
    };
    let new = New { name: args.name, kind: args.kind.into(), language: args.lang, parent: args.parent, sdk };
    let (folder, files) = new.make()?;
    for file in files {
        println!("{}", folder.join(file).display());
    }
    let dir = folder.display();
    println!("\nNext:\n  cd {dir}\n  orlop plugin build\n  orlop plugin test\n  orlop plugin bench");
    Ok(Verdict::Yes)
}

pub(super) fn build(args: &BuildArgs) -> Result<Verdict> {
    let project = Project::load(&args.folder)?;
    let (module, found) = builder::build(&project)?;
    // What links and passes its self-test here does so in a cluster.
    let workbench = workbench()?;
    let wasm = std::fs::read(&module).with_context(|| format!("cannot read {}", module.display()))?;
    let compiled = workbench.load(&wasm).context("the module would be refused by the host")?;
    match workbench.self_test(&compiled, &Value::Null) {
        Ok(()) => {}
        // It may need a configuration, which is not known here.
        Err(orlop_plugin::PluginError::Refused { stage: "init", message }) => {
            eprintln!("note: without a configuration it does not start: {message}");
        }
        Err(error) => return Err(error).context("the module would be refused by the host"),
    }
    println!("{} ({}, {})", module.display(), show::bytes(found.size as u64), found.digest);
    Ok(Verdict::Yes)
}

/// A workbench with a cache, where there is a place for one: a plugin with an interpreter inside takes
/// many seconds to compile.
fn workbench() -> Result<Workbench> {
    let cached = compiled().and_then(|folder| Workbench::deterministic(opener::open, Some(folder)).ok());
    match cached {
        Some(workbench) => Ok(workbench),
        None => Workbench::deterministic(opener::open, None).context("cannot start the plugin runtime"),
    }
}

/// The folder of compiled plugins of this user.
fn compiled() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let caches = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?;
    caches.is_absolute().then(|| caches.join("orlop/plugins"))
}

/// The module of a folder.
fn module(project: &Project, args: &ModuleArgs) -> Result<PathBuf> {
    let module = args.module.clone().unwrap_or_else(|| project.module());
    if !module.is_file() {
        bail!("{} is missing; run `orlop plugin build` first", module.display());
    }
    Ok(module)
}

fn compile(workbench: &Workbench, module: &Path) -> Result<Compiled> {
    let (wasm, _) = load(module)?;
    workbench.load(&wasm).with_context(|| format!("{} would be refused by the host", module.display()))
}

pub(super) fn test(args: &TestArgs) -> Result<Verdict> {
    let project = Project::load(&args.folder)?;
    let tests = golden::load(&project.tests())?;
    let workbench = workbench()?;
    let plugin = compile(&workbench, &module(&project, &args.module)?)?;
    let (mut passed, mut failed) = (0, 0);
    for test in &tests {
        let found = test.run(&workbench, &plugin)?;
        if args.log {
            workbench.take_log().iter().for_each(|line| eprintln!("{}: {line}", test.name()));
        }
        let expected = test.expected()?;
        let differs = expected.as_ref().map_or(Some(String::new()), |e| difference(e, &found));
        match (differs, args.update) {
            (None, _) => {
                passed += 1;
                println!("ok       {}", test.name());
            }
            (Some(_), true) => {
                test.update(&found)?;
                passed += 1;
                println!("updated  {}", test.name());
            }
            (Some(shown), false) => {
                failed += 1;
                println!("FAILED   {}", test.name());
                if expected.is_none() {
                    println!("  there is no {}; --update writes it", test.expected_path().display());
                } else {
                    print!("{shown}");
                }
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 {
        return Ok(Verdict::Yes);
    }
    println!("`-` is what was expected, `+` what came out; where `+` is right, run with --update");
    Ok(Verdict::No)
}

pub(super) fn bench(args: &BenchArgs) -> Result<Verdict> {
    let project = Project::load(&args.folder)?;
    let tests = golden::load(&project.tests())?;
    let before = args.against.as_deref().map(Report::read).transpose()?;
    let (wasm, _) = load(&module(&project, &args.module)?)?;
    let bench =
        Bench { wasm: &wasm, tests: &tests, nodes: args.nodes, open_scheduler: opener::open, cache: None };
    let report = bench.run()?;
    let rows: Vec<[String; 5]> = report
        .hooks
        .iter()
        .map(|(hook, cost)| {
            [
                hook.clone(),
                cost.units.to_string(),
                format!("{:.1}", cost.nanoseconds),
                format!("{:.1}", cost.fuel),
                #[expect(clippy::cast_precision_loss, reason = "a figure for a reader")]
                {
                    format!("{:.1}", cost.nanoseconds * cost.units as f64 / 1000.0)
                },
            ]
        })
        .collect();
    show::table(["HOOK", "UNITS", "NS/UNIT", "FUEL/UNIT", "US/CALL"], &rows)?;
    println!("memory: {}", show::bytes(report.memory_bytes));
    if let Some(file) = &args.save {
        let text = serde_json::to_string_pretty(&report)? + "\n";
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    let Some(before) = before else { return Ok(Verdict::Yes) };
    if before.nodes != report.nodes {
        bail!(
            "the saved figures are of {} nodes, these of {}; use --nodes {}",
            before.nodes,
            report.nodes,
            before.nodes
        );
    }
    let tolerance = Tolerance { exact: args.tolerance, time: args.time_tolerance };
    let regressions = report.regressions(&before, tolerance);
    for r in &regressions {
        let percent = if r.before > 0.0 { (r.now / r.before - 1.0) * 100.0 } else { f64::INFINITY };
        println!("WORSE    {}: {:.1} -> {:.1} (+{percent:.0} %)", r.what, r.before, r.now);
    }
    if regressions.is_empty() {
        println!("no figure is worse than before");
        return Ok(Verdict::Yes);
    }
    Ok(Verdict::No)
}

pub(super) fn replay(args: &ReplayArgs) -> Result<Verdict> {
    let reader = record::open(&args.recording)?;
    let workbench = workbench()?;
    let plugin = compile(&workbench, &args.module)?;
    let result = replay::replay(&workbench, &plugin, reader)?;
    let rows: Vec<[String; 3]> = result
        .hooks
        .iter()
        .map(|(hook, (calls, different))| [(*hook).to_owned(), calls.to_string(), different.to_string()])
        .collect();
    show::table(["HOOK", "CALLS", "DIFFERENT"], &rows)?;
    for failure in &result.not_opened {
        println!("an instance could not be made: {failure}");
    }
    for d in &result.differences {
        println!("call {}, {}:", d.number, d.call.hook());
        print!("{}", difference(&as_json(&d.recorded), &as_json(&d.replayed)).unwrap_or_default());
    }
    let (calls, different) = (result.calls(), result.different());
    println!("{calls} calls, {different} answered differently");
    if result.dropped > 0 {
        println!("note: the recording lacks {} calls, for which its file was too slow", result.dropped);
    }
    if result.timed_out > 0 {
        println!(
            "note: {} calls missed their deadline when they were recorded, and were not compared",
            result.timed_out
        );
    }
    let digest = plugin.digest().to_string();
    if let Some(other) = result.digests.iter().find(|d| **d != digest) {
        println!("note: recorded was {other}, asked was {digest}; `orlop plugin diff` says more");
    } else if different > 0 {
        println!("the same module answered differently: it is not deterministic");
    }
    Ok(if result.is_same() { Verdict::Yes } else { Verdict::No })
}

fn as_json(outcome: &Outcome) -> Value {
    serde_json::to_value(outcome).unwrap_or_default()
}

pub(super) fn diff(args: &DiffArgs) -> Result<Verdict> {
    let workbench = workbench()?;
    let (old, new) = (compile(&workbench, &args.old)?, compile(&workbench, &args.new)?);
    let comparison = match &args.recording {
        Some(file) => compare::over_recording(&workbench, &old, &new, record::open(file)?)?,
        None => {
            let folder = args.tests.clone().unwrap_or_else(|| PathBuf::from("tests"));
            compare::over_golden(&workbench, &old, &new, &golden::load(&folder)?)?
        }
    };
    print_comparison(&comparison)?;
    Ok(if comparison.different() == 0 { Verdict::Yes } else { Verdict::No })
}

fn print_comparison(comparison: &Comparison) -> Result<()> {
    let rows: Vec<[String; 3]> = comparison
        .parts
        .iter()
        .map(|(name, part)| [name.clone(), part.asked.to_string(), part.different.to_string()])
        .collect();
    show::table(["WHAT", "DECISIONS", "DIFFERENT"], &rows)?;
    for (name, part) in comparison.parts.iter().filter(|(_, p)| p.different > 0) {
        println!("\n{name}:");
        for (what, count) in &part.totals {
            println!("  {what}: {count}");
        }
        for example in &part.examples {
            println!("  {}", example.trim_end().replace('\n', "\n  "));
        }
    }
    println!("\n{} decisions, {} differ", comparison.asked(), comparison.different());
    if comparison.dropped > 0 {
        println!("note: the recording lacks {} calls", comparison.dropped);
    }
    Ok(())
}
