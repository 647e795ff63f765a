//! What a controller plugin declares: watches, keys and inputs. The `controller` object of the manifest.
//!
//! The words are documented for authors in `wit/controller/controller.wit`.

use orlop_apimachinery::Gvr;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Why a declaration is refused. Final: the author must repair the plugin.
#[derive(Debug, thiserror::Error)]
pub enum DeclarationError {
    /// Unknown or missing fields, or wrong types.
    #[error("the controller section of the manifest cannot be read: {0}")]
    Syntax(String),
    /// A field has a value that it may not have.
    #[error("the controller section of the manifest is invalid: {path}: {message}")]
    Field {
        /// Path within the section.
        path: String,
        /// What is wrong.
        message: String,
    },
}

/// One RBAC rule that a plugin may use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Grant {
    /// API groups; empty text is the core group, `*` all.
    pub api_groups: Vec<String>,
    /// Resources, with subresources as `pods/status`; `*` all.
    pub resources: Vec<String>,
    /// `create`, `update`, `patch`, `delete`; `*` all.
    pub verbs: Vec<String>,
}

impl Grant {
    /// Whether the rule allows `verb` on `resource` (with its subresource, if any).
    #[must_use]
    pub fn allows(&self, verb: &str, group: &str, resource: &str, subresource: &str) -> bool {
        let has = |list: &[String], wanted: &str| list.iter().any(|x| x == "*" || x == wanted);
        let full =
            if subresource.is_empty() { resource.to_owned() } else { format!("{resource}/{subresource}") };
        let any = format!("*/{subresource}");
        has(&self.verbs, verb)
            && has(&self.api_groups, group)
            && (has(&self.resources, &full) || (!subresource.is_empty() && self.resources.contains(&any)))
    }
}

/// The `controller` section of a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Declaration {
    /// Upstream's controller name, such as `replicaset-controller`.
    pub name: String,
    /// Service account in kube-system as which it writes; `name` by default.
    #[serde(default)]
    pub service_account: String,
    /// Component in its Events; `name` by default.
    #[serde(default)]
    pub event_source: String,
    /// What a key names: an object of this resource. Without it keys name nothing.
    #[serde(default)]
    pub primary: Option<Resource>,
    /// What makes keys.
    pub watches: Vec<Watch>,
    /// What a key is handed beside its own object.
    #[serde(default)]
    pub inputs: Vec<Input>,
    /// Keys that are looked at once when the controller starts.
    #[serde(default)]
    pub start: Vec<String>,
    /// Read the key's own object from the API, not from the cache.
    #[serde(default)]
    pub live: bool,
    /// Keys in one call; 16 by default.
    #[serde(default = "default_batch")]
    pub batch: usize,
}

const fn default_batch() -> usize {
    16
}

/// Names a resource in a declaration.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Resource {
    /// `v1` or `apps/v1`.
    pub api_version: String,
    /// Plural name.
    pub resource: String,
}

impl Resource {
    /// As a [`Gvr`].
    #[must_use]
    pub fn gvr(&self) -> Gvr {
        Gvr::from_api_version(&self.api_version, &self.resource)
    }
}

/// One watched resource; without `resource`, every deletable resource of the API.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Watch {
    /// `v1` or `apps/v1`.
    #[serde(default)]
    pub api_version: String,
    /// Plural name; empty for all.
    #[serde(default)]
    pub resource: String,
    /// Only objects of this namespace; empty for all.
    #[serde(default)]
    pub namespace: String,
    /// How a change becomes keys.
    pub keys: Vec<KeyRule>,
    /// Paths of which one must differ for a modification to count; empty: all count.
    #[serde(default)]
    pub changed: Vec<String>,
}

