//! `orlop plugin`: plugins of a running cluster, over the API like any other client.

use crate::plugins::object::{PLUGINS, unpack};
use anyhow::{Context, Result, anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Subcommand;
use flate2::Compression;
use flate2::write::GzEncoder;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use orlop_plugin::Inspection;
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long `apply` waits for the cluster's verdict.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(150);
const FIELD_MANAGER: &str = "orlop-plugin";

#[derive(Subcommand, Debug)]
pub(crate) enum PluginCommand {
    /// Install or replace a plugin, and wait until it is active or refused
    Apply(ApplyArgs),
    /// List the plugins of the cluster
    List(ListArgs),
    /// Show what a plugin file says about itself, without a cluster
    Inspect {
        /// A core module or a component, gzip allowed
        file: PathBuf,
    },
}

#[derive(clap::Args, Debug)]
pub(crate) struct ApplyArgs {
    /// A core module or a component, gzip allowed
    file: PathBuf,
    /// Name of the Plugin object [default: of the plugin that has this name already, else made of
    /// the name in the manifest]
    #[arg(long)]
    name: Option<String>,
    /// Configuration, as a JSON object
    #[arg(long, value_name = "JSON")]
    config: Option<String>,
    #[command(flatten)]
    connection: Connection,
}

#[derive(clap::Args, Debug)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    connection: Connection,
}

#[derive(clap::Args, Debug)]
pub(crate) struct Connection {
    /// How to reach the cluster [default: $KUBECONFIG, then ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

/// Runs one command.
///
/// # Errors
/// Where the file is no plugin, the cluster cannot be reached, or the plugin was refused.
pub(crate) fn run(command: PluginCommand) -> Result<()> {
    match command {
        PluginCommand::Inspect { file } => inspect(&file),
        PluginCommand::Apply(args) => block_on(apply(args)),
        PluginCommand::List(args) => block_on(list(args)),
    }
}

fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

fn load(file: &Path) -> Result<(Vec<u8>, Inspection)> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let wasm = unpack(bytes).map_err(|e| anyhow!("{}: {e}", file.display()))?;
    let inspection =
        orlop_plugin::inspect(&wasm).with_context(|| format!("{} is not a plugin", file.display()))?;
    Ok((wasm, inspection))
}

fn inspect(file: &Path) -> Result<()> {
    let (_, found) = load(file)?;
    let form = if found.is_component { "component" } else { "core module" };
    let imports = if found.imports.is_empty() { "nothing".to_owned() } else { found.imports.join(", ") };
    let mut out = std::io::stdout().lock();
    writeln!(out, "file:     {} ({form}, {} bytes)", file.display(), found.size)?;
    writeln!(out, "digest:   {}", found.digest)?;
    writeln!(out, "imports:  {imports}")?;
    writeln!(out, "manifest: {}", serde_json::to_string_pretty(&found.manifest)?)?;
    Ok(())
}

async fn connect(connection: &Connection) -> Result<Api<DynamicObject>> {
    let config = match &connection.kubeconfig {
        None => kube::Config::infer().await.context("no cluster is configured; name one by --kubeconfig")?,
        Some(file) => {
            let kubeconfig =
                Kubeconfig::read_from(file).with_context(|| format!("cannot read {}", file.display()))?;
            kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?
        }
    };
    let client = kube::Client::try_from(config)?;
    let kind = GroupVersionKind::gvk(&PLUGINS.group, &PLUGINS.version, "Plugin");
    Ok(Api::all_with(client, &ApiResource::from_gvk_with_plural(&kind, &PLUGINS.resource)))
}

