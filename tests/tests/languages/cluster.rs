//! The examples in a cluster of the real binary.

use super::{built, examples, toolchains};
use anyhow::{Context, Result, ensure};
use orlop_tests::{Cluster, Options, binary, capture, eventually, repository, within};
use std::fs;
use std::path::Path;
use std::time::Duration;

fn cluster() -> Result<Cluster> {
    Cluster::start_with(Options { without_image: true, ..Options::default() })
}

fn apply(c: &Cluster, name: &str, module: &Path) -> Result<()> {
    let rbac = examples()?.join(name).join("rbac.yaml");
    if rbac.is_file() {
        c.apply(&fs::read_to_string(rbac)?)?;
    }
    let out = capture(c.command(binary()?).args(["plugin", "apply", "--name", name]).arg(module))?;
    let active = format!("plugin.orlop.dev/{name} is active");
    ensure!(out.success && out.stdout.contains(&active), "{name}: {out:?}\n{}", c.log_tail());
    Ok(())
}

/// Waits longer than most do: an interpreter takes long to compile on a busy machine.
fn active(c: &Cluster, plugin: &str) -> Result<()> {
    within(Duration::from_secs(180), &format!("{plugin} to be active"), || {
        let state = c.jsonpath(&["plugin", plugin], "{.status.state}: {.status.message}")?;
        ensure!(!state.starts_with("Refused"), "{state}");
        Ok(state.starts_with("Active").then_some(()))
    })
    .with_context(|| c.log_tail())
}

/// A pod that is placed, but whose image is nowhere.
fn pod(c: &Cluster, name: &str, annotations: &str, cpu: &str) -> Result<()> {
    c.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, annotations: {{{annotations}}}}}\nspec:\n  \
         terminationGracePeriodSeconds: 0\n  tolerations: [{{operator: Exists}}]\n  containers:\n  - name: c\n    \
         image: none.example.com/none:1\n    resources: {{requests: {{cpu: {cpu}}}}}\n"
    ))
    .map(drop)
}

#[test]
fn a_filter_in_c_keeps_headroom_on_every_node() -> Result<()> {
    const NAME: &str = "  - schedulerName: default-scheduler\n    pluginConfig:\n";
    let module = built(&examples()?, "c-headroom", None)?;
    let c = cluster()?;
    // A machine that is only on paper: pods are placed there, and never run.
    c.apply("apiVersion: v1\nkind: Node\nmetadata: {name: paper}\n")?;
    let size = r#"{"cpu": "200", "memory": "8Gi", "pods": "50"}"#;
    let status = format!(r#"{{"status": {{"allocatable": {size}, "capacity": {size}}}}}"#);
    c.kubectl(&["patch", "node", "paper", "--subresource=status", "--type=merge", "-p", &status])?;
    apply(&c, "c-headroom", &module)?;

    let text = fs::read_to_string(repository().join("policies/scheduler.yaml"))?;
    ensure!(text.contains(NAME), "the profile looks otherwise: {text}");
    let with = "  - schedulerName: default-scheduler\n    plugins: {multiPoint: {enabled: [{name: Headroom}]}}\n    \
                pluginConfig:\n      - {name: Headroom, args: {percent: 40}}\n";
    let folder = c.dir().join("policies");
    fs::write(folder.join("scheduler.new"), text.replace(NAME, with))?;
    fs::rename(folder.join("scheduler.new"), folder.join("scheduler.yaml"))?;
    eventually("the profile with the plugin", || {
        let log = fs::read_to_string(c.dir().join("orlop.log"))?;
        let last = log.lines().rfind(|l| l.contains("scheduler profiles put to work")).unwrap_or_default();
        Ok(last.contains("Headroom").then_some(()))
    })
    .with_context(|| c.log_tail())?;

    pod(&c, "large", "", "100")?;
    c.wait_for(&["pod", "large"], "{.spec.nodeName}", "paper")?;
    pod(&c, "next", "", "100")?;
    let path = "{.status.conditions[?(@.type=='PodScheduled')].message}";
    let mut said = String::new();
    eventually("the reason why the next one waits", || {
        said = c.jsonpath(&["pod", "next"], path)?;
        Ok(said.contains("Too little headroom of cpu").then_some(()))
    })
    .with_context(|| format!("it says `{said}`\n{}", c.log_tail()))?;
    // 20 of 200 are within what 40 % leave over beside 100.
    pod(&c, "small", "", "20")?;
    c.wait_for(&["pod", "small"], "{.spec.nodeName}", "paper")?;
    c.kubectl(&["delete", "pod", "large", "--wait=false"])?;
    c.wait_for(&["pod", "next"], "{.spec.nodeName}", "paper")
}

#[test]
fn a_controller_in_javascript_deletes_pods_in_time() -> Result<()> {
    let tools = toolchains::node(&examples()?.join("js-time-to-live"))?;
    let module = built(&examples()?, "js-time-to-live", Some(&tools))?;
    let c = cluster()?;
    apply(&c, "js-time-to-live", &module)?;
    pod(&c, "stays", "", "1m")?;
    pod(&c, "wrong", "time-to-live: soon", "1m")?;
    pod(&c, "goes", "time-to-live: '2'", "1m")?;
    eventually("the pod to go", || {
        let left = c.kubectl(&["get", "pods", "-o", "name"])?;
        ensure!(left.contains("pod/stays") && left.contains("pod/wrong"), "{left}");
        Ok((!left.contains("pod/goes")).then_some(()))
    })
    .with_context(|| c.log_tail())?;
    eventually("the events", || {
        let events = c.kubectl(&["get", "events", "-o", "wide"])?;
        Ok((events.contains("deleted after 2 s") && events.contains("`soon` is no number of seconds"))
            .then_some(()))
    })
    .with_context(|| c.log_tail())
}

#[test]
fn an_admission_check_in_python_wants_versions_of_images() -> Result<()> {
    let tools = toolchains::python(&examples()?.join("python-image-policy"))?;
    let module = built(&examples()?, "python-image-policy", Some(&tools))?;
    let c = cluster()?;
    // With its interpreter it is too large for an object of the API.
    let refused = capture(c.command(binary()?).args(["plugin", "apply"]).arg(&module))?;
    ensure!(!refused.success && refused.stderr.contains("source: {file: /its/path}"), "{refused:?}");
    let path = module.display();
    c.apply(&format!(
        "apiVersion: orlop.dev/v1\nkind: Plugin\nmetadata: {{name: python-image-policy}}\nspec: {{source: {{file: '{path}'}}}}\n"
    ))?;
    active(&c, "python-image-policy")?;
    let of = |image: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec: {{containers: [{{name: c, image: '{image}'}}]}}\n"
        )
    };
    let refused = c.try_apply(&of("nginx:latest"))?;
    let why = "images must have a tag other than latest, or a digest: nginx:latest (container c)";
    ensure!(!refused.success && refused.stderr.contains(why), "{refused:?}\n{}", c.log_tail());
    c.apply(&of("none.example.com/nginx:1.29"))?;
    Ok(())
}
