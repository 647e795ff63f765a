//! The life of a scheduler plugin on the real binary: shadow, canary, promotion, rollback, grants, and reloads
//! without end, while pods come over nodes that nobody runs.

use super::fixture::{Guard, PASS, REJECT, SPIN, TRAP, writer};
use super::{profile, until_logged, write_profile};
use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Event, Node, Pod, ServiceAccount};
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use orlop_tests::{Cluster, Options, binary, capture, eventually};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// Reloads of `reloads_lose_neither_pods_nor_memory`, where `ORLOP_RELOADS` says nothing else.
const RELOADS: usize = 200;
/// Pods that are there at the same time while plugins are reloaded.
const WINDOW: usize = 100;

/// A cluster with some nodes that nobody runs, so that pods are bound and no more.
struct Fleet {
    cluster: Cluster,
    runtime: Runtime,
    client: Client,
}

impl Fleet {
    fn start(nodes: usize) -> Result<Self> {
        let cluster = Cluster::start_with(Options { without_image: true, ..Options::default() })?;
        let runtime = Runtime::new()?;
        let client = runtime.block_on(orlop_tests::api::client(&cluster))?;
        let fleet = Self { cluster, runtime, client };
        fleet.runtime.block_on(async {
            for i in 0..nodes {
                fleet.node(&format!("fake-{i}")).await?;
            }
            let accounts: Api<ServiceAccount> = Api::default_namespaced(fleet.client.clone());
            let end = Instant::now() + orlop_tests::PATIENCE;
            while accounts.get_opt("default").await?.is_none() {
                ensure!(Instant::now() < end, "no service account: {}", fleet.cluster.log_tail());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok(())
        })?;
        Ok(fleet)
    }

    async fn node(&self, name: &str) -> Result<()> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let room = json!({ "cpu": "32", "memory": "256Gi", "pods": "500", "ephemeral-storage": "500Gi" });
        let ready = json!({ "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "",
            "lastHeartbeatTime": "2030-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z" });
        let status = json!({ "capacity": room, "allocatable": room, "conditions": [ready] });
        let node: Node = serde_json::from_value(json!({
            "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name, "fleet": "1" } },
            "status": status,
        }))?;
        nodes.create(&PostParams::default(), &node).await?;
        let status = Patch::Merge(json!({ "status": status }));
        nodes.patch_status(name, &PatchParams::default(), &status).await?;
        Ok(())
    }

    fn pods(&self) -> Api<Pod> {
        Api::default_namespaced(self.client.clone())
    }

