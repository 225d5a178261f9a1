//! The runtime's call, parsed at the border: environment variables and the configuration on standard input.
//!
//! Guarantees: nothing is asked of the agent before everything that the specification demands is there and well formed;
//! a refusal names every missing variable at once (rule 3), never changes anything, and carries the specification's code.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::IpAddr;

use portolan_wire::cni::{Command, Failure, Pod, Request, code};
use serde::Deserialize;
use serde_json::Value;

/// Versions of the specification this binary speaks.
pub const VERSIONS: [&str; 3] = ["0.3.1", "0.4.0", "1.0.0"];

/// Everything a runtime hands to a plugin.
pub struct Input {
    /// The `CNI_…` variables.
    pub environment: BTreeMap<String, String>,
    /// Standard input, or why it could not be read.
    pub stdin: Result<Vec<u8>, String>,
}

/// A well-formed call.
pub enum Call {
    /// VERSION.
    Version,
    /// ADD, DEL or CHECK: the agent's work.
    Ask {
        /// What the agent is asked.
        request: Box<Request>,
        /// `CNI_NETNS`, where the runtime gave one.
        netns: Option<String>,
    },
}

/// The part of the network configuration that this binary reads; unknown fields are the runtime's business.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Configuration {
    #[serde(default)]
    cni_version: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    prev_result: Option<Value>,
}

impl Input {
    /// The call of this process.
    pub fn of_this_process() -> Self {
        let environment =
            std::env::vars().filter(|(key, _)| key.starts_with("CNI_")).collect::<BTreeMap<_, _>>();
        let mut stdin = Vec::new();
        // VERSION needs no configuration, and a caller may have left its standard input open (rule 1).
        let read = if environment.get("CNI_COMMAND").is_some_and(|command| command == "VERSION") {
            Ok(stdin)
        } else {
            std::io::stdin().read_to_end(&mut stdin).map(|_| stdin).map_err(|error| error.to_string())
        };
        Self { environment, stdin: read }
    }

    /// The version to answer in: the configuration's, or the newest where it names none that is known.
    pub fn version(&self) -> String {
        let asked =
            self.stdin.as_ref().ok().and_then(|bytes| serde_json::from_slice::<Configuration>(bytes).ok());
        let asked = asked.and_then(|configuration| configuration.cni_version);
        asked.filter(|version| VERSIONS.contains(&version.as_str())).unwrap_or_else(|| "1.0.0".to_owned())
    }

    /// The call, or the refusal.
    pub fn parse(&self) -> Result<Call, Failure> {
        let command = match self.variable("CNI_COMMAND") {
            Some("VERSION") => return Ok(Call::Version),
            Some("ADD") => Command::Add,
            Some("DEL") => Command::Del,
            Some("CHECK") => Command::Check,
            Some(other) => {
                return Err(environment(format!("CNI_COMMAND {other:?} is not one this plugin knows")));
            }
            None => return Err(environment("CNI_COMMAND is missing".to_owned())),
        };
        self.require(command)?;
        let container_id = self.variable("CNI_CONTAINERID").unwrap_or_default();
        if !is_container_id(container_id) {
            return Err(environment(format!(
                "CNI_CONTAINERID {container_id:?} has characters that are not allowed"
            )));
        }
        let interface = self.variable("CNI_IFNAME").unwrap_or_default();
        if !is_interface(interface) {
            return Err(environment(format!("CNI_IFNAME {interface:?} is not an interface name")));
        }
        let configuration = self.configuration(command)?;
        let request = Request {
            container_id: container_id.to_owned(),
            interface: interface.to_owned(),
            pod: pod(self.variable("CNI_ARGS").unwrap_or_default()),
            expected: expected(command, configuration.prev_result.as_ref())?,
            ..Request::new(command, configuration.name.as_deref().unwrap_or_default())
        };
        Ok(Call::Ask { request: Box::new(request), netns: self.variable("CNI_NETNS").map(str::to_owned) })
    }

    fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn require(&self, command: Command) -> Result<(), Failure> {
        let needed: &[&str] = match command {
            Command::Add | Command::Check => &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"],
            Command::Del => &["CNI_CONTAINERID", "CNI_IFNAME"],
            Command::Status | Command::Gc => &[],
        };
        let missing: Vec<_> = needed.iter().copied().filter(|name| self.variable(name).is_none()).collect();
        if missing.is_empty() { Ok(()) } else { Err(environment(format!("{} missing", missing.join(", ")))) }
    }

    fn configuration(&self, command: Command) -> Result<Configuration, Failure> {
        let bytes = self
            .stdin
            .as_ref()
            .map_err(|why| Failure::new(code::IO_FAILURE, "standard input cannot be read", why.as_str()))?;
        let configuration: Configuration = serde_json::from_slice(bytes).map_err(|why| {
            Failure::new(
                code::DECODING_FAILURE,
                "the network configuration is not valid JSON",
                why.to_string(),
            )
        })?;
        let version = configuration.cni_version.as_deref().unwrap_or("0.1.0");
        if !VERSIONS.contains(&version) {
            let known = VERSIONS.join(", ");
            let message = format!("cniVersion {version:?} is not supported");
            return Err(Failure::new(code::INCOMPATIBLE_VERSION, message, format!("supported: {known}")));
        }
        if command == Command::Check && version == "0.3.1" {
            let remedy = "CHECK came with 0.4.0: raise cniVersion in the configuration";
            return Err(Failure::new(code::INCOMPATIBLE_VERSION, "cniVersion 0.3.1 has no CHECK", remedy));
        }
        if !configuration.name.as_deref().is_some_and(is_container_id) {
            let remedy = "it needs letters, digits, '_', '.' or '-', the first a letter or digit";
            return Err(Failure::new(code::INVALID_CONFIGURATION, "name is missing or malformed", remedy));
        }
        Ok(configuration)
    }
}

