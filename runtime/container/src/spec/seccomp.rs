//! The `RuntimeDefault` seccomp profile.
//!
//! containerd's profile allows what it lists; ours refuses (EPERM) what that one leaves out among the
//! calls that can reach beyond a container, unless a capability of the container stands for the call. A
//! short list compiles in microseconds; what it does not do is refuse calls that no kernel knows yet.

use serde_json::{Value, json};

/// (calls, a capability that allows them; empty: none does).
const REFUSED: [(&[&str], &str); 11] = [
    (
        &[
            "add_key",
            "keyctl",
            "request_key",
            "userfaultfd",
            "nfsservctl",
            "uselib",
            "ustat",
            "sysfs",
            "_sysctl",
            "io_uring_setup",
            "io_uring_enter",
            "io_uring_register",
            "create_module",
            "get_kernel_syms",
            "query_module",
        ],
        "",
    ),
    (
        &[
            "bpf",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "pivot_root",
            "quotactl",
            "quotactl_fd",
            "setns",
            "swapon",
            "swapoff",
            "umount",
            "umount2",
            "unshare",
            "lookup_dcookie",
            "perf_event_open",
            "fanotify_init",
            "setdomainname",
            "sethostname",
            "syslog",
        ],
        "CAP_SYS_ADMIN",
    ),
    (&["reboot", "kexec_load", "kexec_file_load"], "CAP_SYS_BOOT"),
    (&["delete_module", "init_module", "finit_module"], "CAP_SYS_MODULE"),
    (&["acct"], "CAP_SYS_PACCT"),
    (&["iopl", "ioperm"], "CAP_SYS_RAWIO"),
    (&["settimeofday", "stime", "clock_settime", "clock_settime64", "clock_adjtime"], "CAP_SYS_TIME"),
    (&["open_by_handle_at"], "CAP_DAC_READ_SEARCH"),
    (&["kcmp", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "process_madvise"], "CAP_SYS_PTRACE"),
    (&["mbind", "set_mempolicy", "get_mempolicy", "move_pages", "set_mempolicy_home_node"], "CAP_SYS_NICE"),
    (&["vhangup"], "CAP_SYS_TTY_CONFIG"),
];

/// CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
const NAMESPACE_FLAGS: [u64; 7] =
    [0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000];

/// The profile for a container with these capabilities.
pub fn runtime_default(capabilities: &[&str]) -> Value {
    let has = |capability: &str| capabilities.contains(&capability);
    let mut rules: Vec<Value> = REFUSED
        .iter()
        .filter(|(_, capability)| capability.is_empty() || !has(capability))
        .map(|(names, _)| json!({"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": libc::EPERM}))
        .collect();
    if !has("CAP_SYS_ADMIN") {
        for flag in NAMESPACE_FLAGS {
            rules.push(json!({
                "names": ["clone"],
                "action": "SCMP_ACT_ERRNO",
                "errnoRet": libc::EPERM,
                "args": [{"index": 0, "value": flag, "valueTwo": flag, "op": "SCMP_CMP_MASKED_EQ"}],
            }));
        }
        // Its flags are behind a pointer, which a filter cannot read: ENOSYS makes libraries use clone.
        rules.push(json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSYS}));
    }
    let architectures = match std::env::consts::ARCH {
        "x86_64" => json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]),
        "aarch64" => json!(["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]),
        _ => json!([]),
    };
    json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": architectures, "syscalls": rules})
}
