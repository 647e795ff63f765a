//! A queue of keys with client-go's semantics.
//!
//! - A key is in the queue at most once; adding it again while it waits changes nothing.
//! - A key is handed to one worker at a time. Added while it is being worked on, it comes again
//!   after [`WorkQueue::done`].
//! - [`WorkQueue::add_rate_limited`] waits by the number of failures of the key (5 ms, doubled
//!   each time, at most 1000 s), and by a bucket over all keys (10 per second, burst of 100).
//!
//! Source of the numbers: `k8s.io/client-go/util/workqueue`, `DefaultTypedControllerRateLimiter`.
//!
//! Nothing runs in the background: delayed keys become ready inside [`WorkQueue::get`], which
//! sleeps until the first of them is due. An idle queue costs nothing.

use parking_lot::Mutex;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How failures are slowed down.
#[derive(Clone, Copy, Debug)]
pub struct RateLimits {
    /// Delay after the first failure of a key.
    pub base: Duration,
    /// Longest delay of a key.
    pub max: Duration,
    /// Retries per second over all keys.
    pub per_second: f64,
    /// Retries that may come at once.
    pub burst: f64,
}

impl Default for RateLimits {
    fn default() -> Self {
        Self {
            base: Duration::from_millis(5),
            max: Duration::from_secs(1000),
            per_second: 10.0,
            burst: 100.0,
        }
    }
}

/// A shared queue; clones are handles to the same queue.
pub struct WorkQueue<K> {
    shared: Arc<Shared<K>>,
}

impl<K> Clone for WorkQueue<K> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

struct Shared<K> {
    state: Mutex<State<K>>,
    /// Wakes one waiter of `get`: something became ready, or the first delay changed.
    wake: Notify,
}

struct State<K> {
    limits: RateLimits,
    /// Ready keys that no worker holds, in order. A subset of `dirty`.
    queue: VecDeque<K>,
    /// Keys that must be worked on.
    dirty: HashSet<K>,
    /// Keys that a worker holds.
    processing: HashSet<K>,
    /// Delayed keys by due time; stale where `due` says otherwise.
    heap: BinaryHeap<Reverse<(Instant, u64)>>,
    delayed: HashMap<u64, K>,
    due: HashMap<K, (Instant, u64)>,
    serial: u64,
    failures: HashMap<K, u32>,
    tokens: f64,
    refilled: Instant,
    closed: bool,
}

impl<K: Clone + Eq + Hash> Default for WorkQueue<K> {
    fn default() -> Self {
        Self::new(RateLimits::default())
    }
}

