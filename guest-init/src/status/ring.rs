//! A bounded queue of numbered items: the newest are kept, and readers learn how many they have missed.

use std::collections::VecDeque;

/// The items kept, oldest first. Numbers begin at 1 and never repeat.
pub struct Ring<T> {
    items: VecDeque<(usize, T)>,
    next: u64,
    weight: usize,
    most: usize,
}

impl<T: Clone> Ring<T> {
    /// Creates an empty queue with this maximum total weight; the first item will have number `next`.
    pub fn new(most: usize, next: u64) -> Self {
        Self { items: VecDeque::new(), next, weight: 0, most }
    }

    /// Returns the number of the next item.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Adds an item, created with its number, and drops the oldest items if there is no space.
    pub fn push(&mut self, weight: usize, make: impl FnOnce(u64) -> T) {
        self.items.push_back((weight, make(self.next)));
        self.next += 1;
        self.weight += weight;
        while self.weight > self.most {
            let Some((weight, _)) = self.items.pop_front() else { break };
            self.weight -= weight;
        }
    }

    /// Returns the items from number `from` on, with at most this total weight but at least one item; the number to continue
    /// from; and the number of items from `from` on that were dropped.
    pub fn since(&self, from: u64, most: usize) -> (Vec<T>, u64, u64) {
        let from = from.max(1);
        let first = self.next - self.items.len() as u64;
        let start = from.clamp(first, self.next);
        let mut weight = 0;
        let skipped = usize::try_from(start - first).unwrap_or(usize::MAX);
        let fits = |(own, _): &&(usize, T)| {
            let fits = weight == 0 || weight + own <= most;
            weight += own;
            fits
        };
        let items: Vec<T> =
            self.items.iter().skip(skipped).take_while(fits).map(|(_, item)| item.clone()).collect();
        let next = start + items.len() as u64;
        (items, next, start.saturating_sub(from))
    }

    /// Returns the newest `count` items, oldest first.
    pub fn last(&self, count: usize) -> Vec<T> {
        let skipped = self.items.len().saturating_sub(count);
        self.items.iter().skip(skipped).map(|(_, item)| item.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_stay_and_losses_are_counted() {
        let mut ring = Ring::new(3, 1);
        assert_eq!(ring.since(0, 9), (vec![], 1, 0));
        for _ in 0..5 {
            ring.push(1, |number| number);
        }
        assert_eq!(ring.since(0, 9), (vec![3, 4, 5], 6, 2));
        assert_eq!(ring.since(4, 9), (vec![4, 5], 6, 0));
        assert_eq!(ring.since(4, 1), (vec![4], 5, 0));
        assert_eq!(ring.since(6, 9), (vec![], 6, 0));
        assert_eq!(ring.since(99, 9), (vec![], 6, 0));
        assert_eq!(ring.last(2), [4, 5]);
    }

    #[test]
    fn a_thing_that_is_too_heavy_for_an_answer_still_goes_alone() {
        let mut ring = Ring::new(100, 7);
        ring.push(50, |number| number);
        ring.push(50, |number| number);
        assert_eq!(ring.since(7, 10), (vec![7], 8, 0));
        ring.push(1000, |number| number);
        assert_eq!(ring.since(7, 10), (vec![], 10, 3));
    }
}
