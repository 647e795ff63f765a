//! [`RaftStore`]: proposals in batches, reads off the async threads, and the life of it all.

use crate::folder::{Folder, OpenError};
use crate::peers::Peers;
use crate::state::{Published, View, chain};
use crate::types::{Command, MemberId, TypeConfig};
use crate::{log, state};
use async_trait::async_trait;
use bytes::Bytes;
use openraft::error::{ClientWriteError, RaftError};
use openraft::{BasicNode, Config, Raft, SnapshotPolicy};
use orlop_store::{
    History, Op, Outcome, Range, RangeResult, ReadError, ReadHistory, Request, Span, Store, StoreError, Txn,
    TxnResult, WatchReceiver, check_revision, encode_batch, history, range, size_hint, start_watch, validate,
};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Requests in one log entry.
const BATCH_REQUESTS: usize = 1024;
/// Bytes in one log entry; a larger request goes alone.
const BATCH_BYTES: usize = 1 << 20;
/// Requests that wait for the proposer.
const QUEUE: usize = 4096;
/// Reads that wait for one reader thread.
const READ_QUEUE: usize = 1024;
/// Log entries between two snapshots, and kept for a member that lags.
const SNAPSHOT_ENTRIES: u64 = 2000;
const KEPT_ENTRIES: u64 = 500;
/// How long a lone member may take to lead. It has nobody to wait for.
const LEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How to open a store.
#[derive(Clone, Debug)]
pub struct Options {
    /// This member's id; never 0.
    pub member: MemberId,
    /// This member's address for its peers.
    pub address: String,
    /// Size of the cache of disk blocks, in bytes.
    pub cache_bytes: u64,
    /// Threads that read.
    pub readers: usize,
    /// Writes are refused where the file system has less space than this, in bytes; deletions and
    /// compactions may use half of it, and the engine's own housekeeping the rest.
    pub min_free_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { member: 1, address: String::new(), cache_bytes: 8 << 20, readers: 2, min_free_bytes: 64 << 20 }
    }
}

struct Proposal {
    request: Request,
    reply: oneshot::Sender<Result<Outcome, StoreError>>,
}

type ReadJob = Box<dyn FnOnce() + Send>;

/// Reader threads.
struct Readers {
    queues: Vec<mpsc::Sender<ReadJob>>,
    next: AtomicUsize,
}

struct Core {
    published: Arc<Published>,
    readers: Readers,
}

/// The replicated store. Its files are released when its tasks have ended (`cancel`, then wait for
/// the tracker).
pub struct RaftStore {
    core: Arc<Core>,
    raft: Raft<TypeConfig>,
    proposals: mpsc::Sender<Proposal>,
    tracker: TaskTracker,
    cancel: CancellationToken,
}

