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
            let (length, family, _) = family(given.address.is_ipv4());
            let mut entry = json!({
                "address": format!("{}/{length}", given.address), "gateway": given.gateway, "interface": 1,
            });
            if old {
                entry["version"] = Value::from(family);
            }
            entry
        })
        .collect();
    let routes: Vec<Value> = attachment
        .addresses
        .iter()
        .map(|given| json!({ "dst": family(given.address.is_ipv4()).2, "gw": given.gateway }))
        .collect();
    json!({
        "cniVersion": version,
        "interfaces": [
            { "name": attachment.host_interface, "mac": attachment.host_mac },
            { "name": request.interface, "mac": attachment.container_mac, "sandbox": netns.unwrap_or_default() },
        ],
        "ips": addresses,
        "routes": routes,
        "dns": {},
    })
    .to_string()
}

/// Prefix length of one address, the old results' family name, and the default destination.
fn family(ipv4: bool) -> (u8, &'static str, &'static str) {
    if ipv4 { (32, "4", "0.0.0.0/0") } else { (128, "6", "::/0") }
}
