//! The loop of one controller: take keys, gather their inputs, ask the plugin, apply its plans.

use crate::apply::{Applier, Outcome};
use crate::cache::Caches;
use crate::declaration::Declaration;
use crate::events::EventSink;
use crate::framework::{ControllerSpec, Memo, PluginFailure};
use crate::inputs::{self, Asked, Item};
use crate::keys::Key;
use crate::manager::{Clock, StatusHandle};
use crate::plan::{Failure, Plan, Response};
use crate::thread::PluginThread;
use crate::watches::Watches;
use orlop_client::{ApiClient, Fence, Leader, WorkQueue};
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Keys whose plans are being applied at the same time.
const KEYS: usize = 64;
/// Bytes of one request, unless a single key needs more.
const REQUEST: usize = 4 << 20;
/// Failures in a row after which the plugin is asked more slowly.
const PATIENCE: u32 = 3;
/// Longest pause between two calls of a plugin that fails.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What the host remembers about a key between two calls.
#[derive(Default)]
struct Remembered {
    memo: Memo,
    failure: Option<Failure>,
}

/// One running controller.
pub(crate) struct Controller {
    name: String,
    spec: ControllerSpec,
    caches: Arc<Caches>,
    queue: WorkQueue<Key>,
    remembered: Mutex<HashMap<Key, Remembered>>,
    applier: Applier,
    status: StatusHandle,
    clock: Clock,
}

impl Controller {
    /// Runs until `cancel`; returns when the plans that were begun are applied.
    #[expect(clippy::too_many_arguments, reason = "one value of each kind, named at the single call")]
    pub(crate) async fn run(
        spec: ControllerSpec,
        client: Arc<dyn ApiClient>,
        caches: Arc<Caches>,
        leader: Leader,
        fence: Fence,
        status: StatusHandle,
        clock: Clock,
        cancel: CancellationToken,
    ) {
        let declaration = spec.plugin.declaration();
        let name = declaration.name.clone();
        let source =
            if declaration.event_source.is_empty() { name.clone() } else { declaration.event_source.clone() };
        let tasks = TaskTracker::new();
        let (events, write_events) = EventSink::start(client.clone(), source);
        tasks.spawn(write_events);
        let applier =
            Applier::new(client, spec.grants.clone(), events, caches.clone(), leader, fence, name.clone());
        let queue = WorkQueue::default();
        let controller = Arc::new(Self {
            name,
            spec,
            caches,
            queue,
            remembered: Mutex::new(HashMap::new()),
            applier,
            status,
            clock,
        });
        tokio::select! {
            () = cancel.cancelled() => {}
            () = controller.work(&tasks) => {}
        }
        controller.queue.shut_down();
        drop(controller);
        tasks.close();
        tasks.wait().await;
    }

    fn declaration(&self) -> &Declaration {
        self.spec.plugin.declaration()
    }

    async fn work(self: &Arc<Self>, tasks: &TaskTracker) {
        let thread = match PluginThread::start(self.spec.plugin.clone()) {
            Ok(thread) => thread,
            Err(error) => {
                tracing::error!(plugin = %self.name, %error, "no thread for the controller");
                self.status.update(|s| s.last_failure = format!("no thread: {error}"));
                return;
            }
        };
        let watches =
            Watches::start(&self.name, self.spec.plugin.clone(), self.caches.clone(), self.queue.clone());
        let Some(mut watches) = watches.await else { return };
        tracing::info!(plugin = %self.name, "started controller");
        let permits = Arc::new(Semaphore::new(KEYS));
        let mut failures = 0;
        loop {
            let keys = tokio::select! {
                keys = self.queue.get_batch(self.declaration().batch) => keys,
                () = watches.changed() => {
                    if !watches.follow().await {
                        return;
                    }
                    continue;
                }
            };
            let Some(keys) = keys else { return };
            let (asked, items) = self.gather(keys).await;
            let mut rest = asked.into_iter().zip(items).peekable();
            while rest.peek().is_some() {
                let mut size = 0;
                let fits = |(_, item): &(Asked, Item)| {
                    let first = size == 0;
                    size += item.json.len();
                    first || size <= REQUEST
                };
                let (asked, items) = std::iter::from_fn({
                    let (rest, mut fits) = (&mut rest, fits);
                    move || rest.next_if(&mut fits)
                })
                .unzip();
                self.batch(tasks, &thread, &permits, asked, items, &mut failures).await;
            }
        }
    }

    /// One call of the plugin, and what follows from it.
    async fn batch(
        self: &Arc<Self>,
        tasks: &TaskTracker,
        thread: &PluginThread,
        permits: &Arc<Semaphore>,
        asked: Vec<Asked>,
        items: Vec<Item>,
        failures: &mut u32,
    ) {
        match self.ask(thread, &items).await {
            Ok(plans) => {
                *failures = 0;
                for ((asked, item), plan) in asked.into_iter().zip(items).zip(plans) {
                    self.carry_out(tasks, permits, asked, item, plan).await;
                }
            }
            Err(failure) if items.len() == 1 => self.failed(&asked, &failure, failures).await,
            // One of them is poison: find out which, so that the others go on.
            Err(_) => {
                for (asked, item) in asked.into_iter().zip(items) {
                    let item = [item];
                    match self.ask(thread, &item).await {
                        Ok(plans) => {
                            *failures = 0;
                            if let Some((plan, item)) = plans.into_iter().zip(item).next() {
                                self.carry_out(tasks, permits, asked, item, plan).await;
                            }
                        }
                        Err(failure) => self.failed(&[asked], &failure, failures).await,
                    }
                }
            }
        }
    }

