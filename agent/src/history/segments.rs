//! The files of the record: JSON lines, the newest file is appended to, the oldest is deleted as a whole.
//!
//! A file is named by the number of its first own entry. Before that it repeats the assignments that were open when it was
//! begun, as they were first written, with their old numbers: so the holder of an address is known for as long as it holds
//! it, whatever has been deleted. Readers meet such a line more than once and keep one.
//!
//! A line that was cut off by a crash ends with the newline that the next run puts behind it, and is skipped.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use portolan_wire::inspect::ClockStep;

use super::entry::{Entry, Gap, Verb};
use super::{Limits, Past};

/// The record is in about this many files.
const FILES: u64 = 16;

/// The files, as their writer sees them.
#[derive(Debug)]
pub(super) struct Segments {
    folder: PathBuf,
    limits: Limits,
    files: VecDeque<Segment>,
    /// The newest file; `None` until there is something to write.
    current: Option<File>,
    /// The last write to it ended with a newline.
    clean: bool,
    next: u64,
    open: BTreeMap<(IpAddr, String), Entry>,
}

#[derive(Debug)]
struct Segment {
    path: PathBuf,
    bytes: u64,
    first: Option<Timestamp>,
    last: Option<Timestamp>,
}

/// What was read.
#[derive(Debug, Default)]
pub(super) struct Read {
    /// Wanted entries, in the order in which they happened.
    pub entries: Vec<Entry>,
    /// Before which number the clock went back.
    pub steps: Vec<(u64, ClockStep)>,
    /// The time from which on nothing has been deleted.
    pub oldest: Option<Timestamp>,
    /// Entries that were never written.
    pub lost: u64,
    /// Lines that could not be read.
    pub unreadable: u64,
}

impl Segments {
    /// Reads what there is.
    ///
    /// # Errors
    /// When the folder cannot be made or read.
    pub fn open(folder: &Path, limits: Limits) -> io::Result<(Self, Past)> {
        fs::create_dir_all(folder)?;
        let mut segments = Self {
            folder: folder.to_owned(),
            limits,
            files: VecDeque::new(),
            current: None,
            clean: true,
            next: 1,
            open: BTreeMap::new(),
        };
        let mut past = Past::default();
        for path in paths(folder)? {
            let first = number(&path).unwrap_or_default();
            let mut segment = Segment { bytes: fs::metadata(&path)?.len(), path, first: None, last: None };
            let whole = lines(&segment.path, |line| match parse(line) {
                Some(Line::Entry(entry)) => {
                    if entry.number >= first {
                        segment.first.get_or_insert(entry.time);
                        segment.last = Some(entry.time);
                    }
                    segments.learn(entry, &mut past);
                }
                Some(Line::Gap(_)) => {}
                None => past.unreadable += 1,
            })?;
            segments.clean = whole;
            segments.files.push_back(segment);
        }
        if let Some(newest) = segments.files.back() {
            segments.current = Some(OpenOptions::new().append(true).open(&newest.path)?);
        }
        Ok((segments, past))
    }

    fn learn(&mut self, entry: Entry, past: &mut Past) {
        let repeated = entry.number < self.next;
        let key = (entry.address, entry.container.clone());
        match entry.verb {
            // Repeated lines are of what is open still; here they say nothing new, unless the first was deleted.
            Verb::Assigned => {
                past.released.remove(&entry.address);
                self.open.entry(key).or_insert(entry.clone());
            }
            Verb::Released => {
                past.released.insert(entry.address, entry.time);
                self.open.remove(&key);
            }
        }
        if !repeated {
            self.next = entry.number + 1;
        }
    }

    /// Writes an entry, behind a line that says how many were lost before it.
    ///
    /// # Errors
    /// When it cannot be written; its number is then used again.
    pub fn append(&mut self, mut entry: Entry, lost: u64) -> io::Result<()> {
        entry.number = self.next;
        let mut text = Vec::new();
        if lost > 0 {
            line(&mut text, &Gap { lost })?;
        }
        line(&mut text, &entry)?;
        if self.is_full(text.len(), entry.time) {
            self.begin()?;
        }
        self.write(&text)?;
        if let Some(newest) = self.files.back_mut() {
            newest.first.get_or_insert(entry.time);
            newest.last = Some(entry.time);
        }
        self.next += 1;
        let key = (entry.address, entry.container.clone());
        match entry.verb {
            Verb::Assigned => self.open.insert(key, entry),
            Verb::Released => self.open.remove(&key),
        };
        Ok(())
    }

    /// What has to be written so that these are held and nothing else.
    pub fn differences(&self, held: &[Entry], now: Timestamp) -> Vec<Entry> {
        let key = |entry: &Entry| (entry.address, entry.container.clone());
        let keys: Vec<_> = held.iter().map(key).collect();
        let gone = self.open.iter().filter(|(key, _)| !keys.contains(key)).map(|(_, entry)| Entry {
            time: super::entry::milliseconds(now),
            verb: Verb::Released,
            reason: "gone at start".to_owned(),
            ..entry.clone()
        });
        let fresh = held.iter().filter(|entry| !self.open.contains_key(&key(entry))).cloned();
        gone.chain(fresh).collect()
    }

