//! The runtime's call, parsed at the border: environment variables and the configuration on standard input.
//!
//! Guarantees: nothing is asked of the agent before everything that the specification demands is there and well formed;
//! a refusal names every missing variable at once (rule 3), never changes anything, and carries the specification's code.
//! DEL is refused only for what it needs itself: it follows an ADD that was refused, too (rules 12 and 16).

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use portolan_wire::cni::{Command, Failure, Request, Scope, code};
use rustix::buffer::spare_capacity;
use rustix::io::Errno;

use crate::arguments::pod;
use crate::configuration::{Configuration, Extras, is_name};
use crate::process;

/// Standard input is read up to here, in bytes: a configuration with a previous result is a few kilobytes, a GC of a full
/// node some hundred.
const LARGEST: usize = 4 << 20;

/// What a runtime usually sends is smaller: one read, and one that finds the end. In bytes.
const USUAL: usize = 4096;

/// What a plugin of the specification may look at; the agent's place is for tests of this binary.
const VARIABLES: [&str; 5] = ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS"];

/// Everything a runtime hands to a plugin.
pub struct Input {
    /// The variables of [`VARIABLES`] that are set.
    pub environment: BTreeMap<&'static str, Vec<u8>>,
    /// Standard input, or why it could not be read.
    pub stdin: Result<Vec<u8>, String>,
}

/// A well-formed call.
pub enum Call {
    /// VERSION.
    Version,
    /// A verb that has nothing to do: GC without a list.
    Nothing,
    /// The agent's work.
    Ask(Box<Ask>),
}

/// What the agent is asked, and what its answer is rendered with.
pub struct Ask {
    /// What the agent is asked.
    pub request: Request,
    /// `CNI_NETNS`, for the verbs that need it.
    pub netns: Option<String>,
    /// The version to answer in: one of [`crate::configuration::VERSIONS`].
    pub version: &'static str,
    /// What the configuration itself adds to the result.
    pub extras: Extras,
}

impl Input {
    /// The call of this process.
    pub fn of_this_process() -> Self {
        let set = |name| Some((name, process::variable(name)?));
        let mut input =
            Self { environment: VARIABLES.into_iter().filter_map(set).collect(), stdin: Ok(vec![]) };
        // VERSION needs no configuration, and a caller may have left its standard input open (rule 1).
        if let Ok(Some(_)) = input.command() {
            input.stdin = read(|bytes| rustix::io::read(process::input(), spare_capacity(bytes)));
        }
        input
    }

