//! What a plugin says about itself: JSON in the custom section `orlop:manifest`.
//!
//! The parser is strict: unknown fields, unknown kinds, another major version of a world, empty or
//! over-long names and lists are refused with the path of the fault. A plugin gets no more than what
//! its manifest declares.

pub mod admission;
pub mod controller;
mod matching;
pub mod scheduler;

use crate::limits::Limits;
pub use admission::AdmissionManifest;
pub use controller::ControllerManifest;
pub use scheduler::SchedulerManifest;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// Name of the custom section.
pub const SECTION: &str = "orlop:manifest";

/// Largest manifest, in bytes.
pub const MAX_BYTES: usize = 256 << 10;

/// Longest list anywhere in a manifest.
pub const MAX_ITEMS: usize = 256;

/// Longest name, pattern or path anywhere in a manifest, in bytes.
pub const MAX_TEXT: usize = 512;

/// Why a manifest is refused. All are final: the author must repair the plugin.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// There is no section.
    #[error("it has no manifest (custom section \"{SECTION}\")")]
    Missing,
    /// There is more than one section.
    #[error("it has more than one manifest (custom section \"{SECTION}\")")]
    Repeated,
    /// The section is too large.
    #[error("its manifest has {size} bytes, more than {MAX_BYTES}")]
    TooLarge {
        /// Bytes of the section.
        size: usize,
    },
    /// Not JSON, or a field is unknown, missing or of another type.
    #[error("its manifest cannot be read: {message}")]
    Syntax {
        /// What and where.
        message: String,
    },
    /// A field has a value that it may not have.
    #[error("its manifest is invalid: {path}: {message}")]
    Field {
        /// Path of the field, such as `admission.rules[0].operations`.
        path: String,
        /// What is wrong.
        message: String,
    },
    /// The plugin was built for a world that this host does not serve.
    #[error("it was built for world {found}, this host serves {served}")]
    World {
        /// What the manifest says.
        found: String,
        /// What would be accepted.
        served: String,
    },
}

/// What a plugin decides about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Where pods go.
    Scheduler,
    /// What is written after a change.
    Controller,
    /// What requests may do.
    Admission,
}

impl Kind {
    /// The worlds of this kind that this host serves, the newest minor version of each.
    #[must_use]
    pub const fn worlds(self) -> &'static [&'static str] {
        match self {
            Self::Scheduler => &[
                "orlop:scheduler/scheduler@1.0.0",
                "orlop:scheduler/scheduler@2.0.0",
                "orlop:scheduler/scheduler-full@2.0.0",
            ],
            Self::Controller => &["orlop:controller/controller@1.0.0"],
            Self::Admission => &["orlop:admission/admission@1.0.0"],
        }
    }

    /// As in the manifest.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scheduler => "scheduler",
            Self::Controller => "controller",
            Self::Admission => "admission",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `orlop:admission/admission@1.0.0`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorldRef {
    /// Package and world, such as `orlop:admission/admission`.
    pub path: String,
    /// Major, minor, patch.
    pub version: (u64, u64, u64),
}

impl WorldRef {
    /// Parses `package:name/world@1.2.3`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (path, version) = text.split_once('@')?;
        let mut parts = version.split('.').map(str::parse::<u64>);
        let version = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
        if parts.next().is_some() || path.is_empty() {
            return None;
        }
        Some(Self { path: path.to_owned(), version })
    }

    /// Whether a host that serves `self` runs a plugin built for `plugin`: same world, same major,
    /// and nothing newer than the host knows.
    #[must_use]
    pub fn serves(&self, plugin: &Self) -> bool {
        self.path == plugin.path && self.version.0 == plugin.version.0 && self.version.1 >= plugin.version.1
    }
}

/// A plugin's manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    /// Always 1.
    pub manifest_version: u32,
    /// Name, such as `NodeResourcesFit`; what a profile or policy calls it.
    pub name: String,
    /// The plugin's own version, for a reader.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// One line for a reader.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Which of the three sections below is present.
    pub kind: Kind,
    /// The world that it was built for, such as `orlop:admission/admission@1.0.0`.
    pub world: String,
    /// Schema of the configuration; without one, only an empty configuration is accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_schema: Option<serde_json::Value>,
    /// What it needs; the operator may give less.
    #[serde(default, skip_serializing_if = "LimitsWish::is_default")]
    pub limits: LimitsWish,
    /// What it needs of WASI, where it imports that.
    #[serde(default, skip_serializing_if = "WasiWish::is_default")]
    pub wasi: WasiWish,
    /// Access that it needs beyond what it is handed; RBAC rules.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub permissions: Vec<Permission>,
    /// With kind `scheduler`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<SchedulerManifest>,
    /// With kind `controller`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<ControllerManifest>,
    /// With kind `admission`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admission: Option<AdmissionManifest>,
}

/// What the author thinks the plugin needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LimitsWish {
    /// Memory of one instance, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Deadline of one call, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_milliseconds: Option<u64>,
}

impl LimitsWish {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// With what is not wished at its default.
    #[must_use]
    pub fn limits(&self) -> Limits {
        let default = Limits::default();
        let memory_bytes =
            self.memory_bytes.and_then(|b| usize::try_from(b).ok()).unwrap_or(default.memory_bytes);
        Limits { memory_bytes, ..default }
    }

