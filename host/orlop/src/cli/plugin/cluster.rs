//! Plugin objects of a running cluster: apply, list, history, rollback.

use super::inspect::load;
use super::{ApplyArgs, Connection, HistoryArgs, ListArgs, RollbackArgs, Verdict, show};
use crate::plugins::object::PLUGINS;
use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::{Value, json};
use std::io::Write;
use std::time::{Duration, Instant};

/// How long the cluster's verdict is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// What a module may have in base64: a request may have 3 MiB, and there is more in it.
const MAX_INLINE: usize = (3 << 20) - (64 << 10);
const POLL: Duration = Duration::from_millis(150);
const FIELD_MANAGER: &str = "orlop-plugin";

pub(super) async fn client(connection: &Connection) -> Result<kube::Client> {
    let config = match &connection.kubeconfig {
        None => kube::Config::infer().await.context("no cluster is configured; name one by --kubeconfig")?,
        Some(file) => {
            let kubeconfig =
                Kubeconfig::read_from(file).with_context(|| format!("cannot read {}", file.display()))?;
            kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?
        }
    };
    Ok(kube::Client::try_from(config)?)
}

fn api(client: kube::Client, kind: &str, resource: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk(&PLUGINS.group, &PLUGINS.version, kind);
    Api::all_with(client, &ApiResource::from_gvk_with_plural(&kind, resource))
}

async fn plugins(connection: &Connection) -> Result<Api<DynamicObject>> {
    Ok(api(client(connection).await?, "Plugin", &PLUGINS.resource))
}

/// A field of an object as text; empty where it is absent.
fn field(object: &DynamicObject, pointer: &str) -> String {
    match object.data.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    }
}

