//! Reads the protobuf field numbers out of the sources of k8s-pb.

use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::path::Path;

/// One field of a message.
pub struct Tag {
    /// Name without underscores, lower case.
    pub name: String,
    pub number: u32,
    /// Name of a message of the same package, where the field holds one.
    pub message: Option<String>,
}

/// Fields of each message, by the [`key`] of its full name without `io.k8s.`.
pub type Tags = BTreeMap<String, Vec<Tag>>;

pub fn tags(sources: &Path) -> Result<Tags> {
    let mut tags = Tags::new();
    crate::visit(sources, &mut |path| {
        let package = path.strip_prefix(sources)?.parent().context("no parent")?;
        let package = package.to_string_lossy().replace('/', ".");
        let package = package
            .replace("apiextensions_apiserver.", "apiextensions-apiserver.")
            .replace("kube_aggregator.", "kube-aggregator.");
        parse(&package, &std::fs::read_to_string(path)?, &mut tags);
        Ok(())
    })?;
    Ok(tags)
}

fn parse(package: &str, text: &str, tags: &mut Tags) {
    let mut current: Option<String> = None;
    let mut number = None;
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        if let Some(name) = line.strip_prefix("pub struct ").and_then(|l| l.strip_suffix(" {")) {
            let name = key(&format!("{package}.{name}"));
            tags.insert(name.clone(), Vec::new());
            current = Some(name);
        } else if let Some(at) = line.find("tag = \"").filter(|_| !line.starts_with("//")) {
            number = line[at + 7..].split('"').next().and_then(|n| n.parse().ok());
        } else if let (Some(number_of), Some(field)) = (number, line.strip_prefix("pub ")) {
            let Some((name, kind)) = field.split_once(':') else { continue };
            let mut kind = kind.trim().to_owned();
            while !kind.ends_with(',') {
                let Some(more) = lines.next() else { break };
                kind.push_str(more);
            }
            let message =
                kind.trim_end_matches(',').trim_end_matches('>').rsplit('<').next().unwrap_or_default();
            let message = message.rsplit([',', ' ']).next().unwrap_or_default();
            let local = !message.contains("::") && message.starts_with(|c: char| c.is_ascii_uppercase());
            let entry = current.as_ref().and_then(|c| tags.get_mut(c));
            if let Some(fields) = entry {
                fields.push(Tag {
                    name: plain(name.trim_start_matches("r#")),
                    number: number_of,
                    message: local.then(|| key(&format!("{package}.{message}"))),
                });
            }
            number = None;
        }
    }
}

/// How a type is found: k8s-pb spells `TcpSocketAction` what Kubernetes calls `TCPSocketAction`.
pub fn key(name: &str) -> String {
    name.to_lowercase()
}

/// How names of both worlds are compared.
pub fn plain(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase()
}
