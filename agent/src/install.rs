//! Puts the CNI binary and the configuration list on the node, atomically.
//!
//! The binary goes first, at start; the configuration goes last, once the agent can serve: from then on the runtime
//! reports the node's network as ready. Both are written beside their place and renamed into it, so a runtime never
//! reads half of either, and an upgrade replaces them under running pods. Neither is removed when the agent stops:
//! pods that are deleted meanwhile still need the binary.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

/// Where things come from and go to, as seen from the agent's container.
#[derive(Debug, Clone)]
pub struct Install {
    /// The CNI binary in the agent's image.
    pub binary: PathBuf,
    /// The node's directory of CNI binaries.
    pub binaries: PathBuf,
    /// The node's directory of CNI configurations.
    pub configurations: PathBuf,
}

/// The plugin's name, as the configuration's `type` and the binary's file name.
const PLUGIN: &str = "portolan";

/// The configuration's file name: early in the alphabet, for runtimes take the first.
const CONFIGURATION: &str = "05-portolan.conflist";

impl Install {
    /// Installs the binary.
    ///
    /// # Errors
    /// Names the file that could not be read or written.
    pub fn binary(&self) -> Result<()> {
        let bytes = fs::read(&self.binary).with_context(|| self.binary.display().to_string())?;
        let place = self.binaries.join(PLUGIN);
        replace(&place, &bytes, 0o755).with_context(|| place.display().to_string())
    }

    /// Installs the configuration. Runtimes that know `cniVersions` take the newest version they share with it; the others
    /// take `cniVersion`, which is the newest that containerd 1.6 knows. Host ports come to this plugin itself.
    ///
    /// # Errors
    /// Names the file that could not be written.
    pub fn configuration(&self) -> Result<()> {
        let list = json!({
            "cniVersion": "1.0.0",
            "cniVersions": ["0.4.0", "1.0.0", "1.1.0"],
            "name": "portolan",
            "plugins": [{ "type": PLUGIN, "capabilities": { "portMappings": true } }],
        });
        let place = self.configurations.join(CONFIGURATION);
        replace(&place, format!("{list:#}\n").as_bytes(), 0o644).with_context(|| place.display().to_string())
    }
}

/// Writes a file beside its place and renames it into it; does nothing where it is the same already.
fn replace(place: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    if fs::read(place).is_ok_and(|found| found == bytes) {
        return Ok(());
    }
    if let Some(folder) = place.parent() {
        fs::create_dir_all(folder)?;
    }
    // The leading dot and the ending keep runtimes from taking it for a configuration.
    let name = place.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let beside = place.with_file_name(format!(".{name}.new"));
    fs::write(&beside, bytes)?;
    fs::set_permissions(&beside, fs::Permissions::from_mode(mode))?;
    fs::rename(&beside, place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_24_a_runtime_that_reads_during_an_upgrade_sees_the_old_file_or_the_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join(CONFIGURATION);
        replace(&place, b"old", 0o644).unwrap();
        let mut read_before = fs::File::open(&place).unwrap();
        replace(&place, b"the new one", 0o644).unwrap();
        let mut text = String::new();
        io::Read::read_to_string(&mut read_before, &mut text).unwrap();
        assert_eq!((text.as_str(), fs::read(&place).unwrap().as_slice()), ("old", &b"the new one"[..]));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_configuration_names_a_binary_that_is_there_and_executable() {
        let node = tempfile::tempdir().unwrap();
        let image = node.path().join("portolan-cni");
        fs::write(&image, "#!").unwrap();
        let install = Install {
            binary: image,
            binaries: node.path().join("opt/cni/bin"),
            configurations: node.path().join("etc/cni/net.d"),
        };
        install.binary().unwrap();
        install.configuration().unwrap();
        install.configuration().unwrap();
        let entries: Vec<_> =
            fs::read_dir(&install.configurations).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(entries, [CONFIGURATION]);
        let list: serde_json::Value =
            serde_json::from_slice(&fs::read(install.configurations.join(CONFIGURATION)).unwrap()).unwrap();
        // Rule 22: a runtime may choose among these; all of them are the binary's.
        assert_eq!(list["cniVersion"], "1.0.0");
        assert_eq!(list["cniVersions"], json!(["0.4.0", "1.0.0", "1.1.0"]));
        assert_eq!(list["plugins"][0]["capabilities"]["portMappings"], true);
        let binary = install.binaries.join(list["plugins"][0]["type"].as_str().unwrap());
        assert_eq!(fs::metadata(binary).unwrap().permissions().mode() & 0o777, 0o755);
    }
}
