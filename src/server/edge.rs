//! Where requests come in and responses go out: what every response has, whatever made it.

use std::{panic::AssertUnwindSafe, sync::Arc};

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
    operations::Operations,
};
use crate::{
    api::Draining,
    hanko::Hanko,
    pages::Pages,
    problem::{self, Problem, ProblemType},
};

/// The id of a request in logs, ours and those of a proxy in front.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A longer id than this is replaced by one of ours.
const MAX_REQUEST_ID_BYTES: usize = 64;

/// When a client may try again after a rejection for lack of room or time.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// Responds to every request: finds its handler, turns errors and panics into problems, and adds the headers that every
/// response has.
pub(super) struct Edge {
    hanko: Hanko,
    operations: Operations,
    pages: Pages,
}

impl Edge {
    /// Whatever is no page goes to `operations`. All find `hanko` in the data of the request.
    pub(super) fn new(hanko: Hanko, operations: Operations, pages: Pages) -> Self {
        Self {
            hanko,
            operations,
            pages,
        }
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
        let is_routable = is_routable(&method);
        if !is_routable {
            request.set_method(Method::TRACE);
        }
        request.set_data(self.hanko.clone());
        if exchange.is_draining() {
            request.set_data(Draining);
        }
        let span = tracing::debug_span!("request", id = request_id.to_str().unwrap_or_default());
        async move {
            let mut response = match rejection {
                Some(problem_type) => problem_response(problem_type),
                None => {
                    // Boxed, for the same reason.
                    let outcome = match self.pages.get(request.uri().path()) {
                        Some(page) => DynEndpoint::call(page, request),
                        None => self.operations.call(request),
                    };
                    let outcome = AssertUnwindSafe(outcome).catch_unwind();
                    let outcome = exchange.limit(outcome).instrument(span.clone()).await;
                    let _entered = span.enter();
                    let response = match outcome {
                        Ok(Ok(Ok(response))) => response,
                        Ok(Ok(Err(error))) => problem::from_error(error),
                        Ok(Err(_panic)) => problem::from_panic(),
                        Err(error) => problem_response(error.problem_type()),
                    };
                    limited(response, &exchange)
                }
            };
            let _entered = span.enter();
            // Never the path, nor a method of the client's own: a client may have put a token there.
            let method = if is_routable {
                method.as_str()
            } else {
                "other"
            };
            tracing::debug!(method, status = response.status().as_u16(), "answered");
            let headers = response.headers_mut();
            headers.insert(REQUEST_ID, request_id);
            headers.insert(
                header::X_CONTENT_TYPE_OPTIONS,
                HeaderValue::from_static("nosniff"),
            );
            // A response that depends on a session must not be stored; one that does not says so itself.
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
    let mut response = problem_response(ProblemType::Overloaded);
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

/// Whether Poem can route the method. If it cannot, its 405 lacks the `Allow` that RFC 9110 section 15.5.6 requires, so such
/// a request is routed as `TRACE`, which no path supports and each rejects with its `Allow`.
fn is_routable(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET
            | Method::HEAD
            | Method::POST
            | Method::PUT
            | Method::PATCH
            | Method::DELETE
            | Method::OPTIONS
            | Method::TRACE
    )
}

/// The id that came with the request if it is harmless, otherwise a new one.
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
