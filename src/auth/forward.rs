//! Forward-auth: before a proxy passes a request on, it asks here whether the request has a session.

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use poem::{
    Request, Response,
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri,
        header::{LOCATION, ORIGIN, UPGRADE},
    },
};
use url::Url;

use super::{
    challenge::Challenge,
    credentials::{self, Credentials, is_safe},
    extractor,
    record::AuthRecord,
    rejection::Rejection,
    requirement::{Outcome, Rule, Unmet},
};
use crate::{
    hanko::{EmailClaim, Hanko, Session},
    problem::{Problem, ProblemType},
    sampling::Line,
};

static FORWARDED_METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
static FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
static FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static ORIGINAL_METHOD: HeaderName = HeaderName::from_static("x-original-method");
static ORIGINAL_URI: HeaderName = HeaderName::from_static("x-original-uri");
static FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
static FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
static WEBSOCKET_KEY: HeaderName = HeaderName::from_static("sec-websocket-key");

static USER_ID: HeaderName = HeaderName::from_static("x-hanko-user-id");
static SESSION_ID: HeaderName = HeaderName::from_static("x-hanko-session-id");
static EMAIL: HeaderName = HeaderName::from_static("x-hanko-email");
static EMAIL_VERIFIED: HeaderName = HeaderName::from_static("x-hanko-email-verified");

/// Responds to the requests of proxies: nginx (`auth_request`), Traefik and Caddy on the path itself, Envoy and Gateway API
/// (`ext_authz`) below it. `Forwarded` (RFC 7239) is never read, because proxies pass it through unchecked.
#[derive(Clone, Debug)]
pub(crate) struct ForwardAuth {
    path: String,
    sign_in_url: Option<Url>,
}

/// The request that the proxy asks about.
struct Original<'a> {
    /// `None` if no header names it, or if such a header is malformed or repeated.
    method: Option<Method>,
    uri: Option<&'a str>,
    source: Source,
}

/// Where the method and the URI of the original request come from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    /// `X-Forwarded-*`, or no header.
    Forwarded,
    /// `X-Original-*` alone, which is how nginx is configured.
    Original,
    /// The request itself, below the path.
    Request,
}

/// What the proxy requires beyond a session.
#[derive(Debug, Default, PartialEq, Eq)]
struct Query {
    verified_email: bool,
    max_age: Option<u64>,
    claims: Vec<(String, String)>,
}

/// Why a request is denied.
enum Denial {
    Rejected(Rejection),
    /// The query of the proxy's configuration is not understood.
    MalformedQuery,
}

impl From<Rejection> for Denial {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

impl ForwardAuth {
    /// `path` starts with a slash and does not end with one.
    #[cfg(feature = "server")]
    pub(crate) fn new(path: String, sign_in_url: Option<Url>) -> Self {
        Self { path, sign_in_url }
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Whether it responds to requests for this path.
    pub(crate) fn serves(&self, path: &str) -> bool {
        path.strip_prefix(&self.path)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Responds to a request. Its body is not read.
    pub(crate) async fn respond(&self, request: &Request) -> Response {
        let original = self.original(request);
        match self.decide(request, &original).await {
            Ok(session) => identity(&session),
            Err(Denial::MalformedQuery) => Problem::from(ProblemType::INSUFFICIENT_PERMISSION)
                .with_detail("The requirements of the proxy are malformed.")
                .into_response(),
            Err(Denial::Rejected(rejection)) => {
                let mut response = only_401_and_403(&rejection);
                if response.status() == StatusCode::UNAUTHORIZED
                    && let Some(location) = self.sign_in(request.headers(), &original, &rejection)
                {
                    response.headers_mut().insert(LOCATION, location);
                    // nginx turns a 302 into 500.
                    if original.source != Source::Original {
                        response.set_status(StatusCode::FOUND);
                    }
                }
                response
            }
        }
    }

    async fn decide(&self, request: &Request, original: &Original<'_>) -> Result<Session, Denial> {
        let query = match original.source {
            // With these headers the proxy should use the path itself, but its configuration has a slash at the end. The
            // requirements in its query would be ignored.
            Source::Request if has_original(request.headers()) => {
                return Err(malformed(
                    request,
                    "a request below the forward-auth path has headers with the original method or URI",
                ));
            }
            Source::Request => Query::default(),
            Source::Forwarded | Source::Original => {
                let query = request.uri().query().unwrap_or("");
                Query::parse(query)
                    .ok_or_else(|| malformed(request, "the query of forward-auth is malformed"))?
            }
        };
        let outcome = self.authenticate(request, original, &query).await;
        outcome.map_err(|rejection| {
            extractor::log(request, &rejection);
            rejection.into()
        })
    }

    async fn authenticate(
        &self,
        request: &Request,
        original: &Original<'_>,
        query: &Query,
    ) -> Result<Session, Rejection> {
        let hanko: &Hanko = request.data().ok_or(Rejection::NotConfigured)?;
        let headers = request.headers();
        let credentials = Credentials::select(headers, hanko, || {
            original.is_safe(headers) || original.comes_from_trusted_page(headers, hanko)
        })
        .inspect_err(|rejection| extractor::count_rejected_credentials(hanko, rejection))?;
        let Some(credentials) = credentials else {
            return Err(extractor::missing_credentials(hanko));
        };
        let session = extractor::verify(request, hanko, &credentials).await?;
        query
            .check(&session)
            .inspect_err(|unmet| hanko.counts().guard_rejected(unmet.guard()))
            .map_err(|unmet| Rejection::GuardNotMet(unmet, credentials.credential()))?;
        Ok(session)
    }

    fn original<'a>(&self, request: &'a Request) -> Original<'a> {
        let uri: &Uri = request.uri();
        let headers = request.headers();
        if uri.path() != self.path {
            let path_and_query = uri.path_and_query().map_or("/", |path| path.as_str());
            return Original {
                method: Some(request.method().clone()),
                uri: path_and_query.strip_prefix(&self.path),
                source: Source::Request,
            };
        }
        let is_present = |name| headers.contains_key(name);
        let is_forwarded = is_present(&FORWARDED_METHOD) || is_present(&FORWARDED_URI);
        let is_original = is_present(&ORIGINAL_METHOD) || is_present(&ORIGINAL_URI);
        let (source, uri) = if is_original && !is_forwarded {
            (Source::Original, single(headers, &ORIGINAL_URI))
        } else {
            (Source::Forwarded, single(headers, &FORWARDED_URI))
        };
        let methods: Option<Vec<Method>> = [&FORWARDED_METHOD, &ORIGINAL_METHOD]
            .into_iter()
            .filter(|name| is_present(name))
            .map(|name| single(headers, name)?.parse().ok())
            .collect();
        // If two headers name methods, an unsafe one counts.
        let method = methods.and_then(|methods| {
            let unsafe_first = |first, second| if is_safe(&first) { second } else { first };
            methods.into_iter().reduce(unsafe_first)
        });
        Original {
            method,
            uri,
            source,
        }
    }

