//! Labels and label selectors, with the semantics of `meta/v1.LabelSelector`.

use std::collections::BTreeMap;

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// A selector. All its parts must match; an empty one matches everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    /// Labels that must be there with these values.
    pub match_labels: Labels,
    /// Further requirements.
    pub match_expressions: Vec<Requirement>,
}

/// A requirement on one label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// What is asked of it.
    pub operator: Operator,
    /// The values that `In` and `NotIn` compare with.
    pub values: Vec<String>,
}

/// What is asked of a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// It is there with one of the values.
    In,
    /// It is not there, or has none of the values.
    NotIn,
    /// It is there.
    Exists,
    /// It is not there.
    DoesNotExist,
}

impl Selector {
    /// Whether these labels match.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|requirement| requirement.matches(labels))
    }
}

impl Requirement {
    fn matches(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match self.operator {
            Operator::In => value.is_some_and(|value| self.values.contains(value)),
            Operator::NotIn => value.is_none_or(|value| !self.values.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn asks(operator: Operator, values: &[&str]) -> Selector {
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        Selector {
            match_expressions: vec![Requirement { key: "app".into(), operator, values }],
            ..Selector::default()
        }
    }

    #[test]
    fn selectors_match_as_kubernetes_says() {
        let (erp, none) = (labels(&[("app", "erp")]), labels(&[]));
        for (selector, with, without) in [
            (Selector::default(), true, true),
            (Selector { match_labels: erp.clone(), ..Selector::default() }, true, false),
            (asks(Operator::In, &["erp", "crm"]), true, false),
            (asks(Operator::NotIn, &["erp"]), false, true),
            (asks(Operator::Exists, &[]), true, false),
            (asks(Operator::DoesNotExist, &[]), false, true),
        ] {
            assert_eq!((selector.matches(&erp), selector.matches(&none)), (with, without), "{selector:?}");
        }
    }
}
