//! How sessions end: by webhooks, by revocations, and in stateful mode.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use poem_hanko::{
    AuthenticateError, ClaimError, Hanko, HankoUrl, KeySetError, ManualClock, PlainHttp, Session,
    SessionId, SessionMode, SessionPolicy, TokenError, UserId, ValidationError, WebhookError,
    testing::{LocalHanko, SESSION_LIFESPAN, SignedIn},
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    App, START, ada, assert_problem, hanko_builder, header, local_hanko, report, send, start,
    start_with, within,
};
use scripted::Script;

const LOGOUT: &str = "session.delete.explicit.logout";

async fn post_webhook(app: &App, body: &Value) -> reqwest::Response {
    send(app.request(Method::POST, "/webhooks/hanko").json(body)).await
}

#[track_caller]
fn logout_body(local_hanko: &LocalHanko, session: &SignedIn) -> Value {
    let data = local_hanko.session_data(session.session_id).unwrap();
    local_hanko.webhook_body(LOGOUT, &data)
}

async fn status(app: &App, session: &SignedIn) -> u16 {
    app.get_with_bearer("/protected", &session.token)
        .await
        .status()
        .as_u16()
}

#[tokio::test]
async fn a_session_ends_with_the_answer_to_its_webhook() {
    let (local_hanko, app) = start().await;
    let ended = local_hanko.sign_in(&ada());
    let other = local_hanko.sign_in(&ada());
    assert_eq!(status(&app, &ended).await, 200);

    let response = post_webhook(&app, &logout_body(&local_hanko, &ended)).await;
    assert_eq!(response.status(), 204);
    let refused = app.get_with_bearer("/protected", &ended.token).await;
    assert_eq!(
        header(&refused, "www-authenticate").as_deref(),
        Some(r#"Bearer error="invalid_token", error_description="the session has ended""#)
    );
    assert_problem(refused, 401, "invalid-token").await;
    assert_eq!(status(&app, &other).await, 200);
}

#[tokio::test]
async fn only_events_below_session_delete_end_a_session() {
    let (local_hanko, app) = start().await;
    for (event, expected) in [
        ("session.delete", 401),
        ("session.delete.explicit", 401),
        ("session.delete.explicit.revoke", 401),
        ("session.delete.admin.revoke", 401),
        ("session.delete.passive.expire", 401),
        ("session.delete.passive.limit", 401),
        ("session.delete.of.the.future", 401),
        ("session", 200),
        ("session.create.flow", 200),
        ("session.deleted", 200),
        ("user.login", 200),
        ("something.new", 200),
    ] {
        let session = local_hanko.sign_in(&ada());
        let data = local_hanko.session_data(session.session_id).unwrap();
        let body = local_hanko.webhook_body(event, &data);
        assert_eq!(post_webhook(&app, &body).await.status(), 204, "{event}");
        assert_eq!(status(&app, &session).await, expected, "{event}");
    }
}

#[tokio::test]
async fn deleted_user_loses_earlier_sessions_and_keeps_later_ones() {
    let (local_hanko, app) = start().await;
    let person = ada();
    let before = local_hanko.sign_in(&person);
    let bystander = local_hanko.sign_in(&ada());
    assert_eq!(status(&app, &before).await, 200);
    local_hanko.send_webhooks_to(app.url("/webhooks/hanko"));
    local_hanko.delete_user(&person).await.unwrap();
    assert_eq!(status(&app, &before).await, 401);
    assert_eq!(status(&app, &bystander).await, 200);

    app.clock.advance(Duration::from_secs(1));
    let after = local_hanko.sign_in(&person);
    assert_eq!(status(&app, &after).await, 200);
    assert_eq!(status(&app, &before).await, 401);
}

#[tokio::test]
async fn bad_webhooks_are_refused_and_change_nothing() {
    let (local_hanko, app) = start_with(&[("HANKO_AUDIENCE", "localhost")]).await;
    let stranger = LocalHanko::builder()
        .clock(Arc::new(app.clock.clone()))
        .start()
        .await
        .unwrap();
    let session = local_hanko.sign_in(&ada());
    let good = logout_body(&local_hanko, &session);
    let data = local_hanko.session_data(session.session_id).unwrap();
    let now = START.as_secs();
    let signed = |change: &dyn Fn(&mut serde_json::Map<String, Value>)| {
        let mut claims = json!({
            "sub": "hanko webhooks", "iat": now, "exp": now + 300, "aud": ["localhost"],
            "evt": LOGOUT, "data": data,
        });
        change(claims.as_object_mut().unwrap());
        let token = local_hanko.sign_claims(claims.as_object().unwrap());
        json!({ "token": token, "event": LOGOUT })
    };
    let forged = json!({ "token": stranger.webhook_body(LOGOUT, &data)["token"], "event": LOGOUT });
    for (name, body) in [
        ("forged", forged),
        (
            "mismatched",
            json!({ "token": good["token"], "event": "session.delete" }),
        ),
        (
            "session token",
            json!({ "token": session.token, "event": LOGOUT }),
        ),
        (
            "expired",
            signed(&|claims| {
                claims.insert("exp".into(), json!(now - 30));
            }),
        ),
        (
            "without exp",
            signed(&|claims| {
                claims.remove("exp");
            }),
        ),
        (
            "without iat",
            signed(&|claims| {
                claims.remove("iat");
            }),
        ),
        (
            "without evt",
            signed(&|claims| {
                claims.remove("evt");
            }),
        ),
        (
            "numeric evt",
            signed(&|claims| {
                claims.insert("evt".into(), json!(1));
            }),
        ),
        (
            "other subject",
            signed(&|claims| {
                claims.insert("sub".into(), json!("hanko"));
            }),
        ),
        (
            "other audience",
            signed(&|claims| {
                claims.insert("aud".into(), json!("other"));
            }),
        ),
        ("no token", json!({ "token": "", "event": LOGOUT })),
    ] {
        let response = post_webhook(&app, &body).await;
        assert_eq!(response.status(), 401, "{name}");
        assert!(header(&response, "www-authenticate").is_some(), "{name}");
        assert_problem(response, 401, "invalid-token").await;
        assert_eq!(app.hanko.revocations(), 0, "{name}");
    }
    assert_eq!(status(&app, &session).await, 200);
    assert_eq!(post_webhook(&app, &good).await.status(), 204);
}

#[tokio::test]
async fn webhook_bodies_are_json_of_a_bounded_size() {
    let (_local_hanko, app) = start().await;
    let post = |content_type: &'static str, body: Vec<u8>| {
        send(
            app.request(Method::POST, "/webhooks/hanko")
                .header("content-type", content_type)
                .body(body),
        )
    };
    for malformed in [
        "",
        "{",
        "[]",
        r#"["t","e"]"#,
        "null",
        r#"{"token":1,"event":"e"}"#,
        r#"{"token":"t"}"#,
        r#"{"token":"a","token":"b","event":"e"}"#,
    ] {
        let response = post("application/json", malformed.into()).await;
        assert_problem(response, 400, "bad-request").await;
    }
    let large = vec![b' '; 256 * 1024 + 1];
    assert_problem(
        post("application/json", large).await,
        413,
        "content-too-large",
    )
    .await;
    assert_problem(
        post("text/plain", b"{}".to_vec()).await,
        415,
        "unsupported-media-type",
    )
    .await;
}

