//! Natural batching: whoever waits while others are served is served together with the rest that waits. One alone waits
//! for nobody, and a thousand cost a few turns.
//!
//! Workers come with the work and go with it: whoever joins is told to begin one when none is there, or when enough wait for
//! another one beside it. So a busy queue begins no task for each that joins, and an idle one keeps none.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Those who wait, and how many workers serve them.
pub(super) struct Queue<T> {
    state: Mutex<State<T>>,
    /// Workers at once.
    workers: usize,
    /// How many must wait for a worker beside another one.
    enough: usize,
}

struct State<T> {
    waiting: VecDeque<T>,
    workers: usize,
}

impl<T> Queue<T> {
    pub(super) fn new(workers: usize, enough: usize) -> Arc<Queue<T>> {
        Arc::new(Queue {
            state: Mutex::new(State {
                waiting: VecDeque::new(),
                workers: 0,
            }),
            workers,
            enough,
        })
    }

    /// Lines up. The caller sets the worker to work that it gets, in a task of its own: it serves others too.
    pub(super) fn join(self: &Arc<Self>, one: T) -> Option<Worker<T>> {
        let mut state = self.state();
        state.waiting.push_back(one);
        let beside = state.workers < self.workers && state.waiting.len() >= self.enough;
        if state.workers > 0 && !beside {
            return None;
        }
        state.workers += 1;
        Some(Worker {
            queue: Arc::clone(self),
            is_done: false,
        })
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who serves those who wait.
pub(super) struct Worker<T> {
    queue: Arc<Queue<T>>,
    is_done: bool,
}

impl<T> Worker<T> {
    /// Takes the next to serve from the front, as many as `count` says, one at least. `None` when the worker is not needed any
    /// more: nobody waits, or so few that those beside it will do.
    pub(super) fn next(&mut self, count: impl FnOnce(&VecDeque<T>) -> usize) -> Option<Vec<T>> {
        let mut state = self.queue.state();
        let is_needed = state.workers == 1 || state.waiting.len() >= self.queue.enough;
        if self.is_done || state.waiting.is_empty() || !is_needed {
            state.workers -= usize::from(!self.is_done);
            self.is_done = true;
            return None;
        }
        let count = count(&state.waiting).clamp(1, state.waiting.len());
        Some(state.waiting.drain(..count).collect())
    }
}

impl<T> Drop for Worker<T> {
    /// A worker that did not come to its end (it panicked, or the process stops) leaves nobody waiting for it.
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        let mut state = self.queue.state();
        state.workers -= 1;
        let forsaken = if state.workers == 0 {
            std::mem::take(&mut state.waiting)
        } else {
            VecDeque::new()
        };
        drop(state);
        drop(forsaken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_alone_is_served_at_once_and_those_who_join_meanwhile_together() {
        let queue = Queue::new(2, 3);
        let mut first = queue.join(1).expect("nobody serves yet");
        assert_eq!(first.next(VecDeque::len), Some(vec![1]));
        assert!(queue.join(2).is_none() && queue.join(3).is_none());
        let mut beside = queue.join(4).expect("enough wait for another one");
        assert!(queue.join(5).is_none(), "there are two already");
        assert_eq!(beside.next(|_| 3), Some(vec![2, 3, 4]));
        assert_eq!(beside.next(VecDeque::len), None, "too few for two");
        assert_eq!(first.next(VecDeque::len), Some(vec![5]));
        assert_eq!(first.next(VecDeque::len), None);
        assert_eq!(first.next(VecDeque::len), None, "gone is gone");
        drop((first, beside));
        assert!(queue.join(6).is_some(), "and the next one is served");
    }

    #[test]
    fn a_count_of_nobody_or_of_more_than_wait_is_put_right() {
        let queue = Queue::new(1, 1);
        let mut worker = queue.join(1).expect("nobody serves yet");
        assert!(queue.join(2).is_none());
        assert_eq!(worker.next(|_| 0), Some(vec![1]));
        assert_eq!(worker.next(|_| 9), Some(vec![2]));
    }

    #[test]
    fn nobody_waits_for_a_worker_that_died() {
        let queue = Queue::new(2, 2);
        let waiting = Arc::new(());
        let first = queue.join(Arc::clone(&waiting)).expect("nobody serves yet");
        let beside = queue
            .join(Arc::clone(&waiting))
            .expect("enough wait for another one");
        drop(first);
        assert_eq!(Arc::strong_count(&waiting), 3, "another one is there for them");
        drop(beside);
        assert_eq!(Arc::strong_count(&waiting), 1, "they are told");
        assert!(queue.join(waiting).is_some());
    }
}