    /// A pod of the class `class`, that bears with nodes of which nothing is heard.
    async fn create(&self, name: &str, class: &str) -> Result<()> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": name, "labels": { "class": class } },
            "spec": {
                "nodeSelector": { "fleet": "1" },
                "tolerations": [{ "operator": "Exists" }],
                "automountServiceAccountToken": false,
                "terminationGracePeriodSeconds": 0,
                "containers": [{ "name": "c", "image": "none" }],
            },
        }))?;
        self.pods().create(&PostParams::default(), &pod).await?;
        Ok(())
    }

    async fn bound(&self, name: &str) -> Result<()> {
        let end = Instant::now() + orlop_tests::PATIENCE;
        loop {
            let pod = self.pods().get(name).await?;
            if pod.spec.as_ref().is_some_and(|s| s.node_name.is_some()) {
                return Ok(());
            }
            ensure!(
                Instant::now() < end,
                "{name} is not bound: {:?}; {}",
                pod.status,
                self.cluster.log_tail()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Pods `<prefix>-0` and so on, each of a class of its own, are made and bound.
    fn place(&self, prefix: &str, count: usize) -> Result<()> {
        self.runtime.block_on(async {
            for i in 0..count {
                let name = format!("{prefix}-{i}");
                self.create(&name, &name).await?;
            }
            for i in 0..count {
                self.bound(&format!("{prefix}-{i}")).await?;
            }
            Ok(())
        })
    }

    fn plugins(&self) -> Api<DynamicObject> {
        let resource = ApiResource {
            group: "orlop.dev".to_owned(),
            version: "v1".to_owned(),
            api_version: "orlop.dev/v1".to_owned(),
            kind: "Plugin".to_owned(),
            plural: "plugins".to_owned(),
        };
        Api::all_with(self.client.clone(), &resource)
    }

    /// A build of the plugin becomes what the object asks for, as the rollout says.
    fn roll_out(&self, guard: &Guard, rollout: Value) -> Result<()> {
        let file = self.cluster.dir().join(format!("guard-{}.wasm", guard.version));
        fs::write(&file, guard.build()?)?;
        let source = json!({ "inline": null, "file": file });
        let mut whole = json!({ "shadow": null, "canary": null, "maximumFailures": null });
        match (&mut whole, rollout) {
            (Value::Object(whole), Value::Object(given)) => whole.extend(given),
            (whole, other) => *whole = other,
        }
        self.patch("guard", &json!({ "source": source, "digest": null, "rollout": whole }))
    }

    /// `orlop plugin`
    fn plugin(&self, args: &[&str]) -> Result<String> {
        let out = capture(self.cluster.command(binary()?).arg("plugin").args(args))?;
        ensure!(out.success, "orlop plugin {args:?}: {out:?}");
        Ok(out.stdout)
    }

    fn patch(&self, name: &str, spec: &Value) -> Result<()> {
        let patch = json!({ "spec": spec }).to_string();
        self.cluster.kubectl(&["patch", "plugin", name, "--type=merge", "-p", &patch]).map(drop)
    }

    fn status(&self, field: &str) -> Result<String> {
        self.cluster.jsonpath(&["plugin", "guard"], &format!("{{.status.{field}}}"))
    }

    fn until(&self, field: &str, wanted: &str) -> Result<()> {
        self.cluster.wait_for(&["plugin", "guard"], &format!("{{.status.{field}}}"), wanted)
    }

    /// Installs a plugin and enables it in the profile.
    fn install(&self, name: &str, wasm: &[u8]) -> Result<()> {
        let file = self.cluster.dir().join("plugin.wasm");
        fs::write(&file, wasm)?;
        let said = self.plugin(&["apply", &file.to_string_lossy()])?;
        ensure!(said.contains("is active"), "{said}");
        let enabled = profile(&format!("{{multiPoint: {{enabled: [{{name: {name}}}]}}}}"))?;
        until_logged(&self.cluster, &format!("{name}\""), || write_profile(&self.cluster, &enabled))
    }

    /// Every pod was told of as placed once and no more.
    fn placed_once(&self) -> Result<()> {
        let events: Api<Event> = Api::default_namespaced(self.client.clone());
        let scheduled = ListParams::default().fields("reason=Scheduled");
        let events = self.runtime.block_on(events.list(&scheduled))?;
        let mut placed: BTreeMap<String, i32> = BTreeMap::new();
        for event in events {
            *placed.entry(event.involved_object.uid.unwrap_or_default()).or_default() +=
                event.count.unwrap_or(1);
        }
        let twice: Vec<_> = placed.iter().filter(|(_, count)| **count != 1).collect();
        ensure!(twice.is_empty(), "placed more than once: {twice:?}");
        Ok(())
    }
}

#[test]
fn a_new_version_is_watched_then_decides_and_is_rolled_back_where_it_fails() -> Result<()> {
    let fleet = Fleet::start(2)?;
    let c = &fleet.cluster;
    fleet.install("Guard", &Guard::default().build()?)?;
    fleet.place("before", 2)?;

    // What it would do otherwise is there to be read, and nobody is kept waiting by it.
    let strict = Guard { filter: REJECT, version: 2, ..Guard::default() };
    fleet.roll_out(&strict, json!({ "shadow": { "minimumRequests": 1_000_000 } }))?;
    fleet.until("state", "Shadow")?;
    fleet.place("shadow", 5)?;
    // Each class, and some of the choices.
    eventually("five differences", || {
        Ok((fleet.status("shadow.differences")?.parse::<u32>().unwrap_or(0) >= 5).then_some(()))
    })?;
    let examples = fleet.status("shadow.examples")?;
    for words in [
        "filter {",
        "shadow-0",
        "node node-1 fits",
        "node node-1 does not fit, and 2 more nodes otherwise",
        "choice default/shadow-0",
        "bound to node fake-",
        "no node fits",
    ] {
        ensure!(examples.contains(words), "{words} is not in {examples}");
    }
    let described = c.kubectl(&["describe", "plugin", "guard"])?;
    ensure!(described.contains("PluginShadow") && described.contains("does not fit"), "{described}");
    let metrics = c.kubectl(&["get", "--raw", "/metrics"])?;
    let labels = "plugin=\"guard\",kind=\"scheduler\"";
    for line in [
        format!("orlop_plugin_shadow_comparisons_total{{{labels},revision=\"2\",result=\"different\"}}"),
        "orlop_plugin_stage{plugin=\"guard\",stage=\"Shadow\",state=\"Shadow\"} 1".to_owned(),
        format!("orlop_plugin_call_duration_seconds_count{{{labels},revision=\"1\"}}"),
        format!("orlop_plugin_memory_bytes{{{labels},revision=\"1\"}} 131072"),
        format!("orlop_plugin_memory_bytes{{{labels},revision=\"2\"}} 131072"),
    ] {
        ensure!(metrics.contains(&line), "{line} is not in {metrics}");
    }

    // A budget for differences ends it.
    fleet.patch(
        "guard",
        &json!({ "rollout": { "shadow": { "minimumRequests": 10, "maximumDifferences": 0.1 } } }),
    )?;
    fleet.until("state", "RolledBack")?;
    let message = fleet.status("message")?;
    ensure!(message.contains("inputs were decided otherwise, more than 10.00 %"), "{message}");
    ensure!(fleet.status("activeRevision")? == "1");
    fleet.place("after", 2)?;

    // A good one goes through both, and decides.
    let good = Guard { filter: PASS, version: 3, ..Guard::default() };
    let rollout =
        json!({ "shadow": { "minimumRequests": 3 }, "canary": { "percent": 50, "minimumRequests": 3 } });
    fleet.roll_out(&good, rollout)?;
    let mut round = 0;
    eventually("the good version to be active", || {
        round += 1;
        fleet.place(&format!("good-{round}"), 3)?;
        Ok((fleet.status("activeRevision")? == "3").then_some(()))
    })
    .with_context(|| c.log_tail())?;
    ensure!(fleet.status("state")? == "Active" && fleet.status("standbyRevision")? == "1");
    let described = c.kubectl(&["describe", "plugin", "guard"])?;
    for reason in ["PluginShadow", "PluginCanary", "PluginActivated"] {
        ensure!(described.contains(reason), "{reason} is not in {described}");
    }

    // What fails as a canary or in shadow costs no pod anything.
    for (version, filter, rollout, why) in [
        (
            4,
            TRAP,
            json!({ "canary": { "percent": 100, "minimumRequests": 1_000 }, "maximumFailures": 0 }),
            "trap",
        ),
        (5, SPIN, json!({ "shadow": { "minimumRequests": 1_000 }, "maximumFailures": 0 }), "deadline"),
    ] {
        let bad = Guard { filter, version, ..Guard::default() };
        fleet.roll_out(&bad, rollout)?;
        let stage = if version == 4 { "Canary" } else { "Shadow" };
        fleet.until("state", stage)?;
        fleet.place(&format!("bad-{version}"), 4)?;
        fleet.until("state", "RolledBack")?;
        let message = fleet.status("message")?;
        ensure!(message.contains(why), "{why} is not in {message}");
        ensure!(fleet.status("activeRevision")? == "3");
    }

    // By hand, to what is on standby; and what there was.
    fleet.plugin(&["rollback", "guard", "--to", "1"])?;
    ensure!(fleet.status("activeRevision")? == "1");
    fleet.place("back", 2)?;
    let history = fleet.plugin(&["history", "guard"])?;
    let stages: Vec<Vec<&str>> = history.lines().skip(1).map(|l| l.split_whitespace().collect()).collect();
    let stage = |revision: &str| stages.iter().find(|l| l.first() == Some(&revision)).map(|l| l.join(" "));
    for (revision, words) in
        [("1", "* Active"), ("2", "RolledBack"), ("4", "RolledBack"), ("5", "RolledBack")]
    {
        ensure!(stage(revision).is_some_and(|l| l.contains(words)), "{revision} is not {words}: {history}");
    }
    fleet.placed_once()
}

#[test]
fn a_users_scheduler_plugin_writes_what_it_was_given_and_no_more() -> Result<()> {
    let fleet = Fleet::start(1)?;
    let c = &fleet.cluster;
    let asks = r#"[{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create"]}]"#;
    fleet.install("Writer", &writer(asks)?)?;
    let written =
        || c.kubectl(&["get", "configmaps", "-o", "name"]).map(|all| all.matches("/placed-").count());
    let says = |words: &str| {
        eventually(&format!("the pod to say {words}"), || {
            let said =
                c.jsonpath(&["pod", "waits"], "{.status.conditions[?(@.type=='PodScheduled')].message}")?;
            Ok(said.contains(words).then_some(()))
        })
        .with_context(|| c.log_tail())
    };

    // It asks for what nobody gave it.
    fleet.runtime.block_on(fleet.create("waits", "a"))?;
    says("User \"system:plugin:writer\" cannot create resource \"configmaps\"")?;
    ensure!(written()? == 0);

    // It was given what it does not ask for.
    let grants =
        json!({ "grants": [{ "apiGroups": [""], "resources": ["configmaps"], "verbs": ["create"] }] });
    let file = c.dir().join("silent.wasm");
    fs::write(&file, writer("[]")?)?;
    let source =
        json!({ "source": { "inline": null, "file": file }, "digest": null, "grants": grants["grants"] });
    fleet.patch("writer", &source)?;
    says("its manifest does not ask for")?;
    ensure!(written()? == 0);

    // Both.
    let file = c.dir().join("both.wasm");
    fs::write(&file, writer(asks)?)?;
    fleet.patch("writer", &json!({ "source": { "file": file } }))?;
    fleet.runtime.block_on(fleet.bound("waits"))?;
    ensure!(written()? == 1);
    Ok(())
}

/// A line of `/proc/<pid>/status`.
fn figure(pid: u32, field: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|l| l.starts_with(field)).context("no such field")?;
    Ok(line.split_whitespace().nth(1).context("no value")?.parse()?)
}

/// What the instances of each scheduler plugin weigh.
fn weights(c: &Cluster) -> Result<BTreeMap<String, u64>> {
    let metrics = c.kubectl(&["get", "--raw", "/metrics"])?;
    let lines = metrics.lines().filter(|l| l.starts_with("orlop_plugin_memory_bytes"));
    let of = |line: &str| {
        let (labels, bytes) = line.rsplit_once(' ')?;
        let plugin = labels.split("plugin=\"").nth(1)?.split('"').next()?;
        labels.contains("kind=\"scheduler\"").then_some((plugin.to_owned(), bytes.parse().ok()?))
    };
    Ok(lines.filter_map(of).collect())
}

#[test]
fn reloads_lose_neither_pods_nor_memory() -> Result<()> {
    let reloads = match std::env::var("ORLOP_RELOADS") {
        Ok(count) => count.parse().context("ORLOP_RELOADS is not a number")?,
        Err(_) => RELOADS,
    };
    let fleet = Fleet::start(4)?;
    let c = &fleet.cluster;
    fleet.install("Guard", &Guard::default().build()?)?;
    fleet.roll_out(&Guard { version: 2, ..Guard::default() }, json!(null))?;
    fleet.until("activeRevision", "2")?;
    let pid = c.pid().context("no server runs")?;
    let before = weights(c)?;
    ensure!(before.len() > 10 && before.get("guard") == Some(&131_072), "{before:?}");

    let over = AtomicBool::new(false);
    let load = async {
        let mut there = VecDeque::new();
        let mut count = 0_usize;
        while !over.load(Ordering::Acquire) {
            let name = format!("load-{count}");
            fleet.create(&name, &format!("{}", count % 7)).await?;
            there.push_back(name);
            count += 1;
            if there.len() > WINDOW
                && let Some(oldest) = there.pop_front()
            {
                fleet.bound(&oldest).await?;
                fleet.pods().delete(&oldest, &DeleteParams::default()).await?;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        for name in &there {
            fleet.bound(name).await?;
        }
        anyhow::Ok(count)
    };
    let reload = async {
        let plugins = fleet.plugins();
        let mut figures = Vec::new();
        for i in 0..reloads {
            let wanted = 1 + i % 2;
            let patch = Patch::Merge(json!({ "spec": { "revision": wanted } }));
            plugins.patch("guard", &PatchParams::default(), &patch).await?;
            let end = Instant::now() + orlop_tests::PATIENCE;
            while plugins.get("guard").await?.data.pointer("/status/activeRevision") != Some(&json!(wanted)) {
                ensure!(Instant::now() < end, "reload {i} did not happen: {}", c.log_tail());
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            if i + 1 == reloads / 4 || i + 1 == reloads {
                figures.push((figure(pid, "VmRSS:")?, figure(pid, "Threads:")?));
            }
        }
        over.store(true, Ordering::Release);
        Ok(figures)
    };
    let (pods, figures) = fleet.runtime.block_on(async {
        let begin = Instant::now();
        let both = tokio::try_join!(load, reload)?;
        println!(
            "{reloads} reloads in {:.1} s, {} pods bound, {:?}",
            begin.elapsed().as_secs_f64(),
            both.0,
            both.1
        );
        anyhow::Ok(both)
    })?;
    ensure!(pods > reloads / 4, "there was hardly any load: {pods} pods");
    fleet.placed_once()?;
    ensure!(c.pid() == Some(pid) && c.try_kubectl(&["get", "--raw", "/readyz"])?.success, "the same process");

    // Nothing of what ran before is left.
    eventually("the instances of other revisions to be gone", || Ok((weights(c)? == before).then_some(())))
        .with_context(|| format!("before {before:?}, now {:?}", weights(c)))?;
    if let [(first, threads), .., (last, threads_now)] = figures[..] {
        ensure!(last < first + (96 << 10), "resident memory grew from {first} to {last} KiB");
        ensure!(threads_now < threads + 16, "threads grew from {threads} to {threads_now}");
    }
    Ok(())
}
