//! The size of a terminal that several people look at: the smallest of theirs.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::session::TerminalSize;

/// The owner's place among the sizes.
const OWNER: u64 = 0;
/// The place of what only makes programs draw again.
const REDRAW: u64 = u64::MAX;

/// What somebody who only watches makes of everybody's terminal at the least: columns and rows.
const WATCHED: (u32, u32) = (40, 10);

/// What the terminal of somebody who only watches counts for: a window that is made tiny, by mistake or not, stops nobody's work.
pub(super) fn watched(size: TerminalSize) -> TerminalSize {
    // Zero is unknown, and counts for nothing.
    let least = |value: u32, least: u32| if value == 0 { 0 } else { value.max(least) };
    TerminalSize { columns: least(size.columns, WATCHED.0), rows: least(size.rows, WATCHED.1), ..size }
}

/// The sizes of all terminals. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Sizes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    each: Mutex<Vec<(u64, TerminalSize)>>,
    common: watch::Sender<TerminalSize>,
}

/// While it lives, the terminal is a row shorter.
#[derive(Debug)]
pub(crate) struct Shorter(Sizes);

impl Drop for Shorter {
    fn drop(&mut self) {
        self.0.remove(REDRAW);
    }
}

impl Sizes {
    /// Of a session that begins with the owner's terminal.
    pub(crate) fn new(owner: TerminalSize) -> Self {
        let each = Mutex::new(vec![(OWNER, owner)]);
        Self(Arc::new(Inner { each, common: watch::Sender::new(owner) }))
    }

    /// The size that counts, as it changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<TerminalSize> {
        self.0.common.subscribe()
    }

    /// The size that counts.
    pub(crate) fn common(&self) -> TerminalSize {
        *self.0.common.borrow()
    }

    /// The owner's terminal has a new size.
    pub(crate) fn set_owner(&self, size: TerminalSize) {
        self.set(OWNER, size);
    }

    /// Somebody's terminal has this size. Says whether the common one is another now.
    pub(super) fn set(&self, who: u64, size: TerminalSize) -> bool {
        self.change(|each| {
            each.retain(|(known, _)| *known != who);
            each.push((who, size));
        })
    }

    /// Somebody is gone. Says whether the common size is another now.
    pub(super) fn remove(&self, who: u64) -> bool {
        self.change(|each| each.retain(|(known, _)| *known != who))
    }

    /// A row less, so that whatever draws on the terminal draws all of it again when that is over.
    pub(super) fn shorten(&self) -> Shorter {
        let common = self.common();
        // Of one row nothing can be taken.
        let rows = common.rows.saturating_sub(1);
        self.set(REDRAW, TerminalSize { rows, ..TerminalSize::default() });
        Shorter(self.clone())
    }

    fn change(&self, change: impl FnOnce(&mut Vec<(u64, TerminalSize)>)) -> bool {
        let mut each = self.0.each.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut each);
        let common = smallest(&each);
        self.0.common.send_if_modified(|known| std::mem::replace(known, common) != common)
    }
}

/// Zero is unknown. Pixels are those of the owner, where the owner's is the size that counts.
fn smallest(each: &[(u64, TerminalSize)]) -> TerminalSize {
    let least = |of: fn(&TerminalSize) -> u32| {
        each.iter().map(|(_, size)| of(size)).filter(|value| *value > 0).min().unwrap_or(0)
    };
    let (columns, rows) = (least(|size| size.columns), least(|size| size.rows));
    match each.iter().find(|(who, _)| *who == OWNER) {
        Some((_, owner)) if (owner.columns, owner.rows) == (columns, rows) => *owner,
        _ => TerminalSize { columns, rows, width: 0, height: 0 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(columns: u32, rows: u32) -> TerminalSize {
        TerminalSize { columns, rows, width: 0, height: 0 }
    }

    #[test]
    fn the_smallest_counts_until_it_is_gone() {
        let owner = TerminalSize { columns: 100, rows: 40, width: 1000, height: 800 };
        let sizes = Sizes::new(owner);
        let mut told = sizes.subscribe();
        assert!(!sizes.set(1, size(200, 50)) && !told.has_changed().unwrap_or(true));
        assert!(sizes.set(2, size(80, 60)));
        assert_eq!(*told.borrow_and_update(), size(80, 40));
        assert!(sizes.set(3, size(90, 24)));
        assert_eq!(sizes.common(), size(80, 24), "columns of one and rows of another");
        assert!(!sizes.set(4, size(0, 0)), "who has no terminal limits nobody");
        assert!(sizes.remove(2) && sizes.remove(3));
        assert_eq!(sizes.common(), owner);
        sizes.set_owner(size(70, 20));
        assert_eq!(*told.borrow_and_update(), size(70, 20));
    }

    #[test]
    fn who_only_watches_makes_it_no_smaller_than_can_be_worked_with() {
        for (seen, counts) in
            [((1, 1), (40, 10)), ((39, 50), (40, 50)), ((200, 9), (200, 10)), ((0, 0), (0, 0))]
        {
            assert_eq!(watched(size(seen.0, seen.1)), size(counts.0, counts.1));
        }
    }

    #[test]
    fn a_row_less_for_a_while() {
        let sizes = Sizes::new(size(80, 24));
        let shorter = sizes.shorten();
        assert_eq!(sizes.common(), size(80, 23));
        drop(shorter);
        assert_eq!(sizes.common(), size(80, 24));
        let tiny = Sizes::new(size(80, 1));
        let _shorter = tiny.shorten();
        assert_eq!(tiny.common(), size(80, 1));
    }
}
