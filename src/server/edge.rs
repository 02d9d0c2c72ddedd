//! The edge of the service: finds what serves a request, and completes every response.

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures_util::FutureExt;
use poem::{
    Request, Response,
    endpoint::DynEndpoint,
    http::{HeaderMap, HeaderName, HeaderValue, Method, header},
};
use tracing::Instrument;
use uuid::Uuid;

use super::operations::Operations;
use crate::{hanko::Hanko, pages::Pages, problem};

/// Identifies a request in our log and in those of proxies.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A longer id than this is replaced by one of ours.
const MAX_REQUEST_ID_BYTES: usize = 64;

/// Serves every request: passes it to a page or an operation, makes problems of errors and panics, and adds the headers that
/// every response has.
pub(super) struct Edge {
    hanko: Hanko,
    operations: Operations,
    pages: Pages,
}

impl Edge {
    /// Requests for anything but a page go to `operations`. All of them have `hanko` in their data.
    pub(super) fn new(hanko: Hanko, operations: Operations, pages: Pages) -> Self {
        Self {
            hanko,
            operations,
            pages,
        }
    }

    /// What authenticates its requests.
    pub(super) fn hanko(&self) -> &Hanko {
        &self.hanko
    }

    /// Not `async fn`: its state machine would hold several copies of `Request`.
    pub(super) fn answer(
        self: Arc<Self>,
        mut request: Request,
    ) -> impl Future<Output = Response> + Send {
        let request_id = request_id(request.headers());
        let method = request.method().clone();
        let path = request.uri().path_and_query().cloned();
        request.set_data(self.hanko.clone());
        let span = tracing::debug_span!("request", id = request_id.to_str().unwrap_or_default());
        async move {
            // Each boxed, for the same reason.
            let outcome = match self.pages.get(request.uri().path()) {
                Some(page) => DynEndpoint::call(page, request),
                None => self.operations.call(request),
            };
            let outcome = AssertUnwindSafe(outcome)
                .catch_unwind()
                .instrument(span.clone())
                .await;
            let mut response = match outcome {
                Ok(Ok(response)) => response,
                Ok(Err(error)) => {
                    Box::pin(self.operations.failed(path, error))
                        .instrument(span.clone())
                        .await
                }
                Err(_panic) => problem::from_panic(),
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
            headers
                .entry(header::CACHE_CONTROL)
                .or_insert(HeaderValue::from_static("no-store"));
            response
        }
    }
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
        let octets = value.as_bytes();
        (1..=MAX_REQUEST_ID_BYTES).contains(&octets.len())
            && octets
                .iter()
                .all(|octet| octet.is_ascii_alphanumeric() || b"-_.".contains(octet))
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
