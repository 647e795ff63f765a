//! Watches Services and EndpointSlices and keeps the rules current.

use crate::conntrack::{self, Stale};
use crate::iptables::Iptables;
use crate::model::{self, Family, Service, ServiceKey, Slice};
use crate::render::{Fragment, Settings, render};
use crate::ruleset::Ruleset;
use orlop_apimachinery::Gvr;
use orlop_client::{ApiClient, Delta, Informer, ListOptions};
use orlop_netfilter::NetfilterError;
use parking_lot::Mutex;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const SERVICES: Gvr = Gvr::new("", "v1", "services");
const SLICES: Gvr = Gvr::new("discovery.k8s.io", "v1", "endpointslices");
const NODES: Gvr = Gvr::new("", "v1", "nodes");

const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// How the proxy works.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of this node.
    pub node: String,
    /// CIDR of this cluster's (or node's) pods; traffic to cluster IPs from elsewhere is
    /// masqueraded. `None` takes the Node's `spec.podCIDR`.
    pub pod_cidr: Option<String>,
    /// How long a change waits for others that come with it. Changes that never end are applied at
    /// least ten times as often as not.
    pub debounce: Duration,
    /// All rules are written again after this time, whatever is there.
    pub full_sync: Duration,
    /// How often to look whether somebody has flushed the rules.
    pub canary: Duration,
}

impl Config {
    /// Changes wait 20 ms; all rules every hour; canaries every 30 s, as kube-proxy.
    #[must_use]
    pub fn new(node: impl Into<String>, pod_cidr: Option<String>) -> Self {
        Self {
            node: node.into(),
            pod_cidr,
            debounce: Duration::from_millis(20),
            full_sync: Duration::from_secs(3600),
            canary: Duration::from_secs(30),
        }
    }
}

