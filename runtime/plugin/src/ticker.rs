//! The epoch clock: a thread that advances the engines' epochs while a call runs, and sleeps
//! otherwise, so that an idle host wakes nobody.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;
use wasmtime::Engine;

/// Resolution of deadlines.
pub(crate) const TICK: Duration = Duration::from_millis(2);

/// Ticks that go on after the last call, so that a busy host does not wake the thread each time.
const LINGER: u32 = 250;

struct Shared {
    calls: AtomicUsize,
    ticking: AtomicBool,
    stop: AtomicBool,
}

/// Owner of the thread; dropping it ends the thread.
pub(crate) struct Ticker {
    shared: Arc<Shared>,
    thread: Thread,
    join: Option<JoinHandle<()>>,
}

/// A call in progress; epochs advance at least until it is dropped.
pub(crate) struct Running<'a> {
    shared: &'a Shared,
}

impl Ticker {
    pub(crate) fn start(engines: Vec<Engine>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            calls: AtomicUsize::new(0),
            ticking: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let join = {
            let shared = shared.clone();
            thread::Builder::new().name("plugin-epoch".into()).stack_size(64 << 10).spawn(move || {
                run(&shared, &engines);
            })?
        };
        Ok(Self { shared, thread: join.thread().clone(), join: Some(join) })
    }

    /// Marks the begin of a call.
    pub(crate) fn running(&self) -> Running<'_> {
        self.shared.calls.fetch_add(1, Ordering::SeqCst);
        if !self.shared.ticking.load(Ordering::SeqCst) {
            self.thread.unpark();
        }
        Running { shared: &self.shared }
    }

    /// Deadline in ticks. One more than the quotient, because the current tick is partly over.
    pub(crate) fn ticks(deadline: Duration) -> u64 {
        let ticks = deadline.as_micros().div_ceil(TICK.as_micros().max(1));
        u64::try_from(ticks).unwrap_or(u64::MAX / 2).saturating_add(1)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.shared.calls.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.thread.unpark();
        if let Some(join) = self.join.take() {
            // The thread cannot panic; and if it could, there would be nothing to do about it.
            let _ = join.join();
        }
    }
}

fn run(shared: &Shared, engines: &[Engine]) {
    let mut quiet = 0;
    while !shared.stop.load(Ordering::SeqCst) {
        if shared.calls.load(Ordering::SeqCst) > 0 {
            quiet = 0;
        } else {
            quiet += 1;
        }
        if quiet > LINGER {
            // Announce sleep first, look for calls afterwards: a call that begins in between
            // either is seen here or sees `ticking == false` and unparks.
            shared.ticking.store(false, Ordering::SeqCst);
            if shared.calls.load(Ordering::SeqCst) == 0 && !shared.stop.load(Ordering::SeqCst) {
                thread::park();
            }
            quiet = 0;
        }
        shared.ticking.store(true, Ordering::SeqCst);
        thread::sleep(TICK);
        for engine in engines {
            engine.increment_epoch();
        }
    }
}
