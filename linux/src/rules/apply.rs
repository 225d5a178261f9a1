//! Policy rules into messages.

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::RouteProtocol,
    rule::{RuleAction, RuleAttribute, RuleMessage},
};

use super::{Family, Rule};
use crate::{Kernel, Plan, Report, Result, kernel::Messages, own};

impl Kernel {
    pub(super) fn apply_rules(&mut self, plan: &Plan<Rule>) -> Result<Report> {
        let messages = Messages {
            kind: "rule",
            new: &|rule| Ok(RouteNetlinkMessage::NewRule(message(rule))),
            // The kernel compares every attribute given, the protocol among them.
            delete: &|rule| Ok(RouteNetlinkMessage::DelRule(message(rule))),
        };
        self.apply(plan, &messages)
    }
}

fn message(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = match rule.family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    };
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Priority(rule.priority),
        RuleAttribute::FwMark(rule.mark),
        RuleAttribute::FwMask(rule.mask),
        RuleAttribute::Table(rule.table),
        RuleAttribute::Protocol(RouteProtocol::from(own::PROTOCOL)),
    ];
    message
}