fn environment(message: String) -> Failure {
    Failure::new(
        code::INVALID_ENVIRONMENT,
        message,
        "the runtime has to set it (CNI specification, section 2)",
    )
}

fn is_container_id(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

fn is_interface(text: &str) -> bool {
    (1..=15).contains(&text.len())
        && text != "."
        && text != ".."
        && !text.chars().any(|c| c == '/' || c == ':' || c.is_whitespace())
}

/// The pod as kubelet's runtimes name it in `CNI_ARGS`. Unknown keys are ignored (rule 8).
fn pod(arguments: &str) -> Option<Pod> {
    let pairs: BTreeMap<_, _> = arguments.split(';').filter_map(|pair| pair.split_once('=')).collect();
    Some(Pod {
        namespace: (*pairs.get("K8S_POD_NAMESPACE")?).to_owned(),
        name: (*pairs.get("K8S_POD_NAME")?).to_owned(),
        uid: pairs.get("K8S_POD_UID").filter(|uid| !uid.is_empty()).map(|uid| (*uid).to_owned()),
    })
}

/// The addresses that ADD gave, which CHECK is to find.
fn expected(command: Command, previous: Option<&Value>) -> Result<Vec<IpAddr>, Failure> {
    if command != Command::Check {
        return Ok(vec![]);
    }
    let addresses =
        previous.and_then(|result| result.get("ips")).and_then(Value::as_array).ok_or_else(|| {
            Failure::new(
                code::INVALID_CONFIGURATION,
                "prevResult is missing",
                "CHECK needs the result of ADD",
            )
        })?;
    let text = addresses.iter().filter_map(|entry| entry.get("address").and_then(Value::as_str));
    text.map(|address| {
        address.split('/').next().unwrap_or_default().parse().map_err(|_| {
            let message = format!("prevResult.ips has {address:?}, which is no address");
            Failure::new(code::INVALID_CONFIGURATION, message, "give the result of ADD unchanged")
        })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(pairs: &[(&str, &str)], stdin: &str) -> Input {
        Input {
            environment: pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            stdin: Ok(stdin.as_bytes().to_vec()),
        }
    }

    const GOOD: &str = r#"{"cniVersion":"1.0.0","name":"portolan","type":"portolan"}"#;
    const ADD: [(&str, &str); 4] =
        [("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "c1"), ("CNI_NETNS", "/n"), ("CNI_IFNAME", "eth0")];

    fn refused(pairs: &[(&str, &str)], stdin: &str) -> Failure {
        input(pairs, stdin).parse().err().unwrap()
    }

    #[test]
    fn rule_2_an_unknown_or_missing_command_is_code_4() {
        assert_eq!(refused(&[("CNI_COMMAND", "GRILL")], GOOD).code, 4);
        assert_eq!(refused(&[], GOOD).code, 4);
    }

    #[test]
    fn rule_3_all_missing_variables_are_named_at_once() {
        let failure = refused(&[("CNI_COMMAND", "ADD")], GOOD);
        assert_eq!(failure.code, 4);
        for name in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"] {
            assert!(failure.message.contains(name), "{failure}");
        }
        assert!(
            input(&[("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "c"), ("CNI_IFNAME", "e")], GOOD)
                .parse()
                .is_ok()
        );
    }

    #[test]
    fn rule_4_bad_names_are_code_4_and_a_bad_network_name_is_code_7() {
        let mut bad = ADD;
        bad[1].1 = "../etc";
        assert_eq!(refused(&bad, GOOD).code, 4);
        let mut long = ADD;
        long[3].1 = "sixteen-letters-";
        assert_eq!(refused(&long, GOOD).code, 4);
        assert_eq!(refused(&ADD, r#"{"cniVersion":"1.0.0","name":"a b"}"#).code, 7);
        assert_eq!(refused(&ADD, r#"{"cniVersion":"1.0.0"}"#).code, 7);
    }

    #[test]
    fn rule_5_broken_json_is_code_6_and_an_unknown_version_code_1() {
        assert_eq!(refused(&ADD, "{").code, 6);
        assert_eq!(refused(&ADD, "").code, 6);
        assert_eq!(refused(&ADD, r#"{"cniVersion":"9.9.9","name":"n"}"#).code, 1);
    }

    #[test]
    fn rule_7_check_needs_0_4_0() {
        let mut check = ADD;
        check[0].1 = "CHECK";
        assert_eq!(refused(&check, r#"{"cniVersion":"0.3.1","name":"n"}"#).code, 1);
        assert_eq!(refused(&check, GOOD).code, 7);
    }

    #[test]
    fn rule_8_the_pod_is_read_from_the_arguments_and_unknown_keys_are_ignored() {
        let read = pod("IgnoreUnknown=1;K8S_POD_NAMESPACE=erp;K8S_POD_NAME=erp-0;X=y;K8S_POD_UID=u").unwrap();
        assert_eq!(
            (read.namespace.as_str(), read.name.as_str(), read.uid.as_deref()),
            ("erp", "erp-0", Some("u"))
        );
        assert!(pod("").is_none());
    }
}
