//! A plugin's own copy of the columns that it declared.

mod overlay;

use super::{Delta, column};
use serde_json::Value;
use std::collections::HashMap;

/// A taint of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taint {
    /// Key.
    pub key: String,
    /// Value, may be empty.
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}

/// Whether one of a pod's `tolerations` (the JSON array) tolerates the taint.
///
/// Source: `ToleratesTaint` of `k8s.io/component-helpers`.
#[must_use]
pub fn tolerates(tolerations: &Value, taint: &Taint) -> bool {
    tolerations.as_array().into_iter().flatten().any(|toleration| {
        let text = |key: &str| toleration.get(key).and_then(Value::as_str).unwrap_or("");
        let same = |wanted: &str, found: &str| wanted.is_empty() || wanted == found;
        same(text("effect"), &taint.effect)
            && same(text("key"), &taint.key)
            && match text("operator") {
                "" | "Equal" => text("value") == taint.value,
                "Exists" => true,
                _ => false,
            }
    })
}

/// The mirror. Columns that were never sent read as 0 and empty.
#[derive(Debug, Default)]
pub struct Mirror {
    slots: usize,
    live: Vec<u64>,
    nodes: usize,
    s64s: Vec<(u32, Vec<i64>)>,
    u32s: Vec<(u32, Vec<u32>)>,
    lists: Vec<(u32, Vec<Box<[u64]>>)>,
    dictionaries: Vec<Dictionary>,
    taints: Vec<Vec<Taint>>,
    /// Dictionary of placed pods, decoded; their text is not kept.
    pods: Vec<Value>,
    checksum: u64,
}

#[derive(Debug, Default)]
struct Dictionary {
    number: u32,
    entries: Vec<String>,
    numbers: HashMap<String, u32>,
}

/// What a delta replaced, by position of the row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replaced {
    /// The slots that changed, ascending.
    pub rows: Vec<u32>,
    /// Whether each of them held a node before.
    pub was_live: Vec<bool>,
    u32s: Vec<(u32, Vec<u32>)>,
    lists: Vec<(u32, Vec<Box<[u64]>>)>,
}

impl Replaced {
    /// The cell of a column of u32 before; `None` where the delta did not have the column.
    #[must_use]
    pub fn u32(&self, number: u32, position: usize) -> Option<u32> {
        self.u32s.iter().find(|(n, _)| *n == number)?.1.get(position).copied()
    }

    /// The cell of a column of lists before; `None` where the delta did not have the column.
    #[must_use]
    pub fn list(&self, number: u32, position: usize) -> Option<&[u64]> {
        self.lists.iter().find(|(n, _)| *n == number)?.1.get(position).map(|cell| &**cell)
    }
}

impl Mirror {
    /// Takes in a delta; returns the slots that changed.
    pub fn apply(&mut self, delta: Delta) -> Vec<u32> {
        self.exchange(delta).rows
    }

