//! Where requests come in and responses go out: what every response has, whatever made it.

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

/// Tells one request from another in logs, ours and those of a proxy before us.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A longer id than this is replaced by one of ours.
const MAX_REQUEST_ID_BYTES: usize = 64;

/// Answers every request: finds who is to answer it, turns errors and panics into problems, and adds the headers that every
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

    /// What authenticates its requests.
    pub(super) fn hanko(&self) -> &Hanko {
        &self.hanko
    }

    /// Not an `async fn`, whose future would have the request in it several times.
    pub(super) fn answer(
        self: Arc<Self>,
        mut request: Request,
    ) -> impl Future<Output = Response> + Send {
        let request_id = request_id(request.headers());
        let method = request.method().clone();
        let is_routable = is_routable(&method);
        if !is_routable {
            request.set_method(Method::TRACE);
        }
        request.set_data(self.hanko.clone());
        let span = tracing::debug_span!("request", id = request_id.to_str().unwrap_or_default());
        async move {
            // Boxed by themselves, for the same reason.
            let outcome = match self.pages.get(request.uri().path()) {
                Some(page) => DynEndpoint::call(page, request),
                None => self.operations.call(request),
            };
            let outcome = AssertUnwindSafe(outcome)
                .catch_unwind()
                .instrument(span.clone())
                .await;
            let _entered = span.enter();
            let mut response = match outcome {
                Ok(Ok(response)) => response,
                Ok(Err(error)) => problem::from_error(error),
                Err(_panic) => problem::from_panic(),
            };
            // Never the path, nor a method of the client's own: a stranger may have put a token there.
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
            // What depends on a session must not be kept by anybody, and what does not says so itself.
            headers
                .entry(header::CACHE_CONTROL)
                .or_insert(HeaderValue::from_static("no-store"));
            response
        }
    }
}

/// Whether Poem can route the method. What it cannot, it refuses without the `Allow` that is due (RFC 9110 section 15.5.6).
/// Such a request goes the way of `TRACE` instead, which no path supports and each refuses with its `Allow`.
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

/// The id that came with the request, if it is a harmless one; else a new one.
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
