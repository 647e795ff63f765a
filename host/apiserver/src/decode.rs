//! Request bodies: media types, YAML, kinds, unknown and duplicate fields.

use crate::core::RequestCx;
use crate::query::FieldValidation;
use crate::schema;
use bytes::Bytes;
use orlop_apimachinery::gvk::split_api_version;
use orlop_apimachinery::schema::{DecodeError, protobuf};
use orlop_apimachinery::{Gvk, Reason, Status};
use serde::Deserialize;
use serde_json::Value;

/// Formats of a body that is an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Yaml,
    /// Kubernetes' own protobuf, which typed Go clients send.
    Protobuf,
}

/// The format that a `Content-Type` names; JSON where there is none.
///
/// # Errors
/// 415
pub(crate) fn format(content_type: Option<&str>) -> Result<Format, Status> {
    let media =
        content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match media.as_str() {
        "" | "*/*" | "application/json" => Ok(Format::Json),
        "application/yaml" => Ok(Format::Yaml),
        "application/vnd.kubernetes.protobuf" => Ok(Format::Protobuf),
        other => Err(unsupported(other, &["application/json", "application/yaml"])),
    }
}

/// 415 in upstream's words.
pub(crate) fn unsupported(got: &str, accepted: &[&str]) -> Status {
    if got == "application/vnd.kubernetes.protobuf" {
        return Status::failure(
            Reason::UnsupportedMediaType,
            format!(
                "the body of the request was in an unsupported format: {got} is not supported yet, send one of {}",
                accepted.join(", ")
            ),
        );
    }
    Status::failure(
        Reason::UnsupportedMediaType,
        format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        ),
    )
}

/// `DeleteOptions` in protobuf as JSON.
///
/// # Errors
/// 400
pub(crate) fn delete_options(body: &[u8]) -> Result<Value, Status> {
    let bad = |e: protobuf::ProtobufError| Status::bad_request(e.to_string());
    let envelope = protobuf::envelope(body).map_err(bad)?;
    schema::delete_options(envelope.raw).map_err(bad)
}

/// A YAML body as JSON.
///
/// # Errors
/// 400 with the line.
pub(crate) fn yaml_to_json(body: &[u8]) -> Result<Value, Status> {
    let text = std::str::from_utf8(body).map_err(|e| {
        Status::bad_request(format!("error converting YAML to JSON: yaml: invalid UTF-8: {e}"))
    })?;
    let mut documents = serde_yaml::Deserializer::from_str(text);
    let Some(first) = documents.next() else { return Ok(Value::Null) };
    let value = Value::deserialize(first)
        .map_err(|e| Status::bad_request(format!("error converting YAML to JSON: yaml: {e}")))?;
    Ok(value)
}

/// Parses a body that is an object of `gvk`: checks its kind, types and fields. Defaults are not
/// applied. Unknown and duplicate fields become warnings or a refusal.
///
/// # Errors
/// 400 in upstream's words.
pub(crate) fn object(
    cx: &RequestCx,
    gvk: &Gvk,
    format: Format,
    body: &Bytes,
    validation: FieldValidation,
) -> Result<Value, Status> {
    let decoded = match format {
        Format::Json => {
            check_kind(gvk, body)?;
            schema::decode(gvk, body)
        }
        Format::Yaml => {
            let value = yaml_to_json(body)?;
            let json = serde_json::to_vec(&value).map_err(|e| Status::bad_request(e.to_string()))?;
            check_kind(gvk, &json)?;
            schema::decode(gvk, &json)
        }
        // As upstream: custom types have no protobuf form.
        Format::Protobuf if schema::of_kind(gvk).is_none() => {
            let accepted = ["application/json", "application/yaml"];
            return Err(unsupported("application/vnd.kubernetes.protobuf", &accepted));
        }
        Format::Protobuf => {
            let envelope = protobuf::envelope(body).map_err(|e| Status::bad_request(e.to_string()))?;
            let Gvk { kind, .. } = &envelope.gvk;
            match_kind(gvk, &envelope.gvk.api_version(), kind)?;
            schema::decode_protobuf(gvk, envelope.raw)
        }
    };
    let decoded = decoded.map_err(|e| undecodable(gvk, &e, body))?;
    judge_fields(cx, gvk, &decoded.faults, validation)?;
    let mut value = decoded.value;
    let Value::Object(map) = &mut value else {
        return Err(unrecognized(gvk, "it is not a JSON object", body));
    };
    map.insert("apiVersion".to_owned(), gvk.api_version().into());
    map.insert("kind".to_owned(), gvk.kind.to_string().into());
    Ok(value)
}

