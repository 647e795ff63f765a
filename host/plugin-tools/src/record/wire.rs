//! Inputs as recordings hold them, and how they come from and become what the host uses.

use orlop_plugin::admission as runtime;
use orlop_scheduler::framework as host;
use serde::{Deserialize, Serialize};

/// A bit set as text: 16 hexadecimal digits for each word, the first word first.
#[must_use]
pub fn bits(words: &[u64]) -> String {
    words.iter().map(|word| format!("{word:016x}")).collect()
}

/// The words of [`bits`]; what is no digit counts as 0.
#[must_use]
pub fn unpack_bits(text: &str) -> Vec<u64> {
    let digits = text.as_bytes();
    digits
        .chunks(16)
        .map(|word| std::str::from_utf8(word).ok().and_then(|w| u64::from_str_radix(w, 16).ok()).unwrap_or(0))
        .collect()
}

/// JSON bytes as text.
pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// See [`host::Delta`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Delta {
    /// From nothing.
    pub full: bool,
    /// Number of slots.
    pub slots: u32,
    /// Changed slots.
    pub rows: Vec<u32>,
    /// Bit set over the positions of `rows`.
    pub live: String,
    /// New entries.
    pub dictionaries: Vec<Dictionary>,
    /// Columns of s64.
    pub s64_columns: Vec<S64Column>,
    /// Columns of u32.
    pub u32_columns: Vec<U32Column>,
    /// Columns of lists.
    pub list_columns: Vec<ListColumn>,
}

/// New entries of a dictionary.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dictionary {
    /// Its number.
    pub dictionary: u32,
    /// Number of the first entry.
    pub first: u32,
    /// The entries.
    pub entries: Vec<String>,
}

/// A column.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct S64Column {
    /// Its number.
    pub column: u32,
    /// One per row.
    pub values: Vec<i64>,
}

/// A column.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct U32Column {
    /// Its number.
    pub column: u32,
    /// One per row.
    pub values: Vec<u32>,
}

/// A column.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListColumn {
    /// Its number.
    pub column: u32,
    /// One more than rows.
    pub offsets: Vec<u32>,
    /// The cells, one after the other.
    pub values: Vec<u64>,
}

impl From<&host::Delta> for Delta {
    fn from(d: &host::Delta) -> Self {
        Self {
            full: d.full,
            slots: d.slots,
            rows: d.rows.clone(),
            live: bits(&d.live),
            dictionaries: d
                .dictionaries
                .iter()
                .map(|d| Dictionary { dictionary: d.dictionary, first: d.first, entries: d.entries.clone() })
                .collect(),
            s64_columns: d
                .s64_columns
                .iter()
                .map(|c| S64Column { column: c.column, values: c.values.clone() })
                .collect(),
            u32_columns: d
                .u32_columns
                .iter()
                .map(|c| U32Column { column: c.column, values: c.values.clone() })
                .collect(),
            list_columns: d
                .list_columns
                .iter()
                .map(|c| ListColumn {
                    column: c.column,
                    offsets: c.offsets.clone(),
                    values: c.values.clone(),
                })
                .collect(),
        }
    }
}

impl From<&Delta> for host::Delta {
    fn from(d: &Delta) -> Self {
        Self {
            full: d.full,
            slots: d.slots,
            rows: d.rows.clone(),
            live: unpack_bits(&d.live),
            dictionaries: d
                .dictionaries
                .iter()
                .map(|d| host::DictionaryDelta {
                    dictionary: d.dictionary,
                    first: d.first,
                    entries: d.entries.clone(),
                })
                .collect(),
            s64_columns: d
                .s64_columns
                .iter()
                .map(|c| host::Column { column: c.column, values: c.values.clone() })
                .collect(),
            u32_columns: d
                .u32_columns
                .iter()
                .map(|c| host::Column { column: c.column, values: c.values.clone() })
                .collect(),
            list_columns: d
                .list_columns
                .iter()
                .map(|c| host::ListColumn {
                    column: c.column,
                    offsets: c.offsets.clone(),
                    values: c.values.clone(),
                })
                .collect(),
        }
    }
}

/// A watched object that changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectChange {
    /// Position in the manifest's `watches`.
    pub watch: u32,
    /// `metadata.namespace`
    #[serde(default)]
    pub namespace: String,
    /// `metadata.name`
    pub name: String,
    /// JSON; empty where it went.
    pub object: String,
}

impl From<&host::ObjectChange> for ObjectChange {
    fn from(c: &host::ObjectChange) -> Self {
        Self {
            watch: c.watch,
            namespace: c.namespace.to_string(),
            name: c.name.to_string(),
            object: text(&c.object),
        }
    }
}