    /// The version to answer in when the call is refused: the configuration's, or the newest where it names none that is
    /// known.
    pub fn version(&self) -> &'static str {
        self.configuration()
            .and_then(|configuration| configuration.version())
            .unwrap_or(crate::configuration::NEWEST)
    }

    /// The call, or the refusal.
    pub fn parse(&self) -> Result<Call, Failure> {
        let Some(command) = self.command()? else { return Ok(Call::Version) };
        let attachment = matches!(command, Command::Add | Command::Del | Command::Check);
        let namespace = matches!(command, Command::Add | Command::Check);
        self.require(attachment, namespace)?;
        let configuration = self.configuration()?;
        let version = configuration.version_for(command)?;
        let mut request = Request::new(command, configuration.name()?);
        if attachment {
            self.required("CNI_CONTAINERID")?.clone_into(&mut request.container_id);
            self.required("CNI_IFNAME")?.clone_into(&mut request.interface);
        }
        if command == Command::Del {
            // All that says what to release; anything else in it has been refused by ADD, or not.
            request.scope = configuration.scope().unwrap_or_default();
            return Ok(Call::Ask(Box::new(Ask { request, netns: None, version, extras: Extras::default() })));
        }
        request.scope = configuration.scope()?;
        request.pools = configuration.pools()?;
        if namespace {
            request.pod = pod(self.variable("CNI_ARGS")?.unwrap_or_default())?;
        }
        let mut extras = Extras::default();
        match command {
            Command::Add => {
                configuration.is_first(request.scope)?;
                if request.scope == Scope::Interface {
                    request.ports = configuration.ports()?;
                }
                extras = configuration.extras(request.scope, version)?;
            }
            Command::Check => request.expected = configuration.expected(&request.interface)?,
            Command::Gc => {
                request.keep = configuration.keep()?;
                // Who lists nothing has not said that nothing is left (rule 21).
                if request.keep.is_none() {
                    return Ok(Call::Nothing);
                }
            }
            Command::Del | Command::Status => {}
        }
        let netns = if namespace { Some(self.required("CNI_NETNS")?.to_owned()) } else { None };
        Ok(Call::Ask(Box::new(Ask { request, netns, version, extras })))
    }

    /// The verb; `None` is VERSION.
    fn command(&self) -> Result<Option<Command>, Failure> {
        Ok(Some(match self.variable("CNI_COMMAND")? {
            Some("VERSION") => return Ok(None),
            Some("ADD") => Command::Add,
            Some("DEL") => Command::Del,
            Some("CHECK") => Command::Check,
            Some("STATUS") => Command::Status,
            Some("GC") => Command::Gc,
            Some(other) => {
                return Err(environment(format!("CNI_COMMAND {other:?} is not one this plugin knows")));
            }
            None => return Err(environment("CNI_COMMAND missing".to_owned())),
        }))
    }

    /// The variable, where it is set and not empty.
    fn variable(&self, name: &str) -> Result<Option<&str>, Failure> {
        let Some(value) = self.environment.get(name) else { return Ok(None) };
        let refusal = |_| environment(format!("{name} \"{}\" is not UTF-8", value.escape_ascii()));
        let text = core::str::from_utf8(value).map_err(refusal)?;
        Ok(Some(text).filter(|text| !text.is_empty()))
    }

    fn required(&self, name: &str) -> Result<&str, Failure> {
        self.variable(name)?.ok_or_else(|| environment(format!("{name} missing")))
    }

    /// Rules 3 and 4: all variables that are missing at once, then the first that is bad. `CNI_PATH` is not asked for: there
    /// is no plugin that this one would look for.
    fn require(&self, attachment: bool, namespace: bool) -> Result<(), Failure> {
        let mut needed = vec![];
        if attachment {
            needed.extend(["CNI_CONTAINERID", "CNI_IFNAME"]);
        }
        if namespace {
            needed.push("CNI_NETNS");
        }
        let absent = |name: &&&str| self.environment.get(**name).is_none_or(|value| value.is_empty());
        let missing: Vec<_> = needed.iter().filter(absent).copied().collect();
        if !missing.is_empty() {
            return Err(environment(format!("{} missing", missing.join(", "))));
        }
        if !attachment {
            return Ok(());
        }
        let container = self.required("CNI_CONTAINERID")?;
        if !is_name(container) {
            let allowed = "letters, digits, '_', '.' and '-', the first a letter or digit";
            return Err(environment(format!("CNI_CONTAINERID {container:?} may have {allowed}")));
        }
        let interface = self.required("CNI_IFNAME")?;
        if !is_interface(interface) {
            return Err(environment(format!("CNI_IFNAME {interface:?} is not an interface name")));
        }
        Ok(())
    }

    fn configuration(&self) -> Result<Configuration, Failure> {
        let bytes = self
            .stdin
            .as_ref()
            .map_err(|why| Failure::new(code::IO_FAILURE, "standard input cannot be read", why.as_str()))?;
        Configuration::read(bytes)
    }
}

/// Everything until the end. `more` appends what comes next, as much as there is room for, and says how much that was.
fn read(mut more: impl FnMut(&mut Vec<u8>) -> Result<usize, Errno>) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(USUAL);
    loop {
        if bytes.len() == bytes.capacity() {
            bytes.reserve(USUAL);
        }
        match more(&mut bytes) {
            Ok(0) => return Ok(bytes),
            Ok(_) if bytes.len() > LARGEST => return Err(format!("it is larger than {LARGEST} bytes")),
            Ok(_) | Err(Errno::INTR) => {}
            Err(why) => return Err(process::words(why)),
        }
    }
}

