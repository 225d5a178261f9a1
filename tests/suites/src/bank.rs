//! The bank: four applications in four namespaces, a database outside, a load balancer beside.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use portolan_bed::{Bed, Plan, probe, repository};
use serde_json::{Value, json};

/// The bank's applications and how many pods each has.
pub const NAMESPACES: [(&str, u8); 4] = [("portal", 2), ("erp", 4), ("crm", 2), ("vote", 2)];

/// The longest wait for anything that has to happen.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// The bank's data centre.
pub struct Bank {
    /// The bed it stands in.
    pub bed: Bed,
}

/// A pod, as the API server has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: String,
    /// Its node.
    pub node: String,
}

/// A file of this suite's manifests.
pub fn manifest(name: &str) -> PathBuf {
    repository().join("tests/suites/manifests").join(name)
}

impl Bank {
    /// Starts the data centre and installs Portolan, without any pool or Egress.
    ///
    /// # Errors
    /// What did not come up, and where its log is.
    pub fn start(plan: Plan, progress: &mut dyn FnMut(&str)) -> Result<Self> {
        let mut bed = Bed::start(plan, progress)?;
        let probe = probe().display().to_string();
        for (host, port) in [("erp-db", "5432"), ("partner", "443")] {
            let record = bed.host(host).record().display().to_string();
            bed.spawn(host, host, &[&probe, "serve", "--port", port, "--record", &record])?;
        }
        progress("Portolan: kubectl apply -k manifests/overlays/bed");
        for image in ["agent", "controller"] {
            bed.load_image(&repository().join(format!("target/images/{image}.tar")))?;
        }
        let bank = Self { bed };
        bank.install()?;
        Ok(bank)
    }

    fn install(&self) -> Result<()> {
        let overlay = repository().join("manifests/overlays/bed").display().to_string();
        self.bed.kubectl(&["apply", "-k", &overlay])?;
        self.rolled_out("portolan-system", "daemonset/portolan-agent")?;
        self.rolled_out("portolan-system", "deployment/portolan-controller")?;
        self.bed.kubectl(&["wait", "--for=condition=Ready", "nodes", "--all", "--timeout=90s"]).map(drop)
    }

    /// Starts the bank's applications.
    ///
    /// # Errors
    /// What did not come up.
    pub fn applications(&self) -> Result<()> {
        let objects: Vec<_> = NAMESPACES
            .iter()
            .flat_map(|(name, replicas)| {
                let namespace =
                    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
                [namespace, deployment(name, *replicas)]
            })
            .collect();
        self.bed.apply(&json!({ "apiVersion": "v1", "kind": "List", "items": objects }).to_string())?;
        self.applications_run()
    }

    /// Binds addresses: pools, Egresses, external pools, engines; and starts the applications anew, so that they take
    /// addresses of their pools.
    ///
    /// # Errors
    /// What did not come up.
    pub fn bind(&mut self, progress: &mut dyn FnMut(&str)) -> Result<()> {
        progress("service engines: se-1 with virtual addresses, the router with routes");
        self.engine("se-1", "172.16.11.101", Some("eth1"))?;
        self.engine("router", "172.16.11.1", None)?;
        progress("pools, Egresses, engines: kubectl apply");
        self.bed.kubectl(&["apply", "-f", &manifest("policies.yaml").display().to_string()])?;
        for object in ["ippools", "externalippools", "egresses", "serviceengines"] {
            self.bed.kubectl(&["wait", "--for=condition=Ready", object, "--all", "--timeout=90s"])?;
        }
        progress("applications: kubectl rollout restart");
        for (name, _) in NAMESPACES {
            self.bed.kubectl(&["-n", name, "rollout", "restart", "deployment"])?;
        }
        self.applications_run()
    }

    fn applications_run(&self) -> Result<()> {
        NAMESPACES.iter().try_for_each(|(name, _)| self.rolled_out(name, &format!("deployment/{name}")))
    }

    /// Waits until an application has all its pods, and no other.
    ///
    /// # Errors
    /// What kubectl says after a while.
    pub fn rolled_out(&self, namespace: &str, object: &str) -> Result<()> {
        let found = || self.bed.kubectl(&["-n", namespace, "get", object]).map(|_| Ok(()));
        self.bed.wait(&format!("{object} exists"), PATIENCE, found)?;
        self.bed.kubectl(&["-n", namespace, "rollout", "status", object, "--timeout=90s"]).map(drop)
    }