fn number(object: &DynamicObject, pointer: &str) -> i64 {
    object.data.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

async fn get(plugins: &Api<DynamicObject>, name: &str) -> Result<DynamicObject> {
    let found =
        plugins.get_opt(name).await.with_context(|| format!("plugin.orlop.dev/{name} cannot be read"))?;
    found.with_context(|| {
        format!("plugin.orlop.dev/{name} does not exist; `orlop plugin list` shows what does")
    })
}

pub(super) async fn apply(args: ApplyArgs) -> Result<Verdict> {
    let (wasm, found) = load(&args.file)?;
    let config: Option<Value> = match &args.config {
        None => None,
        Some(text) => Some(serde_json::from_str(text).context("--config is not JSON")?),
    };
    let plugins = plugins(&args.connection).await?;
    let name = match args.name {
        Some(name) => name,
        None => object_name(&plugins, &found.manifest.name).await?,
    };
    let wanted = found.digest.to_string();
    let spec = json!({
        "kind": found.manifest.kind.as_str(),
        "world": found.manifest.world,
        "digest": wanted,
        "config": config,
        "revision": null,
        "source": { "inline": encode(&wasm)?, "file": null, "builtin": null, "image": null },
    });
    let generation = write(&plugins, &name, spec).await?;
    wait(&plugins, &name, generation, |plugin| field(plugin, "/status/activeDigest") == wanted).await
}

/// Waits until what was asked for by a generation is active, tried in shadow or as a canary, or refused.
async fn wait(
    plugins: &Api<DynamicObject>,
    name: &str,
    generation: i64,
    is_it: impl Fn(&DynamicObject) -> bool,
) -> Result<Verdict> {
    let begin = Instant::now();
    loop {
        let plugin = get(plugins, name).await?;
        let state = field(&plugin, "/status/state");
        if number(&plugin, "/status/observedGeneration") >= generation {
            match state.as_str() {
                "Active" if is_it(&plugin) => {
                    println!(
                        "plugin.orlop.dev/{name} is active ({})",
                        field(&plugin, "/status/activeDigest")
                    );
                    return Ok(Verdict::Yes);
                }
                "Refused" | "RolledBack" | "Suspended" | "Disabled" => {
                    let message = field(&plugin, "/status/message");
                    eprintln!("error: plugin.orlop.dev/{name} is not active: {state}: {message}");
                    return Ok(Verdict::No);
                }
                // How long that takes is for its rollout to say; nobody waits at a terminal for it.
                "Shadow" | "Canary" => {
                    println!(
                        "plugin.orlop.dev/{name} is in stage {state}; `kubectl describe plugin {name}` shows how it fares"
                    );
                    return Ok(Verdict::Yes);
                }
                _ => {}
            }
        }
        if begin.elapsed() > PATIENCE {
            bail!(
                "plugin.orlop.dev/{name} was written, but the cluster did not say within {} s what became of it (state {state})",
                PATIENCE.as_secs()
            );
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn patch(plugins: &Api<DynamicObject>, name: &str, spec: Value) -> Result<i64> {
    let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
    let patched = plugins.patch(name, &parameters, &Patch::Merge(json!({ "spec": spec }))).await;
    let patched = patched.with_context(|| format!("plugin.orlop.dev/{name} cannot be written"))?;
    Ok(patched.metadata.generation.unwrap_or(0))
}

/// Creates the object or replaces its source; returns the generation to wait for.
async fn write(plugins: &Api<DynamicObject>, name: &str, spec: Value) -> Result<i64> {
    if plugins.get_opt(name).await?.is_some() {
        return patch(plugins, name, spec).await;
    }
    let object: DynamicObject = serde_json::from_value(json!({
        "apiVersion": PLUGINS.api_version(),
        "kind": "Plugin",
        "metadata": { "name": name },
        "spec": without_nulls(spec),
    }))?;
    let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
    let written = plugins.create(&params, &object).await;
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
    let text = STANDARD.encode(gzip.finish()?);
    if text.len() > MAX_INLINE {
        bail!(
            "packed, the module has {} bytes, and no more than {MAX_INLINE} fit into an object: put the file where every \
             server can read it and apply a Plugin with `spec: {{source: {{file: /its/path}}}}`, or put it into a \
             registry and use `spec.source.image`",
            text.len()
        );
    }
    Ok(text)
}

/// The object whose plugin calls itself `plugin`, so that applying replaces it.
async fn object_name(plugins: &Api<DynamicObject>, plugin: &str) -> Result<String> {
    let all = plugins.list(&ListParams::default()).await.context("cannot list the plugins of the cluster")?;
    let same = all.items.iter().find(|o| field(o, "/status/plugin") == plugin);
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

pub(super) async fn list(args: ListArgs) -> Result<Verdict> {
    let plugins = plugins(&args.connection).await?.list(&ListParams::default()).await?;
    let row = |plugin: &DynamicObject| {
        let name = plugin.metadata.name.clone().unwrap_or_default();
        let status = |name: &str| field(plugin, &format!("/status/{name}"));
        [name, status("kind"), status("state"), status("failures"), status("message")]
    };
    let rows: Vec<[String; 5]> = plugins.items.iter().map(row).collect();
    show::table(["NAME", "KIND", "STATE", "FAILURES", "MESSAGE"], &rows)?;
    Ok(Verdict::Yes)
}

/// The revisions of a plugin, by number.
async fn revisions(client: kube::Client, name: &str) -> Result<Vec<DynamicObject>> {
    let all = api(client, "PluginRevision", "pluginrevisions");
    let of = ListParams::default().fields(&format!("spec.plugin={name}"));
    let mut found = all.list(&of).await.context("the revisions of plugins cannot be read")?.items;
    found.sort_by_key(|r| number(r, "/spec/revision"));
    Ok(found)
}

pub(super) async fn history(args: HistoryArgs) -> Result<Verdict> {
    let client = client(&args.connection).await?;
    let plugin = get(&api(client.clone(), "Plugin", &PLUGINS.resource), &args.name).await?;
    let active = number(&plugin, "/status/activeRevision");
    let row = |revision: &DynamicObject| {
        let number = number(revision, "/spec/revision");
        let created =
            revision.metadata.creation_timestamp.as_ref().map(|t| t.0.to_string()).unwrap_or_default();
        [
            number.to_string(),
            if number == active { "*".to_owned() } else { String::new() },
            field(revision, "/status/stage"),
            field(revision, "/spec/digest"),
            show::age(&created),
            field(revision, "/status/message"),
        ]
    };
    let rows: Vec<[String; 6]> = revisions(client, &args.name).await?.iter().map(row).collect();
    show::table(["REVISION", "ACTIVE", "STAGE", "DIGEST", "AGE", "MESSAGE"], &rows)?;
    Ok(Verdict::Yes)
}

pub(super) async fn rollback(args: RollbackArgs) -> Result<Verdict> {
    let client = client(&args.connection).await?;
    let plugins = api(client.clone(), "Plugin", &PLUGINS.resource);
    let plugin = get(&plugins, &args.name).await?;
    if args.undo {
        let generation = patch(&plugins, &args.name, json!({ "revision": null })).await?;
        return wait(&plugins, &args.name, generation, |_| true).await;
    }
    let active = number(&plugin, "/status/activeRevision");
    let revisions = revisions(client, &args.name).await?;
    let known: Vec<i64> = revisions.iter().map(|r| number(r, "/spec/revision")).collect();
    let listed = || known.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let to = match args.to {
        Some(to) if known.contains(&to) => to,
        Some(to) => bail!("plugin.orlop.dev/{} has no revision {to}; it has {}", args.name, listed()),
        None => {
            let stages = revisions.iter().map(|r| (number(r, "/spec/revision"), field(r, "/status/stage")));
            match before(active, stages) {
                Some(to) => to,
                None => bail!(
                    "plugin.orlop.dev/{} has no revision before {active} that was not given up; it has {}; choose one by --to",
                    args.name,
                    listed()
                ),
            }
        }
    };
    let generation = patch(&plugins, &args.name, json!({ "revision": to })).await?;
    let verdict =
        wait(&plugins, &args.name, generation, |p| number(p, "/status/activeRevision") == to).await?;
    if matches!(verdict, Verdict::Yes) {
        println!(
            "revision {to} runs; `orlop plugin rollback {} --undo` returns to what the object says",
            args.name
        );
    }
    Ok(verdict)
}

/// The newest revision before the active one that was not given up.
fn before(active: i64, stages: impl Iterator<Item = (i64, String)>) -> Option<i64> {
    let good = |stage: &str| !matches!(stage, "Refused" | "RolledBack");
    stages.filter(|(number, stage)| *number < active && good(stage)).map(|(number, _)| number).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_that_was_given_up_is_not_gone_back_to() {
        let stages = || {
            [(1, "Standby"), (2, "Refused"), (3, "RolledBack"), (4, "Active")].map(|(n, s)| (n, s.to_owned()))
        };
        assert_eq!(before(4, stages().into_iter()), Some(1));
        assert_eq!(before(1, stages().into_iter()), None);
        assert_eq!(before(5, stages().into_iter()), Some(4));
    }

    #[test]
    fn object_names_are_made_of_upstreams_names() {
        assert_eq!(kebab("NodeName"), "node-name");
        assert_eq!(kebab("replicaset"), "replicaset");
        assert_eq!(kebab("Cost_aware"), "cost-aware");
    }
}
