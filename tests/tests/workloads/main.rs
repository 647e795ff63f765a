//! What people do all day with kubectl: apply, look, scale, roll out, roll back, delete.

use anyhow::{Result, ensure};
use orlop_tests::{Cluster, eventually, repository};

const EXAMPLE: &str = "docs/examples/web.yaml";

fn example() -> String {
    repository().join(EXAMPLE).to_string_lossy().into_owned()
}

#[test]
fn a_deployment_lives_a_whole_life() -> Result<()> {
    let c = Cluster::start()?;
    let out = c.kubectl(&["apply", "-f", &example()])?;
    ensure!(out.contains("deployment.apps/web created") && out.contains("service/web created"), "{out}");
    let out = c.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    ensure!(out.contains("successfully rolled out"), "{out}");
    let out = c.kubectl(&["apply", "-f", &example()])?;
    ensure!(out.contains("deployment.apps/web unchanged"), "a second apply changes nothing: {out}");

    let out = c.kubectl(&["get", "deployment", "web"])?;
    ensure!(out.contains("3/3"), "{out}");
    let out = c.kubectl(&["get", "pods", "-o", "wide"])?;
    ensure!(out.matches("Running").count() == 3 && out.contains("node-1"), "{out}");
    let out = c.kubectl(&["describe", "deployment", "web"])?;
    ensure!(out.contains("ScalingReplicaSet") && out.contains("3 available"), "{out}");

    c.kubectl(&["scale", "deployment", "web", "--replicas=5"])?;
    c.wait_for(&["deployment", "web"], "{.status.readyReplicas}", "5")?;
    c.kubectl(&["scale", "deployment", "web", "--replicas=2"])?;
    c.wait_for(&["deployment", "web"], "{.status.replicas}", "2")?;

    let before = c.jsonpath(&["rs"], "{.items[*].metadata.name}")?;
    c.kubectl(&["rollout", "restart", "deployment/web"])?;
    c.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    let after = c.jsonpath(&["rs"], "{.items[*].metadata.name}")?;
    ensure!(before.split(' ').count() == 1 && after.split(' ').count() == 2, "{before} then {after}");

    c.kubectl(&["set", "env", "deployment/web", "COLOUR=blue"])?;
    c.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    let history = c.kubectl(&["rollout", "history", "deployment/web"])?;
    ensure!(history.lines().any(|l| l.starts_with('3')), "{history}");
    c.kubectl(&["rollout", "undo", "deployment/web"])?;
    c.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    let env = c.jsonpath(&["deployment", "web"], "{.spec.template.spec.containers[0].env[*].name}")?;
    ensure!(!env.contains("COLOUR"), "{env}");

    c.kubectl(&["rollout", "pause", "deployment/web"])?;
    c.kubectl(&["set", "env", "deployment/web", "COLOUR=red"])?;
    c.wait_for(
        &["deployment", "web"],
        "{.status.conditions[?(@.type=='Progressing')].reason}",
        "DeploymentPaused",
    )?;
    c.kubectl(&["rollout", "resume", "deployment/web"])?;
    c.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"])?;

    c.kubectl(&["delete", "-f", &example(), "--timeout=60s"])?;
    eventually("the pods to go", || {
        Ok(c.jsonpath(&["pods"], "{.items[*].metadata.name}")?.is_empty().then_some(()))
    })
}

#[test]
fn a_namespace_takes_all_it_holds_with_it() -> Result<()> {
    let c = Cluster::start()?;
    c.kubectl(&["create", "namespace", "team"])?;
    eventually("the ServiceAccount", || {
        Ok(c.try_kubectl(&["-n", "team", "get", "sa", "default"])?.success.then_some(()))
    })?;
    c.kubectl(&["-n", "team", "create", "configmap", "settings", "--from-literal=a=b"])?;
    c.kubectl(&["-n", "team", "apply", "-f", &example()])?;
    c.kubectl(&["-n", "team", "rollout", "status", "deployment/web", "--timeout=60s"])?;
    c.kubectl(&["delete", "namespace", "team", "--timeout=60s"])?;
    let out = c.try_kubectl(&["-n", "team", "get", "configmap", "settings"])?;
    ensure!(!out.success && out.stderr.contains("NotFound"), "{out:?}");
    let out = c.try_kubectl(&["-n", "team", "create", "configmap", "late"])?;
    ensure!(out.stderr.contains("namespaces \"team\" not found"), "{out:?}");
    Ok(())
}

