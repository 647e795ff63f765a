//! The host dies and comes back; shims die.

use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use orlop_container::cri::*;
use orlop_container::{RuncRuntime, RuntimeError};

use crate::support::*;

const HOST_FOLDER: &str = "ORLOP_TEST_HOST_FOLDER";

/// Not a test of its own: the host that [`a_killed_host_is_succeeded`] starts and kills.
#[tokio::test(flavor = "multi_thread")]
async fn fake_host() {
    let Some(folder) = std::env::var_os(HOST_FOLDER) else { return };
    let folder = Path::new(&folder);
    let name = folder.file_name().unwrap().to_str().unwrap();
    let runtime = RuncRuntime::open(config_in(folder, name)).await.unwrap();
    let pod = PodSandboxConfig {
        metadata: PodSandboxMetadata {
            name: "adopted".into(),
            uid: "uid-adopted".into(),
            namespace: "default".into(),
            attempt: 0,
        },
        log_directory: folder.join("logs"),
        ..Default::default()
    };
    let pod = runtime.run_pod_sandbox(pod).await.unwrap();
    let wait = "until test -e /tmp/end; do echo tick; sleep 0.05; done; echo last; exit 6";
    for (container, script) in [("stays", "while true; do echo tick; sleep 0.05; done"), ("ends", wait)] {
        let id = runtime.create_container(&pod, shell(container, script)).await.unwrap();
        runtime.start_container(&id).await.unwrap();
    }
    runtime.create_container(&pod, shell("waits", "true")).await.unwrap();
    // A sandbox that was being made when the host died.
    std::fs::create_dir_all(folder.join("root/sandboxes/half")).unwrap();
    std::fs::create_dir_all(folder.join("root/containers/half/rootfs")).unwrap();
    std::fs::write(folder.join("ready"), "").unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_host_is_succeeded() {
    let f = Fixture::new().await;
    let (folder, name) = f.leave().await;
    let mut host = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "adoption::fake_host", "--nocapture"])
        .env(HOST_FOLDER, folder.path())
        .env("ORLOP_SHIM", shim())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    until("the host is up", || {
        assert!(host.try_wait().unwrap().is_none(), "the fake host ended");
        let there = folder.path().join("ready").exists();
        async move { there.then_some(()) }
    })
    .await;
    let config = config_in(folder.path(), &name);
    let in_use = RuncRuntime::open(config.clone()).await.err().unwrap();
    assert!(matches!(in_use, RuntimeError::FailedPrecondition(_)), "{in_use}");
    host.kill().unwrap();
    host.wait().unwrap();

    // Nobody is there, and life goes on: one writes its log, the other ends.
    let log = |container: &str| {
        std::fs::read_to_string(folder.path().join(format!("logs/{container}/0.log"))).unwrap()
    };
    let before = log("stays").len();
    until("the log grows", || async { (log("stays").len() > before + 200).then_some(()) }).await;
    let ends = std::fs::read_dir(folder.path().join("root/containers")).unwrap().flatten().find_map(|c| {
        let text = std::fs::read_to_string(c.path().join("container.json")).ok()?;
        text.contains("\"name\":\"ends\"").then(|| c.path())
    });
    let ends = ends.unwrap();
    std::fs::write(ends.join("rootfs/tmp/end"), "").unwrap();
    until("the end is recorded", || async { ends.join("exit").exists().then_some(()) }).await;

    let runtime = RuncRuntime::open(config.clone()).await.unwrap();
    let pods = runtime.list_pod_sandbox(PodSandboxFilter::default()).await.unwrap();
    assert_eq!(pods.len(), 1);
    assert_eq!((pods[0].state, pods[0].metadata.name.as_str()), (PodSandboxState::Ready, "adopted"));
    let all = runtime.list_containers(ContainerFilter::default()).await.unwrap();
    let id = |name: &str| all.iter().find(|c| c.metadata.name == name).unwrap().id.clone();
    let ended = runtime.container_status(&id("ends")).await.unwrap();
    assert_eq!((ended.state, ended.exit_code, ended.reason.as_str()), (ContainerState::Exited, 6, "Error"));
    assert!(log("ends").ends_with("stdout F last\n"));
    let stays = runtime.container_status(&id("stays")).await.unwrap();
    assert_eq!(stays.state, ContainerState::Running);
    let on_disk =
        std::fs::read_to_string(folder.path().join("root/containers").join(&stays.id).join("started"))
            .unwrap();
    assert_eq!(
        on_disk.trim(),
        format!("{} {}", stays.pid, stays.started_at),
        "the same process, not a new one"
    );
    assert!(!folder.path().join("root/sandboxes/half").exists());
    assert!(!folder.path().join("root/containers/half").exists());
    // What was created starts, what runs answers and stops.
    runtime.start_container(&id("waits")).await.unwrap();
    assert_eq!(wait_exit(&runtime, &id("waits")).await.exit_code, 0);
    let done = runtime.exec_sync(&stays.id, vec!["/bin/echo".into(), "hi".into()], PATIENCE).await.unwrap();
    assert_eq!(done.stdout, b"hi\n");
    runtime.stop_container(&stays.id, std::time::Duration::ZERO).await.unwrap();
    runtime.remove_pod_sandbox(&pods[0].id).await.unwrap();
    assert!(runtime.list_containers(ContainerFilter::default()).await.unwrap().is_empty());
    config.cancel.cancel();
    drop(runtime);
    cleanup(folder.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_shim_takes_its_pod_along() {
    let f = Fixture::new().await;
    let pod = f.run_pod("orphan").await;
    let other = f.run_pod("other").await;
    let id = f.run_container(&pod, shell("main", "sleep 1000")).await;
    let safe = f.run_container(&other, shell("main", "sleep 1000")).await;
    let pid = f.runtime.container_status(&id).await.unwrap().pid;
    let mut events = f.runtime.get_container_events();
    kill(Pid::from_raw(shim_pid(&f.config.run, &pod)), Signal::SIGKILL).unwrap();
    loop {
        let event = next_event(&mut events).await;
        if event.is_sandbox() && event.container_event_type == ContainerEventType::Stopped {
            assert_eq!(event.pod_sandbox_id, pod);
            break;
        }
    }
    assert_eq!(f.runtime.pod_sandbox_status(&pod).await.unwrap().state, PodSandboxState::NotReady);
    let status = f.runtime.container_status(&id).await.unwrap();
    assert_eq!((status.state, status.exit_code), (ContainerState::Exited, 137));
    until("its process is gone", || async { (!Path::new(&format!("/proc/{pid}")).exists()).then_some(()) })
        .await;
    assert!(f.runtime.create_container(&pod, shell("late", "true")).await.is_err());
    assert_eq!(f.runtime.container_status(&safe).await.unwrap().state, ContainerState::Running);
    // The pod is rebuilt beside its remains, in the same cgroup.
    let mut again = f.pod("orphan");
    again.metadata.attempt = 1;
    let again = f.runtime.run_pod_sandbox(again).await.unwrap();
    let id = f.run_container(&again, shell("main", "sleep 1000")).await;
    f.runtime.remove_pod_sandbox(&pod).await.unwrap();
    assert_eq!(f.runtime.container_status(&id).await.unwrap().state, ContainerState::Running);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_that_died_unseen_is_noticed() {
    let f = Fixture::new().await;
    let pod = f.run_pod("unseen").await;
    let id = f.run_container(&pod, shell("main", "sleep 1000")).await;
    let pid = f.runtime.container_status(&id).await.unwrap().pid;
    let (folder, name) = f.leave().await;
    let shim = shim_pid(&folder.path().join("run"), &pod);
    kill(Pid::from_raw(shim), Signal::SIGKILL).unwrap();
    // Dropping the fixture has dropped the driver, but its lock goes with the last of its tasks.
    let config = config_in(folder.path(), &name);
    let runtime = until("the driver's lock is free", || async {
        match RuncRuntime::open(config.clone()).await {
            Ok(runtime) => Some(runtime),
            Err(RuntimeError::FailedPrecondition(_)) => None,
            Err(other) => panic!("{other}"),
        }
    })
    .await;
    assert_eq!(runtime.pod_sandbox_status(&pod).await.unwrap().state, PodSandboxState::NotReady);
    assert_eq!(runtime.container_status(&id).await.unwrap().state, ContainerState::Exited);
    until("its process is gone", || async { (!Path::new(&format!("/proc/{pid}")).exists()).then_some(()) })
        .await;
    runtime.remove_pod_sandbox(&pod).await.unwrap();
    config.cancel.cancel();
    drop(runtime);
    cleanup(folder.path());
}
