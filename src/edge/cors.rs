//! Cross-origin access with credentials for exactly the trusted origins (Fetch standard, section 3.3).

use std::time::Duration;

use poem::http::{HeaderMap, HeaderValue, Method, header};
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, CorsLayer};

use super::REQUEST_ID;
use crate::hanko::Hanko;

/// How long a browser may remember the response to a preflight request.
const PREFLIGHT_MAX_AGE: Duration = Duration::from_mins(10);

/// Allows the origins that `hanko` trusts.
pub(crate) fn layer(hanko: Hanko) -> CorsLayer {
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(move |origin, _| {
            origin
                .to_str()
                .is_ok_and(|origin| hanko.trusts_origin(origin))
        }))
        .allow_credentials(true)
        .allow_methods(AllowMethods::list([
            Method::GET,
            Method::HEAD,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
        ]))
        .allow_headers(AllowHeaders::list([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            REQUEST_ID,
        ]))
        .expose_headers([header::WWW_AUTHENTICATE, header::RETRY_AFTER, REQUEST_ID])
        .max_age(PREFLIGHT_MAX_AGE)
}

/// Whether a request has an `Origin`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    None,
    Some,
}

/// Adds `Vary: Origin` to the response to a request without an `Origin`, if a cache may store it. Otherwise the cache would
/// use it for a page of another origin, without the headers that allow that page to read it.
pub(crate) fn vary(headers: &mut HeaderMap) {
    let is_stored = headers
        .get(header::CACHE_CONTROL)
        .is_none_or(|value| !lists(value, "no-store"));
    if !is_stored {
        return;
    }
    // One field with all names: some caches read only one `Vary` field.
    let mut names = Vec::new();
    for value in headers.get_all(header::VARY) {
        if lists(value, header::ORIGIN.as_str()) || lists(value, "*") {
            return;
        }
        names.extend(value.to_str());
    }
    names.push(header::ORIGIN.as_str());
    if let Ok(value) = HeaderValue::try_from(names.join(", ")) {
        headers.insert(header::VARY, value);
    }
}

/// Whether a comma-separated list has this item.
fn lists(value: &HeaderValue, item: &str) -> bool {
    value.to_str().is_ok_and(|text| {
        text.split(',')
            .any(|part| part.trim().eq_ignore_ascii_case(item))
    })
}
