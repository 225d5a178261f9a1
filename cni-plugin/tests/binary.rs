//! The binary as a runtime meets it, with an agent that the test plays. Rule numbers are those of the CNI specification's
//! digest in the project's field notes.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use std::fs::File;
use std::io::{IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread::JoinHandle;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg};
use portolan_wire::cni::{self, Address, Attachment, Failure, Pair, Request, Response};
use serde_json::{Value, json};
use tempfile::TempDir;

const GOOD: &str = r#"{"cniVersion":"1.0.0","name":"portolan","type":"portolan"}"#;

/// A file that stands for a pod's namespace: the binary opens it, compares it with its own, and hands it on.
const NETNS: &str = "/dev/null";

/// Runs the binary as a runtime does.
fn call(folder: &Path, variables: &[(&str, &str)], stdin: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_portolan-cni"))
        .env_clear()
        .env("PORTOLAN_SOCKET", folder.join("agent.sock"))
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A refusal may come before the input has been read.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

fn variables(command: &str) -> [(&str, &str); 5] {
    [
        ("CNI_COMMAND", command),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", NETNS),
        ("CNI_IFNAME", "eth0"),
        ("CNI_ARGS", "K8S_POD_NAMESPACE=erp;K8S_POD_NAME=erp-0;K8S_POD_UID=u1"),
    ]
}

/// An agent that takes one call and does what it is told; the answer is the request and the descriptor that came with it.
fn agent(folder: &TempDir, answer: Vec<u8>) -> JoinHandle<(Request, Option<File>)> {
    let listener = UnixListener::bind(folder.path().join("agent.sock")).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let heard = hear(&mut stream);
        stream.write_all(&answer).unwrap();
        heard
    })
}

#[allow(unsafe_code)]
fn hear(stream: &mut UnixStream) -> (Request, Option<File>) {
    let (mut prefix, mut space) = ([0; 4], nix::cmsg_space!(RawFd));
    let mut parts = [IoSliceMut::new(&mut prefix)];
    let message =
        recvmsg::<UnixAddr>(stream.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty()).unwrap();
    assert_eq!(message.bytes, 4);
    let mut descriptor = None;
    for control in message.cmsgs().unwrap() {
        if let ControlMessageOwned::ScmRights(all) = control {
            // SAFETY: the kernel has just made this descriptor for this process.
            descriptor = Some(File::from(unsafe { OwnedFd::from_raw_fd(all[0]) }));
        }
    }
    let mut body = vec![0; cni::body_length(prefix).unwrap()];
    stream.read_exact(&mut body).unwrap();
    (cni::decode(&body).unwrap(), descriptor)
}

fn added() -> Vec<u8> {
    let link = Pair {
        host_interface: "ptl1".into(),
        host_mac: "ee:ee:ee:ee:ee:ee".into(),
        container_mac: "02:00:00:00:00:01".into(),
        mtu: 1450,
    };
    answer_with(Some(link), 32)
}

fn answer_with(link: Option<Pair>, prefix_len: u8) -> Vec<u8> {
    let address = Address {
        address: "10.20.1.0".parse().unwrap(),
        prefix_len,
        gateway: Some("169.254.1.1".parse().unwrap()),
    };
    cni::encode(&Response::Added(Attachment { link, addresses: vec![address] })).unwrap()
}

fn json_of(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stdout)))
}

