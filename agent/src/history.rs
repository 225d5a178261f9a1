//! Who held which address when: a bounded record on the node's disk, and the audit log beside it.
//!
//! Owns the folder (`/var/lib/portolan/history`) through one thread, `history`, behind a bounded queue. The node's owner
//! hands an entry over and goes on: it never waits for the disk, not even for the page cache, which stalls a writer when a
//! disk hangs. The thread writes the audit line and the entry, and flushes to the disk once a second when it has nothing
//! else to do. What a power cut takes is then the last second; the pods of that second end with it. When the queue is full
//! or the disk refuses, entries are lost, and the record says how many.
//!
//! | module | does |
//! | --- | --- |
//! | `entry` | what is written |
//! | `segments` | files: append, begin anew, delete the oldest, read |
//! | `timeline` | from entries to holdings; pure |
//!
//! Questions are answered from the files by whoever asks ([`Reader`]); the owner is not involved.

mod entry;
mod segments;
mod timeline;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use portolan_daemon::flood::Flood;
use portolan_wire::inspect::HistoryAnswer;
use tokio::sync::oneshot;

pub use timeline::Wanted;

use crate::records::Record;
use entry::{Entry, Verb};
use segments::Segments;

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// All files together, in bytes. An entry is about 350 bytes, a pod two of them.
    pub bytes: u64,
    /// Older files go, whatever their size.
    pub age: Duration,
}

impl Default for Limits {
    /// 64 MiB, about 90,000 pods; 90 days.
    fn default() -> Self {
        Self { bytes: 64 << 20, age: Duration::from_secs(90 * 24 * 3600) }
    }
}

/// What an earlier run left.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Past {
    /// When each address was last released, as far as the record goes back; without those that are held.
    pub released: BTreeMap<IpAddr, Timestamp>,
    /// Lines that could not be read.
    pub unreadable: u64,
}

impl Past {
    /// For how long each address has rested. An address that was released in what is now the future, because the clock
    /// went back, has just been released.
    pub fn rested(&self, now: Timestamp) -> BTreeMap<IpAddr, Duration> {
        let since = |then: &Timestamp| Duration::try_from(now.duration_since(*then)).unwrap_or_default();
        self.released.iter().map(|(address, then)| (*address, since(then))).collect()
    }
}

/// Entries that wait to be written.
const QUEUE: usize = 16_384;
/// What was written is flushed to the disk within this time.
const FLUSH: Duration = Duration::from_secs(1);

enum Message {
    Entry(Entry),
    /// Says when everything before it is in the files.
    Written(oneshot::Sender<()>),
    /// At this time these are held; everything else that is still open has ended.
    Settle(Timestamp, Vec<Entry>),
    Stop,
}

/// The record of this node. Dropping it writes what is queued.
#[derive(Debug)]
pub struct History {
    node: String,
    queue: SyncSender<Message>,
    lost: Arc<AtomicU64>,
    folder: PathBuf,
    writer: Option<JoinHandle<()>>,
}

impl History {
    /// Opens the record of this node, or begins one.
    ///
    /// # Errors
    /// When the folder cannot be made or read. Lines that cannot be read are no error.
    pub fn open(folder: &Path, node: &str, limits: Limits) -> io::Result<(Self, Past)> {
        let (segments, past) = Segments::open(folder, limits)?;
        let (queue, inbox) = sync_channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let writer = Writer { segments, lost: Arc::clone(&lost), flood: Flood::new(Duration::from_secs(60)) };
        let writer =
            std::thread::Builder::new().name("history".to_owned()).spawn(move || writer.run(&inbox))?;
        let history =
            Self { node: node.to_owned(), queue, lost, folder: folder.to_owned(), writer: Some(writer) };
        Ok((history, past))
    }

    /// The addresses of this record were given. `reason` is short: `ADD`.
    pub fn assigned(&self, record: &Record, reason: &str, now: Timestamp) {
        self.each(record, Verb::Assigned, reason, now);
    }

    /// The addresses of this record came back. `reason` is short: `DEL`, `GC`, `namespace gone`.
    pub fn released(&self, record: &Record, reason: &str, now: Timestamp) {
        self.each(record, Verb::Released, reason, now);
    }

