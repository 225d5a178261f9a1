//! The record through its front door, on a real folder.

use std::fs;
use std::io::Write;

use portolan_wire::cni::Scope;
use portolan_wire::inspect::Holding;

use super::*;
use crate::records::Given;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn record(address: &str, pod: &str) -> Record {
    Record {
        container_id: format!("c-{pod}"),
        interface: "eth0".into(),
        namespace: "erp".into(),
        pod: pod.into(),
        uid: Some(format!("u-{pod}")),
        network: "portolan".into(),
        scope: Scope::Interface,
        addresses: vec![Given {
            address: address.parse().unwrap(),
            pool: Some("erp".into()),
            prefix_len: 32,
            gateway: None,
        }],
        ports: vec![],
        host_interface: "ptl1".into(),
        complete: true,
        mtu: 1450,
    }
}

fn open(folder: &Path, limits: Limits) -> (History, Past) {
    History::open(folder, "node-1", limits).unwrap()
}

fn who(address: &str, at: Option<&str>) -> Wanted {
    Wanted::Address { address: address.parse().unwrap(), at: at.map(self::at) }
}

fn pods(answer: &HistoryAnswer) -> Vec<&str> {
    answer.holdings.iter().map(|holding: &Holding| holding.pod.as_str()).collect()
}

#[tokio::test]
async fn an_address_is_traced_to_the_pod_that_held_it_then_across_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (history, past) = open(folder.path(), Limits::default());
    assert_eq!(past, Past::default());
    history.assigned(&record("10.20.1.5", "a"), "ADD", at("2026-11-20T09:00:00.1239Z"));
    history.released(&record("10.20.1.5", "a"), "DEL", at("2026-11-20T10:00Z"));
    drop(history);
    let (history, past) = open(folder.path(), Limits::default());
    assert_eq!(past.released.keys().map(ToString::to_string).collect::<Vec<_>>(), ["10.20.1.5"]);
    assert_eq!(past.rested(at("2026-11-20T10:00:07Z")).values().next(), Some(&Duration::from_secs(7)));
    history.assigned(&record("10.20.1.5", "b"), "ADD", at("2026-11-20T11:00Z"));
    let reader = history.reader();
    let then = reader.query(who("10.20.1.5", Some("2026-11-20T09:30Z"))).await.unwrap();
    assert_eq!((pods(&then), then.node.as_str()), (vec!["a"], "node-1"));
    assert_eq!(then.holdings[0].from, Some(at("2026-11-20T09:00:00.123Z")));
    assert_eq!(then.holdings[0].ended_by.as_deref(), Some("DEL"));
    for (time, holder) in
        [("2026-11-20T08:00Z", None), ("2026-11-20T10:00Z", None), ("2026-11-21T00:00Z", Some("b"))]
    {
        let answer = reader.query(who("10.20.1.5", Some(time))).await.unwrap();
        assert_eq!(pods(&answer), holder.into_iter().collect::<Vec<_>>(), "{time}");
    }
    let ever = reader.query(who("10.20.1.5", None)).await.unwrap();
    assert_eq!((pods(&ever), ever.holdings[1].until), (vec!["a", "b"], None));
    let pod = Wanted::Pod { namespace: "erp".into(), pod: "b".into() };
    assert_eq!(reader.query(pod).await.unwrap().holdings, ever.holdings[1..]);
}

#[tokio::test]
async fn a_line_that_was_cut_off_costs_that_line_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path(), Limits::default());
    history.assigned(&record("10.20.1.5", "a"), "ADD", at("2026-11-20T09:00Z"));
    drop(history);
    let file = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let mut file = fs::OpenOptions::new().append(true).open(file).unwrap();
    file.write_all(br#"{"number":2,"time":"2026-"#).unwrap();
    let (history, past) = open(folder.path(), Limits::default());
    assert_eq!(past.unreadable, 0, "the line may still be in the making");
    history.released(&record("10.20.1.5", "a"), "DEL", at("2026-11-20T10:00Z"));
    let answer = history.reader().query(who("10.20.1.5", None)).await.unwrap();
    assert_eq!((answer.holdings.len(), answer.unreadable), (1, 1));
    assert_eq!(answer.holdings[0].until, Some(at("2026-11-20T10:00Z")));
}

#[tokio::test]
async fn a_holder_is_known_for_as_long_as_it_holds_whatever_was_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits { bytes: 64 << 10, ..Limits::default() };
    let (history, _) = open(folder.path(), limits);
    history.assigned(&record("10.20.1.5", "old"), "ADD", at("2026-11-20T09:00Z"));
    for minute in 0..2000_i64 {
        let now = at("2026-11-20T10:00Z") + jiff::SignedDuration::from_mins(minute);
        history.assigned(&record("10.20.1.6", "short"), "ADD", now);
        history.released(&record("10.20.1.6", "short"), "DEL", now);
    }
    let reader = history.reader();
    let answer = reader.query(who("10.20.1.5", None)).await.unwrap();
    assert_eq!((pods(&answer), answer.holdings[0].until), (vec!["old"], None));
    let reaches = answer.reaches_back_to.unwrap();
    assert!(reaches > at("2026-11-20T12:00Z"), "{reaches}");
    let files = || fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().metadata().unwrap().len());
    assert!(files().count() > 4 && files().sum::<u64>() <= limits.bytes, "{:?}", files().collect::<Vec<_>>());
    // The assignment of the first is found again by the next run, which can so write its end.
    drop(history);
    let (history, _) = open(folder.path(), limits);
    history.settle(&[], at("2026-11-22T00:00Z"));
    let answer = history.reader().query(who("10.20.1.5", None)).await.unwrap();
    assert_eq!(answer.holdings[0].ended_by.as_deref(), Some("gone at start"));
}

