//! Ending a bed by its id alone, whatever is left of it: processes, namespaces, mounts, control groups, files.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::shell::run;

/// Where a bed keeps its files. Short, because unix sockets live there.
pub(crate) fn state_of(id: &str) -> PathBuf {
    PathBuf::from(format!("/var/tmp/ptl{id}"))
}

/// The beds there are (files or namespaces of), by id.
pub fn beds() -> Result<Vec<String>> {
    let names = |folder: &str| -> Vec<String> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    };
    let mut ids: Vec<_> = names("/var/tmp")
        .iter()
        .chain(&names("/run/netns"))
        .filter_map(|name| Some(name.strip_prefix("ptl")?.split('-').next()?.to_owned()))
        .collect();
    ids.sort();
    ids.dedup();
    Ok(ids)
}

/// The beds that were left running on purpose.
///
/// # Errors
/// As [`beds`].
pub fn kept_beds() -> Result<Vec<String>> {
    Ok(beds()?.into_iter().filter(|id| crate::tend::kept(id).is_file()).collect())
}

/// Ends everything of a bed.
///
/// # Errors
/// An id that is none, and what does not go away within half a minute.
pub fn clean(id: &str) -> Result<()> {
    // Half an id would be the beginning of others.
    if id.len() != 6 || !id.chars().all(|digit| digit.is_ascii_hexdigit()) {
        bail!("{id:?} is no bed: an id has six hexadecimal digits");
    }
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let processes = processes(id)?;
        for pid in &processes {
            // One that has just ended on its own is what we want.
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        if processes.is_empty() {
            break;
        }
        if Instant::now() > deadline {
            bail!("processes {processes:?} of bed {id} do not end");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    unmount(id)?;
    for namespace in namespaces(id) {
        run(&["ip", "netns", "delete", &namespace])?;
    }
    remove_control_groups(id, deadline)?;
    match fs::remove_dir_all(state_of(id)) {
        Err(why) if why.kind() != std::io::ErrorKind::NotFound => Err(why.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn namespaces(id: &str) -> Vec<String> {
    let prefix = format!("ptl{id}-");
    let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with(&prefix)).collect()
}

/// Processes in the bed's network namespaces, and those in its control groups: pods have namespaces of their own.
fn processes(id: &str) -> Result<Vec<i32>> {
    let mut found = Vec::new();
    for namespace in namespaces(id) {
        let pids = run(&["ip", "netns", "pids", &namespace]).unwrap_or_default();
        found.extend(pids.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
    }
    for group in control_groups(id) {
        visit(&group, &mut |folder| {
            let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            found.extend(text.lines().filter_map(|pid| pid.parse::<i32>().ok()).filter(|pid| *pid > 0));
        });
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

fn control_groups(id: &str) -> Vec<PathBuf> {
    let controllers = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    controllers.map(|entry| entry.path().join(format!("ptl{id}"))).filter(|path| path.is_dir()).collect()
}

/// Children first.
fn visit(folder: &Path, act: &mut dyn FnMut(&Path)) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            visit(&entry.path(), act);
        }
    }
    act(folder);
}

fn remove_control_groups(id: &str, deadline: Instant) -> Result<()> {
    loop {
        for group in control_groups(id) {
            visit(&group, &mut |folder| {
                // Busy until its last process is reaped; the loop comes back.
                let _ = fs::remove_dir(folder);
            });
        }
        let left = control_groups(id);
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("control groups {left:?} do not go away");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Mounts of the bed that reached the machine's own mount namespace: none should have, but a bed that failed half-way
/// must not keep its files.
fn unmount(id: &str) -> Result<()> {
    let state = state_of(id).display().to_string();
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mut ours: Vec<_> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|at| at.starts_with(&state))
        .collect();
    ours.sort_unstable_by(|one, other| other.cmp(one));
    ours.into_iter().try_for_each(|at| run(&["umount", "-l", at]).map(drop))
}
