//! Plugins that were built for the first version of each interface, in a cluster of today.

use anyhow::{Result, ensure};
use flate2::read::GzDecoder;
use orlop_tests::{Cluster, Options, binary, capture, eventually, repository};
use std::fs;
use std::io;

/// Puts a frozen plugin in the place of the built-in one.
fn install(c: &Cluster, name: &str) -> Result<()> {
    let frozen = repository().join(format!("tests/fixtures/frozen/{name}.wasm.gz"));
    let file = c.dir().join(format!("{name}.wasm"));
    io::copy(&mut GzDecoder::new(fs::File::open(frozen)?), &mut fs::File::create(&file)?)?;
    let out = capture(c.command(binary()?).args(["plugin", "apply"]).arg(&file))?;
    ensure!(out.success && out.stdout.contains("is active"), "{name}: {out:?}");
    Ok(())
}

#[test]
fn they_decide_as_they_did() -> Result<()> {
    let c = Cluster::start_with(Options { without_image: true, ..Options::default() })?;
    // What is not built in is shown nothing that it was not granted.
    let grants =
        r#"{"spec":{"grants":[{"apiGroups":[""],"resources":["namespaces"],"verbs":["list","watch"]}]}}"#;
    c.kubectl(&["patch", "plugin", "namespace-lifecycle", "--type=merge", "--patch", grants])?;
    for name in ["node-name", "default-toleration-seconds", "namespace-lifecycle"] {
        install(&c, name)?;
    }
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: one, namespace: NAMESPACE}\nspec:\n  containers:\n  \
               - {name: c, image: none, imagePullPolicy: Never}\n";
    let out = c.try_apply(&pod.replace("NAMESPACE", "nowhere"))?;
    ensure!(!out.success && out.stderr.contains("namespaces \"nowhere\" not found"), "{out:?}");
    eventually("a service account", || {
        Ok(c.try_kubectl(&["get", "serviceaccount", "default"])?.success.then_some(()))
    })?;
    c.apply(&pod.replace("NAMESPACE", "default"))?;
    c.wait_for(&["pod", "one"], "{.spec.nodeName}", "node-1")?;
    let tolerated = c.jsonpath(&["pod", "one"], "{.spec.tolerations[*].tolerationSeconds}")?;
    ensure!(tolerated == "300 300", "{tolerated}");
    for name in ["node-name", "default-toleration-seconds", "namespace-lifecycle"] {
        c.wait_for(&["plugin", name], "{.status.state}", "Active")?;
    }
    Ok(())
}
