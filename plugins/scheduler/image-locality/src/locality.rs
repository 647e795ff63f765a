//! The logic, natively testable.
//!
//! An image counts with its size, scaled by the share of nodes that have it, so that pods do not
//! heap on the few nodes that pulled it first. Where a node reports a size of its own, that counts;
//! Kubernetes takes the first one reported in the cluster.

use orlop_sdk::scheduler::{Asked, BatchPlugin, Delta, Mirror, Prepared, Synced, column, dictionary};
use orlop_sdk::serde_json::Value;
use std::collections::{BTreeSet, HashMap};

const MIB: i64 = 1 << 20;
const MIN_THRESHOLD: i64 = 23 * MIB;
/// Per image.
const MAX_THRESHOLD: i64 = 1000 * MIB;

/// Nodes that have an image: slot and bytes, by slot.
type Holders = Vec<(u32, u64)>;

/// The plugin; it has no arguments.
#[derive(Debug, Default)]
pub struct ImageLocality {
    mirror: Mirror,
    /// By number of the image.
    holders: Vec<Holders>,
    /// By slot: the images that are listed in `holders`.
    listed: Vec<Vec<u32>>,
    classes: HashMap<u32, Vec<String>>,
}

/// A name without tag or digest means `latest`.
fn normalized(name: &str) -> String {
    if name.rfind(':').map_or(-1, to_i64) <= name.rfind('/').map_or(-1, to_i64) {
        format!("{name}:latest")
    } else {
        name.to_owned()
    }
}

fn to_i64(at: usize) -> i64 {
    i64::try_from(at).unwrap_or(i64::MAX)
}

fn images_of(pod: &Value) -> Vec<String> {
    let items = |path: &str| pod.pointer(path).and_then(Value::as_array).into_iter().flatten();
    let image = |c: &Value| c.get("image").and_then(Value::as_str).map(normalized);
    let volume = |v: &Value| v.pointer("/image/reference").and_then(Value::as_str).map(normalized);
    let containers = items("/spec/initContainers").chain(items("/spec/containers")).filter_map(image);
    containers.chain(items("/spec/volumes").filter_map(volume)).collect()
}

impl ImageLocality {
    /// Lists the images of changed slots. Answers the images of which other nodes' scores may depend
    /// on that.
    fn relist(&mut self, rows: &[u32]) -> BTreeSet<u32> {
        let mut changed = BTreeSet::new();
        self.listed.resize(self.mirror.slots(), Vec::new());
        self.holders.resize(self.mirror.entries(dictionary::IMAGES).len(), Holders::new());
        for slot in rows {
            let at = *slot as usize;
            let images =
                self.mirror.list(column::IMAGES, at).iter().map(|n| u32::try_from(*n).unwrap_or(u32::MAX));
            let sizes = self.mirror.list(column::IMAGE_SIZES, at);
            let Some(listed) = self.listed.get_mut(at) else { continue };
            for image in listed.drain(..) {
                if let Some(holders) = self.holders.get_mut(image as usize) {
                    holders.retain(|(holder, _)| holder != slot);
                    changed.insert(image);
                }
            }
            for (image, size) in images.zip(sizes) {
                let Some(holders) = self.holders.get_mut(image as usize) else { continue };
                if let Err(place) = holders.binary_search_by_key(slot, |(holder, _)| *holder) {
                    holders.insert(place, (*slot, *size));
                    listed.push(image);
                    changed.insert(image);
                }
            }
        }
        changed
    }

    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "as upstream")]
    fn contribution(&self, holders: &Holders, size: u64) -> i64 {
        let spread = holders.len() as f64 / self.mirror.nodes() as f64;
        (size as f64 * spread) as i64
    }
}

/// From the sum over images to 0 to 100.
fn priority(sum: i64, images: usize) -> u8 {
    let max = MAX_THRESHOLD.saturating_mul(to_i64(images));
    let sum = sum.max(MIN_THRESHOLD).min(max);
    u8::try_from(100 * (sum - MIN_THRESHOLD) / (max - MIN_THRESHOLD)).unwrap_or(u8::MAX)
}

impl BatchPlugin for ImageLocality {
    fn new(_args: &[u8]) -> Result<Self, String> {
        Ok(Self::default())
    }

    fn sync(&mut self, delta: Delta) -> Synced {
        if delta.full {
            self.holders.clear();
            self.listed.clear();
        }
        let nodes = self.mirror.nodes();
        let rows = self.mirror.apply(delta);
        let changed = self.relist(&rows);
        let everywhere = nodes != self.mirror.nodes();
        let uses = |image: &String| {
            self.mirror.number(dictionary::IMAGES, image).is_some_and(|image| changed.contains(&image))
        };
        let stale = self.classes.iter().filter(|(_, images)| everywhere || images.iter().any(uses));
        let stale: Vec<u32> = stale.map(|(class, _)| *class).collect();
        Synced { checksum: self.mirror.checksum(), stale: stale.into() }
    }

