//! Requests that must be accepted or rejected: tables with a row for each case, sent byte for byte to a running server.
//!
//! A row names why a token is good or bad, and which rule rejects it. All bad tokens except those that are about the
//! signature are signed well, so that a row fails as soon as its rule is gone.

#![allow(clippy::too_many_lines, reason = "a table is as long as it has rows")]

mod claims;
mod credentials;
mod cross_site;
mod exchange;
mod issuer;
mod keys;
mod legitimate;
mod rotation;
mod tokens;
mod vectors;

use std::{net::SocketAddr, sync::Arc};

use poem_hanko::{Clock, ManualClock};
use serde_json::Value;

use self::{
    exchange::{Response, exchange},
    issuer::Issuer,
};
use crate::support::{App, START, report};

/// The values that the configured services expect.
const AUDIENCE: &str = "api.example";
const OTHER_AUDIENCE: &str = "admin.example";
const ISSUER: &str = "https://hanko.example";
const COOKIE_NAME: &str = "__Host-session";

/// The `error_description` of each rule.
mod rule {
    pub(super) const TOO_LARGE: &str = "the token is too large";
    pub(super) const COMPACT: &str = "the token is not a compact JWS";
    pub(super) const BASE64URL: &str = "the token is not base64url-encoded";
    pub(super) const HEADER: &str = "the token's header is malformed";
    pub(super) const ALGORITHM: &str = "the token's algorithm is not allowed";
    pub(super) const TYPE: &str = "the token is of another type";
    pub(super) const EXTENSION: &str = "the token requires an extension that is not supported";
    pub(super) const UNKNOWN_KEY: &str = "the token was signed by an unknown key";
    pub(super) const SIGNATURE: &str = "the token's signature is invalid";
    pub(super) const CLAIMS: &str = "the token's claims are malformed";
    pub(super) const EXPIRED: &str = "the token has expired";
    pub(super) const NOT_YET_VALID: &str = "the token is not valid yet";
    pub(super) const ISSUED_IN_THE_FUTURE: &str = "the token was issued in the future";
    pub(super) const AUDIENCE: &str = "the token is meant for another audience";
    pub(super) const ISSUER: &str = "the token is from another issuer";
    pub(super) const KEY_BOUND: &str =
        "the token is bound to a key and cannot be used as a bearer token";

    pub(super) fn lacks(claim: &str) -> String {
        format!("the token lacks the claim `{claim}`")
    }

    pub(super) fn malformed(claim: &str) -> String {
        format!("the token's claim `{claim}` is malformed")
    }
}

/// Which server a row is sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    /// The API, nothing configured.
    Plain,
    /// The API with `HANKO_AUDIENCE`.
    Audience,
    /// The API with `HANKO_ISSUER`.
    Issuer,
    /// The API with `HANKO_COOKIE_NAME`.
    RenamedCookie,
    /// An embedder's app with routes that change something.
    Embedded,
}

/// What a row sends.
#[derive(Clone, Debug)]
enum Sent {
    /// A token, as a Bearer token and then, if a cookie can contain it, as the cookie: both must get the same response.
    Token(String),
    /// These bytes.
    Request(Vec<u8>),
}

/// The expected response to a row.
#[derive(Clone, Debug)]
enum Expected {
    /// 200
    Accepted,
    /// 401 with this `error_description`.
    InvalidToken(String),
    /// 401 with a bare challenge.
    MissingCredentials,
    /// 400 with the challenge `invalid_request`.
    AmbiguousCredentials,
    /// 403
    CrossSiteRequest,
    /// This status from the HTTP parser, which knows no problems.
    UnreadableHead(u16),
}

/// A row.
#[derive(Clone, Debug)]
struct Case {
    name: String,
    service: Service,
    sent: Sent,
    expected: Expected,
}

impl Case {
    fn accepted(name: impl Into<String>, token: String) -> Self {
        Self {
            name: name.into(),
            service: Service::Plain,
            sent: Sent::Token(token),
            expected: Expected::Accepted,
        }
    }

