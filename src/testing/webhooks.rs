//! The webhooks, sent as Hanko sends them: one at a time, each once, never retried.

use std::{error::Error, sync::Arc, time::Duration};

use poem::http::header;
use serde_json::Value;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};

use super::validations::until;
use crate::clock::Clock;

/// How long Hanko waits for the response to a webhook.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The `User-Agent` of Hanko's webhooks, as recorded.
const USER_AGENT: &str = "Go-http-client/1.1";

/// Why a webhook was not delivered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeliveryError {
    /// The response has this status, 400 or above.
    #[error("the response to the webhook has status {0}")]
    Status(u16),
    /// There was no response within 10 s of the local Hanko's clock.
    #[error("there was no response to the webhook within 10 s")]
    TimedOut,
    /// No request could be sent, or its response could not be read.
    #[error("the webhook could not be sent")]
    Unreachable(#[source] Box<dyn Error + Send + Sync>),
}

/// Where webhooks are sent, and which.
#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) url: Option<String>,
    pub(super) events: Vec<String>,
}

impl Subscription {
    /// Returns the URL to which this event is sent, if any. Hanko compares by prefix: `session` includes
    /// `session.delete.explicit.logout`.
    pub(super) fn url_for(&self, event: &str) -> Option<String> {
        let is_subscribed = self
            .events
            .iter()
            .any(|prefix| event.starts_with(prefix.as_str()));
        self.url.clone().filter(|_| is_subscribed)
    }
}

/// A webhook to send.
#[derive(Debug)]
struct Job {
    url: String,
    body: Value,
    outcome: oneshot::Sender<Result<(), DeliveryError>>,
}

/// The queue in front of the worker.
#[derive(Debug)]
pub(super) struct WebhookQueue {
    jobs: mpsc::UnboundedSender<Job>,
    unfinished: watch::Sender<usize>,
}

impl WebhookQueue {
    /// Starts the worker in `tasks`.
    pub(super) fn start(clock: Arc<dyn Clock>, tasks: &mut JoinSet<()>) -> Self {
        let (jobs, queue) = mpsc::unbounded_channel();
        let unfinished = watch::Sender::new(0);
        tasks.spawn(work(queue, unfinished.clone(), clock));
        Self { jobs, unfinished }
    }

    /// Queues a webhook. If the returned receiver is dropped, a failure is logged.
    pub(super) fn push(
        &self,
        url: String,
        body: Value,
    ) -> oneshot::Receiver<Result<(), DeliveryError>> {
        let (outcome, receiver) = oneshot::channel();
        self.unfinished.send_modify(|count| *count += 1);
        let job = Job { url, body, outcome };
        if self.jobs.send(job).is_err() {
            // The worker has ended with the runtime that started it.
            self.unfinished.send_modify(|count| *count -= 1);
        }
        receiver
    }

    pub(super) async fn wait_until_idle(&self) {
        until(&self.unfinished, |count| *count == 0).await;
    }
}

async fn work(
    mut jobs: mpsc::UnboundedReceiver<Job>,
    unfinished: watch::Sender<usize>,
    clock: Arc<dyn Clock>,
) {
    let mut client = None;
    while let Some(Job { url, body, outcome }) = jobs.recv().await {
        let result = tokio::select! {
            result = deliver(&mut client, url, &body) => result,
            () = clock.sleep(TIMEOUT) => Err(DeliveryError::TimedOut),
        };
        if let Err(Err(error)) = outcome.send(result) {
            let error: &dyn Error = &error;
            tracing::warn!(error, event = %body["event"], "the webhook was not delivered");
        }
        unfinished.send_modify(|count| *count -= 1);
    }
}

/// Sends one request. The client is built at the first webhook, since without one it is not needed.
async fn deliver(
    client: &mut Option<reqwest::Client>,
    url: String,
    body: &Value,
) -> Result<(), DeliveryError> {
    let unreachable = |error: reqwest::Error| DeliveryError::Unreachable(error.into());
    let client = match client {
        Some(client) => client,
        // Without idle connections, because reqwest repeats a request if the connection it reused had been closed.
        None => {
            let builder = || {
                reqwest::Client::builder()
                    .no_proxy()
                    .pool_max_idle_per_host(0)
            };
            // Without root certificates on this machine, http still works.
            let built = builder()
                .build()
                .or_else(|_| builder().tls_certs_only([]).build());
            client.insert(built.map_err(unreachable)?)
        }
    };
    let response = client
        .post(url)
        .header(header::USER_AGENT, USER_AGENT)
        .json(body)
        .send()
        .await
        .map_err(unreachable)?;
    let status = response.status();
    if status.is_client_error() || status.is_server_error() {
        return Err(DeliveryError::Status(status.as_u16()));
    }
    Ok(())
}
