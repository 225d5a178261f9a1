//! The control plane, in a namespace of its own on the rack: etcd, kube-apiserver, controller manager, scheduler.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::certs::{Signed, token_keys};
use crate::plan::{CONTROL, Plan};
use crate::{Bed, hyperkube};

/// Starts the control plane, waits until it answers, and tells it of the nodes.
pub(crate) fn start(bed: &mut Bed) -> Result<()> {
    let pki = bed.state.join("pki");
    fs::create_dir_all(&pki)?;
    certificates(bed, &pki)?;
    let binary = hyperkube().display().to_string();
    let spawn = |bed: &mut Bed, part: &str, flags: Vec<String>| {
        let mut command = vec![binary.as_str(), part];
        command.extend(flags.iter().map(String::as_str));
        bed.spawn("control", part, &command)
    };
    let etcd = bed.state.join("etcd").display().to_string();
    spawn(bed, "etcd", flags(&[("data-dir", &etcd), ("unsafe-no-fsync", "true"), ("log-level", "warn")]))?;
    let api_server = apiserver(&bed.plan, &pki);
    spawn(bed, "kube-apiserver", api_server)?;
    spawn(bed, "kube-controller-manager", controller_manager(&pki))?;
    spawn(bed, "kube-scheduler", scheduler(&pki))?;
    bed.wait("the API server answers", Duration::from_secs(60), || {
        bed.kubectl(&["get", "--raw", "/readyz"]).map(Ok)
    })?;
    let nodes: String = bed.plan.nodes.iter().map(|node| node_object(&node.name, &node.pod_cidrs)).collect();
    bed.apply(&nodes)?;
    // Without its service account a namespace takes no pods.
    let account = || bed.kubectl(&["get", "serviceaccount", "default"]).map(Ok);
    bed.wait("the default service account is there", Duration::from_secs(60), account)?;
    Ok(())
}

fn apiserver(plan: &Plan, pki: &Path) -> Vec<String> {
    let file = |name: &str| pki.join(name).display().to_string();
    flags(&[
        ("etcd-servers", "http://127.0.0.1:2379"),
        ("service-cluster-ip-range", &plan.services()),
        ("advertise-address", CONTROL),
        ("secure-port", "6443"),
        ("tls-cert-file", &file("apiserver.crt")),
        ("tls-private-key-file", &file("apiserver.key")),
        ("client-ca-file", &file("ca.crt")),
        ("kubelet-certificate-authority", &file("ca.crt")),
        ("kubelet-client-certificate", &file("admin.crt")),
        ("kubelet-client-key", &file("admin.key")),
        ("kubelet-preferred-address-types", "InternalIP"),
        ("service-account-issuer", "https://kubernetes.default.svc"),
        ("service-account-key-file", &file("tokens.pub")),
        ("service-account-signing-key-file", &file("tokens.key")),
        ("authorization-mode", "Node,RBAC"),
        ("enable-admission-plugins", "NodeRestriction"),
        ("allow-privileged", "true"),
        ("v", "1"),
    ])
}

fn controller_manager(pki: &Path) -> Vec<String> {
    let file = |name: &str| pki.join(name).display().to_string();
    flags(&[
        ("kubeconfig", &file("controller-manager.kubeconfig")),
        ("leader-elect", "false"),
        ("use-service-account-credentials", "true"),
        ("service-account-private-key-file", &file("tokens.key")),
        ("root-ca-file", &file("ca.crt")),
        ("allocate-node-cidrs", "false"),
        ("node-monitor-grace-period", "16s"),
        ("node-monitor-period", "1s"),
    ])
}

fn scheduler(pki: &Path) -> Vec<String> {
    let file = pki.join("scheduler.kubeconfig").display().to_string();
    flags(&[("kubeconfig", &file), ("leader-elect", "false")])
}

fn flags(pairs: &[(&str, &str)]) -> Vec<String> {
    pairs.iter().map(|(key, value)| format!("--{key}={value}")).collect()
}

fn certificates(bed: &Bed, pki: &Path) -> Result<()> {
    let authority = &bed.authority;
    fs::write(pki.join("ca.crt"), authority.certificate())?;
    let names = [CONTROL, "127.0.0.1", "10.96.0.1", "localhost", "kubernetes", "kubernetes.default.svc"];
    save(pki, "apiserver", &authority.sign("kube-apiserver", None, &names)?)?;
    let remote = format!("https://{CONTROL}:6443");
    let admin = authority.sign("admin", Some("system:masters"), &[])?;
    save(pki, "admin", &admin)?;
    let local = format!("https://127.0.0.1:{}", bed.port);
    fs::write(bed.kubeconfig(), kubeconfig(&local, pki, &admin))?;
    for part in ["controller-manager", "scheduler", "proxy"] {
        let user =
            if part == "proxy" { "system:kube-proxy".to_owned() } else { format!("system:kube-{part}") };
        let signed = authority.sign(&user, None, &[])?;
        fs::write(pki.join(format!("{part}.kubeconfig")), kubeconfig(&remote, pki, &signed))?;
    }
    for node in &bed.plan.nodes {
        let (user, addresses) = (format!("system:node:{}", node.name), bed.plan.addresses(&node.address()));
        let mut names: Vec<_> = addresses.iter().map(String::as_str).collect();
        names.push(&node.name);
        let signed = authority.sign(&user, Some("system:nodes"), &names)?;
        save(pki, &node.name, &signed)?;
        fs::write(pki.join(format!("{}.kubeconfig", node.name)), kubeconfig(&remote, pki, &signed))?;
    }
    let (private, public) = token_keys()?;
    fs::write(pki.join("tokens.key"), private)?;
    fs::write(pki.join("tokens.pub"), public)?;
    Ok(())
}

fn save(pki: &Path, name: &str, signed: &Signed) -> Result<()> {
    fs::write(pki.join(format!("{name}.crt")), &signed.certificate).with_context(|| name.to_owned())?;
    fs::write(pki.join(format!("{name}.key")), &signed.key).with_context(|| name.to_owned())
}

/// A kubeconfig; JSON is YAML.
fn kubeconfig(server: &str, pki: &Path, signed: &Signed) -> String {
    let data = |pem: &str| base64(pem.as_bytes());
    let authority = pki.join("ca.crt");
    serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "bed",
        "clusters": [{ "name": "bed", "cluster": { "server": server, "certificate-authority": authority } }],
        "users": [{ "name": "bed", "user": {
            "client-certificate-data": data(&signed.certificate), "client-key-data": data(&signed.key) } }],
        "contexts": [{ "name": "bed", "context": { "cluster": "bed", "user": "bed" } }],
    })
    .to_string()
}

/// Base64 (RFC 4648), for the one place that needs it.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for position in 0..4 {
            let letter = LETTERS.get((word >> (18 - 6 * position) & 63) as usize);
            text.push(if position <= chunk.len() { letter.map_or('=', |l| char::from(*l)) } else { '=' });
        }
    }
    text
}

fn node_object(name: &str, cidrs: &[String]) -> String {
    let node = serde_json::json!({
        "apiVersion": "v1", "kind": "Node", "metadata": { "name": name },
        "spec": { "podCIDR": cidrs.first(), "podCIDRs": cidrs },
    });
    format!("{node}\n---\n")
}
