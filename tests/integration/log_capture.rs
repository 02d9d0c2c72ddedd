//! No token is ever logged, at any level, wherever it is received.

use poem_hanko::{LogFormat, ManualClock, TelemetryConfig, log_subscriber, testing::LocalHanko};
use serde_json::{Value, json};

use crate::support::{App, Log, ada, listen, send, start};

/// Asserts that none of these tokens is in the log, nor any of their segments.
#[track_caller]
fn assert_no_token(log: &str, tokens: &[String]) {
    for token in tokens {
        for segment in token.split('.') {
            // Nor its start, as in a truncated line.
            let beginning = segment.get(..40).unwrap_or(segment);
            assert!(
                !log.contains(beginning),
                "a segment was logged: {segment} of {token}"
            );
        }
    }
}

/// The same token with another signature.
fn forge(token: &str) -> String {
    let (signed, signature) = token.rsplit_once('.').expect("three segments");
    format!("{signed}.{}", signature.chars().rev().collect::<String>())
}

/// Webhooks as Hanko sends them, good and bad, with the status of the response.
fn webhooks(local_hanko: &LocalHanko) -> Vec<(Value, u16)> {
    let session = local_hanko.sign_in(&ada());
    let ended = local_hanko
        .session_data(session.session_id)
        .expect("a session");
    let good = local_hanko.webhook_body("session.delete", &ended);
    let told = local_hanko.webhook_body("user.update", &json!({ "id": ada().id().as_uuid() }));
    let nothing_ended = local_hanko.webhook_body("user.delete", &json!({ "name": "ada" }));
    let mut forged = told.clone();
    forged["token"] = forge(told["token"].as_str().expect("a token")).into();
    let mut misnamed = told.clone();
    misnamed["event"] = "user.login".into();
    let of_a_session = json!({ "token": session.token, "event": "session.delete" });
    let mut incomplete = told.clone();
    incomplete["event"].take();
    vec![
        (good, 204),
        (told, 204),
        (nothing_ended, 204),
        (forged, 401),
        (misnamed, 401),
        (of_a_session, 401),
        (incomplete, 400),
    ]
}

/// Uses sessions about which Hanko is asked: one active, one ended, and one for which Hanko fails.
/// Returns the tokens.
async fn use_sessions_in_stateful_mode(
    local_hanko: LocalHanko,
    clock: &ManualClock,
) -> Vec<String> {
    let app = App::start(
        &local_hanko.url(),
        clock,
        &[("HANKO_SESSION_MODE", "stateful")],
    );
    app.hanko.wait_for_key_set_fetches(1).await;
    let [alive, ended, unknown] = std::array::from_fn(|_| local_hanko.sign_in(&ada()));
    local_hanko
        .end_session(ended.session_id)
        .await
        .expect("no webhook to send");
    let status = async |token: &str| {
        let response = app.get_with_bearer("/protected", token).await;
        response.status().as_u16()
    };
    assert_eq!(status(&alive.token).await, 200);
    assert_eq!(status(&ended.token).await, 401);
    assert_eq!(status(&forge(&alive.token)).await, 401);
    assert_eq!(local_hanko.validate_requests(), 2);
    drop(local_hanko);
    assert_eq!(status(&unknown.token).await, 503);
    [alive, ended, unknown]
        .map(|session| session.token)
        .to_vec()
}

/// Sends good and bad tokens in every possible way, with all log levels on.
async fn assert_tokens_stay_out_of_the_log(format: LogFormat) {
    let log = Log::default();
    let config = TelemetryConfig {
        format,
        filter: "trace".to_owned(),
    };
    // The service, its tasks and the clients all run on this test's thread.
    let _guard = listen(log_subscriber(&config, log.maker()));
    let (local_hanko, app) = start().await;
    let good = local_hanko.sign_in(&ada()).token;
    let claims = local_hanko.claims_of(&ada());
    let mut tokens = vec![good.clone()];
    let mut expired = claims.clone();
    expired.insert("exp".to_owned(), 1.into());
    let mut misshapen = claims.clone();
    misshapen.insert("sub".to_owned(), "hanko webhooks".into());
    tokens.push(local_hanko.sign_claims(&expired));
    tokens.push(local_hanko.sign_claims(&misshapen));
    tokens.push(forge(&good));
    let payload = serde_json::to_vec(&claims).expect("JSON");
    tokens.push(local_hanko.sign_raw(br#"{"alg":"none"}"#, &payload));
    tokens.push(local_hanko.sign_raw(br#"{"alg":"RS256","kid":"unknown"}"#, &payload));
    tokens.push(format!("{good}.{good}"));
    let webhooks = webhooks(&local_hanko);

    let http_1 = crate::support::client();
    let http_2 = reqwest::Client::builder()
        .no_proxy()
        .http2_prior_knowledge()
        .build()
        .expect("a client");
    for client in [http_1, http_2] {
        for token in &tokens {
            let expected = if *token == good { 200 } else { 401 };
            for path in ["/protected", "/me"] {
                let bearer = client.get(app.url(path)).bearer_auth(token);
                assert_eq!(send(bearer).await.status(), expected);
                let cookie = format!("theme=dark; hanko={token}");
                let cookie = client.get(app.url(path)).header("cookie", cookie);
                assert_eq!(send(cookie).await.status(), expected);
            }
            let both = client
                .get(app.url("/protected"))
                .header("authorization", format!("Bearer {token}"))
                .header("authorization", format!("Bearer {token}"));
            assert_eq!(send(both).await.status(), 400);
            for path in [
                format!("/{token}"),
                format!("/protected/{token}"),
                format!("/protected?access_token={token}"),
                format!("/docs?token={token}"),
            ] {
                let request = client.get(app.url(&path)).header("referer", app.url(&path));
                send(request).await;
            }
            let id = client.get(app.url("/")).header("x-request-id", token);
            send(id).await;
            let body = client.post(app.url("/webhooks/hanko")).body(token.clone());
            send(body).await;
        }
        for (body, expected) in &webhooks {
            let webhook = client.post(app.url("/webhooks/hanko")).json(body);
            assert_eq!(send(webhook).await.status(), *expected);
        }
    }
    tokens.extend(webhooks.iter().map(|(body, _)| {
        let token = body["token"].as_str().expect("a token");
        token.to_owned()
    }));
    tokens.extend(use_sessions_in_stateful_mode(local_hanko, &app.clock).await);

    let text = log.text();
    assert!(
        text.matches("sent the response").count() >= 100,
        "everything is logged"
    );
    for message in [
        "rejected a request",
        "rejected a webhook",
        "received a webhook",
        "validating a session failed",
    ] {
        assert!(text.contains(message), "everything is logged: {message}");
    }
    assert_no_token(&text, &tokens);

    // A token written by the log itself would have been found.
    tracing::trace!(token = good.split('.').nth(1), "on purpose");
    let text = log.text();
    let found = std::panic::catch_unwind(|| assert_no_token(&text, &tokens));
    assert!(found.is_err(), "this test looks in the right place");
}

#[tokio::test]
async fn no_token_is_logged_as_text() {
    assert_tokens_stay_out_of_the_log(LogFormat::Text).await;
}

#[tokio::test]
async fn no_token_is_logged_as_json() {
    assert_tokens_stay_out_of_the_log(LogFormat::Json).await;
}