impl RaftStore {
    /// Opens the store in `folder`, which is created where it does not exist. Returns when every
    /// write that was ever acknowledged can be read. Tasks run on `tracker` until `cancel`.
    ///
    /// # Errors
    /// [`OpenError`]
    pub async fn open(
        folder: &Path,
        options: Options,
        tracker: TaskTracker,
        cancel: CancellationToken,
    ) -> Result<Arc<Self>, OpenError> {
        let path = folder.to_owned();
        let failed = |message: String| OpenError::Raft { path: path.clone(), message };
        let member = options.member;
        let opening = {
            let (path, options) = (path.clone(), options.clone());
            tracker.spawn_blocking(move || {
                let folder = Folder::claim(&path)?;
                // The two replay their journals side by side.
                let (log, state) = std::thread::scope(|scope| {
                    let log = scope.spawn(|| log::open(&folder));
                    let state = state::open(&folder, &options);
                    (log.join(), state)
                });
                let log = log.map_err(|_| OpenError::Corrupt {
                    path: path.clone(),
                    source: "the engine panicked while it read the log".into(),
                })?;
                Ok::<_, OpenError>((log?, state?))
            })
        };
        // The engine panics on some kinds of damage.
        let ((log, log_thread), opened) =
            opening.await.map_err(|e| OpenError::Corrupt { path: path.clone(), source: Box::new(e) })??;
        // Readers hold nothing of the folder, and end with the last handle to the store.
        let threads = [log_thread, opened.thread];
        let readers = Readers::start(options.readers.max(1), &path)?;
        let config = Config {
            cluster_name: "orlop".to_owned(),
            heartbeat_interval: 1000,
            election_timeout_min: 3000,
            election_timeout_max: 6000,
            max_payload_entries: 64,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_ENTRIES),
            max_in_snapshot_log_to_keep: KEPT_ENTRIES,
            purge_batch_size: 256,
            ..Config::default()
        };
        let config = config.validate().map_err(|e| failed(e.to_string()))?;
        let raft = Raft::new(member, Arc::new(config), Peers, log.clone(), opened.machine)
            .await
            .map_err(|e| failed(chain(&e)))?;
        let published = opened.published;
        let core = Arc::new(Core { published: published.clone(), readers });
        {
            // Ends everything in order; the tracker waits for it, so that the folder is free after.
            let (raft, cancel, core) = (raft.clone(), cancel.clone(), core.clone());
            tracker.spawn(async move {
                cancel.cancelled().await;
                let _ = raft.shutdown().await;
                log.stop();
                opened.stopper.stop();
                core.published.close();
                drop(core);
                let _ = tokio::task::spawn_blocking(move || {
                    for thread in threads {
                        let _ = thread.join();
                    }
                })
                .await;
            });
        }
        lead(&raft, member, &options.address).await.map_err(&failed)?;
        // An entry of this term commits, and so applies, all entries of earlier ones.
        raft.client_write(Command(encode_batch(&[]).into())).await.map_err(|e| failed(chain(&e)))?;
        let (proposals, queue) = mpsc::channel(QUEUE);
        let proposer =
            Proposer { raft: raft.clone(), published: published.clone(), reserve: options.min_free_bytes };
        tracker.spawn(proposer.run(queue, cancel.clone()));
        tracker.spawn(published.hub.clone().run(cancel.clone()));
        Ok(Arc::new(Self { core, raft, proposals, tracker, cancel }))
    }

    async fn propose(&self, request: Request) -> Result<Outcome, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.proposals.send(Proposal { request, reply }).await.map_err(|_| self.stopped())?;
        answer.await.map_err(|_| self.stopped())?
    }

    fn stopped(&self) -> StoreError {
        self.core.published.refusal()
    }

    /// Waits until what is applied here holds everything that was acknowledged before the call.
    async fn linearizable(&self) -> Result<(), StoreError> {
        // A lone member acknowledges only what it has applied.
        if self.core.published.alone.load(Ordering::Acquire) {
            return Ok(());
        }
        match self.raft.ensure_linearizable().await {
            Ok(_) => Ok(()),
            Err(RaftError::Fatal(_)) => Err(self.stopped()),
            Err(RaftError::APIError(_)) => Err(StoreError::Unavailable),
        }
    }
}

/// Makes a lone member lead, at once.
async fn lead(raft: &Raft<TypeConfig>, member: MemberId, address: &str) -> Result<(), String> {
    if !raft.is_initialized().await.map_err(|e| e.to_string())? {
        let members = BTreeMap::from([(member, BasicNode::new(address))]);
        raft.initialize(members).await.map_err(|e| e.to_string())?;
    } else if raft.current_leader().await != Some(member) {
        raft.trigger().elect().await.map_err(|e| e.to_string())?;
    }
    raft.wait(Some(LEAD_TIMEOUT)).current_leader(member, "lead").await.map_err(|e| e.to_string())?;
    Ok(())
}

impl Readers {
    fn start(count: usize, path: &Path) -> Result<Self, OpenError> {
        let mut queues = Vec::new();
        for _ in 0..count {
            let (queue, mut work) = mpsc::channel::<ReadJob>(READ_QUEUE);
            std::thread::Builder::new()
                .name("raft-read".to_owned())
                .spawn(move || {
                    while let Some(job) = work.blocking_recv() {
                        job();
                    }
                })
                .map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
            queues.push(queue);
        }
        Ok(Self { queues, next: AtomicUsize::new(0) })
    }

    fn pick(&self) -> Option<&mpsc::Sender<ReadJob>> {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        self.queues.get(next % self.queues.len())
    }
}

impl Core {
    async fn read<T: Send + 'static>(
        &self,
        job: impl FnOnce(&View) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let published = self.published.clone();
        let run = move || {
            let _ = reply.send(match published.view() {
                Some(view) => job(&view).map_err(|error| match error {
                    ReadError::Refused(error) => error,
                    ReadError::Table(error) => {
                        let message = chain(&error);
                        published.set_poison(&message);
                        StoreError::Poisoned { message }
                    }
                }),
                None => Err(StoreError::Unavailable),
            });
        };
        if let Some(message) = self.published.poison() {
            return Err(StoreError::Poisoned { message });
        }
        let queue = self.readers.pick().ok_or(StoreError::Unavailable)?;
        queue.send(Box::new(run)).await.map_err(|_| StoreError::Unavailable)?;
        answer.await.map_err(|_| StoreError::Unavailable)?
    }
}

