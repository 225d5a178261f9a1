//! What goes back to the runtime, rendered in the version it asked for (CNI specification, section 5).

use portolan_wire::cni::{Attachment, Failure, Request};
use serde_json::{Value, json};

use crate::call::VERSIONS;

/// The answer to VERSION.
pub fn versions(version: &str) -> String {
    json!({ "cniVersion": version, "supportedVersions": VERSIONS }).to_string()
}

/// An error (rule 6: on stdout, with a non-zero exit).
pub fn error(version: &str, failure: &Failure) -> String {
    let mut body = json!({ "cniVersion": version, "code": failure.code, "msg": failure.message });
    if !failure.details.is_empty() {
        body["details"] = Value::from(failure.details.as_str());
    }
    body.to_string()
}

/// The result of ADD (rule 9): both ends of the pair, the addresses with their gateways, a default route per family.
pub fn result(version: &str, request: &Request, netns: Option<&str>, attachment: &Attachment) -> String {
    let old = version.starts_with("0.");
    let addresses: Vec<Value> = attachment
        .addresses
        .iter()
        .map(|given| {
            let mut entry = json!({
                "address": format!("{}/{}", given.address, given.prefix_len), "interface": 1,
            });
            if let Some(gateway) = given.gateway {
                entry["gateway"] = Value::from(gateway.to_string());
            }
            if old {
                entry["version"] = Value::from(family(given.address.is_ipv4()).0);
            }
            entry
        })
        .collect();
    let routes: Vec<Value> = attachment
        .addresses
        .iter()
        .filter_map(|given| Some((given, given.gateway?)))
        .map(|(given, gateway)| json!({ "dst": family(given.address.is_ipv4()).1, "gw": gateway }))
        .collect();
    let interfaces: Vec<Value> = attachment
        .link
        .iter()
        .flat_map(|pair| {
            [
                json!({ "name": pair.host_interface, "mac": pair.host_mac }),
                json!({ "name": request.interface, "mac": pair.container_mac, "sandbox": netns.unwrap_or_default() }),
            ]
        })
        .collect();
    json!({
        "cniVersion": version,
        "interfaces": interfaces,
        "ips": addresses,
        "routes": routes,
        "dns": {},
    })
    .to_string()
}

/// The old results' name of a family, and its default destination.
fn family(ipv4: bool) -> (&'static str, &'static str) {
    if ipv4 { ("4", "0.0.0.0/0") } else { ("6", "::/0") }
}
