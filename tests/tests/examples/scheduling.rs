//! The scheduler plugins.

use super::*;

/// Puts plugins into the default profile, each with a weight and arguments (JSON), and waits for it to be in force.
fn profile(c: &Cluster, plugins: &[(&str, &str)]) -> Result<()> {
    const NAME: &str = "  - schedulerName: default-scheduler\n    pluginConfig:\n";
    let text = fs::read_to_string(repository().join("policies/scheduler.yaml"))?;
    let enabled: String =
        plugins.iter().map(|(name, _)| format!("{{name: {name}, weight: 100}}, ")).collect();
    let arguments: String =
        plugins.iter().map(|(name, args)| format!("      - {{name: {name}, args: {args}}}\n")).collect();
    ensure!(text.contains(NAME), "the profile looks otherwise: {text}");
    let head = format!(
        "  - schedulerName: default-scheduler\n    plugins: {{multiPoint: {{enabled: [{enabled}]}}}}\n    \
         pluginConfig:\n{arguments}"
    );
    let folder = c.dir().join("policies");
    fs::write(folder.join("scheduler.new"), text.replace(NAME, &head))?;
    fs::rename(folder.join("scheduler.new"), folder.join("scheduler.yaml"))?;
    eventually("the profile with the plugins", || {
        let log = fs::read_to_string(c.dir().join("orlop.log"))?;
        let last = log.lines().rfind(|l| l.contains("scheduler profiles put to work")).unwrap_or_default();
        Ok(plugins.iter().all(|(name, _)| last.contains(name)).then_some(()))
    })
    .with_context(|| c.log_tail())
}

/// A machine that is only on paper: pods are placed there, and never run.
fn paper_node(c: &Cluster, name: &str, kind: &str) -> Result<()> {
    c.apply(&format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}, labels: {{node.kubernetes.io/instance-type: {kind}}}}}\n"
    ))?;
    let status = r#"{"status": {"allocatable": {"cpu": "8", "memory": "8Gi", "pods": "50"},
        "capacity": {"cpu": "8", "memory": "8Gi", "pods": "50"}}}"#;
    c.kubectl(&["patch", "node", name, "--subresource=status", "--type=merge", "-p", status]).map(drop)
}

fn pod(c: &Cluster, name: &str, metadata: &str) -> Result<()> {
    c.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, {metadata}}}\nspec:\n  \
         terminationGracePeriodSeconds: 0\n  tolerations: [{{operator: Exists}}]\n  \
         containers: [{{name: c, image: none.example.com/none}}]\n"
    ))
    .map(drop)
}

fn node_of(c: &Cluster, pod: &str) -> Result<String> {
    c.jsonpath(&["pod", pod], "{.spec.nodeName}")
}

fn placed(c: &Cluster, pod: &str) -> Result<String> {
    eventually(&format!("pod {pod} to be placed"), || {
        let node = node_of(c, pod)?;
        Ok((!node.is_empty()).then_some(node))
    })
    .with_context(|| c.log_tail())
}

/// Waits until the pod's condition says why it is not placed.
fn waits(c: &Cluster, pod: &str, why: &str) -> Result<()> {
    let path = "{.status.conditions[?(@.type=='PodScheduled')].message}";
    let mut last = String::new();
    eventually(&format!("pod {pod} to say `{why}`"), || {
        last = c.jsonpath(&["pod", pod], path)?;
        Ok(last.contains(why).then_some(()))
    })
    .with_context(|| format!("it says `{last}`\n{}", c.log_tail()))
}

fn prices(c: &Cluster, small: &str, large: &str) -> Result<()> {
    c.apply(&format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: node-prices, namespace: kube-system}}\n\
         data: {{small: \"{small}\", large: \"{large}\", own: \"9\"}}\n"
    ))
    .map(drop)
}