#[tokio::test]
async fn a_webhook_may_be_far_larger_than_a_session_token() {
    let (local_hanko, app) = start().await;
    let data = json!({ "subject": "Hello", "body": "x".repeat(190_000) });
    let mail = local_hanko.webhook_body("email.send", &data);
    assert!(mail["token"].as_str().unwrap().len() > 250_000);
    assert_eq!(post_webhook(&app, &mail).await.status(), 204);

    // As a credential, a token of that size is rejected before it is parsed.
    let session = local_hanko.sign_in(&ada().claim("notes", "x".repeat(20_000)));
    let error = app.hanko.authenticate(&session.token).await.unwrap_err();
    assert_eq!(error, AuthenticateError::Token(TokenError::TooLarge));
}

#[tokio::test]
async fn a_webhook_needs_no_issuer_where_sessions_do() {
    let (local_hanko, app) = start_with(&[("HANKO_ISSUER", "https://issuer.example")]).await;
    let session = local_hanko.sign_in(&ada());
    assert_eq!(
        post_webhook(&app, &logout_body(&local_hanko, &session))
            .await
            .status(),
        204
    );
}

#[tokio::test]
async fn repeated_webhooks_are_harmless() {
    let (local_hanko, app) = start().await;
    let session = local_hanko.sign_in(&ada());
    let body = logout_body(&local_hanko, &session);
    for _ in 0..3 {
        assert_eq!(post_webhook(&app, &body).await.status(), 204);
    }
    assert_eq!(app.hanko.revocations(), 1);
    assert_eq!(status(&app, &session).await, 401);
}

