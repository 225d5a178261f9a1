//! `who`: who holds or held an address. Blocks move between nodes, so every node's record is asked.

use std::net::IpAddr;

use anyhow::Result;
use jiff::Timestamp;
use portolan_wire::inspect::{HISTORY, HistoryAnswer, Holding};
use serde::Serialize;

use crate::Ended;
use crate::cluster::{Answers, Cluster, Silent};
use crate::output::{self, Out};

/// The whole answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    address: IpAddr,
    at: Option<Timestamp>,
    holdings: Vec<Holding>,
    /// What the reader has to know to believe the right thing.
    caveats: Vec<String>,
    silent: Vec<Silent>,
    complete: bool,
}

/// Asks and tells.
///
/// # Errors
/// When nobody reads the answer.
pub async fn run(
    cluster: &Cluster,
    address: IpAddr,
    at: Option<Timestamp>,
    all: bool,
    out: &mut Out,
) -> Result<Ended> {
    let mut path = format!("{HISTORY}?address={address}");
    if let Some(at) = at {
        // A time in UTC has no character that a query would need to escape.
        path.push_str(&format!("&at={at}"));
    }
    let answers = cluster.ask_all::<HistoryAnswer>(cluster.nodes(), &path).await;
    let mut answer = combine(address, at, answers);
    if at.is_none() && !all {
        answer.holdings = latest(answer.holdings);
    }
    tell(&answer, out)?;
    Ok(match (&answer.holdings[..], answer.complete) {
        (_, false) => Ended::Incomplete,
        ([], true) => Ended::Nothing,
        (_, true) => Ended::Answered,
    })
}

fn combine(address: IpAddr, at: Option<Timestamp>, answers: Answers<HistoryAnswer>) -> Answer {
    let (mut holdings, mut caveats, mut reaches) = (vec![], vec![], true);
    for (node, one) in answers.answers {
        for step in &one.clock_went_back {
            caveats.push(format!(
                "the clock of {node} went back from {} to {}: times between came twice",
                step.from, step.to
            ));
        }
        let too_young = |from: &Timestamp| at.is_some_and(|at| at < *from);
        if one.holdings.is_empty()
            && let Some(from) = one.reaches_back_to.filter(too_young)
        {
            caveats.push(format!("the record of {node} reaches back to {}", output::time(Some(from), "")));
            reaches = false;
        }
        if one.lost > 0 || one.unreadable > 0 {
            caveats.push(format!(
                "the record of {node} has gaps: {} entries were not written, {} lines cannot be read",
                one.lost, one.unreadable
            ));
        }
        holdings.extend(one.holdings);
    }
    holdings.sort_by_key(|holding| (holding.from, holding.until.is_none(), holding.until));
    // Where somebody is known to have held it then, how far others remember does not matter.
    let complete = answers.silent.is_empty() && (reaches || !holdings.is_empty());
    Answer { address, at, holdings, caveats, silent: answers.silent, complete }
}

/// Who has it; where nobody has, who had it last.
fn latest(holdings: Vec<Holding>) -> Vec<Holding> {
    let (now, mut past): (Vec<_>, Vec<_>) = holdings.into_iter().partition(|one| one.until.is_none());
    past.sort_by_key(|one| one.until);
    if now.is_empty() { past.pop().into_iter().collect() } else { now }
}

fn tell(answer: &Answer, out: &mut Out) -> Result<()> {
    if out.is_json() {
        return out.json(answer);
    }
    if answer.holdings.is_empty() {
        let when = answer.at.map_or("is on record to have held it".to_owned(), |at| {
            format!("is on record to have held it at {}", output::time(Some(at), ""))
        });
        out.line(&format!("{}: nobody {when}", answer.address))?;
    } else {
        let head = ["ADDRESS", "POD", "NODE", "POOL", "FROM", "UNTIL", "ENDED BY", "CONTAINER"];
        out.table(&head, answer.holdings.iter().map(row).collect())?;
    }
    for caveat in &answer.caveats {
        out.line(&format!("note: {caveat}"))?;
    }
    for one in &answer.silent {
        out.bad(&format!("node {} did not answer: {}", one.node, one.why))?;
    }
    Ok(())
}