/// A refusal of the environment (rule 4).
pub fn environment(message: String) -> Failure {
    let remedy = "the runtime has to set it (CNI specification, section 2)";
    Failure::new(code::INVALID_ENVIRONMENT, message, remedy)
}

fn is_interface(text: &str) -> bool {
    (1..=15).contains(&text.len())
        && text != "."
        && text != ".."
        && !text.chars().any(|c| matches!(c, '/' | ':') || c.is_whitespace() || c.is_control())
}

#[cfg(test)]
pub mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::answer;

    /// A call as a runtime makes it.
    pub fn input(pairs: &[(&'static str, &str)], stdin: &str) -> Input {
        Input {
            environment: pairs.iter().map(|(key, value)| (*key, value.as_bytes().to_vec())).collect(),
            stdin: Ok(stdin.as_bytes().to_vec()),
        }
    }

    /// What the agent would be asked.
    pub fn asked(pairs: &[(&'static str, &str)], stdin: &str) -> Ask {
        match input(pairs, stdin).parse().unwrap() {
            Call::Ask(ask) => *ask,
            Call::Version | Call::Nothing => panic!("the agent is not asked"),
        }
    }

    /// Why the call is refused.
    pub fn refused(pairs: &[(&'static str, &str)], stdin: &str) -> Failure {
        input(pairs, stdin).parse().err().unwrap()
    }

    /// The variables of a call of this verb.
    pub fn verb(command: &str) -> [(&'static str, &str); 4] {
        [("CNI_COMMAND", command), ("CNI_CONTAINERID", "c1"), ("CNI_NETNS", "/n"), ("CNI_IFNAME", "eth0")]
    }

    const GOOD: &str = r#"{"cniVersion":"1.1.0","name":"portolan","type":"portolan"}"#;

    #[test]
    fn rule_2_an_unknown_or_missing_command_is_code_4() {
        assert_eq!(refused(&[("CNI_COMMAND", "GRILL")], GOOD).code, 4);
        assert_eq!(refused(&[("CNI_COMMAND", "")], GOOD).code, 4);
        assert_eq!(refused(&[], GOOD).code, 4);
    }

    #[test]
    fn rule_3_all_missing_variables_are_named_at_once() {
        for (command, names) in [
            ("ADD", &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"][..]),
            ("CHECK", &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"]),
            ("DEL", &["CNI_CONTAINERID", "CNI_IFNAME"]),
        ] {
            let failure = refused(&[("CNI_COMMAND", command)], GOOD);
            assert_eq!(failure.code, 4);
            assert!(names.iter().all(|name| failure.message.contains(name)), "{failure}");
        }
    }

    #[test]
    fn rule_3_each_verb_needs_only_its_own_variables() {
        asked(&[("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "c"), ("CNI_IFNAME", "e")], GOOD);
        asked(&[("CNI_COMMAND", "STATUS")], GOOD);
        let gc = GOOD.replace("}", r#","cni.dev/valid-attachments":[]}"#);
        asked(&[("CNI_COMMAND", "GC")], &gc);
    }

    #[test]
    fn rule_4_bad_names_are_code_4() {
        for (index, bad) in [
            (1, "../etc"),
            (1, "-a"),
            (1, "a b"),
            (1, "ä"),
            (3, "sixteen-letters-"),
            (3, "."),
            (3, ".."),
            (3, "a/b"),
            (3, "a:b"),
            (3, "a b"),
            (3, "a\u{1}"),
        ] {
            for command in ["ADD", "DEL"] {
                let mut call = verb(command);
                call[index].1 = bad;
                assert_eq!(refused(&call, GOOD).code, 4, "{bad:?}");
            }
        }
    }

    #[test]
    fn rules_12_and_16_del_is_refused_for_nothing_that_add_alone_minds() {
        let odd = r#"{"cniVersion":"1.0.0","name":"n","type":"portolan","ipam":7,"prevResult":"",
            "runtimeConfig":{"portMappings":[{"hostPort":0}]}}"#;
        assert_eq!(refused(&verb("ADD"), odd).code, 7);
        let mut del = verb("DEL").to_vec();
        del.push(("CNI_ARGS", "rubbish"));
        assert_eq!(asked(&del, odd).request.container_id, "c1");
        let foreign = r#"{"cniVersion":"1.0.0","name":"n","type":"bridge","ipam":{"type":"host-local"}}"#;
        asked(&del, foreign);
    }

    #[test]
    fn rule_21_gc_without_a_list_asks_nothing() {
        assert!(matches!(input(&[("CNI_COMMAND", "GC")], GOOD).parse(), Ok(Call::Nothing)));
    }

    #[test]
    fn an_input_without_end_is_read_only_so_far() {
        let endless = |bytes: &mut Vec<u8>| {
            let room = bytes.capacity();
            bytes.resize(room, b' ');
            Ok(USUAL)
        };
        assert!(read(endless).is_err());
        let mut parts = [&b"{"[..], b"}", b""].into_iter();
        let cut = |bytes: &mut Vec<u8>| {
            let part = parts.next().unwrap();
            bytes.extend_from_slice(part);
            Ok(part.len())
        };
        assert_eq!(read(cut).unwrap(), b"{}");
    }

    proptest! {
        /// Rule 6, as a property: whatever arrives, the answer is a call or an error in JSON.
        #[test]
        fn any_call_is_parsed_or_refused_in_json(
            command in prop_oneof![Just("ADD"), Just("DEL"), Just("CHECK"), Just("STATUS"), Just("GC"), Just("X")],
            values in proptest::array::uniform3(proptest::option::of(".{0,24}")),
            stdin in prop_oneof![proptest::collection::vec(any::<u8>(), 0..200).boxed(), odd_configuration().boxed()],
        ) {
            let names = ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_ARGS"];
            let mut environment: BTreeMap<_, _> =
                names.into_iter().zip(values).filter_map(|(name, value)| Some((name, value?.into()))).collect();
            environment.insert("CNI_COMMAND", command.into());
            environment.insert("CNI_NETNS", "/n".into());
            let input = Input { environment, stdin: Ok(stdin) };
            if let Err(failure) = input.parse() {
                let body: serde_json::Value =
                    serde_json::from_str(&answer::error(input.version(), &failure)).unwrap();
                prop_assert!(body["code"].as_u64().is_some_and(|code| (1..=7).contains(&code)), "{body}");
                prop_assert!(!body["msg"].as_str().unwrap().is_empty());
            }
        }
    }

    /// A configuration in which any field may hold anything.
    fn odd_configuration() -> impl Strategy<Value = Vec<u8>> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            Just("1.5".to_owned()),
            Just("\"1.1.0\"".to_owned()),
            Just("\"portolan\"".to_owned()),
            Just("[]".to_owned()),
            Just("{}".to_owned()),
            Just("[{}]".to_owned()),
            Just(r#"{"type":"portolan","ippools":[1]}"#.to_owned()),
            Just(r#"{"portMappings":[{"hostPort":-1}]}"#.to_owned()),
            Just(r#"[{"containerID":"a"}]"#.to_owned()),
            Just(r#"{"ips":[{"address":"x"}],"interfaces":3}"#.to_owned()),
        ];
        let keys = [
            "cniVersion",
            "name",
            "type",
            "ipam",
            "runtimeConfig",
            "prevResult",
            "dns",
            "cni.dev/valid-attachments",
            "cni.dev/attachments",
        ];
        proptest::collection::vec((0..keys.len(), leaf), 0..8).prop_map(move |fields| {
            let fields: Vec<_> =
                fields.iter().map(|(key, value)| format!("\"{}\":{value}", keys[*key])).collect();
            format!("{{\"cniVersion\":\"1.1.0\",\"name\":\"n\",{}}}", fields.join(","))
                .replace(",}", "}")
                .into_bytes()
        })
    }
}
