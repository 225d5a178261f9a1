//! Which member gets the next connection: the one with the fewest open ones. Pure.

/// The index of the member to try, of members with these numbers of open connections. `None` stands for a member that
/// was tried already. Among equals the one that comes first from `turn` on (modulo their number), so that short
/// connections spread as well.
pub fn least_connections(open: &[Option<u64>], turn: usize) -> Option<usize> {
    let start = turn.checked_rem(open.len())?;
    let from_start = (start..open.len()).chain(0..start);
    from_start
        .filter_map(|index| Some((index, (*open.get(index)?)?)))
        .min_by_key(|(_, open)| *open)
        .map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_member_with_the_fewest_connections_is_next_whosever_turn_it_is() {
        for turn in 0..10 {
            assert_eq!(least_connections(&[Some(3), Some(1), Some(2)], turn), Some(1));
        }
    }

    #[test]
    fn equals_take_turns() {
        let picks: Vec<_> = (0..6).map(|turn| least_connections(&[Some(0); 3], turn).unwrap()).collect();
        assert_eq!(picks, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn a_member_that_was_tried_is_not_tried_again() {
        assert_eq!(least_connections(&[None, Some(9), None], 0), Some(1));
        assert_eq!(least_connections(&[None, None], 5), None);
        assert_eq!(least_connections(&[], 5), None);
    }
}
