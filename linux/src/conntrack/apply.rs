//! Deletions into messages.

use nix::errno::Errno;

use super::{Conntrack, Entry, SUBSYSTEM};
use crate::{
    Result,
    netlink::{NLM_F_ACK, NLM_F_REQUEST, netfilter_message},
};

const DELETE: u16 = SUBSYSTEM | 2;
/// Deletions in one datagram; their acknowledgements fit the receive buffer.
const BATCH: usize = 256;

impl Conntrack {
    /// Deletes them; one that is gone meanwhile is deleted already.
    pub(super) fn delete(&mut self, entries: &[Entry]) -> Result<()> {
        for part in entries.chunks(BATCH) {
            let messages: Vec<_> = part
                .iter()
                .map(|entry| {
                    let sequence = self.connection.next_sequence();
                    netfilter_message(DELETE, NLM_F_REQUEST | NLM_F_ACK, sequence, entry.family, &entry.name)
                })
                .collect();
            self.connection.send(&messages.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
            let (_, refusals) = self.connection.answers_so_far()?;
            let refusal = refusals.into_iter().find(|(_, refusal)| refusal.errno != Errno::ENOENT);
            if let Some((_, refusal)) = refusal {
                return Err(refusal.about("forget connections"));
            }
        }
        Ok(())
    }
}
