//! Responses that are not a usable JWK Set, each at startup and at a refresh.

use std::time::Duration;

use poem_hanko::FetchError;
use serde_json::{Value, json};

use super::{
    REFRESH_IS_DUE, RETRY_IS_DUE, Scene, TIMEOUT,
    key_endpoint::{Answer, KeyEndpoint},
};
use crate::support::within;

/// How a fetch ends.
#[derive(Clone, Copy, PartialEq)]
enum Ends {
    ByItself,
    /// Only when `JWKS_TIMEOUT` has passed.
    InTime,
}

/// Asserts that such a response is a failed fetch. At startup, the service then has no keys: 503 until a good response
/// arrives. Later, the held keys stay in use, and no other token is accepted.
#[track_caller]
fn assert_failed_fetch(
    hanko: &Scene,
    answer: impl Fn(&Value) -> Answer,
    ends: Ends,
    is_expected: fn(&FetchError) -> bool,
) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let assert_failure = |scene: &Scene| {
            let error = scene.last_error();
            assert!(
                error.as_ref().is_some_and(is_expected),
                "{caller}: {error:?}"
            );
        };

        let scene = hanko.another(&answer);
        let token = scene.token();
        scene.endpoint.wait_for_requests(1).await;
        if ends == Ends::InTime {
            scene.is_alive_but_not_ready().await;
            scene.app.clock.advance(TIMEOUT);
        }
        scene.fetches(1).await;
        assert_failure(&scene);
        scene.is_alive_but_not_ready().await;
        scene.cannot_judge(&token).await;
        scene.publish();
        scene.app.clock.advance(RETRY_IS_DUE);
        scene.fetches(2).await;
        scene.accepts(&token).await;

        scene.endpoint.answer(answer(&scene.local_hanko.key_set()));
        scene.app.clock.advance(REFRESH_IS_DUE);
        scene.endpoint.wait_for_requests(3).await;
        if ends == Ends::InTime {
            scene.accepts(&token).await;
            scene.app.clock.advance(TIMEOUT);
        }
        scene.fetches(3).await;
        assert_failure(&scene);
        scene.accepts(&token).await;
        scene.refuses(&format!("{token}AAAA")).await;
        scene.publish();
        scene.app.clock.advance(RETRY_IS_DUE);
        scene.fetches(4).await;
        scene.accepts(&token).await;
        assert_eq!(scene.last_error(), None, "{caller}");
    }
}

#[tokio::test]
async fn silence_ends_by_the_timeout() {
    let hanko = Scene::healthy().await;
    assert_failed_fetch(
        &hanko,
        |_| Answer::Silence,
        Ends::InTime,
        |error| *error == FetchError::Timeout(TIMEOUT),
    )
    .await;
}

#[tokio::test]
async fn a_slow_drip_ends_by_the_timeout() {
    let hanko = Scene::healthy().await;
    assert_failed_fetch(
        &hanko,
        |_| Answer::Drip,
        Ends::InTime,
        |error| *error == FetchError::Timeout(TIMEOUT),
    )
    .await;
}

#[tokio::test]
async fn fetch_timeout_covers_the_whole_response() {
    let scene = Scene::start(|_| Answer::Drip).await;
    for half in 1..=2 {
        assert_eq!(scene.app.hanko.key_set_status().fetches, 0);
        // More bytes arrive in the meantime.
        scene.endpoint.wait_for_body_bytes(half * 20).await;
        scene.app.clock.advance(TIMEOUT / 2);
    }
    scene.fetches(1).await;
    assert_eq!(scene.last_error(), Some(FetchError::Timeout(TIMEOUT)));
}

#[tokio::test]
async fn a_reset_connection_is_a_failed_fetch() {
    let hanko = Scene::healthy().await;
    assert_failed_fetch(
        &hanko,
        |_| Answer::Reset,
        Ends::ByItself,
        |error| matches!(error, FetchError::Transport(_)),
    )
    .await;
}

#[tokio::test]
async fn a_connection_that_ends_within_the_answer_is_a_failed_fetch() {
    let hanko = Scene::healthy().await;
    assert_failed_fetch(
        &hanko,
        |key_set| {
            let body = key_set.to_string();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            Answer::Bytes(format!("{head}{}", &body[..body.len() - 1]).into_bytes())
        },
        Ends::ByItself,
        |error| matches!(error, FetchError::Transport(_)),
    )
    .await;
}

#[tokio::test]
async fn response_that_is_not_http_is_a_failed_fetch() {
    let hanko = Scene::healthy().await;
    for bytes in [
        &b""[..],
        b"\0\0\0",
        b"SSH-2.0-OpenSSH_9.7\r\n",
        b"HTTP/1.1 200",
    ] {
        assert_failed_fetch(
            &hanko,
            |_| Answer::Bytes(bytes.to_vec()),
            Ends::ByItself,
            |error| matches!(error, FetchError::Transport(_)),
        )
        .await;
    }
}

