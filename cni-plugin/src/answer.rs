//! What goes back to the runtime, rendered in the version it asked for (CNI specification, section 5).

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use portolan_wire::cni::{Address, Attachment, Failure, Pair};
use serde_json::{Value, json};

use crate::call::Ask;
use crate::configuration::{NEWEST, VERSIONS};

/// The answer to VERSION.
pub fn versions() -> String {
    json!({ "cniVersion": NEWEST, "supportedVersions": VERSIONS }).to_string()
}

/// An error (rule 6: on stdout, with a non-zero exit).
pub fn error(version: &str, failure: &Failure) -> String {
    let mut body = json!({ "cniVersion": version, "code": failure.code, "msg": failure.message });
    if !failure.details.is_empty() {
        body["details"] = Value::from(failure.details.as_str());
    }
    body.to_string()
}

/// The result of ADD. With a pair (rule 9): both its ends, the addresses with their gateways, a default route per family.
/// Without one (rule 23): the addresses for whoever asked for them, and the routes of its own configuration.
pub fn result(ask: &Ask, attachment: &Attachment) -> String {
    let old = ask.version.starts_with("0.");
    let ips: Vec<_> =
        attachment.addresses.iter().map(|given| ip(given, attachment.link.is_some(), old)).collect();
    let mut result = json!({ "cniVersion": ask.version, "ips": ips });
    result["dns"] = ask.extras.dns.clone().unwrap_or_else(|| json!({}));
    result["routes"] = match &attachment.link {
        Some(pair) => {
            result["interfaces"] = interfaces(ask, pair);
            attachment.addresses.iter().filter_map(default_route).collect()
        }
        None => Value::Array(ask.extras.routes.clone()),
    };
    result.to_string()
}

fn interfaces(ask: &Ask, pair: &Pair) -> Value {
    let mut host = json!({ "name": pair.host_interface, "mac": pair.host_mac });
    let mut container = json!({
        "name": ask.request.interface, "mac": pair.container_mac, "sandbox": ask.netns.as_deref().unwrap_or_default(),
    });
    if ask.version == NEWEST {
        host["mtu"] = Value::from(pair.mtu);
        container["mtu"] = Value::from(pair.mtu);
    }
    Value::Array(vec![host, container])
}

/// An address; of the second of the interfaces, where there are any.
fn ip(given: &Address, of_interface: bool, old: bool) -> Value {
    let mut entry = json!({ "address": format!("{}/{}", given.address, given.prefix_len) });
    if of_interface {
        entry["interface"] = Value::from(1);
    }
    if let Some(gateway) = given.gateway {
        entry["gateway"] = Value::from(gateway.to_string());
    }
    if old {
        entry["version"] = Value::from(if given.address.is_ipv4() { "4" } else { "6" });
    }
    entry
}

fn default_route(given: &Address) -> Option<Value> {
    let everything = if given.address.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
    Some(json!({ "dst": everything, "gw": given.gateway?.to_string() }))
}
