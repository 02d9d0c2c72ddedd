//! One validation request to Hanko (Hanko `backend/handler/session.go`, `/sessions/validate`) and its response.

use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::{
    Method, StatusCode,
    header::{HeaderMap, RETRY_AFTER},
};
use serde::Serialize;
use serde_json::Value;
use url::Url;
use uuid::Uuid;

use super::record::{Answer, NEVER, Nanos, nanos};
use crate::{
    clock::Clock, hanko::SessionId, jose::parse_object, metrics::ValidationOutcome, trace::Span,
};

/// The largest response that is read. Hanko's are about as large as the token.
const MAX_RESPONSE_BYTES: usize = 64 * 1024;

/// The longest time for which Hanko may postpone validation requests by `Retry-After`.
const MAX_POSTPONEMENT: Duration = Duration::from_mins(1);

/// A validation request failed, so it is not known whether the session is active.
///
/// ```
/// use poem_hanko::{AuthenticateError, ValidationError};
///
/// fn cause(error: &AuthenticateError) -> Option<&'static str> {
///     match error {
///         AuthenticateError::Validation(ValidationError::Transport) => Some("Hanko is down"),
///         AuthenticateError::Validation(ValidationError::Timeout(_)) => Some("Hanko is slow"),
///         _ => None,
///     }
/// }
/// # assert_eq!(cause(&ValidationError::Transport.into()), Some("Hanko is down"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ValidationError {
    /// The connection failed, or was closed too early.
    #[error("Hanko could not be reached to validate a session")]
    Transport,
    /// The response was not complete in time.
    #[error("Hanko did not validate a session within {0:?}")]
    Timeout(Duration),
    /// The status of the response was not 200.
    #[error("Hanko responded to a validation request with status {0}")]
    Status(StatusCode),
    /// The response is too large, not of the known form, or about another session.
    #[error("Hanko's response to a validation request is unexpected")]
    UnexpectedResponse,
    /// Hanko said that the session is invalid, and its keys could not be fetched after that. Hanko says this about every
    /// session while its database is down.
    #[error("Hanko called a session invalid, but could not serve its keys")]
    Unconfirmed,
    /// Too many validation requests are already open, or too many requests of the user wait for one.
    #[error("too many validation requests wait for Hanko")]
    Overloaded,
    /// Hanko has asked for fewer requests by `Retry-After`, and no caller waits for this one.
    #[error("Hanko has postponed validation requests")]
    Postponed,
}

impl ValidationError {
    /// Returns the outcome that the validation is counted as.
    pub(super) fn counted_as(&self) -> ValidationOutcome {
        match self {
            Self::Transport => ValidationOutcome::Transport,
            Self::Timeout(_) => ValidationOutcome::Timeout,
            Self::Status(_) => ValidationOutcome::Status,
            Self::UnexpectedResponse => ValidationOutcome::UnexpectedResponse,
            Self::Unconfirmed => ValidationOutcome::Unconfirmed,
            Self::Overloaded => ValidationOutcome::Overloaded,
            Self::Postponed => ValidationOutcome::Postponed,
        }
    }
}

/// A failed request, and for how long Hanko wants no further requests.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: ValidationError,
    pub(super) postponed_for: Option<Duration>,
}

impl From<ValidationError> for Failure {
    fn from(error: ValidationError) -> Self {
        Self {
            error,
            postponed_for: None,
        }
    }
}

/// Whether a validation renews the idle timeout of the session at Hanko: POST does, GET does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Renewal {
    Renew,
    Observe,
}

impl Renewal {
    fn method(self) -> &'static str {
        match self {
            Self::Renew => "POST",
            Self::Observe => "GET",
        }
    }
}

/// Where and how validation requests are sent.
#[derive(Debug)]
pub(super) struct Requester {
    pub(super) url: Url,
    pub(super) client: reqwest::Client,
    pub(super) timeout: Duration,
}

#[derive(Serialize)]
struct ValidateSessionRequest<'a> {
    session_token: &'a str,
}

impl Requester {
    /// Sends one validation request about a session whose token was verified.
    pub(super) async fn send(
        &self,
        session: SessionId,
        token: &str,
        renewal: Renewal,
        clock: &dyn Clock,
    ) -> Result<Answer, Failure> {
        let span = Span::hanko(renewal.method(), "/sessions/validate", &self.url);
        let outcome = self.send_in(&span, session, token, renewal, clock).await;
        if let Err(failure) = &outcome {
            span.failed(failure.error.counted_as().name());
        }
        outcome
    }

    async fn send_in(
        &self,
        span: &Span,
        session: SessionId,
        token: &str,
        renewal: Renewal,
        clock: &dyn Clock,
    ) -> Result<Answer, Failure> {
        let asked_at = nanos(clock.monotonic());
        let body = tokio::select! {
            body = self.exchange(span, token, renewal, clock) => body?,
            () = clock.sleep(self.timeout) => return Err(ValidationError::Timeout(self.timeout).into()),
        };
        interpret(&body, session)
            .map(|times| times.into_answer(asked_at, renewal, clock))
            .ok_or_else(|| ValidationError::UnexpectedResponse.into())
    }