    /// Takes in a delta; returns what was there before, for plugins that keep sums. After a full
    /// delta nothing was.
    pub fn exchange(&mut self, delta: Delta) -> Replaced {
        if delta.full {
            *self = Self::default();
        }
        self.slots = delta.slots as usize;
        self.live.resize(self.slots.div_ceil(64), 0);
        self.s64s.iter_mut().for_each(|(_, c)| c.resize(delta.slots as usize, 0));
        self.u32s.iter_mut().for_each(|(_, c)| c.resize(delta.slots as usize, 0));
        self.lists.iter_mut().for_each(|(_, c)| c.resize(delta.slots as usize, Box::default()));
        for dictionary in delta.dictionaries {
            self.extend(dictionary.dictionary, dictionary.first, dictionary.entries);
        }
        let was: Vec<bool> = delta.rows.iter().map(|slot| self.is_live(*slot as usize)).collect();
        for (i, slot) in delta.rows.iter().enumerate() {
            let lives = test_bit(&delta.live, i);
            let at = *slot as usize;
            self.nodes = self.nodes + usize::from(lives) - usize::from(self.is_live(at));
            set_bit(&mut self.live, at, lives);
        }
        let is: Vec<bool> = delta.rows.iter().map(|slot| self.is_live(*slot as usize)).collect();
        let slots = self.slots;
        let (mut old_u32s, mut old_lists) = (Vec::new(), Vec::new());
        for (number, values) in delta.s64_columns {
            let cells = column_mut(&mut self.s64s, number, slots);
            let rows = delta.rows.iter().zip(values).zip(was.iter().zip(&is));
            for ((slot, value), (was, is)) in rows {
                let Some(cell) = cells.get_mut(*slot as usize) else { continue };
                let term = |v: i64| extended_or_mix(number, *slot, v);
                if *was {
                    self.checksum = self.checksum.wrapping_sub(term(*cell));
                }
                *cell = value;
                if *is {
                    self.checksum = self.checksum.wrapping_add(term(value));
                }
            }
        }
        for (number, values) in delta.u32_columns {
            let cells = column_mut(&mut self.u32s, number, slots);
            let mut old = Vec::with_capacity(values.len());
            let rows = delta.rows.iter().zip(values).zip(was.iter().zip(&is));
            for ((slot, value), (was, is)) in rows {
                let Some(cell) = cells.get_mut(*slot as usize) else { continue };
                if *was {
                    self.checksum = self.checksum.wrapping_sub(mix(*slot, number, u64::from(*cell)));
                }
                old.push(std::mem::replace(cell, value));
                if *is {
                    self.checksum = self.checksum.wrapping_add(mix(*slot, number, u64::from(value)));
                }
            }
            old_u32s.push((number, old));
        }
        for (number, column) in delta.list_columns {
            let cells = column_mut(&mut self.lists, number, slots);
            let mut old = Vec::with_capacity(delta.rows.len());
            let bounds = column.offsets.windows(2);
            for ((slot, bounds), (was, is)) in delta.rows.iter().zip(bounds).zip(was.iter().zip(&is)) {
                let Some(cell) = cells.get_mut(*slot as usize) else { continue };
                let [from, to] = bounds else { continue };
                let value = column.values.get(*from as usize..*to as usize).unwrap_or(&[]);
                if *was {
                    self.checksum = self.checksum.wrapping_sub(mix(*slot, number, fold(cell)));
                }
                if *is {
                    self.checksum = self.checksum.wrapping_add(mix(*slot, number, fold(value)));
                }
                old.push(std::mem::replace(cell, value.into()));
            }
            old_lists.push((number, old));
        }
        Replaced { rows: delta.rows, was_live: was, u32s: old_u32s, lists: old_lists }
    }

    fn extend(&mut self, number: u32, first: u32, entries: Vec<String>) {
        if number == super::dictionary::PODS {
            self.pods.truncate(first as usize);
            self.pods.extend(entries.iter().map(|e| serde_json::from_str(e).unwrap_or(Value::Null)));
            return;
        }
        let at = self.dictionaries.iter().position(|d| d.number == number).unwrap_or_else(|| {
            self.dictionaries.push(Dictionary { number, ..Dictionary::default() });
            self.dictionaries.len() - 1
        });
        let Some(dictionary) = self.dictionaries.get_mut(at) else { return };
        dictionary.entries.truncate(first as usize);
        for (entry, at) in entries.into_iter().zip(first..) {
            if number == super::dictionary::TAINT_SETS {
                self.taints.truncate(at as usize);
                self.taints.push(parse_taints(&entry));
            }
            if looked_up(number) {
                dictionary.numbers.insert(entry.clone(), at);
            }
            dictionary.entries.push(entry);
        }
    }

    /// Number of slots, live or not.
    #[must_use]
    pub const fn slots(&self) -> usize {
        self.slots
    }

    /// Number of nodes.
    #[must_use]
    pub const fn nodes(&self) -> usize {
        self.nodes
    }

    /// The slots that hold a node.
    #[must_use]
    pub fn live(&self) -> &[u64] {
        &self.live
    }

    /// Whether a slot holds a node.
    #[must_use]
    pub fn is_live(&self, slot: usize) -> bool {
        test_bit(&self.live, slot)
    }

    /// A column of s64; empty where it was never sent.
    #[must_use]
    pub fn s64(&self, number: u32) -> &[i64] {
        self.s64s.iter().find(|(n, _)| *n == number).map_or(&[], |(_, c)| c)
    }

    /// A column of u32; empty where it was never sent.
    #[must_use]
    pub fn u32(&self, number: u32) -> &[u32] {
        self.u32s.iter().find(|(n, _)| *n == number).map_or(&[], |(_, c)| c)
    }

    /// A cell of a column of lists.
    #[must_use]
    pub fn list(&self, number: u32, slot: usize) -> &[u64] {
        let column = self.lists.iter().find(|(n, _)| *n == number);
        column.and_then(|(_, c)| c.get(slot)).map_or(&[], |cell| cell)
    }

