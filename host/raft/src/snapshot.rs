//! Snapshots: the tables as one stream, made from a [`View`] while writes go on, received into a
//! spool file, installed in place of what was there.
//!
//! Stream, version 1: `ORLOPSNP`, version byte, how far the log is applied, then the records (tag
//! 1, table, key, value), tag 0, number of records, SHA-256 of all before it.
//!
//! A member that is killed while it installs finds the marker and the spool file, and installs
//! again.

use crate::record::Progress;
use crate::state::{INSTALLING, Keyspaces, PROGRESS, View};
use fjall::{Database, PersistMode};
use orlop_store::codec::{DecodeError, Encoder};
use orlop_store::{Table, TableError, Tables};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{BufReader, BufWriter, ErrorKind, Read, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const MAGIC: &[u8; 8] = b"ORLOPSNP";
const VERSION: u8 = 1;
const END: u8 = 0;
const RECORD: u8 = 1;

/// Largest field of a stream: a record is never larger than a transaction.
const MAX_FIELD: u64 = 16 << 20;

/// Bytes of records installed in one batch.
const INSTALL_STEP: usize = 1 << 20;

/// Why a snapshot cannot be written, received or installed.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A file or the network.
    #[error("the snapshot could not be read or written")]
    Io(#[from] std::io::Error),
    /// The tables.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The storage engine.
    #[error("the storage engine failed")]
    Engine(#[from] fjall::Error),
    /// Not what [`SnapshotData::write_to`] writes.
    #[error("the snapshot is corrupt")]
    Corrupt(#[source] DecodeError),
    /// Its checksum is wrong.
    #[error("the checksum of the snapshot is wrong")]
    Checksum,
    /// It is not the one that was announced.
    #[error("the snapshot is not the one that was announced")]
    Mismatch,
}

/// A snapshot that goes out or comes in.
pub struct SnapshotData(Inner);

enum Inner {
    Outgoing { view: Arc<View>, progress: Progress },
    Incoming { file: BufWriter<File>, path: PathBuf },
}

impl std::fmt::Debug for SnapshotData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match &self.0 {
            Inner::Outgoing { .. } => "SnapshotData(outgoing)",
            Inner::Incoming { .. } => "SnapshotData(incoming)",
        })
    }
}

impl SnapshotData {
    pub(crate) fn outgoing(view: Arc<View>, progress: Progress) -> Self {
        Self(Inner::Outgoing { view, progress })
    }

    pub(crate) fn receive(spool: &Path) -> Result<Self, SnapshotError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        std::fs::create_dir_all(spool)?;
        let path = spool.join(format!("incoming-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        let file = BufWriter::new(File::create(&path)?);
        Ok(Self(Inner::Incoming { file, path }))
    }

    /// Writes an outgoing snapshot. Blocking: not for async threads.
    ///
    /// # Errors
    /// [`SnapshotError`]; `Mismatch` for an incoming one.
    pub fn write_to(&self, out: impl Write) -> Result<(), SnapshotError> {
        let Inner::Outgoing { view, progress } = &self.0 else { return Err(SnapshotError::Mismatch) };
        let mut out = BufWriter::new(Hashing { inner: out, hash: Sha256::new() });
        out.write_all(MAGIC)?;
        let mut head = Encoder::default();
        head.u8(VERSION).bytes(&progress.encode());
        out.write_all(&head.finish())?;
        let mut count = 0u64;
        for (number, table) in (0u8..).zip(Table::ALL) {
            let mut failed = None;
            view.scan(table, &[], None, &mut |key, value| {
                let mut record = Encoder::with_capacity(key.len() + value.len() + 16);
                record.u8(RECORD).u8(number).bytes(key).bytes(value);
                count += 1;
                if let Err(error) = out.write_all(&record.finish()) {
                    failed = Some(error);
                    return Ok(ControlFlow::Break(()));
                }
                Ok(ControlFlow::Continue(()))
            })?;
            if let Some(error) = failed {
                return Err(error.into());
            }
        }
        let mut tail = Encoder::default();
        tail.u8(END).varint(count);
        out.write_all(&tail.finish())?;
        let mut out = out.into_inner().map_err(|e| e.into_error())?;
        let sum = out.hash.finalize();
        out.inner.write_all(&sum)?;
        out.inner.flush()?;
        Ok(())
    }

    /// Appends a part to an incoming snapshot. Blocking: not for async threads.
    ///
    /// # Errors
    /// [`SnapshotError`]; `Mismatch` for an outgoing one.
    pub fn write_part(&mut self, part: &[u8]) -> Result<(), SnapshotError> {
        let Inner::Incoming { file, .. } = &mut self.0 else { return Err(SnapshotError::Mismatch) };
        Ok(file.write_all(part)?)
    }

    pub(crate) fn into_spool(self) -> Result<PathBuf, SnapshotError> {
        let Inner::Incoming { file, path } = self.0 else { return Err(SnapshotError::Mismatch) };
        file.into_inner().map_err(|e| e.into_error())?.sync_all()?;
        Ok(path)
    }
}

struct Hashing<T> {
    inner: T,
    hash: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        let n = self.inner.write(buf)?;
        self.hash.update(buf.get(..n).unwrap_or_default());
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

/// Reads a stream field by field, hashing it.
struct Source<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Source<R> {
    fn fill(&mut self, buf: &mut [u8]) -> Result<(), SnapshotError> {
        self.inner.read_exact(buf).map_err(|e| match e.kind() {
            ErrorKind::UnexpectedEof => SnapshotError::Corrupt(DecodeError::Truncated),
            _ => SnapshotError::Io(e),
        })?;
        self.hash.update(&*buf);
        Ok(())
    }