#[tokio::test]
async fn signed_event_without_a_subject_changes_nothing() {
    let (local_hanko, app) = start().await;
    for data in [
        json!(null),
        json!({}),
        json!({ "id": "x" }),
        json!({ "id": 1 }),
        json!([]),
    ] {
        for event in [LOGOUT, "user.delete"] {
            let body = local_hanko.webhook_body(event, &data);
            assert_eq!(
                post_webhook(&app, &body).await.status(),
                204,
                "{event} {data}"
            );
        }
    }
    assert_eq!(app.hanko.revocations(), 0);
}

#[tokio::test]
async fn embedding_app_receives_only_verified_events() {
    let clock = ManualClock::new(START);
    let local_hanko = local_hanko(&clock).await;
    let heard = Arc::new(Mutex::new(Vec::new()));
    let listener = Arc::clone(&heard);
    let hanko = hanko_builder(local_hanko.hanko_url())
        .clock(Arc::new(clock))
        .on_event(move |event| {
            listener.lock().unwrap().push(event.kind().to_string());
            async { Ok::<_, String>(()) }
        })
        .build()
        .unwrap();
    for event in ["user.create", "something.new"] {
        let body = local_hanko.webhook_body(event, &json!({}));
        hanko
            .receive_webhook(body.to_string().as_bytes())
            .await
            .unwrap();
        let mut wrong = body;
        wrong["event"] = json!("user");
        let error = hanko
            .receive_webhook(wrong.to_string().as_bytes())
            .await
            .unwrap_err();
        assert!(matches!(
            error,
            WebhookError::Token(TokenError::MalformedClaim("evt"))
        ));
    }
    within(async {
        while heard.lock().unwrap().len() < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(*heard.lock().unwrap(), ["user.create", "something.new"]);
}

/// 1,000 cached sessions, of which 500 end one by one while 50 clients send requests with all of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_the_revoked_sessions_are_rejected_under_load() {
    const SESSIONS: usize = 1000;
    const CLIENTS: usize = 50;

    let (local_hanko, app) = start().await;
    local_hanko.set_session_limit(SESSIONS);
    let person = ada();
    let sessions: Arc<Vec<SignedIn>> = Arc::new(
        (0..SESSIONS)
            .map(|_| local_hanko.sign_in(&person))
            .collect(),
    );
    let app = Arc::new(app);
    for session in sessions.iter() {
        assert_eq!(status(&app, session).await, 200);
    }
    // 1: its webhook was sent; 2: it got its response.
    let revoked: Arc<Vec<std::sync::atomic::AtomicU8>> =
        Arc::new((0..SESSIONS).map(|_| 0.into()).collect());
    let is_done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (app, sessions, revoked, is_done) = (
                Arc::clone(&app),
                Arc::clone(&sessions),
                Arc::clone(&revoked),
                Arc::clone(&is_done),
            );
            tokio::spawn(async move {
                use std::sync::atomic::Ordering::SeqCst;
                let mut requests = 0_u32;
                let mut index = client * 17;
                while !is_done.load(SeqCst) {
                    index = (index + 7) % SESSIONS;
                    let before = revoked[index].load(SeqCst);
                    let status = status(&app, &sessions[index]).await;
                    let after = revoked[index].load(SeqCst);
                    match (before, after) {
                        (2, _) => assert_eq!(status, 401, "a revoked session was let in"),
                        (0, 0) => assert_eq!(status, 200, "a live session was refused"),
                        _ => assert!(matches!(status, 200 | 401), "{status}"),
                    }
                    requests += 1;
                }
                requests
            })
        })
        .collect();
    for index in (0..SESSIONS).step_by(2) {
        use std::sync::atomic::Ordering::SeqCst;
        let body = logout_body(&local_hanko, &sessions[index]);
        revoked[index].store(1, SeqCst);
        assert_eq!(post_webhook(&app, &body).await.status(), 204);
        revoked[index].store(2, SeqCst);
        assert_eq!(status(&app, &sessions[index]).await, 401);
    }
    is_done.store(true, std::sync::atomic::Ordering::SeqCst);
    let mut requests = 0;
    for client in clients {
        requests += client.await.unwrap();
    }
    report(&format!(
        "{requests} requests by {CLIENTS} clients while {} sessions ended",
        SESSIONS / 2
    ));
    for (index, session) in sessions.iter().enumerate() {
        let expected = if index % 2 == 0 { 401 } else { 200 };
        assert_eq!(status(&app, session).await, expected);
    }
}

