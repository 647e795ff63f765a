//! What a fresh Debian machine lacks: the WebAssembly target and some packages.

use crate::shell::{output, run, step, which};
use anyhow::{Result, bail};
use std::path::Path;
use std::process::Command;

/// A program and the Debian package that brings it.
struct Need {
    program: &'static str,
    package: &'static str,
}

/// What the node needs to run containers and Services, and `up` to show them.
const TO_RUN: &[Need] = &[
    Need { program: "cc", package: "gcc" },
    Need { program: "runc", package: "runc" },
    Need { program: "iptables-restore", package: "iptables" },
    Need { program: "make", package: "make" },
    Need { program: "ip", package: "iproute2" },
    Need { program: "conntrack", package: "conntrack" },
    Need { program: "busybox", package: "busybox-static" },
    Need { program: "kubectl", package: "kubernetes-client" },
];

/// What the tests need on top.
const TO_TEST: &[Need] = &[
    Need { program: "docker-registry", package: "docker-registry" },
    Need { program: "python3", package: "python3" },
    Need { program: "curl", package: "curl" },
    Need { program: "nsenter", package: "util-linux" },
    // Compilers of plugins in C, Python and JavaScript, and what fetches them.
    Need { program: "clang", package: "clang" },
    Need { program: "wasm-ld", package: "lld" },
    Need { program: "pip3", package: "python3-pip" },
    Need { program: "node", package: "nodejs" },
    Need { program: "npm", package: "npm" },
];

/// Installs the packages that `up` needs; as a user without rights, says how.
pub(crate) fn packages_to_run() -> Result<()> {
    install(&[TO_RUN])
}

/// Installs the packages that `test` needs; as a user without rights, says how.
pub(crate) fn packages_to_test() -> Result<()> {
    install(&[TO_RUN, TO_TEST])
}

fn install(lists: &[&[Need]]) -> Result<()> {
    let missing: Vec<&str> =
        lists.iter().copied().flatten().filter(|n| which(n.program).is_none()).map(|n| n.package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages = missing.join(" ");
    if which("apt-get").is_none() {
        bail!(
            "this machine lacks {packages} (names of Debian's packages), and has no apt-get: \
             install them with its own package manager, then try again"
        );
    }
    let by_hand =
        format!("sudo apt-get update && sudo apt-get install -y --no-install-recommends {packages}");
    if !is_root()? {
        bail!("this machine lacks some packages. Install them, then try again:\n\n    {by_hand}\n");
    }
    step(&format!("installing Debian packages: {packages}"));
    let apt = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        // Packages such as docker-registry must not start a service of their own.
        command.env("RUNLEVEL", "1");
        command
    };
    let args = ["install", "-y", "-q", "--no-install-recommends"];
    let installed = run(apt().args(args).args(&missing))
        .or_else(|_| run(apt().args(["update", "-q"])).and_then(|()| run(apt().args(args).args(&missing))));
    if let Err(error) = installed {
        bail!("{error}\n\ncould not install the packages; try it by hand:\n\n    {by_hand}\n");
    }
    Ok(())
}

/// Makes sure that Rust can build for WebAssembly.
pub(crate) fn wasm_target() -> Result<()> {
    const TARGET: &str = "wasm32-unknown-unknown";
    let sysroot =
        output(Command::new("rustc").args(["--print", "sysroot"]).current_dir(crate::shell::root()))?;
    if Path::new(sysroot.trim()).join("lib/rustlib").join(TARGET).join("lib").is_dir() {
        return Ok(());
    }
    step(&format!("adding the Rust target {TARGET}"));
    run(Command::new("rustup").args(["target", "add", TARGET]).current_dir(crate::shell::root()))
}

/// Whether we run as root, without which no container, network or cgroup can be made.
pub(crate) fn is_root() -> Result<bool> {
    Ok(output(Command::new("id").arg("-u"))?.trim() == "0")
}