    fn u8(&mut self) -> Result<u8, SnapshotError> {
        let mut b = [0];
        self.fill(&mut b)?;
        Ok(b[0])
    }

    fn varint(&mut self) -> Result<u64, SnapshotError> {
        let mut v = 0u64;
        for shift in (0..63).step_by(7) {
            let byte = self.u8()?;
            v |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(v);
            }
        }
        Err(SnapshotError::Corrupt(DecodeError::Integer))
    }

    fn bytes(&mut self) -> Result<Vec<u8>, SnapshotError> {
        let n = self.varint()?;
        if n > MAX_FIELD {
            return Err(SnapshotError::Corrupt(DecodeError::Integer));
        }
        let mut buf = vec![0; usize::try_from(n).map_err(|_| SnapshotError::Corrupt(DecodeError::Integer))?];
        self.fill(&mut buf)?;
        Ok(buf)
    }
}

/// Reads a whole stream and checks it.
fn read(
    path: &Path,
    mut each: impl FnMut(Table, Vec<u8>, Vec<u8>) -> Result<(), SnapshotError>,
) -> Result<Progress, SnapshotError> {
    let mut source = Source { inner: BufReader::new(File::open(path)?), hash: Sha256::new() };
    let mut magic = [0; 8];
    source.fill(&mut magic)?;
    let tag = |record, found| SnapshotError::Corrupt(DecodeError::Tag { record, found });
    if magic != *MAGIC {
        return Err(tag("snapshot", magic[0]));
    }
    match source.u8()? {
        VERSION => {}
        found => return Err(SnapshotError::Corrupt(DecodeError::Version { found })),
    }
    let progress = Progress::decode(&source.bytes()?).map_err(SnapshotError::Corrupt)?;
    let mut count = 0;
    loop {
        match source.u8()? {
            RECORD => {
                let number = source.u8()?;
                let table =
                    Table::ALL.get(usize::from(number)).copied().ok_or_else(|| tag("table", number))?;
                let (key, value) = (source.bytes()?, source.bytes()?);
                if key.is_empty() {
                    return Err(SnapshotError::Corrupt(DecodeError::Truncated));
                }
                each(table, key, value)?;
                count += 1;
            }
            END => break,
            found => return Err(tag("snapshot", found)),
        }
    }
    if source.varint()? != count {
        return Err(SnapshotError::Corrupt(DecodeError::Truncated));
    }
    let expected = source.hash.clone().finalize();
    let mut sum = [0; 32];
    source.fill(&mut sum)?;
    if expected[..] != sum[..] {
        return Err(SnapshotError::Checksum);
    }
    Ok(progress)
}

/// Puts the snapshot in `spool` in place of what the tables hold.
pub(crate) fn install(db: &Database, keyspaces: &Keyspaces, spool: &Path) -> Result<Progress, SnapshotError> {
    // Nothing is touched before the whole stream is known to be good.
    read(spool, |_, _, _| Ok(()))?;
    let name = spool.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut marker = db.batch().durability(Some(PersistMode::SyncAll));
    marker.insert(&keyspaces.raft, INSTALLING, name.as_bytes());
    marker.commit()?;
    for table in Table::ALL {
        keyspaces.table(table).clear()?;
    }
    let new_batch = || db.batch().durability(Some(PersistMode::Buffer));
    let mut batch = new_batch();
    let mut size = 0;
    let progress = read(spool, |table, key, value| {
        size += key.len() + value.len();
        batch.insert(keyspaces.table(table), key, value);
        if size >= INSTALL_STEP {
            size = 0;
            std::mem::replace(&mut batch, new_batch()).commit()?;
        }
        Ok(())
    })?;
    batch.insert(&keyspaces.raft, PROGRESS, progress.encode());
    batch.remove(&keyspaces.raft, INSTALLING);
    batch.durability(Some(PersistMode::SyncAll)).commit()?;
    let _ = std::fs::remove_file(spool);
    Ok(progress)
}

/// Removes spool files that nobody will finish.
pub(crate) fn clear_spool(spool: &Path) {
    for file in std::fs::read_dir(spool).into_iter().flatten().flatten() {
        let _ = std::fs::remove_file(file.path());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::Folder;
    use crate::state::{self, Opened};
    use crate::types::{Command, LogId};
    use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};
    use openraft::{CommittedLeaderId, Entry, EntryPayload};
    use orlop_store::{Op, Range, Request, Txn, encode_batch, range};

    fn entry(index: u64, key: &str, value: &str) -> Entry<crate::TypeConfig> {
        let op = Op::Put { key: key.to_owned().into(), value: value.to_owned().into() };
        let batch = encode_batch(&[Request::Txn(Txn { success: vec![op], ..Txn::default() })]);
        let log_id = LogId::new(CommittedLeaderId::new(1, 1), index);
        Entry { log_id, payload: EntryPayload::Normal(Command(batch.into())) }
    }

    fn open(path: &Path) -> Opened {
        state::open(&Folder::claim(path).unwrap(), &crate::Options::default()).unwrap()
    }

    fn close(opened: Opened) {
        opened.stopper.stop();
        opened.thread.join().unwrap();
    }

    fn all(opened: &Opened) -> Vec<String> {
        let view = opened.published.view().unwrap();
        let everything = Range { start: "".into(), end: "\0".into(), ..Range::default() };
        let result = range(view.as_ref(), view.counters, &everything).unwrap();
        result.kvs.iter().map(|kv| format!("{kv:?}")).collect()
    }

    #[tokio::test]
    async fn a_snapshot_replaces_what_another_member_has() {
        let temp = tempfile::tempdir().unwrap();
        let mut a = open(&temp.path().join("a"));
        let entries: Vec<_> = (1..3000).map(|n| entry(n, &format!("k{}", n % 700), "from a")).collect();
        a.machine.apply(entries).await.unwrap();
        let snapshot = a.machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
        // The stream shows the moment of the snapshot, not what came after.
        let expected = all(&a);
        a.machine.apply([entry(3000, "later", "x")]).await.unwrap();
        let mut stream = Vec::new();
        snapshot.snapshot.write_to(&mut stream).unwrap();

        let mut b = open(&temp.path().join("b"));
        b.machine.apply([entry(1, "only b", "x"), entry(2, "k5", "from b")]).await.unwrap();
        // A damaged or cut stream leaves everything as it was.
        let before = all(&b);
        for damaged in [
            &stream[..stream.len() - 1],
            &[&stream[..stream.len() / 2], b"x", &stream[stream.len() / 2 + 1..]].concat(),
        ] {
            let mut data = b.machine.begin_receiving_snapshot().await.unwrap();
            data.write_part(damaged).unwrap();
            let spool = data.into_spool().unwrap();
            assert!(read(&spool, |_, _, _| Ok(())).is_err());
        }
        assert_eq!(all(&b), before);
        let mut data = b.machine.begin_receiving_snapshot().await.unwrap();
        for part in stream.chunks(10_000) {
            data.write_part(part).unwrap();
        }
        b.machine.install_snapshot(&snapshot.meta, data).await.unwrap();
        assert_eq!(all(&b), expected);
        assert_eq!(b.machine.applied_state().await.unwrap().0, snapshot.meta.last_log_id);
        close(b);
        let b = open(&temp.path().join("b"));
        assert_eq!(all(&b), expected, "after a restart");
        close(b);
        close(a);
    }
}
