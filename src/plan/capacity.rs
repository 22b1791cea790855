//! Whether one more pod fits: sums of what pods were promised against what the host has.
//!
//! A pod counts for all that it may use, not for what it uses now, as long as it has a sandbox; one that sleeps or rests counts
//! for nothing.

use crate::model::{Code, Error, Result, Shortage, Ware};

/// Sizes by which the capacity is shown: a pod of so many bytes of memory.
pub const SHOWN: [u64; 3] = [512 << 20, 1 << 30, 2 << 30];
/// Memory kept for the host unless that is an eighth of all or more.
const HEAD_ROOM: u64 = 1 << 30;

/// Memory kept for the host where nothing else is configured.
pub fn head_room(capacity: u64) -> u64 {
    HEAD_ROOM.min(capacity / 8)
}

/// What may be promised of one thing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Budget {
    /// Of what.
    pub ware: Ware,
    /// Bytes that the host has.
    pub capacity: u64,
    /// Bytes of these that are kept for the host.
    pub head_room: u64,
    /// How many times the rest may be promised.
    pub ratio: f64,
}

impl Budget {
    /// Bytes that may be promised in all.
    pub fn limit(&self) -> u64 {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a ratio has no more digits than that; what is too large is cut off"
        )]
        let limit = (self.capacity.saturating_sub(self.head_room) as f64 * self.ratio) as u64;
        limit
    }

    /// How many pods of that size fit on the host.
    pub fn most(&self, each: u64) -> u64 {
        self.limit() / each.max(1)
    }

    /// How many more fit now.
    pub fn more(&self, promised: u64, each: u64) -> u64 {
        self.limit().saturating_sub(promised) / each.max(1)
    }

    /// Refuses what does not fit. `others`: promised to all other pods; `had`: what this pod was promised already.
    ///
    /// # Errors
    /// [`Code::Exhausted`], with the sums.
    pub fn admit(&self, others: u64, had: u64, asked: u64) -> Result<()> {
        let limit = self.limit();
        // Who asks for no more than it has is let be, even where the limits were lowered meanwhile.
        if asked <= had || others.saturating_add(asked) <= limit {
            return Ok(());
        }
        let (ware, promised) = (self.ware, others.saturating_add(had));
        let shortage = Shortage {
            ware,
            asked,
            promised,
            capacity: self.capacity,
            head_room: self.head_room,
            ratio: self.ratio,
            limit,
        };
        let text = format!(
            "{asked} bytes of {ware} are asked for, {promised} of {limit} are promised already \
             ({} on the host, {} kept for it, ratio {})",
            self.capacity, self.head_room, self.ratio
        );
        let hint = match ware {
            Ware::Memory => "stop pods or put them to sleep, ask for less, or raise memory-overcommit",
            Ware::Disk => "stop pods or put them to sleep, ask for less, or raise disk-overcommit",
        };
        Err(Error::new(Code::Exhausted, text).hint(hint).short_of(shortage))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn memory(capacity: u64) -> Budget {
        Budget { ware: Ware::Memory, capacity, head_room: head_room(capacity), ratio: 1.0 }
    }

    #[test]
    fn a_host_of_16_gib_takes_30_15_and_7() {
        assert_eq!(SHOWN.map(|each| memory(16 * GIB).most(each)), [30, 15, 7]);
        assert_eq!(memory(16 * GIB).more(14 * GIB, GIB / 2), 2);
        assert_eq!(memory(2 * GIB).head_room, GIB / 4);
    }

    #[test]
    fn the_last_byte_fits_and_one_more_does_not() {
        let budget = memory(9 * GIB);
        assert!(budget.admit(7 * GIB, 0, GIB).is_ok());
        let e = budget.admit(7 * GIB, 0, GIB + 1).unwrap_err();
        let s = e.shortage().unwrap();
        assert_eq!((e.code(), s.asked, s.promised, s.capacity), (Code::Exhausted, GIB + 1, 7 * GIB, 9 * GIB));
        assert_eq!((s.head_room, s.limit, s.ware), (GIB, 8 * GIB, Ware::Memory));
        assert!(budget.admit(u64::MAX, 0, GIB).is_err());
    }

    #[test]
    fn who_asks_for_no_more_is_let_be() {
        let small = Budget { ratio: 0.5, ..memory(9 * GIB) };
        assert_eq!(small.limit(), 4 * GIB);
        assert!(small.admit(4 * GIB, 2 * GIB, 2 * GIB).is_ok());
        assert!(small.admit(4 * GIB, 2 * GIB, 2 * GIB + 1).is_err());
    }
}
