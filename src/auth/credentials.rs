//! The session token of a request.

use poem::http::{
    HeaderMap, HeaderValue, Method,
    header::{AUTHORIZATION, COOKIE, ORIGIN, UPGRADE},
};

use super::rejection::{Credential, Rejection};
use crate::hanko::Hanko;

/// A session token as it was sent, not verified.
pub(super) struct Credentials<'a> {
    token: &'a [u8],
    source: Source<'a>,
}

/// Where a token was found.
#[derive(Clone, Copy)]
enum Source<'a> {
    Bearer,
    /// The cookie of this name.
    Cookie(&'a str),
}

impl Source<'_> {
    fn credential(self) -> Credential {
        match self {
            Self::Bearer => Credential::Bearer,
            Self::Cookie(name) => Credential::Cookie {
                name: name.to_owned(),
            },
        }
    }
}

impl<'a> Credentials<'a> {
    /// Extracts the token of a Bearer header if there is one, otherwise that of the cookie. Returns `None` if there is neither.
    pub(super) fn from_request(
        method: &Method,
        headers: &'a HeaderMap,
        hanko: &'a Hanko,
    ) -> Result<Option<Self>, Rejection> {
        Self::select(headers, hanko, || {
            // A page of any site can open a WebSocket, with a GET that is not subject to CORS.
            let is_safe = is_safe(method) && !headers.contains_key(UPGRADE);
            is_safe || comes_from_trusted_page(headers, hanko)
        })
    }

    /// Like `from_request`, but `may_use_cookie` decides whether the cookie is accepted.
    pub(super) fn select(
        headers: &'a HeaderMap,
        hanko: &'a Hanko,
        may_use_cookie: impl FnOnce() -> bool,
    ) -> Result<Option<Self>, Rejection> {
        if let Some(token) = bearer_token(headers)? {
            let source = Source::Bearer;
            return Ok(Some(Self { token, source }));
        }
        let Some(token) = cookie(headers, hanko)? else {
            return Ok(None);
        };
        let cookie_name = hanko.cookie_name();
        if !may_use_cookie() {
            return Err(Rejection::CrossSiteRequest {
                cookie_name: cookie_name.to_owned(),
            });
        }
        let source = Source::Cookie(cookie_name);
        Ok(Some(Self { token, source }))
    }

    pub(super) fn token(&self) -> &'a [u8] {
        self.token
    }

    /// Returns which credential of the request it is.
    pub(super) fn credential(&self) -> Credential {
        self.source.credential()
    }
}

/// Whether a page of any site may send a cookie with this method. TRACE, which HTTP calls safe, is not among them.
pub(crate) fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// The name of the scheme, which is case-insensitive (RFC 9110 section 11.1).
const BEARER: &[u8] = b"Bearer";

/// Returns the token of an `Authorization: Bearer` header (RFC 6750 section 2.1). Other schemes are ignored.
fn bearer_token(headers: &HeaderMap) -> Result<Option<&[u8]>, Rejection> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(ambiguous(Source::Bearer));
    }
    // HTTP/1 parsers remove white space around a value, HTTP/2 does not (RFC 9110 section 5.5).
    let value = value.as_bytes().trim_ascii();
    let Some((scheme, token)) = value.split_at_checked(BEARER.len()) else {
        return Ok(None);
    };
    // The name of another scheme may start with this one.
    let is_longer = token.first().is_some_and(|byte| is_token_byte(*byte));
    if is_longer || !scheme.eq_ignore_ascii_case(BEARER) {
        return Ok(None);
    }
    // Scheme and token are separated by `1*SP` (RFC 9110 section 11.4).
    let spaces = token.iter().take_while(|byte| **byte == b' ').count();
    Ok(Some(&token[spaces..]))
}

/// Whether this is a `tchar` (RFC 9110 section 5.6.2), of which the name of a scheme consists.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Returns the value of the session cookie in all `Cookie` headers: HTTP/2 may split the header (RFC 9113 section 8.2.3).
fn cookie<'a>(headers: &'a HeaderMap, hanko: &'a Hanko) -> Result<Option<&'a [u8]>, Rejection> {
    let mut found = None;
    for header in headers.get_all(COOKIE) {
        for value in hanko.cookie_values(header.as_bytes()) {
            if found.replace(value).is_some() {
                return Err(ambiguous(Source::Cookie(hanko.cookie_name())));
            }
        }
    }
    let Some(value) = found else {
        return Ok(None);
    };
    // Some frontends delete a cookie by setting it to nothing.
    if value.is_empty() {
        return Ok(None);
    }
    Ok(Some(match value {
        [b'"', quoted @ .., b'"'] => quoted,
        bare => bare,
    }))
}

/// Returns the rejection of several credentials of one kind: it is unknown which one is meant.
fn ambiguous(source: Source<'_>) -> Rejection {
    Rejection::AmbiguousCredentials(source.credential())
}

/// Returns whether a page that may act for the user sent this request. A browser sends the cookie with the forms of any site,
/// and names that site in headers that scripts cannot set (W3C Fetch Metadata, RFC 6454 section 7).
pub(crate) fn comes_from_trusted_page(headers: &HeaderMap, hanko: &Hanko) -> bool {
    let sites: Vec<&HeaderValue> = headers.get_all("sec-fetch-site").iter().collect();
    let origins: Vec<&HeaderValue> = headers.get_all(ORIGIN).iter().collect();
    if sites.is_empty() && origins.is_empty() {
        // Not a browser, so no page made it send the cookie.
        return true;
    }
    let is_same_origin = matches!(sites[..], [site] if site == "same-origin" || site == "none");
    let is_trusted_origin = matches!(
        origins[..],
        [origin] if origin.to_str().is_ok_and(|origin| hanko.trusts_origin(origin))
    );
    is_same_origin || is_trusted_origin
}
