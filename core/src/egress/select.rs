//! Which Egress a pod leaves with.

use std::cmp::Reverse;

use super::Egress;
use crate::labels::Labels;

/// What is known of a pod.
#[derive(Debug, Clone, Copy)]
pub struct Pod<'a> {
    /// Its labels.
    pub labels: &'a Labels,
    /// Its namespace's labels.
    pub namespace_labels: &'a Labels,
}

/// The Egress that wins: the highest priority, then the oldest, then the first by name. Pods on the host network and
/// finished pods never get here: they have no attachment.
pub fn winner<'a>(pod: Pod<'_>, egresses: impl IntoIterator<Item = &'a Egress>) -> Option<&'a Egress> {
    let selecting = egresses.into_iter().filter(|egress| selects(egress, pod));
    selecting.min_by_key(|egress| (Reverse(egress.priority), egress.created, egress.name.as_str()))
}

/// A pod selector alone selects in all namespaces, a namespace selector alone all pods of these namespaces, both together
/// those that match both, neither nothing (Antrea's `appliedTo`).
fn selects(egress: &Egress, pod: Pod<'_>) -> bool {
    let by_pod = egress.pods.as_ref().map(|selector| selector.matches(pod.labels));
    let by_namespace = egress.namespaces.as_ref().map(|selector| selector.matches(pod.namespace_labels));
    match (by_pod, by_namespace) {
        (None, None) => false,
        (by_pod, by_namespace) => by_pod.unwrap_or(true) && by_namespace.unwrap_or(true),
    }
}

#[cfg(test)]
mod tests {
    use super::super::egress;
    use super::*;
    use crate::labels::Selector;

    fn label(value: &str) -> Labels {
        [("app".to_owned(), value.to_owned())].into()
    }

    fn by(value: &str) -> Option<Selector> {
        Some(Selector { match_labels: label(value), ..Selector::default() })
    }

    #[test]
    fn selectors_combine_as_antrea_says() {
        let (pod, namespace) = (label("pod"), label("namespace"));
        let pod = Pod { labels: &pod, namespace_labels: &namespace };
        for (pods, namespaces, selected) in [
            (None, None, false),
            (by("pod"), None, true),
            (by("other"), None, false),
            (None, by("namespace"), true),
            (by("pod"), by("namespace"), true),
            (by("pod"), by("other"), false),
            (Some(Selector::default()), None, true),
        ] {
            let one = Egress { pods, namespaces, ..egress("e") };
            assert_eq!(winner(pod, [&one]).is_some(), selected, "{one:?}");
        }
    }

    #[test]
    fn priority_beats_age_and_age_beats_the_name() {
        let none = Labels::new();
        let pod = Pod { labels: &none, namespace_labels: &none };
        let all = [
            Egress { created: 5, ..egress("a") },
            Egress { created: 3, ..egress("c") },
            Egress { created: 3, ..egress("b") },
            Egress { created: 9, priority: 1, ..egress("z") },
        ];
        let name = |set: &[Egress]| winner(pod, set).map(|egress| egress.name.clone()).unwrap();
        assert_eq!(name(&all), "z");
        assert_eq!(name(&all[..3]), "b");
        let mut reversed = all.clone();
        reversed.reverse();
        assert_eq!(name(&reversed), "z");
    }
}
