//! The network configuration on standard input (CNI specification, sections 1 and 3), read field by field.
//!
//! It is read as a JSON value and not into a struct: a refusal can then name the field (rule 5), `null` is the same as
//! absent, and a field that this plugin does not look at may hold anything. Unknown fields are the runtime's business.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::net::IpAddr;

use portolan_wire::cni::{AttachmentKey, Command, Failure, PortMapping, Scope, code};
use serde_json::{Map, Value};

use crate::ports;

/// Versions of the specification this binary speaks, oldest first.
pub const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// The newest of them.
pub const NEWEST: &str = "1.1.0";

/// This plugin's name, as `type` and `ipam.type` have it.
const PLUGIN: &str = "portolan";

/// "Unsupported field": the message names key and value (rule 5).
const UNSUPPORTED_FIELD: u32 = 2;

/// A network configuration: a JSON object.
pub struct Configuration(Map<String, Value>);

/// What the configuration itself adds to a result.
#[derive(Debug, Default)]
pub struct Extras {
    /// `dns`, as it is.
    pub dns: Option<Value>,
    /// `ipam.routes`, for the plugin that called this one as its IPAM.
    pub routes: Vec<Value>,
}

impl Configuration {
    /// The object in these bytes.
    pub fn read(bytes: &[u8]) -> Result<Self, Failure> {
        let why = match serde_json::from_slice(bytes) {
            Ok(Value::Object(fields)) => return Ok(Self(fields)),
            Ok(_) => "it is no object".to_owned(),
            Err(why) => why.to_string(),
        };
        Err(Failure::new(code::DECODING_FAILURE, "the network configuration is not valid JSON", why))
    }