fn stateful(local_hanko_url: &str, clock: &ManualClock, time_to_live: Duration) -> Hanko {
    let tenant = HankoUrl::parse(local_hanko_url, PlainHttp::LoopbackOnly);
    hanko_builder(tenant.unwrap())
        .clock(Arc::new(clock.clone()))
        .session_policy(SessionPolicy {
            mode: SessionMode::Stateful,
            cache_ttl: time_to_live,
            ..SessionPolicy::default()
        })
        .build()
        .unwrap()
}

#[tokio::test]
async fn stateful_mode_rejects_an_ended_session_after_the_ttl() {
    let (local_hanko, app) = start_with(&[
        ("HANKO_SESSION_MODE", "stateful"),
        ("SESSION_CACHE_TTL", "30s"),
    ])
    .await;
    let session = local_hanko.sign_in(&ada());
    assert_eq!(status(&app, &session).await, 200);
    // No webhook is configured.
    local_hanko.end_session(session.session_id).await.unwrap();
    app.clock.advance(Duration::from_secs(29));
    assert_eq!(status(&app, &session).await, 200);
    assert_eq!(local_hanko.validate_requests(), 1);
    app.clock.advance(Duration::from_secs(1));
    assert_eq!(status(&app, &session).await, 401);
    assert_eq!(local_hanko.validate_requests(), 2);
}

#[tokio::test]
async fn stateful_mode_asks_every_time_where_nothing_may_be_reused() {
    let (local_hanko, app) = start_with(&[
        ("HANKO_SESSION_MODE", "stateful"),
        ("SESSION_CACHE_TTL", "0s"),
    ])
    .await;
    let session = local_hanko.sign_in(&ada());
    for asked in 1..=3 {
        assert_eq!(status(&app, &session).await, 200);
        assert_eq!(local_hanko.validate_requests(), asked);
    }
    local_hanko.end_session(session.session_id).await.unwrap();
    assert_eq!(status(&app, &session).await, 401);
}

#[tokio::test]
async fn a_session_that_the_webhook_ended_is_refused_without_asking() {
    let (local_hanko, app) = start_with(&[
        ("HANKO_SESSION_MODE", "stateful"),
        ("SESSION_CACHE_TTL", "0s"),
    ])
    .await;
    let session = local_hanko.sign_in(&ada());
    let body = logout_body(&local_hanko, &session);
    assert_eq!(post_webhook(&app, &body).await.status(), 204);
    assert_eq!(status(&app, &session).await, 401);
    assert_eq!(local_hanko.validate_requests(), 0);
}

#[tokio::test]
async fn stateful_mode_never_asks_about_a_token_that_is_not_verified() {
    let (local_hanko, app) = start_with(&[("HANKO_SESSION_MODE", "stateful")]).await;
    let stranger = LocalHanko::builder().start().await.unwrap();
    let forged = stranger.sign_in(&ada());
    assert_eq!(status(&app, &forged).await, 401);
    assert_eq!(local_hanko.validate_requests(), 0);
}

