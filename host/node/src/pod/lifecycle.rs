//! Lifecycle hooks: postStart and preStop.

use super::probe::http_get;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler};
use orlop_container::Runtime;
use std::net::IpAddr;
use std::time::Duration;

/// Longest time that a hook without a limit of its own may take.
const UNBOUNDED: Duration = Duration::from_secs(3600);

/// Runs a hook to its end.
///
/// # Errors
/// What `FailedPostStartHook` and `FailedPreStopHook` say.
pub(crate) async fn run(
    runtime: &dyn Runtime,
    hook: &LifecycleHandler,
    spec: &Container,
    container_id: &str,
    pod_ip: Option<IpAddr>,
    limit: Option<Duration>,
) -> Result<(), String> {
    let limit = limit.unwrap_or(UNBOUNDED);
    if let Some(exec) = &hook.exec {
        let command = exec.command.clone().unwrap_or_default();
        let shown = command.join(" ");
        return match runtime.exec_sync(container_id, command, limit).await {
            Ok(r) if r.exit_code == 0 => Ok(()),
            Ok(r) => {
                let mut output = r.stdout;
                output.extend_from_slice(&r.stderr);
                output.truncate(1024);
                Err(format!(
                    "command '{shown}' exited with {}: {}",
                    r.exit_code,
                    String::from_utf8_lossy(&output)
                ))
            }
            Err(e) => Err(format!("command '{shown}': {e}")),
        };
    }
    if let Some(get) = &hook.http_get {
        return match http_get(get, spec, pod_ip, limit).await {
            Ok((code, _)) if code < 400 => Ok(()),
            Ok((code, _)) => Err(format!("HTTP hook failed with statuscode: {code}")),
            Err(why) => Err(why),
        };
    }
    if let Some(sleep) = &hook.sleep {
        let time = Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0));
        tokio::time::sleep(time.min(limit)).await;
        return Ok(());
    }
    Err("invalid handler: tcpSocket hooks are not supported".to_owned())
}