impl<K: Clone + Eq + Hash> WorkQueue<K> {
    /// An empty queue.
    #[must_use]
    pub fn new(limits: RateLimits) -> Self {
        let state = State {
            limits,
            queue: VecDeque::new(),
            dirty: HashSet::new(),
            processing: HashSet::new(),
            heap: BinaryHeap::new(),
            delayed: HashMap::new(),
            due: HashMap::new(),
            serial: 0,
            failures: HashMap::new(),
            tokens: limits.burst,
            refilled: Instant::now(),
            closed: false,
        };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), wake: Notify::new() }) }
    }

    /// Adds a key now.
    pub fn add(&self, key: K) {
        let ready = self.shared.state.lock().add(key);
        if ready {
            self.shared.wake.notify_one();
        }
    }

    /// Adds a key when `delay` has passed. Of several delays of one key the earliest counts.
    pub fn add_after(&self, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let earlier = self.shared.state.lock().delay(key, Instant::now() + delay);
        if earlier {
            self.shared.wake.notify_one();
        }
    }

    /// Adds a key after the delay that its failures so far ask for, and counts one more.
    /// Returns the delay.
    pub fn add_rate_limited(&self, key: K) -> Duration {
        let delay = self.shared.state.lock().penalty(&key);
        self.add_after(key, delay);
        delay
    }

    /// Forgets the failures of a key, because it succeeded or is given up.
    pub fn forget(&self, key: &K) {
        self.shared.state.lock().failures.remove(key);
    }

    /// Failures of a key since it was last forgotten.
    #[must_use]
    pub fn num_requeues(&self, key: &K) -> u32 {
        self.shared.state.lock().failures.get(key).copied().unwrap_or(0)
    }

    /// Takes the next key, waiting for one; `None` after [`WorkQueue::shut_down`].
    /// Call [`WorkQueue::done`] when it is worked off. Cancel-safe.
    pub async fn get(&self) -> Option<K> {
        self.get_batch(1).await.and_then(|mut keys| keys.pop())
    }

    /// Takes all keys that are ready, at most `max`, waiting for the first; `None` after
    /// [`WorkQueue::shut_down`]. Each needs its [`WorkQueue::done`]. Cancel-safe.
    pub async fn get_batch(&self, max: usize) -> Option<Vec<K>> {
        loop {
            let next = {
                let mut state = self.shared.state.lock();
                let next = state.ripen(Instant::now());
                if !state.queue.is_empty() {
                    let keys: Vec<K> = (0..max.max(1)).map_while(|_| state.take()).collect();
                    let more = !state.queue.is_empty();
                    drop(state);
                    if more {
                        self.shared.wake.notify_one();
                    }
                    return Some(keys);
                }
                if state.closed {
                    drop(state);
                    // The next waiter must learn of it, too.
                    self.shared.wake.notify_one();
                    return None;
                }
                next
            };
            match next {
                Some(due) => tokio::select! {
                    () = self.shared.wake.notified() => {}
                    () = tokio::time::sleep_until(due) => {}
                },
                None => self.shared.wake.notified().await,
            }
        }
    }

    /// Ends the work on a key; it becomes ready at once where it was added meanwhile.
    pub fn done(&self, key: &K) {
        let ready = {
            let mut state = self.shared.state.lock();
            state.processing.remove(key);
            if state.dirty.contains(key) && !state.closed {
                state.queue.push_back(key.clone());
                true
            } else {
                false
            }
        };
        if ready {
            self.shared.wake.notify_one();
        }
    }

    /// Number of keys that are ready and wait for a worker.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.state.lock().queue.len()
    }

    /// Whether no key is ready.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether nothing is ready, held by a worker or delayed.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let state = self.shared.state.lock();
        state.queue.is_empty() && state.processing.is_empty() && state.due.is_empty()
    }

    /// Takes no more keys and ends [`WorkQueue::get`] once the ready ones are taken.
    pub fn shut_down(&self) {
        self.shared.state.lock().closed = true;
        self.shared.wake.notify_one();
    }
}

impl<K: Clone + Eq + Hash> State<K> {
    /// Whether a worker must be woken.
    fn add(&mut self, key: K) -> bool {
        if self.closed || !self.dirty.insert(key.clone()) {
            return false;
        }
        if self.processing.contains(&key) {
            return false;
        }
        self.queue.push_back(key);
        true
    }

    /// Whether the key is now due before all others.
    fn delay(&mut self, key: K, at: Instant) -> bool {
        if self.closed || self.due.get(&key).is_some_and(|(known, _)| *known <= at) {
            return false;
        }
        self.serial += 1;
        let first = self.heap.peek().is_none_or(|Reverse((due, _))| at < *due);
        self.heap.push(Reverse((at, self.serial)));
        if let Some((_, stale)) = self.due.insert(key.clone(), (at, self.serial)) {
            self.delayed.remove(&stale);
        }
        self.delayed.insert(self.serial, key);
        first
    }

    /// Moves what is due to the queue; the due time of the next.
    fn ripen(&mut self, now: Instant) -> Option<Instant> {
        while let Some(Reverse((at, serial))) = self.heap.peek().copied() {
            let stale = !self.delayed.contains_key(&serial);
            if at > now && !stale {
                return Some(at);
            }
            self.heap.pop();
            if let Some(key) = self.delayed.remove(&serial) {
                self.due.remove(&key);
                self.add(key);
            }
        }
        None
    }

