//! Virtual services and their members as Prometheus sees them: read from the living objects at each scrape, so that
//! what is gone leaves no series behind.

use std::fmt::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use tokio::sync::watch;

use super::Status;
use super::service::{Member, Virtual};

/// Collects from what listens now.
#[derive(Debug)]
pub struct Services(pub watch::Receiver<Arc<Status>>);

type ServiceLabels = [(&'static str, String); 3];
type MemberLabels = [(&'static str, String); 4];

/// Which number of a member a series shows: its name, its description, its kind, the number.
type OfMember = (&'static str, &'static str, MetricType, fn(&Member) -> &AtomicU64);

const OF_MEMBER: [OfMember; 5] = [
    ("member_open_connections", "Connections to the pod open now", MetricType::Gauge, |m| &m.open),
    ("member_connections", "Connections made to the pod", MetricType::Counter, |m| &m.connections),
    ("member_failures", "Connections to the pod that failed", MetricType::Counter, |m| &m.failures),
    ("member_received_bytes", "Bytes from clients to the pod", MetricType::Counter, |m| &m.received),
    ("member_sent_bytes", "Bytes from the pod to clients", MetricType::Counter, |m| &m.sent),
];

impl Collector for Services {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), Error> {
        let status = self.0.borrow().clone();
        let mut of_service = |name, help, kind, value: &dyn Fn(&Virtual) -> u64| {
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for service in status.services() {
                number(kind, value(service), family.encode_family(&service_labels(service))?)?;
            }
            Ok::<(), Error>(())
        };
        let count = |service: &Virtual| u64::try_from(service.current().members.len()).unwrap_or(u64::MAX);
        of_service("service_members", "Ready pods", MetricType::Gauge, &count)?;
        of_service(
            "service_open_connections",
            "Client connections open now",
            MetricType::Gauge,
            &Virtual::open,
        )?;
        of_service("service_connections", "Client connections accepted", MetricType::Counter, &|service| {
            service.connections.load(Relaxed)
        })?;
        of_service("service_refused", "Client connections no pod took", MetricType::Counter, &|service| {
            service.refused.load(Relaxed)
        })?;
        for (name, help, kind, value) in OF_MEMBER {
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for service in status.services() {
                for member in &service.current().members {
                    let labels = member_labels(service, member);
                    number(kind, value(member).load(Relaxed), family.encode_family(&labels)?)?;
                }
            }
        }
        Ok(())
    }
}

fn number(
    kind: MetricType,
    value: u64,
    encoder: prometheus_client::encoding::MetricEncoder<'_>,
) -> Result<(), Error> {
    match kind {
        MetricType::Counter => ConstCounter::new(value).encode(encoder),
        MetricType::Gauge | MetricType::Histogram | MetricType::Info | MetricType::Unknown => {
            ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(encoder)
        }
    }
}

fn service_labels(service: &Virtual) -> ServiceLabels {
    [
        ("service", service.current().name.to_string()),
        ("vip", service.front.vip.to_string()),
        ("port", service.front.port.to_string()),
    ]
}

fn member_labels(service: &Virtual, member: &Member) -> MemberLabels {
    let [name, vip, port] = service_labels(service);
    [name, vip, port, ("member", member.address.to_string())]
}

#[cfg(test)]
mod tests {
    use portolan_wire::engine::{Front, Protocol, Service};
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn every_service_and_member_has_its_series_and_takes_them_along_when_it_goes() {
        let service = Service {
            name: "k8s--default-nginx1".parse().unwrap(),
            front: Front { vip: "172.16.251.1".parse().unwrap(), port: 80, protocol: Protocol::Tcp },
            members: vec!["10.244.3.23:8080".parse().unwrap()],
        };
        let services = [(service.front, Arc::new(Virtual::new(&service)))].into();
        let (status, receiver) = watch::channel(Arc::new(Status { services, ..Status::default() }));
        let mut registry = Registry::with_prefix("portolan_engine");
        registry.register_collector(Box::new(Services(receiver)));

        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let service = "service=\"k8s--default-nginx1\",vip=\"172.16.251.1\",port=\"80\"";
        for line in [
            format!("portolan_engine_service_members{{{service}}} 1"),
            format!("portolan_engine_service_connections_total{{{service}}} 0"),
            format!("portolan_engine_member_sent_bytes_total{{{service},member=\"10.244.3.23:8080\"}} 0"),
        ] {
            assert!(text.contains(&line), "{line} in\n{text}");
        }
        status.send_replace(Arc::default());
        text.clear();
        encode(&mut text, &registry).unwrap();
        assert!(!text.contains("nginx1"), "{text}");
    }
}
