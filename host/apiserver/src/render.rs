//! Answers as bytes: objects, lists, tables, partial metadata.

use crate::body::Chain;
use crate::negotiate::{Accepted, Encoding, Shape};
use crate::read::Page;
use crate::registry::{Column, Context, Resource};
use bytes::Bytes;
use orlop_apimachinery::{Object, Status};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::sync::Arc;

/// What of each object a Table row carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum IncludeObject {
    None,
    #[default]
    Metadata,
    Object,
}

impl IncludeObject {
    /// # Errors
    /// 400 for an unknown word.
    pub(crate) fn parse(text: &str) -> Result<Self, Status> {
        match text {
            "" | "Metadata" => Ok(Self::Metadata),
            "None" => Ok(Self::None),
            "Object" => Ok(Self::Object),
            other => Err(Status::bad_request(format!("unrecognized includeObject value: {other:?}"))),
        }
    }
}

/// How a client wants objects.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    pub(crate) row: &'static Resource,
    pub(crate) accepted: Accepted,
    pub(crate) include: IncludeObject,
    pub(crate) context: Context<'a>,
}

impl View<'_> {
    /// One object.
    pub(crate) fn object(&self, object: &Object) -> Result<Chain, Status> {
        let chain = match self.accepted.shape {
            Shape::Object => Chain::from(object.bytes().clone()),
            Shape::Partial(version) => Chain::from(Bytes::from(partial(object, version)?)),
            Shape::Table(version) => {
                let revision = object.meta().resource_version;
                let table =
                    self.table(version, &[object], true, json!({"resourceVersion": revision.to_string()}))?;
                Chain::from(Bytes::from(table))
            }
        };
        self.encode(chain)
    }

    /// A page of a list.
    pub(crate) fn list(&self, page: &Page) -> Result<Chain, Status> {
        let mut meta = json!({"resourceVersion": page.revision.to_string()});
        if let Value::Object(map) = &mut meta {
            if !page.continue_token.is_empty() {
                map.insert("continue".to_owned(), page.continue_token.clone().into());
            }
            if let Some(remaining) = page.remaining {
                map.insert("remainingItemCount".to_owned(), remaining.into());
            }
        }
        let chain = match self.accepted.shape {
            Shape::Table(version) => {
                let objects: Vec<&Object> = page.items.iter().map(AsRef::as_ref).collect();
                Chain::from(Bytes::from(self.table(version, &objects, true, meta)?))
            }
            Shape::Partial(version) => {
                let head = format!(
                    "{{\"kind\":\"PartialObjectMetadataList\",\"apiVersion\":\"{version}\",\"metadata\":{meta},\"items\":["
                );
                let items: Result<Vec<Bytes>, Status> =
                    page.items.iter().map(|o| partial(o, version).map(Bytes::from)).collect();
                joined(head, items?)
            }
            Shape::Object => {
                let head = format!(
                    "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{meta},\"items\":[",
                    self.row.list_kind(),
                    self.row.gvr.api_version()
                );
                joined(head, page.items.iter().map(|o| o.bytes().clone()))
            }
        };
        self.encode(chain)
    }

    fn encode(&self, chain: Chain) -> Result<Chain, Status> {
        match self.accepted.encoding {
            Encoding::Json => Ok(chain),
            Encoding::Yaml => {
                let json = chain.into_bytes();
                let value: Value =
                    serde_json::from_slice(&json).map_err(|e| Status::internal(e.to_string()))?;
                let text = serde_yaml::to_string(&value).map_err(|e| Status::internal(e.to_string()))?;
                Ok(Chain::from(Bytes::from(text)))
            }
        }
    }

    /// A Table; `heads` only in the first of a watch.
    pub(crate) fn table(
        &self,
        version: &str,
        objects: &[&Object],
        heads: bool,
        meta: Value,
    ) -> Result<Vec<u8>, Status> {
        let mut out = format!(
            "{{\"kind\":\"Table\",\"apiVersion\":\"{version}\",\"metadata\":{meta},\"columnDefinitions\":"
        )
        .into_bytes();
        if heads {
            let heads: Vec<Value> = self.row.strategy.columns().iter().map(head).collect();
            write(&mut out, &heads)?;
        } else {
            out.extend_from_slice(b"null");
        }
        out.extend_from_slice(b",\"rows\":[");
        for (at, object) in objects.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            let value = object.to_value();
            out.extend_from_slice(b"{\"cells\":");
            write(&mut out, &self.row.strategy.cells(&self.context, &value))?;
            out.extend_from_slice(b",\"object\":");
            match self.include {
                IncludeObject::None => out.extend_from_slice(b"null"),
                IncludeObject::Metadata => out.extend_from_slice(&partial(object, version)?),
                IncludeObject::Object => out.extend_from_slice(object.bytes()),
            }
            out.push(b'}');
        }
        out.extend_from_slice(b"]}");
        Ok(out)
    }

    /// An object inside a watch event; `first` adds the heads of a Table.
    pub(crate) fn event_object(&self, object: &Arc<Object>, first: bool) -> Result<Bytes, Status> {
        match self.accepted.shape {
            Shape::Object => Ok(object.bytes().clone()),
            Shape::Partial(version) => partial(object, version).map(Bytes::from),
            Shape::Table(version) => {
                let meta = json!({"resourceVersion": object.meta().resource_version.to_string()});
                self.table(version, &[object], first, meta).map(Bytes::from)
            }
        }
    }

    /// The object of a bookmark.
    pub(crate) fn bookmark(&self, revision: u64, initial_end: bool, first: bool) -> Result<Bytes, Status> {
        let mut meta = json!({"resourceVersion": revision.to_string()});
        if initial_end && let Value::Object(map) = &mut meta {
            map.insert("annotations".to_owned(), json!({"k8s.io/initial-events-end": "true"}));
        }
        let value = match self.accepted.shape {
            Shape::Table(version) => {
                let table =
                    self.table(version, &[], first, json!({"resourceVersion": revision.to_string()}))?;
                if !initial_end {
                    return Ok(Bytes::from(table));
                }
                // The annotation travels in a row's object, as upstream sends it.
                let mut table: Value =
                    serde_json::from_slice(&table).map_err(|e| Status::internal(e.to_string()))?;
                let object =
                    json!({"kind": "PartialObjectMetadata", "apiVersion": version, "metadata": meta});
                if let Value::Object(map) = &mut table {
                    let cells: Vec<Value> = self.row.strategy.columns().iter().map(|_| Value::Null).collect();
                    map.insert("rows".to_owned(), json!([{"cells": cells, "object": object}]));
                }
                table
            }
            Shape::Partial(version) => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": version, "metadata": meta})
            }
            Shape::Object => {
                let name = json!({"kind": self.row.kind, "apiVersion": self.row.gvr.api_version()});
                let mut value = name;
                if let Value::Object(map) = &mut value {
                    map.insert("metadata".to_owned(), meta);
                }
                value
            }
        };
        serde_json::to_vec(&value).map(Bytes::from).map_err(|e| Status::internal(e.to_string()))
    }
}

