//! What can go wrong between us and the kernel, in words a log reader can act on.

use std::io;

use nix::errno::Errno;

/// The result of everything in this crate that talks to the kernel.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// One failed step. Every variant names the object it was about.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused a request; `reason` is its own extended acknowledgement where it gave one.
    #[error("{what}: {reason} ({errno})")]
    Refused {
        /// The request in words, e.g. `add route 10.1.0.0/24 dev eth1`.
        what: String,
        /// The error number the kernel answered with.
        errno: Errno,
        /// The kernel's explanation, or the meaning of the number.
        reason: String,
    },
    /// A system call that is not a netlink request failed.
    #[error("{what}: {source}")]
    System {
        /// The call in words, with its argument.
        what: String,
        /// The system's error.
        source: io::Error,
    },
    /// A dump was interrupted by changes again and again, so that none can be believed.
    #[error(
        "{what}: interrupted {tries} times by concurrent changes; it will be repeated with the next pass"
    )]
    Interrupted {
        /// The dump in words.
        what: String,
        /// How often it was tried.
        tries: u32,
    },
    /// The kernel's answer could not be understood.
    #[error("{what}: answer not understood: {reason}")]
    Unreadable {
        /// The request in words.
        what: String,
        /// What was wrong with the answer.
        reason: String,
    },
    /// A device of this name exists already where one should be created.
    #[error("device {name} exists already in {place}")]
    AlreadyExists {
        /// The device's name.
        name: String,
        /// `the pod's network namespace` or `the node's network namespace`.
        place: &'static str,
    },
    /// A device that was named does not exist.
    #[error("there is no device {name}")]
    NoSuchDevice {
        /// The device's name.
        name: String,
    },
    /// The given namespace is the one this process works in; wiring a pod there would cut the node off.
    #[error("the given network namespace is the node's own: a pod with hostNetwork needs no wiring")]
    OwnNamespace,
    /// The given descriptor does not name a network namespace.
    #[error("the given descriptor is no network namespace: {0}")]
    NotANamespace(Errno),
    /// A name that cannot belong to us was given for something to create or delete.
    #[error("{name}: {reason}; it is left untouched")]
    NotOurs {
        /// The object's name.
        name: String,
        /// Why it is not ours.
        reason: String,
    },
    /// A desired value contradicts itself or cannot be expressed; the kernel was not asked.
    #[error("{what}: {reason}")]
    Unsuitable {
        /// The object in words.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A kernel setting under /proc/sys could not be read or written.
    #[error("{file}: {source}")]
    Sysctl {
        /// The full path of the file.
        file: String,
        /// The system's error.
        source: io::Error,
    },
}

impl Error {
    /// The error number, where the kernel gave one.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } | Self::NotANamespace(errno) => Some(*errno),
            Self::System { source, .. } | Self::Sysctl { source, .. } => {
                source.raw_os_error().map(Errno::from_raw)
            }
            Self::Interrupted { .. }
            | Self::Unreadable { .. }
            | Self::AlreadyExists { .. }
            | Self::NoSuchDevice { .. }
            | Self::OwnNamespace
            | Self::Unsuitable { .. }
            | Self::NotOurs { .. } => None,
        }
    }

    pub(crate) fn system(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::System { what: what.into(), source: source.into() }
    }

    pub(crate) fn unreadable(what: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self::Unreadable { what: what.into(), reason: reason.to_string() }
    }
}