    /// `cniVersion`, where it is one of [`VERSIONS`].
    pub fn version(&self) -> Result<&'static str, Failure> {
        // The specification's oldest versions did not write theirs.
        let asked = text(&self.0, "", "cniVersion")?.unwrap_or("0.1.0");
        VERSIONS.into_iter().find(|version| *version == asked).ok_or_else(|| {
            let known = format!("supported: {}", VERSIONS.join(", "));
            Failure::new(code::INCOMPATIBLE_VERSION, format!("cniVersion {asked:?} is not supported"), known)
        })
    }

    /// The version, where it has this verb (rule 7).
    pub fn version_for(&self, command: Command) -> Result<&'static str, Failure> {
        let version = self.version()?;
        let (verb, since) = match command {
            Command::Add | Command::Del => return Ok(version),
            Command::Check => ("CHECK", "0.4.0"),
            Command::Status => ("STATUS", "1.1.0"),
            Command::Gc => ("GC", "1.1.0"),
        };
        // Versions of one digit each, so the order of text is theirs.
        if version >= since {
            return Ok(version);
        }
        let remedy = format!("{verb} came with {since}: raise cniVersion in the configuration");
        Err(Failure::new(code::INCOMPATIBLE_VERSION, format!("cniVersion {version} has no {verb}"), remedy))
    }

    /// The network's name.
    pub fn name(&self) -> Result<&str, Failure> {
        let name = text(&self.0, "", "name")?.unwrap_or_default();
        if is_name(name) {
            return Ok(name);
        }
        let remedy = "it needs letters, digits, '_', '.' or '-', the first a letter or digit";
        Err(invalid(format!("name {name:?} is missing or malformed"), remedy))
    }

    /// Whether this plugin is the network's main plugin or the IPAM of another (rule 23).
    pub fn scope(&self) -> Result<Scope, Failure> {
        let main = text(&self.0, "", "type")?;
        let delegate = text(self.ipam()?.unwrap_or(&Map::new()), "ipam.", "type")?.map(str::to_owned);
        match (main, delegate.as_deref()) {
            (Some(PLUGIN) | None, None | Some(PLUGIN)) => Ok(Scope::Interface),
            (Some(_), Some(PLUGIN)) => Ok(Scope::Addresses),
            (Some(PLUGIN) | None, Some(other)) => {
                let message =
                    format!("ipam.type {other:?} is not supported: the addresses are Portolan's own");
                Err(Failure::new(
                    UNSUPPORTED_FIELD,
                    message,
                    "leave ipam out, or let its type be \"portolan\"",
                ))
            }
            (Some(other), _) => {
                let remedy = "one of type and ipam.type has to be \"portolan\"";
                Err(invalid(format!("type {other:?} is not this plugin, and neither is ipam.type"), remedy))
            }
        }
    }

    /// `ipam.ippools`, in their order.
    pub fn pools(&self) -> Result<Vec<String>, Failure> {
        let Some(ipam) = self.ipam()? else { return Ok(vec![]) };
        let pools = list(ipam, "ipam.", "ippools")?.unwrap_or_default();
        let name = |(index, pool): (usize, &Value)| match pool.as_str() {
            Some(name) if !name.is_empty() => Ok(name.to_owned()),
            _ => Err(invalid(
                format!("ipam.ippools[{index}] {pool} is no name"),
                "name IPPools, in their order",
            )),
        };
        pools.iter().enumerate().map(name).collect()
    }

    /// Refuses an ADD after another main plugin (rule 11): this plugin makes the interface, it does not change one. As an IPAM
    /// it is given its caller's whole configuration, and whatever that has is its caller's business.
    pub fn is_first(&self, scope: Scope) -> Result<(), Failure> {
        if scope == Scope::Addresses || field(&self.0, "prevResult").is_none() {
            return Ok(());
        }
        let remedy = "let portolan be the first of the plugins";
        Err(invalid(
            "prevResult: this plugin makes the interface and cannot follow another".to_owned(),
            remedy,
        ))
    }

    /// `runtimeConfig.portMappings`.
    pub fn ports(&self) -> Result<Vec<PortMapping>, Failure> {
        let Some(runtime) = object(&self.0, "", "runtimeConfig")? else { return Ok(vec![]) };
        let mappings = list(runtime, "runtimeConfig.", "portMappings")?.unwrap_or_default();
        ports::parse("runtimeConfig.portMappings", mappings)
    }

    /// What the configuration adds to the result, as far as the version has words for it.
    pub fn extras(&self, scope: Scope, version: &str) -> Result<Extras, Failure> {
        let dns = object(&self.0, "", "dns")?.cloned().map(Value::Object);
        let none = Map::new();
        let ipam = self.ipam()?.unwrap_or(&none);
        let routes = list(ipam, "ipam.", "routes")?.unwrap_or_default();
        if scope == Scope::Interface {
            return match routes.first() {
                None => Ok(Extras { dns, routes: vec![] }),
                Some(first) => {
                    let message =
                        format!("ipam.routes {first} is not supported: a pod has a default route only");
                    Err(Failure::new(UNSUPPORTED_FIELD, message, "leave ipam.routes out"))
                }
            };
        }
        let routes = routes.iter().enumerate().map(|(index, value)| route(index, value, version));
        Ok(Extras { dns, routes: routes.collect::<Result<_, _>>()? })
    }

    /// The addresses on this interface that ADD gave, which CHECK is to find. What a later plugin of the chain has put on
    /// other interfaces is its own (rule 19).
    pub fn expected(&self, interface: &str) -> Result<Vec<IpAddr>, Failure> {
        let remedy = "give the result of ADD unchanged";
        let previous = object(&self.0, "", "prevResult")?
            .ok_or_else(|| invalid("prevResult is missing".to_owned(), "CHECK needs the result of ADD"))?;
        let interfaces = list(previous, "prevResult.", "interfaces")?.unwrap_or_default();
        let mut expected = vec![];
        for (number, entry) in list(previous, "prevResult.", "ips")?.unwrap_or_default().iter().enumerate() {
            let on = entry.get("interface").and_then(Value::as_u64).and_then(|on| usize::try_from(on).ok());
            let on =
                on.and_then(|on| interfaces.get(on)).and_then(|one| one.get("name")).and_then(Value::as_str);
            if on.is_some_and(|on| on != interface) {
                continue;
            }
            let given = entry.get("address").and_then(Value::as_str).unwrap_or_default();
            let address = given.split('/').next().unwrap_or_default().parse();
            let refusal =
                |_| invalid(format!("prevResult.ips[{number}].address {given:?} is no address"), remedy);
            expected.push(address.map_err(refusal)?);
        }
        if expected.is_empty() {
            return Err(invalid(format!("prevResult.ips has no address of {interface}"), remedy));
        }
        Ok(expected)
    }

    /// The attachments that GC keeps; `None` where no list is given. The specification's key was another at first, and
    /// libcni writes both: what either lists is kept (rule 21).
    pub fn keep(&self) -> Result<Option<Vec<AttachmentKey>>, Failure> {
        let mut keep = None;
        for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
            let Some(entries) = list(&self.0, "", key)? else { continue };
            let keep: &mut Vec<_> = keep.get_or_insert_default();
            for (index, entry) in entries.iter().enumerate() {
                let value = |name| entry.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
                let (Some(container_id), Some(interface)) = (value("containerID"), value("ifname")) else {
                    let message = format!("{key}[{index}] {entry} has no containerID or no ifname");
                    return Err(invalid(message, "nothing is released before every entry can be read"));
                };
                keep.push(AttachmentKey {
                    container_id: container_id.to_owned(),
                    interface: interface.to_owned(),
                });
            }
        }
        Ok(keep)
    }

    fn ipam(&self) -> Result<Option<&Map<String, Value>>, Failure> {
        object(&self.0, "", "ipam")
    }
}

