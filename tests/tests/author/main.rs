//! An author's way, on the real binary: new, build, test, bench, apply, record, replay, diff, history, rollback, logs.

use anyhow::{Context, Result, ensure};
use orlop_tests::{Cluster, Output, binary, capture, eventually, repository};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A shell with what an author has.
struct Author<'c> {
    cluster: Option<&'c Cluster>,
    folder: PathBuf,
}

impl Author<'_> {
    fn command(&self, arguments: &[&str]) -> Result<Command> {
        let binary = binary()?.canonicalize()?;
        let root = repository().canonicalize()?;
        let mut command = match self.cluster {
            Some(cluster) => cluster.command(&binary),
            None => Command::new(&binary),
        };
        command
            .args(arguments)
            .current_dir(&self.folder)
            .env("ORLOP_SDK", root.join("plugins/sdk"))
            // Of the tester, for cargo and its registry; what it needs is there, for we were built with it.
            .env("HOME", std::env::var_os("HOME").unwrap_or_default())
            .env("CARGO_TARGET_DIR", root.join("target/author"))
            .env("CARGO_NET_OFFLINE", "true")
            .env("CARGO_TERM_COLOR", "never");
        Ok(command)
    }

    fn plugin(&self, arguments: &[&str]) -> Result<Output> {
        let mut all = vec!["plugin"];
        all.extend_from_slice(arguments);
        capture(&mut self.command(&all)?)
    }

    /// Must succeed; returns what was printed.
    fn works(&self, arguments: &[&str]) -> Result<String> {
        let out = self.plugin(arguments)?;
        let log = self.cluster.map(Cluster::log_tail).unwrap_or_default();
        ensure!(
            out.success,
            "`orlop plugin {}` failed:\n{}{}\n{log}",
            arguments.join(" "),
            out.stdout,
            out.stderr
        );
        Ok(out.stdout)
    }

    /// Must fail; returns all that was said.
    fn fails(&self, arguments: &[&str]) -> Result<String> {
        let out = self.plugin(arguments)?;
        ensure!(!out.success, "`orlop plugin {}` went well:\n{}", arguments.join(" "), out.stdout);
        Ok(out.stdout + &out.stderr)
    }

    fn edit(&self, file: &str, from: &str, to: &str) -> Result<()> {
        let path = self.folder.join(file);
        let text = fs::read_to_string(&path)?;
        ensure!(text.contains(from), "{file} lacks `{from}`:\n{text}");
        fs::write(&path, text.replace(from, to))?;
        Ok(())
    }
}

fn says(text: &str, wanted: &str) -> Result<()> {
    ensure!(text.contains(wanted), "`{wanted}` is not in\n{text}");
    Ok(())
}

#[test]
fn every_template_for_rust_builds_and_passes_its_tests_as_it_is() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let author = Author { cluster: None, folder: folder.path().to_owned() };
    let refused = author.fails(&["new", "a", "--kind", "scheduler", "--lang", "cobol"])?;
    says(&refused, "no template for a scheduler plugin in `cobol`; there are: ")?;
    says(&refused, "rust (admission, controller, scheduler)")?;
    for kind in ["scheduler", "controller", "admission"] {
        let name = format!("my-{kind}");
        let made = author.works(&["new", &name, "--kind", kind])?;
        says(&made, "manifest.json")?;
        says(&author.fails(&["test", &name])?, "run `orlop plugin build` first")?;
        says(&author.works(&["build", &name])?, &format!("{name}.wasm"))?;
        says(&author.works(&["test", &name])?, "1 passed, 0 failed")?;
        let figures = author.works(&["bench", &name, "--nodes", "300"])?;
        says(&figures, "NS/UNIT")?;
        let hook = if kind == "scheduler" {
            "filter"
        } else if kind == "controller" {
            "reconcile"
        } else {
            "mutate"
        };
        says(&figures, hook)?;
        // The author's own tests, natively.
        let tests = capture(
            Command::new("cargo")
                .args(["test", "--lib", "--quiet", "--offline"])
                .current_dir(folder.path().join(&name))
                .env("CARGO_TARGET_DIR", repository().canonicalize()?.join("target/author")),
        )?;
        ensure!(tests.success, "{kind}: cargo test failed:\n{}{}", tests.stdout, tests.stderr);
    }
    Ok(())
}

