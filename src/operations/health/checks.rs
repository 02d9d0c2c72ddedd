//! Readiness checks of an application. They run in the background: a request for readiness must not start one, because anybody
//! can send it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::task::JoinSet;

use super::ComponentStatus;
use crate::clock::Clock;

/// The pause between two runs of a check.
const INTERVAL: Duration = Duration::from_secs(5);
/// A check that takes longer has failed.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The outcome of a readiness check, see [`App::readiness`](crate::App::readiness).
///
/// ```
/// use std::io;
///
/// use poem_hanko::CheckStatus;
///
/// /// All replicas share the database, so none of them stops when it is down.
/// fn database_status(ping: io::Result<()>) -> CheckStatus {
///     ping.map_or(CheckStatus::Degraded, |()| CheckStatus::Ok)
/// }
///
/// assert_eq!(database_status(Ok(())), CheckStatus::Ok);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckStatus {
    /// The component works.
    Ok,
    /// The service works without the component for a limited time and stays ready. Use it for what all replicas share, such
    /// as a database, so that its outage does not take all of them out of service.
    Degraded,
    /// The service is not ready. Use it for what only this process lacks, such as a cache that is not filled yet.
    Unavailable,
}

/// A check and its name.
pub(crate) struct Check {
    pub(crate) name: String,
    pub(crate) run: Box<dyn Fn() -> BoxFuture<'static, CheckStatus> + Send + Sync>,
}

/// The last status of each check. Until a check has ended once, its status is unavailable.
#[derive(Clone, Default)]
pub(crate) struct Checks(Option<Arc<Running>>);

struct Running {
    statuses: Vec<(String, Arc<AtomicU8>)>,
    /// Aborts the checks when it is dropped.
    _tasks: JoinSet<()>,
}

impl fmt::Debug for Checks {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.statuses()).finish()
    }
}

impl Checks {
    /// Starts to run the checks. Must be called within a tokio runtime.
    pub(crate) fn start(checks: Vec<Check>, clock: &Arc<dyn Clock>) -> Self {
        if checks.is_empty() {
            return Self(None);
        }
        let mut tasks = JoinSet::new();
        let statuses = checks
            .into_iter()
            .map(|Check { name, run }| {
                let status = Arc::new(AtomicU8::new(ComponentStatus::Unavailable as u8));
                tasks.spawn(repeat(run, Arc::clone(&status), Arc::clone(clock)));
                (name, status)
            })
            .collect();
        Self(Some(Arc::new(Running {
            statuses,
            _tasks: tasks,
        })))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Returns the status of each check.
    pub(crate) fn statuses(&self) -> Vec<(String, ComponentStatus)> {
        let statuses = self.0.iter().flat_map(|running| &running.statuses);
        statuses
            .map(|(name, status)| {
                let status = match status.load(Ordering::Relaxed) {
                    status if status == ComponentStatus::Ok as u8 => ComponentStatus::Ok,
                    status if status == ComponentStatus::Degraded as u8 => {
                        ComponentStatus::Degraded
                    }
                    _ => ComponentStatus::Unavailable,
                };
                (name.clone(), status)
            })
            .collect()
    }
}

/// Runs a check repeatedly.
async fn repeat(
    run: Box<dyn Fn() -> BoxFuture<'static, CheckStatus> + Send + Sync>,
    status: Arc<AtomicU8>,
    clock: Arc<dyn Clock>,
) {
    loop {
        // In a task of its own, so that a panic counts as a failed check.
        let mut attempt = tokio::spawn(run());
        let outcome = tokio::select! {
            outcome = &mut attempt => outcome.unwrap_or(CheckStatus::Unavailable),
            () = clock.sleep(TIMEOUT) => {
                attempt.abort();
                CheckStatus::Unavailable
            }
        };
        let found = match outcome {
            CheckStatus::Ok => ComponentStatus::Ok,
            CheckStatus::Degraded => ComponentStatus::Degraded,
            CheckStatus::Unavailable => ComponentStatus::Unavailable,
        };
        status.store(found as u8, Ordering::Relaxed);
        clock.sleep(INTERVAL).await;
    }
}
