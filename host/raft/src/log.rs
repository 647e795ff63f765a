//! The Raft log and vote on fjall.
//!
//! All disk work happens on one thread, in the order in which openraft asked for it; an append is
//! reported only after `fdatasync`. The newest entries are kept in memory, because openraft reads
//! every entry back once, to apply it.

use crate::folder::{Folder, OpenError, engine};
use crate::record::{decode_entry, decode_log_id, decode_vote, encode_entry, encode_log_id, encode_vote};
use crate::types::{LogId, MemberId, StorageError, StorageIOError, TypeConfig};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{AnyError, Entry, LogState, OptionalSend, RaftLogReader, Vote};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::{mpsc, oneshot};

const VOTE: &str = "vote";
const PURGED: &str = "purged";

/// Entries kept in memory, and how many bytes of them.
const CACHE_ENTRIES: usize = 64;
const CACHE_BYTES: usize = 1 << 20;

type Reply<T> = oneshot::Sender<Result<T, StorageIOError>>;

enum Job {
    Append { entries: Vec<Entry<TypeConfig>>, flushed: LogFlushed<TypeConfig> },
    SaveVote { vote: Vote<MemberId>, reply: Reply<()> },
    Truncate { from: u64, to: u64, reply: Reply<()> },
    Purge { upto: LogId, from: u64, reply: Reply<()> },
    Read { from: u64, to: u64, reply: Reply<Vec<Entry<TypeConfig>>> },
    Stop,
}

#[derive(Default)]
struct Cache {
    entries: VecDeque<Entry<TypeConfig>>,
    bytes: usize,
}

fn weight(entry: &Entry<TypeConfig>) -> usize {
    match &entry.payload {
        openraft::EntryPayload::Normal(command) => command.0.len() + 64,
        _ => 64,
    }
}

impl Cache {
    fn push(&mut self, entry: Entry<TypeConfig>) {
        self.bytes += weight(&entry);
        self.entries.push_back(entry);
        while self.entries.len() > 1 && (self.entries.len() > CACHE_ENTRIES || self.bytes > CACHE_BYTES) {
            self.pop();
        }
    }

    fn pop(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.bytes -= weight(&entry);
        }
    }

    fn truncate(&mut self, from: u64) {
        while let Some(entry) = self.entries.pop_back_if(|e| e.log_id.index >= from) {
            self.bytes -= weight(&entry);
        }
    }

    fn read(&self, from: u64, to: u64) -> Option<Vec<Entry<TypeConfig>>> {
        let first = self.entries.front()?.log_id.index;
        let start = usize::try_from(from.checked_sub(first)?).ok()?;
        let end = usize::try_from(to.checked_sub(first)?).ok()?;
        (end <= self.entries.len() && start <= end).then(|| self.entries.range(start..end).cloned().collect())
    }
}

struct Shared {
    jobs: mpsc::UnboundedSender<Job>,
    cache: Mutex<Cache>,
    /// What the last append, truncate or purge left.
    bounds: Mutex<Bounds>,
}

#[derive(Clone, Copy, Default)]
struct Bounds {
    purged: Option<LogId>,
    last: Option<LogId>,
    vote: Option<Vote<MemberId>>,
}

/// The log store; a handle to its thread.
#[derive(Clone)]
pub(crate) struct LogStore {
    shared: Arc<Shared>,
}

/// The disk side, owned by the thread.
struct Disk {
    db: Database,
    log: Keyspace,
    meta: Keyspace,
    _lock: std::fs::File,
}

fn corrupt(folder: &Folder, source: impl std::error::Error + Send + Sync + 'static) -> OpenError {
    OpenError::Corrupt { path: folder.path.clone(), source: Box::new(source) }
}

/// Opens the log and starts its thread.
pub(crate) fn open(folder: &Folder) -> Result<(LogStore, JoinHandle<()>), OpenError> {
    let path = folder.path.join("log");
    let failed = |e| engine(&folder.path, e);
    let db = Database::builder(&path)
        .cache_size(1 << 20)
        .worker_threads(1)
        .max_journaling_size(64 << 20)
        .manual_journal_persist(true)
        .open()
        .map_err(failed)?;
    let options = || KeyspaceCreateOptions::default().max_memtable_size(4 << 20).manual_journal_persist(true);
    let log = db.keyspace("log", options).map_err(failed)?;
    let meta = db.keyspace("meta", options).map_err(failed)?;
    let mut bounds = Bounds::default();
    if let Some(record) = meta.get(VOTE).map_err(failed)? {
        bounds.vote = Some(decode_vote(&record).map_err(|e| corrupt(folder, e))?);
    }
    if let Some(record) = meta.get(PURGED).map_err(failed)? {
        bounds.purged = Some(decode_log_id(&record).map_err(|e| corrupt(folder, e))?);
    }
    bounds.last = bounds.purged;
    if let Some(guard) = log.last_key_value() {
        let (_, record) = guard.into_inner().map_err(failed)?;
        let last = decode_entry(&record).map_err(|e| corrupt(folder, e))?.log_id;
        bounds.last = bounds.last.max(Some(last));
    }
    let (jobs, work) = mpsc::unbounded_channel();
    let disk = Disk { db, log, meta, _lock: folder.hold()? };
    let thread = std::thread::Builder::new()
        .name("raft-log".to_owned())
        .spawn(move || disk.run(work))
        .map_err(|source| OpenError::Io { path, source })?;
    let shared = Shared { jobs, cache: Mutex::default(), bounds: Mutex::new(bounds) };
    Ok((LogStore { shared: Arc::new(shared) }, thread))
}

