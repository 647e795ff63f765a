//! `Accept`: in which encoding and shape a client wants the answer.

use orlop_apimachinery::{Reason, Status};

/// Encodings of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    Yaml,
}

/// Shapes of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// The object itself.
    Object,
    /// A `meta.k8s.io` Table of that version.
    Table(&'static str),
    /// `PartialObjectMetadata` or its list.
    Partial(&'static str),
}

/// What was agreed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub(crate) encoding: Encoding,
    pub(crate) shape: Shape,
}

impl Accepted {
    pub(crate) const JSON: Self = Self { encoding: Encoding::Json, shape: Shape::Object };

    pub(crate) const fn content_type(self) -> &'static str {
        match self.encoding {
            Encoding::Json => "application/json",
            Encoding::Yaml => "application/yaml",
        }
    }
}

/// One clause of an `Accept` header.
pub(crate) struct Clause<'a> {
    pub(crate) media: &'a str,
    pub(crate) parameters: Vec<(&'a str, &'a str)>,
    quality: u32,
}

impl<'a> Clause<'a> {
    pub(crate) fn parameter(&self, name: &str) -> Option<&'a str> {
        self.parameters.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| *v)
    }
}

/// The clauses, best first.
pub(crate) fn clauses(header: &str) -> Vec<Clause<'_>> {
    let mut out: Vec<Clause<'_>> = header
        .split(',')
        .filter_map(|clause| {
            let mut parts = clause.split(';').map(str::trim);
            let media = parts.next().filter(|m| !m.is_empty())?;
            let parameters: Vec<(&str, &str)> = parts.filter_map(|p| p.split_once('=')).collect();
            let quality = parameters.iter().find(|(n, _)| *n == "q").and_then(|(_, v)| v.parse::<f64>().ok());
            let quality = (quality.unwrap_or(1.0).clamp(0.0, 1.0) * 1000.0) as u32;
            Some(Clause { media, parameters, quality })
        })
        .filter(|c| c.quality > 0)
        .collect();
    out.sort_by_key(|c| std::cmp::Reverse(c.quality));
    out
}

/// Picks the best that this server can do.
///
/// # Errors
/// 406
pub(crate) fn accept(header: Option<&str>, watching: bool) -> Result<Accepted, Status> {
    let Some(header) = header.filter(|h| !h.trim().is_empty()) else { return Ok(Accepted::JSON) };
    for clause in clauses(header) {
        let encoding = match clause.media {
            "application/json" | "*/*" | "application/*" => Encoding::Json,
            "application/yaml" if !watching => Encoding::Yaml,
            _ => continue,
        };
        let version = match clause.parameter("v") {
            Some("v1beta1") => "meta.k8s.io/v1beta1",
            _ => "meta.k8s.io/v1",
        };
        let shape = match (clause.parameter("as"), clause.parameter("g")) {
            (None | Some(""), _) => Shape::Object,
            (Some("Table"), Some("meta.k8s.io")) => Shape::Table(version),
            (Some("PartialObjectMetadata" | "PartialObjectMetadataList"), Some("meta.k8s.io")) => {
                Shape::Partial(version)
            }
            _ => continue,
        };
        return Ok(Accepted { encoding, shape });
    }
    Err(not_acceptable(&["application/json", "application/yaml"]))
}

/// 406 in upstream's words.
pub(crate) fn not_acceptable(offered: &[&str]) -> Status {
    Status::failure(
        Reason::NotAcceptable,
        format!("only the following media types are accepted: {}", offered.join(", ")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_of_kubernetes_get_what_they_ask_for() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(accept(Some(kubectl), false).unwrap().shape, Shape::Table("meta.k8s.io/v1"));
        let typed = "application/vnd.kubernetes.protobuf,application/json";
        assert_eq!(accept(Some(typed), false).unwrap(), Accepted::JSON);
        let metadata = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
        assert_eq!(accept(Some(metadata), false).unwrap().shape, Shape::Partial("meta.k8s.io/v1"));
        assert_eq!(accept(Some("application/yaml"), false).unwrap().encoding, Encoding::Yaml);
        assert_eq!(accept(Some("text/html, */*;q=0.1"), false).unwrap(), Accepted::JSON);
        assert_eq!(accept(Some("application/vnd.kubernetes.protobuf"), false).unwrap_err().code, 406);
        assert_eq!(accept(None, false).unwrap(), Accepted::JSON);
    }
}
