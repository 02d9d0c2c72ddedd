//! How `/sessions/validate` misbehaves on request, and what it counts.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::watch;

/// A way in which the local Hanko fails, chosen by [`LocalHanko::set_fault`](super::LocalHanko::set_fault). It applies to
/// requests that arrive while it is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// None: it works.
    #[default]
    None,
    /// As a real Hanko whose database is down: `/sessions/validate` (POST and GET) returns 200 with
    /// `{"is_valid":false}` about every token, `/.well-known/jwks.json` returns 500, and `/logout` returns 401.
    DatabaseDown,
    /// `/sessions/validate` returns 429.
    TooManyRequests {
        /// The `Retry-After` header, in whole seconds, rounded up.
        retry_after: Option<Duration>,
    },
    /// `/sessions/validate` returns 503.
    Unavailable {
        /// The `Retry-After` header, in whole seconds, rounded up.
        retry_after: Option<Duration>,
    },
    /// `/sessions/validate` returns 500.
    InternalError,
    /// `/sessions/validate` returns 200 with a body that no Hanko sends: `{}`.
    UnexpectedResponse,
    /// Requests to `/sessions/validate` and `/.well-known/jwks.json` are accepted and get no response. When another fault,
    /// or none, is set, their responses are computed and sent, as by a process that was stopped and continues.
    Hangs,
    /// No request gets a response: its connection is closed when it arrives, or when it would get its response. Requests
    /// that arrive are not counted.
    Down,
}

/// Keeps responses of `/sessions/validate` back, see
/// [`LocalHanko::hold_validations`](super::LocalHanko::hold_validations). Sends them when it is dropped.
#[derive(Debug)]
#[must_use = "the responses are sent when this is dropped"]
pub struct HeldValidations {
    hold: Arc<Hold>,
    current: Arc<CurrentHold>,
}

impl HeldValidations {
    /// Returns how many responses are being held.
    pub fn count(&self) -> usize {
        *self.hold.count.borrow()
    }

    /// Waits until at least `count` responses are being held.
    pub async fn wait_for(&self, count: usize) {
        until(&self.hold.count, |held| *held >= count).await;
    }

    /// Sends the held responses, in no particular order.
    pub fn release(self) {
        drop(self);
    }
}

impl Drop for HeldValidations {
    fn drop(&mut self) {
        self.current.end(&self.hold);
        self.hold.is_released.send_replace(true);
    }
}

/// The responses that one [`HeldValidations`] holds.
#[derive(Debug, Default)]
struct Hold {
    count: watch::Sender<usize>,
    is_released: watch::Sender<bool>,
}

/// The hold that applies to new responses.
#[derive(Debug, Default)]
pub(super) struct CurrentHold(Mutex<Option<Arc<Hold>>>);

impl CurrentHold {
    pub(super) fn begin(self: &Arc<Self>) -> HeldValidations {
        let hold = Arc::new(Hold::default());
        *self.lock() = Some(Arc::clone(&hold));
        HeldValidations {
            hold,
            current: Arc::clone(self),
        }
    }

    /// Holds a response, if there is a hold, until it is released.
    pub(super) async fn wait(&self) {
        let Some(hold) = self.lock().clone() else {
            return;
        };
        let _counted = Counted::new(&hold.count, |count| count);
        until(&hold.is_released, |is_released| *is_released).await;
    }

    fn end(&self, hold: &Arc<Hold>) {
        // A newer hold stays.
        self.lock().take_if(|current| Arc::ptr_eq(current, hold));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<Hold>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The number of requests to `/sessions/validate`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ValidationCounts {
    pub(super) all: u64,
    pub(super) by_get: u64,
    pub(super) most_at_once: usize,
    at_once: usize,
}

/// Counts the requests to `/sessions/validate`.
#[derive(Debug, Default)]
pub(super) struct ValidationCounter(watch::Sender<ValidationCounts>);

impl ValidationCounter {
    /// Counts a request, which is in progress until the returned guard is dropped.
    pub(super) fn begin(&self, is_get: bool) -> impl Drop + Send + '_ {
        let in_progress = Counted::new(&self.0, |counts| &mut counts.at_once);
        self.0.send_modify(|counts| {
            counts.all += 1;
            counts.by_get += u64::from(is_get);
            counts.most_at_once = counts.most_at_once.max(counts.at_once);
        });
        in_progress
    }

    pub(super) fn counts(&self) -> ValidationCounts {
        *self.0.borrow()
    }

    pub(super) async fn wait_for(&self, all: u64) {
        until(&self.0, |counts| counts.all >= all).await;
    }
}

/// Waits until the value meets the condition.
pub(super) async fn until<T>(sender: &watch::Sender<T>, condition: impl FnMut(&T) -> bool) {
    let mut receiver = sender.subscribe();
    // The channel is open while its sender is borrowed.
    let _met = receiver.wait_for(condition).await.is_ok();
}

/// Raises a number while it lives. If the client disconnects, the handler is dropped, and this with it.
struct Counted<'a, T> {
    sender: &'a watch::Sender<T>,
    number: fn(&mut T) -> &mut usize,
}

impl<'a, T> Counted<'a, T> {
    fn new(sender: &'a watch::Sender<T>, number: fn(&mut T) -> &mut usize) -> Self {
        sender.send_modify(|value| *number(value) += 1);
        Self { sender, number }
    }
}

impl<T> Drop for Counted<'_, T> {
    fn drop(&mut self) {
        self.sender.send_modify(|value| *(self.number)(value) -= 1);
    }
}

impl<T> fmt::Debug for Counted<'_, T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Counted").finish_non_exhaustive()
    }
}
