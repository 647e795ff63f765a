//! The tutorials, each run as a reader would: its blocks in one shell, its promises against what is seen.

mod markdown;

use anyhow::{Context, Result, ensure};
use markdown::{Block, blocks, fits, links};
use orlop_tests::{Cluster, binary, capture, repository};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const FOLDER: &str = "docs/tutorials";

/// Every tutorial has a test of its own below.
const TUTORIALS: [&str; 5] = [
    "schedule-several-pods",
    "ship-a-plugin",
    "write-a-controller",
    "write-a-scheduling-plugin",
    "write-an-admission-check",
];

fn read(tutorial: &str) -> Result<Vec<Block>> {
    let file = repository().join(FOLDER).join(format!("{tutorial}.md"));
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(blocks(&text))
}

fn names(folder: &Path) -> Result<BTreeSet<String>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// What a reader may not leave behind. What the cluster makes by itself is not counted, for it may come late.
fn state(c: &Cluster) -> Result<BTreeSet<String>> {
    let objects = "namespaces,customresourcedefinitions,clusterroles,clusterrolebindings,pods,deployments,configmaps,services";
    let names = c.kubectl(&["get", objects, "-o", "name"])?;
    let mut state: BTreeSet<String> =
        names.lines().filter(|name| *name != "configmap/kube-root-ca.crt").map(str::to_owned).collect();
    let plugins: Value = serde_json::from_str(&c.kubectl(&["get", "plugins", "-o", "json"])?)?;
    for plugin in plugins["items"].as_array().context("a list of plugins")? {
        if plugin["spec"]["source"]["builtin"].is_null() {
            state.insert(format!("plugin/{}", plugin["metadata"]["name"]));
        }
    }
    Ok(state)
}

/// Runs the blocks of a tutorial in one shell, and compares.
fn works(tutorial: &str) -> Result<()> {
    let blocks = read(tutorial)?;
    let mut script = String::from("set -euo pipefail\n");
    for block in blocks.iter().filter(|b| b.language == "sh") {
        script.push_str(&block.lines.join("\n"));
        script.push('\n');
    }
    let c = Cluster::start()?;
    let before = state(&c)?;
    let root = repository().canonicalize()?;
    let place = c.dir().join("reader");
    fs::create_dir(&place)?;
    let binary = binary()?.canonicalize()?;
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", binary.parent().context("a folder")?.display());
    let output = capture(
        c.command("bash")
            .args(["-c", &format!("exec 2>&1\n{script}")])
            .current_dir(&place)
            .env("ORLOP", &root)
            .env("POLICIES", c.dir().join("policies"))
            .env("SERVER_LOG", c.dir().join("orlop.log"))
            .env("PATH", path)
            .env("TMPDIR", &place)
            // Of the tester, for cargo and its registry; what it needs is there, for we were built with it.
            .env("HOME", std::env::var_os("HOME").unwrap_or_default())
            .env("KUBECACHEDIR", c.dir().join("kubectl"))
            // What one author compiled, the others need not.
            .env("CARGO_TARGET_DIR", root.join("target/author"))
            .env("CARGO_NET_OFFLINE", "true")
            .env("CARGO_TERM_COLOR", "never"),
    )?;
    let seen = &output.stdout;
    ensure!(output.success, "the tutorial fails:\n{seen}\n{}", c.log_tail());

    let mut lines = seen.lines();
    for promise in blocks.iter().filter(|b| b.language == "text").flat_map(|b| &b.lines) {
        ensure!(
            lines.any(|line| fits(promise, line)),
            "`{promise}` is promised, but not seen (there, or after what was promised before) in\n{seen}"
        );
    }
    // The end is as the beginning.
    let policies = root.join("policies");
    for name in names(&policies)? {
        let same = fs::read(policies.join(&name))? == fs::read(c.dir().join("policies").join(&name))?;
        ensure!(same, "{name} is not put back");
    }
    let after = state(&c)?;
    let other: Vec<&String> = after.symmetric_difference(&before).collect();
    ensure!(other.is_empty(), "objects are left behind, or missing: {other:?}");
    ensure!(names(&place)?.is_empty(), "files are left behind: {:?}", names(&place)?);
    println!("{seen}");
    Ok(())
}

#[test]
fn a_scheduling_plugin() -> Result<()> {
    works("write-a-scheduling-plugin")
}

#[test]
fn several_pods() -> Result<()> {
    works("schedule-several-pods")
}

#[test]
fn a_controller() -> Result<()> {
    works("write-a-controller")
}

#[test]
fn an_admission_check() -> Result<()> {
    works("write-an-admission-check")
}

#[test]
fn shipping() -> Result<()> {
    works("ship-a-plugin")
}

#[test]
fn every_tutorial_is_tested_and_quotes_are_in_an_example() -> Result<()> {
    let there = names(&repository().join(FOLDER))?;
    let known: BTreeSet<String> = TUTORIALS.iter().map(|name| format!("{name}.md")).collect();
    ensure!(there == known, "in {FOLDER} there are {there:?}, tested are {known:?}");
    let mut sources = Vec::new();
    for example in names(&repository().join("examples/plugins"))? {
        let folder = repository().join("examples/plugins").join(example);
        for part in [folder.clone(), folder.join("src"), folder.join("tests")] {
            for file in fs::read_dir(part).into_iter().flatten() {
                let file = file?.path();
                if file.is_file() {
                    sources.push(fs::read_to_string(file)?);
                }
            }
        }
    }
    let mut pages: Vec<PathBuf> =
        TUTORIALS.iter().map(|t| PathBuf::from(format!("{FOLDER}/{t}.md"))).collect();
    pages.push("docs/plugins.md".into());
    for page in pages {
        let blocks = blocks(&fs::read_to_string(repository().join(&page))?);
        for quote in blocks.iter().filter(|b| ["rust", "json", "yaml"].contains(&b.language.as_str())) {
            let found = sources.iter().any(|source| quote.is_in(source));
            ensure!(found, "{} quotes what no example says:\n{}", page.display(), quote.lines.join("\n"));
        }
    }
    Ok(())
}

/// The Markdown files of a folder and of those below it.
fn pages(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            let name = path.file_name().unwrap_or_default();
            if name != "target" && name != "node_modules" {
                pages(&path, found)?;
            }
        } else if path.extension().is_some_and(|e| e == "md") {
            found.push(path);
        }
    }
    Ok(())
}

#[test]
fn links_lead_somewhere() -> Result<()> {
    let mut all = vec![repository().join("README.md")];
    pages(&repository().join("docs"), &mut all)?;
    pages(&repository().join("examples"), &mut all)?;
    let mut dead = Vec::new();
    for page in all {
        let folder = page.parent().context("a page lies in a folder")?;
        for link in links(&fs::read_to_string(&page)?) {
            if !folder.join(&link).exists() {
                dead.push(format!("{}: {link}", page.display()));
            }
        }
    }
    ensure!(dead.is_empty(), "these links lead nowhere:\n{}", dead.join("\n"));
    Ok(())
}