    /// Brings the record in line with what is held at the agent's start: what ended while nobody wrote (a power cut, a
    /// full queue) ends now, what began then begins now.
    pub fn settle<'a>(&self, held: impl IntoIterator<Item = &'a Record>, now: Timestamp) {
        let entries = |record| entries(record, &self.node, Verb::Assigned, "found at start", now);
        self.send(Message::Settle(now, held.into_iter().flat_map(entries).collect()), 0);
    }

    /// Answers questions, on any task.
    pub fn reader(&self) -> Reader {
        Reader { node: self.node.clone(), queue: self.queue.clone(), folder: self.folder.clone() }
    }

    fn each(&self, record: &Record, verb: Verb, reason: &str, now: Timestamp) {
        entries(record, &self.node, verb, reason, now).for_each(|entry| self.send(Message::Entry(entry), 1));
    }

    /// Never waits; entries that the queue has no room for are counted.
    fn send(&self, message: Message, entries: u64) {
        match self.queue.try_send(message) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.lost.fetch_add(entries, Ordering::Relaxed);
            }
        }
    }
}

impl Drop for History {
    fn drop(&mut self) {
        // Waits for room: this is the end of the process, and what is queued is to be written.
        let told = self.queue.send(Message::Stop);
        if let Some(writer) = self.writer.take().filter(|_| told.is_ok())
            && writer.join().is_err()
        {
            tracing::error!("the thread that writes the history panicked");
        }
    }
}

fn entries<'a>(
    record: &'a Record,
    node: &'a str,
    verb: Verb,
    reason: &'a str,
    now: Timestamp,
) -> impl Iterator<Item = Entry> + 'a {
    record.addresses.iter().map(move |given| Entry {
        number: 0,
        time: entry::milliseconds(now),
        verb,
        address: given.address,
        pool: given.pool.clone(),
        namespace: record.namespace.clone(),
        pod: record.pod.clone(),
        uid: record.uid.clone(),
        container: record.container_id.clone(),
        node: node.to_owned(),
        reason: reason.to_owned(),
    })
}

/// Answers questions about the past.
#[derive(Debug, Clone)]
pub struct Reader {
    node: String,
    queue: SyncSender<Message>,
    folder: PathBuf,
}

impl Reader {
    /// What is known, everything included that was recorded before the question.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub async fn query(&self, wanted: Wanted) -> io::Result<HistoryAnswer> {
        let (told, written) = oneshot::channel();
        if self.queue.try_send(Message::Written(told)).is_ok() {
            // An error is a writer that has ended: then everything is in the files.
            let _ = written.await;
        }
        let (node, folder) = (self.node.clone(), self.folder.clone());
        let read = tokio::task::spawn_blocking(move || {
            let read = segments::read(&folder, |entry| wanted.concerns(entry))?;
            Ok(HistoryAnswer { node, ..timeline::answer(&read, &wanted) })
        });
        read.await.map_err(io::Error::other)?
    }
}

/// The thread.
struct Writer {
    segments: Segments,
    lost: Arc<AtomicU64>,
    flood: Flood,
}

impl Writer {
    fn run(mut self, inbox: &Receiver<Message>) {
        let mut flush: Option<Instant> = None;
        loop {
            let patience = flush.map_or(FLUSH, |due| due.saturating_duration_since(Instant::now()));
            let message = inbox.recv_timeout(patience);
            if flush.is_some_and(|due| Instant::now() >= due) {
                flush = None;
                self.heed(|segments| segments.flush());
            }
            match message {
                Ok(Message::Entry(entry)) => self.write(entry),
                Ok(Message::Settle(now, held)) => {
                    self.segments.differences(&held, now).into_iter().for_each(|entry| self.write(entry));
                }
                Ok(Message::Written(told)) => {
                    // Who asked may have given up.
                    let _ = told.send(());
                    continue;
                }
                Err(RecvTimeoutError::Timeout) => continue,
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => break,
            }
            flush.get_or_insert_with(|| Instant::now() + FLUSH);
        }
        self.heed(|segments| segments.flush());
    }

    fn write(&mut self, entry: Entry) {
        entry.audit();
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if !self.heed(|segments| segments.append(entry, lost)) {
            self.lost.fetch_add(lost + 1, Ordering::Relaxed);
        }
    }

    fn heed(&mut self, act: impl FnOnce(&mut Segments) -> io::Result<()>) -> bool {
        match act(&mut self.segments) {
            Ok(()) => {
                self.flood.clear();
                true
            }
            Err(error) => {
                let trouble = format!("the history of addresses cannot be written: {error}");
                if let Some(before) = self.flood.admit(&trouble, Instant::now()) {
                    tracing::warn!(before, "{trouble}");
                }
                false
            }
        }
    }
}

#[cfg(test)]
mod tests;