    /// Returns the URL at which the user signs in, if the original request is a navigation.
    fn sign_in(
        &self,
        headers: &HeaderMap,
        original: &Original<'_>,
        rejection: &Rejection,
    ) -> Option<HeaderValue> {
        let mut url = self.sign_in_url.clone()?;
        let is_navigation = single(headers, &FETCH_MODE) == Some("navigate")
            && matches!(original.method, Some(Method::GET | Method::HEAD));
        if !is_navigation {
            return None;
        }
        if let Some(back) = original.url(headers) {
            url.query_pairs_mut().append_pair("redirect_to", &back);
        }
        let challenge = match rejection {
            Rejection::GuardNotMet(unmet, _) => unmet.challenge(),
            _ => None,
        };
        if let Some(Challenge::InsufficientUserAuthentication {
            max_age: Some(seconds),
            ..
        }) = challenge
        {
            let seconds = seconds.to_string();
            url.query_pairs_mut().append_pair("max_age", &seconds);
        }
        HeaderValue::try_from(String::from(url)).ok()
    }
}

/// Whether a header names the method or the URI of the original request.
fn has_original(headers: &HeaderMap) -> bool {
    [
        &FORWARDED_METHOD,
        &FORWARDED_URI,
        &ORIGINAL_METHOD,
        &ORIGINAL_URI,
    ]
    .into_iter()
    .any(|name| headers.contains_key(name))
}

/// Logs that a proxy is not configured as documented. The log has no data of the request.
fn malformed(request: &Request, reason: &'static str) -> Denial {
    if let Some(hanko) = request.data::<Hanko>() {
        hanko.sampler().log(Line::ForwardAuthQuery, &reason);
    }
    if let Some(record) = AuthRecord::of(request) {
        record.reject("malformed-query", &reason);
    }
    Denial::MalformedQuery
}

impl Original<'_> {
    /// Whether a page of any site may have made the browser send this request.
    fn is_safe(&self, headers: &HeaderMap) -> bool {
        // A page of any site can open a WebSocket. Proxies may remove `Upgrade`, which concerns one connection only.
        let opens_websocket = headers.contains_key(UPGRADE)
            || headers.contains_key(&WEBSOCKET_KEY)
            || single(headers, &FETCH_MODE) == Some("websocket");
        self.method.as_ref().is_some_and(is_safe) && !opens_websocket
    }

    fn comes_from_trusted_page(&self, headers: &HeaderMap, hanko: &Hanko) -> bool {
        if !headers.contains_key(ORIGIN) && !headers.contains_key(&FETCH_SITE) {
            // By default, Envoy and Gateway API forward neither header, so their absence proves nothing.
            return self.source != Source::Request;
        }
        let is_own =
            Self::site(headers).is_some_and(|site| single(headers, &ORIGIN) == Some(&*site));
        is_own || credentials::comes_from_trusted_page(headers, hanko)
    }