/// Records in the background.
struct Recording(Child);

impl Drop for Recording {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn pod(name: &str, level: u32) -> String {
    format!(
        "{{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {{\"name\": \"{name}\", \"annotations\": {{\"disk-tier\": \"{level}\"}}}},
          \"spec\": {{\"terminationGracePeriodSeconds\": 0, \"containers\": [{{\"name\": \"c\", \"image\": \"docker.io/library/busybox:latest\",
          \"imagePullPolicy\": \"IfNotPresent\", \"command\": [\"sleep\", \"3600\"]}}]}}}}"
    )
}

/// Enables the plugin in the default profile.
fn enable(c: &Cluster, plugin: &str) -> Result<()> {
    let file = c.dir().join("policies/scheduler.yaml");
    let text = fs::read_to_string(&file)?;
    let head = "schedulerName: default-scheduler\n";
    let enabled =
        format!("{head}    plugins:\n      multiPoint:\n        enabled:\n          - name: {plugin}\n");
    ensure!(text.contains(head), "{text}");
    fs::write(&file, text.replace(head, &enabled))?;
    eventually("the profile with the plugin", || {
        let log = fs::read_to_string(c.dir().join("orlop.log"))?;
        let found = log.lines().any(|l| l.contains("scheduler profiles put to work") && l.contains(plugin));
        Ok(found.then_some(()))
    })
}

#[test]
fn an_author_goes_from_an_empty_folder_to_a_rollback_in_a_cluster() -> Result<()> {
    let c = Cluster::start()?;
    let home = c.dir().join("author");
    fs::create_dir(&home)?;
    let start = Author { cluster: Some(&c), folder: home.clone() };
    start.works(&["new", "disk-tier", "--kind", "scheduler"])?;
    let author = Author { cluster: Some(&c), folder: home.join("disk-tier") };
    author.works(&["build"])?;
    author.works(&["test"])?;
    let module = "target/orlop/disk-tier.wasm";

    // A wrong expectation is shown, with the right exit code.
    author.edit("tests/levels.expected.json", "\"high\": 80", "\"high\": 79")?;
    let shown = author.fails(&["test"])?;
    says(&shown, "\"high\": 79")?;
    says(&shown, "\"high\": 80")?;
    says(&author.works(&["test", "--update"])?, "updated")?;
    author.works(&["test"])?;

    // Figures are exact where they can be, and a worse one fails.
    author.works(&["bench", "--nodes", "400", "--save", "bench.json"])?;
    let again = author.works(&[
        "bench",
        "--nodes",
        "400",
        "--against",
        "bench.json",
        "--tolerance",
        "0.1",
        "--time-tolerance",
        "100000",
    ])?;
    says(&again, "no figure is worse than before")?;
    let text = fs::read_to_string(author.folder.join("bench.json"))?;
    let mut saved: serde_json::Value = serde_json::from_str(&text)?;
    saved["hooks"]["filter"]["fuel"] = 1.into();
    fs::write(author.folder.join("bench.json"), saved.to_string())?;
    says(
        &author.fails(&[
            "bench",
            "--nodes",
            "400",
            "--against",
            "bench.json",
            "--time-tolerance",
            "100000",
        ])?,
        "WORSE    filter: fuel",
    )?;

    // In the cluster, recorded while it decides.
    says(&author.works(&["apply", module])?, "plugin.orlop.dev/disk-tier is active")?;
    enable(&c, "DiskTier")?;
    let node = c.kubectl(&["get", "nodes", "-o", "name"])?;
    c.kubectl(&["label", node.trim(), "disk-tier=5"])?;
    let record = ["plugin", "record", "disk-tier", "--seconds", "120", "--calls", "6", "-o", "tape.jsonl.gz"];
    let mut recording = author.command(&record)?;
    let mut recording = Recording(recording.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?);
    eventually("the plugin to be opened for the recording", || {
        Ok(author.folder.join("tape.jsonl.gz").is_file().then_some(()))
    })?;
    c.apply(&pod("modest", 5))?;
    c.apply(&pod("greedy", 50))?;
    c.wait_for(&["pod", "modest"], "{.status.conditions[?(@.type=='PodScheduled')].status}", "True")?;
    c.wait_for(&["pod", "greedy"], "{.status.conditions[?(@.type=='PodScheduled')].status}", "False")?;
    let ended = eventually("the recording to end", || Ok(recording.0.try_wait()?))?;
    ensure!(ended.success(), "the recording failed: {ended}");
    let replayed = author.works(&["replay", "tape.jsonl.gz", module])?;
    says(&replayed, "6 calls, 0 answered differently")?;
    ensure!(author.works(&["replay", "tape.jsonl.gz", module])? == replayed, "a replay is deterministic");

    // The next version decides otherwise, and says so before it is let loose.
    fs::copy(author.folder.join(module), author.folder.join("old.wasm"))?;
    author.edit("src/lib.rs", "level >= *wanted", "level > *wanted")?;
    author.edit(
        "src/lib.rs",
        "Ok(Preparation::Ask(wanted))",
        "orlop_sdk::log::write(orlop_sdk::log::Level::Info, \"a pod asks for a disk\");\n        Ok(Preparation::Ask(wanted))",
    )?;
    author.works(&["build"])?;
    let differs = author.fails(&["diff", "old.wasm", module, "--recording", "tape.jsonl.gz"])?;
    says(&differs, "nodes that do not fit any more: 1")?;
    says(&author.works(&["diff", "old.wasm", module])?, "0 differ")?;
    says(&author.works(&["diff", "old.wasm", "old.wasm", "--recording", "tape.jsonl.gz"])?, "0 differ")?;
    says(&author.fails(&["replay", "tape.jsonl.gz", module])?, "`orlop plugin diff` says more")?;

    in_the_cluster(&c, &author, module)
}

/// A second revision, its log, and the way back.
fn in_the_cluster(c: &Cluster, author: &Author<'_>, module: &str) -> Result<()> {
    author.works(&["apply", module])?;
    c.apply(&pod("another", 6))?;
    eventually("the plugin's own words", || {
        let log = author.works(&["logs", "disk-tier"])?;
        Ok((log.contains("INFO  a pod asks for a disk") && log.contains("EVENT Normal")).then_some(()))
    })?;
    let history = author.works(&["history", "disk-tier"])?;
    ensure!(active(&history) == Some(2), "two revisions, the second active:\n{history}");
    let back = author.works(&["rollback", "disk-tier"])?;
    says(&back, "revision 1 runs")?;
    let history = author.works(&["history", "disk-tier"])?;
    ensure!(active(&history) == Some(1), "the first is active again:\n{history}");
    says(&author.fails(&["rollback", "disk-tier"])?, "no revision before 1")?;
    says(&author.fails(&["rollback", "disk-tier", "--to", "7"])?, "has no revision 7")?;
    author.works(&["rollback", "disk-tier", "--undo"])?;
    eventually("the second revision again", || {
        Ok((active(&author.works(&["history", "disk-tier"])?) == Some(2)).then_some(()))
    })?;
    says(&author.fails(&["history", "nobody"])?, "plugin.orlop.dev/nobody does not exist")?;
    says(&author.fails(&["logs", "nobody"])?, "nobody")?;
    says(&author.works(&["list"])?, "disk-tier")?;
    let tape = author.folder.join("tape.jsonl.gz");
    fs::write(&tape, "no tape")?;
    says(&author.fails(&["replay", &path(&tape)?, module])?, "is no recording")
}

fn path(path: &Path) -> Result<String> {
    Ok(path.to_str().context("the path is no UTF-8")?.to_owned())
}

/// The number of the active revision in what `history` prints.
fn active(history: &str) -> Option<u32> {
    let line = history.lines().find(|l| l.split_whitespace().nth(1) == Some("*"))?;
    line.split_whitespace().next()?.parse().ok()
}
