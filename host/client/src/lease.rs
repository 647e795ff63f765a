//! Leader election on `coordination.k8s.io/v1` Leases.
//!
//! One of several processes holds the Lease and renews it; the others watch it and take it over
//! when it was not renewed for its duration, as measured by their own clocks from when they saw
//! the last renewal. Fields and times are those of client-go's `leaderelection`.
//!
//! Invariant: a process believes itself to be leader for at most [`LeaderConfig::renew_deadline`]
//! after the start of its last successful renewal, which is shorter than the time after which
//! another may take over. Work done as leader carries a [`Fence`] and asks [`Leader::holds`]
//! before each write.

use crate::api::{ApiClient, ApiError, ResourceRef, WriteOptions};
use bytes::Bytes;
use orlop_apimachinery::{Gvr, Object};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Where Leases live.
pub static LEASES: Gvr = Gvr::new("coordination.k8s.io", "v1", "leases");

/// Which Lease, as whom, and how patiently.
#[derive(Clone, Debug)]
pub struct LeaderConfig {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub name: String,
    /// `spec.holderIdentity`: different for any two processes that may run at the same time. A
    /// process that comes back with the identity it had leads again without waiting.
    pub identity: String,
    /// How long the others wait after a renewal before they take over.
    pub lease_duration: Duration,
    /// How long the leader tries to renew before it gives up.
    pub renew_deadline: Duration,
    /// Time between two attempts.
    pub retry_period: Duration,
    /// Give the Lease back on shutdown, so that another leads at once.
    pub release_on_cancel: bool,
}

impl LeaderConfig {
    /// Upstream's times: 15 s, 10 s, 2 s; released on shutdown.
    #[must_use]
    pub fn new(namespace: &str, name: &str, identity: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
            identity: identity.into(),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
            release_on_cancel: true,
        }
    }
}

/// Names one term of one leader; a later term compares greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fence {
    /// `spec.leaseTransitions` of the term.
    pub transitions: i64,
    /// resourceVersion of the Lease when the term began.
    pub resource_version: u64,
}

/// Who leads, as far as this process knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leadership {
    /// Another process, or nobody yet (empty).
    Standby {
        /// `spec.holderIdentity`
        holder: String,
    },
    /// This process.
    Leading(Fence),
}

/// Read side of an election; cheap to clone.
#[derive(Clone)]
pub struct Leader {
    leadership: watch::Receiver<Leadership>,
    valid_until: Arc<Mutex<Option<Instant>>>,
}

impl Leader {
    /// Changes of leadership, latest state only.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    /// The current term, where this process leads.
    #[must_use]
    pub fn fence(&self) -> Option<Fence> {
        match *self.leadership.borrow() {
            Leadership::Leading(fence) if self.valid() => Some(fence),
            _ => None,
        }
    }

    /// Whether the term of `fence` still runs: what was decided in it may be written.
    #[must_use]
    pub fn holds(&self, fence: Fence) -> bool {
        self.fence() == Some(fence)
    }

    fn valid(&self) -> bool {
        self.valid_until.lock().is_some_and(|until| Instant::now() < until)
    }
}

/// Takes part in an election.
pub struct LeaderElector {
    client: Arc<dyn ApiClient>,
    config: LeaderConfig,
    leadership: watch::Sender<Leadership>,
    valid_until: Arc<Mutex<Option<Instant>>>,
    /// The Lease as last seen, and when it last changed.
    observed: Option<(Arc<Object>, Instant)>,
}

impl LeaderElector {
    /// Splits into the read side and the future that takes part until `cancel`.
    /// The future must be spawned on a tracked task; it ends after the Lease was released.
    pub fn start(
        client: Arc<dyn ApiClient>,
        config: LeaderConfig,
        cancel: CancellationToken,
    ) -> (Leader, impl Future<Output = ()> + Send + 'static) {
        let (leadership, receiver) = watch::channel(Leadership::Standby { holder: String::new() });
        let valid_until = Arc::new(Mutex::new(None));
        let leader = Leader { leadership: receiver, valid_until: valid_until.clone() };
        let elector = Self { client, config, leadership, valid_until, observed: None };
        (leader, elector.run(cancel))
    }

    async fn run(mut self, cancel: CancellationToken) {
        loop {
            let ended = tokio::select! {
                () = cancel.cancelled() => true,
                () = self.campaign() => false,
            };
            if ended {
                break;
            }
        }
        let led = matches!(*self.leadership.borrow(), Leadership::Leading(_));
        self.step_down();
        if led && self.config.release_on_cancel {
            self.release().await;
        }
    }