    /// The wish, or the default of the kind.
    #[must_use]
    pub fn deadline(&self, kind: Kind) -> Duration {
        let default = match kind {
            Kind::Scheduler => 20,
            Kind::Admission => 50,
            Kind::Controller => 1000,
        };
        Duration::from_millis(self.deadline_milliseconds.unwrap_or(default))
    }
}

/// What a plugin that imports WASI needs of it, beyond what every one gets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WasiWish {
    /// Clocks that run. Without it they stand still, and the same calls give the same answers.
    #[serde(default)]
    pub time: bool,
}

impl WasiWish {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// One RBAC rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Permission {
    /// API groups; empty text is the core group.
    pub api_groups: Vec<String>,
    /// Resources, with subresources as `pods/status`.
    pub resources: Vec<String>,
    /// Verbs.
    pub verbs: Vec<String>,
}

impl Manifest {
    /// Parses and checks a manifest.
    ///
    /// # Errors
    /// See [`ManifestError`].
    pub fn parse(json: &[u8]) -> Result<Self, ManifestError> {
        if json.len() > MAX_BYTES {
            return Err(ManifestError::TooLarge { size: json.len() });
        }
        let manifest: Self =
            serde_json::from_slice(json).map_err(|e| ManifestError::Syntax { message: e.to_string() })?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), ManifestError> {
        if self.manifest_version != 1 {
            return Err(field(
                "manifestVersion",
                format!("{} is not supported, only 1 is", self.manifest_version),
            ));
        }
        let name_ok = self.name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
        if self.name.is_empty() || self.name.len() > 63 || !name_ok {
            return Err(field("name", "must be 1 to 63 letters, digits, '-', '.' or '_'"));
        }
        check_text("version", &self.version)?;
        check_text("description", &self.description)?;
        let major = self.check_world()?;
        if self.config_schema.as_ref().is_some_and(|s| !s.is_object()) {
            return Err(field("configSchema", "must be an object"));
        }
        check_range("limits.memoryBytes", self.limits.memory_bytes, 128 << 10, 4 << 30)?;
        check_range("limits.deadlineMilliseconds", self.limits.deadline_milliseconds, 1, 60_000)?;
        check_len("permissions", self.permissions.len())?;
        for (i, p) in self.permissions.iter().enumerate() {
            check_texts(&format!("permissions[{i}].apiGroups"), &p.api_groups)?;
            check_texts(&format!("permissions[{i}].resources"), &p.resources)?;
            check_texts(&format!("permissions[{i}].verbs"), &p.verbs)?;
        }
        self.check_kind(major)
    }

    /// The major version of the world.
    fn check_world(&self) -> Result<u64, ManifestError> {
        let worlds = self.kind.worlds();
        let wrong = || ManifestError::World { found: cut(&self.world), served: worlds.join(", ") };
        let found = WorldRef::parse(&self.world).ok_or_else(wrong)?;
        let served = worlds.iter().filter_map(|world| WorldRef::parse(world)).any(|w| w.serves(&found));
        if served { Ok(found.version.0) } else { Err(wrong()) }
    }

    fn check_kind(&self, major: u64) -> Result<(), ManifestError> {
        for (kind, present) in [
            (Kind::Scheduler, self.scheduler.is_some()),
            (Kind::Controller, self.controller.is_some()),
            (Kind::Admission, self.admission.is_some()),
        ] {
            if present != (kind == self.kind) {
                let what = if present { "must not be there" } else { "is missing" };
                return Err(field(kind.as_str(), format!("{what} in a plugin of kind {}", self.kind)));
            }
        }
        if let Some(section) = &self.scheduler {
            section.check(major)?;
        }
        if let Some(section) = &self.controller {
            section.check()?;
        }
        if let Some(section) = &self.admission {
            section.check()?;
        }
        Ok(())
    }
}

/// For the sections: a fault of one field.
pub(crate) fn field(path: impl Into<String>, message: impl Into<String>) -> ManifestError {
    ManifestError::Field { path: path.into(), message: message.into() }
}

/// For the sections: a text within [`MAX_TEXT`].
pub(crate) fn check_text(path: &str, text: &str) -> Result<(), ManifestError> {
    if text.len() > MAX_TEXT {
        return Err(field(path, format!("has {} bytes, more than {MAX_TEXT}", text.len())));
    }
    Ok(())
}

/// For the sections: a list within [`MAX_ITEMS`].
pub(crate) fn check_len(path: &str, len: usize) -> Result<(), ManifestError> {
    if len > MAX_ITEMS {
        return Err(field(path, format!("has {len} items, more than {MAX_ITEMS}")));
    }
    Ok(())
}

/// For the sections: a list of texts.
pub(crate) fn check_texts(path: &str, texts: &[String]) -> Result<(), ManifestError> {
    check_len(path, texts.len())?;
    texts.iter().enumerate().try_for_each(|(i, t)| check_text(&format!("{path}[{i}]"), t))
}

fn check_range(path: &str, value: Option<u64>, min: u64, max: u64) -> Result<(), ManifestError> {
    match value {
        Some(v) if !(min..=max).contains(&v) => Err(field(path, format!("{v} is not within {min} to {max}"))),
        _ => Ok(()),
    }
}

fn cut(text: &str) -> String {
    text.chars().take(200).collect()
}
