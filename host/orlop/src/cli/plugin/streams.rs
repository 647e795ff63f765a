//! What a running plugin says and does: logs, record.

use super::{Connection, LogsArgs, RecordArgs, Verdict};
use crate::plugins::object::PLUGINS;
use anyhow::{Context, Result, bail};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::{AsyncBufRead, AsyncBufReadExt};
use k8s_openapi::api::core::v1::Event;
use kube::api::{Api, ListParams};
use orlop_plugin_tools::record::{Entry, Header};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::pin::pin;

/// A stream of a plugin's subresource.
async fn open(
    connection: &Connection,
    name: &str,
    method: http::Method,
    subresource: &str,
    query: &str,
) -> Result<impl AsyncBufRead + use<>> {
    let client = super::cluster::client(connection).await?;
    let path = format!("/apis/{}/{}/{name}/{subresource}?{query}", PLUGINS.api_version(), PLUGINS.resource);
    let request = http::Request::builder().method(method).uri(path).body(Vec::new())?;
    let opened = client.request_stream(request).await;
    opened.with_context(|| format!("plugin.orlop.dev/{name}: cannot have its {subresource}"))
}

pub(super) async fn logs(args: LogsArgs) -> Result<Verdict> {
    events(&args).await?;
    let query = format!("tailLines={}&follow={}", args.tail, args.follow);
    let lines = open(&args.connection, &args.name, http::Method::GET, "log", &query).await?;
    let mut lines = pin!(lines);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).await.context("the log broke off")? > 0 {
        let mut out = std::io::stdout().lock();
        out.write_all(&line)?;
        out.flush()?;
        line.clear();
    }
    Ok(Verdict::Yes)
}

/// What the host said about the plugin, oldest first.
async fn events(args: &LogsArgs) -> Result<()> {
    let client = super::cluster::client(&args.connection).await?;
    let about = format!("involvedObject.kind=Plugin,involvedObject.name={}", args.name);
    let events: Api<Event> = Api::all(client);
    let mut found =
        events.list(&ListParams::default().fields(&about)).await.context("cannot read Events")?.items;
    let when = |e: &Event| e.last_timestamp.as_ref().map(|t| t.0.to_string()).unwrap_or_default();
    found.sort_by_key(when);
    for event in &found {
        let word = |w: &Option<String>| w.clone().unwrap_or_default();
        println!(
            "{} EVENT {} {}: {}",
            when(event),
            word(&event.type_),
            word(&event.reason),
            word(&event.message)
        );
    }
    Ok(())
}

/// A file, compressed where its name says so.
enum Sink {
    Plain(BufWriter<File>),
    Gzip(Box<GzEncoder<BufWriter<File>>>),
}

impl Sink {
    fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        let file = BufWriter::new(file);
        if path.extension().is_some_and(|e| e == "gz") {
            return Ok(Self::Gzip(Box::new(GzEncoder::new(file, Compression::default()))));
        }
        Ok(Self::Plain(file))
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Plain(file) => file.write_all(bytes),
            Self::Gzip(file) => file.write_all(bytes),
        }
    }

    fn finish(self) -> std::io::Result<()> {
        match self {
            Self::Plain(mut file) => file.flush(),
            Self::Gzip(file) => file.finish()?.flush(),
        }
    }
}

pub(super) async fn record(args: RecordArgs) -> Result<Verdict> {
    let query = format!("seconds={}&calls={}", args.seconds, args.calls);
    let lines = open(&args.connection, &args.name, http::Method::POST, "recording", &query).await?;
    eprintln!("recording {} for {} s or {} calls …", args.name, args.seconds, args.calls);
    let mut file = Sink::create(&args.output)?;
    let (mut calls, mut instances, mut dropped) = (0_u64, 0_u64, 0_u64);
    let mut lines = pin!(lines);
    let mut line = Vec::new();
    let mut first = true;
    while lines.read_until(b'\n', &mut line).await.context("the recording broke off")? > 0 {
        if first {
            serde_json::from_slice::<Header>(&line).context("the server sends no recording")?;
        } else {
            match serde_json::from_slice::<Entry>(&line).context("the server sends what is no recording")? {
                Entry::Called { .. } => calls += 1,
                Entry::Opened { .. } => instances += 1,
                Entry::Dropped(left_out) => dropped += left_out,
            }
        }
        first = false;
        file.write(&line).with_context(|| format!("cannot write {}", args.output.display()))?;
        line.clear();
    }
    file.finish().with_context(|| format!("cannot write {}", args.output.display()))?;
    println!("{}: {calls} calls of {instances} instances", args.output.display());
    if dropped > 0 {
        println!("note: {dropped} calls were left out, because they came faster than they could be sent");
    }
    if calls == 0 {
        bail!(
            "the plugin was not asked anything meanwhile; is it enabled, and does the cluster do what it is for?"
        );
    }
    Ok(Verdict::Yes)
}
