//! `orlop.dev/v1` Plugins: what decides in this cluster.

use super::json::{items, text};
use super::{AGE_COLUMN, Column, Context, GenerationRule, Guard, NAME_COLUMN, Strategy, age_cell, name_cell};
use orlop_apimachinery::status::Cause;
use serde_json::{Value, json};

/// The strategy of plugins.
#[derive(Debug)]
pub(super) struct Plugins;

impl Strategy for Plugins {
    fn generation_rule(&self) -> GenerationRule {
        GenerationRule::Spec
    }

    fn guard(&self) -> Guard {
        Guard::Grants
    }

    fn prepare_for_create(&self, _cx: &Context<'_>, object: &mut Value) {
        object["status"] = json!({});
    }

    fn validate(&self, _cx: &Context<'_>, _object: &Value) -> Vec<Cause> {
        Vec::new()
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                NAME_COLUMN,
                Column::new("Kind", "What the plugin decides: scheduler, controller or admission."),
                Column::new("State", "Whether the plugin is active, and where not, why."),
                Column::new("Revision", "Number of the PluginRevision that is active.").typed("integer"),
                Column::new("Stage", "How far the newest revision has come.").wide(),
                Column::new("Candidate", "Number of the PluginRevision in shadow or canary.").wide(),
                Column::new("Standby", "Number of the PluginRevision that would take over.").wide(),
                Column::new("Digest", "Digest of the active module.").wide(),
                Column::new("Failures", "Calls that trapped, missed their deadline or returned nonsense.")
                    .typed("integer"),
                Column::new("Message", "What happened last."),
                AGE_COLUMN,
            ]
        }
    }

    fn cells(&self, cx: &Context<'_>, plugin: &Value) -> Vec<Value> {
        let conditions = items(plugin, &["status", "conditions"]);
        let kind = match text(plugin, &["status", "kind"]) {
            "" => text(plugin, &["spec", "kind"]),
            kind => kind,
        };
        let message = match text(plugin, &["status", "message"]) {
            "" => conditions.last().map_or("", |c| text(c, &["message"])),
            message => message,
        };
        let revision =
            |name: &str| plugin.pointer("/status").and_then(|s| s.get(name)).cloned().unwrap_or_default();
        vec![
            name_cell(plugin),
            kind.into(),
            text(plugin, &["status", "state"]).into(),
            revision("activeRevision"),
            text(plugin, &["status", "stage"]).into(),
            revision("candidateRevision"),
            revision("standbyRevision"),
            text(plugin, &["status", "activeDigest"]).into(),
            super::json::number(plugin, &["status", "failures"]).into(),
            message.into(),
            age_cell(cx, plugin),
        ]
    }
}
