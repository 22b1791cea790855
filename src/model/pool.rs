//! How many pods are made ahead of need.

/// Sizes of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Spares that are to be ready.
    pub target: usize,
    /// With fewer than so many ready, making new ones is urgent.
    pub least: usize,
    /// Spares that are made at once when it is urgent; otherwise one after the other.
    pub at_once: usize,
}

impl Sizes {
    /// How many to begin now, with so many `ready` and so many being made.
    pub fn begin(&self, ready: usize, making: usize) -> usize {
        let missing = self.target.saturating_sub(ready + making);
        let at_once = if ready < self.least { self.at_once } else { self.at_once.min(1) };
        missing.min(at_once.saturating_sub(making))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_filled_gently_unless_nearly_nothing_is_left() {
        let sizes = Sizes { target: 3, least: 1, at_once: 2 };
        let begun = |ready, making| sizes.begin(ready, making);
        assert_eq!([begun(0, 0), begun(0, 1), begun(0, 2)], [2, 1, 0]);
        assert_eq!([begun(1, 0), begun(1, 1), begun(2, 0), begun(2, 1), begun(3, 0)], [1, 0, 1, 0, 0]);
        assert_eq!((begun(7, 3), Sizes { at_once: 0, ..sizes }.begin(0, 0)), (0, 0));
    }
}
