//! ConfigMaps, Secrets and ServiceAccounts.
//!
//! Source: `ValidateConfigMap`, `ValidateSecret` of `pkg/apis/core/validation`.

use super::json::{items, set_default, text};
use super::{AGE_COLUMN, Column, Context, NAME_COLUMN, SelectableField, Strategy, age_cell, at, name_cell};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use orlop_apimachinery::field::{Path, forbidden, invalid, required};
use orlop_apimachinery::names;
use orlop_apimachinery::status::Cause;
use serde_json::{Map, Value};

/// The strategy of configmaps.
#[derive(Debug)]
pub(super) struct ConfigMaps;

/// The strategy of secrets.
#[derive(Debug)]
pub(super) struct Secrets;

/// The strategy of serviceaccounts.
#[derive(Debug)]
pub(super) struct ServiceAccounts;

/// Bytes of all values together.
const MAX_SIZE: usize = 1024 * 1024;

const SIZED: [Column; 3] =
    [NAME_COLUMN, Column::new("Data", "Number of entries").typed("string"), AGE_COLUMN];

const SECRET_COLUMNS: &[Column] = &[
    NAME_COLUMN,
    Column::new("Type", "Used to facilitate programmatic handling of secret data."),
    Column::new("Data", "Number of entries").typed("string"),
    AGE_COLUMN,
];

const ACCOUNT_COLUMNS: &[Column] = &[
    NAME_COLUMN,
    Column::new("Secrets", "Secrets that the pods of this account may use").typed("string"),
    AGE_COLUMN,
];

fn entries<'a>(object: &'a Value, key: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    object.get(key).and_then(Value::as_object).into_iter().flatten()
}

fn count(object: &Value, keys: &[&str]) -> usize {
    keys.iter().map(|key| object.get(*key).and_then(Value::as_object).map_or(0, Map::len)).sum()
}

/// What `immutable: true` fixed must stay as it is.
fn frozen(new: &Value, old: &Value, keys: &[&str], faults: &mut Vec<Cause>) {
    if old.get("immutable").and_then(Value::as_bool) != Some(true) {
        return;
    }
    if new.get("immutable").and_then(Value::as_bool) != Some(true) {
        faults.push(forbidden(&Path::new("immutable"), "field is immutable when `immutable` is set"));
    }
    for key in keys {
        if new.get(key) != old.get(key) {
            faults.push(forbidden(&Path::new(key), "field is immutable when `immutable` is set"));
        }
    }
}

impl Strategy for ConfigMaps {
    fn validate(&self, _cx: &Context<'_>, object: &Value) -> Vec<Cause> {
        let mut faults = Vec::new();
        let mut size = 0;
        for key in ["data", "binaryData"] {
            for (name, value) in entries(object, key) {
                let at = Path::new(key).key(name);
                faults.extend(names::config_map_key(name).iter().map(|why| invalid(&at, name.as_str(), why)));
                size += value.as_str().map_or(0, str::len);
                if key == "binaryData" && object.get("data").is_some_and(|d| d.get(name).is_some()) {
                    faults.push(invalid(&at, name.as_str(), "duplicate of key present in data"));
                }
            }
        }
        if size > MAX_SIZE {
            faults.push(orlop_apimachinery::field::too_long(&Path::new("[]"), MAX_SIZE));
        }
        faults
    }

    fn validate_update(&self, cx: &Context<'_>, new: &Value, old: &Value) -> Vec<Cause> {
        let mut faults = self.validate(cx, new);
        frozen(new, old, &["data", "binaryData"], &mut faults);
        faults
    }

    fn columns(&self) -> &'static [Column] {
        &SIZED
    }

    fn cells(&self, cx: &Context<'_>, object: &Value) -> Vec<Value> {
        vec![
            name_cell(object),
            count(object, &["data", "binaryData"]).to_string().into(),
            age_cell(cx, object),
        ]
    }
}

impl Strategy for Secrets {
    fn default(&self, secret: &mut Value) {
        let Some(map) = secret.as_object_mut() else { return };
        if map.get("type").and_then(Value::as_str) == Some("") {
            map.remove("type");
        }
        set_default(map, "type", "Opaque");
        // What was written as text is kept as bytes only.
        let Some(Value::Object(texts)) = map.remove("stringData") else { return };
        let Some(data) = super::json::object(map, "data") else { return };
        for (key, value) in texts {
            data.insert(key, STANDARD.encode(value.as_str().unwrap_or_default()).into());
        }
    }

    fn validate(&self, _cx: &Context<'_>, object: &Value) -> Vec<Cause> {
        let mut faults = Vec::new();
        let mut size = 0;
        for (name, value) in entries(object, "data") {
            let at = Path::new("data").key(name);
            faults.extend(names::config_map_key(name).iter().map(|why| invalid(&at, name.as_str(), why)));
            match STANDARD.decode(value.as_str().unwrap_or_default()) {
                Ok(bytes) => size += bytes.len(),
                Err(error) => faults.push(invalid(&at, "<secret contents redacted>", &error.to_string())),
            }
        }
        if size > MAX_SIZE {
            faults.push(orlop_apimachinery::field::too_long(&Path::new("data"), MAX_SIZE));
        }
        let data = Path::new("data");
        let needed: &[&str] = match text(object, &["type"]) {
            "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
            "kubernetes.io/dockercfg" => &[".dockercfg"],
            "kubernetes.io/tls" => &["tls.crt", "tls.key"],
            "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
            "kubernetes.io/service-account-token" => {
                if at(object, &["metadata", "annotations", "kubernetes.io/service-account.name"]).is_none() {
                    let path =
                        Path::new("metadata").child("annotations").key("kubernetes.io/service-account.name");
                    faults.push(required(&path, ""));
                }
                &[]
            }
            _ => &[],
        };
        for key in needed {
            if at(object, &["data", key]).is_none() {
                faults.push(required(&data.key(key), ""));
            }
        }
        faults
    }

    fn validate_update(&self, cx: &Context<'_>, new: &Value, old: &Value) -> Vec<Cause> {
        let mut faults = self.validate(cx, new);
        if new.get("type") != old.get("type") {
            faults.push(invalid(&Path::new("type"), text(new, &["type"]), "field is immutable"));
        }
        frozen(new, old, &["data"], &mut faults);
        faults
    }

    fn selectable_fields(&self) -> &'static [SelectableField] {
        const { &[SelectableField::new("type", &[&["type"]])] }
    }

    fn columns(&self) -> &'static [Column] {
        SECRET_COLUMNS
    }

    fn cells(&self, cx: &Context<'_>, object: &Value) -> Vec<Value> {
        let kind = text(object, &["type"]);
        vec![
            name_cell(object),
            kind.into(),
            count(object, &["data"]).to_string().into(),
            age_cell(cx, object),
        ]
    }
}

impl Strategy for ServiceAccounts {
    fn columns(&self) -> &'static [Column] {
        ACCOUNT_COLUMNS
    }

    fn cells(&self, cx: &Context<'_>, object: &Value) -> Vec<Value> {
        vec![name_cell(object), items(object, &["secrets"]).len().to_string().into(), age_cell(cx, object)]
    }
}
