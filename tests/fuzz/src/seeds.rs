//! Valid inputs: manifests of the built-in plugins, small plugins of every kind, frozen ones, documents.

use anyhow::{Context, Result};
use flate2::read::GzDecoder;
use serde_json::{Value, json};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

#[allow(clippy::unwrap_used, dead_code, reason = "of the tests of the plugin runtime, which share it")]
#[path = "../../../runtime/plugin/tests/fixtures/command.rs"]
mod command;
#[allow(clippy::unwrap_used, dead_code, reason = "of the tests of the plugin runtime, which share it")]
#[path = "../../../runtime/plugin/tests/fixtures/scheduler.rs"]
mod scheduler;
#[allow(clippy::unwrap_used, dead_code, reason = "of the tests of the plugin runtime, which share it")]
#[path = "../../../runtime/plugin/tests/fixtures/support.rs"]
mod support;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Manifests of all built-in plugins.
///
/// # Errors
/// Where they cannot be read.
pub fn manifests() -> Result<Vec<Vec<u8>>> {
    let mut manifests = Vec::new();
    for kind in ["scheduler", "controllers", "admission"] {
        for plugin in fs::read_dir(repository().join("plugins").join(kind))? {
            let file = plugin?.path().join("manifest.json");
            if file.exists() {
                manifests.push(fs::read(&file).with_context(|| file.display().to_string())?);
            }
        }
    }
    manifests.sort();
    Ok(manifests)
}

/// Small plugins: core modules of admission and scheduling, one of them with WASI.
///
/// # Errors
/// Never; it has the type of the others.
pub fn plugins() -> Result<Vec<Vec<u8>>> {
    let section = r#"{"hooks": ["filter", "score", "permit"], "columns": ["node.labels"]}"#;
    let bodies = [("plugin.filter", "(i32.const 64)"), ("plugin.score", "unreachable")];
    Ok(vec![
        support::plugin("Seed", support::ALLOW),
        support::plugin("Seed", support::DENY),
        support::refusing("Seed"),
        command::command(
            &support::manifest("Seed"),
            "(call $print (i32.const 1) (i32.const 128) (i32.const 11))",
        ),
        scheduler::build(&scheduler::manifest(section), &scheduler::OPTIONAL, &bodies),
        scheduler::build(&scheduler::manifest(r#"{"hooks": []}"#), &[], &[]),
    ])
}

/// Plugins of real toolchains, as core modules of some 200 KB.
///
/// # Errors
/// Where they cannot be read.
pub fn frozen() -> Result<Vec<Vec<u8>>> {
    let folder = repository().join("tests/fixtures/frozen");
    let mut plugins = plugins()?;
    for name in ["node-name", "namespace-lifecycle"] {
        let mut wasm = Vec::new();
        GzDecoder::new(fs::File::open(folder.join(format!("{name}.wasm.gz")))?).read_to_end(&mut wasm)?;
        plugins.push(wasm);
    }
    Ok(plugins)
}

/// Pairs of an object and a patch.
///
/// # Errors
/// Never.
pub fn patches() -> Result<Vec<Vec<u8>>> {
    let pod =
        json!({"metadata": {"name": "web", "labels": {"a": "b"}}, "spec": {"containers": [{"name": "c"}]}});
    let patches = [
        json!([{"op": "add", "path": "/spec/containers/-", "value": {"name": "d"}},
               {"op": "remove", "path": "/metadata/labels/a"}]),
        json!([{"op": "test", "path": "/metadata/name", "value": "web"},
               {"op": "move", "from": "/metadata/labels", "path": "/metadata/annotations"},
               {"op": "copy", "from": "/spec", "path": "/spec2"}, {"op": "replace", "path": "", "value": {}}]),
        json!({"metadata": {"labels": {"a": null, "c": "d~1/"}}, "spec": {"containers": []}}),
    ];
    let pair = |patch: &Value| json!({"target": pod, "patch": patch}).to_string().into_bytes();
    Ok(patches.iter().map(pair).collect())
}

/// Selectors and quantities.
///
/// # Errors
/// Never.
pub fn texts() -> Result<Vec<Vec<u8>>> {
    let texts = [
        "a=b,c!=d,e in (f,g),!h, i notin (j), k==l, m gt 1, n, example.com/o in ()",
        "metadata.name=web,spec.nodeName!=n,status.phase==Running",
        "100m",
        "1.5Gi",
        "-12e3",
        "0.000000000000000001Ki",
        "999999999999999999999999E",
    ];
    Ok(texts.iter().map(|t| t.as_bytes().to_vec()).collect())
}

/// Scheduler configurations.
///
/// # Errors
/// Where the shipped one cannot be read.
pub fn configurations() -> Result<Vec<Vec<u8>>> {
    let shipped = fs::read(repository().join("policies/scheduler.yaml"))?;
    let profiles = json!({
        "apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
        "percentageOfNodesToScore": 50,
        "profiles": [{
            "schedulerName": "other",
            "plugins": {"multiPoint": {"enabled": [{"name": "NodeName"}], "disabled": [{"name": "*"}]},
                        "score": {"enabled": [{"name": "NodeResourcesFit", "weight": 3}]}},
            "pluginConfig": [{"name": "NodeResourcesFit", "args": {"scoringStrategy": {"type": "LeastAllocated"}}}],
        }],
    });
    Ok(vec![shipped, profiles.to_string().into_bytes()])
}