    async fn gather(&self, keys: Vec<Key>) -> (Vec<Asked>, Vec<Item>) {
        let asked: Vec<Asked> = {
            let remembered = self.remembered.lock();
            keys.into_iter()
                .map(|key| {
                    let known = remembered.get(&key);
                    Asked {
                        attempt: self.queue.num_requeues(&key),
                        memo: known.map(|r| r.memo.clone()).unwrap_or_default(),
                        failure: known.and_then(|r| r.failure.clone()),
                        key,
                    }
                })
                .collect()
        };
        let gathered = futures::future::join_all(
            asked.iter().map(|a| inputs::gather(self.declaration(), &self.caches, a)),
        )
        .await;
        let mut ready = (Vec::new(), Vec::new());
        for (asked, item) in asked.into_iter().zip(gathered) {
            match item {
                Ok(item) => {
                    ready.0.push(asked);
                    ready.1.push(item);
                }
                Err(error) => {
                    tracing::warn!(plugin = %self.name, key = %asked.key, %error, "inputs could not be read");
                    self.queue.add_rate_limited(asked.key.clone());
                    self.queue.done(&asked.key);
                }
            }
        }
        ready
    }

    async fn ask(&self, thread: &PluginThread, items: &[Item]) -> Result<Vec<Plan>, PluginFailure> {
        let now = (self.clock)();
        let size: usize = items.iter().map(|i| i.json.len() + 1).sum();
        let mut request = Vec::with_capacity(size + 64);
        request.extend_from_slice(format!("{{\"now\":{now},\"items\":[").as_bytes());
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                request.push(b',');
            }
            request.extend_from_slice(&item.json);
        }
        request.extend_from_slice(b"]}");
        let began = std::time::Instant::now();
        let answer = thread.ask(request).await?;
        let response: Response =
            serde_json::from_slice(&answer).map_err(|e| PluginFailure::Invalid(e.to_string()))?;
        if response.plans.len() != items.len() {
            let message = format!("{} plans for {} keys", response.plans.len(), items.len());
            return Err(PluginFailure::Invalid(message));
        }
        tracing::debug!(plugin = %self.name, keys = items.len(), micros = began.elapsed().as_micros(), "reconciled");
        self.status.update(|s| {
            s.reconciles += items.len() as u64;
            s.failures_in_a_row = 0;
        });
        Ok(response.plans)
    }

    /// A call failed: its keys wait, each longer each time; and so does a plugin that goes on failing.
    async fn failed(&self, asked: &[Asked], failure: &PluginFailure, failures: &mut u32) {
        *failures += 1;
        for asked in asked {
            tracing::warn!(plugin = %self.name, key = %asked.key, %failure, "the controller plugin failed");
            self.queue.add_rate_limited(asked.key.clone());
            self.queue.done(&asked.key);
        }
        let in_a_row = *failures;
        self.status.update(|s| {
            s.failures += 1;
            s.failures_in_a_row = in_a_row;
            s.last_failure = failure.to_string();
        });
        if in_a_row > PATIENCE {
            let doubled = 1u32 << (in_a_row - PATIENCE).min(16);
            tokio::time::sleep((Duration::from_millis(100) * doubled).min(LONGEST_PAUSE)).await;
        }
    }

    async fn carry_out(
        self: &Arc<Self>,
        tasks: &TaskTracker,
        permits: &Arc<Semaphore>,
        asked: Asked,
        item: Item,
        plan: Plan,
    ) {
        let this = self.clone();
        if plan.writes.is_empty() {
            this.settle(&asked, plan.memo, plan.after_milliseconds, &plan.error, None);
            return;
        }
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        tasks.spawn(async move {
            let outcome = this.applier.apply(item.object.as_deref(), plan.writes).await;
            this.settle(&asked, plan.memo, plan.after_milliseconds, &plan.error, Some(outcome));
            drop(permit);
        });
    }

    /// Ends the work on a key: what is remembered, and when it is looked at again.
    fn settle(&self, asked: &Asked, memo: Memo, after: Option<u64>, error: &str, outcome: Option<Outcome>) {
        let key = &asked.key;
        let failure = outcome.as_ref().and_then(|o| o.failure.clone());
        let writes = outcome.as_ref().map_or(0, |o| o.writes);
        self.status.update(|s| s.writes += writes as u64);
        if let Some(failure) = &failure {
            let conflict = outcome.as_ref().is_some_and(|o| o.conflict);
            if conflict {
                tracing::debug!(plugin = %self.name, %key, error = %failure.message, "decided on old state, retrying");
            } else {
                tracing::warn!(plugin = %self.name, %key, error = %failure.message, "a write failed, retrying");
            }
        } else if !error.is_empty() {
            tracing::warn!(plugin = %self.name, %key, error, "no decision, retrying");
        }
        let again = failure.is_some() || !error.is_empty();
        // A conflict says nothing that a plugin could decide on.
        let failure = failure.filter(|_| !outcome.as_ref().is_some_and(|o| o.conflict));
        {
            let mut remembered = self.remembered.lock();
            if memo == Value::Null && failure.is_none() {
                remembered.remove(key);
            } else {
                remembered.insert(key.clone(), Remembered { memo, failure });
            }
        }
        if again {
            self.queue.add_rate_limited(key.clone());
        } else {
            self.queue.forget(key);
        }
        if let Some(after) = after {
            self.queue.add_after(key.clone(), Duration::from_millis(after));
        }
        self.queue.done(key);
    }
}
