//! What a whole node reaches: from exec to a serving API, from a pod's creation to its readiness,
//! what supervision and an idle node weigh, and how fast pods are bound over fake nodes.
//!
//! Run by `cargo xtask bench`, as is the scheduler's own. Names as arguments choose among the parts: `start`, `pods`,
//! `memory`, `schedule`.

mod noise;

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::{Api, Client};
use orlop_tests::{Cluster, Options, eventually};
use serde_json::json;
use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

const ONE_BY_ONE: usize = 20;
const AT_ONCE: usize = 50;
const FAKE_NODES: usize = 1000;
const FAKE_PODS: usize = 5000;
const CONNECTIONS: usize = 32;

fn main() -> Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let runs = |name: &str| wanted.is_empty() || wanted.iter().any(|w| w == name);
    if !["start", "pods", "memory", "schedule"].into_iter().any(runs) {
        return Ok(());
    }
    println!("machine noise: {}", noise::noise());
    let runtime = tokio::runtime::Runtime::new()?;
    if runs("start") {
        start()?;
    }
    if runs("pods") || runs("memory") {
        let cluster = Cluster::start()?;
        std::thread::sleep(Duration::from_secs(3));
        println!(
            "idle node, every role, plugins loaded: {:.1} MiB resident (limit 100)",
            resident(&cluster)?
        );
        if runs("pods") {
            runtime.block_on(pods(&cluster))?;
        }
    }
    if runs("schedule") {
        let cluster = Cluster::start_with(Options { without_image: true, ..Options::default() })?;
        runtime.block_on(schedule(&cluster))?;
    }
    Ok(())
}

fn start() -> Result<()> {
    let mut times = Vec::new();
    for _ in 0..5 {
        let cluster = Cluster::start_with(Options { without_image: true, ..Options::default() })?;
        times.push(cluster.time_to_serve());
    }
    times.sort();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    println!(
        "exec to a serving API, empty data folder: median {} ms of {} (limit 500; Kubernetes 4400)",
        median.as_millis(),
        times.len()
    );
    Ok(())
}

fn resident(cluster: &Cluster) -> Result<f64> {
    kib_of(cluster.pid().context("the server does not run")?, "VmRSS:").map(|kib| kib / 1024.0)
}

fn kib_of(pid: u32, field: &str) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|l| l.starts_with(field)).context("no such field")?;
    Ok(line.split_whitespace().nth(1).context("no value")?.parse()?)
}

fn pod(name: &str) -> Result<Pod> {
    Ok(serde_json::from_value(json!({
        "metadata": { "name": name },
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": false,
            "containers": [{
                "name": "c",
                "image": "docker.io/library/busybox:latest",
                "imagePullPolicy": "IfNotPresent",
                "command": ["sleep", "3600"],
            }],
        },
    }))?)
}

fn percentile(times: &mut [Duration], p: f64) -> u128 {
    times.sort();
    let at = ((times.len() as f64 * p) as usize).min(times.len().saturating_sub(1));
    times.get(at).copied().unwrap_or_default().as_millis()
}

/// From before the POST to the Ready condition seen by a watch.
async fn pods(cluster: &Cluster) -> Result<()> {
    let api: Api<Pod> = Api::default_namespaced(orlop_tests::api::client(cluster).await?);
    let mut events = api.watch(&WatchParams::default().timeout(290), "0").await?.boxed();
    let mut ready = HashMap::new();
    let mut one = Vec::new();
    for i in 0..ONE_BY_ONE {
        let name = format!("one-{i}");
        let begin = Instant::now();
        api.create(&PostParams::default(), &pod(&name)?).await?;
        until_ready(&mut events, &mut ready, [name.clone()].into()).await?;
        one.push(ready.get(&name).copied().context("not seen")?.duration_since(begin));
    }
    println!(
        "pod created → Ready, one by one: p50 {} ms, max {} ms of {ONE_BY_ONE} (limit 150, goal 60; kubelet and containerd 183)",
        percentile(&mut one, 0.5),
        percentile(&mut one, 1.0)
    );
    let names: BTreeSet<String> = (0..AT_ONCE).map(|i| format!("all-{i}")).collect();
    let begin = Instant::now();
    let bodies = names.iter().map(|n| pod(n)).collect::<Result<Vec<_>>>()?;
    let (api_ref, params) = (&api, &PostParams::default());
    let create = futures::stream::iter(bodies)
        .map(|body| async move { api_ref.create(params, &body).await })
        .buffer_unordered(8)
        .try_collect::<Vec<_>>();
    let (created, seen) = tokio::join!(create, until_ready(&mut events, &mut ready, names.clone()));
    created?;
    seen?;
    let last = names.iter().filter_map(|n| ready.get(n)).max().context("none")?.duration_since(begin);
    println!(
        "{AT_ONCE} pods at once: all Ready after {} ms (limit 3000, goal 1200; kubelet and containerd 5800)",
        last.as_millis()
    );
    let mut shims = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Ok(pid) = entry?.file_name().to_string_lossy().parse::<u32>() else { continue };
        let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if comm.starts_with("orlop-shim") {
            shims.push(kib_of(pid, "VmRSS:")?);
        }
    }
    let mean = shims.iter().sum::<f64>() / shims.len().max(1) as f64;
    println!(
        "supervision of a running pod: {:.2} MiB resident in {} supervisors (limit 2; shims of containerd 26)",
        mean / 1024.0,
        shims.len()
    );
    println!("node with {} pods: {:.1} MiB resident", shims.len(), resident(cluster)?);
    Ok(())
}

