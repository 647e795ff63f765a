//! Finding again what an earlier host left: sandboxes whose shims still serve, containers that run or
//! have ended meanwhile, and half-made things to clear away.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;

use orlop_shim::protocol::{EXIT_FILE, Exit, Reply, Request, VERSION as PROTOCOL};

use super::records::{ContainerRecord, SandboxRecord, VERSION, folders_in, load};
use super::{Container, Inner, Phase, Sandbox, blocking, container, sandbox, shim};
use crate::error::RuntimeError;

fn check_version(what: &str, version: u32, ours: u32) -> Result<(), RuntimeError> {
    if version == ours {
        return Ok(());
    }
    Err(RuntimeError::Internal(format!(
        "{what} was written by another version of this program ({version}, this one writes {ours})"
    )))
}

/// Fills the tables of a driver that has just been opened.
pub(crate) async fn adopt(inner: &Arc<Inner>) -> Result<(), RuntimeError> {
    let on_thread = inner.clone();
    let (sandboxes, containers) = blocking(move || read(&on_thread)).await?;
    let mut running: HashMap<String, i32> = HashMap::new();
    let mut watched = Vec::new();
    for record in sandboxes {
        let folder = inner.folders.sandbox_run(&record.id);
        // Subscribed before asked: an end in between is told twice, not lost.
        let connection = sandbox::subscribe(&folder).await.ok();
        let alive = match &connection {
            None => false,
            Some(_) => match shim::call(&folder, &Request::State, &[]).await {
                Ok(Reply::State { version, running: now }) => {
                    check_version("a running pod's supervisor", version, PROTOCOL)?;
                    running.extend(now);
                    true
                }
                _ => false,
            },
        };
        let adopted = Sandbox::new(record.clone(), alive);
        inner.sandboxes.lock().insert(record.id.clone(), adopted.clone());
        if let Some(connection) = connection.filter(|_| alive) {
            watched.push((adopted, connection));
        }
    }
    for record in containers {
        let alive = inner.sandbox(&record.sandbox_id).is_ok_and(|s| *s.alive.borrow());
        let phase = phase(inner, &record, running.get(&record.id).copied());
        let lease = inner.store.lease(&record.layers);
        let adopted = Container::new(record, phase, lease);
        let id = adopted.record.lock().id.clone();
        let is_running = matches!(*adopted.phase.borrow(), Phase::Running { .. });
        inner.containers.lock().insert(id, adopted.clone());
        if is_running && !alive {
            // Its shim died while no host was there to see it.
            sandbox::lost(inner, &adopted).await;
        }
    }
    for (adopted, connection) in watched {
        sandbox::watch(inner, adopted, connection);
    }
    let store = inner.store.clone();
    blocking(move || store.collect()).await
}

fn phase(inner: &Inner, record: &ContainerRecord, pid: Option<i32>) -> Phase {
    let folder = inner.folders.container(&record.id);
    let started = container::started(&folder);
    let exit = fs::read_to_string(folder.join(EXIT_FILE)).ok().and_then(|text| Exit::decode(&text));
    match (exit, started, pid) {
        (Some(exit), _, _) => match &record.start_error {
            Some(message) => container::start_error_phase(exit.at, message.clone()),
            None => sandbox::exited_phase(started.map_or(exit.at, |(_, at)| at), &exit),
        },
        (None, Some((pid, started_at)), _) => Phase::Running { pid, started_at },
        (None, None, Some(pid)) => Phase::Running { pid, started_at: record.created_at },
        (None, None, None) => Phase::Created,
    }
}

type Records = (Vec<SandboxRecord>, Vec<ContainerRecord>);

/// Reads all records; clears away what has none.
fn read(inner: &Inner) -> Result<Records, RuntimeError> {
    let mut sandboxes = Vec::new();
    let mut known = std::collections::HashSet::new();
    let in_root = folders_in(&inner.folders.root.join("sandboxes"))?;
    let in_run = folders_in(&inner.folders.run.join("sandboxes"))?;
    let mut ids: Vec<String> = in_root.into_iter().chain(in_run).collect();
    ids.sort();
    ids.dedup();
    for id in ids {
        match load::<SandboxRecord>(&inner.folders.sandbox_record(&id))? {
            Some(record) => {
                check_version("a sandbox's record", record.version, VERSION)?;
                known.insert(id);
                sandboxes.push(record);
            }
            None => {
                tracing::info!(sandbox = %id, "clearing away a half-made sandbox");
                sandbox::dismantle(inner, &half_made(&id))?;
            }
        }
    }
    let mut containers = Vec::new();
    for id in folders_in(&inner.folders.root.join("containers"))? {
        match load::<ContainerRecord>(&inner.folders.container_record(&id))? {
            Some(record) if known.contains(&record.sandbox_id) => {
                check_version("a container's record", record.version, VERSION)?;
                containers.push(record);
            }
            other => {
                tracing::info!(container = %id, "clearing away a half-made container");
                container::clear(inner, &id, other.as_ref().map_or("", |record| &record.cgroup))?;
            }
        }
    }
    Ok((sandboxes, containers))
}

/// Just enough of a record to clear a sandbox away. Its cgroup, were it made, is empty, and belongs to a
/// pod that the node is about to make again or to clean up.
fn half_made(id: &str) -> SandboxRecord {
    SandboxRecord {
        version: VERSION,
        id: id.to_owned(),
        config: crate::cri::PodSandboxConfig::default(),
        cgroup: String::new(),
        created_at: 0,
        ips: Vec::new(),
        pause: 0,
        shim: 0,
        stopped: false,
    }
}