#[async_trait]
impl ReadHistory for Core {
    async fn history(&self, span: &Span, after: u64, max: usize) -> Result<History, StoreError> {
        let span = span.clone();
        self.read(move |view| history(view, view.counters, &span, after, max)).await
    }
}

/// Collects what is asked for while the last batch is on its way to disk, and proposes it as one
/// log entry.
struct Proposer {
    raft: Raft<TypeConfig>,
    published: Arc<Published>,
    reserve: u64,
}

impl Proposer {
    async fn run(self, mut queue: mpsc::Receiver<Proposal>, cancel: CancellationToken) {
        let mut waiting = Vec::new();
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                n = queue.recv_many(&mut waiting, BATCH_REQUESTS) => {
                    if n == 0 {
                        return;
                    }
                }
            }
            self.refuse_where_full(&mut waiting);
            let mut rest = std::mem::take(&mut waiting).into_iter().peekable();
            while rest.peek().is_some() {
                let mut batch = Vec::new();
                let mut replies = Vec::new();
                let mut size = 0;
                while let Some(p) =
                    rest.next_if(|p| batch.is_empty() || size + size_hint(&p.request) <= BATCH_BYTES)
                {
                    size += size_hint(&p.request);
                    batch.push(p.request);
                    replies.push(p.reply);
                }
                self.propose(&batch, replies).await;
            }
        }
    }

    async fn propose(&self, batch: &[Request], replies: Vec<oneshot::Sender<Result<Outcome, StoreError>>>) {
        match self.raft.client_write(Command(encode_batch(batch).into())).await {
            Ok(response) => {
                for (reply, outcome) in replies.into_iter().zip(response.data.0) {
                    let _ = reply.send(Ok(outcome));
                }
            }
            Err(error) => {
                let fatal = match &error {
                    RaftError::Fatal(openraft::error::Fatal::Stopped) => None,
                    RaftError::Fatal(fatal) => Some(chain(fatal)),
                    RaftError::APIError(
                        ClientWriteError::ForwardToLeader(_) | ClientWriteError::ChangeMembershipError(_),
                    ) => None,
                };
                if let Some(message) = &fatal {
                    self.published.write_failed(message);
                }
                for reply in replies {
                    let _ = reply.send(Err(self.published.refusal()));
                }
            }
        }
    }

    /// Answers `NoSpace` before the engine runs into a full disk, from which it cannot return.
    fn refuse_where_full(&self, waiting: &mut Vec<Proposal>) {
        let Some(free) = self.published.free_bytes() else { return };
        if free >= self.reserve {
            return;
        }
        let frees_only = |request: &Request| match request {
            Request::Compact { .. } => true,
            Request::Txn(txn) => {
                !txn.success.iter().chain(&txn.failure).any(|op| matches!(op, Op::Put { .. }))
            }
        };
        for proposal in std::mem::take(waiting) {
            if free >= self.reserve / 2 && frees_only(&proposal.request) {
                waiting.push(proposal);
            } else {
                let _ = proposal.reply.send(Err(StoreError::NoSpace));
            }
        }
    }
}

#[async_trait]
impl Store for RaftStore {
    async fn range(&self, request: Range) -> Result<RangeResult, StoreError> {
        if !request.serializable {
            self.linearizable().await?;
        }
        self.core.read(move |view| range(view, view.counters, &request)).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        validate(&txn)?;
        match self.propose(Request::Txn(txn)).await? {
            Outcome::Txn(result) => Ok(result),
            Outcome::Compact(_) => Err(StoreError::Poisoned { message: "the wrong outcome".to_owned() }),
        }
    }

    async fn watch(&self, start: Bytes, end: Bytes, after: u64) -> Result<WatchReceiver, StoreError> {
        if let Some(message) = self.core.published.poison() {
            return Err(StoreError::Poisoned { message });
        }
        if after > self.revision() {
            self.linearizable().await?;
        }
        let view = self.core.published.view().ok_or(StoreError::Unavailable)?;
        check_revision(view.counters, after)?;
        let span = Span { start, end };
        Ok(start_watch(&self.core.published.hub, &self.core, &self.tracker, &self.cancel, span, after))
    }

    fn revision(&self) -> u64 {
        self.core.published.view().map_or(0, |view| view.counters.revision)
    }

    async fn read_index(&self) -> Result<u64, StoreError> {
        self.linearizable().await?;
        Ok(self.revision())
    }

    async fn compact(&self, revision: u64) -> Result<(), StoreError> {
        match self.propose(Request::Compact { revision }).await? {
            Outcome::Compact(result) => result,
            Outcome::Txn(_) => Err(StoreError::Poisoned { message: "the wrong outcome".to_owned() }),
        }
    }

    fn request_progress(&self) {
        self.core.published.hub.send_progress();
    }
}