impl Disk {
    fn run(self, mut work: mpsc::UnboundedReceiver<Job>) {
        while let Some(job) = work.blocking_recv() {
            match job {
                Job::Append { entries, flushed } => {
                    let result = self.append(&entries).map_err(std::io::Error::other);
                    flushed.log_io_completed(result);
                }
                Job::SaveVote { vote, reply } => {
                    let _ = reply.send(self.save_vote(&vote).map_err(|e| StorageIOError::write_vote(&e)));
                }
                Job::Truncate { from, to, reply } => {
                    let _ =
                        reply.send(self.remove(from, to, None).map_err(|e| StorageIOError::write_logs(&e)));
                }
                Job::Purge { upto, from, reply } => {
                    let result = self.remove(from, upto.index + 1, Some(&upto));
                    let _ = reply.send(result.map_err(|e| StorageIOError::write_logs(&e)));
                }
                Job::Read { from, to, reply } => {
                    let _ = reply.send(self.read(from, to));
                }
                Job::Stop => break,
            }
        }
        if let Err(error) = self.db.persist(PersistMode::SyncAll) {
            tracing::warn!(%error, "the log could not be synced at shutdown");
        }
    }

    fn append(&self, entries: &[Entry<TypeConfig>]) -> fjall::Result<()> {
        let mut batch = self.db.batch().durability(Some(PersistMode::SyncData));
        for entry in entries {
            batch.insert(&self.log, entry.log_id.index.to_be_bytes(), encode_entry(entry));
        }
        batch.commit()
    }

    fn save_vote(&self, vote: &Vote<MemberId>) -> fjall::Result<()> {
        let mut batch = self.db.batch().durability(Some(PersistMode::SyncData));
        batch.insert(&self.meta, VOTE, encode_vote(vote));
        batch.commit()
    }

    /// Removes the entries from `from` to `to` (exclusive). Not synced: what follows in the journal
    /// is, and a crash before that brings back entries that may as well be there.
    fn remove(&self, from: u64, to: u64, purged: Option<&LogId>) -> fjall::Result<()> {
        let mut batch = self.db.batch().durability(Some(PersistMode::Buffer));
        for index in from..to {
            batch.remove(&self.log, index.to_be_bytes());
        }
        if let Some(purged) = purged {
            batch.insert(&self.meta, PURGED, encode_log_id(purged));
        }
        batch.commit()
    }

    #[expect(clippy::result_large_err, reason = "openraft's error type")]
    fn read(&self, from: u64, to: u64) -> Result<Vec<Entry<TypeConfig>>, StorageIOError> {
        let mut entries = Vec::new();
        for guard in self.log.range(from.to_be_bytes()..to.to_be_bytes()) {
            let (_, record) = guard.into_inner().map_err(|e| StorageIOError::read_logs(&e))?;
            entries.push(decode_entry(&record).map_err(|e| StorageIOError::read_logs(&e))?);
        }
        Ok(entries)
    }
}

fn gone() -> StorageIOError {
    StorageIOError::write_logs(AnyError::error("the log has been closed"))
}

impl LogStore {
    /// Ends the thread once the jobs before are done.
    pub(crate) fn stop(&self) {
        let _ = self.shared.jobs.send(Job::Stop);
    }

    async fn ask<T>(&self, job: impl FnOnce(Reply<T>) -> Job) -> Result<T, StorageError> {
        let (reply, answer) = oneshot::channel();
        self.shared.jobs.send(job(reply)).map_err(|_| gone())?;
        Ok(answer.await.map_err(|_| gone())??)
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry<TypeConfig>>, StorageError> {
        let from = match range.start_bound() {
            Bound::Included(i) => *i,
            Bound::Excluded(i) => i.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(i) => i.saturating_add(1),
            Bound::Excluded(i) => *i,
            Bound::Unbounded => u64::MAX,
        };
        if from >= to {
            return Ok(Vec::new());
        }
        if let Some(entries) = self.shared.cache.lock().read(from, to) {
            return Ok(entries);
        }
        self.ask(|reply| Job::Read { from, to, reply }).await
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let bounds = *self.shared.bounds.lock();
        Ok(LogState { last_purged_log_id: bounds.purged, last_log_id: bounds.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<MemberId>) -> Result<(), StorageError> {
        let vote = *vote;
        self.ask(|reply| Job::SaveVote { vote, reply }).await?;
        self.shared.bounds.lock().vote = Some(vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<MemberId>>, StorageError> {
        Ok(self.shared.bounds.lock().vote)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry<TypeConfig>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<_> = entries.into_iter().collect();
        if let Some(last) = entries.last() {
            self.shared.bounds.lock().last = Some(last.log_id);
        }
        {
            let mut cache = self.shared.cache.lock();
            for entry in &entries {
                cache.push(entry.clone());
            }
        }
        self.shared.jobs.send(Job::Append { entries, flushed: callback }).map_err(|_| gone())?;
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        self.shared.cache.lock().truncate(log_id.index);
        let to = self.shared.bounds.lock().last.map_or(0, |last| last.index + 1);
        self.ask(|reply| Job::Truncate { from: log_id.index, to, reply }).await?;
        let before = log_id.index.saturating_sub(1);
        let left = self.try_get_log_entries(before..log_id.index).await?;
        let mut bounds = self.shared.bounds.lock();
        bounds.last = left.last().map(|e| e.log_id).or(bounds.purged);
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let from = {
            let mut bounds = self.shared.bounds.lock();
            let from = bounds.purged.map_or(0, |p| p.index + 1);
            bounds.purged = Some(log_id);
            bounds.last = bounds.last.max(Some(log_id));
            from
        };
        {
            let mut cache = self.shared.cache.lock();
            while cache.entries.front().is_some_and(|e| e.log_id.index <= log_id.index) {
                cache.pop();
            }
        }
        self.ask(|reply| Job::Purge { upto: log_id, from, reply }).await
    }
}