    /// Brings what was written to the disk.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn flush(&mut self) -> io::Result<()> {
        self.current.as_ref().map_or(Ok(()), File::sync_data)
    }

    fn is_full(&self, more: usize, now: Timestamp) -> bool {
        let Some(newest) = self.files.back() else { return true };
        let share = self.limits.bytes / FILES;
        let age = newest.first.and_then(|first| now.duration_since(first).try_into().ok());
        self.current.is_none()
            || newest.bytes + more as u64 > share.max(1)
            || age.is_some_and(|age: std::time::Duration| age > self.limits.age / FILES as u32)
    }

    /// Begins a file with what is open, and deletes what is too much. By age at most one file goes at a time: a clock that
    /// jumps ahead for a while must not take the whole record with it.
    fn begin(&mut self) -> io::Result<()> {
        let path = self.folder.join(format!("{:020}.jsonl", self.next));
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        let last = self.files.back().and_then(|newest| newest.last);
        self.current = Some(file);
        self.clean = true;
        self.files.push_back(Segment { path, bytes: 0, first: None, last: None });
        let mut text = Vec::new();
        self.open.values().try_for_each(|entry| line(&mut text, entry))?;
        self.write(&text)?;
        let too_old =
            self.files.front().and_then(|oldest| oldest.last).zip(last).is_some_and(|(then, now)| {
                std::time::Duration::try_from(now.duration_since(then)).is_ok_and(|age| age > self.limits.age)
            });
        if too_old {
            self.delete_oldest()?;
        }
        // The newest file has nothing yet and will take its share.
        while self.files.len() > 1 && self.bytes() + self.limits.bytes / FILES > self.limits.bytes {
            self.delete_oldest()?;
        }
        Ok(())
    }

    fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    fn delete_oldest(&mut self) -> io::Result<()> {
        let Some(oldest) = self.files.pop_front() else { return Ok(()) };
        match fs::remove_file(&oldest.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Whole lines in one write. After one that failed, half a line may stand there: it is ended first.
    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        let (Some(file), Some(newest)) = (self.current.as_mut(), self.files.back_mut()) else {
            return Ok(());
        };
        let end: &[u8] = if self.clean { b"" } else { b"\n" };
        let whole = [end, text].concat();
        self.clean = false;
        file.write_all(&whole)?;
        self.clean = true;
        newest.bytes += whole.len() as u64;
        Ok(())
    }
}

/// Reads all files, keeping the entries that are wanted.
///
/// # Errors
/// When the folder cannot be read. A file that was deleted meanwhile is none.
pub(super) fn read(folder: &Path, wanted: impl Fn(&Entry) -> bool) -> io::Result<Read> {
    let mut found = Read::default();
    let mut entries: BTreeMap<u64, Entry> = BTreeMap::new();
    let mut before: Option<Entry> = None;
    for path in paths(folder)? {
        let first = number(&path).unwrap_or_default();
        let whole = lines(&path, |line| match parse(line) {
            Some(Line::Entry(entry)) => {
                let own = entry.number >= first;
                if own {
                    found.oldest.get_or_insert(entry.time);
                    if let Some(before) = before.as_ref().filter(|before| entry.time < before.time) {
                        found.steps.push((entry.number, ClockStep { from: before.time, to: entry.time }));
                    }
                }
                if wanted(&entry) {
                    entries.insert(entry.number, entry.clone());
                }
                if own {
                    before = Some(entry);
                }
            }
            Some(Line::Gap(gap)) => found.lost += gap.lost,
            None => found.unreadable += 1,
        });
        match whole {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => drop(other?),
        }
    }
    found.entries = entries.into_values().collect();
    Ok(found)
}

#[allow(clippy::large_enum_variant, reason = "one at a time, and nearly always the large one")]
enum Line {
    Entry(Entry),
    Gap(Gap),
}

fn parse(line: &[u8]) -> Option<Line> {
    let entry = serde_json::from_slice(line).map(Line::Entry);
    entry.or_else(|_| serde_json::from_slice(line).map(Line::Gap)).ok()
}

fn line(text: &mut Vec<u8>, value: &impl serde::Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *text, value)?;
    text.push(b'\n');
    Ok(())
}

/// Every line that has an end. Whether the last one has: the writer may be in the middle of it, or have died there.
fn lines(path: &Path, mut each: impl FnMut(&[u8])) -> io::Result<bool> {
    let mut reader = BufReader::new(File::open(path)?);
    let mut line = Vec::new();
    loop {
        line.clear();
        reader.read_until(b'\n', &mut line)?;
        match line.strip_suffix(b"\n") {
            Some(whole) => each(whole),
            None => return Ok(line.is_empty()),
        }
    }
}

/// The files, oldest first.
fn paths(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries: io::Result<Vec<_>> = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect();
    let mut paths: Vec<_> = entries?.into_iter().filter(|path| number(path).is_some()).collect();
    paths.sort();
    Ok(paths)
}

fn number(path: &Path) -> Option<u64> {
    let ours = path.extension().is_some_and(|extension| extension == "jsonl");
    path.file_stem()?.to_str().filter(|_| ours)?.parse().ok()
}