/// What the watches have seen.
#[derive(Default)]
struct State {
    services: HashMap<ServiceKey, Service>,
    slices: HashMap<ServiceKey, BTreeMap<Box<str>, Slice>>,
    dirty: HashSet<ServiceKey>,
    pod_cidr: Option<String>,
    zone: Option<String>,
    /// Something that all rules depend on has changed.
    all_dirty: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

/// The proxy of one node.
pub struct Proxy {
    client: Arc<dyn ApiClient>,
    config: Config,
    shared: Arc<Shared>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawNode {
    spec: RawNodeSpec,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawNodeSpec {
    #[serde(rename = "podCIDR")]
    pod_cidr: String,
}

impl Shared {
    fn service(&self, delta: &Delta) {
        let Some(object) = delta.latest() else { return };
        let key: ServiceKey = (object.namespace().into(), object.name().into());
        let service = delta.new.as_deref().and_then(model::service);
        let mut state = self.state.lock();
        let same = state.services.get(&key) == service.as_ref();
        if same {
            return;
        }
        match service {
            Some(service) => state.services.insert(key.clone(), service),
            None => state.services.remove(&key),
        };
        state.dirty.insert(key);
        drop(state);
        self.changed.notify_one();
    }

    fn slice(&self, delta: &Delta, node: &str) {
        let old = delta.old.as_deref().and_then(|o| Some((model::service_of(o)?, o.name())));
        let new = delta.new.as_deref().and_then(|o| Some((model::service_of(o)?, o)));
        let mut state = self.state.lock();
        let mut dirty = false;
        if let Some((key, name)) = old
            && new.as_ref().is_none_or(|(k, _)| *k != key)
        {
            if let Some(slices) = state.slices.get_mut(&key) {
                slices.remove(name);
                if slices.is_empty() {
                    state.slices.remove(&key);
                }
            }
            state.dirty.insert(key);
            dirty = true;
        }
        if let Some((key, object)) = new {
            let slice = model::slice(object, node);
            let slices = state.slices.entry(key.clone()).or_default();
            // Most updates of a slice change nothing that a rule is made of.
            if slices.get(object.name()) != Some(&slice) {
                slices.insert(object.name().into(), slice);
                state.dirty.insert(key);
                dirty = true;
            }
        }
        drop(state);
        if dirty {
            self.changed.notify_one();
        }
    }

    fn node(&self, delta: &Delta, take_cidr: bool) {
        let Some(object) = &delta.new else { return };
        let zone = object.label(ZONE_LABEL).map(str::to_owned);
        let raw: RawNode = object.parse().unwrap_or_default();
        let cidr = Some(raw.spec.pod_cidr).filter(|c| !c.is_empty());
        let mut state = self.state.lock();
        if state.zone != zone || (take_cidr && cidr.is_some() && state.pod_cidr != cidr) {
            state.zone = zone;
            if take_cidr && cidr.is_some() {
                state.pod_cidr = cidr;
            }
            state.all_dirty = true;
            drop(state);
            self.changed.notify_one();
        }
    }
}

/// The rules of one family, as they are applied.
struct Applied {
    iptables: Iptables,
    ruleset: Ruleset,
    /// Whether the chains and jumps are there, and what is applied is known.
    known: bool,
    /// UDP flows to forget once the rules are applied.
    stale: BTreeSet<Stale>,
    /// Whether rules were ever applied. What was there before is not known, and flows that go by
    /// it are not touched: a restart of the proxy cuts nobody off.
    begun: bool,
}

impl Applied {
    fn new(family: Family) -> Self {
        let (iptables, ruleset) = (Iptables(family), Ruleset::new(family));
        Self { iptables, ruleset, known: false, stale: BTreeSet::new(), begun: false }
    }

    async fn sync(&mut self, changes: Vec<(ServiceKey, Fragment)>, full: bool) -> Result<(), NetfilterError> {
        let family = self.iptables.0;
        for (key, new) in changes.iter().filter(|_| self.begun) {
            let none = Fragment::default();
            self.stale.extend(conntrack::stale(self.ruleset.get(key).unwrap_or(&none), new));
        }
        let difference = self.ruleset.update(changes);
        // The hosts of a cluster without IPv6 Services are left alone.
        if family == Family::V6 && self.ruleset.is_empty() && difference.is_empty() && !self.known {
            return Ok(());
        }
        if full || !self.known {
            self.known = false;
            self.iptables.make_canaries().await?;
            let there = self.iptables.service_chains().await?;
            self.iptables.restore(&self.ruleset.full(&there)).await?;
            self.iptables.ensure_jumps().await?;
            self.known = true;
        } else if !difference.is_empty()
            && let Err(error) = self.iptables.restore(&difference).await
        {
            // What is applied is no longer known: the next try writes everything.
            self.known = false;
            return Err(error);
        }
        self.begun = true;
        for flow in std::mem::take(&mut self.stale) {
            if let Err(error) = conntrack::forget(&flow, family).await {
                tracing::warn!(%error, "stale UDP flows could not be forgotten");
            }
        }
        Ok(())
    }
}

impl Proxy {
    /// A proxy that reads through `client`. It does nothing before [`Proxy::run`].
    #[must_use]
    pub fn new(client: Arc<dyn ApiClient>, config: Config) -> Self {
        let state = State { pod_cidr: config.pod_cidr.clone(), ..State::default() };
        Self { client, config, shared: Arc::new(Shared { state: Mutex::new(state), changed: Notify::new() }) }
    }

    /// Keeps the rules current until `cancel`, then returns; the rules stay, and Services work on.
    ///
    /// # Errors
    /// [`NetfilterError::Missing`] at once where iptables is not installed. Other failures are tried
    /// again for ever.
    pub async fn run(self, cancel: CancellationToken) -> Result<(), NetfilterError> {
        Iptables(Family::V4).service_chains().await?;
        set_route_localnet();
        // The informers live and die with this call.
        let cancel = cancel.child_token();
        let _stop = cancel.clone().drop_guard();
        let tracker = TaskTracker::new();
        let shared = self.shared.clone();
        let services = Informer::new(self.client.clone(), SERVICES, ListOptions::default())
            .with_handler(Box::new(move |delta| shared.service(delta)));
        let (shared, node) = (self.shared.clone(), self.config.node.clone());
        let slices = Informer::new(self.client.clone(), SLICES, ListOptions::default())
            .with_handler(Box::new(move |delta| shared.slice(delta, &node)));
        let (shared, take_cidr) = (self.shared.clone(), self.config.pod_cidr.is_none());
        let own = ListOptions {
            field_selector: format!("metadata.name={}", self.config.node),
            ..ListOptions::default()
        };
        let nodes = Informer::new(self.client.clone(), NODES, own)
            .with_handler(Box::new(move |delta| shared.node(delta, take_cidr)));
        let (services, run) = services.start(cancel.clone());
        tracker.spawn(run);
        let (slices, run) = slices.start(cancel.clone());
        tracker.spawn(run);
        let (nodes, run) = nodes.start(cancel.clone());
        tracker.spawn(run);
        tracker.close();
        let ready = async {
            // Rules from half of the picture would cut connections to the other half.
            services.synced().await && slices.synced().await && nodes.synced().await
        };
        let ended = tokio::select! {
            () = cancel.cancelled() => true,
            ready = ready => !ready,
        };
        if !ended {
            tokio::select! {
                () = cancel.cancelled() => {}
                never = self.work() => match never {},
            }
        }
        cancel.cancel();
        tracker.wait().await;
        Ok(())
    }

    async fn work(&self) -> std::convert::Infallible {
        let mut families = [Applied::new(Family::V4), Applied::new(Family::V6)];
        let mut full_at = Instant::now();
        let mut canary_at = Instant::now() + self.config.canary;
        let mut failures = 0u32;
        let mut pending = true;
        loop {
            if !pending {
                tokio::select! {
                    () = self.shared.changed.notified() => tokio::time::sleep(self.config.debounce).await,
                    () = tokio::time::sleep_until(full_at.min(canary_at)) => {}
                }
            }
            let now = Instant::now();
            if now >= canary_at {
                canary_at = now + self.config.canary;
                self.check_canaries(&mut families).await;
            }
            let full = now >= full_at;
            let started = Instant::now();
            match self.sync(&mut families, full).await {
                Ok(()) => {
                    failures = 0;
                    pending = false;
                    if full {
                        full_at = Instant::now() + self.config.full_sync;
                    }
                    // A storm of changes gets half of the time at most.
                    tokio::time::sleep(started.elapsed().min(Duration::from_secs(1))).await;
                }
                Err(error) => {
                    tracing::error!(%error, "the Services' rules could not be applied, trying again");
                    failures += 1;
                    pending = true;
                    let pause = Duration::from_millis(200).saturating_mul(1 << failures.min(7));
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    async fn check_canaries(&self, families: &mut [Applied; 2]) {
        for applied in families.iter_mut().filter(|a| a.known) {
            match applied.iptables.canaries_live().await {
                Ok(true) => {}
                Ok(false) => {
                    tracing::warn!(
                        "the iptables rules were flushed by somebody else, writing all of them again"
                    );
                    applied.known = false;
                }
                Err(error) => tracing::warn!(%error, "cannot see whether the iptables rules are there"),
            }
        }
    }

    async fn sync(&self, families: &mut [Applied; 2], full: bool) -> Result<(), NetfilterError> {
        let changes = {
            let mut state = self.shared.state.lock();
            let state = &mut *state;
            let settings = Settings { pod_cidr: state.pod_cidr.clone(), zone: state.zone.clone() };
            if std::mem::take(&mut state.all_dirty) {
                state.dirty.extend(state.services.keys().cloned());
            }
            let none = BTreeMap::new();
            let mut changes = [Vec::new(), Vec::new()];
            for key in std::mem::take(&mut state.dirty) {
                let service = state.services.get(&key);
                let slices = state.slices.get(&key).unwrap_or(&none).values();
                for (applied, changes) in families.iter().zip(&mut changes) {
                    let new = service
                        .map(|s| {
                            render(
                                &key,
                                s,
                                slices.clone(),
                                applied.iptables.0,
                                &family_settings(&settings, applied),
                            )
                        })
                        .unwrap_or_default();
                    if applied.ruleset.get(&key).unwrap_or(&Fragment::default()) != &new {
                        changes.push((key.clone(), new));
                    }
                }
            }
            changes
        };
        let mut result = Ok(());
        for (applied, changes) in families.iter_mut().zip(changes) {
            // The changes are in the ruleset even where applying them failed: nothing is lost.
            let done = applied.sync(changes, full).await;
            result = result.and(done);
        }
        result
    }

    /// Removes every chain and rule that a proxy made, of both families. Twice changes nothing.
    ///
    /// # Errors
    /// [`NetfilterError`]; retryable. Where iptables is not installed there is nothing to remove.
    pub async fn cleanup() -> Result<(), NetfilterError> {
        for family in [Family::V4, Family::V6] {
            match Iptables(family).clean_up().await {
                Err(NetfilterError::Missing { .. }) => {}
                other => other?,
            }
        }
        Ok(())
    }
}

/// A pod CIDR says nothing about the other family.
fn family_settings(settings: &Settings, applied: &Applied) -> Settings {
    let v6 = applied.iptables.0 == Family::V6;
    let pod_cidr = settings.pod_cidr.clone().filter(|cidr| cidr.contains(':') == v6);
    Settings { pod_cidr, zone: settings.zone.clone() }
}

/// Lets node ports be reached through 127.0.0.1, as kube-proxy does; `KUBE-FIREWALL` keeps others
/// from reaching what listens there.
fn set_route_localnet() {
    let path = Path::new("/proc/sys/net/ipv4/conf/all/route_localnet");
    if std::fs::read_to_string(path).is_ok_and(|now| now.trim() == "1") {
        return;
    }
    if let Err(error) = std::fs::write(path, "1") {
        tracing::warn!(%error, "route_localnet could not be set; node ports are not reachable through 127.0.0.1");
    }
}
