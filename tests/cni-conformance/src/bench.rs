//! What is judged: a plugin with its configurations; and containers, to call it for.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::Flags;
use crate::call::{Answer, Input, call};
use crate::config::{Config, List, VERSIONS, number};
use crate::netns::Netns;

/// The interface that containers get.
pub const INTERFACE: &str = "eth0";

/// The plugin under test, and everything that the command line says of it.
pub struct Bench {
    /// The plugin.
    pub plugin: PathBuf,
    /// Its configuration, in [`Bench::version`].
    pub config: Config,
    /// The same with room for one container.
    pub single: Option<Config>,
    /// Configurations of other plugins that have it as their IPAM.
    pub delegates: Vec<Config>,
    /// The configuration as it was installed.
    pub installed: Option<PathBuf>,
    /// The version in which it is called.
    pub version: String,
    /// The versions it says it has.
    pub supported: Vec<String>,
    /// A variable with which it does not reach its service.
    pub without_service: Option<(String, String)>,
    /// How many containers are added at once.
    pub parallel: usize,
    path: String,
    args: Option<String>,
}

/// A container: an id and a namespace, with nothing in it yet.
pub struct Container<'a> {
    /// `CNI_CONTAINERID`.
    pub id: String,
    /// Its namespace.
    pub netns: Netns,
    bench: &'a Bench,
    config: Config,
}

/// What ADD has said it made.
pub struct Added(pub Value);

impl Bench {
    /// Reads what the command line names, and asks the plugin for its versions.
    ///
    /// # Errors
    /// A file that cannot be read, a version that the plugin has not.
    pub fn new(flags: &Flags) -> Result<Self> {
        let plugin = flags.plugin.canonicalize().with_context(|| flags.plugin.display().to_string())?;
        let supported = supported(&plugin)?;
        let newest =
            || supported.iter().filter(|one| VERSIONS.contains(&one.as_str())).max_by_key(|one| number(one));
        let version = flags.cni_version.clone().or_else(|| newest().cloned());
        let version = version.context("the plugin has no version of the specification that is known here")?;
        let read = |path: &PathBuf| Ok(List::read(path)?.first()?.version(&version));
        let own = plugin.parent().map(Path::to_path_buf);
        let folders: Vec<_> =
            own.iter().chain(&flags.plugin_dir).map(|one| one.display().to_string()).collect();
        let pair = |text: &String| {
            let (key, value) = text.split_once('=').with_context(|| format!("{text:?} is no KEY=VALUE"))?;
            Ok::<_, anyhow::Error>((key.to_owned(), value.to_owned()))
        };
        Ok(Self {
            config: read(&flags.config)?,
            single: flags.single.as_ref().map(read).transpose()?,
            delegates: flags.delegate.iter().map(read).collect::<Result<_>>()?,
            installed: flags.installed.clone(),
            without_service: flags.without_service.as_ref().map(pair).transpose()?,
            parallel: flags.parallel,
            path: folders.join(":"),
            args: flags.args.clone(),
            plugin,
            version,
            supported,
        })
    }

