//! An embedder's app whose routes change something: a cookie in a cross-site request must not be enough.

#![allow(
    clippy::unused_async,
    reason = "poem-openapi wants its operations async"
)]

use std::{net::SocketAddr, sync::Arc};

use poem::{
    EndpointExt, Route, Server,
    listener::{Acceptor, TcpAcceptor},
};
use poem_hanko::{Clock, HankoAuth, HankoUrl, ManualClock, OptionalHankoAuth, PlainHttp};
use poem_openapi::{OpenApi, OpenApiService, payload::PlainText};

use super::{
    Case, Expected, Service,
    exchange::{exchange, head},
    issuer::{Issuer, claims, good_token, header, sign},
    rule,
};
use crate::support::{START, hanko_builder};

const TRUSTED_ORIGIN: &str = "https://app.example";

struct Api;

#[OpenApi]
impl Api {
    #[oai(path = "/required", method = "post")]
    async fn post_required(&self, auth: HankoAuth) -> PlainText<String> {
        PlainText(auth.user_id().to_string())
    }

    #[oai(path = "/required", method = "put")]
    async fn put_required(&self, auth: HankoAuth) -> PlainText<String> {
        PlainText(auth.user_id().to_string())
    }

    #[oai(path = "/required", method = "patch")]
    async fn patch_required(&self, auth: HankoAuth) -> PlainText<String> {
        PlainText(auth.user_id().to_string())
    }

    #[oai(path = "/required", method = "delete")]
    async fn delete_required(&self, auth: HankoAuth) -> PlainText<String> {
        PlainText(auth.user_id().to_string())
    }

    #[oai(path = "/optional", method = "post")]
    async fn post_optional(&self, auth: OptionalHankoAuth) -> PlainText<String> {
        PlainText(
            auth.session()
                .map_or("nobody".to_owned(), |session| session.user_id().to_string()),
        )
    }
}

/// Serves the app, with its keys fetched, until the runtime of the test ends.
pub(super) async fn serve(issuer_url: &str, clock: Arc<dyn Clock>) -> SocketAddr {
    let tenant = HankoUrl::parse(issuer_url, PlainHttp::LoopbackOnly).expect("a loopback URL");
    let hanko = hanko_builder(tenant)
        .trusted_origins([TRUSTED_ORIGIN.to_owned()])
        .clock(clock)
        .build()
        .expect("a client");
    hanko.wait_for_key_set_fetches(1).await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("a listener");
    let acceptor = TcpAcceptor::from_std(listener).expect("a listener");
    let address = *acceptor.local_addr()[0]
        .as_socket_addr()
        .expect("an address");
    let routes = Route::new()
        .nest("/", OpenApiService::new(Api, "embedded", "1"))
        .data(hanko);
    tokio::spawn(Server::new_with_acceptor(acceptor).run(routes));
    address
}

#[tokio::test]
async fn an_optional_session_is_that_of_the_token_or_nobodys() {
    let issuer = Issuer::start().await;
    let clock = Arc::new(ManualClock::new(START)) as Arc<dyn Clock>;
    let address = serve(issuer.url(), clock).await;
    let body = async |headers: Vec<(&'static str, String)>| {
        let request = head("POST /optional HTTP/1.1", headers);
        exchange(address, &request).await.body
    };
    let ada = "6c6c1d5e-9e1a-4f0e-8d53-0d2f6f8f5a11";
    let bearer = ("Authorization", format!("Bearer {}", good_token()));
    let cookie = ("Cookie", format!("hanko={}", good_token()));
    let basic = ("Authorization", "Basic YTpi".to_owned());
    assert_eq!(body(vec![]).await, "nobody");
    assert_eq!(body(vec![basic.clone()]).await, "nobody");
    assert_eq!(body(vec![bearer]).await, ada);
    assert_eq!(body(vec![cookie.clone()]).await, ada);
    assert_eq!(body(vec![basic, cookie]).await, ada);
}

pub(super) fn cases() -> Vec<Case> {
    let token = good_token();
    [origins(&token), methods(&token), optional(&token)].concat()
}