/// How an object becomes keys.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "by", rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum KeyRule {
    /// The object itself.
    #[serde(rename = "self")]
    Own {
        /// Paths of which the object must have one; empty: every object counts.
        #[serde(default)]
        having: Vec<String>,
    },
    /// Its managing owner of this kind.
    Controller {
        /// Group of the owner's kind; its version does not matter.
        #[serde(default)]
        group: String,
        /// Kind of the owner.
        kind: String,
        /// The key is not the owner but the owner's managing owner: where to find the former, and
        /// the kind of the latter.
        #[serde(default)]
        then: Option<Then>,
    },
    /// The primaries of its namespace whose selector at `path` selects it.
    Selectors {
        /// Where a primary has its selector.
        path: String,
        /// Only for objects without a managing owner.
        #[serde(default)]
        orphans_only: bool,
    },
    /// A key that is named like its namespace, or like itself where it is a Namespace.
    Namespace {
        /// Only while the primary of that name is being deleted.
        #[serde(default)]
        when_deleting: bool,
        /// Only for objects of this name.
        #[serde(default)]
        name: String,
    },
    /// A key in its namespace that is named by one of its labels.
    Label {
        /// Key of the label.
        key: String,
    },
    /// A key in its namespace (or without one) that has its name.
    SameName {
        /// The key has no namespace.
        #[serde(default)]
        cluster: bool,
    },
    /// The primaries that name it at `path`.
    References {
        /// Where a primary names the object, such as `spec.nodeName`.
        path: String,
    },
    /// A key without object.
    Fixed {
        /// Its name.
        name: String,
        /// Only where the object's field at `path` has one of `values`.
        #[serde(default)]
        path: String,
        /// See `path`.
        #[serde(default)]
        values: Vec<String>,
    },
    /// What a collector of garbage must look at; needs a watch of all resources.
    Ownership {},
}

/// Second step of [`KeyRule::Controller`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Then {
    /// Where the first owner is found.
    pub api_version: String,
    /// See `api_version`.
    pub resource: String,
    /// Kind of the owner's owner.
    pub kind: String,
}

/// One list of objects that a key is handed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    /// Its name in the request.
    pub name: String,
    /// `v1` or `apps/v1`.
    #[serde(default)]
    pub api_version: String,
    /// Plural name.
    #[serde(default)]
    pub resource: String,
    /// Handed over only while the key's object is being deleted.
    #[serde(default)]
    pub when_deleting: bool,
    /// Handed over only where the key's object has this text at this path.
    #[serde(default)]
    pub only_if: Option<OnlyIf>,
    /// Handed over only where `memo.want` of the key's last plan, an array, has its name.
    #[serde(default)]
    pub on_demand: bool,
    /// Handed over only with the key of this name; empty for all keys.
    #[serde(default)]
    pub for_key: String,
    /// With `fieldOf`: what the cache lacks is read from the API.
    #[serde(default)]
    pub live: bool,
    /// Which objects.
    #[serde(flatten)]
    pub by: InputRule,
}

/// Condition of an [`Input`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OnlyIf {
    /// Where the text is.
    pub path: String,
    /// The text.
    pub is: String,
}