    /// All entries of a dictionary.
    #[must_use]
    pub fn entries(&self, dictionary: u32) -> &[String] {
        self.dictionaries.iter().find(|d| d.number == dictionary).map_or(&[], |d| &d.entries)
    }

    /// An entry of a dictionary; empty where there is none.
    #[must_use]
    pub fn entry(&self, dictionary: u32, number: u32) -> &str {
        self.entries(dictionary).get(number as usize).map_or("", String::as_str)
    }

    /// The number of an image's or extended resource's name.
    #[must_use]
    pub fn number(&self, dictionary: u32, entry: &str) -> Option<u32> {
        self.dictionaries.iter().find(|d| d.number == dictionary)?.numbers.get(entry).copied()
    }

    /// Every taint set, by its number.
    #[must_use]
    pub fn taint_sets(&self) -> &[Vec<Taint>] {
        &self.taints
    }

    /// Every entry of the dictionary of placed pods, decoded. Empty where the plugin took the entries
    /// out of the deltas (see [`Delta::take_dictionary`]).
    #[must_use]
    pub fn pod_entries(&self) -> &[Value] {
        &self.pods
    }

    /// The pods that are placed in a slot, each cut down to `placedPodFields`; column `node.pods`.
    pub fn pods(&self, slot: usize) -> impl Iterator<Item = &Value> {
        self.list(column::PODS, slot).iter().filter_map(|n| self.pods.get(usize::try_from(*n).ok()?))
    }

    /// Checksum as the WIT defines it.
    #[must_use]
    pub const fn checksum(&self) -> u64 {
        self.checksum
    }
}

/// Dictionaries that plugins look names up in; for the others an index would be waste.
const fn looked_up(number: u32) -> bool {
    matches!(number, super::dictionary::IMAGES | super::dictionary::EXTENDED | super::dictionary::HOST_IPS)
}

fn column_mut<T: Clone + Default>(
    columns: &mut Vec<(u32, Vec<T>)>,
    number: u32,
    slots: usize,
) -> &mut Vec<T> {
    let at = columns.iter().position(|(n, _)| *n == number).unwrap_or(columns.len());
    if at == columns.len() {
        columns.push((number, vec![T::default(); slots]));
    }
    &mut columns[at].1
}

fn parse_taints(json: &str) -> Vec<Taint> {
    let Ok(Value::Array(taints)) = serde_json::from_str(json) else { return Vec::new() };
    let text = |t: &Value, key: &str| t.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
    let taint = |t: &Value| Taint { key: text(t, "key"), value: text(t, "value"), effect: text(t, "effect") };
    taints.iter().map(taint).collect()
}

fn extended_or_mix(number: u32, slot: u32, value: i64) -> u64 {
    if number >= column::EXTENDED && value == 0 { 0 } else { mix(slot, number, value.cast_unsigned()) }
}

fn mix(slot: u32, column: u32, value: u64) -> u64 {
    let x = value
        ^ u64::from(slot).wrapping_mul(0x9E37_79B9_7F4A_7C15)
        ^ u64::from(column).wrapping_mul(0xC2B2_AE3D_27D4_EB4F);
    let x = (x ^ (x >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    x ^ (x >> 32)
}

fn fold(items: &[u64]) -> u64 {
    items.iter().fold(items.len() as u64, |h, item| (h ^ item).wrapping_mul(0x100_0000_01B3))
}

/// Whether bit `at` is set.
#[must_use]
pub fn test_bit(set: &[u64], at: usize) -> bool {
    set.get(at / 64).is_some_and(|w| w >> (at % 64) & 1 == 1)
}

/// Sets or clears bit `at`.
pub fn set_bit(set: &mut [u64], at: usize, value: bool) {
    if let Some(word) = set.get_mut(at / 64) {
        if value { *word |= 1 << (at % 64) } else { *word &= !(1 << (at % 64)) }
    }
}

/// Packs `len` answers into words.
pub fn pack(len: usize, mut f: impl FnMut(usize) -> bool) -> Vec<u64> {
    let mut words = Vec::with_capacity(len.div_ceil(64));
    let mut at = 0;
    while at < len {
        let end = (at + 64).min(len);
        let mut word = 0_u64;
        for i in at..end {
            word |= u64::from(f(i)) << (i - at);
        }
        words.push(word);
        at = end;
    }
    words
}