    async fn exchange(
        &self,
        span: &Span,
        token: &str,
        renewal: Renewal,
        clock: &dyn Clock,
    ) -> Result<Vec<u8>, Failure> {
        let failed = |_: reqwest::Error| Failure::from(ValidationError::Transport);
        let request =
            match renewal {
                Renewal::Renew => self.client.request(Method::POST, self.url.clone()).json(
                    &ValidateSessionRequest {
                        session_token: token,
                    },
                ),
                Renewal::Observe => self
                    .client
                    .request(Method::GET, self.url.clone())
                    .header("cache-control", "no-cache")
                    .bearer_auth(token),
            };
        let mut response = span.inject(request).send().await.map_err(failed)?;
        let status = response.status();
        span.responded(status);
        if status != StatusCode::OK {
            return Err(Failure {
                error: ValidationError::Status(status),
                postponed_for: postponement(status, response.headers(), clock.unix_time()),
            });
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > MAX_RESPONSE_BYTES {
                return Err(ValidationError::UnexpectedResponse.into());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

/// Reads `Retry-After` (RFC 9110 section 10.2.3) of a 429 or 503: seconds, or a date.
fn postponement(status: StatusCode, headers: &HeaderMap, now: Duration) -> Option<Duration> {
    if !matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
    ) {
        return None;
    }
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let pause = match value.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            since_epoch(&DateTime::parse_from_rfc2822(value).ok()?.to_utc()).saturating_sub(now)
        }
    };
    Some(pause.min(MAX_POSTPONEMENT))
}

fn since_epoch(time: &DateTime<Utc>) -> Duration {
    let seconds = u64::try_from(time.timestamp()).unwrap_or_default();
    Duration::new(seconds, time.timestamp_subsec_nanos().min(999_999_999))
}

/// What a response says about a session. Times count from 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Interpretation {
    Invalid,
    Valid {
        ends_at: Option<Duration>,
        idle_ends_at: Option<Duration>,
    },
}

impl Interpretation {
    fn into_answer(self, asked_at: Nanos, renewal: Renewal, clock: &dyn Clock) -> Answer {
        let (wall_clock, now) = (clock.unix_time(), nanos(clock.monotonic()));
        let monotonic = |time: Option<Duration>| {
            time.map_or(NEVER, |time| {
                now.saturating_add(nanos(time.saturating_sub(wall_clock)))
            })
        };
        let (is_alive, ends_at, idle_ends_at) = match self {
            Self::Invalid => (false, NEVER, NEVER),
            Self::Valid {
                ends_at,
                idle_ends_at,
            } => (true, monotonic(ends_at), monotonic(idle_ends_at)),
        };
        Answer {
            is_alive,
            asked_at,
            ends_at,
            idle_ends_at,
            is_renewal: renewal == Renewal::Renew,
        }
    }
}

/// Reads a response; `None` if it is not of the known form, or about another session.
fn interpret(response: &[u8], session: SessionId) -> Option<Interpretation> {
    let response = parse_object(response)?;
    if !response.get("is_valid")?.as_bool()? {
        return Some(Interpretation::Invalid);
    }
    let claims = response.get("claims")?.as_object()?;
    let id: Uuid = claims.get("session_id")?.as_str()?.parse().ok()?;
    if id != session.as_uuid() {
        return None;
    }
    let time = |value: Option<&Value>| match value {
        None | Some(Value::Null) => Some(None),
        Some(value) => {
            let time: DateTime<Utc> = value.as_str()?.parse().ok()?;
            Some(Some(since_epoch(&time)))
        }
    };
    let ends = [
        time(claims.get("expiration"))?,
        time(response.get("expiration_time"))?,
    ];
    Some(Interpretation::Valid {
        ends_at: ends.into_iter().flatten().min(),
        idle_ends_at: time(response.get("idle_expires_at"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date_and_bounded() {
        let now = Duration::from_secs(784_111_777);
        let read = |status: u16, value: &str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]);
            postponement(status.try_into().unwrap(), &headers, now)
        };
        assert_eq!(read(429, "7"), Some(Duration::from_secs(7)));
        assert_eq!(read(503, "86400"), Some(MAX_POSTPONEMENT));
        assert_eq!(
            read(429, "Sun, 06 Nov 1994 08:49:40 GMT"),
            Some(Duration::from_secs(3))
        );
        assert_eq!(
            read(429, "Sun, 06 Nov 1994 08:00:00 GMT"),
            Some(Duration::ZERO)
        );
        for (status, value) in [(500, "7"), (200, "7"), (429, "soon"), (429, "-1")] {
            assert_eq!(read(status, value), None, "{status} {value}");
        }
    }
}
