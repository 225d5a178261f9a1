//! Host ports as the runtime hands them over (CNI conventions, capability `portMappings`).
//!
//! containerd writes the keys as its own fields are called (`HostPort`), the conventions write `hostPort`; the reference
//! plugins take both, because Go compares keys without regard to case, and so does this.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::net::IpAddr;

use portolan_wire::cni::{Failure, PortMapping, Transport};
use serde_json::Value;

use crate::configuration::invalid;

/// The mappings, or a refusal that names the field.
pub fn parse(path: &str, mappings: &[Value]) -> Result<Vec<PortMapping>, Failure> {
    mappings.iter().enumerate().map(|(index, value)| mapping(&format!("{path}[{index}]"), value)).collect()
}

fn mapping(path: &str, value: &Value) -> Result<PortMapping, Failure> {
    let fields = value
        .as_object()
        .ok_or_else(|| invalid(format!("{path} {value} is no object"), "see capabilities"))?;
    let field = |name: &str| {
        let found = fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value).filter(|value| !value.is_null())
    };
    let port = |name: &str| {
        let given = field(name).and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok());
        given.filter(|port| *port != 0).ok_or_else(|| {
            let said = field(name).map_or_else(|| "missing".to_owned(), Value::to_string);
            invalid(format!("{path}.{name} {said} is no port"), "ports are 1 to 65535")
        })
    };
    Ok(PortMapping {
        host_port: port("hostPort")?,
        container_port: port("containerPort")?,
        protocol: protocol(path, field("protocol"))?,
        host_ip: host_ip(path, field("hostIP"))?,
    })
}

/// TCP where none is named, as in a pod's `ports`.
fn protocol(path: &str, value: Option<&Value>) -> Result<Transport, Failure> {
    let said = value.map_or(Some("tcp"), Value::as_str).map(str::to_ascii_lowercase);
    match said.as_deref() {
        Some("tcp" | "") => Ok(Transport::Tcp),
        Some("udp") => Ok(Transport::Udp),
        Some("sctp") => Ok(Transport::Sctp),
        _ => {
            let said = value.map(Value::to_string).unwrap_or_default();
            Err(invalid(format!("{path}.protocol {said} is none"), "tcp, udp or sctp"))
        }
    }
}

/// The unspecified address is every address.
fn host_ip(path: &str, value: Option<&Value>) -> Result<Option<IpAddr>, Failure> {
    let Some(value) = value.filter(|value| value.as_str() != Some("")) else { return Ok(None) };
    let address = value.as_str().and_then(|text| text.parse::<IpAddr>().ok());
    let address = address
        .ok_or_else(|| invalid(format!("{path}.hostIP {value} is no address"), "an address, or none"))?;
    Ok(Some(address).filter(|address| !address.is_unspecified()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn one(value: Value) -> Result<PortMapping, Failure> {
        parse("portMappings", &[value]).map(|mut all| all.remove(0))
    }

    #[test]
    fn ports_are_read_in_the_words_of_the_conventions_and_in_containerds() {
        let expected = PortMapping {
            host_port: 8080,
            container_port: 80,
            protocol: Transport::Udp,
            host_ip: Some("172.16.11.11".parse().unwrap()),
        };
        let conventions =
            json!({ "hostPort": 8080, "containerPort": 80, "protocol": "udp", "hostIP": "172.16.11.11" });
        let containerd =
            json!({ "HostPort": 8080, "ContainerPort": 80, "Protocol": "UDP", "HostIP": "172.16.11.11" });
        assert_eq!(one(conventions).unwrap(), expected);
        assert_eq!(one(containerd).unwrap(), expected);
    }

    #[test]
    fn a_port_on_every_address_names_none() {
        for host_ip in [json!(null), json!(""), json!("0.0.0.0"), json!("::")] {
            let mapping = one(json!({ "hostPort": 1, "containerPort": 65535, "hostIP": host_ip })).unwrap();
            assert_eq!((mapping.host_ip, mapping.protocol), (None, Transport::Tcp));
        }
    }

    #[test]
    fn rule_5_a_bad_port_is_refused_with_its_field() {
        for (value, field) in [
            (json!({ "hostPort": 0, "containerPort": 80 }), "portMappings[0].hostPort"),
            (json!({ "hostPort": 65536, "containerPort": 80 }), "portMappings[0].hostPort"),
            (json!({ "hostPort": -1, "containerPort": 80 }), "portMappings[0].hostPort"),
            (json!({ "hostPort": "80", "containerPort": 80 }), "portMappings[0].hostPort"),
            (json!({ "hostPort": 80 }), "portMappings[0].containerPort"),
            (json!({ "hostPort": 80, "containerPort": 80, "protocol": "icmp" }), "portMappings[0].protocol"),
            (json!({ "hostPort": 80, "containerPort": 80, "protocol": 6 }), "portMappings[0].protocol"),
            (json!({ "hostPort": 80, "containerPort": 80, "hostIP": "node" }), "portMappings[0].hostIP"),
            (json!(8080), "portMappings[0]"),
        ] {
            let failure = one(value.clone()).unwrap_err();
            assert!(failure.code == 7 && failure.message.contains(field), "{value}: {failure}");
        }
    }
}
