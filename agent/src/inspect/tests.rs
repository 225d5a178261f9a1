//! The pages as a client meets them.

use std::sync::mpsc;

use portolan_daemon::drain::{self, Trigger};
use portolan_daemon::ready::Ready;
use portolan_wire::inspect::HistoryAnswer;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::history::{History, Limits};

struct Served {
    address: std::net::SocketAddr,
    _trigger: Trigger,
    _history: History,
    _folder: tempfile::TempDir,
}

/// An admin server whose owner answers on a thread, as the node's does.
async fn serve(mut owner: impl FnMut(Ask) + Send + 'static) -> Served {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = History::open(folder.path(), "node-1", Limits::default()).unwrap();
    let (events, inbox) = mpsc::channel();
    std::thread::spawn(move || inbox.iter().for_each(&mut owner));
    let admin = Admin::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = admin.local_addr().unwrap();
    let admin = pages(admin, move |ask| events.send(ask).is_ok(), history.reader());
    let (trigger, drain) = drain::channel();
    tokio::spawn(admin.serve(Ready::new(), Registry::default(), drain));
    Served { address, _trigger: trigger, _history: history, _folder: folder }
}

impl Served {
    async fn get(&self, path: &str) -> (u16, String) {
        let mut stream = tokio::net::TcpStream::connect(self.address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }
}

#[tokio::test]
async fn the_owner_answers_about_its_node_and_its_pods() {
    let served = serve(|ask| match ask {
        Ask::Node(reply) => {
            let _ = reply.send(NodeState { node: "node-1".into(), ..NodeState::default() });
        }
        Ask::Explain { namespace, pod, reply } => {
            let _ = reply.send(Err(format!("pod {namespace}/{pod} is not on this node")));
        }
    })
    .await;
    let (status, body) = served.get("/v1/node").await;
    let state: NodeState = serde_json::from_str(&body).unwrap();
    assert_eq!((status, state.node.as_str()), (200, "node-1"));
    let (status, body) = served.get("/v1/explain?pod=erp%2Fdb-0").await;
    assert_eq!((status, body.as_str()), (404, r#"{"error":"pod erp/db-0 is not on this node"}"#));
}

#[tokio::test]
async fn an_owner_that_ends_is_an_answer_too() {
    let served = serve(drop).await;
    let (status, body) = served.get("/v1/node").await;
    assert_eq!(status, 503, "{body}");
}

#[tokio::test]
async fn a_question_that_cannot_be_understood_is_answered_with_what_to_write() {
    let served = serve(drop).await;
    for (path, hint) in [
        ("/v1/history", "NAMESPACE/NAME"),
        ("/v1/history?address=ten", "10.10.1.5"),
        ("/v1/history?address=10.10.1.5&at=noon", "2026-11-20T10:00Z"),
        ("/v1/explain?pod=db-0", "NAMESPACE/NAME"),
    ] {
        let (status, body) = served.get(path).await;
        assert!(status == 400 && body.contains(hint), "{path}: {status} {body}");
    }
    let (status, body) = served.get("/v1/history?address=10.10.1.5&at=2026-11-20T10:00Z").await;
    let answer: HistoryAnswer = serde_json::from_str(&body).unwrap();
    assert_eq!((status, answer.node.as_str(), answer.holdings.len()), (200, "node-1", 0));
}
