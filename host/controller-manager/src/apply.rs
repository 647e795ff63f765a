//! Applies plans: checks each write against the plugin's grants and the leader's term, performs it
//! as the plugin's user, and waits until it is visible in the cache.

use crate::cache::Caches;
use crate::declaration::Grant;
use crate::events::{EventSink, Record};
use crate::paths;
use crate::plan::{Event, Failure, Op, Reference, Write};
use orlop_apimachinery::{Gvr, Object, Status};
use orlop_client::{ApiClient, ApiError, DeleteOptions, Fence, Leader, ListOptions, ResourceRef};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Writes of one controller that are under way at the same time.
const PARALLEL: usize = 32;
/// Largest `count` of one creation.
const MAX_COUNT: usize = 10_000;
/// How long a key is held for its writes to become visible. A watch that lags more is broken, and
/// the informer restores it; the key is then looked at again, which is safe, if early.
const VISIBLE: Duration = Duration::from_secs(30);

/// A write that happened.
struct Written {
    gvr: Gvr,
    namespace: String,
    name: String,
    /// Its revision; `None` for a deletion, with the uid of what was deleted (or empty).
    revision: Option<u64>,
    uid: String,
}

/// Applies the plans of one controller.
pub(crate) struct Applier {
    client: Arc<dyn ApiClient>,
    grants: Vec<Grant>,
    events: EventSink,
    caches: Arc<Caches>,
    leader: Leader,
    fence: Fence,
    manager: String,
    permits: Semaphore,
}

/// How a plan ended.
pub(crate) struct Outcome {
    pub(crate) failure: Option<Failure>,
    /// The failure can be cured only by time or by somebody else.
    pub(crate) conflict: bool,
    pub(crate) writes: usize,
}

impl Applier {
    pub(crate) fn new(
        client: Arc<dyn ApiClient>,
        grants: Vec<Grant>,
        events: EventSink,
        caches: Arc<Caches>,
        leader: Leader,
        fence: Fence,
        manager: String,
    ) -> Self {
        Self { client, grants, events, caches, leader, fence, manager, permits: Semaphore::new(PARALLEL) }
    }

    /// Applies all writes of one plan in order, and waits until they are visible.
    pub(crate) async fn apply(&self, about: Option<&Object>, writes: Vec<Write>) -> Outcome {
        let mut written = Vec::new();
        let mut outcome = Outcome { failure: None, conflict: false, writes: 0 };
        let mut rest = writes.into_iter().peekable();
        while let Some(first) = rest.next() {
            let parallel = first.parallel || first.count.is_some();
            let mut group = expand(first);
            while parallel && rest.peek().is_some_and(|w| w.parallel || w.count.is_some()) {
                group.extend(rest.next().into_iter().flat_map(expand));
            }
            if let Err((op, resource, error)) = self.group(about, &group, &mut written).await {
                outcome.conflict = error.is_conflict();
                outcome.failure = Some(failure(op, &resource, &error));
                break;
            }
        }
        outcome.writes = written.len();
        for write in &written {
            self.visible(write).await;
        }
        outcome
    }

    /// One write, or many with a slow start: 1, 2, 4 … at a time, ending at the first batch with a
    /// failure, so that a quota that is used up is not hammered.
    async fn group(
        &self,
        about: Option<&Object>,
        group: &[Arc<Write>],
        written: &mut Vec<Written>,
    ) -> Result<(), (Op, String, ApiError)> {
        let mut rest = group;
        let mut size = 1;
        while !rest.is_empty() {
            let (batch, later) = rest.split_at(size.min(rest.len()));
            rest = later;
            size *= 2;
            let done = futures::future::join_all(batch.iter().map(|w| self.one(about, w))).await;
            let mut failed = None;
            for (write, result) in batch.iter().zip(done) {
                match result {
                    Ok(more) => written.extend(more),
                    Err(error) if write.ignores(&error) => {}
                    Err(error) => {
                        failed.get_or_insert((write.op, write.resource.clone(), error));
                    }
                }
            }
            if let Some(failed) = failed {
                return Err(failed);
            }
        }
        Ok(())
    }

    async fn one(&self, about: Option<&Object>, write: &Write) -> Result<Vec<Written>, ApiError> {
        if write.op == Op::Event {
            self.record(about, write.event.as_ref(), "", "");
            return Ok(Vec::new());
        }
        let result = self.perform(write).await;
        match &result {
            Ok(written) => {
                let name = written.first().map_or(write.name.as_str(), |w| w.name.as_str());
                self.record(about, write.event.as_ref(), name, "");
            }
            Err(error) if !write.ignores(error) => {
                self.record(about, write.failure_event.as_ref(), &write.name, &error.to_string());
            }
            Err(_) => {}
        }
        result
    }

