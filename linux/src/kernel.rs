//! The one owner of the routing netlink socket, and the pass that all kinds of objects share.

use std::{fmt::Display, os::fd::OwnedFd};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::{
    Plan, Report, Result, StepError,
    netlink::{Connection, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Request},
    netns,
};

/// The kernel of one network namespace, as one owner sees it.
///
/// It acts on the namespace of the thread that created it. [`crate::sysctl`] acts on the namespace of
/// the thread that calls it; use both from one thread.
pub struct Kernel {
    pub(crate) route: Connection,
    /// The namespace it works in, so that a pod is never wired into it.
    pub(crate) netns: OwnedFd,
}

/// How the values of one kind are put into messages.
pub(crate) struct Messages<'a, T> {
    /// In words, e.g. `route`.
    pub kind: &'static str,
    /// `RTM_NEW…` for adding or replacing.
    pub new: &'a dyn Fn(&T) -> Result<RouteNetlinkMessage>,
    /// `RTM_DEL…`.
    pub delete: &'a dyn Fn(&T) -> Result<RouteNetlinkMessage>,
}

impl Kernel {
    /// Opens the kernel of the calling thread's network namespace.
    pub fn open() -> Result<Self> {
        Ok(Self { route: Connection::open(NETLINK_ROUTE)?, netns: netns::own()? })
    }

    /// Brings a plan about. Everything is tried; what fails is in the report. New things come first and
    /// deletions last, so that there is no moment in between that has neither.
    pub(crate) fn apply<T: Display>(&mut self, plan: &Plan<T>, messages: &Messages<'_, T>) -> Result<Report> {
        let mut report = Report { unchanged: plan.unchanged, ..Report::default() };
        let Messages { kind, new, delete } = messages;
        report.replaced = self.steps(
            &mut report,
            &format!("replace {kind}"),
            NLM_F_CREATE | NLM_F_REPLACE,
            &plan.replace,
            new,
        )?;
        report.added =
            self.steps(&mut report, &format!("add {kind}"), NLM_F_CREATE | NLM_F_EXCL, &plan.add, new)?;
        report.deleted = self.steps(&mut report, &format!("delete {kind}"), 0, &plan.delete, delete)?;
        Ok(report)
    }

    fn steps<T: Display>(
        &mut self,
        report: &mut Report,
        verb: &str,
        flags: u16,
        values: &[T],
        message: &dyn Fn(&T) -> Result<RouteNetlinkMessage>,
    ) -> Result<usize> {
        let (mut requests, mut done) = (Vec::with_capacity(values.len()), 0);
        for value in values {
            let what = format!("{verb} {value}");
            match message(value) {
                Ok(message) => requests.push(Request { what, flags, message }),
                Err(error) => report.errors.push(StepError { step: what, error }),
            }
        }
        let outcomes = self.route.batch(&requests)?;
        for (request, outcome) in requests.into_iter().zip(outcomes) {
            match outcome {
                Ok(()) => done += 1,
                Err(error) => report.errors.push(StepError { step: request.what, error }),
            }
        }
        Ok(done)
    }
}
