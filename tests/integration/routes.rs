use std::time::Duration;

use poem_hanko::{
    ManualClock, TokenError,
    testing::{LocalHanko, SESSION_LIFESPAN},
};
use reqwest::Method;
use serde_json::{Map, Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::greeting;
use crate::support::{
    App, START, ada, assert_problem, client, config, header, local_hanko, send, start, start_with,
    within,
};

#[tokio::test]
async fn greeting_needs_no_session() {
    let (_local_hanko, app) = start().await;
    let response = send(app.get("/")).await;
    assert_eq!(response.status(), 200);
    let body: Value = response.json().await.unwrap();
    assert_eq!(body, json!({ "message": "Poem x Hanko!" }));
}

#[tokio::test]
async fn a_bearer_token_opens_the_protected_route() {
    let (local_hanko, app) = start().await;
    let session = local_hanko.sign_in(&ada());
    let response = app.get_with_bearer("/protected", &session.token).await;
    assert_eq!(response.status(), 200);
    assert_eq!(
        header(&response, "content-type").as_deref(),
        Some("application/json")
    );
    let body: Value = response.json().await.unwrap();
    assert_eq!(body, json!({ "message": "Hello from protected route!" }));
}

#[tokio::test]
async fn a_cookie_opens_the_protected_route_until_it_expires() {
    let (local_hanko, app) = start().await;
    let session = local_hanko.sign_in(&ada());
    let response = app.get_with_cookie("/protected", &session.token).await;
    assert_eq!(response.status(), 200);
    app.clock
        .advance(SESSION_LIFESPAN + Duration::from_secs(30));
    let response = app.get_with_cookie("/protected", &session.token).await;
    assert_problem(response, 401, "invalid-token").await;
}

#[tokio::test]
async fn a_renamed_cookie_is_the_one_that_counts() {
    let (local_hanko, app) = start_with(&[("HANKO_COOKIE_NAME", "session")]).await;
    let session = local_hanko.sign_in(&ada());
    let response = app.get_with_cookie("/protected", &session.token).await;
    assert_problem(response, 401, "missing-credentials").await;
    let renamed = app
        .get("/protected")
        .header("cookie", format!("a=b; session={}", session.token));
    assert_eq!(send(renamed).await.status(), 200);
}

#[tokio::test]
async fn no_credentials_are_challenged_with_bearer_alone() {
    let (_local_hanko, app) = start().await;
    let response = send(app.get("/protected")).await;
    assert_eq!(
        header(&response, "www-authenticate").as_deref(),
        Some("Bearer")
    );
    assert_problem(response, 401, "missing-credentials").await;
}

#[tokio::test]
async fn bad_bearer_ignores_good_cookie() {
    let (local_hanko, app) = start().await;
    let session = local_hanko.sign_in(&ada());
    let request = app
        .get("/protected")
        .bearer_auth("bad")
        .header("cookie", format!("hanko={}", session.token));
    assert_problem(send(request).await, 401, "invalid-token").await;
}

#[tokio::test]
async fn another_scheme_does_not_hide_the_cookie() {
    let (local_hanko, app) = start().await;
    let session = local_hanko.sign_in(&ada());
    let request = app
        .get("/protected")
        .basic_auth("user", Some("password"))
        .header("cookie", format!("hanko={}", session.token));
    assert_eq!(send(request).await.status(), 200);
}

#[tokio::test]
async fn several_credentials_are_refused() {
    let (local_hanko, app) = start().await;
    let token = local_hanko.sign_in(&ada()).token;
    let two_headers = app
        .get("/protected")
        .bearer_auth(&token)
        .bearer_auth(&token);
    let two_cookies = app
        .get("/protected")
        .header("cookie", format!("hanko={token}; hanko={token}"));
    for request in [two_headers, two_cookies] {
        let response = send(request).await;
        let challenge = header(&response, "www-authenticate").unwrap();
        assert!(
            challenge.starts_with(r#"Bearer error="invalid_request""#),
            "{challenge}"
        );
        assert_problem(response, 400, "ambiguous-credentials").await;
    }
}

/// A session token with its claims changed, signed as Hanko signs.
fn with_claims(local_hanko: &LocalHanko, change: impl FnOnce(&mut Map<String, Value>)) -> String {
    let mut claims = local_hanko.claims_of(&ada());
    change(&mut claims);
    local_hanko.sign_claims(&claims)
}

#[tokio::test]
async fn tokens_that_are_no_session_are_invalid() {
    let (local_hanko, app) = start().await;
    let stranger = LocalHanko::builder().start().await.unwrap();
    let good = local_hanko.sign_in(&ada()).token;
    let payload = good.split('.').nth(1).unwrap();
    let none = format!("eyJhbGciOiJub25lIn0.{payload}.AA");
    let hs256 = format!("eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.{payload}.AA");
    let now = START.as_secs();
    for (token, expected) in [
        (stranger.sign_in(&ada()).token, TokenError::UnknownKey),
        (
            with_claims(&local_hanko, |claims| {
                claims.insert("exp".to_owned(), json!(now - 30));
            }),
            TokenError::Expired,
        ),
        (none, TokenError::AlgorithmNotAllowed),
        (hs256, TokenError::AlgorithmNotAllowed),
        (
            with_claims(&local_hanko, |claims| {
                claims.remove("session_id");
            }),
            TokenError::MissingClaim("session_id"),
        ),
        (
            local_hanko.sign_claims(
                json!({
                    "sub": "hanko webhooks",
                    "iat": now,
                    "exp": now + 300,
                    "aud": ["localhost"],
                    "evt": "user.login",
                    "data": { "session_id": "7a1c90fe-23b1-4f0e-8b7a-54f9fb2f9d11" },
                })
                .as_object()
                .unwrap(),
            ),
            TokenError::MissingClaim("session_id"),
        ),
    ] {
        let response = app.get_with_bearer("/protected", &token).await;
        assert_eq!(
            header(&response, "www-authenticate"),
            Some(format!(
                r#"Bearer error="invalid_token", error_description="{expected}""#
            ))
        );
        assert_problem(response, 401, "invalid-token").await;
    }
}

#[tokio::test]
async fn me_returns_everything_in_the_token() {
    let (local_hanko, app) = start().await;
    let person = ada();
    let session = local_hanko.sign_in(&person);
    let response = app.get_with_bearer("/me", &session.token).await;
    assert_eq!(
        header(&response, "cache-control").as_deref(),
        Some("no-store")
    );
    let body: Value = response.json().await.unwrap();
    assert_eq!(
        body,
        json!({
            "user_id": person.id().as_uuid(),
            "session_id": session.session_id,
            "email": { "address": "ada@example.com", "is_primary": true, "is_verified": true },
            "username": "ada",
            "issued_at": "2026-11-23T12:00:00+00:00",
            "expires_at": "2026-11-24T00:00:00+00:00",
            "audience": ["localhost"],
            "claims": { "plan": { "name": "pro", "seats": [1, 2] } },
        })
    );
}

#[tokio::test]
async fn errors_of_the_framework_are_problems_too() {
    let (_local_hanko, app) = start().await;
    assert_problem(send(app.get("/nowhere")).await, 404, "not-found").await;
    for path in ["/protected", "/livez", "/docs", "/docs/", "/openapi.json"] {
        let response = send(app.request(Method::DELETE, path)).await;
        assert_eq!(header(&response, "allow").as_deref(), Some("GET, HEAD"));
        assert_problem(response, 405, "method-not-allowed").await;
    }
}

#[tokio::test]
async fn every_response_has_an_id_and_is_not_kept() {
    let (_local_hanko, app) = start().await;
    for path in ["/", "/protected", "/nowhere", "/readyz"] {
        let response = send(app.get(path)).await;
        assert_eq!(header(&response, "x-request-id").unwrap().len(), 32);
        assert_eq!(
            header(&response, "cache-control").as_deref(),
            Some("no-store")
        );
        assert_eq!(
            header(&response, "x-content-type-options").as_deref(),
            Some("nosniff")
        );
        let harmless = send(app.get(path).header("x-request-id", "proxy-1.2_3")).await;
        assert_eq!(
            header(&harmless, "x-request-id").as_deref(),
            Some("proxy-1.2_3")
        );
        let harmful = send(app.get(path).header("x-request-id", "a b")).await;
        assert_ne!(header(&harmful, "x-request-id").as_deref(), Some("a b"));
    }
}

#[tokio::test]
async fn readiness_follows_the_keys_without_a_restart() {
    let clock = ManualClock::new(START);
    // A port that was free a moment ago, and on which nothing listens.
    let vacant = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", vacant.local_addr().unwrap());
    drop(vacant);
    let app = App::start(&url, &clock, &[]);
    app.hanko.wait_for_key_set_fetches(1).await;

    assert_eq!(send(app.get("/livez")).await.status(), 200);
    for path in ["/readyz", "/protected"] {
        let response = send(app.get(path).bearer_auth(some_token().await)).await;
        assert!(header(&response, "retry-after").is_some());
        assert_problem(response, 503, "authentication-unavailable").await;
    }
}

async fn some_token() -> String {
    local_hanko(&ManualClock::new(START))
        .await
        .sign_in(&ada())
        .token
}

#[tokio::test]
async fn listed_origins_may_call_with_credentials_and_others_may_not() {
    let (local_hanko, app) = start_with(&[(
        "CORS_ALLOWED_ORIGINS",
        "https://app.example, http://localhost:3000",
    )])
    .await;
    let token = local_hanko.sign_in(&ada()).token;
    let call = |origin: &'static str| {
        app.get("/protected")
            .bearer_auth(&token)
            .header("origin", origin)
    };
    let own_origin = "http://localhost:8000".replace("8000", &app.address.port().to_string());
    for origin in [
        "https://app.example",
        "http://localhost:3000",
        own_origin.leak(),
    ] {
        let response = send(call(origin)).await;
        assert_eq!(response.status(), 200);
        assert_eq!(
            header(&response, "access-control-allow-origin").as_deref(),
            Some(origin)
        );
        assert_eq!(
            header(&response, "access-control-allow-credentials").as_deref(),
            Some("true")
        );
    }
    for origin in ["https://evil.example", "null", "https://app.example.evil"] {
        let response = send(call(origin)).await;
        assert_eq!(
            header(&response, "access-control-allow-origin"),
            None,
            "{origin}"
        );
    }
    let preflight = app
        .request(Method::OPTIONS, "/protected")
        .header("origin", "https://app.example")
        .header("access-control-request-method", "GET")
        .header("access-control-request-headers", "authorization");
    let response = send(preflight).await;
    assert_eq!(response.status(), 200);
    let allowed = header(&response, "access-control-allow-headers").unwrap();
    assert!(allowed.contains("authorization"), "{allowed}");
}

#[tokio::test]
async fn without_origins_nobody_is_allowed() {
    for variables in [&[][..], &[("CORS_ALLOWED_ORIGINS", "")]] {
        let (local_hanko, app) = start_with(variables).await;
        let token = local_hanko.sign_in(&ada()).token;
        for origin in ["http://localhost:3000", "https://evil.example", "null"] {
            let response = send(app.get("/").header("origin", origin)).await;
            assert_eq!(
                header(&response, "access-control-allow-origin"),
                None,
                "{origin}"
            );
            assert!(!app.hanko.trusts_origin(origin), "{origin}");
        }
        let own = format!("http://localhost:{}", app.address.port());
        let response = send(
            app.get("/protected")
                .bearer_auth(token)
                .header("origin", &own),
        )
        .await;
        assert_eq!(header(&response, "access-control-allow-origin"), Some(own));
    }
}

#[tokio::test]
async fn dev_accepts_every_http_origin_on_loopback() {
    let server = greeting::app()
        .bind_dev(config(&[("CORS_ALLOWED_ORIGINS", "https://app.example")]))
        .await
        .unwrap();
    let (hanko, url) = (server.hanko().clone(), server.public_url().to_owned());
    let session = server.local_hanko().unwrap().sign_in(&ada());
    hanko.wait_for_key_set_fetches(1).await;
    let running = tokio::spawn(server.run(std::future::pending()));
    for (origin, is_allowed) in [
        ("http://localhost:3000", true),
        ("http://127.0.0.1:5173", true),
        ("http://[::1]:8080", true),
        ("https://app.example", true),
        ("https://localhost:3000", false),
        ("http://app.localhost:3000", false),
        ("http://evil.example", false),
        ("null", false),
    ] {
        let request = client()
            .get(format!("{url}/protected"))
            .bearer_auth(&session.token)
            .header("origin", origin);
        let allowed = header(&send(request).await, "access-control-allow-origin");
        assert_eq!(allowed.as_deref(), is_allowed.then_some(origin));
        // The same origins may send the cookie with requests that change something.
        let request = client()
            .post(format!("{url}/dev/end-session"))
            .header("cookie", format!("hanko={}", session.token))
            .header("sec-fetch-site", "cross-site")
            .header("origin", origin);
        let is_rejected = send(request).await.status() == 403;
        assert_eq!(is_rejected, !is_allowed, "{origin}");
    }
    running.abort();
}

#[tokio::test]
async fn a_configured_audience_and_issuer_are_required() {
    let (local_hanko, app) = start_with(&[
        ("HANKO_AUDIENCE", "localhost, app.example"),
        ("HANKO_ISSUER", "https://issuer.example"),
    ])
    .await;
    let with_issuer = |issuer: Value| {
        with_claims(&local_hanko, |claims| {
            claims.insert("iss".to_owned(), issuer);
        })
    };
    let good = with_issuer(json!("https://issuer.example"));
    assert_eq!(app.get_with_bearer("/me", &good).await.status(), 200);
    let wrong_audience = with_claims(&local_hanko, |claims| {
        claims.insert("iss".to_owned(), json!("https://issuer.example"));
        claims.insert("aud".to_owned(), json!(["other.example"]));
    });
    for token in [
        with_issuer(json!("https://other.example")),
        local_hanko.sign_in(&ada()).token,
        wrong_audience,
    ] {
        let response = app.get_with_bearer("/me", &token).await;
        assert_problem(response, 401, "invalid-token").await;
    }
}

#[tokio::test]
async fn silent_connection_is_closed_and_others_are_not() {
    let (_local_hanko, app) = start().await;
    let mut silent = Vec::new();
    // Nothing, half a head, and half the preface of HTTP/2.
    for sent in ["", "GET / HTTP/1.1\r\nHost:", "PRI * HTTP/2.0"] {
        let mut connection = TcpStream::connect(app.address).await.unwrap();
        connection.write_all(sent.as_bytes()).await.unwrap();
        silent.push(connection);
    }
    let mut busy = TcpStream::connect(app.address).await.unwrap();
    let mut answer = vec![0; 4096];
    for _ in 0..2 {
        busy.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await
            .unwrap();
        let length = busy.read(&mut answer).await.unwrap();
        assert!(answer[..length].starts_with(b"HTTP/1.1 200 OK"));
        // The response arrived on a connection that was accepted after the silent ones, so all of them are being served.
        app.clock.advance(Duration::from_secs(30));
    }
    for mut connection in silent {
        let mut sent_before = Vec::new();
        let _reset = within(connection.read_to_end(&mut sent_before)).await;
        // An HTTP/2 server may send its settings before it knows those of the client.
        assert!(!sent_before.starts_with(b"HTTP/1.1"));
    }
}