/// A route of `ipam.routes`. Beyond `dst` and `gw` it is for 1.1.0.
fn route(index: usize, value: &Value, version: &str) -> Result<Value, Failure> {
    let refusal = |name: &str, word: &str| {
        invalid(
            format!("ipam.routes[{index}].{name} of {value} is {word}"),
            "for example 0.0.0.0/0 and 10.1.0.1",
        )
    };
    let fields = value.as_object().ok_or_else(|| refusal("dst", "missing"))?;
    let prefix = text(fields, "ipam.routes[].", "dst")?.and_then(|dst| dst.split_once('/'));
    let (address, length) = prefix.ok_or_else(|| refusal("dst", "no prefix"))?;
    let address: IpAddr = address.parse().map_err(|_| refusal("dst", "no prefix"))?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    if length.parse::<u8>().is_ok_and(|length| length > longest) || length.parse::<u8>().is_err() {
        return Err(refusal("dst", "no prefix"));
    }
    if text(fields, "ipam.routes[].", "gw")?.is_some_and(|gw| gw.parse::<IpAddr>().is_err()) {
        return Err(refusal("gw", "no address"));
    }
    let spoken = |name: &str| version == NEWEST || matches!(name, "dst" | "gw");
    Ok(Value::Object(
        fields.iter().filter(|(name, _)| spoken(name)).map(|(k, v)| (k.clone(), v.clone())).collect(),
    ))
}

/// A refusal that names its field (code 7).
pub fn invalid(message: String, remedy: &str) -> Failure {
    Failure::new(code::INVALID_CONFIGURATION, message, remedy)
}

/// The specification's character set of container ids and network names (rule 4).
pub fn is_name(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

/// The field, where it is there and not `null`.
fn field<'a>(of: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    of.get(name).filter(|value| !value.is_null())
}

fn text<'a>(of: &'a Map<String, Value>, path: &str, name: &str) -> Result<Option<&'a str>, Failure> {
    typed(of, path, name, "a string", Value::as_str)
}

fn list<'a>(of: &'a Map<String, Value>, path: &str, name: &str) -> Result<Option<&'a [Value]>, Failure> {
    typed(of, path, name, "a list", |value| value.as_array().map(Vec::as_slice))
}

fn object<'a>(
    of: &'a Map<String, Value>,
    path: &str,
    name: &str,
) -> Result<Option<&'a Map<String, Value>>, Failure> {
    typed(of, path, name, "an object", Value::as_object)
}

