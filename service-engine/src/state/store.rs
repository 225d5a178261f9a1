//! Accepted snapshots on disk: one file per cluster, `CLUSTER.json`, the message as JSON.
//!
//! Guarantees: a file is always a whole snapshot (written beside, synced, renamed); what was reported as accepted is
//! there after a power cut. A file that is not understood is set aside and said so: the controller sees that nothing
//! is accepted and sends its snapshot again, while the other clusters go on.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use portolan_wire::engine::{Snapshot, proto};

use super::Accepted;

const SUFFIX: &str = "json";
const ASIDE: &str = "unreadable";

/// The state directory of one engine.
#[derive(Debug, Clone)]
pub struct Store {
    directory: PathBuf,
}

/// The state directory does not do what it should.
#[derive(Debug, thiserror::Error)]
#[error("{}: {what}: {source}", path.display())]
pub struct Error {
    path: PathBuf,
    what: &'static str,
    source: io::Error,
}

fn failed(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error { path: path.to_owned(), what, source }
}

impl Store {
    /// Uses `directory`, which is created where it is missing.
    pub fn open(directory: PathBuf) -> Result<Self, Error> {
        fs::create_dir_all(&directory).map_err(failed(&directory, "create the state directory"))?;
        Ok(Self { directory })
    }

    /// Everything that was accepted before.
    pub fn load(&self) -> Result<Accepted, Error> {
        let mut accepted = Accepted::default();
        let list = "list the state directory";
        for entry in fs::read_dir(&self.directory).map_err(failed(&self.directory, list))? {
            let path = entry.map_err(failed(&self.directory, list))?.path();
            if path.extension().is_none_or(|extension| extension != SUFFIX) {
                continue;
            }
            let text = fs::read(&path).map_err(failed(&path, "read"))?;
            match parse(&text, &path) {
                Ok(snapshot) => accepted = accepted.with(snapshot),
                Err(problem) => set_aside(&path, &problem)?,
            }
        }
        Ok(accepted)
    }

    /// Keeps a snapshot. When it returns, the snapshot survives a power cut.
    pub fn save(&self, snapshot: &Snapshot) -> Result<(), Error> {
        let path = self.directory.join(format!("{}.{SUFFIX}", snapshot.cluster));
        let beside = path.with_extension("new");
        let text = serde_json::to_vec_pretty(&proto::Snapshot::from(snapshot));
        let text = text.map_err(io::Error::from).map_err(failed(&path, "serialise"))?;
        let written = File::create(&beside).and_then(|mut file| {
            file.write_all(&text)?;
            file.sync_all()
        });
        written.map_err(failed(&beside, "write"))?;
        fs::rename(&beside, &path).map_err(failed(&path, "rename into place"))?;
        let synced = File::open(&self.directory).and_then(|directory| directory.sync_all());
        synced.map_err(failed(&self.directory, "sync"))
    }
}

fn parse(text: &[u8], path: &Path) -> Result<Snapshot, String> {
    let message: proto::Snapshot = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let snapshot = Snapshot::try_from(message).map_err(|error| error.to_string())?;
    // A copy under another name would be a second owner of the same prefixes.
    if path.file_stem().is_none_or(|stem| stem != snapshot.cluster.as_str()) {
        return Err(format!("it holds the snapshot of cluster {}", snapshot.cluster));
    }
    Ok(snapshot)
}

fn set_aside(path: &Path, problem: &str) -> Result<(), Error> {
    let aside = path.with_extension(ASIDE);
    tracing::error!(file = %path.display(), aside = %aside.display(), "not a snapshot, set aside: {problem}");
    fs::rename(path, &aside).map_err(failed(path, "set aside"))
}

#[cfg(test)]
mod tests {
    use super::super::tests::snapshot;
    use super::*;

    #[test]
    fn what_was_saved_is_there_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path().join("deep/state")).unwrap();
        store.save(&snapshot("a", (1, 1), &["10.10.1.0/24"], &[])).unwrap();
        store.save(&snapshot("a", (1, 2), &["10.10.2.0/24"], &["172.16.251.1:80"])).unwrap();
        store.save(&snapshot("b.example", (9, 1), &["10.20.0.0/16"], &[])).unwrap();
        let accepted = Store::open(directory.path().join("deep/state")).unwrap().load().unwrap();
        let expected = Accepted::default()
            .with(snapshot("a", (1, 2), &["10.10.2.0/24"], &["172.16.251.1:80"]))
            .with(snapshot("b.example", (9, 1), &["10.20.0.0/16"], &[]));
        assert_eq!(accepted, expected);
    }

    #[test]
    fn a_file_that_is_not_a_snapshot_is_set_aside_and_costs_nobody_else_anything() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path().to_owned()).unwrap();
        let good = snapshot("a", (1, 1), &["10.10.1.0/24"], &[]);
        store.save(&good).unwrap();
        fs::write(directory.path().join("b.json"), "{\"cluster\":").unwrap();
        fs::copy(directory.path().join("a.json"), directory.path().join("copy.json")).unwrap();
        fs::write(directory.path().join("a.new"), "half of it").unwrap();
        assert_eq!(store.load().unwrap(), Accepted::default().with(good));
        assert!(directory.path().join("b.unreadable").exists());
        assert!(directory.path().join("copy.unreadable").exists());
    }

    #[test]
    fn a_directory_that_cannot_be_used_is_named() {
        let error = Store::open("/proc/portolan".into()).unwrap_err();
        assert!(error.to_string().contains("/proc/portolan"), "{error}");
    }
}
