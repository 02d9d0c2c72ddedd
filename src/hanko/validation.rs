//! Asks Hanko whether a session is still alive (Hanko `backend/handler/session.go`, `POST /sessions/validate`).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use quick_cache::sync::Cache;
use reqwest::StatusCode;
use serde::Serialize;
use tokio::sync::watch;
use url::Url;
use uuid::Uuid;

use super::session::SessionId;
use crate::{clock::Clock, jose::parse_object};

/// The largest answer that is read. Hanko's are about as large as the token.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// Hanko could not be asked, or its answer could not be understood. Nothing is let in for that reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ValidationError {
    /// No connection, or it broke.
    #[error("Hanko could not be asked about a session")]
    Transport,
    /// Not complete in time.
    #[error("Hanko did not answer about a session within {0:?}")]
    Timeout(Duration),
    /// Any status but 200.
    #[error("Hanko answered about a session with status {0}")]
    Status(StatusCode),
    /// Too large, not of the known form, or about another session.
    #[error("Hanko's answer about a session cannot be understood")]
    Odd,
}

/// What Hanko says of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Alive,
    Ended,
}

type Outcome = Result<Status, ValidationError>;

/// When it was asked, and what comes of it.
type Question = (Duration, watch::Receiver<Option<Outcome>>);

/// Asks Hanko, once for all requests of a session that wait at the same time, and remembers the answer for a while.
#[derive(Debug)]
pub(super) struct Validator(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    url: Url,
    client: reqwest::Client,
    clock: Arc<dyn Clock>,
    timeout: Duration,
    time_to_live: Duration,
    answers: Cache<SessionId, Answer>,
    in_flight: Mutex<HashMap<SessionId, Question>>,
}

#[derive(Clone, Copy, Debug)]
struct Answer {
    status: Status,
    /// On the monotonic clock.
    valid_until: Duration,
}

impl Validator {
    pub(super) fn new(
        url: Url,
        client: reqwest::Client,
        clock: Arc<dyn Clock>,
        timeout: Duration,
        time_to_live: Duration,
        capacity: usize,
    ) -> Self {
        Self(Arc::new(Shared {
            url,
            client,
            clock,
            timeout,
            time_to_live,
            answers: Cache::new(capacity),
            in_flight: Mutex::new(HashMap::new()),
        }))
    }

    /// Whether the session of this token, which must have been verified, is alive at Hanko.
    pub(super) async fn status(&self, session: SessionId, token: &str) -> Outcome {
        if let Some(answer) = self.0.answers.get(&session)
            && self.0.clock.monotonic() < answer.valid_until
        {
            return Ok(answer.status);
        }
        let mut outcome = self.0.ask_once(session, token);
        let outcome = outcome.wait_for(Option::is_some).await;
        // The sender goes without a word only if the task died.
        outcome.map_or(Err(ValidationError::Transport), |outcome| {
            outcome.clone().unwrap_or(Err(ValidationError::Transport))
        })
    }
}

impl Shared {
    /// Joins the question about this session that is under way, or asks it in a task of its own, so that the answer does
    /// not depend on the caller who happened to ask first.
    fn ask_once(
        self: &Arc<Self>,
        session: SessionId,
        token: &str,
    ) -> watch::Receiver<Option<Outcome>> {
        let mut in_flight = self
            .in_flight
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.monotonic();
        // What was asked longer ago than an answer may be reused, or at all where none may, says nothing of this request.
        if let Some((asked_at, outcome)) = in_flight.get(&session)
            && now.saturating_sub(*asked_at) < self.time_to_live
        {
            return outcome.clone();
        }
        let (sender, receiver) = watch::channel(None);
        in_flight.insert(session, (now, receiver.clone()));
        let shared = Arc::clone(self);
        let token = token.to_owned();
        tokio::spawn(async move {
            let asking = Asking {
                shared,
                session,
                asked_at: now,
            };
            let outcome = asking.shared.ask(session, &token, now).await;
            if let Err(error) = &outcome {
                tracing::warn!(%error, "a session could not be validated");
            }
            drop(asking);
            sender.send_replace(Some(outcome));
        });
        receiver
    }

    async fn ask(&self, session: SessionId, token: &str, asked_at: Duration) -> Outcome {
        let (status, lifetime) = tokio::select! {
            answer = self.ask_untimed(session, token) => answer?,
            () = self.clock.sleep(self.timeout) => return Err(ValidationError::Timeout(self.timeout)),
        };
        if !lifetime.is_zero() {
            // Hanko may have looked as soon as it was asked, and answered late.
            let valid_until = asked_at + lifetime;
            self.answers.insert(
                session,
                Answer {
                    status,
                    valid_until,
                },
            );
        }
        Ok(status)
    }

    /// The status, and how long it may be relied on.
    async fn ask_untimed(
        &self,
        session: SessionId,
        token: &str,
    ) -> Result<(Status, Duration), ValidationError> {
        let mut response = self
            .client
            .post(self.url.clone())
            .json(&ValidateSessionRequest {
                session_token: token,
            })
            .send()
            .await
            .map_err(|_| ValidationError::Transport)?;
        if response.status() != StatusCode::OK {
            return Err(ValidationError::Status(response.status()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|_| ValidationError::Transport)?
        {
            if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(ValidationError::Odd);
            }
            body.extend_from_slice(&chunk);
        }
        interpret(&body, session, self.clock.unix_time(), self.time_to_live)
            .ok_or(ValidationError::Odd)
    }
}

/// Forgets the question when it is answered, or when its task dies.
struct Asking {
    shared: Arc<Shared>,
    session: SessionId,
    asked_at: Duration,
}

impl Drop for Asking {
    fn drop(&mut self) {
        let mut in_flight = self
            .shared
            .in_flight
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // A later question of the same session may have taken its place.
        if in_flight
            .get(&self.session)
            .is_some_and(|(asked_at, _)| *asked_at == self.asked_at)
        {
            in_flight.remove(&self.session);
        }
    }
}

#[derive(Serialize)]
struct ValidateSessionRequest<'a> {
    session_token: &'a str,
}

/// Reads an answer: the status, and how long it may be relied on, which is `time_to_live` and no longer than Hanko says
/// that the session lives. `None` where it is not of the known form, or about another session.
fn interpret(
    answer: &[u8],
    session: SessionId,
    now: Duration,
    time_to_live: Duration,
) -> Option<(Status, Duration)> {
    let answer = parse_object(answer)?;
    if !answer.get("is_valid")?.as_bool()? {
        return Some((Status::Ended, time_to_live));
    }
    let claims = answer.get("claims")?.as_object()?;
    let id: Uuid = claims.get("session_id")?.as_str()?.parse().ok()?;
    if id != session.as_uuid() {
        return None;
    }
    let mut lifetime = time_to_live;
    let ends = [
        claims.get("expiration"),
        answer.get("expiration_time"),
        answer.get("idle_expires_at"),
    ];
    for end in ends.into_iter().flatten().filter(|end| !end.is_null()) {
        let end: DateTime<Utc> = end.as_str()?.parse().ok()?;
        let end = Duration::from_secs(u64::try_from(end.timestamp()).unwrap_or_default());
        lifetime = lifetime.min(end.saturating_sub(now));
    }
    Some((Status::Alive, lifetime))
}
