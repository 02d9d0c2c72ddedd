//! The HTTP server of the local Hanko and its routes.

#![allow(
    clippy::needless_pass_by_value,
    reason = "Poem hands extractors to its handlers by value"
)]

use std::{sync::Arc, time::Duration};

use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use poem::{
    Endpoint, EndpointExt, IntoEndpoint, IntoResponse, Request, Response, Result, Route, get,
    handler,
    http::{self, HeaderValue, Method, StatusCode, header, uri::Scheme},
    post,
    web::{Data, LocalAddr, RemoteAddr},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use url::Url;

use super::state::{Fault, State, Validation};
use crate::clock::{Clock, SystemClock};

/// The largest body that is read: a session token and some JSON around it.
const MAX_BODY_BYTES: usize = 64 * 1024;

pub(super) fn routes(state: Arc<State>) -> impl IntoEndpoint<Endpoint = impl Endpoint + 'static> {
    Route::new()
        .at("/.well-known/jwks.json", get(jwks))
        .at(
            "/sessions/validate",
            get(validate_session).post(validate_session_from_body),
        )
        .at("/logout", post(logout))
        .around(allow_loopback_pages)
        .data(state)
}

/// Allows cross-origin requests as Hanko does for the origins in its configuration: with credentials, and any header.
async fn allow_loopback_pages(endpoint: Arc<impl Endpoint>, request: Request) -> Result<Response> {
    let origin = request
        .headers()
        .get(header::ORIGIN)
        .filter(|origin| origin.to_str().is_ok_and(is_on_loopback))
        .cloned();
    let is_preflight = request.method() == Method::OPTIONS;
    let requested_headers = request
        .headers()
        .get(header::ACCESS_CONTROL_REQUEST_HEADERS)
        .cloned();
    let mut response = if is_preflight {
        StatusCode::NO_CONTENT.into()
    } else {
        endpoint.get_response(request).await
    };
    let headers = response.headers_mut();
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    let Some(origin) = origin else {
        return Ok(response);
    };
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
        HeaderValue::from_static("true"),
    );
    if is_preflight {
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_METHODS,
            HeaderValue::from_static("GET,HEAD,PUT,PATCH,POST,DELETE"),
        );
        headers.insert(
            header::ACCESS_CONTROL_MAX_AGE,
            HeaderValue::from_static("7200"),
        );
        if let Some(names) = requested_headers {
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names);
        }
    }
    Ok(response)
}

/// Returns whether a page of this origin was served by this machine.
fn is_on_loopback(origin: &str) -> bool {
    Url::parse(origin).is_ok_and(|url| {
        url.scheme() == "http"
            && matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"))
            && url.origin().ascii_serialization() == origin
    })
}

/// A JSON response with Hanko's `Content-Type`, which has no `charset`.
fn json_response(status: StatusCode, body: &Value) -> Response {
    Response::builder()
        .status(status)
        .content_type("application/json")
        .body(body.to_string())
}

/// An error response as Hanko's error handler writes it.
fn error_response(status: StatusCode) -> Response {
    let message = status.canonical_reason().unwrap_or_default();
    json_response(
        status,
        &json!({ "code": status.as_u16(), "message": message }),
    )
}

#[handler]
async fn jwks(state: Data<&Arc<State>>) -> Response {
    state.inner().key_set_requests += 1;
    if state.fault_after_hang().await == Fault::DatabaseDown {
        return error_response(StatusCode::INTERNAL_SERVER_ERROR);
    }
    let key_set = state.inner().keys.jwk_set();
    json_response(StatusCode::OK, &key_set)
        .with_header(header::CACHE_CONTROL, "max-age=600")
        .into_response()
}

/// The tokens of a request in the order in which Hanko tries them: the Bearer header, then the cookie.
fn tokens<'a>(request: &'a Request, cookie_name: &'a str) -> impl Iterator<Item = &'a str> {
    let bearer = request
        .header(header::AUTHORIZATION)
        .and_then(|value| value.strip_prefix("Bearer "));
    let cookies = request
        .headers()
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|header| header.to_str().ok())
        .flat_map(|header| header.split("; "))
        .filter_map(|cookie| cookie.split_once('='))
        .filter_map(move |(name, value)| (name == cookie_name).then_some(value));
    bearer.into_iter().chain(cookies)
}

/// Computes the response to a validation request when it arrives, unless a fault is set, and sends it after the hold and the
/// delay.
async fn respond_to_validation(
    state: &State,
    is_get: bool,
    compute: impl AsyncFnOnce() -> Response,
) -> Response {
    // Read before the request is counted, so that a test that waits for the count can advance the clock.
    let send_at = state.clock.monotonic() + state.settings().validation_delay;
    let _in_progress = state.validations.begin(is_get);
    let response = match state.fault_after_hang().await {
        Fault::None | Fault::DatabaseDown | Fault::Down | Fault::Hangs => compute().await,
        Fault::TooManyRequests { retry_after } => {
            with_retry_after(StatusCode::TOO_MANY_REQUESTS, retry_after)
        }
        Fault::Unavailable { retry_after } => {
            with_retry_after(StatusCode::SERVICE_UNAVAILABLE, retry_after)
        }
        Fault::InternalError => error_response(StatusCode::INTERNAL_SERVER_ERROR),
        Fault::UnexpectedResponse => json_response(StatusCode::OK, &json!({})),
    };
    state.hold.wait().await;
    let rest = send_at.saturating_sub(state.clock.monotonic());
    if !rest.is_zero() {
        state.clock.sleep(rest).await;
    }
    response
}