    fn refused(name: impl Into<String>, token: String, rule: impl Into<String>) -> Self {
        Self {
            expected: Expected::InvalidToken(rule.into()),
            ..Self::accepted(name, token)
        }
    }

    /// A request for `/protected` with these header lines.
    fn headers<V: AsRef<[u8]>>(
        name: impl Into<String>,
        headers: impl IntoIterator<Item = (&'static str, V)>,
        expected: Expected,
    ) -> Self {
        Self::request(
            name,
            Service::Plain,
            "GET /protected HTTP/1.1",
            headers,
            expected,
        )
    }

    fn request<V: AsRef<[u8]>>(
        name: impl Into<String>,
        service: Service,
        request_line: &str,
        headers: impl IntoIterator<Item = (&'static str, V)>,
        expected: Expected,
    ) -> Self {
        Self {
            name: name.into(),
            service,
            sent: Sent::Request(exchange::head(request_line, headers)),
            expected,
        }
    }

    /// The same with bytes after the head of its request.
    fn followed_by(mut self, body: &str) -> Self {
        if let Sent::Request(request) = &mut self.sent {
            request.extend_from_slice(body.as_bytes());
        }
        self
    }

    fn at(self, service: Service) -> Self {
        Self { service, ..self }
    }

    /// The requests of the row, each with the kind of credential that it uses.
    fn requests(&self) -> Vec<(&'static str, Vec<u8>)> {
        let token = match &self.sent {
            Sent::Request(request) => return vec![("as written", request.clone())],
            Sent::Token(token) => token,
        };
        let get =
            |header, value: String| exchange::head("GET /protected HTTP/1.1", [(header, value)]);
        let mut requests = vec![("Bearer", get("Authorization", format!("Bearer {token}")))];
        // An empty cookie counts as absent, and other bytes would end the value.
        let fits_a_cookie = !token.is_empty()
            && token
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.=+/".contains(&byte));
        if fits_a_cookie {
            let name = match self.service {
                Service::RenamedCookie => COOKIE_NAME,
                _ => "hanko",
            };
            requests.push(("cookie", get("Cookie", format!("{name}={token}"))));
        }
        requests
    }

    /// Returns an error if the response is not the expected one.
    fn verdict(&self, response: &Response) -> Result<(), String> {
        let expect = |what: &str, actual: Option<&str>, expected: Option<&str>| {
            if actual == expected {
                Ok(())
            } else {
                Err(format!(
                    "{what} is {actual:?}, not {expected:?}: {response:?}"
                ))
            }
        };
        let (status, slug, challenge) = match &self.expected {
            Expected::Accepted => {
                expect("status", Some(&response.status), Some("200"))?;
                return expect("challenge", response.header("www-authenticate")?, None);
            }
            Expected::UnreadableHead(status) => {
                expect("status", Some(&response.status), Some(&status.to_string()))?;
                return expect("body", Some(&response.body), Some(""));
            }
            Expected::InvalidToken(rule) => (
                "401",
                "invalid-token",
                Some(format!(
                    r#"Bearer error="invalid_token", error_description="{rule}""#
                )),
            ),
            Expected::MissingCredentials => {
                ("401", "missing-credentials", Some("Bearer".to_owned()))
            }
            Expected::AmbiguousCredentials => (
                "400",
                "ambiguous-credentials",
                Some(
                    r#"Bearer error="invalid_request", error_description="several credentials were sent""#
                        .to_owned(),
                ),
            ),
            Expected::CrossSiteRequest => ("403", "cross-site-request", None),
        };
        expect("status", Some(&response.status), Some(status))?;
        expect(
            "challenge",
            response.header("www-authenticate")?,
            challenge.as_deref(),
        )?;
        expect(
            "media type",
            response.header("content-type")?,
            Some("application/problem+json"),
        )?;
        expect("cookie", response.header("set-cookie")?, None)?;
        expect("injected header", response.header("x-injected")?, None)?;
        let problem: Value = serde_json::from_str(&response.body)
            .map_err(|error| format!("{error}: {response:?}"))?;
        let problem_type = format!("/problems/{slug}");
        expect("type", problem["type"].as_str(), Some(&problem_type))?;
        expect(
            "member status",
            Some(&problem["status"].to_string()),
            Some(status),
        )
    }
}

/// The servers that rows are sent to, all with the keys of one issuer and one clock.
struct Services {
    issuer: Issuer,
    plain: App,
    audience: App,
    with_issuer: App,
    renamed_cookie: App,
    embedded: SocketAddr,
}

impl Services {
    async fn start() -> Self {
        let clock = ManualClock::new(START);
        let issuer = Issuer::start().await;
        let app = async |variables: &[(&str, &str)]| {
            let app = App::start(issuer.url(), &clock, variables);
            app.hanko.wait_for_key_set_fetches(1).await;
            app
        };
        Self {
            plain: app(&[]).await,
            audience: app(&[("HANKO_AUDIENCE", &format!("{OTHER_AUDIENCE}, {AUDIENCE}"))]).await,
            with_issuer: app(&[("HANKO_ISSUER", ISSUER)]).await,
            renamed_cookie: app(&[("HANKO_COOKIE_NAME", COOKIE_NAME)]).await,
            embedded: cross_site::serve(issuer.url(), Arc::new(clock.clone()) as Arc<dyn Clock>)
                .await,
            issuer,
        }
    }

    fn address(&self, service: Service) -> SocketAddr {
        match service {
            Service::Plain => self.plain.address,
            Service::Audience => self.audience.address,
            Service::Issuer => self.with_issuer.address,
            Service::RenamedCookie => self.renamed_cookie.address,
            Service::Embedded => self.embedded,
        }
    }

    /// Sends every row and panics with the names of all that got an unexpected response.
    async fn hold(&self, cases: &[Case]) {
        let mut failures = Vec::new();
        for case in cases {
            for (carrier, request) in case.requests() {
                let response = exchange(self.address(case.service), &request).await;
                let verdict = case.verdict(&response).and_then(|()| match &case.sent {
                    Sent::Token(token) if token.len() > 20 && response.contains(token) => {
                        Err(format!("the token is echoed: {response:?}"))
                    }
                    _ => Ok(()),
                });
                if let Err(failure) = verdict {
                    failures.push(format!("- {} ({carrier}): {failure}", case.name));
                }
            }
        }
        assert!(
            failures.is_empty(),
            "{} rows were answered wrongly:\n{}",
            failures.len(),
            failures.join("\n")
        );
    }

    /// Asserts that no URL in a token was fetched, and from Hanko only the JWK Set.
    async fn assert_no_url_was_followed(&self) {
        assert_eq!(self.issuer.trap_connections(), 0, "connections to the trap");
        self.issuer.walk_into_the_trap().await;
        assert_eq!(self.issuer.trap_connections(), 1, "the trap counts");

        let paths = self.issuer.requested_paths();
        assert!(!paths.is_empty());
        for path in paths {
            assert_eq!(path, "/.well-known/jwks.json");
        }
    }
}

/// Two rows with the same name could not be distinguished.
#[track_caller]
fn assert_names_are_unique(cases: &[Case]) {
    let mut names: Vec<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    names.sort_unstable();
    for pair in names.windows(2) {
        assert_ne!(pair[0], pair[1], "two rows have this name");
    }
}

#[tokio::test]
async fn every_legitimate_variant_is_accepted() {
    let services = Services::start().await;
    let cases = legitimate::cases(&services.issuer);
    assert_names_are_unique(&cases);
    services.hold(&cases).await;
    services.assert_no_url_was_followed().await;
    report(&format!("accepted: {} legitimate variants", cases.len()));
    assert!(cases.len() >= 25);
}

#[tokio::test]
async fn every_attack_is_rejected_with_the_right_response() {
    let services = Services::start().await;
    let cases = [
        tokens::cases(&services.issuer),
        claims::cases(),
        keys::cases(),
        credentials::cases(),
        cross_site::cases(),
    ]
    .concat();
    assert_names_are_unique(&cases);
    services.hold(&cases).await;
    services.assert_no_url_was_followed().await;
    report(&format!("refused: {} attacks", cases.len()));
    assert!(cases.len() >= 150);
}
