//! What two versions of a plugin decide differently: `orlop plugin diff`.

mod describe;

use crate::golden::{Golden, GoldenError, difference};
use crate::record::{Call, Entry, RecordingError};
use crate::replay::Guests;
use crate::workbench::Workbench;
use describe::Names;
use orlop_plugin::{Compiled, Kind, Manifest};
use std::collections::BTreeMap;

/// Examples that are shown for each hook.
const EXAMPLES: usize = 5;

/// Why two versions cannot be compared. The author must choose other inputs.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// One is another thing than the other.
    #[error("{old} is a {old_kind} plugin, {new} a {new_kind} plugin: there is nothing to compare")]
    Kinds {
        /// Name.
        old: String,
        /// Kind.
        old_kind: Kind,
        /// Name.
        new: String,
        /// Kind.
        new_kind: Kind,
    },
    /// The recording lacks what the new version reads.
    #[error(
        "the new version reads {}, which the old one did not and a recording of it does not hold; compare over golden tests (--tests), or record the new version",
        .fields.join(", ")
    )]
    ReadsMore {
        /// What.
        fields: Vec<String>,
    },
    /// The recording is damaged.
    #[error(transparent)]
    Recording(#[from] RecordingError),
    /// A golden test is damaged.
    #[error(transparent)]
    Golden(#[from] GoldenError),
}

/// What differs in one hook, or in one golden test.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Decisions that were asked of both.
    pub asked: u64,
    /// Those that differ.
    pub different: u64,
    /// Numbers that add up over all of them, such as nodes that do not fit any more.
    pub totals: BTreeMap<String, i64>,
    /// The first of them, in words.
    pub examples: Vec<String>,
}

/// What differs, by hook or golden test.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// In the order of their names.
    pub parts: BTreeMap<String, Part>,
    /// Calls that the recording lacks.
    pub dropped: u64,
}

impl Comparison {
    /// All decisions that were asked.
    #[must_use]
    pub fn asked(&self) -> u64 {
        self.parts.values().map(|p| p.asked).sum()
    }

    /// Those that differ.
    #[must_use]
    pub fn different(&self) -> u64 {
        self.parts.values().map(|p| p.different).sum()
    }
}

fn check_kinds(old: &Manifest, new: &Manifest) -> Result<(), CompareError> {
    if old.kind == new.kind {
        return Ok(());
    }
    Err(CompareError::Kinds {
        old: old.name.clone(),
        old_kind: old.kind,
        new: new.name.clone(),
        new_kind: new.kind,
    })
}

/// What the new version reads beyond the old one, as far as that decides what a recording holds.
fn reads_more(old: &Manifest, new: &Manifest) -> Vec<String> {
    let mut more = Vec::new();
    if let (Some(old), Some(new)) = (&old.scheduler, &new.scheduler) {
        for (what, had, has) in [
            ("column", &old.columns, &new.columns),
            ("pod field", &old.pod_fields, &new.pod_fields),
            ("placed pod field", &old.placed_pod_fields, &new.placed_pod_fields),
        ] {
            more.extend(has.iter().filter(|f| !had.contains(f)).map(|f| format!("{what} {f}")));
        }
        if old.watches != new.watches {
            more.push("other watched objects".to_owned());
        }
    }
    if let (Some(old), Some(new)) = (&old.admission, &new.admission) {
        let all = new.projection.is_empty() && !old.projection.is_empty();
        if all {
            more.push("the whole object".to_owned());
        }
        let had = |path: &String| old.projection.is_empty() || old.projection.contains(path);
        more.extend(new.projection.iter().filter(|p| !had(p)).map(|p| format!("path {p}")));
        if old.context != new.context {
            more.push("other context objects".to_owned());
        }
        if new.old_object && !old.old_object {
            more.push("old objects".to_owned());
        }
    }
    if let (Some(old), Some(new)) = (&old.controller, &new.controller)
        && old.0.get("inputs") != new.0.get("inputs")
    {
        more.push("other inputs".to_owned());
    }
    more
}

/// Asks both versions what a recording asked.
///
/// # Errors
/// Where they cannot be compared over it.
pub fn over_recording(
    workbench: &Workbench,
    old: &Compiled,
    new: &Compiled,
    entries: impl Iterator<Item = Result<Entry, RecordingError>>,
) -> Result<Comparison, CompareError> {
    check_kinds(old.manifest(), new.manifest())?;
    let fields = reads_more(old.manifest(), new.manifest());
    if !fields.is_empty() {
        return Err(CompareError::ReadsMore { fields });
    }
    let (mut before, mut after) = (Guests::new(workbench, old), Guests::new(workbench, new));
    let mut names: BTreeMap<u64, Names> = BTreeMap::new();
    let mut out = Comparison::default();
    for entry in entries {
        match entry? {
            Entry::Dropped(calls) => out.dropped += calls,
            Entry::Opened { instance, config, .. } => {
                before.open(instance, &config);
                after.open(instance, &config);
                names.insert(instance, Names::default());
            }
            Entry::Called { instance, call, .. } => {
                let (a, b) = (before.perform(instance, &call), after.perform(instance, &call));
                let names = names.entry(instance).or_default();
                names.learn(&call);
                if is_decision(&call) {
                    let part = out.parts.entry(call.hook().to_owned()).or_default();
                    describe::compare(part, names, &call, &a, &b);
                    part.examples.truncate(EXAMPLES);
                }
            }
        }
    }
    Ok(out)
}

/// Asks both versions what golden tests ask.
///
/// # Errors
/// Where they cannot be compared.
pub fn over_golden(
    workbench: &Workbench,
    old: &Compiled,
    new: &Compiled,
    tests: &[Golden],
) -> Result<Comparison, CompareError> {
    check_kinds(old.manifest(), new.manifest())?;
    let mut out = Comparison::default();
    for test in tests {
        let (a, b) = (test.run(workbench, old)?, test.run(workbench, new)?);
        let part = out.parts.entry(test.name()).or_default();
        part.asked += 1;
        if let Some(shown) = difference(&a, &b) {
            part.different += 1;
            part.examples.push(shown);
        }
    }
    Ok(out)
}

/// Bringing a mirror up to date decides nothing.
const fn is_decision(call: &Call) -> bool {
    !matches!(
        call,
        Call::Reset | Call::Sync { .. } | Call::Release { .. } | Call::Objects { .. } | Call::PostBind { .. }
    )
}

#[cfg(test)]
mod tests;
