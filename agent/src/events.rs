//! Kubernetes Events on pods: `AddressAssigned` (Normal) once an ADD has succeeded, `NoAddress` (Warning) with the
//! explanation where it has not.
//!
//! They are a courtesy, and never on an ADD's way: whoever reports puts a note into a bounded queue and goes on; one task
//! writes them, one at a time. What is too much is dropped and counted: [`Gate`] lets a node write five a second, keeps a
//! part of that for warnings, and says the same about a pod once a minute at most, however often a runtime tries again. The
//! whole truth is in the record (`history`), not here. Normal ones can be switched off.
//!
//! An Event's name is a function of what it says, so a repetition finds the Event and counts it up, also after a restart.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use portolan_core::rank;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Notes that wait to be written.
const QUEUE: usize = 1024;
/// The API server has this long for one.
const PATIENCE: Duration = Duration::from_secs(5);
/// The API server takes no longer note (bytes).
const LONGEST: usize = 1024;

/// The pod that an Event is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`; without it `kubectl describe` does not find the Event.
    pub uid: String,
}

/// What an Event says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Assigned,
    NoAddress,
}

#[derive(Debug, Clone)]
struct Note {
    subject: Subject,
    kind: Kind,
    text: String,
}

/// Takes notes of what happens to pods. Clones share the queue.
#[derive(Debug, Clone)]
pub struct Events {
    queue: Sender<Note>,
    normal: bool,
    dropped: Counter,
}

impl Events {
    /// The notes, and what writes them for ever. `normal`: whether successes are noted.
    pub fn start(
        client: Client,
        node: String,
        normal: bool,
        registry: &mut Registry,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (queue, notes) = channel(QUEUE);
        let dropped = Counter::default();
        registry.register(
            "portolan_pod_events_dropped",
            "Kubernetes Events on pods that were not written: too many, or refused",
            dropped.clone(),
        );
        (Self { queue, normal, dropped: dropped.clone() }, write(client, node, notes, dropped))
    }

    /// The pod got these addresses, each with its pool.
    pub fn assigned(&self, pod: Subject, given: &[(IpAddr, Option<String>)]) {
        if !self.normal {
            return;
        }
        let one = |(address, pool): &(IpAddr, Option<String>)| match pool {
            Some(pool) => format!("{address} from IPPool {pool}"),
            None => format!("{address} from the node's pod CIDR"),
        };
        let text = given.iter().map(one).collect::<Vec<_>>().join(", ");
        self.note(Note { subject: pod, kind: Kind::Assigned, text });
    }

    /// The pod got none; the explanation names every pool and why it was passed over.
    pub fn no_address(&self, pod: Subject, explanation: &str) {
        self.note(Note { subject: pod, kind: Kind::NoAddress, text: explanation.to_owned() });
    }

    fn note(&self, note: Note) {
        if self.queue.try_send(note).is_err() {
            self.dropped.inc();
        }
    }
}

async fn write(client: Client, node: String, mut notes: Receiver<Note>, dropped: Counter) {
    let mut gate = Gate::new(Instant::now());
    while let Some(note) = notes.recv().await {
        let count = match gate.admit(&note, Instant::now()) {
            Admitted::Write(count) => count,
            Admitted::Said => continue,
            Admitted::TooMany => {
                dropped.inc();
                continue;
            }
        };
        let outcome = tokio::time::timeout(PATIENCE, publish(&client, &node, &note, count)).await;
        let error = match outcome {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => format!("no answer within {} s", PATIENCE.as_secs()),
        };
        dropped.inc();
        let Subject { namespace, name, .. } = &note.subject;
        tracing::debug!(namespace, pod = name, error, "an Event was not written");
    }
}

