//! Plugins and profiles are exchanged under load; bad ones are refused or contained.

mod fixture;
mod frozen;
mod rollout;
mod scheduling;

use anyhow::{Context, Result, ensure};
use fixture::{BEYOND, GREED, Guard, RECURSE, REFUSES, SHORT, SPIN, TRAP};
use orlop_tests::{Cluster, Output, binary, capture, eventually, repository};
use std::collections::BTreeMap;
use std::fs;

/// `name` with so many replicas that do nothing.
fn deployment(name: &str, replicas: u32) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec:\n  replicas: {replicas}\n  \
         selector: {{matchLabels: {{app: {name}}}}}\n  template:\n    metadata: {{labels: {{app: {name}}}}}\n    \
         spec:\n      terminationGracePeriodSeconds: 0\n      containers:\n      - {{name: c, image: busybox, \
         imagePullPolicy: Never, command: [sleep, '3600']}}\n"
    )
}

/// A pod that no node has the processors for.
fn huge(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  containers:\n  - name: c\n    \
         image: busybox\n    resources: {{requests: {{cpu: \"1000\"}}}}\n"
    )
}

/// `policies/scheduler.yaml` with `plugins` in its profile.
fn profile(plugins: &str) -> Result<String> {
    let name = "  - schedulerName: default-scheduler\n";
    let file = fs::read_to_string(repository().join("policies/scheduler.yaml"))?;
    let (before, after) = file.split_once(name).context("the profile has a name")?;
    let after = after.replace("type: LeastAllocated", "type: MostAllocated");
    Ok(format!("{before}{name}    plugins: {plugins}\n{after}"))
}

/// Replaces the cluster's `scheduler.yaml` as editors do.
fn write_profile(c: &Cluster, text: &str) -> Result<()> {
    let folder = c.dir().join("policies");
    fs::write(folder.join("scheduler.new"), text)?;
    fs::rename(folder.join("scheduler.new"), folder.join("scheduler.yaml"))?;
    Ok(())
}

fn log_lines(c: &Cluster, text: &str) -> Result<usize> {
    Ok(fs::read_to_string(c.dir().join("orlop.log"))?.lines().filter(|l| l.contains(text)).count())
}

/// Does something, and waits for one more line of the log that says `text`.
fn until_logged(c: &Cluster, text: &str, act: impl FnOnce() -> Result<()>) -> Result<()> {
    let before = log_lines(c, text)?;
    act()?;
    eventually(&format!("`{text}` in the log"), || Ok((log_lines(c, text)? > before).then_some(())))
        .with_context(|| c.log_tail())
}

fn unschedulable(c: &Cluster, pod: &str) -> Result<()> {
    c.wait_for(&["pod", pod], "{.status.conditions[?(@.type=='PodScheduled')].reason}", "Unschedulable")
}

fn scale(c: &Cluster, name: &str, replicas: u32) -> Result<()> {
    c.kubectl(&["scale", "deployment", name, &format!("--replicas={replicas}")]).map(drop)
}

fn all_ready(c: &Cluster, name: &str, replicas: u32) -> Result<()> {
    c.wait_for(&["deployment", name], "{.status.readyReplicas}", &replicas.to_string())
}

#[test]
fn a_changed_profile_takes_effect_under_load_and_nothing_is_lost() -> Result<()> {
    const IN_FORCE: &str = "scheduler profiles put to work";
    let c = Cluster::start()?;
    let pid = c.pid();
    let as_shipped = fs::read_to_string(c.dir().join("policies/scheduler.yaml"))?;
    let lenient = profile("{filter: {disabled: [{name: NodeResourcesFit}]}}")?;
    c.apply(&huge("before"))?;
    unschedulable(&c, "before")?;

    c.apply(&deployment("crowd", 2))?;
    let mut replicas = 2;
    for text in [&lenient, &as_shipped, &lenient] {
        replicas += 4;
        scale(&c, "crowd", replicas)?;
        until_logged(&c, IN_FORCE, || write_profile(&c, text))?;
    }
    // Pods that waited are tried again.
    c.wait_for(&["pod", "before"], "{.spec.nodeName}", "node-1")?;
    all_ready(&c, "crowd", replicas)?;
    until_logged(&c, IN_FORCE, || write_profile(&c, &as_shipped))?;

    for (bad, why) in [
        ("profiles: [", "the scheduler configuration is malformed"),
        (&profile("{filter: {enabled: [{name: Nonesuch}]}}")?, "plugin \\\"Nonesuch\\\" does not exist"),
        (&as_shipped.replace("LeastAllocated", "BestGuess"), "BestGuess"),
    ] {
        until_logged(&c, "refused, the previous one stays", || write_profile(&c, bad))?;
        let log = fs::read_to_string(c.dir().join("orlop.log"))?;
        let said = log.lines().rfind(|l| l.contains("refused, the previous one stays")).unwrap_or_default();
        ensure!(said.contains(why), "`{why}` is not in `{said}`");
    }
    // The one before rules on: it has room for small pods, and none for huge ones.
    c.apply(&huge("after"))?;
    unschedulable(&c, "after")?;
    replicas += 2;
    scale(&c, "crowd", replicas)?;
    all_ready(&c, "crowd", replicas)?;

    ensure!(c.pid() == pid && c.try_kubectl(&["get", "--raw", "/readyz"])?.success, "the same process");
    let pods = c.jsonpath(&["pods", "-l", "app=crowd"], "{.items[*].metadata.name}")?;
    let pods: Vec<&str> = pods.split_whitespace().collect();
    ensure!(pods.len() == replicas as usize, "{pods:?}");
    eventually("each pod to be told of as placed once", || {
        let events = c.jsonpath(
            &["events", "--field-selector=reason=Scheduled"],
            "{range .items[*]}{.involvedObject.name} {.count}{\"\\n\"}{end}",
        )?;
        let mut placed: BTreeMap<&str, u32> = BTreeMap::new();
        for (pod, count) in events.lines().filter_map(|l| l.split_once(' ')) {
            *placed.entry(pod).or_default() += count.parse().unwrap_or(1);
        }
        ensure!(placed.values().all(|n| *n == 1), "placed more than once: {events}");
        Ok(pods.iter().all(|p| placed.contains_key(p)).then_some(()))
    })
}

struct Yard {
    cluster: Cluster,
}

impl Yard {
    fn apply(&self, wasm: &[u8]) -> Result<Output> {
        let file = self.cluster.dir().join("guard.wasm");
        fs::write(&file, wasm)?;
        capture(self.cluster.command(binary()?).args(["plugin", "apply"]).arg(&file))
    }

    fn status(&self, field: &str) -> Result<String> {
        self.cluster.jsonpath(&["plugin", "guard"], &format!("{{.status.{field}}}"))
    }

    /// A crowd of `replicas` comes up.
    fn schedules(&self, replicas: u32) -> Result<()> {
        scale(&self.cluster, "crowd", replicas)?;
        all_ready(&self.cluster, "crowd", replicas)
    }
}

#[test]
fn misbehaving_plugins_are_refused_or_contained() -> Result<()> {
    let yard = Yard { cluster: Cluster::start()? };
    let c = &yard.cluster;
    let good = Guard::default().build()?;
    let out = yard.apply(&good)?;
    ensure!(out.success && out.stdout.contains("plugin.orlop.dev/guard is active"), "{out:?}");
    let digest = yard.status("activeDigest")?;
    let enabled = profile("{multiPoint: {enabled: [{name: Guard}]}}")?;
    until_logged(c, "Guard\"", || write_profile(c, &enabled))?;
    let mut replicas = 1;
    c.apply(&deployment("crowd", replicas))?;
    all_ready(c, "crowd", replicas)?;

    // Refused: what ran before runs on.
    let cut = good.get(..good.len() / 2).unwrap_or_default().to_vec();
    let importing = "(import \"other:clocks/wall-clock@0.2.0\" \"now\" (func (result i32)))";
    let load = |init| Guard { init, ..Guard::default() }.build();
    for (what, wasm, why) in [
        ("junk", b"junk".to_vec(), "does not begin with"),
        ("half a file", cut, "not a"),
        (
            "built for a newer version",
            Guard { world: "orlop:scheduler/scheduler@1.7.0", ..Guard::default() }.build()?,
            "this host serves orlop:scheduler/scheduler@1.0",
        ),
        (
            "built for another world",
            Guard { world: "orlop:admission/admission@1.0.0", ..Guard::default() }.build()?,
            "orlop:scheduler/scheduler@1.0",
        ),
        ("wants a clock", Guard { imports: importing, ..Guard::default() }.build()?, "it imports"),
        ("says no", load(REFUSES)?, "init failed: no!!"),
        ("traps at once", load(TRAP)?, "trap"),
        ("loops at once", load(SPIN)?, "deadline"),
        ("eats memory at once", load(GREED)?, "memory"),
    ] {
        replicas += 1;
        scale(c, "crowd", replicas)?;
        let out = yard.apply(&wasm)?;
        ensure!(!out.success && out.stderr.contains(why), "{what}: {out:?}");
        ensure!(!out.stderr.contains("panicked"), "{what}: {out:?}");
        ensure!(yard.status("activeDigest")? == digest, "{what}: the good one stays active");
        if yard.status("state")? != "Active" {
            let shown = c.kubectl(&["get", "plugin", "guard"])?;
            ensure!(shown.contains("Refused") && shown.contains(why), "{what}: {shown}");
        }
        all_ready(c, "crowd", replicas).context(what)?;
    }

    // Contained: what passes the start and fails at work is rolled back, and the pods that waited run.
    for (what, filter, why) in [
        ("traps", TRAP, "trap"),
        ("loops", SPIN, "deadline"),
        ("eats memory", GREED, "memory"),
        ("calls itself without end", RECURSE, "call stack exhausted"),
        ("points beyond its memory", BEYOND, "invalid result"),
        ("gives an answer of a wrong length", SHORT, "0 words of a bit set where 1 are due"),
    ] {
        let bad = Guard { filter, ..Guard::default() }.build()?;
        until_logged(c, "Guard\"", || {
            let out = yard.apply(&bad)?;
            ensure!(out.success, "{what}: {out:?}");
            Ok(())
        })?;
        replicas += 1;
        yard.schedules(replicas).context(what)?;
        c.wait_for(&["plugin", "guard"], "{.status.state}", "RolledBack").context(what)?;
        ensure!(yard.status("activeDigest")? == digest, "{what}: back to the good one");
        let shown = c.kubectl(&["get", "plugin", "guard"])?;
        ensure!(shown.contains("RolledBack") && shown.contains(why), "{what}: {shown}");
    }
    let events = c.kubectl(&["get", "events", "--field-selector=involvedObject.name=guard"])?;
    ensure!(events.contains("PluginRefused") && events.contains("PluginRolledBack"), "{events}");

    // A good file ends the story.
    let out = yard.apply(&good)?;
    ensure!(out.success && yard.status("state")? == "Active", "{out:?}");
    yard.schedules(replicas + 1)
}

#[test]
fn a_bad_object_is_answered_in_its_status() -> Result<()> {
    let c = Cluster::start_with(orlop_tests::Options { without_image: true, ..Default::default() })?;
    // "junk" in base64, past every check that the command line would make.
    c.apply("apiVersion: orlop.dev/v1\nkind: Plugin\nmetadata: {name: junk}\nspec: {source: {inline: anVuaw==}}\n")?;
    c.wait_for(&["plugin", "junk"], "{.status.state}", "Refused")?;
    let shown = c.kubectl(&["get", "plugin", "junk"])?;
    ensure!(shown.contains("Refused") && shown.contains("does not begin with"), "{shown}");
    c.apply("apiVersion: orlop.dev/v1\nkind: Plugin\nmetadata: {name: junk}\nspec: {source: {file: /does/not/exist}}\n")?;
    eventually("the other reason", || {
        let message = c.jsonpath(&["plugin", "junk"], "{.status.message}")?;
        Ok((message.contains("/does/not/exist") || message.contains("exactly one")).then_some(()))
    })?;
    Ok(())
}