async fn until_ready(
    events: &mut (impl futures::Stream<Item = kube::Result<WatchEvent<Pod>>> + Unpin),
    ready: &mut HashMap<String, Instant>,
    names: BTreeSet<String>,
) -> Result<()> {
    while !names.iter().all(|n| ready.contains_key(n)) {
        let next = tokio::time::timeout(Duration::from_secs(120), events.next());
        let Some(event) = next.await.context("the pods do not become ready")? else { break };
        let (WatchEvent::Added(pod) | WatchEvent::Modified(pod)) = event? else { continue };
        let conditions = pod.status.and_then(|s| s.conditions).unwrap_or_default();
        if conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
            && let Some(name) = pod.metadata.name
        {
            ready.entry(name).or_insert_with(Instant::now);
        }
    }
    Ok(())
}

fn fake_node(i: usize) -> Result<Node> {
    let room = json!({ "cpu": "32", "memory": "256Gi", "pods": "110", "ephemeral-storage": "500Gi" });
    Ok(serde_json::from_value(json!({
        "metadata": {
            "name": format!("fake-{i:05}"),
            "labels": { "kubernetes.io/hostname": format!("fake-{i:05}"), "bench": "1" },
        },
        "status": { "capacity": room, "allocatable": room, "conditions": [{
            "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "fake",
            "lastHeartbeatTime": "2030-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z",
        }] },
    }))?)
}

async fn parallel<T, F: Future<Output = Result<T>>>(jobs: impl Iterator<Item = F>) -> Result<Vec<T>> {
    futures::stream::iter(jobs).buffer_unordered(CONNECTIONS).try_collect().await
}

/// Pods bound per second over fake nodes, store and API included.
async fn schedule(cluster: &Cluster) -> Result<()> {
    let client: Client = orlop_tests::api::client(cluster).await?;
    let nodes: Api<Node> = Api::all(client.clone());
    let begin = Instant::now();
    parallel((0..FAKE_NODES).map(|i| {
        let nodes = nodes.clone();
        async move {
            let node = nodes.create(&PostParams::default(), &fake_node(i)?).await?;
            let name = node.metadata.name.context("a nameless node")?;
            let status = json!({ "status": fake_node(i)?.status });
            nodes.patch_status(&name, &PatchParams::default(), &Patch::Merge(&status)).await?;
            // Real nodes are untainted by the node lifecycle controller once they are ready.
            let untaint = json!({ "spec": { "taints": null } });
            nodes.patch(&name, &PatchParams::default(), &Patch::Merge(&untaint)).await?;
            Ok(())
        }
    }))
    .await?;
    println!("{FAKE_NODES} fake nodes made in {:.1} s", begin.elapsed().as_secs_f64());

    let pods: Api<Pod> = Api::default_namespaced(client);
    let mut events = pods.watch(&WatchParams::default().timeout(290), "0").await?.boxed();
    let begin = Instant::now();
    let create = parallel((0..FAKE_PODS).map(|i| {
        let pods = pods.clone();
        async move {
            let pod: Pod = serde_json::from_value(json!({
                "metadata": { "name": format!("load-{i}"), "labels": { "app": "load" } },
                "spec": {
                    "nodeSelector": { "bench": "1" },
                    "automountServiceAccountToken": false,
                    "containers": [{
                        "name": "c", "image": "registry.example/pause:1",
                        "resources": { "requests": { "cpu": "100m", "memory": "500Mi" } },
                    }],
                },
            }))?;
            let begin = Instant::now();
            pods.create(&PostParams::default(), &pod).await?;
            Ok(begin.elapsed())
        }
    }));
    let bound = async {
        let mut bound = HashMap::new();
        while bound.len() < FAKE_PODS {
            let next = tokio::time::timeout(Duration::from_secs(60), events.next());
            let Some(event) = next.await.context("the pods are not bound")? else { break };
            let (WatchEvent::Added(pod) | WatchEvent::Modified(pod)) = event? else { continue };
            if pod.spec.is_some_and(|s| s.node_name.is_some())
                && let Some(name) = pod.metadata.name
            {
                bound.entry(name).or_insert_with(Instant::now);
            }
        }
        anyhow::Ok(bound)
    };
    let (created, bound) = tokio::join!(create, bound);
    let (mut created, bound) = (created?, bound?);
    let last = bound.values().max().context("none was bound")?.duration_since(begin);
    println!(
        "created and bound over {FAKE_NODES} nodes, {CONNECTIONS} connections: {:.0} pods/s (limit 1000; Kubernetes over 5000 nodes 149); create p50 {} ms p99 {} ms; {:.1} MiB resident",
        bound.len() as f64 / last.as_secs_f64(),
        percentile(&mut created, 0.5),
        percentile(&mut created, 0.99),
        resident(cluster)?
    );
    eventually("every pod to be bound", || {
        let pending = cluster.kubectl(&["get", "pods", "--field-selector=spec.nodeName=", "-o", "name"])?;
        Ok(pending.is_empty().then_some(()))
    })
}