    /// The newest version, up to the one in use, that all of these plugins have: those of a list speak one version.
    ///
    /// # Errors
    /// When there is none, or a plugin is missing.
    pub fn common_version(&self, kinds: &[&str]) -> Result<&'static str> {
        let mut common: Vec<_> =
            VERSIONS.into_iter().filter(|one| number(one) <= number(&self.version)).collect();
        for kind in kinds {
            let has = supported(&self.program(kind)?)?;
            common.retain(|one| has.iter().any(|other| other == one));
        }
        common.pop().with_context(|| format!("{kinds:?} have no version in common"))
    }

    /// Whether the version in use has what came with `since`.
    pub fn has(&self, since: &str) -> bool {
        number(&self.version) >= number(since)
    }

    /// Calls the plugin with exactly these variables.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn raw(&self, variables: &[(&str, &str)], input: &Input) -> Result<Answer> {
        call(&self.plugin, variables, input)
    }

    /// The same with `CNI_PATH` and `CNI_ARGS`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn call(&self, variables: &[(&str, &str)], config: &Config) -> Result<Answer> {
        self.call_other(&self.plugin, variables, config)
    }

    /// Calls another plugin in the same way.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn call_other(&self, plugin: &Path, variables: &[(&str, &str)], config: &Config) -> Result<Answer> {
        let mut all = vec![("CNI_PATH", self.path.as_str())];
        all.extend(self.args.as_deref().map(|args| ("CNI_ARGS", args)));
        all.extend_from_slice(variables);
        call(plugin, &all, &Input::Text(config.stdin()))
    }

    /// The program of a plugin, by its type.
    ///
    /// # Errors
    /// When there is none.
    pub fn program(&self, kind: &str) -> Result<PathBuf> {
        let mut places = self.path.split(':').map(|folder| Path::new(folder).join(kind));
        places.find(|place| place.is_file()).with_context(|| format!("no plugin {kind} in {}", self.path))
    }

    /// A new container of this network.
    ///
    /// # Errors
    /// When no namespace can be made.
    pub fn container(&self) -> Result<Container<'_>> {
        self.container_of(&self.config)
    }

    /// A new container of another network.
    ///
    /// # Errors
    /// When no namespace can be made.
    pub fn container_of(&self, config: &Config) -> Result<Container<'_>> {
        Ok(Container { id: fresh_id(), netns: Netns::new()?, bench: self, config: config.clone() })
    }

    /// A container, added.
    ///
    /// # Errors
    /// What the plugin says.
    pub fn added(&self) -> Result<(Container<'_>, Added)> {
        self.added_of(&self.config)
    }

    /// A container of another network, added.
    ///
    /// # Errors
    /// What the plugin says.
    pub fn added_of(&self, config: &Config) -> Result<(Container<'_>, Added)> {
        let container = self.container_of(config)?;
        let result = container.added()?;
        Ok((container, result))
    }
}

/// A container id that no other run has.
pub fn fresh_id() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("conformance-{:x}-{}", since.as_micros(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The versions a plugin says it has.
///
/// # Errors
/// What it says instead.
pub fn supported(plugin: &Path) -> Result<Vec<String>> {
    let answer = call(
        plugin,
        &[("CNI_COMMAND", "VERSION")],
        &Input::Text(json!({ "cniVersion": "1.0.0" }).to_string()),
    )?;
    let body = answer.json().with_context(|| format!("VERSION: {}", answer.said()))?;
    let versions = body["supportedVersions"].as_array().context("VERSION lists no supportedVersions")?;
    Ok(versions.iter().filter_map(Value::as_str).map(str::to_owned).collect())
}

impl Container<'_> {
    /// Calls the plugin for it.
    ///
    /// # Errors
    /// When the plugin cannot be started.
    pub fn call(&self, verb: &str) -> Result<Answer> {
        self.call_with(verb, &[], &self.config)
    }

    /// The same with other variables and configuration.
    ///
    /// # Errors
    /// When the plugin cannot be started.
    pub fn call_with(&self, verb: &str, variables: &[(&str, &str)], config: &Config) -> Result<Answer> {
        let netns = self.netns.path();
        let mut all = vec![
            ("CNI_COMMAND", verb),
            ("CNI_CONTAINERID", self.id.as_str()),
            ("CNI_NETNS", &netns),
            ("CNI_IFNAME", INTERFACE),
        ];
        all.extend_from_slice(variables);
        self.bench.call(&all, config)
    }

    /// ADD, which has to succeed.
    ///
    /// # Errors
    /// What the plugin says.
    pub fn added(&self) -> Result<Added> {
        let answer = self.call("ADD")?;
        if !answer.ok() {
            bail!("ADD: {}", answer.said());
        }
        Ok(Added(answer.json()?))
    }

    /// CHECK, as a runtime calls it after ADD.
    ///
    /// # Errors
    /// When the plugin cannot be started.
    pub fn check(&self, added: &Added) -> Result<Answer> {
        self.call_with("CHECK", &[], &self.config.clone().with("prevResult", added.0.clone()))
    }

    /// Whether it has in its namespace what ADD said, and CHECK, where the version has it, says so too.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn intact(&self, added: &Added) -> Result<bool> {
        let there = added.addresses().is_subset(&self.netns.addresses(INTERFACE)?);
        Ok(there && (!self.bench.has("0.4.0") || self.check(added)?.silent()))
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        // A rule that has failed half-way leaves nothing to the next one; what it saw is in its finding.
        let _ = self.call("DEL");
    }
}

impl Added {
    /// The addresses it names.
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        let all = self.0["ips"].as_array().into_iter().flatten();
        all.filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok()).collect()
    }

    /// The same in a sentence.
    pub fn list(&self) -> String {
        self.addresses().iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" and ")
    }
}
