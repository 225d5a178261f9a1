//! Conditions (`meta/v1.Condition`): set one, replace what was said before, keep the moment of the last change.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// What is to be said about one aspect of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement<'a> {
    /// The aspect, such as `Ready`.
    pub kind: &'a str,
    /// Whether it holds.
    pub holds: bool,
    /// One word for machines, in CamelCase.
    pub reason: &'a str,
    /// A sentence for people that names the field and the remedy.
    pub message: String,
}

/// Sets one condition. Everything else stays; `lastTransitionTime` moves only when the status does.
pub fn set(conditions: &mut Vec<Condition>, generation: Option<i64>, now: &Time, statement: Statement<'_>) {
    let status = if statement.holds { "True" } else { "False" };
    let before = conditions.iter().position(|condition| condition.type_ == statement.kind);
    let since = before
        .and_then(|at| conditions.get(at))
        .filter(|condition| condition.status == status)
        .map_or_else(|| now.clone(), |condition| condition.last_transition_time.clone());
    let condition = Condition {
        type_: statement.kind.to_owned(),
        status: status.to_owned(),
        reason: statement.reason.to_owned(),
        message: statement.message,
        observed_generation: generation,
        last_transition_time: since,
    };
    match before.and_then(|at| conditions.get_mut(at)) {
        Some(place) => *place = condition,
        None => conditions.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::jiff::Timestamp;

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(second).unwrap())
    }

    fn ready(holds: bool) -> Statement<'static> {
        Statement { kind: "Ready", holds, reason: "Because", message: "so".into() }
    }

    #[test]
    fn a_condition_is_replaced_and_remembers_when_it_changed_last() {
        let mut conditions = vec![];
        set(&mut conditions, Some(1), &at(1), ready(true));
        set(&mut conditions, Some(2), &at(2), ready(true));
        assert_eq!((conditions.len(), &conditions[0].last_transition_time), (1, &at(1)));
        assert_eq!(conditions[0].observed_generation, Some(2));
        set(&mut conditions, Some(2), &at(3), ready(false));
        assert_eq!((conditions.len(), &conditions[0].last_transition_time), (1, &at(3)));
    }
}
