//! What survives when things are killed: containers, sandboxes, the host itself.

use anyhow::{Context, Result, ensure};
use orlop_tests::{Cluster, eventually};
use std::collections::BTreeSet;
use std::process::Command;

const SLEEPER: &str = "apiVersion: v1
kind: Pod
metadata: {name: sleeper}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: busybox, imagePullPolicy: Never, command: [sh, -c, 'echo begun; exec sleep 3600']}]
";

/// Container id and the process of the pod's only container.
fn process(c: &Cluster, pod: &str) -> Result<(String, u32)> {
    let id = c.jsonpath(&["pod", pod], "{.status.containerStatuses[0].containerID}")?;
    let short = id.rsplit('/').next().unwrap_or_default().to_owned();
    ensure!(!short.is_empty(), "{pod} has no container");
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        if std::fs::read_to_string(entry.path().join("cgroup")).is_ok_and(|g| g.contains(&short)) {
            return Ok((short, pid));
        }
    }
    anyhow::bail!("no process of {short} runs")
}

fn parent(pid: u32) -> Result<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after = stat.rsplit(") ").next().context("odd stat")?;
    Ok(after.split(' ').nth(1).context("odd stat")?.parse()?)
}

fn kill9(pid: u32) -> Result<()> {
    ensure!(Command::new("kill").args(["-9", &pid.to_string()]).status()?.success());
    Ok(())
}

fn ready(c: &Cluster) -> Result<()> {
    c.kubectl(&["wait", "--for=condition=Ready", "pod/sleeper", "--timeout=60s"]).map(drop)
}

#[test]
fn a_killed_container_is_restarted_and_a_killed_sandbox_rebuilt() -> Result<()> {
    let c = Cluster::start()?;
    c.apply(SLEEPER)?;
    ready(&c)?;
    let (first, pid) = process(&c, "sleeper")?;
    kill9(pid)?;
    c.wait_for(&["pod", "sleeper"], "{.status.containerStatuses[0].restartCount}", "1")?;
    c.wait_for(&["pod", "sleeper"], "{.status.containerStatuses[0].lastState.terminated.exitCode}", "137")?;
    ready(&c)?;
    let (second, pid) = process(&c, "sleeper")?;
    ensure!(first != second, "a restart makes a new container");

    // The supervisor is the pod's sandbox.
    kill9(parent(pid)?)?;
    eventually("a third container", || {
        let id = c.jsonpath(&["pod", "sleeper"], "{.status.containerStatuses[0].containerID}")?;
        Ok((!id.is_empty() && !id.ends_with(&second)).then_some(()))
    })?;
    ready(&c)?;
    ensure!(!std::path::Path::new(&format!("/proc/{pid}/exe")).exists(), "the old container is gone");
    Ok(())
}

#[test]
fn containers_do_not_notice_that_the_host_was_killed() -> Result<()> {
    let mut c = Cluster::start()?;
    c.apply(SLEEPER)?;
    ready(&c)?;
    let before = process(&c, "sleeper")?;
    let address = c.jsonpath(&["pod", "sleeper"], "{.status.podIP}")?;
    c.kill()?;
    ensure!(std::path::Path::new(&format!("/proc/{}/exe", before.1)).exists(), "the container runs on");
    c.restart()?;
    ready(&c)?;
    ensure!(process(&c, "sleeper")? == before, "adopted, not restarted");
    let restarts = c.jsonpath(&["pod", "sleeper"], "{.status.containerStatuses[0].restartCount}")?;
    ensure!(restarts == "0", "{restarts}");
    ensure!(c.jsonpath(&["pod", "sleeper"], "{.status.podIP}")? == address);
    ensure!(c.kubectl(&["logs", "sleeper"])?.contains("begun"));

    // What ended while nobody looked is known all the same.
    c.kill()?;
    kill9(before.1)?;
    c.restart()?;
    c.wait_for(&["pod", "sleeper"], "{.status.containerStatuses[0].restartCount}", "1")?;
    c.wait_for(&["pod", "sleeper"], "{.status.containerStatuses[0].lastState.terminated.exitCode}", "137")?;
    ready(&c)?;
    c.kubectl(&["delete", "pod", "sleeper", "--timeout=60s"])?;

    // And a polite stop leaves them alone too.
    c.apply(SLEEPER)?;
    ready(&c)?;
    let before = process(&c, "sleeper")?;
    c.stop()?;
    c.restart()?;
    ready(&c)?;
    ensure!(process(&c, "sleeper")? == before, "adopted, not restarted");
    Ok(())
}

#[test]
fn no_acknowledged_write_is_lost() -> Result<()> {
    let mut c = Cluster::start_with(orlop_tests::Options { without_image: true, ..Default::default() })?;
    let mut acknowledged = BTreeSet::new();
    for round in 0..3 {
        let mut writers = Vec::new();
        for i in 0..8 {
            let name = format!("w-{round}-{i}");
            let child = c
                .command("sh")
                .arg("-c")
                .arg(format!(
                    "n=0; while kubectl create configmap {name}-$n -o name; do n=$((n+1)); done 2>/dev/null"
                ))
                .stdout(std::process::Stdio::piped())
                .spawn()?;
            writers.push(child);
        }
        eventually("some writes", || {
            let n = c.kubectl(&["get", "configmaps", "-o", "name"])?.matches(&format!("w-{round}-")).count();
            Ok((n > 20).then_some(()))
        })?;
        c.kill()?;
        for writer in writers {
            let out = writer.wait_with_output()?;
            acknowledged.extend(String::from_utf8(out.stdout)?.lines().map(str::to_owned));
        }
        c.restart()?;
        let there: BTreeSet<String> =
            c.kubectl(&["get", "configmaps", "-o", "name"])?.lines().map(str::to_owned).collect();
        let lost: Vec<&String> = acknowledged.difference(&there).collect();
        ensure!(lost.is_empty(), "lost: {lost:?}");
    }
    ensure!(acknowledged.len() > 60, "{}", acknowledged.len());
    Ok(())
}