/// Headers of a browser about the page, none of which make the page trusted.
fn origins(token: &str) -> Vec<Case> {
    let site = |value: &'static str| ("Sec-Fetch-Site", value);
    let origin = |value: &'static str| ("Origin", value);
    [
        ("another site", vec![site("cross-site")]),
        ("another origin of the same site", vec![site("same-site")]),
        ("an empty site", vec![site("")]),
        ("a site in upper case", vec![site("SAME-ORIGIN")]),
        ("a list of sites", vec![site("same-origin, none")]),
        ("a site of a future browser", vec![site("first-party")]),
        ("two sites", vec![site("same-origin"), site("same-origin")]),
        ("a site that is not ASCII", vec![site("same-origin\u{a0}")]),
        ("an opaque origin", vec![origin("null")]),
        ("an empty origin", vec![origin("")]),
        ("a foreign origin", vec![origin("https://evil.example")]),
        (
            "a foreign origin of a foreign site",
            vec![origin("https://evil.example"), site("cross-site")],
        ),
        (
            "the trusted origin over http",
            vec![origin("http://app.example")],
        ),
        (
            "the trusted origin with a port",
            vec![origin("https://app.example:8443")],
        ),
        (
            "the trusted origin with its default port",
            vec![origin("https://app.example:443")],
        ),
        (
            "the trusted origin with a slash",
            vec![origin("https://app.example/")],
        ),
        (
            "the trusted origin in upper case",
            vec![origin("HTTPS://APP.EXAMPLE")],
        ),
        (
            "the trusted origin with a dot",
            vec![origin("https://app.example.")],
        ),
        (
            "the trusted origin as a prefix",
            vec![origin("https://app.example.evil.example")],
        ),
        (
            "the trusted origin as user info",
            vec![origin("https://app.example@evil.example")],
        ),
        (
            "a subdomain of the trusted origin",
            vec![origin("https://x.app.example")],
        ),
        (
            "the parent of the trusted origin",
            vec![origin("https://example")],
        ),
        (
            "the trusted origin in homoglyphs",
            vec![origin("https://\u{430}pp.example")],
        ),
        ("a wildcard as origin", vec![origin("*")]),
        (
            "a list of origins",
            vec![origin("https://app.example, https://evil.example")],
        ),
        (
            "two origins",
            vec![
                origin("https://app.example"),
                origin("https://evil.example"),
            ],
        ),
        (
            "the trusted origin twice",
            vec![origin("https://app.example"), origin("https://app.example")],
        ),
    ]
    .into_iter()
    .map(|(name, headers)| {
        let cookie = ("Cookie", format!("hanko={token}"));
        let headers = headers
            .into_iter()
            .map(|(name, value)| (name, value.to_owned()));
        Case::request(
            format!("a cookie from {name}"),
            Service::Embedded,
            "POST /required HTTP/1.1",
            headers.chain([cookie]),
            Expected::CrossSiteRequest,
        )
    })
    .collect()
}

fn methods(token: &str) -> Vec<Case> {
    ["PUT", "PATCH", "DELETE"]
        .map(|method| {
            Case::request(
                format!("a cookie from another site with {method}"),
                Service::Embedded,
                &format!("{method} /required HTTP/1.1"),
                [
                    ("Cookie", format!("hanko={token}")),
                    ("Sec-Fetch-Site", "cross-site".to_owned()),
                ],
                Expected::CrossSiteRequest,
            )
        })
        .to_vec()
}

/// Only a request without any credential is anonymous.
fn optional(token: &str) -> Vec<Case> {
    let expired = &sign(header().json(), claims().with("exp", "1").json());
    let invalid = |rule: &str| Expected::InvalidToken(rule.to_owned());
    let authorization = |value: String| ("Authorization", value);
    let cookie = |value: String| ("Cookie", value);
    [
        (
            "an expired Bearer token",
            vec![authorization(format!("Bearer {expired}"))],
            invalid(rule::EXPIRED),
        ),
        (
            "Bearer without token",
            vec![authorization("Bearer".to_owned())],
            invalid(rule::COMPACT),
        ),
        (
            "Bearer without token and a good cookie",
            vec![
                authorization("Bearer ".to_owned()),
                cookie(format!("hanko={token}")),
            ],
            invalid(rule::COMPACT),
        ),
        (
            "an expired cookie",
            vec![cookie(format!("hanko={expired}"))],
            invalid(rule::EXPIRED),
        ),
        (
            "a cookie that is no token",
            vec![cookie("hanko=deleted".to_owned())],
            invalid(rule::COMPACT),
        ),
        (
            "a quoted cookie of nothing",
            vec![cookie(r#"hanko="""#.to_owned())],
            invalid(rule::COMPACT),
        ),
        (
            "a good Bearer token twice",
            vec![
                authorization(format!("Bearer {token}")),
                authorization(format!("Bearer {token}")),
            ],
            Expected::AmbiguousCredentials,
        ),
        (
            "two cookies",
            vec![cookie(format!("hanko={token}; hanko={token}"))],
            Expected::AmbiguousCredentials,
        ),
        (
            "a cookie from another site",
            vec![
                cookie(format!("hanko={token}")),
                ("Sec-Fetch-Site", "cross-site".to_owned()),
            ],
            Expected::CrossSiteRequest,
        ),
        (
            "Basic and a cookie from another site",
            vec![
                authorization("Basic YTpi".to_owned()),
                cookie(format!("hanko={token}")),
                ("Origin", "null".to_owned()),
            ],
            Expected::CrossSiteRequest,
        ),
    ]
    .into_iter()
    .map(|(name, headers, expected)| {
        Case::request(
            format!("where a session is optional: {name}"),
            Service::Embedded,
            "POST /optional HTTP/1.1",
            headers,
            expected,
        )
    })
    .collect()
}