async fn apply(args: ApplyArgs) -> Result<()> {
    let (wasm, found) = load(&args.file)?;
    let config: Option<Value> = match &args.config {
        None => None,
        Some(text) => Some(serde_json::from_str(text).context("--config is not JSON")?),
    };
    let plugins = connect(&args.connection).await?;
    let name = match args.name {
        Some(name) => name,
        None => object_name(&plugins, &found.manifest.name).await?,
    };
    let spec = json!({
        "kind": found.manifest.kind.as_str(),
        "world": found.manifest.world,
        "digest": found.digest.to_string(),
        "config": config,
        "source": { "inline": encode(&wasm)?, "file": null, "builtin": null, "image": null },
    });
    let generation = write(&plugins, &name, spec).await?;
    let wanted = found.digest.to_string();
    let begin = Instant::now();
    loop {
        let plugin = plugins.get(&name).await?;
        let status = plugin.data.get("status").cloned().unwrap_or_default();
        let text = |field: &str| status.get(field).and_then(Value::as_str).unwrap_or_default();
        let observed = status.get("observedGeneration").and_then(Value::as_i64).unwrap_or(0);
        if observed >= generation {
            match text("state") {
                "Active" if text("activeDigest") == wanted => {
                    println!("plugin.orlop.dev/{name} is active ({wanted})");
                    return Ok(());
                }
                "" | "Loading" | "Active" => {}
                state => bail!("plugin.orlop.dev/{name} is not active: {state}: {}", text("message")),
            }
        }
        if begin.elapsed() > PATIENCE {
            bail!(
                "plugin.orlop.dev/{name} was written, but the cluster did not say within {} s what became of it",
                PATIENCE.as_secs()
            );
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Creates the object or replaces its source; returns the generation to wait for.
async fn write(plugins: &Api<DynamicObject>, name: &str, spec: Value) -> Result<i64> {
    let written = if plugins.get_opt(name).await?.is_some() {
        let patch = Patch::Merge(json!({ "spec": spec }));
        plugins
            .patch(
                name,
                &PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() },
                &patch,
            )
            .await
    } else {
        let object: DynamicObject = serde_json::from_value(json!({
            "apiVersion": PLUGINS.api_version(),
            "kind": "Plugin",
            "metadata": { "name": name },
            "spec": without_nulls(spec),
        }))?;
        let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
        plugins.create(&params, &object).await
    };
    let written = written.with_context(|| format!("plugin.orlop.dev/{name} cannot be written"))?;
    Ok(written.metadata.generation.unwrap_or(0))
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.into_iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k, without_nulls(v))).collect(),
        ),
        other => other,
    }
}

fn encode(wasm: &[u8]) -> Result<String> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(wasm)?;
    Ok(STANDARD.encode(gzip.finish()?))
}

/// The object whose plugin calls itself `plugin`, so that applying replaces it.
async fn object_name(plugins: &Api<DynamicObject>, plugin: &str) -> Result<String> {
    let all = plugins.list(&ListParams::default()).await.context("cannot list the plugins of the cluster")?;
    let same =
        all.items.iter().find(|o| o.data.pointer("/status/plugin").and_then(Value::as_str) == Some(plugin));
    Ok(same.and_then(|o| o.metadata.name.clone()).unwrap_or_else(|| kebab(plugin)))
}

/// `node-name` for `NodeName`.
fn kebab(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() && !out.ends_with('-') {
            out.push('-');
        }
        out.push(if c == '_' { '-' } else { c.to_ascii_lowercase() });
    }
    out
}

async fn list(args: ListArgs) -> Result<()> {
    let plugins = connect(&args.connection).await?.list(&ListParams::default()).await?;
    let rows: Vec<[String; 5]> = plugins
        .items
        .iter()
        .map(|plugin| {
            let status = |field: &str| match plugin.data.get("status").and_then(|s| s.get(field)) {
                Some(Value::String(text)) => text.clone(),
                Some(Value::Null) | None => String::new(),
                Some(other) => other.to_string(),
            };
            let name = plugin.metadata.name.clone().unwrap_or_default();
            [name, status("kind"), status("state"), status("failures"), status("message")]
        })
        .collect();
    print_table(["NAME", "KIND", "STATE", "FAILURES", "MESSAGE"].map(str::to_owned), &rows)
}

fn print_table(head: [String; 5], rows: &[[String; 5]]) -> Result<()> {
    let mut widths = head.each_ref().map(String::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.len());
        }
    }
    let mut out = std::io::stdout().lock();
    for row in std::iter::once(&head).chain(rows) {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        writeln!(out, "{}", cells.join("   ").trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_names_are_made_of_upstreams_names() {
        assert_eq!(kebab("NodeName"), "node-name");
        assert_eq!(kebab("replicaset"), "replicaset");
        assert_eq!(kebab("Cost_aware"), "cost-aware");
    }
}
