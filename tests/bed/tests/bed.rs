//! The bed by itself, with the reference plugins `ptp` and `host-local` in Portolan's place: what every other suite
//! stands on. Needs root.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test may panic")]

use std::fs;
use std::process::Command;
use std::time::Duration;

use portolan_bed::{Bed, Plan, beds};

const PATIENCE: Duration = Duration::from_secs(90);

fn start(nodes: u8) -> Bed {
    let bed = Bed::start(Plan::bank(nodes), &mut |step| println!("{step}")).unwrap();
    for node in bed.nodes() {
        for plugin in ["ptp", "host-local"] {
            fs::copy(format!("/usr/lib/cni/{plugin}"), node.root().join("opt/cni/bin").join(plugin)).unwrap();
        }
        let subnet = format!("10.10.{}.0/24", node.name().trim_start_matches("node-"));
        let list = format!(
            r#"{{"cniVersion":"1.0.0","name":"ptp","plugins":[{{"type":"ptp","ipMasq":true,"ipam":
            {{"type":"host-local","subnet":"{subnet}","routes":[{{"dst":"0.0.0.0/0"}}]}}}}]}}"#
        );
        fs::write(node.root().join("etc/cni/net.d/10-ptp.conflist"), list).unwrap();
    }
    bed
}

fn running(bed: &Bed) {
    bed.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers:\n  - name: web\n    \
         image: localhost/bed/workload:1\n    args: [serve, --port, \"8080\"]\n",
    )
    .unwrap();
    bed.wait("the pod runs", PATIENCE, || {
        let phase = bed.kubectl(&["get", "pod", "web", "-o", "jsonpath={.status.phase}"])?;
        Ok(if phase == "Running" { Ok(()) } else { Err(phase) })
    })
    .unwrap();
}

fn left(id: &str) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let mut left: Vec<_> =
        mounts.lines().filter(|line| line.contains(&format!("ptl{id}"))).map(str::to_owned).collect();
    for folder in ["/run/netns", "/var/tmp", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/pids"] {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.path().display().to_string());
        left.extend(names.filter(|name| name.contains(&format!("ptl{id}"))));
    }
    left
}

#[test]
fn a_pod_runs_and_what_it_does_is_seen_outside_and_nothing_is_left_behind() {
    let mut bed = start(1);
    let record = bed.host("erp-db").record().display().to_string();
    let probe = portolan_bed::probe().display().to_string();
    bed.spawn("erp-db", "erp-db", &[&probe, "serve", "--port", "5432", "--record", &record]).unwrap();
    running(&bed);
    let answer = bed
        .kubectl(&["exec", "web", "--", "bed-probe", "dial", "172.16.20.9:5432", "--tag", "hello"])
        .unwrap();
    assert!(answer.contains("sees 172.16.11.11"), "{answer}");
    let seen = bed.host("erp-db").seen().unwrap();
    assert_eq!((seen[0].source.as_str(), seen[0].said.as_str()), ("172.16.11.11", "hello"));
    bed.kubectl(&["logs", "web"]).unwrap();
    let id = bed.id().to_owned();
    drop(bed);
    assert_eq!(left(&id), Vec::<String>::new());
}

#[test]
fn a_dual_stack_data_centre_has_both_families_everywhere() {
    let mut bed =
        Bed::start(Plan::bank(2).with_second_rack().with_both_families(), &mut |step| println!("{step}"))
            .unwrap();
    let cidrs = bed.kubectl(&["get", "nodes", "-o", "jsonpath={.items[*].spec.podCIDRs}"]).unwrap();
    assert_eq!(cidrs, r#"["10.10.1.0/24","fd10:10:1::/64"] ["10.10.2.0/24","fd10:10:2::/64"]"#);
    assert_eq!(bed.nodes()[1].addresses(), ["172.16.12.12", "2001:db8:12::12"]);
    bed.apply(
        "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n\
         spec: {ipFamilyPolicy: RequireDualStack, ports: [{port: 80}], selector: {app: web}}\n",
    )
    .unwrap();
    let addresses = bed.kubectl(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIPs[1]}"]).unwrap();
    assert!(addresses.starts_with("fd96::"), "{addresses}");
    let record = bed.host("erp-db").record().display().to_string();
    let probe = portolan_bed::probe().display().to_string();
    bed.spawn("erp-db", "erp-db", &[&probe, "serve", "--port", "5432", "--record", &record]).unwrap();
    for (to, source) in [("172.16.20.9:5432", "172.16.12.12"), ("[2001:db8:20::9]:5432", "2001:db8:12::12")] {
        let answer = bed.wait("erp-db answers", PATIENCE, || bed.nodes()[1].host().dial(to).map(Ok)).unwrap();
        assert!(answer.contains(&format!("sees {source}")), "{answer}");
    }
}

#[test]
fn two_beds_stand_side_by_side() {
    let (one, two) = (start(1), start(1));
    running(&one);
    running(&two);
    assert_ne!(one.id(), two.id());
}

/// The child of the next test: starts a bed, says so, and waits to be killed.
#[test]
fn owner() {
    if std::env::var_os("BED_OWNER").is_some() {
        let bed = start(1);
        running(&bed);
        println!("up {}", bed.id());
        loop {
            std::thread::park();
        }
    }
}

#[test]
fn a_bed_whose_owner_is_killed_goes_away() {
    use std::io::{BufRead, BufReader};
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["owner", "--exact", "--nocapture"])
        .env("BED_OWNER", "1")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(owner.stdout.take().unwrap()).lines().map_while(Result::ok);
    let up = lines.find_map(|line| line.strip_prefix("up ").map(str::to_owned)).unwrap();
    assert!(beds().unwrap().contains(&up));
    owner.kill().unwrap();
    owner.wait().unwrap();
    let deadline = std::time::Instant::now() + PATIENCE;
    while !left(&up).is_empty() {
        assert!(std::time::Instant::now() < deadline, "left: {:?}", left(&up));
        std::thread::sleep(Duration::from_millis(50));
    }
}
