//! The 24 rules, each a function that looks and says what it saw.

mod add;
mod check;
mod del;
mod install;
mod parameters;
mod service;

use anyhow::Result;

use crate::bench::Bench;
use crate::report::{Finding, Verdict};

/// A rule.
pub struct Rule {
    /// Its number.
    pub number: u8,
    /// What it is about.
    pub title: &'static str,
    look: fn(&Bench, &mut Look) -> Result<()>,
}

/// What is seen while a rule is looked at.
#[derive(Default)]
pub struct Look {
    right: Vec<String>,
    wrong: Vec<String>,
    outside: Vec<String>,
}

impl Look {
    /// Something that has to be as it is said to be.
    pub fn holds(&mut self, as_it_should: bool, seen: impl Into<String>) {
        let seen = seen.into();
        if as_it_should { self.right.push(seen) } else { self.wrong.push(seen) }
    }

    /// Something that no rule judges.
    pub fn notes(&mut self, seen: impl Into<String>) {
        self.right.push(seen.into());
    }

    /// The rule, or this part of it, says nothing here.
    pub fn does_not_apply(&mut self, why: impl Into<String>) {
        self.outside.push(why.into());
    }

    /// The finding. What could not be looked at is a failure that says why.
    pub fn into_finding(mut self, rule: String, title: String, outcome: Result<()>) -> Finding {
        if let Err(error) = outcome {
            self.wrong.push(format!("{error:#}"));
        }
        let verdict = match (self.wrong.is_empty(), self.right.is_empty()) {
            (false, _) => Verdict::Failed,
            (true, false) => Verdict::Passed,
            (true, true) => Verdict::NotApplicable,
        };
        let outside = self.outside.into_iter().map(|why| format!("not looked at: {why}"));
        let (why, seen) = match verdict {
            Verdict::NotApplicable => {
                (outside.map(|why| why.replace("not looked at: ", "")).collect(), vec![])
            }
            Verdict::Passed | Verdict::Failed => {
                (self.wrong, self.right.into_iter().chain(outside).collect())
            }
        };
        Finding { rule, title, verdict, why, seen }
    }
}

/// Holds the plugin against a rule.
pub fn judge(rule: &Rule, bench: &Bench) -> Finding {
    let mut look = Look::default();
    let outcome = (rule.look)(bench, &mut look);
    look.into_finding(rule.number.to_string(), rule.title.to_owned(), outcome)
}

/// All of them.
pub const ALL: [Rule; 24] = [
    Rule { number: 1, title: "VERSION needs nothing but the command", look: parameters::rule_01_version },
    Rule { number: 2, title: "an unknown command is code 4", look: parameters::rule_02_command },
    Rule {
        number: 3,
        title: "all missing variables are named at once",
        look: parameters::rule_03_missing_variables,
    },
    Rule {
        number: 4,
        title: "ids, interfaces and names keep to their letters",
        look: parameters::rule_04_names,
    },
    Rule { number: 5, title: "each fault of the input has its code", look: parameters::rule_05_input },
    Rule {
        number: 6,
        title: "an error is one JSON object on stdout and a failing exit",
        look: parameters::rule_06_errors,
    },
    Rule {
        number: 7,
        title: "the answer is in the version that was asked for",
        look: parameters::rule_07_versions,
    },
    Rule { number: 8, title: "CNI_ARGS: unknown keys may be ignored", look: parameters::rule_08_arguments },
    Rule { number: 9, title: "ADD makes what its result says", look: add::rule_09_result },
    Rule { number: 10, title: "an interface name is given once", look: add::rule_10_interface_taken },
    Rule {
        number: 11,
        title: "prevResult is merged or refused, never dropped",
        look: add::rule_11_previous_result,
    },
    Rule { number: 12, title: "an ADD that fails leaves nothing behind", look: add::rule_12_rolled_back },
    Rule { number: 13, title: "the node's own namespace is refused", look: add::rule_13_own_namespace },
    Rule { number: 14, title: "what is transient is code 11", look: service::rule_14_try_again_later },
    Rule {
        number: 15,
        title: "ADDs at the same time do not disturb each other",
        look: add::rule_15_parallel,
    },
    Rule {
        number: 16,
        title: "DEL succeeds whatever is gone, and the address comes back",
        look: del::rule_16_idempotent,
    },
    Rule {
        number: 17,
        title: "a late DEL does not free the next holder's address",
        look: del::rule_17_next_holder,
    },
    Rule { number: 18, title: "DEL says nothing", look: del::rule_18_silent },
    Rule { number: 19, title: "CHECK finds what is missing and nothing else", look: check::rule_19_check },
    Rule { number: 20, title: "STATUS says whether an ADD can be served", look: service::rule_20_status },
    Rule { number: 21, title: "GC releases what is not listed, and only that", look: service::rule_21_gc },
    Rule {
        number: 22,
        title: "the installed list names versions the plugin has",
        look: install::rule_22_versions_of_the_list,
    },
    Rule { number: 23, title: "as the IPAM of another plugin: addresses alone", look: add::rule_23_delegate },
    Rule { number: 24, title: "the configuration is installed whole", look: install::rule_24_whole },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_are_in_their_order_and_none_is_left_out() {
        assert!(ALL.iter().map(|rule| rule.number).eq(1..=24));
    }

    #[test]
    fn a_rule_of_which_nothing_was_seen_does_not_apply_and_one_that_could_not_be_looked_at_failed() {
        let of = |look: Look, outcome| look.into_finding("1".to_owned(), String::new(), outcome);
        let mut outside = Look::default();
        outside.does_not_apply("no service");
        let finding = of(outside, Ok(()));
        assert_eq!((finding.verdict, finding.why), (Verdict::NotApplicable, vec!["no service".to_owned()]));
        assert_eq!(of(Look::default(), Err(anyhow::anyhow!("gone"))).verdict, Verdict::Failed);
        let mut partly = Look::default();
        partly.notes("seen");
        partly.does_not_apply("the rest");
        let finding = of(partly, Ok(()));
        assert_eq!(finding.verdict, Verdict::Passed);
        assert_eq!(finding.seen, ["seen", "not looked at: the rest"]);
        let mut mixed = Look::default();
        mixed.holds(true, "right");
        mixed.holds(false, "wrong");
        assert_eq!(of(mixed, Ok(())).why, ["wrong"]);
    }
}
