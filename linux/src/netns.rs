//! Network namespaces, without forking: a thread of its own enters or makes one and ends.
//!
//! `setns` and `unshare` change the *calling thread*; on a thread that a runtime shares among tasks
//! they would move foreign work into the namespace. So every function here uses a thread that it
//! starts and joins; but for `visit`, which is for a thread that nobody else works on.

use std::{
    fs::{self, File},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    thread,
};

use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::stat::fstat,
};

use crate::{Error, Result};

/// The calling thread's namespace.
const OWN: &str = "/proc/thread-self/ns/net";
/// Where `ip netns` looks for named namespaces.
const NAMED: &str = "/run/netns";

/// Runs `work` in the given network namespace, on a thread of its own, and waits for it. Sockets opened
/// by `work` stay in that namespace when they are handed back.
pub fn within<T: Send>(netns: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> Result<T> {
    on_a_thread(|| {
        setns(netns, CloneFlags::CLONE_NEWNET).map_err(Error::NotANamespace)?;
        Ok(work())
    })
}

/// Runs `work` in the given network namespace on the calling thread, which then comes back to its own. For work as short as
/// the opening of a socket: to start and to join a thread takes several times as long.
///
/// A thread that did not come back would from then on work on a pod instead of the node, so the process ends instead.
/// (The kernel refuses a namespace that is open only where it has no memory left.)
pub(crate) fn visit<T>(netns: BorrowedFd<'_>, work: impl FnOnce() -> T) -> Result<T> {
    let home = own()?;
    setns(netns, CloneFlags::CLONE_NEWNET).map_err(Error::NotANamespace)?;
    let done = work();
    if let Err(errno) = setns(home, CloneFlags::CLONE_NEWNET) {
        tracing::error!(%errno, "a thread does not come back from another network namespace");
        std::process::abort();
    }
    Ok(done)
}

/// The calling thread's network namespace.
pub fn own() -> Result<OwnedFd> {
    open(Path::new(OWN))
}

/// Opens a namespace by its file, e.g. `/run/netns/NAME` or `/proc/PID/ns/net`.
pub fn open(file: &Path) -> Result<OwnedFd> {
    File::open(file)
        .map(OwnedFd::from)
        .map_err(|source| Error::system(format!("open {}", file.display()), source))
}

/// A new namespace without a name; it ends with its last descriptor, socket and process.
pub fn anonymous() -> Result<OwnedFd> {
    on_a_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)
            .map_err(|errno| Error::system("make a network namespace", errno))?;
        own()
    })
}

/// Do both descriptors name the same namespace?
pub fn is_same(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> Result<bool> {
    let identity = |fd| {
        fstat(fd)
            .map(|stat| (stat.st_dev, stat.st_ino))
            .map_err(|errno| Error::system("identify a network namespace", errno))
    };
    Ok(identity(one)? == identity(other)?)
}

/// A namespace that `ip netns` can name; it is unmounted and its name removed on drop.
#[derive(Debug)]
pub struct Named {
    file: PathBuf,
    netns: OwnedFd,
}

impl Named {
    /// Makes a new namespace and mounts it at `/run/netns/NAME`. Fails if the name is taken.
    pub fn create(name: &str) -> Result<Self> {
        let file = Path::new(NAMED).join(name);
        let failed = |source| Error::system(format!("create {}", file.display()), source);
        fs::create_dir_all(NAMED).map_err(failed)?;
        File::create_new(&file).map_err(failed)?;
        let made = on_a_thread(|| {
            let failed = |errno| Error::system(format!("mount a namespace at {}", file.display()), errno);
            unshare(CloneFlags::CLONE_NEWNET).map_err(failed)?;
            mount(Some(OWN), &file, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(failed)?;
            own()
        });
        match made {
            Ok(netns) => Ok(Self { file, netns }),
            Err(error) => {
                // The file is ours: it did not exist before.
                let _ = fs::remove_file(&file);
                Err(error)
            }
        }
    }

    /// The file that names it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.file
    }
}

impl AsFd for Named {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.netns.as_fd()
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        // Nothing can be done about a failure here, and the names of test namespaces are never reused.
        let _ = umount2(&self.file, MntFlags::MNT_DETACH);
        let _ = fs::remove_file(&self.file);
    }
}

fn on_a_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let worker = thread::Builder::new().name("netns".into()).spawn_scoped(scope, work);
        let worker = worker.map_err(|source| Error::system("start a thread", source))?;
        worker
            .join()
            .unwrap_or_else(|_| Err(Error::system("a thread in a namespace panicked", Errno::ECANCELED)))
    })
}