    fn prepare(&mut self, class: u32, pod: &Value) -> Result<Prepared, String> {
        let images = images_of(pod);
        let skip_score = images.is_empty();
        self.classes.insert(class, images);
        Ok(Prepared { skip_score, ..Prepared::default() })
    }

    fn release(&mut self, class: u32) {
        self.classes.remove(&class);
    }

    fn score(&mut self, class: u32, rows: &[u32]) -> Vec<u8> {
        let slots = self.mirror.slots();
        let images = self.classes.get(&class).map_or(&[][..], |images| images);
        let mut sums: Vec<i64> = Vec::new();
        for image in images {
            let number = self.mirror.number(dictionary::IMAGES, image);
            let Some(holders) = number.and_then(|n| self.holders.get(n as usize)) else { continue };
            if sums.is_empty() && !holders.is_empty() {
                sums.resize(slots, 0);
            }
            for (slot, size) in holders {
                if let Some(sum) = sums.get_mut(*slot as usize) {
                    *sum += self.contribution(holders, *size);
                }
            }
        }
        let asked = Asked::new(rows, slots);
        if sums.is_empty() {
            return vec![0; asked.len()];
        }
        // Neighbours mostly have the same images: divided only where the sum differs from the last one.
        let mut last = (0, priority(0, images.len()));
        asked.map(|slot| {
            let sum = sums.get(slot).copied().unwrap_or(0);
            if sum != last.0 {
                last = (sum, priority(sum, images.len()));
            }
            last.1
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orlop_sdk::scheduler::Stale;
    use orlop_sdk::scheduler::testing::{Bench, Nodes};
    use orlop_sdk::serde_json::json;

    fn nodes() -> Nodes {
        let mib = |n: u64| n << 20;
        Nodes::new(4)
            .dictionary(dictionary::IMAGES, &["a:latest", "r.io/b:1", "c:1"])
            .lists(column::IMAGES, &[&[0, 1], &[0], &[2], &[]])
            .lists(column::IMAGE_SIZES, &[&[mib(400), mib(1000)], &[mib(400)], &[mib(30)], &[]])
    }

    fn scores(pod: &Value) -> Vec<u8> {
        let mut bench: Bench<ImageLocality> = Bench::new(&json!({}), nodes(), pod).unwrap();
        bench.plugin.score(1, &[])
    }

    #[test]
    fn size_times_spread() {
        // a: 400 MiB on 2 of 4 nodes counts 200; (200 - 23) / (1000 - 23) = 18 %.
        assert_eq!(scores(&json!({"spec": {"containers": [{"image": "a"}]}})), [18, 18, 0, 0]);
        // With b: 200 + 250 of at most 2,000; (450 - 23) / (2000 - 23) = 21 %; a alone: 8 %.
        let both =
            json!({"spec": {"containers": [{"image": "a"}], "initContainers": [{"image": "r.io/b:1"}]}});
        assert_eq!(scores(&both), [21, 8, 0, 0]);
    }

    #[test]
    fn small_and_unknown_images_count_nothing() {
        assert_eq!(scores(&json!({"spec": {"containers": [{"image": "c:1"}]}})), [0; 4]);
        assert_eq!(scores(&json!({"spec": {"containers": [{"image": "nope"}]}})), [0; 4]);
    }

    #[test]
    fn a_pull_elsewhere_makes_scores_stale() {
        let mut bench: Bench<ImageLocality> =
            Bench::new(&json!({}), nodes(), &json!({"spec": {"containers": [{"image": "a"}]}})).unwrap();
        let pulled = Nodes::new(4)
            .lists(column::IMAGES, &[&[0, 1], &[0], &[2], &[0]])
            .lists(column::IMAGE_SIZES, &[&[400 << 20, 1000 << 20], &[400 << 20], &[30 << 20], &[400 << 20]]);
        let delta = Delta { full: false, ..pulled.delta() };
        assert_eq!(bench.plugin.sync(delta).stale, Stale::Classes(vec![1]));
        // Three of four nodes: 300 MiB; (300 - 23) / 977 = 28 %.
        assert_eq!(bench.plugin.score(1, &[]), [28, 28, 0, 28]);
        assert_eq!(bench.plugin.score(1, &[3, 2]), [28, 0]);
    }

    #[test]
    fn names_are_completed() {
        for (name, full) in [
            ("a", "a:latest"),
            ("r:5000/a", "r:5000/a:latest"),
            ("r:5000/a:1", "r:5000/a:1"),
            ("a@sha256:00", "a@sha256:00"),
        ] {
            assert_eq!(normalized(name), full);
        }
    }
}