/// Which objects an input holds.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "by", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum InputRule {
    /// Those whose managing owner is the key's object.
    Owned {},
    /// Those that have the same managing owner as the key's object, without it.
    Siblings {},
    /// Those whose managing owner is in another input.
    OwnedByInput {
        /// Name of the other input; it must stand before this one.
        input: String,
    },
    /// The managing owners of the objects of another input, each once.
    ControllersOf {
        /// Name of the other input; it must stand before this one.
        input: String,
    },
    /// Those of the namespace that have no managing owner and that the selector at `path` selects.
    Orphans {
        /// Where the key's object has its selector.
        path: String,
    },
    /// Those of the namespace that the selector at `path` selects; none where there is no selector.
    Selected {
        /// Where the key's object has its selector.
        path: String,
    },
    /// The one with the key's namespace and name.
    SameName {
        /// Its namespace; empty for that of the key.
        #[serde(default)]
        namespace: String,
    },
    /// The one with this name, in the namespace that the key names.
    NamedIn {
        /// Its name.
        object: String,
    },
    /// Those of the key's namespace that have the key's name as this label.
    Label {
        /// Key of the label.
        key: String,
    },
    /// The cluster-scoped ones that the objects of another input name at `path`.
    FieldOf {
        /// Name of the other input, which must stand before this one; empty for the key's object.
        #[serde(default)]
        input: String,
        /// Where the name is.
        path: String,
    },
    /// Those whose field at `path` is the key's name.
    Referencing {
        /// Where the name is.
        path: String,
    },
    /// Those whose field at `path` has one of `values`.
    FieldIs {
        /// Where the value is.
        path: String,
        /// The values.
        values: Vec<String>,
        /// Nothing is handed over unless there are more than so many.
        #[serde(default)]
        more_than: usize,
    },
    /// All.
    All {},
    /// What a namespace still contains, of every deletable resource, read from the API.
    NamespaceContent {},
    /// The owners that the key's object names, absent ones verified at the API.
    Owners {},
    /// The objects of every deletable resource that name the key's object as an owner.
    Dependents {},
}

impl Declaration {
    /// Parses and checks the section.
    ///
    /// # Errors
    /// See [`DeclarationError`].
    pub fn parse(section: &Value) -> Result<Self, DeclarationError> {
        let parsed: Self =
            serde_json::from_value(section.clone()).map_err(|e| DeclarationError::Syntax(e.to_string()))?;
        parsed.check()?;
        Ok(parsed)
    }

    fn check(&self) -> Result<(), DeclarationError> {
        let fault =
            |path: String, message: &str| Err(DeclarationError::Field { path, message: message.into() });
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if self.name.is_empty() || self.name.len() > 63 || !self.name.bytes().all(plain) {
            return fault("name".into(), "must be 1 to 63 lower-case letters, digits or '-'");
        }
        if self.batch == 0 || self.batch > 256 {
            return fault("batch".into(), "must be 1 to 256");
        }
        for (i, watch) in self.watches.iter().enumerate() {
            for (k, rule) in watch.keys.iter().enumerate() {
                let needs_all = matches!(rule, KeyRule::Ownership {});
                if needs_all != watch.resource.is_empty() {
                    return fault(
                        format!("watches[{i}].keys[{k}]"),
                        "a watch of all resources and the rule ownership need each other",
                    );
                }
                let needs_primary = matches!(rule, KeyRule::Selectors { .. } | KeyRule::References { .. });
                if needs_primary && self.primary.is_none() {
                    return fault(format!("watches[{i}].keys[{k}]"), "needs a primary");
                }
            }
        }
        for (i, input) in self.inputs.iter().enumerate() {
            if self.inputs.iter().take(i).any(|other| other.name == input.name) {
                return fault(format!("inputs[{i}].name"), "is there twice");
            }
            let of_all = matches!(
                input.by,
                InputRule::NamespaceContent {} | InputRule::Owners {} | InputRule::Dependents {}
            );
            if of_all != input.resource.is_empty() {
                return fault(format!("inputs[{i}].resource"), "is missing, or there but not used");
            }
            let other = match &input.by {
                InputRule::OwnedByInput { input } | InputRule::ControllersOf { input } => Some(input),
                InputRule::FieldOf { input, .. } if !input.is_empty() => Some(input),
                _ => None,
            };
            if let Some(other) = other
                && !self.inputs.iter().take(i).any(|x| x.name == *other)
            {
                return fault(format!("inputs[{i}].input"), "names no input that stands before it");
            }
        }
        Ok(())
    }

    /// Whether it watches or reads every deletable resource.
    #[must_use]
    pub fn needs_all_resources(&self) -> bool {
        self.watches.iter().any(|w| w.resource.is_empty())
            || self.inputs.iter().any(|i| matches!(i.by, InputRule::Dependents {}))
    }
}
