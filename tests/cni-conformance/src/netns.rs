//! Network namespaces: the node, the containers, and what `ip` sees in them.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::{IpAddr, TcpListener};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::Value;

/// The namespace of a container; it goes with this value.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

/// From here on this process and all that it starts are in a new network namespace with nothing but a loopback interface.
///
/// # Errors
/// When the process may not.
pub fn be_a_new_node() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    run(&["ip", "link", "set", "lo", "up"]).map(drop)
}

impl Netns {
    /// A new one.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let made = Self { name: format!("cni-{}-{number}", std::process::id()) };
        run(&["ip", "netns", "add", &made.name])?;
        run(&["ip", "-n", &made.name, "link", "set", "lo", "up"])?;
        Ok(made)
    }

    /// Its file.
    pub fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    /// Takes it away before its time. What is in it goes with it.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn delete(&self) -> Result<()> {
        run(&["ip", "netns", "delete", &self.name]).map(drop)
    }

    /// `ip …` in it.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn ip(&self, words: &str) -> Result<String> {
        let mut command = vec!["ip", "-n", &self.name];
        command.extend(words.split(' '));
        run(&command)
    }

    /// What an interface is, where there is one of this name: one object of `ip -j addr`.
    ///
    /// # Errors
    /// When `ip` prints something else.
    pub fn link(&self, name: &str) -> Result<Option<Value>> {
        Ok(links(&self.ip("-j addr")?)?.into_iter().find(|link| link["ifname"] == name))
    }

    /// The addresses of an interface, without those that every interface gives itself.
    ///
    /// # Errors
    /// As [`Netns::link`].
    pub fn addresses(&self, name: &str) -> Result<BTreeSet<IpAddr>> {
        Ok(self.link(name)?.map(|link| addresses(&link)).unwrap_or_default())
    }

    /// The default routes of both families, and the others, as `ip -j route` has them.
    ///
    /// # Errors
    /// As [`Netns::link`].
    pub fn routes(&self) -> Result<Vec<Value>> {
        let mut routes = list(&self.ip("-j route")?)?;
        routes.extend(list(&self.ip("-j -6 route")?)?);
        Ok(routes)
    }

    /// Whether an address answers from here.
    pub fn reaches(&self, to: IpAddr) -> bool {
        let net = format!("--net={}", self.path());
        run(&["nsenter", &net, "--", "busybox", "ping", "-c", "1", "-W", "3", &to.to_string()]).is_ok()
    }

    /// Listens in it, from outside.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn listen(&self, port: u16) -> Result<TcpListener> {
        let file = File::open(self.path())?;
        // A thread of its own: it is in that namespace until it ends.
        let inside = std::thread::spawn(move || -> Result<TcpListener> {
            setns(file, CloneFlags::CLONE_NEWNET)?;
            Ok(TcpListener::bind(("0.0.0.0", port))?)
        });
        inside.join().unwrap_or_else(|_| bail!("the listening thread panicked"))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // It may have been deleted by a rule that wanted to see what happens then.
        let _ = self.delete();
    }
}

/// Whether the node reaches an address.
pub fn node_reaches(to: IpAddr) -> bool {
    run(&["busybox", "ping", "-c", "1", "-W", "3", &to.to_string()]).is_ok()
}

/// The node's links, as `ip -j addr` has them.
///
/// # Errors
/// What `ip` says.
pub fn node_links() -> Result<Vec<Value>> {
    links(&run(&["ip", "-j", "addr"])?)
}

/// An address of the node that is not its loopback's.
///
/// # Errors
/// What `ip` says.
pub fn node_address(ipv4: bool) -> Result<Option<IpAddr>> {
    let all = node_links()?;
    let others = all.iter().filter(|link| link["ifname"] != "lo");
    Ok(others.flat_map(addresses).find(|address| address.is_ipv4() == ipv4))
}

/// What a plugin can leave on a node: names of links, routes, policy rules, rules and elements of nftables.
///
/// # Errors
/// What `ip` says.
pub fn node_state() -> Result<BTreeSet<String>> {
    let mut state: BTreeSet<_> =
        node_links()?.iter().map(|link| format!("link {}", link["ifname"])).collect();
    for (word, command) in [
        ("route", ["ip", "route", "show", "table", "all"].as_slice()),
        ("route", &["ip", "-6", "route", "show", "table", "all"]),
        ("rule", &["ip", "rule"]),
    ] {
        state.extend(
            run(command)?.lines().filter(|line| lasts(line)).map(|line| format!("{word} {}", line.trim())),
        );
    }
    // Every element of a set or map is a line of its own here, however many `nft` writes on one.
    let rules = run(&["nft", "--stateless", "list", "ruleset"])?;
    let parts = rules.split(['\n', ',', '{', '}']).map(str::trim).filter(|part| !part.is_empty());
    state.extend(parts.map(|part| format!("nft {part}")));
    Ok(state)
}

/// Whether a route is somebody's will: the kernel's own come and go with links that are the node's business.
fn lasts(route: &str) -> bool {
    !route.contains("proto kernel") && !route.contains("proto ra")
}

/// Runs a program to its end.
///
/// # Errors
/// When it fails: what it said.
pub fn run(command: &[&str]) -> Result<String> {
    let (program, arguments) = command.split_first().context("an empty command")?;
    let output = Command::new(program).args(arguments).output().with_context(|| (*program).to_owned())?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    bail!("{}: {}", command.join(" "), String::from_utf8_lossy(&output.stderr).trim())
}

fn list(text: &str) -> Result<Vec<Value>> {
    // `ip` prints nothing at all where there is nothing to print.
    if text.trim().is_empty() {
        return Ok(vec![]);
    }
    serde_json::from_str(text).context("ip printed no JSON")
}

fn links(text: &str) -> Result<Vec<Value>> {
    // An entry that was left out by a filter is printed as an empty object.
    Ok(list(text)?.into_iter().filter(|link| link.get("ifname").is_some()).collect())
}

fn addresses(link: &Value) -> BTreeSet<IpAddr> {
    let all = link["addr_info"].as_array().into_iter().flatten();
    let given = all.filter(|entry| entry["scope"] != "link");
    given.filter_map(|entry| entry["local"].as_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_ip_are_read() {
        let text = r#"[{},{"ifname":"eth0","addr_info":[{"local":"10.0.0.1","scope":"global"},
            {"local":"fe80::1","scope":"link"},{"local":"fd00::1","scope":"global"}]}]"#;
        let all = links(text).unwrap();
        assert_eq!(all.len(), 1);
        assert_eq!(
            addresses(&all[0]),
            BTreeSet::from(["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()])
        );
        assert!(list("").unwrap().is_empty() && list("rubbish").is_err());
    }

    #[test]
    fn the_kernels_own_routes_are_nobodys_will() {
        assert!(!lasts("broadcast 10.0.0.255 dev eth0 table local proto kernel scope link"));
        assert!(lasts("10.0.0.7 dev veth0 proto 107 scope link"));
    }
}