    /// Returns the origin of the guarded site.
    fn site(headers: &HeaderMap) -> Option<String> {
        let proto = single(headers, &FORWARDED_PROTO)?;
        let host = single(headers, &FORWARDED_HOST)?;
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
        let is_plain =
            matches!(proto, "http" | "https") && !host.is_empty() && host.bytes().all(is_host);
        is_plain.then(|| format!("{proto}://{host}"))
    }

    /// Returns the URL of the original request.
    fn url(&self, headers: &HeaderMap) -> Option<String> {
        let uri = self.uri.map(|uri| if uri.is_empty() { "/" } else { uri })?;
        // Any other text would continue the host name.
        let is_path = uri.starts_with('/') && uri.bytes().all(|byte| byte.is_ascii_graphic());
        let url = is_path.then_some(format!("{}{uri}", Self::site(headers)?))?;
        Url::parse(&url).is_ok().then_some(url)
    }
}

impl Query {
    /// Parses the query. Returns `None` if any part of it is not a requirement.
    fn parse(query: &str) -> Option<Self> {
        let mut parsed = Self::default();
        if query.is_empty() {
            return Some(parsed);
        }
        for part in query.split('&') {
            match part.split_once('=') {
                None if part == "verified_email" && !parsed.verified_email => {
                    parsed.verified_email = true;
                }
                Some(("max_age", seconds)) if parsed.max_age.is_none() => {
                    let is_number = seconds.bytes().all(|byte| byte.is_ascii_digit());
                    parsed.max_age = Some(seconds.parse().ok().filter(|_| is_number)?);
                }
                Some(("claim", claim)) => {
                    let (name, value) = claim.split_once(':')?;
                    let name = percent_decode(name).filter(|name| !name.is_empty())?;
                    // An empty value, as from an unset variable of the proxy, would let in users whose claim is empty.
                    let value = percent_decode(value).filter(|value| !value.is_empty())?;
                    parsed.claims.push((name, value));
                }
                _ => return None,
            }
        }
        Some(parsed)
    }

    fn check(&self, session: &Session) -> Result<(), Box<Unmet>> {
        let check = |rule: &Rule<'_>| match rule.evaluate(session, false) {
            Outcome::Met => Ok(()),
            Outcome::IfLive => Err(Box::new(Unmet::of_proxy())),
            Outcome::Unmet(unmet) => Err(unmet),
        };
        if self.verified_email {
            check(&Rule::VERIFIED_EMAIL)?;
        }
        for (name, value) in &self.claims {
            let values = [value.as_str()];
            let alternatives = Rule::string_or_element(name, value, &values);
            // The text of the rule is not sent, because it comes from the query.
            check(&Rule::any(&alternatives)).map_err(|_| Box::new(Unmet::of_proxy()))?;
        }
        if let Some(seconds) = self.max_age {
            check(&Rule::max_age(seconds))?;
        }
        Ok(())
    }
}

/// Percent-decodes text. Rejects a `%` that does not start an encoded byte; the library would leave it as it is.
fn percent_decode(text: &str) -> Option<String> {
    let is_hex = |digits: &str| {
        let digits = digits.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    if !text.split('%').skip(1).all(is_hex) {
        return None;
    }
    let decoded = percent_decode_str(text).decode_utf8().ok()?;
    Some(decoded.into_owned())
}

/// Returns the value of a header that occurs once, as text.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    value.to_str().ok()
}

/// Returns the response to a rejection. Proxies understand 401 and 403 only; nginx turns anything else into 500.
fn only_401_and_403(rejection: &Rejection) -> Response {
    let mut response = rejection.to_response();
    if response.status().is_client_error()
        && !matches!(
            response.status(),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
        )
    {
        let known = ProblemType::AMBIGUOUS_CREDENTIALS;
        let detail = rejection.detail();
        response = Problem::new(StatusCode::FORBIDDEN, known.uri(), known.title())
            .with_detail(detail.unwrap_or_else(|| known.default_detail().to_owned()))
            .into_response();
    }
    response
}

/// Returns the response with the user and the session. Each header is always present, so that the proxy replaces any that the
/// client sent.
fn identity(session: &Session) -> Response {
    let email = session.email();
    let verified = email.map_or("", |email| if email.is_verified { "true" } else { "false" });
    let text = |value: String| HeaderValue::try_from(value).unwrap_or(HeaderValue::from_static(""));
    Response::builder()
        .header(&USER_ID, text(session.user_id().to_string()))
        .header(&SESSION_ID, text(session.id().to_string()))
        .header(&EMAIL, text(email.map(encode_address).unwrap_or_default()))
        .header(&EMAIL_VERIFIED, HeaderValue::from_static(verified))
        .finish()
}

/// Percent-encodes `%` and everything but visible ASCII.
fn encode_address(email: &EmailClaim) -> String {
    const ENCODED: &AsciiSet = &CONTROLS.add(b' ').add(b'%');
    utf8_percent_encode(&email.address, ENCODED).to_string()
}
