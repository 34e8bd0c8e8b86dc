//! A thread that works ahead of the one that uses its results.
//!
//! Takes a function that sends results one after the other; gives them in that order, with no more than a set number waiting.
//! What the results are is left to the caller.

use std::io;
use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

/// The thread and the queue it fills. Dropping it ends the thread as soon as it tries to send.
#[derive(Debug)]
pub(super) struct Worker<T> {
    /// `None` only while the worker is being dropped.
    queue: Option<Receiver<T>>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Worker<T> {
    /// Starts `work`; up to `ahead` results wait in the queue and one more in the hands of the thread. `work` returns when
    /// sending fails: nobody wants more results then.
    ///
    /// # Errors
    /// The system cannot start a thread.
    pub fn start(ahead: usize, work: impl FnOnce(SyncSender<T>) + Send + 'static) -> io::Result<Self> {
        let (sender, queue) = sync_channel(ahead);
        let thread = Builder::new().name("batches".into()).spawn(move || work(sender))?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    /// Waits for the next result; `None` when there are no more. A panic of the thread goes on in the caller.
    pub fn receive(&mut self) -> Option<T> {
        let result = self.queue.as_ref().and_then(|queue| queue.recv().ok());
        if result.is_none()
            && let Some(Err(panic)) = self.thread.take().map(JoinHandle::join)
        {
            resume_unwind(panic);
        }
        result
    }
}

impl<T> Drop for Worker<T> {
    fn drop(&mut self) {
        // Closing the queue first makes the thread's next send fail.
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // A panic after the last result that was wanted concerns nobody.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn results_arrive_in_order_and_then_end() {
        let mut worker = Worker::start(2, |queue| (0..100).for_each(|i| queue.send(i).unwrap())).unwrap();
        assert_eq!(std::iter::from_fn(|| worker.receive()).collect::<Vec<_>>(), (0..100).collect::<Vec<_>>());
        assert_eq!(worker.receive(), None);
    }

    #[test]
    fn the_thread_is_no_further_ahead_than_allowed_and_ends_on_drop() {
        let sent = Arc::new(AtomicUsize::new(0));
        let count = sent.clone();
        let endless = move |queue: SyncSender<()>| {
            while queue.send(()).is_ok() {
                count.fetch_add(1, Ordering::SeqCst);
            }
        };
        let mut worker = Worker::start(3, endless).unwrap();
        (0..5).for_each(|_| worker.receive().unwrap());
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert_eq!(sent.load(Ordering::SeqCst), 5 + 3);
        drop(worker);
        assert_eq!(Arc::strong_count(&sent), 1, "the thread and what it held are gone");
    }

    #[test]
    #[should_panic(expected = "a fault in the work")]
    fn a_panic_of_the_thread_reaches_the_caller() {
        let mut worker = Worker::<u8>::start(1, |_| panic!("a fault in the work")).unwrap();
        worker.receive();
    }
}
