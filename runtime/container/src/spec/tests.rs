use super::*;
use crate::cri::{Capability, ContainerSecurityContext, KeyValue, LinuxContainerResources, Mount};

fn host() -> HostFacts {
    // Everything but CAP_SYS_RESOURCE, as in many virtual machines.
    HostFacts { cgroups: Version::V1, capabilities: 0x1ff_feff_ffff, oom_score_adj: 0 }
}

fn image() -> RunConfig {
    RunConfig {
        env: vec!["PATH=/bin".into(), "A=image".into()],
        entrypoint: vec!["/entry".into()],
        cmd: vec!["default".into()],
        working_dir: "/srv".into(),
        ..Default::default()
    }
}

fn spec_of(config: &ContainerConfig, host: &HostFacts) -> Value {
    let user = ContainerUser { uid: 5, gid: 6, supplemental_groups: vec![6, 7] };
    build(&SpecInput {
        config,
        image: &image(),
        user: &user,
        rootfs: Path::new("/c/rootfs"),
        cgroup_path: "/orlop/pod1/c1",
        hostname: "pod-1",
        shm: Some(Path::new("/s/shm")),
        files: &[("/s/resolv.conf".into(), "/etc/resolv.conf")],
        pid_of: 42,
        host_devices: &[],
        devices: &[],
        seccomp_profile: None,
        host,
    })
    .unwrap()
}

#[test]
fn plain_container() {
    let config = ContainerConfig {
        args: vec!["given".into()],
        envs: vec![KeyValue { key: "A".into(), value: "pod".into() }],
        mounts: vec![Mount {
            container_path: "/data".into(),
            host_path: "/v".into(),
            readonly: true,
            ..Default::default()
        }],
        resources: LinuxContainerResources {
            cpu_shares: 102,
            cpu_quota: 20_000,
            cpu_period: 100_000,
            memory_limit_in_bytes: 1 << 26,
            oom_score_adj: 900,
            ..Default::default()
        },
        ..Default::default()
    };
    insta::assert_json_snapshot!(spec_of(&config, &host()));
}

#[test]
fn privileged_container() {
    let config = ContainerConfig {
        command: vec!["sh".into()],
        tty: true,
        security_context: ContainerSecurityContext {
            privileged: true,
            readonly_rootfs: true,
            namespace_options: crate::cri::NamespaceOption { pid: NamespaceMode::Pod, ..Default::default() },
            ..Default::default()
        },
        mounts: vec![Mount {
            container_path: "/dev/shm".into(),
            host_path: "/own".into(),
            propagation: MountPropagation::Bidirectional,
            ..Default::default()
        }],
        ..Default::default()
    };
    insta::assert_json_snapshot!(spec_of(&config, &HostFacts { cgroups: Version::V2, ..host() }));
}

#[test]
fn capabilities_are_added_and_dropped() {
    let caps = |add: &[&str], drop: &[&str]| {
        let own = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        let config = ContainerConfig {
            security_context: ContainerSecurityContext {
                capabilities: Capability { add_capabilities: own(add), drop_capabilities: own(drop) },
                ..Default::default()
            },
            ..Default::default()
        };
        capabilities(&config, &host())
    };
    assert_eq!(caps(&[], &[]).unwrap().len(), 14);
    assert_eq!(caps(&["NET_BIND_SERVICE"], &["ALL"]).unwrap(), ["CAP_NET_BIND_SERVICE"]);
    assert!(caps(&["cap_net_admin"], &[]).unwrap().contains(&"CAP_NET_ADMIN"));
    assert!(!caps(&[], &["NET_RAW"]).unwrap().contains(&"CAP_NET_RAW"));
    let all = caps(&["ALL"], &["NET_RAW"]).unwrap();
    assert_eq!(all.len(), 39, "all but the one dropped and the one that the host lacks");
    assert!(caps(&["NOPE"], &[]).is_err());
}

#[test]
fn commands_combine_as_in_kubernetes() {
    let words = |command: &[&str], args: &[&str]| {
        let own = |w: &[&str]| w.iter().map(|n| (*n).to_owned()).collect();
        let config = ContainerConfig { command: own(command), args: own(args), ..Default::default() };
        arguments(&config, &image()).unwrap().join(" ")
    };
    assert_eq!(words(&[], &[]), "/entry default");
    assert_eq!(words(&[], &["x"]), "/entry x");
    assert_eq!(words(&["c"], &[]), "c");
    assert_eq!(words(&["c"], &["x"]), "c x");
    assert!(arguments(&ContainerConfig::default(), &RunConfig::default()).is_err());
}

#[test]
fn oom_scores_are_only_raised() {
    assert_eq!(host().possible_oom_score_adj(-997), 0);
    assert_eq!(host().possible_oom_score_adj(1000), 1000);
    let able = HostFacts { capabilities: u64::MAX, ..host() };
    assert_eq!(able.possible_oom_score_adj(-997), -997);
}
