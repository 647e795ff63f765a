//! How long pods take to start, and what watches over each of them weighs.
//!
//! `cargo run --release -p orlop-container --example pod_start -- SHIM IMAGE.tar [PODS]`, as root. The
//! image needs `/bin/sleep`. Everything is made in a temporary folder and removed again.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use orlop_container::cri::*;
use orlop_container::{RuncConfig, RuncRuntime, RuntimeError, cleanup_all};

fn show(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at =
        |part: usize| times.get((times.len().saturating_sub(1)) * part / 100).copied().unwrap_or_default();
    println!("{what:<28} p50 {:>8.2?}  p90 {:>8.2?}  max {:>8.2?}", at(50), at(90), at(100));
}

/// Resident and proportional memory of a process, in KiB.
fn memory(pid: i32) -> (u64, u64) {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default();
        line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
    };
    (field("Rss:"), field("Pss:"))
}

fn pod(name: &str, logs: &std::path::Path) -> PodSandboxConfig {
    PodSandboxConfig {
        metadata: PodSandboxMetadata {
            name: name.to_owned(),
            uid: name.to_owned(),
            namespace: "bench".to_owned(),
            attempt: 0,
        },
        hostname: name.to_owned(),
        log_directory: logs.join(name),
        ..Default::default()
    }
}

async fn start(
    runtime: &RuncRuntime,
    image: &str,
    config: PodSandboxConfig,
) -> Result<[Duration; 3], RuntimeError> {
    let begun = Instant::now();
    let sandbox = runtime.run_pod_sandbox(config).await?;
    let sandboxed = begun.elapsed();
    let container = ContainerConfig {
        metadata: ContainerMetadata { name: "main".to_owned(), attempt: 0 },
        image: ImageSpec::new(image),
        command: vec!["/bin/sleep".to_owned(), "1000".to_owned()],
        log_path: "main.log".to_owned(),
        ..Default::default()
    };
    let id = runtime.create_container(&sandbox, container).await?;
    let created = begun.elapsed();
    runtime.start_container(&id).await?;
    Ok([sandboxed, created - sandboxed, begun.elapsed() - created])
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(shim), Some(archive)) = (args.next(), args.next()) else {
        return Err("usage: pod_start SHIM IMAGE.tar [PODS]".into());
    };
    let count: usize = args.next().map_or(Ok(50), |n| n.parse())?;
    let base = std::env::temp_dir().join(format!("orlop-bench-{}", std::process::id()));
    let (root, run) = (base.join("root"), base.join("run"));
    let mut config = RuncConfig::new(&root, &run, PathBuf::from(shim));
    config.cgroup_root = format!("/orlop-bench-{}", std::process::id());
    let result = bench(config, archive.into(), count).await;
    cleanup_all(&root, &run)?;
    std::fs::remove_dir_all(&base)?;
    result
}

async fn bench(config: RuncConfig, archive: PathBuf, count: usize) -> Result<(), Box<dyn std::error::Error>> {
    let logs = config.root.join("logs");
    let run = config.run.clone();
    let runtime = RuncRuntime::open(config).await?;
    let image = runtime.import_image(archive).await?.into_iter().next().ok_or("the archive has no image")?;
    let mut parts: [Vec<Duration>; 4] = Default::default();
    for n in 0..count {
        let times = start(&runtime, &image, pod(&format!("one-{n}"), &logs)).await?;
        for (all, time) in parts.iter_mut().zip(times.iter().copied().chain([times.iter().sum()])) {
            all.push(time);
        }
    }
    println!("{count} pods, one by one:");
    for (what, times) in ["sandbox", "create", "start", "in all"].into_iter().zip(parts) {
        show(what, times);
    }
    let mut sums = (0, 0, 0u64);
    for entry in std::fs::read_dir(run.join("sandboxes"))?.flatten() {
        let text = std::fs::read_to_string(entry.path().join("shim.pid"))?;
        let (rss, pss) = memory(text.split(' ').next().unwrap_or_default().parse()?);
        sums = (sums.0 + rss, sums.1 + pss, sums.2 + 1);
    }
    println!("supervision per pod: {} KiB resident, {} KiB proportional", sums.0 / sums.2, sums.1 / sums.2);
    println!("this process: {} KiB resident", memory(i32::try_from(std::process::id())?).0);
    let begun = Instant::now();
    let all = (0..count).map(|n| start(&runtime, &image, pod(&format!("all-{n}"), &logs)));
    futures::future::try_join_all(all).await?;
    println!("{count} pods at once: {:.2?} until all run", begun.elapsed());
    let begun = Instant::now();
    for sandbox in runtime.list_pod_sandbox(PodSandboxFilter::default()).await? {
        runtime.remove_pod_sandbox(&sandbox.id).await?;
    }
    println!("{} pods removed in {:.2?}", 2 * count, begun.elapsed());
    Ok(())
}
