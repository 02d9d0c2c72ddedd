//! Passes verified events to the application through a queue, and retries events that fail.

use std::{
    fmt::{self, Display},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::{AbortHandle, JoinSet},
};

use super::{Event, PendingOutcome};
use crate::{
    clock::Clock,
    sampling::{Line, Sampler},
};

/// How many events may wait for one listener, including those that are retried.
const MAX_QUEUED: usize = 1000;
/// The timeout of one attempt of a listener to handle an event.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a failed event is retried.
const RETRY_PERIOD: Duration = Duration::from_mins(10);
/// The pause before the first retry; it doubles with each further retry.
const MIN_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_mins(1);

type Outcome = Result<(), String>;
type Attempt = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// The application's function that handles an event.
#[derive(Clone)]
pub(in crate::hanko) struct Listener(Arc<dyn Fn(Event) -> Attempt + Send + Sync>);

impl Listener {
    pub(in crate::hanko) fn new<F, Fut, E>(listener: F) -> Self
    where
        F: Fn(Event) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Display,
    {
        Self(Arc::new(move |event| {
            let outcome = listener(event);
            Box::pin(async move { outcome.await.map_err(|error| error.to_string()) })
        }))
    }
}

/// The queue of one listener. Its task ends when this is dropped.
pub(in crate::hanko) struct Queue {
    sender: mpsc::UnboundedSender<Queued>,
    places: Arc<Semaphore>,
    delivery: Delivery,
    task: AbortHandle,
}

struct Queued {
    event: Event,
    outcome: Arc<PendingOutcome>,
    _place: OwnedSemaphorePermit,
}

#[derive(Clone)]
struct Delivery {
    listener: Listener,
    clock: Arc<dyn Clock>,
    sampler: Sampler,
}

impl fmt::Debug for Queue {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Queue").finish_non_exhaustive()
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Queue {
    /// Starts to pass events to `listener`. Must be called within a tokio runtime.
    pub(in crate::hanko) fn start(
        listener: Listener,
        clock: Arc<dyn Clock>,
        sampler: Sampler,
    ) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        let delivery = Delivery {
            listener,
            clock,
            sampler,
        };
        let task = tokio::spawn(delivery.clone().run(receiver)).abort_handle();
        Self {
            sender,
            places: Arc::new(Semaphore::new(MAX_QUEUED)),
            delivery,
            task,
        }
    }

    /// Returns how many events wait for the listener, including those that are retried.
    pub(in crate::hanko) fn len(&self) -> usize {
        MAX_QUEUED.saturating_sub(self.places.available_permits())
    }

    /// Queues an event, or gives it up if the queue is full.
    pub(super) fn push(&self, event: Event, outcome: Arc<PendingOutcome>) {
        match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => {
                // Cannot fail: the task with the receiver runs until this queue is dropped.
                let _ = self.sender.send(Queued {
                    event,
                    outcome,
                    _place: place,
                });
            }
            Err(_) => self.delivery.give_up(&outcome, &"the queue is full"),
        }
    }
}

impl Delivery {
    /// Passes the events to the listener one after the other. Failed events are retried concurrently.
    async fn run(self, mut queue: mpsc::UnboundedReceiver<Queued>) {
        let mut retries = JoinSet::new();
        loop {
            tokio::select! {
                queued = queue.recv() => {
                    let Some(queued) = queued else { return };
                    if let Err(error) = self.attempt(&queued.event).await {
                        retries.spawn(self.clone().retry(queued, error));
                    }
                }
                Some(_) = retries.join_next() => {}
            }
        }
    }

    /// Calls the listener in its own task, so that a panic counts as a failure.
    async fn attempt(&self, event: &Event) -> Outcome {
        let mut attempt = tokio::spawn((self.listener.0)(event.clone()));
        tokio::select! {
            outcome = &mut attempt => outcome.unwrap_or_else(|error| Err(error.to_string())),
            () = self.clock.sleep(ATTEMPT_TIMEOUT) => {
                attempt.abort();
                Err(format!("it took longer than {ATTEMPT_TIMEOUT:?}"))
            }
        }
    }

    async fn retry(self, queued: Queued, mut error: String) {
        let gives_up_at = self.clock.monotonic() + RETRY_PERIOD;
        let mut pause = MIN_PAUSE;
        loop {
            tracing::debug!(event = "event_listener_failed", error, kind = %queued.event.kind(), "an event listener failed");
            if self.clock.monotonic() + pause > gives_up_at {
                return self.give_up(&queued.outcome, &error);
            }
            self.clock.sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
            match self.attempt(&queued.event).await {
                Ok(()) => return,
                Err(again) => error = again,
            }
        }
    }

    fn give_up(&self, outcome: &PendingOutcome, reason: &dyn Display) {
        outcome.give_up();
        self.sampler.log(Line::UndeliveredEvent, reason);
    }
}
