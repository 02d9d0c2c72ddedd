//! The edge of the service: finds what serves a request, and completes every response.

use std::{fmt, panic::AssertUnwindSafe, sync::Arc};

use futures_util::FutureExt;
use poem::{
    Request, Response,
    endpoint::DynEndpoint,
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
        header::{self, Entry},
    },
};
use tracing::Instrument;
use uuid::Uuid;

use super::{
    cors::{self, Origin},
    limits::Exchange,
    operations::{Endpoints, Operations},
};
use crate::{
    hanko::Hanko,
    openapi::Conflict,
    operations::Draining,
    pages::Pages,
    problem::{self, Problem, ProblemType},
};

/// Identifies a request in our log and in those of proxies.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A longer id than this is replaced by one of ours.
const MAX_REQUEST_ID_BYTES: usize = 64;

/// When a client may try again after a rejection for lack of room or time.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// Serves every request: passes it to a page or an operation, makes problems of errors and panics, and adds the headers that
/// every response has.
pub(crate) struct Edge {
    hanko: Hanko,
    operations: Operations,
    pages: Pages,
}

impl fmt::Debug for Edge {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Edge").finish_non_exhaustive()
    }
}

impl Edge {
    /// Requests for anything but a page go to `operations`. All of them have `hanko` in their data.
    ///
    /// # Errors
    /// A [`Conflict`] of two routes.
    pub(crate) fn new(hanko: Hanko, endpoints: Endpoints, pages: Pages) -> Result<Self, Conflict> {
        Ok(Self {
            hanko,
            operations: Operations::new(endpoints)?,
            pages,
        })
    }

    /// What authenticates its requests.
    pub(crate) fn hanko(&self) -> &Hanko {
        &self.hanko
    }

    /// Responds to a request, with `rejection` if there is one.
    ///
    /// Not `async fn`: its state machine would hold several copies of `Request`.
    pub(super) fn respond(
        self: Arc<Self>,
        mut request: Request,
        exchange: Arc<Exchange>,
        rejection: Option<ProblemType>,
        origin: Origin,
    ) -> impl Future<Output = Response> + Send + use<> {
        let request_id = request_id(request.headers());
        let method = request.method().clone();
        let path = request.uri().path_and_query().cloned();
        request.set_data(self.hanko.clone());
        if exchange.is_draining() {
            request.set_data(Draining);
        }
        let span = tracing::debug_span!("request", id = request_id.to_str().unwrap_or_default());
        async move {
            let mut response = match rejection {
                Some(problem_type) => problem_response(problem_type),
                None => {
                    // Each boxed, for the same reason.
                    let outcome = match self.pages.get(request.uri().path()) {
                        Some(page) => DynEndpoint::call(page, request),
                        None => self.operations.call(request),
                    };
                    let outcome = AssertUnwindSafe(outcome).catch_unwind();
                    let outcome = exchange.limit(outcome).instrument(span.clone()).await;
                    let response = match outcome {
                        Ok(Ok(Ok(response))) => response,
                        Ok(Ok(Err(error))) => {
                            Box::pin(self.operations.failed(path, error))
                                .instrument(span.clone())
                                .await
                        }
                        Ok(Err(_panic)) => problem::from_panic(),
                        Err(error) => problem_response(error.problem_type()),
                    };
                    limited(response, &exchange)
                }
            };
            let _entered = span.enter();
            // Never the path, nor an unknown method: either may contain a token.
            let method = known(&method).unwrap_or("other");
            tracing::debug!(method, status = response.status().as_u16(), "answered");
            let headers = response.headers_mut();
            headers.insert(REQUEST_ID, request_id);
            headers.insert(
                header::X_CONTENT_TYPE_OPTIONS,
                HeaderValue::from_static("nosniff"),
            );
            // A response may depend on a session unless it says otherwise.
            match headers.entry(header::CACHE_CONTROL) {
                Entry::Vacant(entry) => {
                    entry.insert(HeaderValue::from_static("no-store"));
                }
                Entry::Occupied(_) if origin == Origin::None => cors::vary(headers),
                Entry::Occupied(_) => {}
            }
            response
        }
    }
}

/// The response of a handler, or the problem that its body has run into a limit: to the handler, that looks like a
/// connection that was lost.
fn limited(response: Response, exchange: &Exchange) -> Response {
    match exchange.error() {
        Some(error)
            if response.status().is_client_error() || response.status().is_server_error() =>
        {
            problem_response(error.problem_type())
        }
        _ => response,
    }
}

fn problem_response(problem_type: ProblemType) -> Response {
    let mut response = Problem::from(problem_type).into_response();
    if problem_type.status() == StatusCode::SERVICE_UNAVAILABLE {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, RETRY_AFTER);
    }
    response
}

/// Rejects a streaming response, or an upgrade, that had these headers.
pub(super) fn reject_stream(headers: HeaderMap) -> Response {
    let mut response = problem_response(ProblemType::OVERLOADED);
    let about_stream = |name: &HeaderName| {
        name == header::CONNECTION
            || name == header::UPGRADE
            || name.as_str().starts_with("content-")
            || name.as_str().starts_with("sec-websocket-")
    };
    let mut last = None;
    for (name, value) in headers {
        // A name that is repeated is given once.
        last = name.or(last);
        if let Some(name) = last.clone().filter(|name| !about_stream(name)) {
            response.headers_mut().append(name, value);
        }
    }
    response
}

/// Returns the name of the method if it is a well-known one.
fn known(method: &Method) -> Option<&str> {
    let is_known = matches!(
        *method,
        Method::GET
            | Method::HEAD
            | Method::POST
            | Method::PUT
            | Method::PATCH
            | Method::DELETE
            | Method::OPTIONS
            | Method::TRACE
    );
    is_known.then_some(method.as_str())
}

/// Returns the id that came with the request if it is well-formed, otherwise a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let is_harmless = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        (1..=MAX_REQUEST_ID_BYTES).contains(&bytes.len())
            && bytes
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
    };
    headers
        .get(REQUEST_ID)
        .filter(is_harmless)
        .cloned()
        .unwrap_or_else(|| {
            let mut text = [0; uuid::fmt::Simple::LENGTH];
            let id = Uuid::new_v4().simple().encode_lower(&mut text);
            HeaderValue::from_str(id).unwrap_or(HeaderValue::from_static("unknown"))
        })
}
