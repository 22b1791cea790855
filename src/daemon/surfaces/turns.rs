//! One after the other for what has the same name.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;

/// Whose turn it is, by name.
#[derive(Default)]
pub(super) struct Turns(Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>);

impl Turns {
    /// Waits for the turn of that name; given back when dropped.
    pub(super) async fn take(&self, name: &str) -> OwnedMutexGuard<()> {
        let turn = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let known = all.get(name).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                all.retain(|_, turn| turn.strong_count() > 0);
                let turn = Arc::default();
                all.insert(name.to_owned(), Arc::downgrade(&turn));
                turn
            })
        };
        turn.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn the_same_name_waits_and_others_do_not() {
        let turns = Turns::default();
        let held = turns.take("a").await;
        assert!(turns.take("b").now_or_never().is_some() && turns.take("a").now_or_never().is_none());
        drop(held);
        assert!(turns.take("a").now_or_never().is_some());
        assert_eq!(turns.0.lock().unwrap().len(), 1);
    }
}