    /// A service engine on a host, and the Secret that lets the controller in.
    fn engine(&mut self, host: &str, address: &str, vips: Option<&str>) -> Result<()> {
        let pki = self.bed.state().join(format!("engine-{host}"));
        std::fs::create_dir_all(&pki)?;
        let signed = self.bed.authority().sign(host, None, &[address])?;
        let file = |name: &str| pki.join(name).display().to_string();
        std::fs::write(file("tls.crt"), &signed.certificate)?;
        std::fs::write(file("tls.key"), &signed.key)?;
        std::fs::write(file("ca.crt"), self.bed.authority().certificate())?;
        let binary = repository().join("target/release/portolan-engine").display().to_string();
        let listen = format!("{address}:7443");
        let flags = [
            ("--listen", listen),
            ("--state-dir", file("state")),
            ("--tls-cert", file("tls.crt")),
            ("--tls-key", file("tls.key")),
            ("--tls-client-ca", file("ca.crt")),
        ];
        let mut command = vec![binary.as_str()];
        command.extend(flags.iter().flat_map(|(flag, value)| [*flag, value.as_str()]));
        command.extend(vips.iter().flat_map(|device| ["--vip-interface", *device]));
        self.bed.spawn(host, &format!("engine-{host}"), &command)?;
        let feed = self.bed.authority().sign("portolan-controller", None, &[])?;
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "engine-feed", "namespace": "portolan-system" },
            "stringData": { "ca.crt": self.bed.authority().certificate(), "tls.crt": feed.certificate, "tls.key": feed.key },
        });
        self.bed.apply(&secret.to_string()).map(drop)
    }

    /// `kubectl portolan …`: its exit code, and what it printed on both outputs.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn portolan(&self, arguments: &[&str]) -> Result<(Option<i32>, String)> {
        let binary = repository().join("target/release/kubectl-portolan");
        let output = Command::new(&binary)
            .arg("--kubeconfig")
            .arg(self.bed.kubeconfig())
            .args(arguments)
            .output()
            .with_context(|| binary.display().to_string())?;
        let text = [output.stdout, output.stderr].concat();
        Ok((output.status.code(), String::from_utf8_lossy(&text).into_owned()))
    }

    /// Waits until `kubectl portolan check` finds that everything agrees.
    ///
    /// # Errors
    /// What did not agree to the end.
    pub fn agrees(&self) -> Result<()> {
        self.bed.wait("pools, leases, records, kernels, nftables and pods agree", PATIENCE, || {
            let (code, text) = self.portolan(&["check"])?;
            Ok(if code == Some(0) { Ok(()) } else { Err(text) })
        })
    }

    /// The running pods of a namespace; those on their way out do not count.
    ///
    /// # Errors
    /// What kubectl says.
    pub fn pods(&self, namespace: &str) -> Result<Vec<Pod>> {
        let list = self.bed.get(&["pods", "-n", namespace])?;
        let items = list["items"].as_array().context("no list of pods")?;
        let living = items.iter().filter(|pod| {
            pod["metadata"]["deletionTimestamp"].is_null() && pod["status"]["phase"] == "Running"
        });
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(living
            .map(|pod| Pod {
                namespace: namespace.to_owned(),
                name: text(&pod["metadata"]["name"]),
                address: text(&pod["status"]["podIP"]),
                node: text(&pod["spec"]["nodeName"]),
            })
            .collect())
    }

    /// Lets a pod connect, and returns what it was answered.
    ///
    /// # Errors
    /// When nobody answers.
    pub fn dial(&self, pod: &Pod, to: &str, tag: &str) -> Result<String> {
        let dial = ["bed-probe", "dial", to, "--tag", tag];
        let mut command = vec!["-n", &pod.namespace, "exec", &pod.name, "--"];
        command.extend(dial);
        self.bed.kubectl(&command)
    }

    /// The sources with which a namespace's pods reach the ERP database, by pod, as the database sees them.
    ///
    /// # Errors
    /// When a pod does not reach it.
    pub fn sources(&self, namespace: &str, when: &str) -> Result<Vec<(Pod, String)>> {
        let pods = self.pods(namespace)?;
        for pod in &pods {
            self.dial(pod, "172.16.20.9:5432", &format!("{when}-{}", pod.name))?;
        }
        let seen = self.bed.host("erp-db").seen()?;
        let source = |pod: Pod| {
            let said = format!("{when}-{}", pod.name);
            let connection = seen.iter().rev().find(|one| one.said == said)?;
            Some((pod, connection.source.clone()))
        };
        Ok(pods.into_iter().filter_map(source).collect())
    }
}

fn deployment(name: &str, replicas: u8) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name, "namespace": name },
        "spec": {
            "replicas": replicas, "selector": { "matchLabels": { "app": name } },
            "template": {
                "metadata": { "labels": { "app": name } },
                "spec": {
                    "terminationGracePeriodSeconds": 0,
                    // Pods on more than one node are part of what is looked at; the scheduler is not left to chance.
                    "topologySpreadConstraints": [{
                        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
                        "labelSelector": { "matchLabels": { "app": name } }, "matchLabelKeys": ["pod-template-hash"],
                    }],
                    "containers": [{
                        "name": name, "image": "localhost/bed/workload:1", "args": ["serve", "--port", "8080"],
                        "readinessProbe": { "tcpSocket": { "port": 8080 }, "periodSeconds": 1 },
                    }],
                },
            },
        },
    })
}