/// A Hanko whose JWK Set is that of a local Hanko, and whose answers about sessions the test sets.
mod scripted {
    #![allow(
        clippy::needless_pass_by_value,
        reason = "Poem hands extractors to its handlers by value"
    )]

    use super::{Arc, Duration, LocalHanko, Value};
    use poem::{
        EndpointExt, IntoResponse, Response, Route, Server, get, handler,
        http::StatusCode,
        listener::{Acceptor, TcpAcceptor},
        post,
        web::{Data, Json},
    };
    use tokio::sync::{Notify, Semaphore};

    pub(super) struct Script {
        pub(super) key_set: std::sync::Mutex<Value>,
        /// The status, and the body or the location of a redirect.
        pub(super) answer: std::sync::Mutex<(StatusCode, String)>,
        /// Each validation request gets one of these.
        pub(super) answers: Semaphore,
        pub(super) asked: std::sync::atomic::AtomicU32,
        pub(super) was_asked: Notify,
    }

    #[handler]
    fn jwks(script: Data<&Arc<Script>>) -> Json<Value> {
        Json(script.key_set.lock().unwrap().clone())
    }

    #[handler]
    async fn validate(script: Data<&Arc<Script>>) -> Response {
        script
            .asked
            .fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        script.was_asked.notify_waiters();
        script.answers.acquire().await.unwrap().forget();
        let (status, body) = script.answer.lock().unwrap().clone();
        let location = status.is_redirection().then(|| body.clone());
        let mut response = body
            .with_content_type("application/json")
            .with_status(status)
            .into_response();
        if let Some(location) = location {
            let location = location.parse().unwrap();
            response.headers_mut().insert("location", location);
        }
        response
    }

    pub(super) fn start(local_hanko: &LocalHanko) -> (String, Arc<Script>) {
        let script = Arc::new(Script {
            key_set: std::sync::Mutex::new(local_hanko.key_set()),
            answer: std::sync::Mutex::new((StatusCode::OK, String::new())),
            answers: Semaphore::new(0),
            asked: 0.into(),
            was_asked: Notify::new(),
        });
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let acceptor = TcpAcceptor::from_std(listener).unwrap();
        let address = *acceptor.local_addr()[0].as_socket_addr().unwrap();
        let routes = Route::new()
            .at("/.well-known/jwks.json", get(jwks))
            .at("/sessions/validate", post(validate))
            .data(Arc::clone(&script));
        tokio::spawn(
            Server::new_with_acceptor(acceptor).run_with_graceful_shutdown(
                routes,
                std::future::pending(),
                Some(Duration::ZERO),
            ),
        );
        (format!("http://{address}"), script)
    }
}

fn alive(session: &SignedIn) -> String {
    alive_of(session.session_id)
}

fn alive_of(session_id: uuid::Uuid) -> String {
    json!({ "is_valid": true, "claims": { "session_id": session_id } }).to_string()
}