#[tokio::test]
async fn any_status_but_200_is_a_failed_fetch_even_with_a_good_body() {
    let hanko = Scene::healthy().await;
    for status in [
        "201 Created",
        "203 Non-Authoritative Information",
        "206 Partial Content",
        "400 Bad Request",
        "401 Unauthorized",
        "404 Not Found",
        "429 Too Many Requests",
        "500 Internal Server Error",
        "502 Bad Gateway",
        "503 Service Unavailable",
    ] {
        assert_failed_fetch(
            &hanko,
            |key_set| Answer::status(status, &key_set.to_string(), ""),
            Ends::ByItself,
            |error| matches!(error, FetchError::Status(_)),
        )
        .await;
    }
}

#[tokio::test]
async fn a_status_without_a_body_is_a_failed_fetch() {
    let hanko = Scene::healthy().await;
    for status in ["204 No Content", "304 Not Modified"] {
        assert_failed_fetch(
            &hanko,
            |_| Answer::Bytes(format!("HTTP/1.1 {status}\r\nConnection: close\r\n\r\n").into()),
            Ends::ByItself,
            |error| matches!(error, FetchError::Status(_)),
        )
        .await;
    }
}

#[tokio::test]
async fn a_redirect_is_a_failed_fetch_and_its_target_sees_nobody() {
    let hanko = Scene::healthy().await;
    for status in [
        "301 Moved Permanently",
        "302 Found",
        "303 See Other",
        "307 Temporary Redirect",
        "308 Permanent Redirect",
    ] {
        let trap = KeyEndpoint::answering(Answer::Silence);
        let location = format!("Location: {}/.well-known/jwks.json\r\n", trap.url());
        assert_failed_fetch(
            &hanko,
            |key_set| Answer::status(status, &key_set.to_string(), &location),
            Ends::ByItself,
            |error| matches!(error, FetchError::Status(_)),
        )
        .await;
        assert_eq!(trap.requests(), 0, "{status}");
    }
}

#[tokio::test]
async fn garbage_is_a_failed_fetch() {
    let hanko = Scene::healthy().await;
    for body in [
        "",
        " ",
        "null",
        "[]",
        // A set that has lost the name of its member.
        "[[]]",
        "{}",
        "\"keys\"",
        "<!DOCTYPE html><title>Login</title>",
        r#"{"keys":null}"#,
        r#"{"keys":{}}"#,
        r#"{"keys":"none"}"#,
        r#"{"keys":[}"#,
        r#"{"keys":[],"keys":[]}"#,
        "\u{feff}{\"keys\":[]}",
    ] {
        assert_failed_fetch(
            &hanko,
            |_| Answer::body(body, ""),
            Ends::ByItself,
            |error| *error == FetchError::Malformed,
        )
        .await;
    }
}

#[tokio::test]
async fn two_documents_in_one_answer_are_a_failed_fetch() {
    let hanko = Scene::healthy().await;
    assert_failed_fetch(
        &hanko,
        |key_set| Answer::body(&format!("{key_set}{key_set}"), ""),
        Ends::ByItself,
        |error| *error == FetchError::Malformed,
    )
    .await;
}