    async fn perform(&self, write: &Write) -> Result<Vec<Written>, ApiError> {
        let gvr = write.gvr();
        self.check(write, &gvr)?;
        let _permit = self.permits.acquire().await;
        if !self.leader.holds(self.fence) {
            return Err(Status::conflict(&gvr, &write.name, "this process is not the leader any more").into());
        }
        if write.op == Op::DeleteCollection {
            return self.delete_collection(&gvr, write).await;
        }
        let Some(object) = write.perform(self.client.as_ref(), &self.manager).await? else {
            return Ok(vec![deleted(&gvr, &write.namespace, &write.name, &write.uid)]);
        };
        let revision = Some(object.meta().resource_version).filter(|_| write.subresource != "binding");
        Ok(vec![Written {
            gvr,
            namespace: object.namespace().to_owned(),
            name: object.name().to_owned(),
            revision,
            uid: object.uid().to_owned(),
        }])
    }

    fn check(&self, write: &Write, gvr: &Gvr) -> Result<(), Status> {
        let verb = write.op.verb();
        if self.grants.iter().any(|g| g.allows(verb, &gvr.group, &gvr.resource, &write.subresource)) {
            return Ok(());
        }
        Err(Status::forbidden(
            gvr,
            &write.name,
            &format!("the plugin {} has no grant to {verb} it", self.manager),
        ))
    }

    async fn delete_collection(&self, gvr: &Gvr, write: &Write) -> Result<Vec<Written>, ApiError> {
        let options = ListOptions { namespace: write.namespace.clone(), ..ListOptions::default() };
        let list = self.client.list(gvr, &options).await?;
        let going: Vec<_> = list.items.iter().filter(|o| !o.is_being_deleted()).collect();
        let mut done = Vec::with_capacity(going.len());
        for batch in going.chunks(PARALLEL) {
            let calls = batch.iter().map(|object| async move {
                let at = ResourceRef::new(gvr, object.namespace(), object.name());
                let options = DeleteOptions { uid: object.uid().to_owned(), ..write.deletion() };
                match self.client.delete(at, &options).await {
                    Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
                    _ => Ok(deleted(gvr, object.namespace(), object.name(), object.uid())),
                }
            });
            for result in futures::future::join_all(calls).await {
                done.push(result?);
            }
        }
        Ok(done)
    }

    fn record(&self, about: Option<&Object>, event: Option<&Event>, name: &str, error: &str) {
        let Some(event) = event else { return };
        let about = match (&event.about, about) {
            (Some(reference), _) => reference.clone(),
            (None, Some(object)) => reference_to(object),
            (None, None) => return,
        };
        self.events.record(Record {
            about,
            kind: event.kind.clone(),
            reason: event.reason.clone(),
            message: event.message.replace("{name}", name).replace("{error}", error),
        });
    }

    /// Waits until the cache shows a write, if anybody watches its resource.
    async fn visible(&self, written: &Written) {
        let Some(shared) = self.caches.existing(&written.gvr) else { return };
        let cache = &shared.cache;
        let gone = || {
            cache.get(&written.namespace, &written.name).is_none_or(|o| {
                o.is_being_deleted() || (!written.uid.is_empty() && o.uid() != written.uid.as_str())
            })
        };
        let seen = async {
            match written.revision {
                Some(revision) => {
                    cache.reached(revision).await;
                }
                None => loop {
                    let now = cache.resource_version();
                    if gone() || !cache.reached(now + 1).await {
                        break;
                    }
                },
            }
        };
        if tokio::time::timeout(VISIBLE, seen).await.is_err() {
            tracing::warn!(gvk = %written.gvr, namespace = %written.namespace, name = %written.name,
                "a write did not become visible in the cache");
        }
    }
}

fn expand(write: Write) -> Vec<Arc<Write>> {
    let count = write.count.unwrap_or(1).min(MAX_COUNT);
    let write = Arc::new(write);
    vec![write; count]
}

fn failure(op: Op, resource: &str, error: &ApiError) -> Failure {
    let reason = match error {
        ApiError::Status(status) => status.reason.clone(),
        ApiError::Transport { .. } => String::new(),
    };
    Failure { op: op.verb(), resource: resource.to_owned(), reason, message: error.to_string() }
}

fn deleted(gvr: &Gvr, namespace: &str, name: &str, uid: &str) -> Written {
    Written {
        gvr: gvr.clone(),
        namespace: namespace.into(),
        name: name.into(),
        revision: None,
        uid: uid.into(),
    }
}

pub(crate) fn reference_to(object: &Object) -> Reference {
    Reference {
        api_version: paths::text(object.bytes(), "apiVersion"),
        kind: paths::text(object.bytes(), "kind"),
        namespace: object.namespace().to_owned(),
        name: object.name().to_owned(),
        uid: object.uid().to_owned(),
        resource_version: object.meta().resource_version.to_string(),
    }
}