/// One holding.
pub fn row(one: &Holding) -> Vec<String> {
    let pod = if one.pod.is_empty() { "-".to_owned() } else { format!("{}/{}", one.namespace, one.pod) };
    vec![
        one.address.to_string(),
        pod,
        one.node.clone(),
        one.pool.clone().unwrap_or_else(|| "-".to_owned()),
        output::time(one.from, "before the record"),
        output::time(one.until, "now"),
        one.ended_by.clone().unwrap_or_else(|| "-".to_owned()),
        one.container.chars().take(13).collect(),
    ]
}

#[cfg(test)]
mod tests {
    use portolan_wire::inspect::ClockStep;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn holding(node: &str, from: &str, until: Option<&str>) -> Holding {
        Holding {
            address: "10.20.1.5".parse().unwrap(),
            pool: Some("erp".into()),
            namespace: "erp".into(),
            pod: format!("pod-of-{node}"),
            uid: None,
            container: "4f3c2b1a4f3c2b1a4f3c".into(),
            node: node.into(),
            from: Some(at(from)),
            until: until.map(at),
            ended_by: None,
        }
    }

    fn nodes(all: &[Holding]) -> Vec<&str> {
        all.iter().map(|one| one.node.as_str()).collect()
    }

    fn asked(moment: Option<&str>, answers: Vec<HistoryAnswer>, silent: Vec<Silent>) -> Answer {
        let answers = answers.into_iter().map(|one| (one.node.clone(), one)).collect();
        combine("10.20.1.5".parse().unwrap(), moment.map(at), Answers { answers, silent })
    }

    fn node(name: &str, holdings: Vec<Holding>) -> HistoryAnswer {
        HistoryAnswer {
            node: name.into(),
            holdings,
            reaches_back_to: Some(at("2026-11-20T08:00Z")),
            ..HistoryAnswer::default()
        }
    }

    #[test]
    fn an_address_that_moved_between_nodes_has_one_story() {
        let answer = asked(
            None,
            vec![
                node("node-1", vec![holding("node-1", "2026-11-20T11:00Z", None)]),
                node("node-2", vec![holding("node-2", "2026-11-20T09:00Z", Some("2026-11-20T10:00Z"))]),
            ],
            vec![],
        );
        assert_eq!((nodes(&answer.holdings), answer.complete), (vec!["node-2", "node-1"], true));
        assert_eq!(nodes(&latest(answer.holdings.clone())), ["node-1"]);
        assert_eq!(
            nodes(&latest(answer.holdings[..1].to_vec())),
            ["node-2"],
            "nobody has it: who had it last"
        );
    }

    #[test]
    fn a_node_that_is_silent_or_does_not_remember_makes_the_answer_incomplete() {
        let silent = vec![Silent { node: "node-2".into(), why: "its agent does not run".into() }];
        assert!(!asked(None, vec![node("node-1", vec![])], silent).complete);
        let young = asked(Some("2026-11-20T07:00Z"), vec![node("node-1", vec![])], vec![]);
        assert!(!young.complete && young.caveats[0].contains("reaches back to 2026-11-20T08:00:00Z"));
        assert!(asked(Some("2026-11-20T08:30Z"), vec![node("node-1", vec![])], vec![]).complete);
    }

    #[test]
    fn a_clock_that_went_back_is_told() {
        let mut one = node("node-1", vec![holding("node-1", "2026-11-20T09:00Z", None)]);
        one.clock_went_back = vec![ClockStep { from: at("2026-11-20T10:00Z"), to: at("2026-11-20T09:00Z") }];
        let answer = asked(Some("2026-11-20T09:30Z"), vec![one], vec![]);
        assert!(answer.caveats[0].contains("came twice") && answer.complete, "{:?}", answer.caveats);
    }
}