fn write(out: &mut Vec<u8>, value: &impl serde::Serialize) -> Result<(), Status> {
    serde_json::to_writer(out, value).map_err(|e| Status::internal(e.to_string()))
}

fn head(column: &Column) -> Value {
    json!({
        "name": column.name, "type": column.r#type, "format": column.format,
        "description": column.description, "priority": column.priority,
    })
}

fn joined(head: String, items: impl IntoIterator<Item = Bytes>) -> Chain {
    const COMMA: Bytes = Bytes::from_static(b",");
    let mut chain = Chain::from(Bytes::from(head));
    for (at, item) in items.into_iter().enumerate() {
        if at > 0 {
            chain.push(COMMA);
        }
        chain.push(item);
    }
    chain.push(Bytes::from_static(b"]}"));
    chain
}

#[derive(Deserialize)]
struct OnlyMetadata<'a> {
    #[serde(borrow)]
    metadata: &'a RawValue,
}

fn partial(object: &Object, version: &str) -> Result<Vec<u8>, Status> {
    let only: OnlyMetadata<'_> =
        serde_json::from_slice(object.bytes()).map_err(|e| Status::internal(e.to_string()))?;
    Ok(format!(
        "{{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"{version}\",\"metadata\":{}}}",
        only.metadata.get()
    )
    .into_bytes())
}
