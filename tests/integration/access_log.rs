//! `ACCESS_LOG=true`: the line of each request, and the data that no line contains.

use std::time::Duration;

use poem::{EndpointExt, Route, handler, http::StatusCode, test::TestClient};
use poem_hanko::{
    Edge, LogFormat, ManualClock, TelemetryConfig, TrustedProxies, log_subscriber,
    testing::{Fault, LocalHanko, Person},
};
use reqwest::{Method, RequestBuilder};
use serde_json::Value;
use tracing::subscriber::DefaultGuard;

use crate::support::{
    App, Log, START, ada, hanko_builder, header, listen, local_hanko, send, start_with, within,
};

/// Keeps this thread's log as JSON.
fn json_log() -> (Log, DefaultGuard) {
    let log = Log::default();
    let config = TelemetryConfig {
        format: LogFormat::Json,
        filter: "info".to_owned(),
    };
    let guard = listen(log_subscriber(&config, log.maker()));
    (log, guard)
}

fn lines_of(log: &Log, event: &str) -> Vec<Value> {
    log.text()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|line| line["event"] == event)
        .collect()
}

/// A service with an access log, and its log.
async fn start(variables: &[(&str, &str)]) -> (LocalHanko, App, Log, DefaultGuard) {
    let (log, guard) = json_log();
    let variables = [&[("ACCESS_LOG", "true")], variables].concat();
    let (local_hanko, app) = start_with(&variables).await;
    (local_hanko, app, log, guard)
}

/// Sends a request and returns its line, the only one that it causes.
#[track_caller]
fn line(log: &Log, request: RequestBuilder) -> impl Future<Output = Value> {
    let before = lines_of(log, "access").len();
    let rejected_before = lines_of(log, "request_rejected").len();
    let log = log.clone();
    let caller = std::panic::Location::caller();
    async move {
        let response = send(request).await;
        let mut lines = lines_of(&log, "access");
        assert_eq!(lines.len(), before + 1, "{caller}: {}", log.text());
        let rejected = lines_of(&log, "request_rejected").len();
        assert_eq!(rejected, rejected_before, "{caller}: {}", log.text());
        let line = lines.pop().unwrap();
        assert_eq!(
            line["status"],
            response.status().as_u16(),
            "{caller}: {line}"
        );
        assert_eq!(
            line["request_id"].as_str(),
            header(&response, "x-request-id").as_deref(),
            "{caller}: {line}"
        );
        assert_eq!(line["level"], "INFO", "{caller}: {line}");
        line
    }
}

#[tokio::test]
async fn served_request_is_one_line() {
    let (local_hanko, app, log, _guard) = start(&[]).await;
    let person = ada();
    let session = local_hanko.sign_in(&person);
    let request = app.get("/protected").bearer_auth(&session.token);
    let line = line(&log, request.header("x-request-id", "from-the-proxy")).await;
    for (field, value) in [
        ("method", "GET".into()),
        ("route", "/protected".into()),
        ("status", 200.into()),
        // The clock stands still.
        ("duration_ms", 0.0.into()),
        ("request_id", "from-the-proxy".into()),
        ("client", "127.0.0.1".into()),
        ("session_id", session.session_id.to_string().into()),
        ("user_id", person.id().to_string().into()),
        ("reason", Value::Null),
    ] {
        assert_eq!(line[field], value, "{field}: {line}");
    }
}