#[tokio::test]
async fn unexpected_responses_are_never_positive_answers() {
    let clock = ManualClock::new(START);
    let local_hanko = local_hanko(&clock).await;
    let session = local_hanko.sign_in(&ada());
    let (url, script) = scripted::start(&local_hanko);
    let hanko = stateful(&url, &clock, Duration::ZERO);
    let large = format!(r#"{{"is_valid":true,"x":"{}"}}"#, "x".repeat(70_000));
    let other = alive_of(uuid::Uuid::nil());
    let with = |member: &str, value: Value| {
        let mut answer: Value = serde_json::from_str(&alive(&session)).unwrap();
        answer[member] = value;
        answer.to_string()
    };
    for (status, body) in [
        (500, alive(&session)),
        (400, json!({ "is_valid": true }).to_string()),
        (302, String::new()),
        (204, String::new()),
        (201, alive(&session)),
        (200, String::new()),
        (200, "true".to_owned()),
        (200, json!({ "is_valid": "true" }).to_string()),
        (200, json!({ "is_valid": 1 }).to_string()),
        (200, json!({ "is_valid": true }).to_string()),
        (200, json!({ "is_valid": true, "claims": null }).to_string()),
        (200, json!({ "is_valid": true, "claims": {} }).to_string()),
        (200, json!({}).to_string()),
        (200, json!([false]).to_string()),
        (
            200,
            json!([true, { "session_id": session.session_id }]).to_string(),
        ),
        (
            200,
            json!({ "is_valid": true, "claims": [session.session_id] }).to_string(),
        ),
        (200, r#"{"is_valid":false,"is_valid":false}"#.to_owned()),
        (200, with("expiration_time", json!(1))),
        (200, with("idle_expires_at", json!("soon"))),
        (200, large),
        (200, other),
    ] {
        *script.answer.lock().unwrap() = (status.try_into().unwrap(), body.clone());
        script.answers.add_permits(1);
        let error = hanko.authenticate(&session.token).await.unwrap_err();
        assert!(
            matches!(error, AuthenticateError::Validation(_)),
            "{status} {body}: {error}"
        );
        assert!(error.retry_after().is_some());
    }
    *script.answer.lock().unwrap() = (200.try_into().unwrap(), alive(&session));
    script.answers.add_permits(1);
    assert!(hanko.authenticate(&session.token).await.is_ok());
}

#[tokio::test]
async fn a_redirect_takes_no_token_elsewhere() {
    let clock = ManualClock::new(START);
    let local_hanko = local_hanko(&clock).await;
    let session = local_hanko.sign_in(&ada());
    let (url, script) = scripted::start(&local_hanko);
    let (elsewhere, trap) = scripted::start(&local_hanko);
    *trap.answer.lock().unwrap() = (200.try_into().unwrap(), alive(&session));
    trap.answers.add_permits(5);
    let hanko = stateful(&url, &clock, Duration::ZERO);
    for status in [301, 302, 303, 307, 308] {
        let status = status.try_into().unwrap();
        let location = format!("{elsewhere}/sessions/validate");
        *script.answer.lock().unwrap() = (status, location);
        script.answers.add_permits(1);
        assert_eq!(
            hanko.authenticate(&session.token).await.unwrap_err(),
            AuthenticateError::Validation(ValidationError::Status(status))
        );
    }
    assert_eq!(trap.asked.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_hanging_hanko_is_503_within_the_timeout() {
    let clock = ManualClock::new(START);
    let local_hanko = local_hanko(&clock).await;
    let session = local_hanko.sign_in(&ada());
    let (url, script) = scripted::start(&local_hanko);
    let app = App::start(&url, &clock, &[("HANKO_SESSION_MODE", "stateful")]);
    app.hanko.wait_for_key_set_fetches(1).await;
    let asked = script.was_asked.notified();
    let request = app.get("/protected").bearer_auth(&session.token);
    let request = tokio::spawn(send(request));
    asked.await;
    clock.advance(Duration::from_secs(5));
    assert_problem(request.await.unwrap(), 503, "authentication-unavailable").await;
}

#[tokio::test]
async fn two_hundred_requests_of_one_session_ask_once() {
    let clock = ManualClock::new(START);
    let local_hanko = local_hanko(&clock).await;
    let session = local_hanko.sign_in(&ada());
    let (url, script) = scripted::start(&local_hanko);
    let hanko = stateful(&url, &clock, Duration::from_secs(30));
    *script.answer.lock().unwrap() = (200.try_into().unwrap(), alive(&session));
    let asked = script.was_asked.notified();
    let requests: Vec<_> = (0..200)
        .map(|_| {
            let (hanko, token) = (hanko.clone(), session.token.clone());
            tokio::spawn(async move { hanko.authenticate(&token).await })
        })
        .collect();
    asked.await;
    // A second validation request would also get a response.
    script.answers.add_permits(200);
    for request in requests {
        assert!(request.await.unwrap().is_ok());
    }
    assert_eq!(script.asked.load(std::sync::atomic::Ordering::SeqCst), 1);
}

/// Authenticates a session, runs `happen` before Hanko's answer arrives, and returns the outcome.
async fn while_the_answer_is_on_its_way(
    local_hanko: &LocalHanko,
    clock: &ManualClock,
    happen: impl AsyncFnOnce(&Hanko, &Script, &SignedIn),
) -> Result<Session, AuthenticateError> {
    let session = local_hanko.sign_in(&ada());
    let (url, script) = scripted::start(local_hanko);
    let tenant = HankoUrl::parse(&url, PlainHttp::LoopbackOnly).unwrap();
    let hanko = hanko_builder(tenant)
        .clock(Arc::new(clock.clone()))
        .session_policy(SessionPolicy {
            mode: SessionMode::Stateful,
            // The answer may take any time.
            validation_timeout: Duration::from_hours(100),
            ..SessionPolicy::default()
        })
        .build()
        .unwrap();
    *script.answer.lock().unwrap() = (200.try_into().unwrap(), alive(&session));
    let asked = script.was_asked.notified();
    let request = {
        let (hanko, token) = (hanko.clone(), session.token.clone());
        tokio::spawn(async move { hanko.authenticate(&token).await })
    };
    within(asked).await;
    happen(&hanko, &script, &session).await;
    script.answers.add_permits(1);
    within(request).await.unwrap()
}

#[tokio::test]
async fn a_revocation_wins_over_an_answer_that_is_on_its_way() {
    let clock = ManualClock::new(START);
    let local_hanko = local_hanko(&clock).await;
    let outcome =
        while_the_answer_is_on_its_way(&local_hanko, &clock, async |hanko, _, session| {
            let body = logout_body(&local_hanko, session).to_string();
            hanko.receive_webhook(body.as_bytes()).await.unwrap();
        });
    assert_eq!(outcome.await.unwrap_err(), AuthenticateError::SessionEnded);
}

#[tokio::test]
async fn token_that_expires_during_validation_is_rejected() {
    let clock = ManualClock::new(START);
    let local_hanko = local_hanko(&clock).await;
    let outcome = while_the_answer_is_on_its_way(&local_hanko, &clock, async |_, _, _| {
        clock.advance(SESSION_LIFESPAN + Duration::from_secs(30));
    });
    assert_eq!(
        outcome.await.unwrap_err(),
        AuthenticateError::Token(TokenError::Expired)
    );
}

#[tokio::test]
async fn token_is_rejected_if_its_key_leaves_during_validation() {
    let clock = ManualClock::new(START);
    let local_hanko = local_hanko(&clock).await;
    let outcome = while_the_answer_is_on_its_way(&local_hanko, &clock, async |hanko, script, _| {
        local_hanko.rotate_key().await.unwrap();
        local_hanko.retire_old_keys();
        *script.key_set.lock().unwrap() = local_hanko.key_set();
        clock.advance(Duration::from_mins(10));
        within(hanko.wait_for_key_set_fetches(2)).await;
    });
    assert_eq!(
        outcome.await.unwrap_err(),
        AuthenticateError::Token(TokenError::UnknownKey)
    );
}

#[tokio::test]
async fn keys_that_grow_too_old_during_validation_cause_503() {
    let clock = ManualClock::new(START);
    let local_hanko = local_hanko(&clock).await;
    let outcome = while_the_answer_is_on_its_way(&local_hanko, &clock, async |_, script, _| {
        // The endpoint no longer returns usable keys.
        *script.key_set.lock().unwrap() = Value::Null;
        clock.advance(Duration::from_hours(24) + Duration::from_secs(1));
    });
    assert!(matches!(
        outcome.await.unwrap_err(),
        AuthenticateError::KeySet(KeySetError { .. })
    ));
}

#[tokio::test]
async fn the_question_outlives_the_caller_who_asked_it() {
    let clock = ManualClock::new(START);
    let local_hanko = local_hanko(&clock).await;
    let session = local_hanko.sign_in(&ada());
    let (url, script) = scripted::start(&local_hanko);
    let hanko = stateful(&url, &clock, Duration::from_secs(30));
    *script.answer.lock().unwrap() = (200.try_into().unwrap(), alive(&session));
    let asked = script.was_asked.notified();
    let call =
        |hanko: Hanko, token: String| tokio::spawn(async move { hanko.authenticate(&token).await });
    let first = call(hanko.clone(), session.token.clone());
    asked.await;
    first.abort();
    assert!(first.await.is_err());
    let second = call(hanko.clone(), session.token.clone());
    script.answers.add_permits(1);
    assert!(second.await.unwrap().is_ok());
    assert_eq!(script.asked.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[tokio::test]
async fn cached_token_is_rejected_once_it_expires_or_its_key_leaves() {
    for capacity in ["0", "10000"] {
        let (local_hanko, app) = start_with(&[("TOKEN_CACHE_CAPACITY", capacity)]).await;
        let session = local_hanko.sign_in(&ada());
        assert_eq!(status(&app, &session).await, 200);
        local_hanko.rotate_key().await.unwrap();
        local_hanko.retire_old_keys();
        let of_new_key = local_hanko.sign_in(&ada());
        // The unknown `kid` causes another fetch of the set.
        assert_eq!(status(&app, &of_new_key).await, 200);
        assert_eq!(status(&app, &session).await, 401, "capacity {capacity}");
        app.clock
            .advance(SESSION_LIFESPAN + Duration::from_secs(29));
        assert_eq!(status(&app, &of_new_key).await, 200, "capacity {capacity}");
        app.clock.advance(Duration::from_secs(1));
        assert_eq!(status(&app, &of_new_key).await, 401, "capacity {capacity}");
    }
}

#[tokio::test]
async fn remembered_tokens_are_unavailable_once_the_keys_are_too_old() {
    let (local_hanko, app) = start().await;
    let session = local_hanko.sign_in(&ada());
    assert_eq!(status(&app, &session).await, 200);
    let url = local_hanko.url();
    drop(local_hanko);
    wait_until_closed(&url).await;
    app.clock.advance(Duration::from_hours(11));
    assert_eq!(status(&app, &session).await, 200);
    app.clock
        .advance(Duration::from_hours(13) + Duration::from_secs(1));
    let error = app.hanko.authenticate(&session.token).await.unwrap_err();
    assert!(
        matches!(error, AuthenticateError::KeySet(KeySetError { .. })),
        "{error}"
    );
}

async fn wait_until_closed(url: &str) {
    let address = url.trim_start_matches("http://");
    while tokio::net::TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn claims_are_read_into_types_of_the_application() {
    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct Claims {
        sub: UserId,
        session_id: SessionId,
        exp: u64,
        aud: Vec<String>,
        role: String,
        plan: Plan,
        absent: Option<bool>,
    }

    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct Plan {
        seats: u32,
    }

    let clock = ManualClock::new(START);
    let local_hanko = local_hanko(&clock).await;
    let hanko = hanko_builder(local_hanko.hanko_url())
        .clock(Arc::new(clock.clone()))
        .build()
        .unwrap();
    let custom = json!({ "role": "admin", "plan": { "seats": 3 }, "nothing": null });
    let person = ada().claims(custom.as_object().unwrap().clone());
    let signed_in = local_hanko.sign_in(&person);
    let session = hanko.authenticate(&signed_in.token).await.unwrap();

    let claims: Claims = session.claims().unwrap();
    let expected = Claims {
        sub: session.user_id(),
        session_id: session.id(),
        exp: session.expires_at().since_epoch().as_secs(),
        aud: session.audience().to_vec(),
        role: "admin".to_owned(),
        plan: Plan { seats: 3 },
        absent: None,
    };
    assert_eq!(claims, expected);
    assert_eq!(session.claim("sub"), Ok(Some(session.user_id())));
    assert_eq!(session.claim("exp"), Ok(Some(expected.exp)));
    assert_eq!(session.claim("role"), Ok(Some("admin".to_owned())));
    assert_eq!(session.claim("/plan/seats"), Ok(Some(3)));
    assert_eq!(
        session.claim("/email/address"),
        Ok(Some("ada@example.com".to_owned()))
    );
    assert_eq!(session.claim::<bool>("nothing"), Ok(None));
    assert_eq!(session.claim::<bool>("absent"), Ok(None));
    let error = session.claim::<u8>("role").unwrap_err();
    assert_eq!(error, ClaimError::Malformed("role".to_owned()));
    let error = session.claims::<std::collections::HashMap<String, String>>();
    assert!(matches!(error, Err(ClaimError::Malformed(_))));
}

#[tokio::test]
async fn claims_are_in_the_same_order_in_every_process() {
    let (local_hanko, app) = start().await;
    let names: Vec<String> = (0..20)
        .map(|index| format!("c{}", index * 7 % 20))
        .collect();
    let person = names.iter().fold(ada(), |person, name| {
        person.claim(name.clone(), json!(name))
    });
    let token = local_hanko.sign_in(&person).token;
    let text = app
        .get_with_bearer("/me", &token)
        .await
        .text()
        .await
        .unwrap();
    let me: serde_json::Map<String, Value> = serde_json::from_str(&text).unwrap();
    let claims = me["claims"].as_object().unwrap();
    let mut sorted = names;
    sorted.push("plan".to_owned());
    sorted.sort();
    assert!(claims.keys().eq(sorted.iter()), "{text}");
    let members: Vec<&str> = me.keys().map(String::as_str).collect();
    let expected = [
        "user_id",
        "session_id",
        "email",
        "username",
        "issued_at",
        "expires_at",
        "audience",
        "claims",
    ];
    assert_eq!(members, expected);
}