#[tokio::test]
async fn deeply_nested_keys_are_a_failed_fetch_and_no_stack_overflow() {
    let hanko = Scene::healthy().await;
    assert_failed_fetch(
        &hanko,
        |_| {
            let depth = 200_000;
            let nested = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
            Answer::body(&format!(r#"{{"keys":[{nested}]}}"#), "")
        },
        Ends::ByItself,
        |error| matches!(error, FetchError::Malformed | FetchError::NoUsableKey),
    )
    .await;
}

#[tokio::test]
async fn an_empty_set_is_a_failed_fetch() {
    let hanko = Scene::healthy().await;
    assert_failed_fetch(
        &hanko,
        |_| Answer::key_set(&json!({ "keys": [] })),
        Ends::ByItself,
        |error| *error == FetchError::NoUsableKey,
    )
    .await;
}

#[tokio::test]
async fn a_set_without_a_usable_key_is_a_failed_fetch() {
    let hanko = Scene::healthy().await;
    for (member, value) in [
        ("use", json!("enc")),
        ("alg", json!("RS512")),
        ("kty", json!("oct")),
        ("key_ops", json!(["sign"])),
        ("d", json!("AQAB")),
        ("e", json!("AQ")),
        ("n", json!("AQAB")),
    ] {
        assert_failed_fetch(
            &hanko,
            |key_set| {
                let mut key_set = key_set.clone();
                key_set["keys"][0][member] = value.clone();
                Answer::key_set(&key_set)
            },
            Ends::ByItself,
            |error| *error == FetchError::NoUsableKey,
        )
        .await;
    }
}

#[tokio::test]
async fn an_endless_body_is_let_go_of_at_once() {
    let hanko = Scene::healthy().await;
    for head in [
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999\r\n\r\n",
    ] {
        let first = format!("{head}{{\"keys\":[");
        assert_failed_fetch(
            &hanko,
            |_| Answer::Endless(first.clone().into_bytes(), vec![b' '; 16 * 1024]),
            Ends::ByItself,
            |error| *error == FetchError::TooLarge,
        )
        .await;
    }
}

#[tokio::test]
async fn an_endless_chunked_body_is_let_go_of_at_once() {
    let hanko = Scene::healthy().await;
    let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunk = format!("2000\r\n{}\r\n", " ".repeat(0x2000));
    assert_failed_fetch(
        &hanko,
        |_| Answer::Endless(head.to_vec(), chunk.clone().into_bytes()),
        Ends::ByItself,
        |error| *error == FetchError::TooLarge,
    )
    .await;
}

#[tokio::test]
async fn endless_body_is_read_up_to_the_cap_and_the_system_buffers() {
    let head = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    let scene = Scene::start(|_| Answer::Endless(head, vec![b' '; 16 * 1024])).await;
    scene.fetches(1).await;
    let taken = scene.endpoint.body_bytes();
    assert!(taken >= 1024 * 1024, "{taken}");
    assert!(taken < 32 * 1024 * 1024, "{taken}");
}

#[tokio::test]
async fn endless_headers_are_a_failed_fetch() {
    let hanko = Scene::healthy().await;
    assert_failed_fetch(
        &hanko,
        |_| {
            let line = format!("X-Filler: {}\r\n", "a".repeat(8 * 1024));
            Answer::Endless(b"HTTP/1.1 200 OK\r\n".to_vec(), line.into_bytes())
        },
        Ends::ByItself,
        |error| matches!(error, FetchError::Transport(_)),
    )
    .await;
}

#[tokio::test]
async fn body_may_be_as_large_as_the_cap_but_not_one_byte_larger() {
    let padded = |key_set: &Value, length: usize| {
        let body = key_set.to_string();
        Answer::body(&format!("{body}{}", " ".repeat(length - body.len())), "")
    };
    let scene = Scene::start(|key_set| padded(key_set, 1024 * 1024)).await;
    scene.fetches(1).await;
    assert_eq!(scene.last_error(), None);
    scene.accepts(&scene.token()).await;

    let key_set = scene.local_hanko.key_set();
    scene.endpoint.answer(padded(&key_set, 1024 * 1024 + 1));
    scene.app.clock.advance(REFRESH_IS_DUE);
    scene.fetches(2).await;
    assert_eq!(scene.last_error(), Some(FetchError::TooLarge));
}

#[tokio::test]
async fn one_bad_key_does_not_affect_the_others() {
    let hanko = Scene::healthy().await;
    for bad in [
        json!(null),
        json!(1),
        json!("key"),
        json!([]),
        json!({}),
        json!({ "kty": "RSA" }),
        json!({ "kty": "RSA", "kid": 7, "n": 1, "e": [] }),
        json!({ "kty": "RSA", "n": "%%%", "e": "AQAB" }),
        json!({ "kty": "EC", "crv": "P-256", "x": "AA", "y": "AA" }),
        json!({ "kty": "oct", "k": "AAAA" }),
        json!({ "kty": "future", "alg": "PQ1" }),
    ] {
        let scene = hanko.another(|key_set| {
            let mut key_set = key_set.clone();
            let keys = key_set["keys"].as_array_mut().expect("an array");
            keys.insert(0, bad.clone());
            keys.push(bad.clone());
            Answer::key_set(&key_set)
        });
        scene.fetches(1).await;
        assert_eq!(scene.last_error(), None, "{bad}");
        assert_eq!(scene.app.hanko.key_set_status().usable_keys, 1, "{bad}");
        scene.accepts(&scene.token()).await;
    }
}

#[tokio::test]
async fn first_request_waits_for_the_first_fetch_up_to_the_timeout() {
    let scene = Scene::start(|_| Answer::Silence).await;
    let token = scene.token();
    scene.endpoint.wait_for_requests(1).await;
    let hanko = scene.app.hanko.clone();
    let first = tokio::spawn(async move { hanko.authenticate(&token).await.map(|_| ()) });
    scene.app.clock.advance(Duration::from_millis(4999));
    scene.is_alive_but_not_ready().await;
    assert!(!first.is_finished());
    scene.app.clock.advance(Duration::from_millis(1));
    let outcome = within(first).await.expect("no panic");
    assert!(
        matches!(outcome, Err(poem_hanko::AuthenticateError::KeySet(_))),
        "{outcome:?}"
    );
    // Nobody waits for the attempts after that.
    scene.app.clock.advance(RETRY_IS_DUE);
    scene.endpoint.wait_for_requests(2).await;
    scene.cannot_judge(&scene.token()).await;
}
