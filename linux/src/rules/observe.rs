//! Our policy rules out of a dump.
#![allow(clippy::wildcard_enum_match_arm, reason = "netlink has many kinds of everything, we read a few")]

use std::collections::BTreeSet;

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    rule::{RuleAction, RuleAttribute, RuleMessage},
};

use super::{Family, Rule};
use crate::{Kernel, Result, own};

impl Kernel {
    /// Our policy rules, both families.
    pub fn rules(&mut self) -> Result<BTreeSet<Rule>> {
        let mut rules = BTreeSet::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut question = RuleMessage::default();
            question.header.family = family;
            let found = self.route.dump("list policy rules", &RouteNetlinkMessage::GetRule(question))?;
            rules.extend(found.into_iter().filter_map(|message| match message {
                RouteNetlinkMessage::NewRule(message) => rule(&message),
                _ => None,
            }));
        }
        Ok(rules)
    }
}

fn rule(message: &RuleMessage) -> Option<Rule> {
    // Of the message, not of the question: without IPv6 the kernel answers for all families.
    let family = match message.header.family {
        AddressFamily::Inet => Family::V4,
        AddressFamily::Inet6 => Family::V6,
        _ => return None,
    };
    if message.header.action != RuleAction::ToTable {
        return None;
    }
    let table = u32::from(message.header.table);
    let mut rule = Rule { family, priority: 0, mark: 0, mask: 0, table };
    let mut ours = false;
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Protocol(protocol) => ours = u8::from(*protocol) == own::PROTOCOL,
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::FwMark(mark) => rule.mark = *mark,
            RuleAttribute::FwMask(mask) => rule.mask = *mask,
            RuleAttribute::Table(table) => rule.table = *table,
            _ => {}
        }
    }
    ours.then_some(rule)
}