/// Unknown and duplicate fields: warn, refuse or ignore.
pub(crate) fn judge_fields(
    cx: &RequestCx,
    gvk: &Gvk,
    faults: &[String],
    validation: FieldValidation,
) -> Result<(), Status> {
    match validation {
        FieldValidation::Ignore => {}
        FieldValidation::Warn => faults.iter().for_each(|f| cx.warn(f.clone())),
        FieldValidation::Strict if faults.is_empty() => {}
        FieldValidation::Strict => {
            return Err(Status::bad_request(format!(
                "{} in version {:?} cannot be handled as a {}: strict decoding error: {}",
                gvk.kind,
                gvk.version,
                gvk.kind,
                faults.join(", ")
            )));
        }
    }
    Ok(())
}

#[derive(Deserialize)]
struct TypeMeta<'a> {
    #[serde(borrow, default, rename = "apiVersion")]
    api_version: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow, default)]
    kind: Option<std::borrow::Cow<'a, str>>,
}

fn check_kind(gvk: &Gvk, json: &[u8]) -> Result<(), Status> {
    let head: TypeMeta<'_> = match serde_json::from_slice(json) {
        Ok(head) => head,
        Err(e) if e.is_data() => {
            return Err(unrecognized(
                gvk,
                &format!("couldn't get version/kind; json parse error: {e}"),
                json,
            ));
        }
        Err(e) => {
            return Err(unrecognized(
                gvk,
                &format!("couldn't get version/kind; json parse error: {e}"),
                json,
            ));
        }
    };
    match_kind(gvk, &head.api_version.unwrap_or_default(), &head.kind.unwrap_or_default())
}

/// The kind that a body names must be the one that the URL names; it may name none.
fn match_kind(gvk: &Gvk, api_version: &str, kind: &str) -> Result<(), Status> {
    if !api_version.is_empty() && api_version != gvk.api_version() {
        return Err(Status::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({})",
            gvk.api_version()
        )));
    }
    if !kind.is_empty() && kind != gvk.kind {
        let (_, version) = split_api_version(if api_version.is_empty() { &gvk.version } else { api_version });
        return Err(Status::bad_request(format!(
            "{kind} in version {version:?} cannot be handled as a {}: the kind in the data does not match the resource",
            gvk.kind
        )));
    }
    Ok(())
}

fn undecodable(gvk: &Gvk, error: &DecodeError, body: &[u8]) -> Status {
    match error {
        DecodeError::Syntax { message } => {
            unrecognized(gvk, &format!("couldn't get version/kind; json parse error: {message}"), body)
        }
        DecodeError::Type { .. } | DecodeError::Strict { .. } => Status::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: {error}",
            gvk.kind, gvk.version, gvk.kind
        )),
    }
}

fn unrecognized(gvk: &Gvk, why: &str, body: &[u8]) -> Status {
    let hex: String = body.iter().take(30).map(|b| format!("{b:02x}")).collect();
    let more = if body.len() > 30 { " ..." } else { "" };
    Status::bad_request(format!(
        "the object provided is unrecognized (must be of type {}): {why} ({hex}{more})",
        gvk.kind
    ))
}
