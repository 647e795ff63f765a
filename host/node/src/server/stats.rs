//! Usage of the node's pods: `/stats/summary` and `/metrics/resource`.

use super::routes::{Refusal, json_answer};
use super::{Body, Server, text};
use http::{Response, StatusCode};
use jiff::Timestamp;
use orlop_container::cri::{PodSandboxFilter, PodSandboxStats};
use serde_json::{Value, json};
use std::fmt::Write as _;

async fn usage(server: &Server) -> Result<Vec<PodSandboxStats>, Refusal> {
    server
        .shared
        .runtime
        .list_pod_sandbox_stats(PodSandboxFilter::default())
        .await
        .map_err(|e| (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))
}

fn when(nanos: i64) -> String {
    Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or(Timestamp::UNIX_EPOCH).to_string()
}

fn cpu(c: &orlop_container::cri::CpuUsage) -> Value {
    json!({"time": when(c.timestamp), "usageCoreNanoSeconds": c.usage_core_nano_seconds})
}

fn memory(m: &orlop_container::cri::MemoryUsage) -> Value {
    json!({
        "time": when(m.timestamp), "usageBytes": m.usage_bytes, "workingSetBytes": m.working_set_bytes,
        "rssBytes": m.rss_bytes, "pageFaults": m.page_faults, "majorPageFaults": m.major_page_faults
    })
}

pub(super) async fn summary(server: &Server) -> Result<Response<Body>, Refusal> {
    let pods: Vec<Value> = usage(server)
        .await?
        .iter()
        .map(|p| {
            let containers: Vec<Value> = p
                .containers
                .iter()
                .map(|c| json!({"name": c.metadata.name, "cpu": cpu(&c.cpu), "memory": memory(&c.memory)}))
                .collect();
            json!({
                "podRef": {"name": p.metadata.name, "namespace": p.metadata.namespace, "uid": p.metadata.uid},
                "cpu": cpu(&p.cpu), "memory": memory(&p.memory), "containers": containers,
                "process_stats": {"process_count": p.pids},
                "network": {"interfaces": p.network.iter().map(|n| json!({
                    "name": n.name, "rxBytes": n.rx_bytes, "rxErrors": n.rx_errors,
                    "txBytes": n.tx_bytes, "txErrors": n.tx_errors
                })).collect::<Vec<_>>()}
            })
        })
        .collect();
    let node = json!({"nodeName": server.shared.config.node_name});
    Ok(json_answer(&json!({"node": node, "pods": pods})))
}

pub(super) async fn resource_metrics(server: &Server) -> Result<Response<Body>, Refusal> {
    let pods = usage(server).await?;
    let mut out = String::new();
    let seconds = |nanos: u64| format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000);
    for (metric, kind) in [("cpu_usage_seconds_total", "counter"), ("memory_working_set_bytes", "gauge")] {
        for scope in ["container", "pod"] {
            let _ = writeln!(out, "# TYPE {scope}_{metric} {kind}");
            for p in &pods {
                let m = &p.metadata;
                let of_pod = format!("namespace=\"{}\",pod=\"{}\"", m.namespace, m.name);
                let mut line = |labels: String, c: &orlop_container::cri::CpuUsage, mem: u64| {
                    let value =
                        if kind == "counter" { seconds(c.usage_core_nano_seconds) } else { mem.to_string() };
                    let _ = writeln!(out, "{scope}_{metric}{{{labels}}} {value} {}", c.timestamp / 1_000_000);
                };
                if scope == "pod" {
                    line(of_pod, &p.cpu, p.memory.working_set_bytes);
                } else {
                    for c in &p.containers {
                        let labels = format!("container=\"{}\",{of_pod}", c.metadata.name);
                        line(labels, &c.cpu, c.memory.working_set_bytes);
                    }
                }
            }
        }
    }
    Ok(text(StatusCode::OK, out))
}