impl From<&ObjectChange> for host::ObjectChange {
    fn from(c: &ObjectChange) -> Self {
        Self {
            watch: c.watch,
            namespace: c.namespace.as_str().into(),
            name: c.name.as_str().into(),
            object: c.object.as_bytes().into(),
        }
    }
}

/// A pod and the node that was chosen for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// Number of the pod.
    pub pod: u64,
    /// Of the pod.
    pub namespace: String,
    /// Of the pod.
    pub name: String,
    /// Of the pod.
    pub uid: String,
    /// JSON.
    pub fields: String,
    /// Row of the node.
    pub slot: u32,
    /// Its name.
    pub node: String,
}

impl From<&host::Placement> for Placement {
    fn from(p: &host::Placement) -> Self {
        Self {
            pod: p.pod,
            namespace: p.namespace.to_string(),
            name: p.name.to_string(),
            uid: p.uid.to_string(),
            fields: text(&p.fields),
            slot: p.slot,
            node: p.node.to_string(),
        }
    }
}

impl From<&Placement> for host::Placement {
    fn from(p: &Placement) -> Self {
        Self {
            pod: p.pod,
            namespace: p.namespace.as_str().into(),
            name: p.name.as_str().into(),
            uid: p.uid.as_str().into(),
            fields: p.fields.as_bytes().into(),
            slot: p.slot,
            node: p.node.as_str().into(),
        }
    }
}

/// Pods on candidate nodes of a preemption.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CandidatePods {
    /// One more than candidates.
    pub offsets: Vec<u32>,
    /// Of the pods.
    pub priorities: Vec<i32>,
    /// Milliseconds since the epoch.
    pub started: Vec<i64>,
    /// 1 where a PodDisruptionBudget would be violated.
    pub violating: Vec<u8>,
    /// 1 where it is being deleted.
    pub terminating: Vec<u8>,
}

impl From<&host::CandidatePods> for CandidatePods {
    fn from(p: &host::CandidatePods) -> Self {
        Self {
            offsets: p.offsets.clone(),
            priorities: p.priorities.clone(),
            started: p.started.clone(),
            violating: p.violating.clone(),
            terminating: p.terminating.clone(),
        }
    }
}

impl From<&CandidatePods> for host::CandidatePods {
    fn from(p: &CandidatePods) -> Self {
        Self {
            offsets: p.offsets.clone(),
            priorities: p.priorities.clone(),
            started: p.started.clone(),
            violating: p.violating.clone(),
            terminating: p.terminating.clone(),
        }
    }
}

/// A request as an admission plugin saw it. Objects are JSON text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the fields are those of orlop:admission")]
pub struct AdmissionRequest {
    pub operation: u32,
    pub group: String,
    pub version: String,
    pub resource: String,
    pub subresource: String,
    pub kind: String,
    pub namespace: String,
    pub name: String,
    pub dry_run: bool,
    pub object: String,
    pub old_object: String,
    pub context: Vec<String>,
    pub attributes: String,
    pub seed: u64,
}

impl From<&runtime::Request> for AdmissionRequest {
    fn from(r: &runtime::Request) -> Self {
        Self {
            operation: r.operation,
            group: r.group.clone(),
            version: r.version.clone(),
            resource: r.resource.clone(),
            subresource: r.subresource.clone(),
            kind: r.kind.clone(),
            namespace: r.namespace.clone(),
            name: r.name.clone(),
            dry_run: r.dry_run,
            object: text(&r.object),
            old_object: text(&r.old_object),
            context: r.context.iter().map(|c| text(c)).collect(),
            attributes: text(&r.attributes),
            seed: r.seed,
        }
    }
}

impl From<&AdmissionRequest> for runtime::Request {
    fn from(r: &AdmissionRequest) -> Self {
        Self {
            operation: r.operation,
            group: r.group.clone(),
            version: r.version.clone(),
            resource: r.resource.clone(),
            subresource: r.subresource.clone(),
            kind: r.kind.clone(),
            namespace: r.namespace.clone(),
            name: r.name.clone(),
            dry_run: r.dry_run,
            object: r.object.clone().into_bytes(),
            old_object: r.old_object.clone().into_bytes(),
            context: r.context.iter().map(|c| c.clone().into_bytes()).collect(),
            attributes: r.attributes.clone().into_bytes(),
            seed: r.seed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bit_sets_survive() {
        let words = [1, u64::MAX, 0x8000_0000_0000_0000];
        assert_eq!(unpack_bits(&bits(&words)), words);
        assert!(unpack_bits("").is_empty());
    }
}
