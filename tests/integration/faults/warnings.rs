//! A bad key causes one warning, not one for every request or refresh.

use std::time::Duration;

use poem_hanko::{LogFormat, TelemetryConfig, WebhookError, log_subscriber};
use serde_json::{Value, json};
use tracing::subscriber::DefaultGuard;

use super::{REFRESH_IS_DUE, RETRY_IS_DUE, Scene, key_endpoint::Answer};
use crate::support::{Log, listen, within};

const WARNING: &str = "skipped a key";

/// Captures the log of this test, which runs on one thread.
fn capture() -> (Log, DefaultGuard) {
    let config = TelemetryConfig {
        format: LogFormat::Text,
        filter: "info".to_owned(),
    };
    let log = Log::default();
    let guard = listen(log_subscriber(&config, log.maker()));
    (log, guard)
}

fn warnings(log: &Log) -> usize {
    log.text().matches(WARNING).count()
}

fn with_bad_keys(key_set: &Value, bad_keys: &[Value]) -> Answer {
    let mut key_set = key_set.clone();
    let keys = key_set["keys"].as_array_mut().expect("an array");
    keys.extend_from_slice(bad_keys);
    Answer::key_set(&key_set)
}

#[tokio::test]
async fn bad_key_causes_one_warning_for_all_requests_and_refreshes() {
    let (log, _guard) = capture();
    let bad_keys = [json!({ "kty": "EC", "kid": "elliptic" }), json!("odd")];
    let scene = Scene::start(|key_set| with_bad_keys(key_set, &bad_keys)).await;
    scene.fetches(1).await;
    assert_eq!(warnings(&log), 2, "{}", log.text());
    assert!(log.text().contains("elliptic"));
    for fetches in 2..=4 {
        scene.accepts(&scene.token()).await;
        scene.app.clock.advance(REFRESH_IS_DUE);
        scene.fetches(fetches).await;
    }
    assert_eq!(warnings(&log), 2, "{}", log.text());
}

#[tokio::test]
async fn another_set_with_the_bad_key_is_another_warning() {
    let (log, _guard) = capture();
    let bad_keys = [json!({ "kty": "EC", "kid": "elliptic" })];
    let scene = Scene::start(|key_set| with_bad_keys(key_set, &bad_keys)).await;
    scene.fetches(1).await;
    scene.local_hanko.rotate_key().await.expect("a key");
    let key_set = scene.local_hanko.key_set();
    scene.endpoint.answer(with_bad_keys(&key_set, &bad_keys));
    scene.app.clock.advance(REFRESH_IS_DUE);
    scene.fetches(2).await;
    assert_eq!(warnings(&log), 2, "{}", log.text());
}

#[tokio::test]
async fn bad_key_in_a_set_without_usable_keys_causes_one_warning() {
    let (log, _guard) = capture();
    let no_good = json!({ "keys": [{ "kty": "EC", "kid": "elliptic" }] });
    let scene = Scene::start(|_| Answer::key_set(&no_good)).await;
    scene.fetches(1).await;
    for fetches in 2..=5 {
        scene.cannot_judge(&scene.token()).await;
        scene.app.clock.advance(RETRY_IS_DUE);
        scene.fetches(fetches).await;
    }
    assert_eq!(warnings(&log), 1, "{}", log.text());
}

#[tokio::test]
async fn bad_key_in_a_rejected_refresh_causes_one_warning() {
    let (log, _guard) = capture();
    let scene = Scene::healthy().await;
    let no_good = json!({ "keys": [{ "kty": "EC", "kid": "elliptic" }] });
    scene.endpoint.answer(Answer::key_set(&no_good));
    scene.app.clock.advance(REFRESH_IS_DUE);
    scene.fetches(2).await;
    for fetches in 3..=5 {
        scene.accepts(&scene.token()).await;
        scene.app.clock.advance(RETRY_IS_DUE);
        scene.fetches(fetches).await;
    }
    assert_eq!(warnings(&log), 1, "{}", log.text());
}

#[tokio::test]
async fn a_set_of_a_hundred_thousand_bad_keys_does_not_flood_the_log() {
    let (log, _guard) = capture();
    let many = vec![json!(0); 100_000];
    let scene = Scene::start(|key_set| with_bad_keys(key_set, &many)).await;
    scene.fetches(1).await;
    scene.accepts(&scene.token()).await;
    let warnings = log.text().matches("WARN").count();
    assert!((1..=200).contains(&warnings), "{warnings}");
}

#[tokio::test]
async fn a_kid_cannot_forge_a_line_of_the_log_nor_fill_it() {
    let (log, _guard) = capture();
    let kid = format!("x\n2026-11-23T12:00:00Z ERROR forged{}", "y".repeat(10_000));
    let bad_keys = [json!({ "kty": "EC", "kid": kid })];
    let scene = Scene::start(|key_set| with_bad_keys(key_set, &bad_keys)).await;
    scene.fetches(1).await;
    let text = log.text();
    let line = text
        .lines()
        .find(|line| line.contains(WARNING))
        .expect("a warning");
    assert!(line.contains("forged"), "{line}");
    assert!(line.len() < 500, "{line}");
}

#[tokio::test]
async fn a_failed_fetch_is_one_reason_however_its_message_varies() {
    let (log, _guard) = capture();
    let scene = Scene::start(|_| Answer::status("500 Internal Server Error", "", "")).await;
    // Expired long ago, so it is neither held nor causes a fetch.
    let claims = json!({ "sub": "hanko webhooks", "iat": 1, "exp": 2, "evt": "user" });
    let token = scene
        .local_hanko
        .sign_claims(claims.as_object().expect("an object"));
    let body = json!({ "token": token, "event": "user" }).to_string();
    let mut messages = Vec::new();
    for fetches in 1..=4_u64 {
        scene.fetches(fetches).await;
        for _ in 0..5 {
            let outcome = within(scene.app.hanko.receive_webhook(body.as_bytes())).await;
            let error = outcome.map(drop).expect_err("there are no keys");
            assert!(matches!(error, WebhookError::KeySet(_)), "{error}");
            messages.push(error.to_string());
        }
        let status = format!("{} Another", 500 + fetches);
        scene.endpoint.answer(Answer::status(&status, "", ""));
        // The pauses between failed fetches are 0.5 s, 1 s and 2 s: all within a minute.
        scene.app.clock.advance(Duration::from_millis(2_200));
    }
    messages.dedup();
    assert_eq!(messages.len(), 4, "{messages:?}");
    let lines = log.text().matches("rejected a webhook").count();
    assert_eq!(lines, 10, "{}", log.text());
}