#[test]
fn a_pod_that_fits_nowhere_says_why() -> Result<()> {
    let c = Cluster::start()?;
    c.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: huge}\nspec:\n  containers:\n  - name: c\n    \
         image: busybox\n    resources: {requests: {cpu: \"1000\"}}\n",
    )?;
    c.wait_for(&["pod", "huge"], "{.status.conditions[?(@.type=='PodScheduled')].reason}", "Unschedulable")?;
    let message = c.jsonpath(&["pod", "huge"], "{.status.conditions[?(@.type=='PodScheduled')].message}")?;
    ensure!(message.starts_with("0/1 nodes are available: 1 Insufficient cpu."), "{message}");
    eventually("the event", || {
        let events = c.kubectl(&["get", "events", "--field-selector=involvedObject.name=huge"])?;
        Ok((events.contains("FailedScheduling") && events.contains("Insufficient cpu")).then_some(()))
    })?;
    let out = c.kubectl(&["describe", "pod", "huge"])?;
    ensure!(out.contains("Pending") && out.contains("FailedScheduling"), "{out}");

    // Makes room by asking for less: a new pod of the same name is placed.
    c.kubectl(&["delete", "pod", "huge"])?;
    c.kubectl(&["cordon", "node-1"])?;
    c.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: later}\nspec:\n  containers:\n  - {name: c, image: busybox, \
         imagePullPolicy: Never, command: [sleep, '3600']}\n",
    )?;
    c.wait_for(&["pod", "later"], "{.status.conditions[?(@.type=='PodScheduled')].reason}", "Unschedulable")?;
    c.kubectl(&["uncordon", "node-1"])?;
    c.kubectl(&["wait", "--for=condition=Ready", "pod/later", "--timeout=60s"])?;
    Ok(())
}

#[test]
fn the_schema_explains_and_refuses() -> Result<()> {
    let c = Cluster::start_with(orlop_tests::Options { without_image: true, ..Default::default() })?;
    let out = c.kubectl(&["explain", "deployment.spec.strategy.rollingUpdate"])?;
    ensure!(out.contains("maxSurge") && out.contains("maxUnavailable"), "{out}");
    let out = c.kubectl(&["explain", "pod.spec.containers"])?;
    ensure!(out.contains("imagePullPolicy"), "{out}");

    let out =
        c.try_apply("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: bad}\nspec:\n  replicaz: 3\n")?;
    ensure!(!out.success && out.stderr.contains("replicaz"), "{out:?}");
    let out = c.try_apply(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: bad}\nspec:\n  selector: {matchLabels: {a: b}}\n  \
         template:\n    metadata: {labels: {a: c}}\n    spec: {containers: [{name: x, image: busybox}]}\n",
    )?;
    ensure!(!out.success && out.stderr.contains("`selector` does not match template `labels`"), "{out:?}");
    let out = c.try_apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: Bad_Name}\nspec: {containers: [{name: x, image: busybox}]}\n",
    )?;
    ensure!(!out.success && out.stderr.contains("RFC 1123"), "{out:?}");
    let out = c.try_kubectl(&["get", "pods", "-l", "a in (b"])?;
    ensure!(!out.success, "{out:?}");
    let out = c.try_kubectl(&["get", "unicorns"])?;
    ensure!(out.stderr.contains("the server doesn't have a resource type \"unicorns\""), "{out:?}");

    let resources = c.kubectl(&["api-resources"])?;
    for wanted in ["deployments", "endpointslices", "plugins", "leases"] {
        ensure!(resources.contains(wanted), "{wanted} is not in {resources}");
    }
    Ok(())
}
