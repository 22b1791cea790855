//! Host ports side by side.

use std::collections::BTreeSet;

/// The first ports of runs of `length` ports of `first..=last`, of which none is taken, at every `step`th port; lowest first.
pub fn runs(first: u16, last: u16, step: u16, length: u16, taken: &BTreeSet<u16>) -> impl Iterator<Item = u16> {
    let free = move |begin: &u16| {
        let end = begin.checked_add(length.saturating_sub(1));
        end.is_some_and(|end| end <= last && taken.range(*begin..=end).next().is_none())
    };
    (first..=last).step_by(usize::from(step.max(1))).filter(free)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(step: u16, length: u16, taken: &[u16]) -> Vec<u16> {
        runs(30_000, 30_010, step, length, &taken.iter().copied().collect()).collect()
    }

    #[test]
    fn triples_are_whole_and_the_lowest_free_one_is_first() {
        assert_eq!(of(3, 3, &[]), [30_000, 30_003, 30_006]);
        assert_eq!(of(3, 3, &[30_001, 30_006]), [30_003]);
        assert_eq!(of(3, 3, &[30_000, 30_005, 30_008]), Vec::<u16>::new());
    }

    #[test]
    fn single_ports_and_neighbours() {
        assert_eq!(of(1, 1, &[30_000, 30_002])[..2], [30_001, 30_003]);
        assert_eq!(of(1, 2, &[30_001, 30_004])[..2], [30_002, 30_005]);
        assert_eq!(of(1, 12, &[]), Vec::<u16>::new());
        assert_eq!(runs(65_534, 65_535, 1, 2, &BTreeSet::new()).collect::<Vec<_>>(), [65_534]);
    }
}