#[tokio::test]
async fn old_files_go_one_at_a_time_however_far_the_clock_jumps() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path(), Limits { age: Duration::from_secs(16 * 60), ..Limits::default() });
    let minutes = [0, 2, 4, 6, 8, 10_000_000, 10_000_002];
    for minute in minutes {
        let now = at("2026-11-20T10:00Z") + jiff::SignedDuration::from_mins(minute);
        history.assigned(&record("10.20.1.6", "short"), "ADD", now);
        history.released(&record("10.20.1.6", "short"), "DEL", now);
    }
    let answer = history.reader().query(who("10.20.1.6", None)).await.unwrap();
    assert_eq!(answer.holdings.len(), minutes.len() - 1);
}

#[tokio::test]
async fn when_the_clock_goes_back_a_time_has_two_holders_and_the_answer_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path(), Limits::default());
    history.assigned(&record("10.20.1.5", "a"), "ADD", at("2026-11-20T10:00Z"));
    history.released(&record("10.20.1.5", "a"), "DEL", at("2026-11-20T10:20Z"));
    history.assigned(&record("10.20.1.5", "b"), "ADD", at("2026-11-20T10:05Z"));
    let reader = history.reader();
    let answer = reader.query(who("10.20.1.5", Some("2026-11-20T10:10Z"))).await.unwrap();
    assert_eq!(pods(&answer), ["a", "b"]);
    let step = answer.clock_went_back[0];
    assert_eq!((step.from, step.to), (at("2026-11-20T10:20Z"), at("2026-11-20T10:05Z")));
    let before = reader.query(who("10.20.1.5", Some("2026-11-20T10:02Z"))).await.unwrap();
    assert_eq!((pods(&before), before.clock_went_back.len()), (vec!["a"], 0));
    drop(history);
    // A cooldown that would end in a future that is past by now has just begun.
    let (_history, past) = open(folder.path(), Limits::default());
    assert!(past.released.is_empty());
}

#[tokio::test]
async fn what_a_holding_saw_before_and_after_the_clock_went_back_belongs_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path(), Limits::default());
    history.assigned(&record("10.20.1.5", "a"), "ADD", at("2026-11-20T10:00Z"));
    history.assigned(&record("10.20.1.7", "x"), "ADD", at("2026-11-20T10:30Z"));
    history.assigned(&record("10.20.1.8", "y"), "ADD", at("2026-11-20T08:00Z"));
    history.released(&record("10.20.1.5", "a"), "DEL", at("2026-11-20T08:30Z"));
    let reader = history.reader();
    for (time, held) in [("10:15", true), ("08:15", true), ("09:00", false), ("08:30", false)] {
        let time = format!("2026-11-20T{time}Z");
        let answer = reader.query(who("10.20.1.5", Some(&time))).await.unwrap();
        assert_eq!(!answer.holdings.is_empty(), held, "{time}");
    }
    let ever = reader.query(who("10.20.1.5", None)).await.unwrap();
    assert_eq!(ever.clock_went_back.len(), 1);
}

#[tokio::test]
async fn what_ended_and_began_while_nobody_wrote_is_settled_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path(), Limits::default());
    history.assigned(&record("10.20.1.5", "a"), "ADD", at("2026-11-20T10:00Z"));
    history.assigned(&record("10.20.1.6", "b"), "ADD", at("2026-11-20T10:00Z"));
    drop(history);
    let (history, _) = open(folder.path(), Limits::default());
    history.settle(&[record("10.20.1.6", "b"), record("10.20.1.7", "c")], at("2026-11-20T11:00Z"));
    let reader = history.reader();
    let gone = reader.query(who("10.20.1.5", None)).await.unwrap();
    assert_eq!(gone.holdings[0].until, Some(at("2026-11-20T11:00Z")));
    let stays = reader.query(who("10.20.1.6", None)).await.unwrap();
    assert_eq!((stays.holdings.len(), stays.holdings[0].until), (1, None));
    let found = reader.query(who("10.20.1.7", Some("2026-11-20T11:00Z"))).await.unwrap();
    assert_eq!(pods(&found), ["c"]);
}

#[tokio::test]
async fn a_disk_that_refuses_is_no_trouble_for_who_records_and_the_gap_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path(), Limits::default());
    fs::remove_dir(folder.path()).unwrap();
    history.assigned(&record("10.20.1.5", "a"), "ADD", at("2026-11-20T10:00Z"));
    let reader = history.reader();
    assert!(reader.query(who("10.20.1.5", None)).await.is_err());
    fs::create_dir(folder.path()).unwrap();
    history.assigned(&record("10.20.1.6", "b"), "ADD", at("2026-11-20T10:01Z"));
    let answer = reader.query(who("10.20.1.6", None)).await.unwrap();
    assert_eq!((pods(&answer), answer.lost), (vec!["b"], 1));
}