fn with_retry_after(status: StatusCode, retry_after: Option<Duration>) -> Response {
    let mut response = error_response(status);
    if let Some(retry_after) = retry_after {
        let seconds = retry_after.as_secs() + u64::from(retry_after.subsec_nanos() > 0);
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

/// Returns the response about the tokens of a request: about the first valid one, if there is one.
fn validation_response(state: &State, validations: impl Iterator<Item = Validation>) -> Response {
    let mut is_idle = false;
    for validation in validations {
        match validation {
            Validation::Valid(body) => return json_response(StatusCode::OK, &body),
            Validation::UnreadableClaims => return error_response(StatusCode::BAD_REQUEST),
            Validation::Idle => is_idle = true,
            Validation::Invalid => {}
        }
    }
    let mut response = json_response(StatusCode::OK, &json!({ "is_valid": false }));
    if is_idle {
        remove_cookie(state, &mut response);
    }
    response
}

/// Removes the session cookie from the browser.
fn remove_cookie(state: &State, response: &mut Response) {
    let cookie = format!("{}=; Path=/; Max-Age=0; SameSite=Lax", state.cookie_name);
    if let Ok(cookie) = HeaderValue::try_from(cookie) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
}

/// Validates the session of the request. Does not renew `last_used`.
#[handler]
async fn validate_session(request: &Request, state: Data<&Arc<State>>) -> Response {
    respond_to_validation(&state, true, async || {
        let validations =
            tokens(request, &state.cookie_name).map(|token| state.validate(token, false));
        validation_response(&state, validations)
    })
    .await
}

#[derive(Deserialize)]
struct ValidateSessionRequest {
    session_token: String,
}

/// Validates the session whose token is in the body, and renews `last_used`.
#[handler]
async fn validate_session_from_body(body: poem::Body, state: Data<&Arc<State>>) -> Response {
    respond_to_validation(&state, false, async || {
        let bytes = body
            .into_bytes_limit(MAX_BODY_BYTES)
            .await
            .unwrap_or_default();
        match serde_json::from_slice::<ValidateSessionRequest>(&bytes) {
            Ok(request) if !request.session_token.is_empty() => {
                let validation = state.validate(&request.session_token, true);
                validation_response(&state, std::iter::once(validation))
            }
            _ => error_response(StatusCode::BAD_REQUEST),
        }
    })
    .await
}

/// Deletes the session, sends the webhook, and removes the cookie.
#[handler]
async fn logout(request: &Request, state: Data<&Arc<State>>) -> Response {
    let session = tokens(request, &state.cookie_name).find_map(|token| state.session_of(token));
    let Some(session) = session else {
        return error_response(StatusCode::UNAUTHORIZED);
    };
    // As at Hanko, the session has ended whether the webhook is delivered or not.
    let delivered = state
        .delete_session(session, "session.delete.explicit.logout")
        .await;
    if let Err(error) = delivered {
        let error: &dyn std::error::Error = &error;
        tracing::warn!(
            event = "webhook_not_delivered",
            error,
            "the webhook was not delivered"
        );
    }
    let mut response = StatusCode::NO_CONTENT.into();
    remove_cookie(&state, &mut response);
    response
}

/// The pause after a connection could not be accepted, for example because no descriptor was free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves `endpoint` until the future is dropped, which closes all connections at once.
///
/// Poem's own server keeps a handler running after its client has disconnected, so the local Hanko would count requests
/// that nobody waits for any more.
pub(super) async fn serve<E: Endpoint + 'static>(
    listener: TcpListener,
    endpoint: E,
    state: Arc<State>,
) {
    let endpoint = Arc::new(endpoint);
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let connection =
                    serve_connection(stream, Arc::clone(&endpoint), Arc::clone(&state));
                connections.spawn(connection);
            }
            Err(error) => {
                tracing::warn!(event = "local_hanko_accept_failed", %error, "the local Hanko could not accept a connection");
                // Not the clock of the local Hanko, because descriptors are freed in real time.
                SystemClock::new().sleep(ACCEPT_PAUSE).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

/// Makes hyper close the connection.
#[derive(Debug, thiserror::Error)]
#[error("the local Hanko is down")]
struct Down;

async fn serve_connection<E: Endpoint>(stream: TcpStream, endpoint: Arc<E>, state: Arc<State>) {
    let (Ok(local), Ok(remote)) = (stream.local_addr(), stream.peer_addr()) else {
        return;
    };
    // Responses are small and written at once.
    let _ = stream.set_nodelay(true);
    let service = service_fn(async |request: http::Request<Incoming>| {
        if state.fault() == Fault::Down {
            return Err(Down);
        }
        let (local, remote) = (LocalAddr(local.into()), RemoteAddr(remote.into()));
        let request = (request, local, remote, Scheme::HTTP).into();
        let response: http::Response<_> = endpoint.get_response(request).await.into();
        // The fault may have been set while the response was computed.
        if state.fault() == Fault::Down {
            return Err(Down);
        }
        Ok(response)
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // An error means that the client has disconnected, or that the fault has closed the connection.
    let _ = connection.await;
}
