//! Matching pods by domain, and the least of them, without looking through the domains.

/// Counts of one constraint. A domain exists while it has an eligible node.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    counts: Vec<i32>,
    /// By domain: eligible nodes.
    nodes: Vec<u32>,
    /// By count: how many domains have it.
    histogram: Vec<u32>,
    domains: usize,
    /// No domain has less.
    least: usize,
}

fn index(count: i32) -> usize {
    usize::try_from(count).unwrap_or(0)
}

impl Counts {
    /// Starts over with `domains` domains that do not exist.
    pub(crate) fn clear(&mut self, domains: usize) {
        *self = Self { counts: vec![0; domains], nodes: vec![0; domains], ..Self::default() };
    }

    /// Makes room for domains.
    pub(crate) fn reach(&mut self, domains: usize) {
        if self.counts.len() < domains {
            self.counts.resize(domains, 0);
            self.nodes.resize(domains, 0);
        }
    }

    /// By domain; 0 for those that do not exist.
    pub(crate) fn by_domain(&self) -> &[i32] {
        &self.counts
    }

    pub(crate) fn of(&self, domain: u32) -> i32 {
        self.counts.get(domain as usize).copied().unwrap_or(0)
    }

    /// Adds an eligible node with so many pods, without keeping the least; [`Counts::index`] must follow.
    pub(crate) fn load(&mut self, domain: u32, pods: i32) {
        let at = domain as usize;
        if let (Some(nodes), Some(count)) = (self.nodes.get_mut(at), self.counts.get_mut(at)) {
            *nodes += 1;
            *count += pods;
        }
    }

    /// Works out the least after [`Counts::load`].
    pub(crate) fn index(&mut self) {
        self.histogram.clear();
        self.domains = 0;
        self.least = usize::MAX;
        for (count, _) in self.counts.iter().zip(&self.nodes).filter(|(_, nodes)| **nodes > 0) {
            let count = index(*count);
            if self.histogram.len() <= count {
                self.histogram.resize(count + 1, 0);
            }
            if let Some(domains) = self.histogram.get_mut(count) {
                *domains += 1;
            }
            self.domains += 1;
            self.least = self.least.min(count);
        }
    }

    fn insert(&mut self, count: i32) {
        let count = index(count);
        if self.histogram.len() <= count {
            self.histogram.resize(count + 1, 0);
        }
        if let Some(domains) = self.histogram.get_mut(count) {
            *domains += 1;
        }
        self.domains += 1;
        self.least = if self.domains == 1 { count } else { self.least.min(count) };
    }

    fn remove(&mut self, count: i32) {
        let count = index(count);
        if let Some(domains) = self.histogram.get_mut(count) {
            *domains = domains.saturating_sub(1);
        }
        self.domains -= 1;
        while self.domains > 0 && self.histogram.get(self.least).is_some_and(|domains| *domains == 0) {
            self.least += 1;
        }
    }

    /// A node with so many pods becomes eligible.
    pub(crate) fn enter(&mut self, domain: u32, pods: i32) {
        self.reach(domain as usize + 1);
        self.load(domain, 0);
        if self.nodes.get(domain as usize) == Some(&1) {
            self.insert(self.of(domain));
        }
        self.add(domain, pods);
    }

    /// A node with so many pods is not eligible any more.
    pub(crate) fn leave(&mut self, domain: u32, pods: i32) {
        self.add(domain, -pods);
        let Some(nodes) = self.nodes.get_mut(domain as usize) else { return };
        *nodes = nodes.saturating_sub(1);
        if *nodes == 0 {
            self.remove(self.of(domain));
        }
    }

    /// An eligible node of the domain gets so many pods more.
    pub(crate) fn add(&mut self, domain: u32, pods: i32) {
        let Some(count) = self.counts.get_mut(domain as usize) else { return };
        if pods == 0 {
            return;
        }
        let before = std::mem::replace(count, *count + pods);
        let after = *count;
        self.insert(after);
        self.remove(before);
    }

    /// The least count of a domain; 0 with fewer than `min_domains` domains.
    pub(crate) fn least(&self, min_domains: usize) -> i32 {
        if self.domains == 0 || self.domains < min_domains {
            return 0;
        }
        i32::try_from(self.least).unwrap_or(i32::MAX)
    }

    /// The same, if an existing domain had another count.
    pub(crate) fn least_with(&self, min_domains: usize, domain: u32, count: i32) -> i32 {
        if self.nodes.get(domain as usize).is_none_or(|nodes| *nodes == 0) {
            return self.least(min_domains);
        }
        if self.domains < min_domains {
            return 0;
        }
        let own = index(self.of(domain));
        let others = self.histogram.iter().enumerate().skip(self.least);
        let others =
            others.filter(|(at, domains)| **domains > u32::from(*at == own)).map(|(at, _)| at).next();
        others.and_then(|at| i32::try_from(at).ok()).map_or(count, |others| others.min(count))
    }

    /// Whether a domain has a count above `from`, up to `to`.
    pub(crate) fn any_between(&self, from: i32, to: i32) -> bool {
        let range = index(from.saturating_add(1))..self.histogram.len().min(index(to.saturating_add(1)));
        self.histogram.get(range).is_some_and(|counts| counts.iter().any(|domains| *domains > 0))
    }
}

#[cfg(test)]
mod tests {
    use super::Counts;

    #[test]
    fn the_least_follows_every_change() {
        let mut counts = Counts::default();
        assert_eq!(counts.least(1), 0);
        counts.enter(0, 3);
        assert_eq!(counts.least(1), 3);
        counts.enter(1, 5);
        counts.enter(1, 0);
        assert_eq!((counts.least(1), counts.least(3)), (3, 0));
        counts.add(0, 4);
        assert_eq!((counts.of(0), counts.least(1)), (7, 5));
        counts.leave(1, 5);
        assert_eq!(counts.least(1), 0, "the domain has a node left");
        counts.leave(1, 0);
        assert_eq!(counts.least(1), 7);
        counts.leave(0, 7);
        assert_eq!((counts.least(1), counts.of(0)), (0, 0));
        counts.enter(2, 1);
        assert_eq!(counts.least(1), 1);
    }

    #[test]
    fn one_domain_may_be_thought_otherwise() {
        let mut counts = Counts::default();
        for (domain, pods) in [(0, 2), (1, 4), (2, 4)] {
            counts.enter(domain, pods);
        }
        assert_eq!(counts.least_with(1, 0, 9), 4);
        assert_eq!(counts.least_with(1, 1, 1), 1);
        assert_eq!(counts.least_with(1, 1, 9), 2);
        assert_eq!(counts.least_with(4, 1, 9), 0);
        assert_eq!(counts.least_with(1, 7, 0), 2, "a domain that does not exist");
        assert!(counts.any_between(2, 4) && !counts.any_between(2, 3) && !counts.any_between(4, 9));
    }

    #[test]
    fn loading_is_entering() {
        let (mut loaded, mut entered) = (Counts::default(), Counts::default());
        loaded.clear(3);
        for (domain, pods) in [(0, 2), (2, 4), (2, 1)] {
            loaded.load(domain, pods);
            entered.enter(domain, pods);
        }
        loaded.index();
        assert_eq!(loaded.by_domain(), entered.by_domain());
        assert_eq!(loaded.least(1), entered.least(1));
        assert_eq!(loaded.least_with(1, 0, 9), 5);
    }
}
