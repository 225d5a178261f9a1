//! One cluster for many trials, which run one after the other; each leaves it as it found it.

use std::sync::{Arc, Mutex, PoisonError};

use libtest_mimic::Trial;

use crate::Bank;

/// The cluster, started by the first trial that runs.
#[derive(Clone)]
pub struct Shared {
    bank: Arc<Mutex<Option<Bank>>>,
    start: fn() -> Bank,
}

impl Shared {
    /// A cluster that is started like this.
    pub fn new(start: fn() -> Bank) -> Self {
        Self { bank: Arc::default(), start }
    }

    /// Does something with it.
    pub fn with<T>(&self, act: impl FnOnce(&mut Bank) -> T) -> T {
        let mut bank = self.bank.lock().unwrap_or_else(PoisonError::into_inner);
        act(bank.get_or_insert_with(self.start))
    }

    /// A trial on the cluster. Whatever it does, in the end everything agrees.
    pub fn trial(&self, name: impl Into<String>, run: impl FnOnce(&mut Bank) + Send + 'static) -> Trial {
        let shared = self.clone();
        Trial::test(name, move || {
            shared.with(|bank| {
                run(bank);
                bank.agrees().map_err(Into::into)
            })
        })
    }

    /// A trial that leaves the cluster useless.
    pub fn last(&self, name: impl Into<String>, run: impl FnOnce(&mut Bank) + Send + 'static) -> Trial {
        let shared = self.clone();
        Trial::test(name, move || {
            shared.with(run);
            Ok(())
        })
    }

    /// Ends it.
    pub fn end(&self) {
        drop(self.bank.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}
