//! The tutorial, run as a reader would: its blocks in one shell, its promises against what is seen.

use anyhow::{Context, Result, ensure};
use orlop_tests::{Cluster, binary, capture, repository};
use std::fs;

const TUTORIAL: &str = "docs/tutorials/write-a-scheduling-plugin.md";

/// A fenced block: its language and its lines.
struct Block {
    language: String,
    lines: Vec<String>,
}

fn blocks(markdown: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for line in markdown.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(language)) => {
                open = Some(Block { language: language.to_owned(), lines: Vec::new() });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(block), None) => block.lines.push(line.to_owned()),
            (None, None) => {}
        }
    }
    blocks
}

/// Whether a line is as promised; `…` stands for anything, and any white space for any other.
fn fits(promise: &str, line: &str) -> bool {
    let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (promise, line) = (squeeze(promise), squeeze(line));
    let parts: Vec<&str> = promise.split('…').map(str::trim).collect();
    let Some((first, others)) = parts.split_first() else { return false };
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    for (i, part) in others.iter().enumerate() {
        if i + 1 == others.len() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = rest.get(at + part.len()..).unwrap_or_default();
    }
    rest.is_empty()
}

#[test]
fn promises_are_compared() {
    assert!(fits("a   … c", "a b c"));
    assert!(fits("… ok", "test x ... ok"));
    assert!(fits("end…", "end of it"));
    assert!(!fits("a b", "a b c"));
    assert!(!fits("a … d", "a b c"));
    assert!(!fits("… failed", "2 passed"));
}

#[test]
fn the_plugin_tutorial_works_as_written() -> Result<()> {
    let markdown = fs::read_to_string(repository().join(TUTORIAL))?;
    let blocks = blocks(&markdown);
    let mut script = String::from("set -euo pipefail\n");
    for block in blocks.iter().filter(|b| b.language == "sh") {
        script.push_str(&block.lines.join("\n"));
        script.push('\n');
    }
    let c = Cluster::start()?;
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
            .env("CARGO_TARGET_DIR", root.join("target/tutorial"))
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
    let policy = |dir: &std::path::Path| fs::read_to_string(dir.join("scheduler.yaml"));
    ensure!(policy(&c.dir().join("policies"))? == policy(&root.join("policies"))?, "the profile is put back");
    ensure!(!c.try_kubectl(&["get", "plugin", "disk-type"])?.success, "the plugin is gone");
    ensure!(fs::read_dir(&place)?.next().is_none(), "the folder is gone");
    println!("{seen}");
    Ok(())
}
