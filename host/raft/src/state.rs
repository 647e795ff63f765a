//! The state machine on fjall.
//!
//! One thread applies. Each step is one atomic batch of fjall: the writes of
//! [`orlop_store::apply`], and how far the log is applied. The batch is not synced: the log is, and
//! after a crash openraft applies again what is missing. After a step a [`View`] of the new state is
//! published, then the events, then the answers.

use crate::folder::{Folder, OpenError, engine};
use crate::record::Progress;
use crate::snapshot::{SnapshotData, install};
use crate::store::Options;
use crate::types::{Response, StorageError, StorageIOError, StoredMembership, TypeConfig};
use bytes::Bytes;
use fjall::compaction::Leveled;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable};
use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine, Snapshot, SnapshotMeta};
use openraft::{AnyError, BasicNode, Entry, EntryPayload, OptionalSend};
use orlop_store::{
    Counters, Hub, Request, StoreError, Table, TableError, Tables, Visit, Write, apply, decode_batch, garbage,
};
use parking_lot::RwLock;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use tokio::sync::{mpsc, oneshot};

pub(crate) const PROGRESS: &str = "progress";
pub(crate) const INSTALLING: &str = "installing";

/// Largest memtable of a keyspace, in bytes.
const MEMTABLE_BYTES: u64 = 8 << 20;
/// Flushed memtables that are merged at once.
const L0_TABLES: u8 = 8;
/// Size of a table of a lower level, in bytes; the first one holds [`L0_TABLES`] of them.
const TABLE_BYTES: u64 = 16 << 20;

/// Changes that one step of a compaction removes.
const GARBAGE_STEP: usize = 1000;

/// The tables' keyspaces.
#[derive(Clone)]
pub(crate) struct Keyspaces {
    current: Keyspace,
    old: Keyspace,
    changes: Keyspace,
    meta: Keyspace,
    /// Raft's own records.
    pub(crate) raft: Keyspace,
}

impl Keyspaces {
    pub(crate) fn table(&self, table: Table) -> &Keyspace {
        match table {
            Table::Current => &self.current,
            Table::Old => &self.old,
            Table::Changes => &self.changes,
            Table::Meta => &self.meta,
        }
    }
}

/// The state at one moment. Cheap to share; what it shows never changes.
pub(crate) struct View {
    snapshot: fjall::Snapshot,
    keyspaces: Keyspaces,
    pub(crate) counters: Counters,
}

fn storage(error: fjall::Error) -> TableError {
    TableError::Storage(Box::new(error))
}