    /// Waits for leadership, keeps it, returns when it is lost.
    async fn campaign(&mut self) {
        loop {
            match self.attempt(self.config.renew_deadline).await {
                Ok(true) => break,
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(name = %self.config.name, %error, "leader election failed, retrying")
                }
            }
            let jitter = rand::random_range(1.0..2.2);
            tokio::time::sleep(self.config.retry_period.mul_f64(jitter)).await;
        }
        tracing::info!(name = %self.config.name, identity = %self.config.identity, "became leader");
        loop {
            tokio::time::sleep(self.config.retry_period).await;
            let Some(until) = *self.valid_until.lock() else { break };
            match self.attempt(until.saturating_duration_since(Instant::now())).await {
                Ok(true) => continue,
                Ok(false) => break,
                Err(error) => {
                    tracing::warn!(name = %self.config.name, %error, "the leader lease was not renewed, retrying");
                }
            }
            if Instant::now() >= until {
                break;
            }
        }
        tracing::warn!(name = %self.config.name, "lost leadership");
        self.step_down();
    }

    fn step_down(&self) {
        *self.valid_until.lock() = None;
        let holder = self.observed.as_ref().map(|(o, _)| holder(&o.to_value())).unwrap_or_default();
        let holder = if holder == self.config.identity { String::new() } else { holder };
        self.leadership.send_if_modified(|now| {
            let next = Leadership::Standby { holder };
            let changed = *now != next;
            *now = next;
            changed
        });
    }

    /// One attempt to take or renew the Lease; whether this process leads.
    async fn attempt(&mut self, within: Duration) -> Result<bool, ApiError> {
        let began = Instant::now();
        let Ok(outcome) = tokio::time::timeout(within, self.acquire_or_renew()).await else {
            return Err(ApiError::Transport { message: "no answer in time".into() });
        };
        let Some(object) = outcome? else {
            self.step_down();
            return Ok(false);
        };
        *self.valid_until.lock() = Some(began + self.config.renew_deadline);
        self.leadership.send_if_modified(|now| {
            if matches!(now, Leadership::Leading(_)) {
                return false;
            }
            let transitions =
                object.to_value().pointer("/spec/leaseTransitions").and_then(Value::as_i64).unwrap_or(0);
            *now =
                Leadership::Leading(Fence { transitions, resource_version: object.meta().resource_version });
            true
        });
        Ok(true)
    }

    async fn acquire_or_renew(&mut self) -> Result<Option<Arc<Object>>, ApiError> {
        let leading = matches!(*self.leadership.borrow(), Leadership::Leading(_));
        // The leader renews what it wrote itself without reading it again.
        if leading && let Some((known, _)) = self.observed.clone() {
            match self.write(&known).await {
                Ok(object) => return Ok(Some(self.observe(object))),
                Err(error) if error.is_conflict() || error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        let (namespace, name) = (self.config.namespace.clone(), self.config.name.clone());
        let at = ResourceRef::new(&LEASES, &namespace, &name);
        let current = match self.client.get(at).await {
            Ok(object) => object,
            Err(error) if error.is_not_found() => {
                let body = json!({
                    "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                    "metadata": {"name": name, "namespace": namespace},
                    "spec": self.spec(&Value::Null),
                });
                let created = self.client.create(at, encode(&body), &WriteOptions::default()).await?;
                return Ok(Some(self.observe(created)));
            }
            Err(error) => return Err(error),
        };
        let current = self.observe(current);
        let held_by = holder(&current.to_value());
        let seen = self.observed.as_ref().map_or_else(Instant::now, |(_, at)| *at);
        let expired = seen.elapsed() >= self.config.lease_duration;
        if !held_by.is_empty() && held_by != self.config.identity && !expired {
            return Ok(None);
        }
        match self.write(&current).await {
            Ok(object) => Ok(Some(self.observe(object))),
            Err(error) if error.is_conflict() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn write(&self, current: &Object) -> Result<Arc<Object>, ApiError> {
        let mut body = current.to_value();
        body["spec"] = self.spec(&body["spec"]);
        let at = ResourceRef::new(&LEASES, &self.config.namespace, &self.config.name);
        self.client.update(at, encode(&body), &WriteOptions::default()).await
    }

    fn spec(&self, old: &Value) -> Value {
        let now = micro_time();
        let mine = old["holderIdentity"].as_str() == Some(self.config.identity.as_str());
        let transitions = match old["leaseTransitions"].as_i64() {
            Some(n) if mine => n,
            Some(n) => n + 1,
            None => i64::from(!old.is_null()),
        };
        let acquired = old.get("acquireTime").filter(|_| mine).cloned().unwrap_or_else(|| json!(now));
        json!({
            "holderIdentity": self.config.identity,
            "leaseDurationSeconds": self.config.lease_duration.as_secs(),
            "acquireTime": acquired,
            "renewTime": now,
            "leaseTransitions": transitions,
        })
    }

    /// Remembers a state of the Lease, and when it was first seen.
    fn observe(&mut self, object: Arc<Object>) -> Arc<Object> {
        let known = self.observed.as_ref().is_some_and(|(o, _)| {
            o.uid() == object.uid() && o.meta().resource_version == object.meta().resource_version
        });
        if !known {
            self.observed = Some((object.clone(), Instant::now()));
        }
        object
    }

    async fn release(&self) {
        let Some((known, _)) = &self.observed else { return };
        let mut body = known.to_value();
        let now = micro_time();
        body["spec"]["holderIdentity"] = json!("");
        body["spec"]["leaseDurationSeconds"] = json!(1);
        body["spec"]["acquireTime"] = json!(now);
        body["spec"]["renewTime"] = json!(now);
        let at = ResourceRef::new(&LEASES, &self.config.namespace, &self.config.name);
        let options = WriteOptions::default();
        let write = self.client.update(at, encode(&body), &options);
        match tokio::time::timeout(self.config.retry_period, write).await {
            Ok(Ok(_)) => tracing::info!(name = %self.config.name, "released the leader lease"),
            Ok(Err(error)) => {
                tracing::warn!(name = %self.config.name, %error, "the leader lease was not released")
            }
            Err(_) => tracing::warn!(name = %self.config.name, "the leader lease was not released in time"),
        }
    }
}

fn holder(lease: &Value) -> String {
    lease.pointer("/spec/holderIdentity").and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn encode(value: &Value) -> Bytes {
    Bytes::from(value.to_string())
}

/// Now as `meta/v1.MicroTime`.
#[must_use]
pub fn micro_time() -> String {
    format!("{:.6}", jiff::Timestamp::now())
}
