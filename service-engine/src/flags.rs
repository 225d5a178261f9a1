//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use portolan_daemon::log;

/// The load balancer outside the cluster: routes to pods and virtual addresses, as the controllers of any number of
/// clusters say.
#[derive(Debug, Parser)]
#[command(name = "portolan-engine", version)]
pub struct Flags {
    /// Where controllers connect (gRPC over mutual TLS).
    #[arg(long, default_value = "0.0.0.0:7443")]
    pub listen: SocketAddr,
    /// Where accepted snapshots are kept; the engine serves from them when no controller is there.
    #[arg(long, default_value = "/var/lib/portolan-engine")]
    pub state_dir: PathBuf,
    /// The engine's certificate chain, PEM.
    #[arg(long)]
    pub tls_cert: PathBuf,
    /// The certificate's private key, PEM.
    #[arg(long)]
    pub tls_key: PathBuf,
    /// The authority that controllers' certificates must come from, PEM.
    #[arg(long)]
    pub tls_client_ca: PathBuf,
    /// The interface that carries the virtual addresses. Without it the engine holds routes only.
    #[arg(long)]
    pub vip_interface: Option<String>,
    /// Where /healthz, /readyz and /metrics are served (plain HTTP).
    #[arg(long, default_value = "0.0.0.0:7480")]
    pub metrics_listen: SocketAddr,
    /// How long open connections may go on after SIGTERM, in seconds.
    #[arg(long, default_value = "10", value_parser = seconds)]
    pub drain_seconds: Duration,
    /// The log.
    #[command(flatten)]
    pub log: log::Flags,
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse().map(Duration::from_secs).map_err(|_| "a whole number of seconds".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_flags_are_well_formed() {
        Flags::command().debug_assert();
    }

    #[test]
    fn an_engine_without_a_front_interface_holds_routes_only() {
        let tls = ["--tls-cert", "c", "--tls-key", "k", "--tls-client-ca", "a"];
        let flags = Flags::try_parse_from(["portolan-engine"].into_iter().chain(tls)).unwrap();
        assert_eq!(flags.vip_interface, None);
        assert_eq!(flags.drain_seconds, Duration::from_secs(10));
    }
}