async fn publish(client: &Client, node: &str, note: &Note, count: u32) -> Result<()> {
    let events: Api<Event> = Api::namespaced(client.clone(), &note.subject.namespace);
    let (event, now) = (event(node, note, Timestamp::now()), Timestamp::now());
    let name = event.metadata.name.clone().unwrap_or_default();
    match events.create(&PostParams::default(), &event).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => {
            let series = json!({ "series": { "count": count.max(2), "lastObservedTime": MicroTime(now) } });
            events.patch(&name, &PatchParams::default(), &Patch::Merge(series)).await?;
            Ok(())
        }
        other => Ok(other.map(drop)?),
    }
}

fn event(node: &str, note: &Note, now: Timestamp) -> Event {
    let Note { subject, kind, text } = note;
    let (type_, reason) = match kind {
        Kind::Assigned => ("Normal", "AddressAssigned"),
        Kind::NoAddress => ("Warning", "NoAddress"),
    };
    let (pod, said) =
        (shortened(&subject.name, 230), rank::weight(&subject.uid, &format!("{reason} {text}")));
    Event {
        action: Some("AssignAddress".to_owned()),
        event_time: Some(MicroTime(now)),
        metadata: ObjectMeta {
            name: Some(format!("{}.{said:016x}", pod.trim_end_matches(['-', '.']))),
            namespace: Some(subject.namespace.clone()),
            ..ObjectMeta::default()
        },
        note: Some(shortened(text, LONGEST).to_owned()),
        reason: Some(reason.to_owned()),
        regarding: Some(ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(subject.namespace.clone()),
            name: Some(subject.name.clone()),
            uid: Some(subject.uid.clone()),
            ..ObjectReference::default()
        }),
        reporting_controller: Some("portolan.dev/agent".to_owned()),
        reporting_instance: Some(shortened(node, 128).to_owned()),
        type_: Some(type_.to_owned()),
        ..Event::default()
    }
}

/// At most this many bytes, no character cut.
fn shortened(text: &str, most: usize) -> &str {
    text.get(..text.floor_char_boundary(most)).unwrap_or(text)
}

/// What may be written. Pure: time is an argument.
#[derive(Debug)]
struct Gate {
    /// What may be written at once, in hundredths of an Event.
    allowance: u64,
    /// When it was last added to.
    since: Instant,
    said: BTreeMap<(String, Kind), Said>,
}

#[derive(Debug)]
struct Said {
    text: String,
    at: Instant,
    times: u32,
}

#[derive(Debug, PartialEq, Eq)]
enum Admitted {
    /// It is the n-th time that this is said.
    Write(u32),
    /// It was said a moment ago.
    Said,
    /// Too much is being said.
    TooMany,
}

/// One Event.
const ONE: u64 = 100;
/// Events a second.
const RATE: u64 = 5;
/// Events at once: a node full of pods that start together.
const BURST: u64 = 150 * ONE;
/// Of these, only for warnings.
const FOR_WARNINGS: u64 = 30 * ONE;
/// The same about one pod is said once in this time.
const REPEAT: Duration = Duration::from_secs(60);
/// Pods that are remembered.
const REMEMBERED: usize = 4096;

impl Gate {
    fn new(now: Instant) -> Self {
        Self { allowance: BURST, since: now, said: BTreeMap::new() }
    }

