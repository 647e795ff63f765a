//! Pods and containers from creation to removal: states, events, logs, limits, stopping.

use std::time::Duration;

use orlop_container::cgroups::Version;
use orlop_container::cri::*;

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_from_start_to_end() {
    let f = Fixture::new().await;
    let status = f.runtime.status().await.unwrap();
    assert!(status.conditions.iter().all(|c| c.status), "{status:?}");
    assert_eq!(f.runtime.version().await.unwrap().runtime_name, "runc");
    let mut events = f.runtime.get_container_events();
    let pod = f.run_pod("life").await;
    let sandbox = f.runtime.pod_sandbox_status(&pod).await.unwrap();
    assert_eq!(sandbox.state, PodSandboxState::Ready);
    assert!(sandbox.netns_path.unwrap().exists());
    let script = "echo out; echo err >&2; hostname; cat /etc/hostname; printf 'no newline'; exit 7";
    let id = f.run_container(&pod, shell("main", script)).await;
    let ended = f.wait_exit(&id).await;
    assert_eq!((ended.exit_code, ended.reason.as_str()), (7, "Error"));
    assert!(ended.created_at <= ended.started_at && ended.started_at <= ended.finished_at);
    let log = f.log(&id).await;
    for (stream, tag, text) in [("stdout", 'F', "out"), ("stderr", 'F', "err"), ("stdout", 'P', "no newline")]
    {
        assert!(log.lines().any(|l| l.ends_with(&format!("Z {stream} {tag} {text}"))), "{text}: {log}");
    }
    assert_eq!(log.matches(" stdout F life\n").count(), 2, "hostname and its file: {log}");
    f.runtime.remove_container(&id).await.unwrap();
    f.runtime.remove_container(&id).await.unwrap();
    assert!(f.runtime.container_status(&id).await.unwrap_err().is_not_found());
    f.runtime.stop_pod_sandbox(&pod).await.unwrap();
    f.runtime.stop_pod_sandbox(&pod).await.unwrap();
    assert_eq!(f.runtime.pod_sandbox_status(&pod).await.unwrap().state, PodSandboxState::NotReady);
    f.runtime.remove_pod_sandbox(&pod).await.unwrap();
    f.runtime.remove_pod_sandbox(&pod).await.unwrap();
    let mut seen = Vec::new();
    loop {
        let event = next_event(&mut events).await;
        assert_eq!(event.pod.name, "life");
        seen.push((event.is_sandbox(), event.container_event_type));
        if seen.last() == Some(&(true, ContainerEventType::Deleted)) {
            break;
        }
    }
    use ContainerEventType::{Created, Deleted, Started, Stopped};
    for wanted in [Created, Started, Stopped, Deleted] {
        for of_sandbox in [true, false] {
            assert_eq!(
                seen.iter().filter(|e| **e == (of_sandbox, wanted)).count(),
                1,
                "{of_sandbox} {wanted:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_cannot_start_says_why() {
    let f = Fixture::new().await;
    let pod = f.run_pod("nostart").await;
    let mut config = shell("main", "");
    config.command = vec!["/no/such/program".into()];
    let id = f.runtime.create_container(&pod, config).await.unwrap();
    let error = f.runtime.start_container(&id).await.unwrap_err().to_string();
    assert!(error.contains("/no/such/program") && error.contains("no such file or directory"), "{error}");
    let status = f.runtime.container_status(&id).await.unwrap();
    assert_eq!(
        (status.state, status.exit_code, status.reason.as_str()),
        (ContainerState::Exited, 128, "StartError")
    );
    assert!(status.message.contains("/no/such/program"));
    let mut config = shell("ghost", "true");
    config.image = ImageSpec::new("ghost:1");
    assert!(f.runtime.create_container(&pod, config).await.unwrap_err().is_not_found());
    let mut config = shell("nomount", "true");
    config.mounts =
        vec![Mount { container_path: "/x".into(), host_path: "/no/such/path".into(), ..Default::default() }];
    let error = f.runtime.create_container(&pod, config).await.unwrap_err().to_string();
    assert!(error.contains("/no/such/path does not exist"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_with_and_without_grace() {
    let f = Fixture::new().await;
    let pod = f.run_pod("stop").await;
    let polite = "trap 'echo bye; exit 3' TERM; echo ready; while true; do sleep 0.1; done";
    let kind = f.run_container(&pod, shell("kind", polite)).await;
    let deaf = f
        .run_container(&pod, shell("deaf", "trap '' TERM; echo ready; while true; do sleep 0.1; done"))
        .await;
    for id in [&kind, &deaf] {
        until("the trap is set", || async { f.log(id).await.contains("ready").then_some(()) }).await;
    }
    f.runtime.stop_container(&kind, PATIENCE).await.unwrap();
    assert_eq!(f.wait_exit(&kind).await.exit_code, 3);
    assert!(f.log(&kind).await.contains("bye"), "the log is complete when the stop returns");
    f.runtime.stop_container(&deaf, Duration::from_millis(300)).await.unwrap();
    let killed = f.runtime.container_status(&deaf).await.unwrap();
    assert_eq!((killed.exit_code, killed.reason.as_str()), (137, "Error"));
    f.runtime.stop_container(&deaf, PATIENCE).await.unwrap();
    f.runtime.stop_container("no such container", PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_reach_the_cgroups_and_oom_is_told() {
    let f = Fixture::new().await;
    let mut pod = f.pod("limits");
    pod.cgroup_parent = format!("/{}/burstable/podlimits", f.name);
    pod.resources =
        LinuxContainerResources { cpu_shares: 512, memory_limit_in_bytes: 256 << 20, ..Default::default() };
    let pod = f.runtime.run_pod_sandbox(pod).await.unwrap();
    let mut config = shell("main", "echo up; sleep 1000");
    config.resources = LinuxContainerResources {
        cpu_shares: 256,
        cpu_quota: 50_000,
        cpu_period: 100_000,
        memory_limit_in_bytes: 64 << 20,
        oom_score_adj: 900,
        ..Default::default()
    };
    let id = f.run_container(&pod, config).await;
    let cgroups = f.runtime.cgroups();
    let (memory, cpu) = match cgroups.version() {
        Version::V1 => ("memory.limit_in_bytes", "cpu.cfs_quota_us"),
        Version::V2 => ("memory.max", "cpu.max"),
    };
    let read = |controller: &str, path: &str, file: &str| {
        std::fs::read_to_string(cgroups.folder(controller, path).unwrap().join(file))
            .unwrap()
            .trim()
            .to_owned()
    };
    let of_pod = format!("/{}/burstable/podlimits", f.name);
    let of_container = format!("{of_pod}/{id}");
    assert_eq!(read("memory", &of_pod, memory), (256u64 << 20).to_string());
    assert_eq!(read("memory", &of_container, memory), (64u64 << 20).to_string());
    assert!(read("cpu", &of_container, cpu).starts_with("50000"));
    let pid = f.runtime.container_status(&id).await.unwrap().pid;
    assert_eq!(std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim(), "900");
    let more = LinuxContainerResources { memory_limit_in_bytes: 96 << 20, ..Default::default() };
    f.runtime.update_container_resources(&id, more).await.unwrap();
    assert_eq!(read("memory", &of_container, memory), (96u64 << 20).to_string());
    assert_eq!(f.runtime.container_status(&id).await.unwrap().resources.memory_limit_in_bytes, 96 << 20);
    let stats = f.runtime.pod_sandbox_stats(&pod).await.unwrap();
    assert!(stats.memory.usage_bytes > 0 && stats.cpu.usage_core_nano_seconds > 0, "{stats:?}");
    assert_eq!(stats.containers.len(), 1);
    assert!(stats.containers[0].pids >= 1);

    let mut greedy = shell("greedy", "x=x; while true; do x=$x$x; done");
    greedy.resources.memory_limit_in_bytes = 24 << 20;
    let id = f.run_container(&pod, greedy).await;
    let ended = f.wait_exit(&id).await;
    assert_eq!((ended.exit_code, ended.reason.as_str()), (137, "OOMKilled"));
}

#[tokio::test(flavor = "multi_thread")]
async fn identity_mounts_and_privileges() {
    let f = Fixture::new().await;
    let pod = f.run_pod("who").await;
    let volume = f.folder.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("f"), "from the node").unwrap();
    let script = "id -u; id -g; id -G; cat /data/f; echo; (echo x > /data/g) 2>/dev/null || echo data is read-only; \
                  (echo x > /tmp/g) 2>/dev/null || echo root is read-only; echo $GREETING $HOSTNAME; \
                  (echo 1 > /proc/sys/vm/drop_caches) 2>/dev/null || echo proc is read-only; mount -t tmpfs x /tmp \
                  2>/dev/null || echo no mounting";
    let mut config = shell("main", script);
    config.envs = vec![KeyValue { key: "GREETING".into(), value: "hello".into() }];
    config.mounts = vec![Mount {
        container_path: "/data".into(),
        host_path: volume,
        readonly: true,
        ..Default::default()
    }];
    config.security_context = ContainerSecurityContext {
        run_as_username: "web".into(),
        supplemental_groups: vec![2000],
        readonly_rootfs: true,
        no_new_privs: true,
        seccomp: SecurityProfile::RuntimeDefault,
        ..Default::default()
    };
    let id = f.run_container(&pod, config).await;
    assert_eq!(f.wait_exit(&id).await.exit_code, 0, "{}", f.log(&id).await);
    assert_eq!(
        f.log_text(&id).await,
        "33\n34\n34 35 2000\nfrom the node\ndata is read-only\nroot is read-only\nhello who\nproc is read-only\nno mounting\n"
    );
    let mut boss = f.pod("boss");
    boss.security_context.privileged = true;
    let pod = f.runtime.run_pod_sandbox(boss).await.unwrap();
    let mut config =
        shell("main", "mount -t tmpfs x /tmp && echo mounted; test -c /dev/kmsg && echo devices");
    config.security_context.privileged = true;
    let id = f.run_container(&pod, config).await;
    f.wait_exit(&id).await;
    assert_eq!(f.log_text(&id).await, "mounted\ndevices\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_are_shared_as_asked() {
    let f = Fixture::new().await;
    let mut config = f.pod("shared");
    config.security_context.namespace_options.pid = NamespaceMode::Pod;
    config.dns_config =
        Some(DnsConfig { servers: vec!["10.0.0.10".into()], searches: vec!["a.b".into()], options: vec![] });
    let pod = f.runtime.run_pod_sandbox(config).await.unwrap();
    let mut server = shell("server", "nc -l -p 7000 -e /bin/echo hello");
    let mut client = shell(
        "client",
        "until nc 127.0.0.1 7000; do sleep 0.05; done; ps; cat /etc/resolv.conf; echo shm > /dev/shm/f",
    );
    for c in [&mut server, &mut client] {
        c.security_context.namespace_options.pid = NamespaceMode::Pod;
    }
    let server = f.run_container(&pod, server).await;
    let client = f.run_container(&pod, client).await;
    assert_eq!(f.wait_exit(&client).await.exit_code, 0);
    let log = f.log_text(&client).await;
    assert!(log.contains("hello\n") && log.contains("search a.b\nnameserver 10.0.0.10\n"), "{log}");
    assert!(
        log.lines().any(|l| l.trim_start().starts_with("1 ") && l.contains("orlop-shim")),
        "the pod's init is pid 1: {log}"
    );
    f.wait_exit(&server).await;

    let mut host = f.pod("host");
    host.security_context.namespace_options = NamespaceOption {
        network: NamespaceMode::Node,
        pid: NamespaceMode::Node,
        ipc: NamespaceMode::Node,
        ..Default::default()
    };
    let pod = f.runtime.run_pod_sandbox(host).await.unwrap();
    let link = |pid: &str, kind: &str| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
    let mut config = shell("main", "sleep 1000");
    config.security_context.namespace_options.pid = NamespaceMode::Node;
    let id = f.run_container(&pod, config).await;
    let pid = f.runtime.container_status(&id).await.unwrap().pid.to_string();
    for kind in ["net", "pid", "ipc", "uts"] {
        assert_eq!(link(&pid, kind), link("self", kind), "{kind}");
    }
    assert_ne!(link(&pid, "mnt"), link("self", "mnt"));
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_rotated_and_long_lines_cut() {
    let f = Fixture::new().await;
    let pod = f.run_pod("logs").await;
    let script =
        "echo one; until test -e /tmp/go; do sleep 0.02; done; echo two; head -c 40000 /dev/zero | cat; echo";
    let id = f.run_container(&pod, shell("main", script)).await;
    let path = f.runtime.container_status(&id).await.unwrap().log_path;
    until("the first line", || async { f.log(&id).await.contains("one").then_some(()) }).await;
    let old = path.with_extension("log.old");
    std::fs::rename(&path, &old).unwrap();
    f.runtime.reopen_container_log(&id).await.unwrap();
    f.runtime
        .exec_sync(&id, vec!["/bin/sh".into(), "-c".into(), "echo > /tmp/go".into()], PATIENCE)
        .await
        .unwrap();
    f.wait_exit(&id).await;
    let new = f.log(&id).await;
    assert!(!new.contains("one") && new.contains("two"));
    assert!(std::fs::read_to_string(old).unwrap().contains("one"));
    let long: Vec<&str> = new.lines().skip(1).collect();
    let tags: Vec<&str> = long.iter().map(|l| l.split(' ').nth(2).unwrap()).collect();
    assert_eq!(tags, ["P", "P", "F"]);
    assert_eq!(long.iter().map(|l| l.splitn(4, ' ').nth(3).unwrap().len()).sum::<usize>(), 40000);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_filter() {
    let f = Fixture::new().await;
    let (a, b) = (f.run_pod("a").await, f.run_pod("b").await);
    let id = f.run_container(&a, shell("main", "sleep 1000")).await;
    let done = f.run_container(&b, shell("main", "true")).await;
    f.wait_exit(&done).await;
    let by_label = PodSandboxFilter {
        label_selector: [("app".to_owned(), "b".to_owned())].into(),
        ..Default::default()
    };
    let found = f.runtime.list_pod_sandbox(by_label).await.unwrap();
    assert_eq!(found.iter().map(|p| p.id.as_str()).collect::<Vec<_>>(), [b.as_str()]);
    let running = ContainerFilter { state: Some(ContainerState::Running), ..Default::default() };
    let found = f.runtime.list_containers(running).await.unwrap();
    assert_eq!(found.iter().map(|c| c.id.as_str()).collect::<Vec<_>>(), [id.as_str()]);
    let of_b = ContainerFilter { pod_sandbox_id: Some(b), ..Default::default() };
    assert_eq!(f.runtime.list_containers(of_b).await.unwrap()[0].state, ContainerState::Exited);
}