    fn take(&mut self) -> Option<K> {
        let key = self.queue.pop_front()?;
        self.dirty.remove(&key);
        self.processing.insert(key.clone());
        Some(key)
    }

    fn penalty(&mut self, key: &K) -> Duration {
        let failures = self.failures.entry(key.clone()).or_insert(0);
        let factor = 1u32.checked_shl((*failures).min(31)).unwrap_or(u32::MAX);
        *failures = failures.saturating_add(1);
        let own = self.limits.base.checked_mul(factor).map_or(self.limits.max, |d| d.min(self.limits.max));
        let now = Instant::now();
        let fresh = now.duration_since(self.refilled).as_secs_f64() * self.limits.per_second;
        self.refilled = now;
        self.tokens = (self.tokens + fresh).min(self.limits.burst) - 1.0;
        let shared = if self.tokens < 0.0 {
            Duration::from_secs_f64(-self.tokens / self.limits.per_second)
        } else {
            Duration::ZERO
        };
        own.max(shared)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_waits_once_and_is_held_by_one_worker() {
        let queue = WorkQueue::default();
        queue.add("a");
        queue.add("a");
        queue.add("b");
        assert_eq!(queue.get_batch(10).await.unwrap(), ["a", "b"]);
        queue.add("a");
        assert!(queue.is_empty(), "held keys are not handed out again");
        queue.done(&"a");
        assert_eq!(queue.get().await, Some("a"));
        queue.done(&"a");
        queue.done(&"b");
        assert!(queue.is_idle());
    }

    #[tokio::test(start_paused = true)]
    async fn delays_ripen_in_order_and_the_earliest_counts() {
        let queue = WorkQueue::default();
        let start = Instant::now();
        queue.add_after("late", Duration::from_secs(60));
        queue.add_after("early", Duration::from_secs(5));
        queue.add_after("late", Duration::from_secs(20));
        queue.add_after("early", Duration::from_secs(50));
        assert_eq!(queue.get().await, Some("early"));
        assert_eq!(start.elapsed().as_secs(), 5);
        assert_eq!(queue.get().await, Some("late"));
        assert_eq!(start.elapsed().as_secs(), 20);
        queue.done(&"early");
        queue.done(&"late");
        assert!(queue.is_idle());
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiter_learns_of_an_earlier_delay() {
        let queue = WorkQueue::default();
        let start = Instant::now();
        queue.add_after(1, Duration::from_secs(100));
        let other = queue.clone();
        let waiter = async { (other.get().await, start.elapsed().as_secs()) };
        let adder = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            queue.add_after(2, Duration::from_secs(1));
        };
        let (got, ()) = tokio::join!(waiter, adder);
        assert_eq!(got, (Some(2), 2));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_back_off_and_are_forgotten() {
        let queue = WorkQueue::default();
        let delays: Vec<_> = (0..4).map(|_| queue.add_rate_limited("a").as_millis()).collect();
        assert_eq!(delays, [5, 10, 20, 40]);
        assert_eq!(queue.num_requeues(&"a"), 4);
        queue.forget(&"a");
        assert_eq!(queue.add_rate_limited("a").as_millis(), 5);
        for _ in 0..40 {
            queue.add_rate_limited("b");
        }
        assert_eq!(queue.add_rate_limited("b"), Duration::from_secs(1000));
    }

    #[tokio::test(start_paused = true)]
    async fn the_bucket_limits_all_keys_together() {
        let queue = WorkQueue::default();
        let delays: Vec<_> = (0..105).map(|key| queue.add_rate_limited(key)).collect();
        assert_eq!(delays[99], Duration::from_millis(5));
        assert_eq!(delays[104].as_millis(), 500);
    }

    #[tokio::test]
    async fn shutting_down_ends_all_workers() {
        let queue = WorkQueue::<u32>::default();
        queue.add(1);
        queue.shut_down();
        queue.add(2);
        assert_eq!(queue.get().await, Some(1));
        let (a, b) = tokio::join!(queue.get(), queue.get());
        assert_eq!((a, b), (None, None));
    }
}
