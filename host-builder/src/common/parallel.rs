//! Runs the same work on all items of a list in parallel.

use super::error::Result;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Most threads for processor-bound work.
const MAX_THREADS: usize = 8;

/// Number of threads for processor-bound work.
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(2, NonZero::get).min(MAX_THREADS)
}

/// Calls `work` with each item on at most `threads` threads, and returns the results in the order
/// of the items.
///
/// # Errors
/// Returns the first error in that order. After an error, no new work starts; running work is
/// finished.
pub fn map<T: Sync, R: Send>(
    items: &[T],
    threads: usize,
    work: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let next = AtomicUsize::new(0);
    let take = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else { return done };
            let result = work(item);
            if result.is_err() {
                next.store(items.len(), Ordering::Relaxed);
            }
            done.push((at, result));
        }
    };
    let mut all: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.min(items.len())).map(|_| scope.spawn(take)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("workers do not panic")).collect()
    });
    all.sort_by_key(|(at, _)| *at);
    all.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::error::Error;

    #[test]
    fn results_are_in_order_and_the_first_error_is_returned() {
        let items: Vec<usize> = (0..100).collect();
        assert_eq!(
            map(&items, 4, |item| Ok(item * 2)).unwrap(),
            (0..100).map(|item| item * 2).collect::<Vec<_>>()
        );
        let error = map(&items, 4, |item| if *item < 7 { Ok(()) } else { Err(Error::new(item.to_string())) });
        assert_eq!(error.unwrap_err().to_string(), "7");
        assert!(map(&[] as &[u8], 4, |_| Ok(())).unwrap().is_empty());
    }
}
