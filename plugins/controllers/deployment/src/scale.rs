//! How many pods each ReplicaSet shall have.

use crate::model::{DESIRED, MAX, Rollout};
use orlop_sdk::controller::Event;

impl Rollout {
    /// How many pods the new set may have now.
    pub(crate) fn new_set_size(&self) -> i64 {
        let current = self.new_set().map_or(0, |s| s.replicas());
        if !self.is_rolling() {
            return self.wanted();
        }
        let most = self.wanted() + self.max_surge();
        let now = self.total(&self.all());
        if now >= most {
            return current;
        }
        current + (most - now).min(self.wanted() - current)
    }

    /// Sets the size of one set, with the annotations that say what the Deployment wanted. Whether the size changed.
    pub(crate) fn resize(&mut self, at: usize, replicas: i64) -> bool {
        let (wanted, most) = (self.wanted(), self.wanted() + self.max_surge());
        let Some(set) = self.sets.get_mut(at) else { return false };
        set.annotate(DESIRED, &wanted.to_string());
        set.annotate(MAX, &most.to_string());
        let old = set.replicas();
        if old == replicas {
            return false;
        }
        let direction = if old < replicas { "up" } else { "down" };
        let message =
            format!("Scaled {direction} replica set {} from {old} to {replicas}", set.metadata.name);
        set.tell(Event::normal("ScalingReplicaSet", message));
        set.set_replicas(replicas);
        true
    }

    fn resize_if_other(&mut self, at: usize, replicas: i64) -> bool {
        self.replicas(at) != replicas && self.resize(at, replicas)
    }

    /// Whether the size of the Deployment changed since its sets were sized.
    pub(crate) fn is_scaling(&self) -> bool {
        let wanted = self.wanted();
        self.active(self.all())
            .iter()
            .filter_map(|at| self.sets.get(*at))
            .filter_map(|set| set.annotation_number(DESIRED))
            .any(|desired| desired != wanted)
    }

    /// Follows a change of the Deployment's size: the one active set alone, or all in proportion.
    pub(crate) fn scale(&mut self) {
        let wanted = self.wanted();
        if let Some(only) = self.active_or_latest() {
            self.resize(only, wanted);
            return;
        }
        if self.is_saturated() {
            for at in self.active(self.old()) {
                self.resize_if_other(at, 0);
            }
            return;
        }
        if !self.is_rolling() {
            return;
        }
        let mut sets = self.active(self.all());
        let allowed = if wanted > 0 { wanted + self.max_surge() } else { 0 };
        let to_add = allowed - self.total(&sets);
        // The largest first; of equal ones the newer when growing, the older when shrinking.
        let created = |at: usize| self.sets.get(at).map_or(0, |s| s.metadata.created());
        sets.sort_by(|a, b| {
            let age = if to_add > 0 { created(*b).cmp(&created(*a)) } else { created(*a).cmp(&created(*b)) };
            self.replicas(*b).cmp(&self.replicas(*a)).then(age)
        });
        let mut sizes: Vec<i64> = Vec::with_capacity(sets.len());
        let mut added = 0;
        for at in &sets {
            let share = if to_add == 0 { 0 } else { self.proportion(*at, to_add, added) };
            sizes.push(self.replicas(*at) + share);
            added += share;
        }
        if let Some(first) = sizes.first_mut() {
            *first = (*first + to_add - added).max(0);
        }
        for (at, size) in sets.into_iter().zip(sizes) {
            self.resize(at, size);
        }
    }

    /// The set that alone counts: the only active one, or the newest where none is; `None` with several active ones.
    fn active_or_latest(&self) -> Option<usize> {
        match self.active(self.all()).as_slice() {
            [] => self.new.or_else(|| self.old().last().copied()),
            [only] => Some(*only),
            _ => None,
        }
    }

    fn is_saturated(&self) -> bool {
        self.new_set().is_some_and(|set| {
            let wanted = self.wanted();
            set.replicas() == wanted
                && set.annotation_number(DESIRED) == Some(wanted)
                && set.status.available_replicas == wanted
        })
    }

    /// A set's share of what is added to all (or, negative, taken from them).
    fn proportion(&self, at: usize, to_add: i64, added: i64) -> i64 {
        let Some(set) = self.sets.get(at).filter(|s| s.replicas() != 0) else { return 0 };
        if to_add == added {
            return 0;
        }
        let allowed = to_add - added;
        let fraction = if self.wanted() == 0 {
            -set.replicas()
        } else {
            let now = self.wanted() + self.max_surge();
            let before = set.annotation_number(MAX).unwrap_or(self.deployment.status.replicas).max(1);
            // Rounded to the nearest, halves away from zero.
            (2 * set.replicas() * now + before).div_euclid(2 * before) - set.replicas()
        };
        if to_add > 0 { fraction.min(allowed) } else { fraction.max(allowed) }
    }

    /// Grows or shrinks the new set; whether it did.
    pub(crate) fn resize_new(&mut self) -> bool {
        let Some(at) = self.new else { return false };
        let (current, wanted) = (self.replicas(at), self.wanted());
        if current == wanted {
            return false;
        }
        let size = if current > wanted { wanted } else { self.new_set_size() };
        self.resize_if_other(at, size)
    }

    /// Shrinks the old sets as far as enough pods stay available; whether it did.
    pub(crate) fn resize_old(&mut self) -> bool {
        let old = self.active(self.old());
        if self.total(&old) == 0 {
            return false;
        }
        let least = self.wanted() - self.max_unavailable();
        let unavailable_new = self.new_set().map_or(0, |s| s.replicas() - s.status.available_replicas);
        let most_down = self.total(&self.all()) - least - unavailable_new;
        if most_down <= 0 {
            return false;
        }
        let mut changed = false;
        // First the pods that do not work anyway.
        let mut down = 0;
        for at in &old {
            let Some(set) = self.sets.get(*at) else { continue };
            let unhealthy = set.replicas() - set.status.available_replicas;
            if down >= most_down || unhealthy <= 0 {
                continue;
            }
            let count = unhealthy.min(most_down - down);
            let size = set.replicas() - count;
            changed |= self.resize_if_other(*at, size);
            down += count;
        }
        let available: i64 = self.sets.iter().map(|s| s.status.available_replicas).sum();
        let mut rest = available - least;
        for at in &old {
            let count = self.replicas(*at).min(rest);
            if count <= 0 {
                continue;
            }
            let size = self.replicas(*at) - count;
            changed |= self.resize_if_other(*at, size);
            rest -= count;
        }
        changed
    }
}
