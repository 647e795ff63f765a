//! `orlop.dev/v1` PluginRevisions: one module with one configuration, as it once was asked for.
//!
//! The spec says what a plugin was told and what it ran; nobody changes it afterwards.

use super::json::{items, number, or_none, text};
use super::{
    AGE_COLUMN, Column, Context, GenerationRule, Guard, NAME_COLUMN, SelectableField, Strategy, age_cell,
    name_cell,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use orlop_apimachinery::field::{Path, invalid, not_supported, required};
use orlop_apimachinery::names;
use orlop_apimachinery::status::Cause;
use serde_json::{Value, json};

/// The strategy of pluginrevisions.
#[derive(Debug)]
pub(super) struct PluginRevisions;

const KINDS: [&str; 3] = ["admission", "controller", "scheduler"];
const POLICIES: [&str; 2] = ["Fail", "Ignore"];

impl Strategy for PluginRevisions {
    fn generation_rule(&self) -> GenerationRule {
        GenerationRule::Spec
    }

    fn guard(&self) -> Guard {
        Guard::Grants
    }

    fn prepare_for_create(&self, _cx: &Context<'_>, object: &mut Value) {
        object["status"] = json!({});
    }

    fn validate(&self, _cx: &Context<'_>, object: &Value) -> Vec<Cause> {
        let mut faults = Vec::new();
        let path = Path::new("spec");
        let spec = object.get("spec").unwrap_or(&Value::Null);
        let plugin = text(spec, &["plugin"]);
        if plugin.is_empty() {
            faults.push(required(&path.child("plugin"), "the name of the Plugin"));
        } else {
            let why = names::dns1123_subdomain(plugin);
            faults.extend(why.iter().map(|why| invalid(&path.child("plugin"), plugin, why)));
        }
        let revision = number(spec, &["revision"]);
        if revision < 1 {
            faults.push(invalid(&path.child("revision"), revision, "must be greater than 0"));
        }
        for (key, allowed) in [("kind", &KINDS[..]), ("failurePolicy", &POLICIES)] {
            let value = text(spec, &[key]);
            if !value.is_empty() && !allowed.contains(&value) {
                faults.push(not_supported(&path.child(key), value, allowed));
            }
        }
        let digest = text(spec, &["digest"]);
        let hex = digest.strip_prefix("sha256:").unwrap_or_default();
        if !digest.is_empty() && (hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit())) {
            let detail = "must be \"sha256:\" and 64 hexadecimal digits";
            faults.push(invalid(&path.child("digest"), digest, detail));
        }
        if !is_gzip(text(spec, &["module"])) {
            let at = path.child("module");
            faults.push(invalid(&at, "<bytes>", "must be a module compressed by gzip, in base64"));
        }
        faults
    }

    fn validate_update(&self, _cx: &Context<'_>, new: &Value, old: &Value) -> Vec<Cause> {
        if new.get("spec") == old.get("spec") {
            return Vec::new();
        }
        let detail = "field is immutable; another module or configuration is another revision";
        vec![invalid(&Path::new("spec"), "<changed>", detail)]
    }

    fn selectable_fields(&self) -> &'static [SelectableField] {
        const {
            &[
                SelectableField::new("spec.plugin", &[&["spec", "plugin"]]),
                SelectableField::new("status.stage", &[&["status", "stage"]]),
            ]
        }
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                NAME_COLUMN,
                Column::new("Plugin", "The plugin of which this is a revision."),
                Column::new("Revision", "The number of the revision, from 1.").typed("integer"),
                Column::new(
                    "Stage",
                    "How far the revision has come: fetch, verify, compile, link, self-test, warm, shadow, canary, active, drain or standby.",
                ),
                Column::new("Message", "What happened last."),
                AGE_COLUMN,
                Column::new("Kind", "What the plugin decides: scheduler, controller or admission.").wide(),
                Column::new("Digest", "Digest of the module.").wide(),
                Column::new("Failures", "Why the revision failed, by condition.").wide(),
            ]
        }
    }

    fn cells(&self, cx: &Context<'_>, object: &Value) -> Vec<Value> {
        let conditions = items(object, &["status", "conditions"]).iter();
        let failed = conditions.filter(|c| text(c, &["status"]) == "False").map(|c| text(c, &["reason"]));
        let failed: Vec<&str> = failed.filter(|r| !r.is_empty()).collect();
        vec![
            name_cell(object),
            text(object, &["spec", "plugin"]).into(),
            number(object, &["spec", "revision"]).into(),
            text(object, &["status", "stage"]).into(),
            text(object, &["status", "message"]).into(),
            age_cell(cx, object),
            text(object, &["spec", "kind"]).into(),
            text(object, &["spec", "digest"]).into(),
            or_none(failed.join(",")).into(),
        ]
    }
}

/// Whether the text is nothing, or the base64 of what begins as gzip does.
fn is_gzip(module: &str) -> bool {
    let head = module.get(..4).and_then(|head| STANDARD.decode(head).ok());
    module.is_empty() || head.is_some_and(|head| head.starts_with(&[0x1f, 0x8b]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::user::UserInfo;

    fn with<T>(f: impl FnOnce(&Context<'_>) -> T) -> T {
        let user = UserInfo::master("admin");
        f(&Context { now: jiff::Timestamp::UNIX_EPOCH, user: &user, random: 0 })
    }

    fn words(faults: &[Cause]) -> Vec<String> {
        faults.iter().map(|f| format!("{}: {}", f.field, f.message)).collect()
    }

    #[test]
    fn what_a_revision_says_is_checked_and_never_changes() {
        let module = STANDARD.encode([0x1f, 0x8b, 8, 0]);
        let good = json!({"spec": {"plugin": "p", "revision": 3, "kind": "scheduler", "module": module,
            "digest": format!("sha256:{}", "0a".repeat(32))}});
        assert_eq!(words(&with(|cx| PluginRevisions.validate(cx, &good))), [""; 0]);
        let bad = json!({"spec": {"kind": "driver", "digest": "sha256:1", "module": "AAAA"}});
        assert_eq!(
            words(&with(|cx| PluginRevisions.validate(cx, &bad))),
            [
                "spec.plugin: Required value: the name of the Plugin",
                "spec.revision: Invalid value: 0: must be greater than 0",
                "spec.kind: Unsupported value: \"driver\": supported values: \"admission\", \"controller\", \"scheduler\"",
                "spec.digest: Invalid value: \"sha256:1\": must be \"sha256:\" and 64 hexadecimal digits",
                "spec.module: Invalid value: \"<bytes>\": must be a module compressed by gzip, in base64",
            ]
        );
        let mut other = good.clone();
        other["spec"]["revision"] = json!(4);
        assert_eq!(with(|cx| PluginRevisions.validate_update(cx, &other, &good)).len(), 1);
        let mut labelled = good.clone();
        labelled["metadata"] = json!({"labels": {"a": "b"}});
        assert_eq!(words(&with(|cx| PluginRevisions.validate_update(cx, &labelled, &good))), [""; 0]);
    }
}