#[test]
fn pods_follow_the_prices() -> Result<()> {
    let c = cluster()?;
    paper_node(&c, "small-1", "small")?;
    paper_node(&c, "large-1", "large")?;
    prices(&c, "0.1", "0.4")?;
    apply(&c, "cost-aware", None)?;
    profile(&c, &[("CostAware", "{}")])?;
    for name in ["a", "b", "c"] {
        pod(&c, name, "")?;
        ensure!(placed(&c, name)? == "small-1", "{name} is on {}", node_of(&c, name)?);
    }
    // The list changes, and from then on the decisions; only the pod can tell when the list has come through.
    prices(&c, "0.4", "0.1")?;
    let mut number = 0;
    eventually("pods to go to the nodes that have become cheap", || {
        number += 1;
        let name = format!("later-{number}");
        pod(&c, &name, "")?;
        Ok((placed(&c, &name)? == "large-1").then_some(()))
    })?;
    pod(&c, "last", "")?;
    ensure!(placed(&c, "last")? == "large-1");
    Ok(())
}

#[test]
fn there_are_no_more_pods_than_licences() -> Result<()> {
    let c = cluster()?;
    apply(&c, "licence-count", None)?;
    profile(&c, &[("LicenceCount", "{licences: {cad: 2}}")])?;
    let licensed = |name: &str| pod(&c, name, "annotations: {licence: cad}");
    for name in ["one", "two", "three", "four"] {
        licensed(name)?;
    }
    pod(&c, "free", "")?;
    placed(&c, "free")?;
    let with_a_node = || -> Result<Vec<&str>> {
        let mut all = Vec::new();
        for name in ["one", "two", "three", "four"] {
            if !node_of(&c, name)?.is_empty() {
                all.push(name);
            }
        }
        Ok(all)
    };
    eventually("two pods to be placed", || Ok((with_a_node()?.len() == 2).then_some(())))?;
    let first = with_a_node()?;
    for name in ["one", "two", "three", "four"].iter().filter(|name| !first.contains(name)) {
        waits(&c, name, "no free licence cad")?;
    }
    pod(&c, "unlicensed", "annotations: {licence: games}")?;
    waits(&c, "unlicensed", "the cluster has no licence games")?;
    // One that goes lets one in, and not two.
    let gone = first.first().context("two pods")?;
    c.kubectl(&["delete", "pod", gone, "--now"])?;
    eventually("a third pod to be placed", || {
        let now = with_a_node()?;
        ensure!(now.len() <= 2, "more pods than licences: {now:?}");
        Ok((now.len() == 2).then_some(()))
    })
    .with_context(|| c.log_tail())?;
    let now = with_a_node()?;
    ensure!(!now.contains(gone), "{now:?}");
    Ok(())
}

#[test]
fn a_gang_starts_together_or_not_at_all() -> Result<()> {
    let c = cluster()?;
    apply(&c, "gang", None)?;
    profile(&c, &[("Gang", "{timeoutSeconds: 3}")])?;
    let member = |name: &str| pod(&c, name, "labels: {gang: train}, annotations: {gang-size: \"3\"}");
    member("one")?;
    member("two")?;
    pod(&c, "alone", "")?;
    placed(&c, "alone")?;
    // Both go back when the time is up: by it, or because of the one whose time was up first.
    for name in ["one", "two"] {
        let path = "{.status.conditions[?(@.type=='PodScheduled')].message}";
        eventually(&format!("pod {name} to be sent back"), || {
            ensure!(node_of(&c, name)?.is_empty(), "{name} was bound alone");
            let told = c.jsonpath(&["pod", name], path)?;
            Ok((told.contains("at plugin Gang") || told.contains("its gang train did not get together"))
                .then_some(()))
        })
        .with_context(|| c.log_tail())?;
    }
    member("three")?;
    for name in ["one", "two", "three"] {
        placed(&c, name)?;
    }
    pod(&c, "sizeless", "labels: {gang: other}")?;
    waits(&c, "sizeless", "no annotation gang-size")
}
