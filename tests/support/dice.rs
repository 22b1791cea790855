//! Random choices that a seed repeats (splitmix64).
#![allow(dead_code, unreachable_pub, reason = "shared by test binaries that each use a part of it")]

/// A source of them.
#[derive(Clone)]
pub struct Dice(u64);

impl Dice {
    /// One for each purpose: `path` tells them apart.
    pub fn new(seed: u64, path: &[u64]) -> Self {
        let mut dice = Dice(seed);
        for n in path {
            dice.0 = dice.next() ^ n.wrapping_mul(0xd6e8_feb8_6659_fd93);
        }
        dice
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    /// True `percent` times in a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}
