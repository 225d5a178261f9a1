//! The data centre: the scenarios, bad input and failures, in one cluster, in this order. Needs root.
//!
//! The trials share the cluster, so they run one after the other; each leaves it as it found it, but for the last, which
//! takes the API server away.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test may panic")]

mod failures;
mod input;
mod racks;

use std::sync::{Arc, Mutex};

use libtest_mimic::{Arguments, Failed, Trial};
use portolan_bed::Plan;
use portolan_suites::{Bank, checks};

/// The one cluster, started by the first trial that runs.
#[derive(Clone, Default)]
pub struct Shared(Arc<Mutex<Option<Bank>>>);

impl Shared {
    fn with<T>(&self, act: impl FnOnce(&mut Bank) -> T) -> T {
        let mut bank = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        act(bank.get_or_insert_with(|| {
            let mut bank = Bank::start(Plan::bank(3), &mut |step| println!("{step}")).unwrap();
            bank.applications().unwrap();
            bank.bind(&mut |step| println!("{step}")).unwrap();
            bank
        }))
    }

    /// A trial on the shared cluster.
    pub fn trial(&self, name: &str, run: impl FnOnce(&mut Bank) + Send + 'static) -> Trial {
        let shared = self.clone();
        Trial::test(name, move || {
            shared.with(run);
            Ok(())
        })
    }
}

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let shared = Shared::default();
    let mut trials: Vec<_> = checks::ALL
        .into_iter()
        .map(|check| {
            let shared = shared.clone();
            Trial::test(check.0, move || {
                let made = shared.with(|bank| checks::make(bank, check));
                let differ =
                    || Failed::from(format!("expected {}\nobserved {}", made.expected, made.observed));
                if made.ok { Ok(()) } else { Err(differ()) }
            })
        })
        .collect();
    trials.extend(input::trials(&shared));
    trials.extend(failures::trials(&shared));
    trials.push(racks::trial());
    let conclusion = libtest_mimic::run(&arguments, trials);
    // The cluster ends before the process does.
    drop(shared.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take());
    conclusion.exit();
}
