//! Which nodes carry which label, the other way round.

use crate::scheduler::{Mirror, column, dictionary, set_bit};
use std::collections::HashMap;

/// Slots by label, and labels by key: a selector over all nodes costs as much as it matches.
#[derive(Debug, Default)]
pub struct Postings {
    /// By number of the label: slots, ascending.
    slots: Vec<Vec<u32>>,
    /// Numbers of the labels with a key.
    by_key: HashMap<String, Vec<u32>>,
    /// By slot: the labels it is listed under.
    listed: Vec<Box<[u32]>>,
}

impl Postings {
    /// Starts over, before a full sync.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Lists the labels of changed slots.
    pub fn update(&mut self, mirror: &Mirror, rows: &[u32]) {
        let labels = mirror.entries(dictionary::LABELS);
        for (label, number) in labels.iter().zip(0_u32..).skip(self.slots.len()) {
            let key = label.split_once('=').map_or(label.as_str(), |(key, _)| key);
            match self.by_key.get_mut(key) {
                Some(numbers) => numbers.push(number),
                None => _ = self.by_key.insert(key.to_owned(), vec![number]),
            }
        }
        self.slots.resize(labels.len(), Vec::new());
        self.listed.resize(mirror.slots(), Box::default());
        for slot in rows {
            let at = *slot as usize;
            let labels: Box<[u32]> = mirror
                .list(column::LABELS, at)
                .iter()
                .map(|n| u32::try_from(*n).unwrap_or(u32::MAX))
                .collect();
            let Some(listed) = self.listed.get_mut(at) else { continue };
            let before = std::mem::replace(listed, labels);
            for label in before.iter().filter(|l| !listed.contains(l)) {
                if let Some(slots) = self.slots.get_mut(*label as usize)
                    && let Ok(place) = slots.binary_search(slot)
                {
                    slots.remove(place);
                }
            }
            for label in listed.iter().filter(|l| !before.contains(l)) {
                if let Some(slots) = self.slots.get_mut(*label as usize)
                    && let Err(place) = slots.binary_search(slot)
                {
                    slots.insert(place, *slot);
                }
            }
        }
    }

    /// Labels with a key: their numbers and values.
    pub(super) fn with_key<'a>(
        &'a self,
        key: &str,
        labels: &'a [String],
    ) -> impl Iterator<Item = (u32, &'a str)> {
        let numbers = self.by_key.get(key).map_or(&[][..], |n| n);
        numbers.iter().filter_map(move |n| Some((*n, labels.get(*n as usize)?.split_once('=')?.1)))
    }

    /// Sets the bits of the slots that carry the label.
    pub(super) fn collect(&self, label: u32, into: &mut [u64]) {
        for slot in self.slots.get(label as usize).into_iter().flatten() {
            set_bit(into, *slot as usize, true);
        }
    }
}