#[tokio::test]
async fn rejected_user_is_named_if_the_signature_was_valid() {
    let (local_hanko, app, log, _guard) = start(&[("HANKO_AUDIENCE", "localhost")]).await;
    let person = ada();
    let session = local_hanko.sign_in(&person);
    let (user_id, session_id) = (person.id().to_string(), session.session_id.to_string());
    let ask = |token: &str| line(&log, app.get("/me").bearer_auth(token));
    let identified = |line: &Value| {
        (
            line["user_id"].as_str() == Some(&*user_id),
            line["session_id"].as_str() == Some(&*session_id),
        )
    };

    let found = line(&log, app.get("/me")).await;
    assert_eq!(found["reason"], "missing-credentials");
    assert_eq!(found["detail"], "no credentials were sent");
    assert_eq!(
        (&found["user_id"], &found["session_id"]),
        (&Value::Null, &Value::Null)
    );

    let mut forged = session.token.clone();
    forged.replace_range(forged.len() - 8.., "AAAAAAAA");
    let found = ask(&forged).await;
    assert_eq!(found["reason"], "invalid-signature");
    assert_eq!(
        (&found["user_id"], &found["session_id"]),
        (&Value::Null, &Value::Null)
    );

    let mut claims = local_hanko.claims_of(&person);
    claims.insert("session_id".to_owned(), session_id.clone().into());
    claims.insert("aud".to_owned(), "another.example".into());
    let found = ask(&local_hanko.sign_claims(&claims)).await;
    assert_eq!(found["reason"], "wrong-audience");
    assert_eq!(identified(&found), (true, true), "{found}");

    // Verified first, so that it expires in the cache.
    assert_eq!(ask(&session.token).await["status"], 200);
    app.clock.advance(Duration::from_hours(24));
    let found = ask(&session.token).await;
    assert_eq!(found["reason"], "expired");
    assert_eq!(identified(&found), (true, true), "{found}");
    // Not verified before.
    claims.insert("aud".to_owned(), "localhost".into());
    let found = ask(&local_hanko.sign_claims(&claims)).await;
    assert_eq!(found["reason"], "expired");
    assert_eq!(identified(&found), (true, true), "{found}");
}

#[tokio::test]
async fn ended_session_is_named() {
    let (local_hanko, app, log, _guard) = start(&[]).await;
    let person = ada();
    let session = local_hanko.sign_in(&person);
    let data = local_hanko.session_data(session.session_id).unwrap();
    let body = local_hanko.webhook_body("session.delete", &data);
    let found = line(
        &log,
        app.request(Method::POST, "/webhooks/hanko").json(&body),
    )
    .await;
    assert_eq!(found["route"], "/webhooks/hanko");
    let found = line(&log, app.get("/me").bearer_auth(&session.token)).await;
    assert_eq!(found["reason"], "session-ended");
    assert_eq!(found["session_id"], session.session_id.to_string());
    assert_eq!(found["user_id"], person.id().to_string());
}

/// Answers "Why was this user rejected at 10:03?": the line names the unavailable component and the cause.
#[tokio::test]
async fn reason_of_a_503_names_the_component() {
    let stateful = [
        ("ACCESS_LOG", "true"),
        ("HANKO_SESSION_MODE", "stateful"),
        ("SESSION_CACHE_TTL", "0s"),
    ];
    // Nothing listens on port 1.
    let lost_store = [
        ("ACCESS_LOG", "true"),
        ("REVOCATION_STORE_URL", "redis://127.0.0.1:1"),
    ];
    let (log, _guard) = json_log();
    let ask = async |app: &App, token: &str| {
        let line = line(&log, app.get("/me").bearer_auth(token)).await;
        assert_eq!(line["status"], 503, "{line}");
        line
    };

    let clock = ManualClock::new(START);
    let app = App::start("http://127.0.0.1:1", &clock, &[("ACCESS_LOG", "true")]);
    let session = local_hanko(&clock).await.sign_in(&ada());
    let found = ask(&app, session.token()).await;
    assert_eq!(found["reason"], "keys", "{found}");
    let detail = found["detail"].as_str().unwrap();
    assert!(detail.contains("no verification keys"), "{detail}");

    let (local_hanko, app) = start_with(&stateful).await;
    let person = ada();
    let session = local_hanko.sign_in(&person);
    for (fault, detail) in [
        (Fault::InternalError, "status 500"),
        (Fault::DatabaseDown, "could not serve its keys"),
        (Fault::Down, "could not be reached"),
    ] {
        local_hanko.set_fault(fault);
        let found = ask(&app, session.token()).await;
        assert_eq!(found["reason"], "validation", "{found}");
        let text = found["detail"].as_str().unwrap();
        assert!(text.contains(detail), "{text}");
        assert_eq!(found["user_id"], person.id().to_string(), "{found}");
    }

    let (local_hanko, app) = start_with(&lost_store).await;
    let found = ask(&app, local_hanko.sign_in(&person).token()).await;
    assert_eq!(found["reason"], "revocations", "{found}");
    assert_eq!(found["user_id"], person.id().to_string(), "{found}");
}

