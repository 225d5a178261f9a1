//! The data centre: the scenarios, bad input and failures, in one cluster, in this order. Needs root.
//!
//! The trials share the cluster, so they run one after the other; each leaves it as it found it, but for the last, which
//! takes the API server away.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test may panic")]

mod addresses;
mod failures;
mod families;
mod input;
mod kills;
mod racks;

use libtest_mimic::{Arguments, Failed, Trial};
use portolan_bed::Plan;
use portolan_suites::{Bank, Shared, checks};

fn start() -> Bank {
    let mut bank = Bank::start(Plan::bank(3), &mut |step| println!("{step}")).unwrap();
    bank.applications().unwrap();
    bank.bind(&mut |step| println!("{step}")).unwrap();
    bank
}

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let shared = Shared::new(start);
    let mut trials: Vec<_> = checks::ALL
        .into_iter()
        .map(|check| {
            let shared = shared.clone();
            Trial::test(check.0, move || {
                let made = shared.with(|bank| checks::make(bank, check));
                shared.with(|bank| bank.agrees())?;
                let differ =
                    || Failed::from(format!("expected {}\nobserved {}", made.expected, made.observed));
                if made.ok { Ok(()) } else { Err(differ()) }
            })
        })
        .collect();
    trials.extend(input::trials(&shared));
    trials.extend(addresses::trials(&shared));
    trials.extend(failures::trials(&shared));
    trials.push(racks::trial());
    trials.push(families::trial());
    trials.extend(kills::trials());
    let conclusion = libtest_mimic::run(&arguments, trials);
    // The cluster ends before the process does.
    shared.end();
    conclusion.exit();
}