    fn admit(&mut self, note: &Note, now: Instant) -> Admitted {
        let passed = now.saturating_duration_since(self.since).as_millis() as u64;
        // Whole hundredths only; the rest of the time counts the next time.
        let earned = passed * RATE * ONE / 1000;
        if earned > 0 {
            self.since = now;
            self.allowance = self.allowance.saturating_add(earned).min(BURST);
        }
        let key = (note.subject.uid.clone(), note.kind);
        let before = self.said.get(&key).filter(|said| said.text == note.text);
        let times = before.map_or(1, |said| said.times.saturating_add(1));
        if let Some(said) = before.filter(|said| now.saturating_duration_since(said.at) < REPEAT) {
            let said = Said { text: said.text.clone(), at: said.at, times };
            self.said.insert(key, said);
            return Admitted::Said;
        }
        let kept_back = if note.kind == Kind::Assigned { FOR_WARNINGS } else { 0 };
        if self.allowance < kept_back + ONE {
            return Admitted::TooMany;
        }
        self.allowance -= ONE;
        if self.said.len() >= REMEMBERED {
            self.said.retain(|_, said| now.saturating_duration_since(said.at) < REPEAT);
        }
        self.said.insert(key, Said { text: note.text.clone(), at: now, times });
        Admitted::Write(times)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(uid: u64, kind: Kind, text: &str) -> Note {
        let subject = Subject { namespace: "erp".into(), name: "db-0".into(), uid: uid.to_string() };
        Note { subject, kind, text: text.into() }
    }

    #[test]
    fn the_same_about_a_pod_is_said_once_a_minute_and_counted() {
        let start = Instant::now();
        let mut gate = Gate::new(start);
        let full = note(1, Kind::NoAddress, "pool erp: it has no free address");
        assert_eq!(gate.admit(&full, start), Admitted::Write(1));
        for second in 1..60 {
            assert_eq!(gate.admit(&full, start + Duration::from_secs(second)), Admitted::Said);
        }
        let off = note(1, Kind::NoAddress, "pool erp: it is disabled");
        assert_eq!(gate.admit(&full, start + REPEAT), Admitted::Write(61));
        assert_eq!(gate.admit(&off, start + REPEAT), Admitted::Write(1), "something new is news");
    }

    #[test]
    fn a_flood_of_successes_is_cut_off_and_leaves_room_for_warnings() {
        let start = Instant::now();
        let mut gate = Gate::new(start);
        let written = |gate: &mut Gate, kind, uids: std::ops::Range<u64>, now| {
            uids.filter(|uid| gate.admit(&note(*uid, kind, "x"), now) == Admitted::Write(1)).count()
        };
        assert_eq!(written(&mut gate, Kind::Assigned, 0..1000, start), 120);
        assert_eq!(written(&mut gate, Kind::NoAddress, 0..1000, start), 30);
        let later = start + Duration::from_secs(10);
        assert_eq!(written(&mut gate, Kind::NoAddress, 2000..3000, later), 50);
    }

    #[test]
    fn an_event_has_a_name_and_a_note_that_the_api_server_takes() {
        let now: Timestamp = "2026-11-20T10:00Z".parse().unwrap();
        let long = "ü".repeat(2000);
        let mut made = note(1, Kind::NoAddress, &long);
        made.subject.name = format!("{}.{}", "a".repeat(229), "b".repeat(20));
        let one = event("node-1", &made, now);
        let name = one.metadata.name.clone().unwrap();
        assert!(name.len() <= 253 && !name.contains(".."), "{name}");
        assert_eq!(one.note.as_deref().map(str::len), Some(LONGEST));
        assert_eq!(event("node-2", &made, now).metadata.name, one.metadata.name, "a repetition finds it");
        made.text.push('!');
        assert_ne!(event("node-1", &made, now).metadata.name, one.metadata.name);
    }

    #[tokio::test]
    async fn who_notes_never_waits_and_successes_can_be_switched_off() {
        let (queue, mut notes) = channel(1);
        let events = Events { queue, normal: false, dropped: Counter::default() };
        let pod = note(1, Kind::Assigned, "").subject;
        events.assigned(pod.clone(), &[("10.20.1.5".parse().unwrap(), Some("erp".into()))]);
        assert!(notes.try_recv().is_err());
        let on = Events { normal: true, ..events };
        on.assigned(pod.clone(), &[("10.20.1.5".parse().unwrap(), Some("erp".into()))]);
        on.no_address(pod, "none");
        assert_eq!(on.dropped.get(), 1);
        assert_eq!(notes.try_recv().unwrap().text, "10.20.1.5 from IPPool erp");
    }
}