#[tokio::test]
async fn rejected_webhook_has_a_reason() {
    let (local_hanko, app, log, _guard) = start(&[]).await;
    let session = local_hanko.sign_in(&ada());
    for (body, status, reason) in [
        ("{".to_owned(), 400, "malformed"),
        (
            format!(r#"{{"token":"{}","event":"user"}}"#, session.token()),
            401,
            "wrong-kind",
        ),
    ] {
        let request = app
            .request(Method::POST, "/webhooks/hanko")
            .header("content-type", "application/json")
            .body(body);
        let found = line(&log, request).await;
        assert_eq!(found["status"], status, "{found}");
        assert_eq!(found["reason"], reason, "{found}");
    }
    let text = app.request(Method::POST, "/webhooks/hanko").body("text");
    let found = line(&log, text).await;
    assert_eq!(found["status"], 415, "{found}");
    assert_eq!(found["reason"], "unsupported-media-type", "{found}");
}

#[tokio::test]
async fn every_rejection_is_a_line_however_many_there_are() {
    let (_local_hanko, app, log, _guard) = start(&[]).await;
    for _ in 0..30 {
        line(&log, app.get("/protected").bearer_auth("flood")).await;
    }
    assert_eq!(lines_of(&log, "access").len(), 30);
}

#[tokio::test]
async fn route_is_a_template_and_nothing_of_the_request_is_logged() {
    let (local_hanko, app, log, _guard) = start(&[]).await;
    let token = local_hanko
        .sign_in(&Person::with_email("secret@example.com"))
        .token;
    for (method, path, route) in [
        ("GET", "/", "/"),
        ("HEAD", "/protected", "/protected"),
        ("POST", "/protected", "/protected"),
        ("GET", "/docs", "/docs"),
        ("GET", "/livez", "/livez"),
        ("GET", "/secret/path", "unmatched"),
        ("GET", "/protected?secret=value", "/protected"),
        ("SECRET", "/protected", "/protected"),
        ("DELETE", "/protected/secret", "unmatched"),
    ] {
        let request = app
            .request(Method::from_bytes(method.as_bytes()).unwrap(), path)
            .header("cookie", format!("hanko={token}; other=secret"))
            .header("user-agent", "secret")
            .header("x-request-id", "secret with a space");
        let line = line(&log, request).await;
        assert_eq!(line["route"], route, "{method} {path}: {line}");
        let shown = if method == "SECRET" { "other" } else { method };
        assert_eq!(line["method"], shown, "{line}");
    }
    let text = log.text();
    assert!(!text.to_lowercase().contains("secret"), "{text}");
    for segment in token.split('.') {
        assert!(!text.contains(segment), "{text}");
    }
}

#[tokio::test]
async fn preflight_and_cross_site_requests_are_lines() {
    let (local_hanko, app, log, _guard) = start(&[]).await;
    let preflight = app
        .request(Method::OPTIONS, "/me")
        .header("origin", "https://evil.example")
        .header("access-control-request-method", "GET");
    let found = line(&log, preflight).await;
    assert_eq!(
        (&found["method"], &found["route"]),
        (&"OPTIONS".into(), &"/me".into())
    );
    let token = local_hanko.sign_in(&ada()).token;
    let cross_site = app
        .request(Method::POST, "/dev")
        .header("origin", "https://evil.example")
        .header("cookie", format!("hanko={token}"));
    assert_eq!(line(&log, cross_site).await["status"], 404);
}

#[tokio::test]
async fn limit_is_the_reason_of_its_rejection() {
    let (_local_hanko, app, log, _guard) = start(&[]).await;
    let client = reqwest::Client::builder()
        .no_proxy()
        .http2_prior_knowledge()
        .build()
        .unwrap();
    let mut request = client.get(app.url("/"));
    for index in 0..101 {
        request = request.header(format!("x-{index}"), "1");
    }
    let line = line(&log, request).await;
    assert_eq!(line["status"], 431, "{line}");
    assert_eq!(line["reason"], "header-fields-too-large");
    assert_eq!(line["detail"], "Header fields too large");
}

#[tokio::test]
async fn client_is_found_behind_trusted_proxies() {
    let forwarded = "203.0.113.9, 198.51.100.7";
    for (variables, client) in [
        (&[][..], "127.0.0.1"),
        (&[("TRUSTED_PROXIES", "127.0.0.0/8")], "198.51.100.7"),
        (
            &[("TRUSTED_PROXIES", "127.0.0.1,198.51.100.0/24")],
            "203.0.113.9",
        ),
    ] {
        let (_local_hanko, app, log, _guard) = start(variables).await;
        let request = app.get("/").header("x-forwarded-for", forwarded);
        assert_eq!(line(&log, request).await["client"], client);
    }
}

#[tokio::test]
async fn access_log_is_off_by_default() {
    let (log, _guard) = json_log();
    let (_local_hanko, app) = start_with(&[]).await;
    assert_eq!(send(app.get("/protected")).await.status(), 401);
    assert!(lines_of(&log, "access").is_empty(), "{}", log.text());
    let rejected = lines_of(&log, "request_rejected");
    assert_eq!(rejected.len(), 1, "{}", log.text());
    assert_eq!(rejected[0]["reason"], "missing-credentials");
    assert_eq!(rejected[0]["detail"], "no credentials were sent");
}

/// The connection is closed while its handler waits for Hanko.
#[tokio::test]
async fn request_without_a_response_is_a_line_too() {
    let (local_hanko, app, log, _guard) = start(&[("HANKO_SESSION_MODE", "stateful")]).await;
    let person = ada();
    let session = local_hanko.sign_in(&person);
    let _held = local_hanko.hold_validations();
    let client = reqwest::Client::builder()
        .no_proxy()
        .http2_prior_knowledge()
        .build()
        .unwrap();
    let request = client.get(app.url("/me")).bearer_auth(&session.token);
    let response = tokio::spawn(request.send());
    within(async {
        while local_hanko.validate_requests() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    response.abort();
    drop(client);
    let line = within(async {
        loop {
            if let Some(line) = lines_of(&log, "access").pop() {
                return line;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(line["status"], Value::Null, "{line}");
    assert_eq!(line["reason"], "cut-off");
    assert_eq!(line["user_id"], person.id().to_string(), "{line}");
}

#[handler]
fn teapot() -> StatusCode {
    StatusCode::IM_A_TEAPOT
}

#[tokio::test]
async fn edge_of_a_plain_app_has_the_access_log_too() {
    let (log, _guard) = json_log();
    let local_hanko = local_hanko(&poem_hanko::ManualClock::new(crate::support::START)).await;
    let hanko = hanko_builder(local_hanko.hanko_url()).build().unwrap();
    let proxies: TrustedProxies = "10.0.0.0/8".parse().unwrap();
    let edge = Edge::new(&hanko).access_log(true).trusted_proxies(proxies);
    let client = TestClient::new(Route::new().at("/", poem::get(teapot)).with(edge));
    let response = client.get("/").send().await;
    response.assert_status(StatusCode::IM_A_TEAPOT);
    let lines = lines_of(&log, "access");
    assert_eq!(lines.len(), 1, "{}", log.text());
    assert_eq!(lines[0]["status"], 418);
    // It has no routes.
    assert_eq!(lines[0]["route"], "unmatched");
}
