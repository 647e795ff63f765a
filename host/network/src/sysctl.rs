//! Kernel settings that the pod network needs. Each is read first, and written only where it
//! differs, so that a host on which an administrator has set them works without the right to.

use std::path::Path;

const ROOT: &str = "/proc/sys/net";

/// Sets `name` (a path below `net`) to `value`; says what is missing without it where that fails.
pub(crate) fn set(name: &str, value: &str, without: &str) {
    let path = Path::new(ROOT).join(name);
    let now = std::fs::read_to_string(&path);
    if now.as_ref().is_ok_and(|now| now.trim() == value) {
        return;
    }
    if let Err(error) = std::fs::write(&path, value) {
        tracing::warn!(sysctl = %path.display(), value, %error, without, "a kernel setting could not be made");
    }
}

/// Makes bridged packets pass iptables, which Services need: the answer of a pod on the same bridge
/// must come back through the translation that the request went through.
pub(crate) async fn bridge_netfilter() {
    let file = Path::new(ROOT).join("bridge/bridge-nf-call-iptables");
    if !file.exists() {
        let loaded = tokio::process::Command::new("modprobe").arg("br_netfilter").output().await;
        if !file.exists() {
            let message = match loaded {
                Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
                Err(error) => error.to_string(),
            };
            tracing::warn!(
                message,
                "the kernel module br_netfilter is not available; Services between pods of this node need it"
            );
            return;
        }
    }
    set("bridge/bridge-nf-call-iptables", "1", "Services do not work between pods of this node");
}