#[test]
fn rule_1_version_needs_nothing_but_the_command() {
    let folder = TempDir::new().unwrap();
    for stdin in ["", r#"{"cniVersion":"0.4.0"}"#, "{ not json"] {
        let output = call(folder.path(), &[("CNI_COMMAND", "VERSION")], stdin);
        assert!(output.status.success());
        let said = json_of(&output);
        assert_eq!(said["cniVersion"], "1.1.0");
        assert_eq!(said["supportedVersions"], json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"]));
    }
}

#[test]
fn rules_2_to_6_a_refusal_is_json_on_stdout_with_the_specifications_code() {
    let folder = TempDir::new().unwrap();
    let mut bad_container = variables("ADD");
    bad_container[1].1 = "../../etc";
    for (variables, stdin, code) in [
        (&[("CNI_COMMAND", "ADD")][..], GOOD, 4),
        (&variables("GRILL")[..], GOOD, 4),
        (&bad_container[..], GOOD, 4),
        (&variables("ADD")[..], "{ not json", 6),
        (&variables("ADD")[..], r#"{"cniVersion":"9.9.9","name":"n"}"#, 1),
        (&variables("ADD")[..], r#"{"cniVersion":"1.0.0"}"#, 7),
    ] {
        let output = call(folder.path(), variables, stdin);
        assert!(!output.status.success());
        assert_eq!(json_of(&output)["code"], code, "{variables:?} {stdin}");
    }
}

#[test]
fn rules_7_and_9_the_result_of_add_is_in_the_version_that_was_asked_for() {
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let folder = TempDir::new().unwrap();
        let agent = agent(&folder, added());
        let stdin = format!(r#"{{"cniVersion":"{version}","name":"portolan","unknown":"ignored"}}"#);
        let output = call(folder.path(), &variables("ADD"), &stdin);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        let result = json_of(&output);
        assert_eq!(result["cniVersion"], version);
        assert_eq!(result["interfaces"][0]["sandbox"], Value::Null);
        assert_eq!(result["interfaces"][1]["sandbox"], NETNS);
        let mtu = if version == "1.1.0" { json!(1450) } else { Value::Null };
        assert_eq!((&result["interfaces"][0]["mtu"], &result["interfaces"][1]["mtu"]), (&mtu, &mtu));
        assert_eq!(result["ips"][0]["address"], "10.20.1.0/32");
        assert_eq!(result["ips"][0]["interface"], 1);
        assert_eq!(
            result["ips"][0]["version"],
            if version.starts_with("0.") { json!("4") } else { Value::Null }
        );
        assert_eq!(result["routes"][0], json!({ "dst": "0.0.0.0/0", "gw": "169.254.1.1" }));
        let (request, _) = agent.join().unwrap();
        let pod = request.pod.unwrap();
        assert_eq!(
            (pod.namespace.as_str(), pod.name.as_str(), pod.uid.as_deref()),
            ("erp", "erp-0", Some("u1"))
        );
    }
}

#[test]
fn the_pods_own_namespace_arrives_at_the_agent() {
    let folder = TempDir::new().unwrap();
    let namespace = folder.path().join("netns");
    std::fs::write(&namespace, "").unwrap();
    let agent = agent(&folder, added());
    let path = namespace.display().to_string();
    let mut variables = variables("ADD");
    variables[2].1 = &path;
    assert!(call(folder.path(), &variables, GOOD).status.success());
    let arrived = agent.join().unwrap().1.unwrap().metadata().unwrap();
    let sent = std::fs::metadata(&namespace).unwrap();
    assert_eq!((arrived.dev(), arrived.ino()), (sent.dev(), sent.ino()));
}

#[test]
fn rule_13_the_nodes_own_namespace_is_refused_before_the_agent_is_asked() {
    let folder = TempDir::new().unwrap();
    let mut variables = variables("ADD");
    variables[2].1 = "/proc/self/ns/net";
    let output = call(folder.path(), &variables, GOOD);
    let said = json_of(&output);
    assert_eq!(said["code"], 4, "{said}");
    assert!(said["msg"].as_str().unwrap().contains("namespace of the node"), "{said}");
}

#[test]
fn rules_14_and_16_without_an_agent_add_is_to_be_tried_again_and_del_succeeds() {
    let folder = TempDir::new().unwrap();
    let output = call(folder.path(), &variables("ADD"), GOOD);
    assert_eq!((output.status.success(), json_of(&output)["code"].as_u64()), (false, Some(11)));
    let output = call(folder.path(), &variables("DEL"), GOOD);
    assert!(output.status.success() && output.stdout.is_empty());
    // Where another plugin made the interface, nothing would show the agent that the pod is gone.
    let delegate = r#"{"cniVersion":"1.0.0","name":"second","type":"macvlan","ipam":{"type":"portolan"}}"#;
    let output = call(folder.path(), &variables("DEL"), delegate);
    assert_eq!((output.status.success(), json_of(&output)["code"].as_u64()), (false, Some(11)));
}

#[test]
fn rule_20_status_has_codes_of_its_own_whatever_the_agent_says() {
    let status = GOOD.replace("1.0.0", "1.1.0");
    let folder = TempDir::new().unwrap();
    let output = call(folder.path(), &[("CNI_COMMAND", "STATUS")], &status);
    assert_eq!((output.status.success(), json_of(&output)["code"].as_u64()), (false, Some(50)));
    for (said, heard) in [(50, 50), (51, 51), (11, 50), (100, 50)] {
        let folder = TempDir::new().unwrap();
        let failure = Failure::new(said, "no address left", "");
        let agent = agent(&folder, cni::encode(&Response::Failed(failure)).unwrap());
        let output = call(folder.path(), &[("CNI_COMMAND", "STATUS")], &status);
        assert_eq!((output.status.success(), json_of(&output)["code"].as_u64()), (false, Some(heard)));
        assert_eq!(agent.join().unwrap().0.command, cni::Command::Status);
    }
}

#[test]
fn rule_21_gc_hands_the_list_to_the_agent_and_says_nothing() {
    let gc = r#"{"cniVersion":"1.1.0","name":"portolan","type":"portolan",
        "cni.dev/valid-attachments":[{"containerID":"c1","ifname":"eth0"}]}"#;
    let folder = TempDir::new().unwrap();
    let agent = agent(&folder, cni::encode(&Response::Done).unwrap());
    let output = call(folder.path(), &[("CNI_COMMAND", "GC")], gc);
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    let (request, _) = agent.join().unwrap();
    let keep = request.keep.unwrap();
    assert_eq!((request.network.as_str(), keep.len()), ("portolan", 1));
    assert_eq!((keep[0].container_id.as_str(), keep[0].interface.as_str()), ("c1", "eth0"));
}

#[test]
fn rule_23_the_ipam_of_another_plugin_answers_with_addresses_alone() {
    let folder = TempDir::new().unwrap();
    let agent = agent(&folder, answer_with(None, 24));
    let stdin = r#"{"cniVersion":"1.0.0","name":"second","type":"macvlan","master":"eth0",
        "ipam":{"type":"portolan","ippools":["b"],"routes":[{"dst":"0.0.0.0/0"}]}}"#;
    let output = call(folder.path(), &variables("ADD"), stdin);
    assert!(output.status.success(), "{output:?}");
    let expected = json!({
        "cniVersion": "1.0.0", "dns": {}, "routes": [{ "dst": "0.0.0.0/0" }],
        "ips": [{ "address": "10.20.1.0/24", "gateway": "169.254.1.1" }],
    });
    assert_eq!(json_of(&output), expected);
    let (request, _) = agent.join().unwrap();
    assert_eq!((request.scope, request.pools), (cni::Scope::Addresses, vec!["b".to_owned()]));
}

#[test]
fn rules_18_and_19_del_and_check_succeed_without_a_word() {
    let check =
        r#"{"cniVersion":"1.0.0","name":"portolan","prevResult":{"ips":[{"address":"10.20.1.0/32"}]}}"#;
    for (command, stdin) in [("DEL", GOOD), ("CHECK", check)] {
        let folder = TempDir::new().unwrap();
        let agent = agent(&folder, cni::encode(&Response::Done).unwrap());
        let output = call(folder.path(), &variables(command), stdin);
        assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
        let (request, descriptor) = agent.join().unwrap();
        assert_eq!(descriptor.is_some(), command == "CHECK");
        assert_eq!(request.expected.len(), usize::from(command == "CHECK"));
    }
}

#[test]
fn an_agent_that_hangs_up_or_talks_rubbish_is_to_be_tried_again() {
    for answer in [vec![], vec![0, 0], b"HTTP/1.1 400 Bad Request\r\n".to_vec(), vec![0, 0, 0, 2, b'{', b'}']]
    {
        let folder = TempDir::new().unwrap();
        let agent = agent(&folder, answer.clone());
        let output = call(folder.path(), &variables("ADD"), GOOD);
        assert_eq!(
            (output.status.success(), json_of(&output)["code"].as_u64()),
            (false, Some(11)),
            "{answer:?}"
        );
        agent.join().unwrap();
    }
}