fn typed<'a, T: ?Sized>(
    of: &'a Map<String, Value>,
    path: &str,
    name: &str,
    kind: &str,
    read: impl Fn(&'a Value) -> Option<&'a T>,
) -> Result<Option<&'a T>, Failure> {
    let Some(value) = field(of, name) else { return Ok(None) };
    let refusal =
        || invalid(format!("{path}{name} {value} is not {kind}"), "correct the network configuration");
    read(value).map(Some).ok_or_else(refusal)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::call::tests::{asked, refused, verb};

    /// A configuration of ours with these fields besides.
    fn with(version: &str, fields: &Value) -> String {
        let mut all = json!({ "cniVersion": version, "name": "n", "type": "portolan" });
        all.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        all.to_string()
    }

    fn gc(fields: &Value) -> Option<Vec<AttachmentKey>> {
        Configuration::read(with("1.1.0", fields).as_bytes()).unwrap().keep().unwrap()
    }

    #[test]
    fn rule_4_a_bad_network_name_is_code_7() {
        for name in [json!("a b"), json!("../n"), json!(""), json!(null), json!(7)] {
            assert_eq!(refused(&verb("ADD"), &with("1.0.0", &json!({ "name": name }))).code, 7, "{name}");
        }
    }

    #[test]
    fn rule_5_broken_json_is_code_6_an_unknown_version_code_1_a_bad_value_code_7_with_its_field() {
        for broken in ["", "{", "[]", "3", r#"["1.0.0","n"]"#, "\u{0}"] {
            assert_eq!(refused(&verb("ADD"), broken).code, 6, "{broken:?}");
        }
        for version in ["9.9.9", "0.2.0", "1.0", ""] {
            assert_eq!(refused(&verb("ADD"), &with(version, &json!({}))).code, 1, "{version:?}");
        }
        assert_eq!(refused(&verb("ADD"), r#"{"name":"n"}"#).code, 1);
        for (fields, name) in [
            (json!({ "cniVersion": 1 }), "cniVersion"),
            (json!({ "type": [] }), "type"),
            (json!({ "ipam": "portolan" }), "ipam"),
            (json!({ "ipam": { "ippools": "a" } }), "ipam.ippools"),
            (json!({ "ipam": { "ippools": ["a", 3] } }), "ipam.ippools[1]"),
            (json!({ "runtimeConfig": [] }), "runtimeConfig"),
            (json!({ "dns": "10.0.0.10" }), "dns"),
        ] {
            let failure = refused(&verb("ADD"), &with("1.0.0", &fields));
            assert!(failure.code == 7 && failure.message.contains(name), "{fields}: {failure}");
        }
    }

    #[test]
    fn rule_5_unknown_fields_and_nulls_are_ignored() {
        let odd = json!({ "ipMasq": 3, "cni.dev/new": [], "args": { "cni": 1 }, "ipam": null, "runtimeConfig": null,
            "prevResult": null, "dns": null });
        assert_eq!(asked(&verb("ADD"), &with("1.1.0", &odd)).request.scope, Scope::Interface);
    }

    #[test]
    fn rule_7_each_verb_needs_the_version_it_came_with() {
        for (command, too_old, enough) in
            [("CHECK", "0.3.1", "0.4.0"), ("STATUS", "1.0.0", "1.1.0"), ("GC", "1.0.0", "1.1.0")]
        {
            let fields = json!({ "prevResult": { "ips": [{ "address": "10.0.0.1/32" }] }, "cni.dev/valid-attachments": [] });
            assert_eq!(refused(&verb(command), &with(too_old, &fields)).code, 1, "{command}");
            assert_eq!(asked(&verb(command), &with(enough, &fields)).version, enough);
        }
    }

    #[test]
    fn rule_11_a_main_plugin_follows_no_other_and_an_ipam_minds_nothing_of_its_callers() {
        let previous = json!({ "prevResult": { "ips": [] } });
        let failure = refused(&verb("ADD"), &with("1.0.0", &previous));
        assert!(failure.code == 7 && failure.message.contains("prevResult"), "{failure}");
        let delegate =
            json!({ "type": "macvlan", "ipam": { "type": "portolan" }, "prevResult": { "ips": [] } });
        assert_eq!(asked(&verb("ADD"), &with("1.0.0", &delegate)).request.scope, Scope::Addresses);
    }

    #[test]
    fn rule_23_the_scope_is_in_the_types_and_the_pools_in_their_order() {
        let delegate = json!({ "type": "macvlan", "ipam": { "type": "portolan", "ippools": ["b", "a"] } });
        let ask = asked(&verb("ADD"), &with("1.0.0", &delegate));
        assert_eq!(
            (ask.request.scope, ask.request.pools),
            (Scope::Addresses, vec!["b".to_owned(), "a".to_owned()])
        );
        let main = json!({ "ipam": { "type": "portolan", "ippools": ["b"] } });
        let ask = asked(&verb("STATUS"), &with("1.1.0", &main));
        assert_eq!((ask.request.scope, ask.request.pools), (Scope::Interface, vec!["b".to_owned()]));
        for (fields, code, name) in [
            (json!({ "ipam": { "type": "host-local" } }), 2, "\"host-local\""),
            (json!({ "ipam": { "routes": [{ "dst": "10.0.0.0/8" }] } }), 2, "ipam.routes"),
            (json!({ "type": "bridge", "ipam": { "type": "dhcp" } }), 7, "\"bridge\""),
            (json!({ "type": "bridge" }), 7, "\"bridge\""),
        ] {
            let failure = refused(&verb("ADD"), &with("1.0.0", &fields));
            assert!(failure.code == code && failure.message.contains(name), "{fields}: {failure}");
        }
    }

    #[test]
    fn rule_23_routes_of_an_ipam_go_through_in_the_words_of_the_version() {
        let routes = json!([{ "dst": "0.0.0.0/0", "gw": "10.1.0.1", "mtu": 1400 }, { "dst": "fd00::/64" }]);
        let fields = json!({ "type": "macvlan", "ipam": { "type": "portolan", "routes": routes } });
        let old = asked(&verb("ADD"), &with("1.0.0", &fields)).extras.routes;
        assert_eq!(old, [json!({ "dst": "0.0.0.0/0", "gw": "10.1.0.1" }), json!({ "dst": "fd00::/64" })]);
        assert_eq!(asked(&verb("ADD"), &with("1.1.0", &fields)).extras.routes[0]["mtu"], 1400);
        for bad in [
            json!(1),
            json!({}),
            json!({ "dst": "10.0.0.0" }),
            json!({ "dst": "10.0.0.0/33" }),
            json!({ "dst": "10.0.0.0/8", "gw": "there" }),
        ] {
            let fields = json!({ "type": "macvlan", "ipam": { "type": "portolan", "routes": [bad] } });
            assert_eq!(refused(&verb("ADD"), &with("1.0.0", &fields)).code, 7, "{bad}");
        }
    }

    #[test]
    fn rule_19_check_expects_what_add_put_on_its_interface_and_nothing_of_later_plugins() {
        let previous = json!({ "prevResult": {
            "interfaces": [{ "name": "ptl1" }, { "name": "eth0", "sandbox": "/n" }, { "name": "other0" }],
            "ips": [{ "address": "10.0.0.1/32", "interface": 1 }, { "address": "192.0.2.1/24", "interface": 2 },
                { "address": "fd00::1/128", "interface": 1 }] } });
        let expected = asked(&verb("CHECK"), &with("1.0.0", &previous)).request.expected;
        assert_eq!(expected, ["10.0.0.1".parse::<IpAddr>().unwrap(), "fd00::1".parse().unwrap()]);
        for bad in [json!(null), json!({}), json!({ "ips": 3 }), json!({ "ips": [{ "address": "x" }] })] {
            assert_eq!(
                refused(&verb("CHECK"), &with("1.0.0", &json!({ "prevResult": bad }))).code,
                7,
                "{bad}"
            );
        }
    }

    #[test]
    fn rule_21_gc_keeps_what_either_key_lists_and_never_guesses() {
        let one = |id: &str| json!([{ "containerID": id, "ifname": "eth0" }]);
        let names = |keep: Option<Vec<AttachmentKey>>| -> Option<Vec<String>> {
            Some(keep?.into_iter().map(|key| key.container_id).collect())
        };
        assert_eq!(gc(&json!({})), None);
        assert_eq!(gc(&json!({ "cni.dev/valid-attachments": null })), None);
        assert_eq!(gc(&json!({ "cni.dev/valid-attachments": [] })), Some(vec![]));
        assert_eq!(names(gc(&json!({ "cni.dev/attachments": one("old") }))).unwrap(), ["old"]);
        let both = json!({ "cni.dev/valid-attachments": one("a"), "cni.dev/attachments": one("b") });
        assert_eq!(names(gc(&both)).unwrap(), ["a", "b"]);
        for bad in [json!({}), json!([{}]), json!(["c1"]), json!([{ "containerID": "c1" }]), json!(true)] {
            let fields = json!({ "cni.dev/valid-attachments": bad });
            assert_eq!(refused(&[("CNI_COMMAND", "GC")], &with("1.1.0", &fields)).code, 7, "{bad}");
        }
    }
}
