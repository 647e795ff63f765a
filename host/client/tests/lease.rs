//! Elections over an API in memory, in paused time.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use orlop_client::lease::LEASES;
use orlop_client::{ApiError, Fence, Leader, LeaderConfig, LeaderElector, Leadership};
use orlop_testkit::{MemoryApi, Verb};
use serde_json::Value;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

struct Member {
    leader: Leader,
    cancel: CancellationToken,
}

fn join(api: &MemoryApi, identity: &str, tasks: &TaskTracker) -> Member {
    let cancel = CancellationToken::new();
    let config = LeaderConfig::new("kube-system", "kube-controller-manager", identity);
    let (leader, run) = LeaderElector::start(api.client(), config, cancel.clone());
    tasks.spawn(run);
    Member { leader, cancel }
}

async fn leads(member: &Member) -> Fence {
    let mut watch = member.leader.watch();
    let now = watch.wait_for(|l| matches!(l, Leadership::Leading(_))).await.unwrap().clone();
    match now {
        Leadership::Leading(fence) => fence,
        Leadership::Standby { .. } => unreachable!(),
    }
}

fn spec(api: &MemoryApi) -> Value {
    api.peek(&LEASES, "kube-system", "kube-controller-manager").unwrap().to_value()["spec"].clone()
}

#[tokio::test(start_paused = true)]
async fn the_second_takes_over_after_a_release() {
    let (api, tasks) = (MemoryApi::new(), TaskTracker::new());
    let one = join(&api, "one", &tasks);
    let fence = leads(&one).await;
    assert_eq!(fence.transitions, 0);
    let s = spec(&api);
    assert_eq!(s["holderIdentity"], "one");
    assert_eq!(s["leaseDurationSeconds"], 15);
    assert_eq!(s["renewTime"].as_str().unwrap().len(), "2026-01-01T00:00:00.000000Z".len());
    let two = join(&api, "two", &tasks);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(one.leader.holds(fence), "renewed all the time");
    assert_eq!(*two.leader.watch().borrow(), Leadership::Standby { holder: "one".into() });
    one.cancel.cancel();
    let next = leads(&two).await;
    assert!(next > fence);
    assert_eq!(spec(&api)["leaseTransitions"], 1);
    assert!(!one.leader.holds(fence));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_cannot_renew_gives_up_before_another_takes_over() {
    let (api, tasks) = (MemoryApi::new(), TaskTracker::new());
    let one = join(&api, "one", &tasks);
    let fence = leads(&one).await;
    let cut = |call: &orlop_testkit::Call| {
        let mine = call.body.pointer("/spec/holderIdentity").is_some_and(|h| h == "one");
        match call.verb {
            Verb::Update if mine => Err(ApiError::Transport { message: "cut off".into() }),
            _ => Ok(()),
        }
    };
    api.intercept(cut);
    let two = join(&api, "two", &tasks);
    let began = Instant::now();
    let mut watch = one.leader.watch();
    watch.wait_for(|l| matches!(l, Leadership::Standby { .. })).await.unwrap();
    assert!(began.elapsed() <= Duration::from_secs(11));
    assert!(!one.leader.holds(fence));
    assert!(two.leader.fence().is_none(), "nobody leads in between");
    let next = leads(&two).await;
    assert!(next > fence);
    assert!(began.elapsed() <= Duration::from_secs(20));
}

#[tokio::test(start_paused = true)]
async fn the_same_identity_comes_back_at_once() {
    let (api, tasks) = (MemoryApi::new(), TaskTracker::new());
    let one = join(&api, "one", &tasks);
    leads(&one).await;
    // As after kill -9: nothing is released.
    api.intercept(|call| match call.verb {
        Verb::Update => Err(ApiError::Transport { message: "killed".into() }),
        _ => Ok(()),
    });
    one.cancel.cancel();
    tokio::time::sleep(Duration::from_millis(1)).await;
    api.pass();
    let again = join(&api, "one", &tasks);
    let began = Instant::now();
    leads(&again).await;
    assert!(began.elapsed() < Duration::from_secs(1));
    assert_eq!(spec(&api)["leaseTransitions"], 0);
}
