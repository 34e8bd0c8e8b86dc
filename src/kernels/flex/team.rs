//! The threads that share out the work of one pass.
//!
//! Takes closures that several threads may run at once; runs each on all threads of the team and returns when all are done. A
//! pass does this a thousand times, with little between one and the next: threads of a pool would fall asleep each time, and
//! waking them takes longer than what lies between.
use std::{
    cell::RefCell,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

/// Rounds that a thread without work waits before it lets others run between two looks.
const PATIENCE: usize = 1 << 11;

/// What all may run.
type Job<'a> = &'a (dyn Fn() + Sync + 'a);

/// What goes wrong in a thread of the team.
type Panic = Box<dyn std::any::Any + Send>;

thread_local! {
    /// The team of the pass that this thread walks.
    static MINE: RefCell<Option<Arc<Team>>> = const { RefCell::new(None) };
}

/// A walking thread and its helpers.
#[derive(Default)]
struct Team {
    /// The job that runs now.
    job: Mutex<Option<Job<'static>>>,
    /// How many jobs there have been.
    jobs: AtomicUsize,
    /// Helpers that run the job.
    active: AtomicUsize,
    /// The pass is over.
    over: AtomicBool,
    panic: Mutex<Option<Panic>>,
}

/// Ends a job, or a pass, whatever happens in it.
struct End<F: FnMut()>(F);

impl<F: FnMut()> Drop for End<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Walks a pass with a team: what it hands to `on_all` is run by all threads of the pool that are free.
pub fn with_team<R: Send>(walk: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|scope| {
        let team = Arc::new(Team::default());
        for _ in 1..rayon::current_num_threads() {
            let team = team.clone();
            scope.spawn(move |_| team.help());
        }
        let before = MINE.replace(Some(team.clone()));
        let _end = End(|| {
            team.over.store(true, Ordering::Release);
            MINE.set(before.clone());
        });
        walk()
    })
}

/// Runs `job` on this thread and on those of its team that are free; does nothing and gives false where it has no team.
pub fn on_all(job: &(dyn Fn() + Sync)) -> bool {
    let Some(team) = MINE.take() else { return false };
    // Out of the way meanwhile: a job within the job must not wait for this one.
    let _back = End(|| MINE.set(Some(team.clone())));
    team.run(job);
    true
}

impl Team {
    fn run(&self, job: Job) {
        // SAFETY: the reference is in `self.job` only until `_end` below is dropped, which takes it out and then waits until
        // no helper runs it; helpers take it from there alone, and count as active before they let go of the lock. So no use
        // of it outlives this call.
        let job: Job<'static> = unsafe { std::mem::transmute::<Job<'_>, Job<'static>>(job) };
        *lock(&self.job) = Some(job);
        self.jobs.fetch_add(1, Ordering::Release);
        {
            let _end = End(|| {
                *lock(&self.job) = None;
                wait(|| self.active.load(Ordering::Acquire) == 0);
            });
            job();
        }
        if let Some(panic) = lock(&self.panic).take() {
            resume_unwind(panic);
        }
    }

    /// Runs jobs until the pass is over.
    fn help(&self) {
        let mut seen = 0;
        loop {
            wait(|| self.over.load(Ordering::Acquire) || self.jobs.load(Ordering::Acquire) != seen);
            if self.over.load(Ordering::Acquire) {
                return;
            }
            let slot = lock(&self.job);
            seen = self.jobs.load(Ordering::Acquire);
            let Some(job) = *slot else { continue };
            self.active.fetch_add(1, Ordering::AcqRel);
            drop(slot);
            let _done = End(|| {
                self.active.fetch_sub(1, Ordering::AcqRel);
            });
            if let Err(panic) = catch_unwind(AssertUnwindSafe(job)) {
                *lock(&self.panic) = Some(panic);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wait(until: impl Fn() -> bool) {
    let mut rounds = 0;
    while !until() {
        rounds += 1;
        if rounds < PATIENCE { std::hint::spin_loop() } else { std::thread::yield_now() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_done_when_the_call_returns_and_every_helper_may_run_it() {
        with_team(|| {
            for round in 0..2000usize {
                let items = Mutex::new(0..64usize);
                let sum = AtomicUsize::new(0);
                let ran = on_all(&|| {
                    while let Some(item) = lock(&items).next() {
                        sum.fetch_add(item, Ordering::Relaxed);
                    }
                });
                assert!(ran);
                assert_eq!(sum.into_inner(), 2016, "round {round}");
            }
        });
        assert!(!on_all(&|| ()), "without a team nothing runs");
    }

    #[test]
    fn jobs_within_jobs_and_walks_side_by_side_end() {
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    with_team(|| {
                        for _ in 0..100 {
                            assert!(on_all(&|| assert!(!on_all(&|| ()))));
                        }
                    });
                });
            }
        });
    }

    #[test]
    fn a_panic_in_a_helper_or_in_the_walk_reaches_the_caller() {
        for in_helper in [false, true] {
            let walker = std::sync::Mutex::new(None);
            let result = catch_unwind(AssertUnwindSafe(|| {
                with_team(|| {
                    *lock(&walker) = Some(std::thread::current().id());
                    for _ in 0..10_000 {
                        on_all(&|| {
                            let here = Some(std::thread::current().id()) == *lock(&walker);
                            assert!(here == in_helper, "as meant");
                            std::thread::yield_now();
                        });
                    }
                });
            }));
            // Where the pool has one thread there is no helper that could fail.
            assert_eq!(result.is_err(), !in_helper || rayon::current_num_threads() > 1);
        }
    }
}
