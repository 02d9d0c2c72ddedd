//! The only source of time: the system clock, or a clock that tests advance.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tokio::sync::watch;

/// A future that completes after a given time.
pub type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Returns the current time and waits for a duration.
///
/// ```
/// use std::{sync::Arc, time::Duration};
///
/// use poem_hanko::Clock;
///
/// async fn poll_every_minute(clock: Arc<dyn Clock>) {
///     loop {
///         clock.sleep(Duration::from_secs(60)).await;
///         println!("polling at {} s", clock.unix_time().as_secs());
///     }
/// }
/// ```
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Wall-clock time since 1970-01-01T00:00:00Z, as in claims (`NumericDate`, RFC 7519 section 2).
    fn unix_time(&self) -> Duration;

    /// Time since an arbitrary origin, which never goes backwards. Ages and intervals are measured with it.
    fn monotonic(&self) -> Duration;

    /// Waits for `duration`.
    fn sleep(&self, duration: Duration) -> Sleep;
}

/// The operating system's clocks.
///
/// ```
/// use std::sync::Arc;
///
/// use poem_hanko::{MemoryStore, SystemClock};
///
/// let store = MemoryStore::new(Arc::new(SystemClock::new()));
/// ```
#[derive(Debug)]
pub struct SystemClock {
    origin: Instant,
}

#[allow(
    clippy::disallowed_methods,
    reason = "this is where time enters the program"
)]
impl SystemClock {
    /// Creates a clock whose monotonic time is zero now.
    ///
    /// ```
    /// use poem_hanko::{Clock, SystemClock};
    ///
    /// let clock = SystemClock::new();
    /// let started = clock.monotonic();
    /// let took = clock.monotonic() - started;
    /// println!("took {took:?}, until {} s", clock.unix_time().as_secs());
    /// ```
    pub fn new() -> Self {
        Self {
            origin: Instant::now(),
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "this is where time enters the program"
)]
impl Clock for SystemClock {
    fn unix_time(&self) -> Duration {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
    }

    fn monotonic(&self) -> Duration {
        self.origin.elapsed()
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// A clock that stands still until [`advance`](Self::advance) is called. Clones share one time.
///
/// ```
/// use std::time::Duration;
///
/// use poem_hanko::{Clock, ManualClock};
///
/// let clock = ManualClock::new(Duration::from_secs(1_800_000_000));
/// clock.advance(Duration::from_secs(60));
/// assert_eq!(clock.unix_time(), Duration::from_secs(1_800_000_060));
/// ```
#[derive(Clone, Debug)]
pub struct ManualClock {
    unix_origin: Duration,
    elapsed: Arc<watch::Sender<Duration>>,
}

impl ManualClock {
    /// Creates a clock that stands at `unix_time`, a duration since 1970-01-01T00:00:00Z.
    ///
    /// ```
    /// use std::{sync::Arc, time::Duration};
    ///
    /// use poem_hanko::{ManualClock, MemoryStore};
    ///
    /// // 2026-01-01T12:00:00Z
    /// let clock = ManualClock::new(Duration::from_secs(1_767_268_800));
    /// let store = MemoryStore::new(Arc::new(clock.clone()));
    /// ```
    pub fn new(unix_time: Duration) -> Self {
        Self {
            unix_origin: unix_time,
            elapsed: Arc::new(watch::Sender::new(Duration::ZERO)),
        }
    }

    /// Moves both the wall clock and the monotonic clock forward, and completes the sleeps that are over.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use poem_hanko::{Clock, ManualClock};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let clock = ManualClock::new(Duration::ZERO);
    /// let minute = clock.sleep(Duration::from_secs(60));
    /// clock.advance(Duration::from_secs(60));
    /// minute.await;
    /// assert_eq!(clock.monotonic(), Duration::from_secs(60));
    /// # }
    /// ```
    pub fn advance(&self, duration: Duration) {
        self.elapsed.send_modify(|elapsed| *elapsed += duration);
    }
}

impl Clock for ManualClock {
    fn unix_time(&self) -> Duration {
        self.unix_origin + self.monotonic()
    }

    fn monotonic(&self) -> Duration {
        *self.elapsed.borrow()
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        let mut elapsed = self.elapsed.subscribe();
        let deadline = self.monotonic().saturating_add(duration);
        Box::pin(async move {
            // The sender is dropped only with the last clone of the clock. Then the time never changes again.
            if elapsed.wait_for(|now| *now >= deadline).await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    }
}