impl Tables for View {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, TableError> {
        if key.is_empty() {
            return Ok(None);
        }
        let record = self.snapshot.get(self.keyspaces.table(table), key).map_err(storage)?;
        Ok(record.map(|r| Bytes::copy_from_slice(&r)))
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        visit: &mut Visit<'_>,
    ) -> Result<(), TableError> {
        if end.is_some_and(|end| end <= start) {
            return Ok(());
        }
        let range = (Bound::Included(start), end.map_or(Bound::Unbounded, Bound::Excluded));
        for guard in self.snapshot.range::<&[u8], _>(self.keyspaces.table(table), range) {
            let (key, record) = guard.into_inner().map_err(storage)?;
            if visit(&key, &record)?.is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// What readers share with the thread.
pub(crate) struct Published {
    /// `None` after shutdown.
    view: RwLock<Option<Arc<View>>>,
    pub(crate) hub: Arc<Hub>,
    poison: RwLock<Option<String>>,
    /// Whether the engine itself ran into a full disk. It takes no more writes before it is opened
    /// again; reads go on.
    pub(crate) full: AtomicBool,
    folder: PathBuf,
    reserve: u64,
    /// Whether this member is the only voter, so that what is applied here is all there is.
    pub(crate) alone: AtomicBool,
}

impl Published {
    pub(crate) fn view(&self) -> Option<Arc<View>> {
        self.view.read().clone()
    }

    pub(crate) fn poison(&self) -> Option<String> {
        self.poison.read().clone()
    }

    /// Space that the file system has left for us, in bytes; `None` where it does not say.
    pub(crate) fn free_bytes(&self) -> Option<u64> {
        let stat = nix::sys::statvfs::statvfs(&self.folder).ok()?;
        Some(stat.blocks_available() * stat.fragment_size())
    }

    /// Whether there is so little space that it must be the reason for a failed write.
    pub(crate) fn is_tight(&self) -> bool {
        self.free_bytes().is_some_and(|free| free < self.reserve.max(1 << 20))
    }

    /// Records that a write failed: because of a full disk, or for good.
    pub(crate) fn write_failed(&self, message: &str) {
        if self.poison.read().is_none() && (self.full.load(Ordering::Acquire) || self.is_tight()) {
            if !self.full.swap(true, Ordering::AcqRel) {
                tracing::error!(
                    error = message,
                    "the disk is full, the store takes no more writes until it is restarted"
                );
            }
        } else {
            self.set_poison(message);
        }
    }

    /// What a write is answered that cannot be made.
    pub(crate) fn refusal(&self) -> StoreError {
        if let Some(message) = self.poison() {
            return StoreError::Poisoned { message };
        }
        if !self.full.load(Ordering::Acquire) {
            return StoreError::Unavailable;
        }
        if self.is_tight() {
            return StoreError::NoSpace;
        }
        let message = "the disk was full in the middle of a write; there is space again, restart the program"
            .to_owned();
        StoreError::Poisoned { message }
    }

    /// Records that the store has stopped, and ends all watches.
    pub(crate) fn set_poison(&self, message: &str) {
        let mut poison = self.poison.write();
        if poison.is_none() {
            tracing::error!(error = message, "the store has stopped");
            *poison = Some(message.to_owned());
            self.hub.close(Some(message.to_owned()));
        }
    }

    pub(crate) fn close(&self) {
        *self.view.write() = None;
        self.hub.close(None);
    }
}

type Reply<T> = oneshot::Sender<Result<T, StorageIOError>>;
type Meta = SnapshotMeta<u64, BasicNode>;

enum Job {
    Apply { entries: Vec<Entry<TypeConfig>>, reply: Reply<Vec<Response>> },
    Build { reply: Reply<(Meta, Arc<View>)> },
    Install { meta: Box<Meta>, spool: PathBuf, reply: Reply<()> },
    Stop,
}

/// The disk side, owned by the thread.
pub(crate) struct Disk {
    pub(crate) db: Database,
    pub(crate) keyspaces: Keyspaces,
    progress: Progress,
    counters: Counters,
    published: Arc<Published>,
    /// Changes below this revision were removed by a compaction; `None` where one is not done.
    collected: u64,
    member: u64,
    _lock: std::fs::File,
}

/// The state machine; a handle to its thread.
pub(crate) struct StateMachine {
    jobs: mpsc::UnboundedSender<Job>,
    progress: Progress,
    spool: PathBuf,
}

/// Ends the thread once the jobs before are done.
#[derive(Clone)]
pub(crate) struct Stopper(mpsc::UnboundedSender<Job>);

impl Stopper {
    pub(crate) fn stop(&self) {
        let _ = self.0.send(Job::Stop);
    }
}

pub(crate) struct Opened {
    pub(crate) machine: StateMachine,
    pub(crate) stopper: Stopper,
    pub(crate) published: Arc<Published>,
    pub(crate) thread: JoinHandle<()>,
}

/// Opens the state and starts its thread.
pub(crate) fn open(folder: &Folder, options: &Options) -> Result<Opened, OpenError> {
    let member = options.member;
    let path = folder.path.join("state");
    let failed = |e| engine(&folder.path, e);
    let corrupt = |source: Box<dyn std::error::Error + Send + Sync>| OpenError::Corrupt {
        path: folder.path.clone(),
        source,
    };
    let db = Database::builder(&path)
        .cache_size(options.cache_bytes)
        // Of two, one spins for as long as the other compacts.
        .worker_threads(1)
        .max_journaling_size(64 << 20)
        .manual_journal_persist(true)
        .open()
        .map_err(failed)?;
    // A merge into the first level rewrites most of it, since keys come in no order: it is small, and what is
    // merged at once is not.
    let levels = Leveled::default().with_l0_threshold(L0_TABLES).with_table_target_size(TABLE_BYTES);
    let levels = Arc::new(levels);
    let tables = || {
        KeyspaceCreateOptions::default()
            .max_memtable_size(MEMTABLE_BYTES)
            .manual_journal_persist(true)
            .compaction_strategy(levels.clone())
    };
    let open = |name| db.keyspace(name, tables).map_err(failed);
    let keyspaces = Keyspaces {
        current: open(Table::Current.name())?,
        old: open(Table::Old.name())?,
        changes: open(Table::Changes.name())?,
        meta: open(Table::Meta.name())?,
        raft: open("raft")?,
    };
    let spool = folder.path.join("snapshots");
    if let Some(name) = keyspaces.raft.get(INSTALLING).map_err(failed)? {
        let name = String::from_utf8_lossy(&name).into_owned();
        install(&db, &keyspaces, &spool.join(name)).map_err(|e| corrupt(Box::new(e)))?;
    }
    crate::snapshot::clear_spool(&spool);
    let mut progress = Progress::default();
    if let Some(record) = keyspaces.raft.get(PROGRESS).map_err(failed)? {
        progress = Progress::decode(&record).map_err(|e| corrupt(Box::new(e)))?;
    }
    let view = View { snapshot: db.snapshot(), keyspaces: keyspaces.clone(), counters: Counters::default() };
    let counters = Counters::load(&view).map_err(|e| corrupt(Box::new(e)))?;
    let published = Arc::new(Published {
        view: RwLock::new(Some(Arc::new(View { counters, ..view }))),
        hub: Arc::new(Hub::new(counters.revision)),
        poison: RwLock::new(None),
        full: AtomicBool::new(false),
        folder: folder.path.clone(),
        reserve: options.min_free_bytes,
        alone: AtomicBool::new(is_alone(&progress.membership, member)),
    });
    let (jobs, work) = mpsc::unbounded_channel();
    let disk = Disk {
        db,
        keyspaces,
        progress: progress.clone(),
        counters,
        published: published.clone(),
        collected: 0,
        member,
        _lock: folder.hold()?,
    };
    let thread = std::thread::Builder::new()
        .name("raft-state".to_owned())
        .spawn(move || disk.run(work))
        .map_err(|source| OpenError::Io { path, source })?;
    let machine = StateMachine { jobs: jobs.clone(), progress, spool };
    Ok(Opened { machine, stopper: Stopper(jobs), published, thread })
}

fn is_alone(membership: &StoredMembership, member: u64) -> bool {
    let mut voters = membership.voter_ids();
    voters.next() == Some(member) && voters.next().is_none()
}

impl Disk {
    fn run(mut self, mut work: mpsc::UnboundedReceiver<Job>) {
        loop {
            // A compaction proceeds in small steps while nothing else is to be done.
            let job = if self.collected < self.counters.compacted {
                match work.try_recv() {
                    Ok(job) => job,
                    Err(mpsc::error::TryRecvError::Empty) => {
                        if let Err(error) = self.collect() {
                            self.published.write_failed(&chain(&error));
                            self.collected = u64::MAX;
                        }
                        continue;
                    }
                    Err(mpsc::error::TryRecvError::Disconnected) => break,
                }
            } else {
                match work.blocking_recv() {
                    Some(job) => job,
                    None => break,
                }
            };
            match job {
                Job::Apply { entries, reply } => {
                    let _ = reply.send(self.apply(entries).map_err(|e| {
                        self.published.write_failed(&chain(&e));
                        StorageIOError::write_state_machine(&e)
                    }));
                }
                Job::Build { reply } => {
                    let _ = reply.send(self.build().map_err(|e| StorageIOError::write_snapshot(None, &e)));
                }
                Job::Install { meta, spool, reply } => {
                    let _ = reply.send(self.install(&meta, &spool).map_err(|e| {
                        self.published.set_poison(&chain(&e));
                        StorageIOError::write_snapshot(None, &e)
                    }));
                }
                Job::Stop => break,
            }
        }
        // The views hold keyspaces: without them the engine can close.
        self.published.close();
        if let Err(error) = self.db.persist(PersistMode::SyncAll) {
            tracing::warn!(%error, "the state could not be synced at shutdown");
        }
    }

    fn view(&self) -> Arc<View> {
        let (snapshot, keyspaces) = (self.db.snapshot(), self.keyspaces.clone());
        Arc::new(View { snapshot, keyspaces, counters: self.counters })
    }

    fn commit(&self, writes: Vec<Write>, progress: Option<&Progress>) -> Result<(), TableError> {
        let mut batch = self.db.batch().durability(Some(PersistMode::Buffer));
        for (table, key, value) in writes {
            let keyspace = self.keyspaces.table(table);
            match value {
                Some(value) => batch.insert(keyspace, key, value),
                None => batch.remove(keyspace, key),
            }
        }
        if let Some(progress) = progress {
            batch.insert(&self.keyspaces.raft, PROGRESS, progress.encode());
        }
        batch.commit().map_err(storage)
    }

    fn apply(&mut self, entries: Vec<Entry<TypeConfig>>) -> Result<Vec<Response>, TableError> {
        let mut requests: Vec<Request> = Vec::new();
        let mut sizes = Vec::with_capacity(entries.len());
        for entry in entries {
            self.progress.applied = Some(entry.log_id);
            let mut size = 0;
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(command) => {
                    let batch = decode_batch(&command.0)
                        .map_err(|source| TableError::Corrupt { table: "log", source })?;
                    size = batch.len();
                    requests.extend(batch);
                }
                EntryPayload::Membership(membership) => {
                    self.progress.membership = StoredMembership::new(Some(entry.log_id), membership);
                    let alone = is_alone(&self.progress.membership, self.member);
                    self.published.alone.store(alone, Ordering::Release);
                }
            }
            sizes.push(size);
        }
        let before = self.published.view().unwrap_or_else(|| self.view());
        let applied = apply(before.as_ref(), self.counters, requests)?;
        self.commit(applied.writes, Some(&self.progress))?;
        self.counters = applied.counters;
        *self.published.view.write() = Some(self.view());
        self.published.hub.publish(applied.events, self.counters.revision);
        let mut outcomes = applied.outcomes.into_iter();
        Ok(sizes.into_iter().map(|n| Response(outcomes.by_ref().take(n).collect())).collect())
    }

    fn collect(&mut self) -> Result<(), TableError> {
        let view = self.view();
        let part = garbage(view.as_ref(), self.collected, self.counters.compacted, GARBAGE_STEP)?;
        if !part.writes.is_empty() {
            self.commit(part.writes, None)?;
        }
        self.collected = part.collected;
        if self.collected >= self.counters.compacted {
            // So that the next view does not show, and the engine does not keep, what is gone.
            *self.published.view.write() = Some(self.view());
        }
        Ok(())
    }

    /// A snapshot is a view: building one costs a sync, so that the log before it can be purged.
    fn build(&self) -> Result<(Meta, Arc<View>), fjall::Error> {
        self.db.persist(PersistMode::SyncAll)?;
        Ok((meta_of(&self.progress), self.view()))
    }

    fn install(
        &mut self,
        meta: &Meta,
        spool: &std::path::Path,
    ) -> Result<(), crate::snapshot::SnapshotError> {
        // What readers have seen so far is about to be replaced under their feet.
        *self.published.view.write() = None;
        let progress = install(&self.db, &self.keyspaces, spool)?;
        if progress.applied != meta.last_log_id {
            return Err(crate::snapshot::SnapshotError::Mismatch);
        }
        self.progress = progress;
        self.published.alone.store(is_alone(&self.progress.membership, self.member), Ordering::Release);
        self.counters = Counters::load(self.view().as_ref())?;
        self.collected = 0;
        *self.published.view.write() = Some(self.view());
        self.published.hub.reset(self.counters.revision);
        Ok(())
    }
}

pub(crate) fn meta_of(progress: &Progress) -> Meta {
    let snapshot_id = progress.applied.map_or_else(|| "empty".to_owned(), |id| id.to_string());
    SnapshotMeta { last_log_id: progress.applied, last_membership: progress.membership.clone(), snapshot_id }
}

/// An error and its sources in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

fn gone() -> StorageIOError {
    StorageIOError::write_state_machine(AnyError::error("the state machine has been closed"))
}

async fn ask<T>(
    jobs: &mpsc::UnboundedSender<Job>,
    job: impl FnOnce(Reply<T>) -> Job,
) -> Result<T, StorageError> {
    let (reply, answer) = oneshot::channel();
    jobs.send(job(reply)).map_err(|_| gone())?;
    Ok(answer.await.map_err(|_| gone())??)
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotBuilder = Builder;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<crate::types::LogId>, StoredMembership), StorageError> {
        Ok((self.progress.applied, self.progress.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Response>, StorageError>
    where
        I: IntoIterator<Item = Entry<TypeConfig>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<_> = entries.into_iter().collect();
        for entry in &entries {
            self.progress.applied = Some(entry.log_id);
            if let EntryPayload::Membership(membership) = &entry.payload {
                self.progress.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
            }
        }
        ask(&self.jobs, |reply| Job::Apply { entries, reply }).await
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { jobs: self.jobs.clone() }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<SnapshotData>, StorageError> {
        let data =
            SnapshotData::receive(&self.spool).map_err(|e| StorageIOError::write_snapshot(None, &e))?;
        Ok(Box::new(data))
    }

    async fn install_snapshot(
        &mut self,
        meta: &Meta,
        snapshot: Box<SnapshotData>,
    ) -> Result<(), StorageError> {
        let spool = snapshot.into_spool().map_err(|e| StorageIOError::write_snapshot(None, &e))?;
        let meta = meta.clone();
        let boxed = Box::new(meta.clone());
        ask(&self.jobs, |reply| Job::Install { meta: boxed, spool, reply }).await?;
        self.progress = Progress { applied: meta.last_log_id, membership: meta.last_membership };
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, StorageError> {
        // A view of the last snapshot would pin what it shows for as long as nobody asks for it;
        // a new one costs a sync.
        if self.progress.applied.is_none() {
            return Ok(None);
        }
        let snapshot = Builder { jobs: self.jobs.clone() }.build_snapshot().await?;
        Ok(Some(snapshot))
    }
}

/// Builds snapshots.
pub(crate) struct Builder {
    jobs: mpsc::UnboundedSender<Job>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, StorageError> {
        let (meta, view) = ask(&self.jobs, |reply| Job::Build { reply }).await?;
        let progress = Progress { applied: meta.last_log_id, membership: meta.last_membership.clone() };
        Ok(Snapshot { meta, snapshot: Box::new(SnapshotData::outgoing(view, progress)) })
    }
}
