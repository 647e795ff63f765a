//! Plans that are cut off anywhere, and repeated, lead to the same end.

use crate::harness::{Cluster, DEPLOYMENTS, REPLICASETS};
use crate::workloads::{deployment, is_rolled_out, workloads};
use orlop_apimachinery::Status;
use orlop_client::ApiError;
use orlop_testkit::{Call, MemoryApi, Verb};
use proptest::prelude::*;
use serde_json::json;

/// What happens to one write.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Works,
    /// Nothing happened.
    Refused,
    Conflict,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![3 => Just(Fate::Works), 1 => Just(Fate::Refused), 1 => Just(Fate::Conflict)]
}

fn inflict(api: &MemoryApi, fates: Vec<Fate>) {
    let mut fates = fates.into_iter();
    api.intercept(move |call: &Call| {
        let write = !matches!(call.verb, Verb::Get | Verb::List | Verb::Watch);
        if !write || call.gvr.resource == "leases" || call.gvr.resource == "events" {
            return Ok(());
        }
        match fates.next() {
            Some(Fate::Refused) => Err(ApiError::Transport { message: "connection reset".into() }),
            Some(Fate::Conflict) => Err(Status::conflict(&call.gvr, &call.name, "made up").into()),
            Some(Fate::Works) | None => Ok(()),
        }
    });
}

async fn converges(fates: Vec<Fate>, kill_at: Option<usize>) {
    let mut cluster = Cluster::start(workloads());
    inflict(&cluster.api, fates);
    cluster.api.put(&DEPLOYMENTS, deployment("web", 3, "a")).unwrap();
    if let Some(writes) = kill_at {
        let target = cluster.api.revision() + writes as u64;
        cluster
            .until("some writes happened", || {
                cluster.api.revision() >= target || is_rolled_out(&cluster, "web", 3)
            })
            .await;
        let api = cluster.kill().await;
        cluster = Cluster::over(api, workloads(), true);
    }
    cluster.until("3 pods are ready", || is_rolled_out(&cluster, "web", 3)).await;
    cluster.api.modify(&DEPLOYMENTS, "default", "web", |d| {
        d["spec"]["template"]["spec"]["containers"][0]["image"] = json!("b");
        d["spec"]["replicas"] = json!(4);
    });
    cluster
        .until("4 new pods are ready", || {
            is_rolled_out(&cluster, "web", 4)
                && cluster.pods().iter().all(|p| p["spec"]["containers"][0]["image"] == "b")
        })
        .await;
    assert_eq!(cluster.api.peek_all(&REPLICASETS).len(), 2);
    cluster.stop().await;
}

fn block_on(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(work);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn failed_writes_are_repeated(fates in prop::collection::vec(fate(), 0..24)) {
        block_on(converges(fates, None));
    }

    #[test]
    fn a_killed_manager_is_replaced(fates in prop::collection::vec(fate(), 0..12), at in 1usize..14) {
        block_on(converges(fates, Some(at)));
    }
}

#[tokio::test]
async fn a_broken_watch_is_resumed() {
    let cluster = Cluster::start(workloads());
    cluster.api.put(&DEPLOYMENTS, deployment("web", 2, "a")).unwrap();
    cluster.until("2 pods are ready", || is_rolled_out(&cluster, "web", 2)).await;
    cluster.api.disconnect();
    cluster.api.compact(cluster.api.revision());
    tokio::spawn(crate::harness::run_pods(cluster.api.clone()));
    cluster.api.modify(&DEPLOYMENTS, "default", "web", |d| d["spec"]["replicas"] = json!(3));
    cluster.until("3 pods are ready", || is_rolled_out(&cluster, "web", 3)).await;
    cluster.stop().await;
}
