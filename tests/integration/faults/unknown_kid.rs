//! A token names an unknown key, which may be new or made up.

use std::{
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use poem_hanko::{AuthenticateError, FetchError, Hanko, KeySetError, Receipt, testing::Fault};
use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::{
    COOLDOWN, REFRESH_IS_DUE, RETRY_IS_DUE, Scene, TIMEOUT,
    key_endpoint::{Answer, Gate},
};
use crate::support::{ada, start_with, within};

/// How many requests may wait for a fetch at the same time.
const MAX_WAITING: usize = 256;

type Waiting = Pin<Box<dyn Future<Output = Result<(), AuthenticateError>>>>;

/// Starts to authenticate a token, and returns the future if it waits.
fn begin(hanko: &Hanko, token: String) -> Result<Waiting, AuthenticateError> {
    let hanko = hanko.clone();
    let mut waiting: Waiting =
        Box::pin(async move { hanko.authenticate(token).await.map(|_session| ()) });
    match waiting
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Pending => Ok(waiting),
        Poll::Ready(outcome) => Err(outcome.expect_err("the token is not genuine")),
    }
}

/// As many requests as may wait for a fetch, each with a well-formed token that is cheap to create.
fn flood(hanko: &Hanko) -> Vec<Waiting> {
    (0..MAX_WAITING)
        .map(|kid| {
            begin(hanko, token_of(&kid.to_string()))
                .unwrap_or_else(|error| panic!("{kid}: {error}"))
        })
        .collect()
}

#[track_caller]
fn assert_too_many(outcome: Result<Waiting, AuthenticateError>) {
    let Err(error) = outcome else {
        panic!("it waits like the others")
    };
    assert_eq!(
        error,
        AuthenticateError::KeySet(KeySetError {
            reason: Some(FetchError::Overloaded),
            retry_after: TIMEOUT,
        })
    );
}

/// A well-formed token that names this key.
pub(super) fn token_of(kid: &str) -> String {
    let header = json!({ "alg": "RS256", "kid": kid, "typ": "JWT" });
    let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    format!(
        "{}.{}.{}",
        encode(header.to_string().as_bytes()),
        encode(b"{}"),
        encode(&[7; 256])
    )
}

#[tokio::test]
async fn a_new_key_is_fetched_at_the_first_token_that_names_it() {
    let scene = Scene::healthy().await;
    let old = scene.token();
    scene.local_hanko.rotate_key().await.expect("a key");
    scene.publish();
    scene.accepts(&scene.token()).await;
    scene.accepts(&old).await;
    assert_eq!(scene.endpoint.requests(), 2);
}

#[tokio::test]
async fn unknown_kids_refresh_once_within_the_cooldown() {
    let scene = Scene::healthy().await;
    for kid in 0..20 {
        scene.refuses(&token_of(&kid.to_string())).await;
    }
    assert_eq!(scene.endpoint.requests(), 2);
    scene.app.clock.advance(Duration::from_millis(29_999));
    scene.refuses(&token_of("still within")).await;
    assert_eq!(scene.endpoint.requests(), 2);
    scene.app.clock.advance(Duration::from_millis(1));
    for kid in 20..40 {
        scene.refuses(&token_of(&kid.to_string())).await;
    }
    assert_eq!(scene.endpoint.requests(), 3);
}

#[tokio::test]
async fn unknown_kids_cause_one_refresh_per_cooldown_if_it_fails() {
    for answer in [
        Answer::Reset,
        Answer::status("500 Internal Server Error", "", ""),
        Answer::body("garbage", ""),
        Answer::key_set(&json!({ "keys": [] })),
    ] {
        let scene = Scene::healthy().await;
        scene.endpoint.answer(answer);
        let token = scene.token();
        for kid in 0..20 {
            scene.cannot_judge(&token_of(&kid.to_string())).await;
            scene.accepts(&token).await;
        }
        assert_eq!(scene.endpoint.requests(), 2);
    }
}

#[tokio::test]
async fn unknown_kids_cause_one_refresh_per_cooldown_if_it_hangs() {
    let scene = Scene::healthy().await;
    scene.endpoint.answer(Answer::Silence);
    let hanko = scene.app.hanko.clone();
    let waiting = tokio::spawn(async move {
        let outcome = hanko.authenticate(&token_of("a")).await;
        outcome.map(|_| ())
    });
    scene.endpoint.wait_for_requests(2).await;
    // Tokens of known keys do not wait for it.
    scene.accepts(&scene.token()).await;
    scene.app.clock.advance(TIMEOUT);
    scene.fetches(2).await;
    assert!(waiting.await.expect("no panic").is_err());
    for kid in 0..20 {
        scene.cannot_judge(&token_of(&kid.to_string())).await;
    }
    assert_eq!(scene.endpoint.requests(), 2);
}

#[tokio::test]
async fn an_unknown_kid_is_no_401_while_the_last_fetch_failed() {
    let mut scene = Scene::healthy().await;
    scene.endpoint.go_down().await;
    scene.app.clock.advance(REFRESH_IS_DUE);
    scene.fetches(2).await;
    scene.local_hanko.rotate_key().await.expect("a key");
    scene.publish();
    let new = scene.token();
    scene.cannot_judge(&new).await;

    scene.endpoint.come_up();
    let fetches = scene.app.hanko.key_set_status().fetches;
    scene.app.clock.advance(RETRY_IS_DUE);
    scene.fetches(fetches + 1).await;
    scene.accepts(&new).await;
    scene.refuses(&token_of("made up")).await;
}

#[tokio::test]
async fn a_kid_that_was_unknown_in_the_cooldown_is_known_after_it() {
    let scene = Scene::healthy().await;
    scene.refuses(&token_of("made up")).await;
    scene.local_hanko.rotate_key().await.expect("a key");
    scene.publish();
    let new = scene.token();
    scene.refuses(&new).await;
    scene.app.clock.advance(COOLDOWN);
    scene.accepts(&new).await;
    assert_eq!(scene.endpoint.requests(), 3);
}

#[tokio::test]
async fn a_key_published_while_a_refresh_is_under_way_is_found() {
    let scene = Scene::healthy().await;
    let gate = Gate::closed();
    let before = scene.local_hanko.key_set();
    scene
        .endpoint
        .answer(Answer::key_set(&before).behind(&gate));
    scene.app.clock.advance(REFRESH_IS_DUE);
    scene.endpoint.wait_for_requests(2).await;

    scene.local_hanko.rotate_key().await.expect("a key");
    scene.publish();
    let new = scene.token();
    let hanko = scene.app.hanko.clone();
    let waiting = tokio::spawn(async move { hanko.authenticate(&new).await.map(|_| ()) });
    gate.open();
    assert_eq!(waiting.await.expect("no panic"), Ok(()));
    assert_eq!(scene.endpoint.requests(), 3);
}

#[tokio::test]
async fn the_shared_fetch_survives_the_caller_that_began_it() {
    let scene = Scene::healthy().await;
    scene.local_hanko.rotate_key().await.expect("a key");
    let new = scene.token();
    let gate = Gate::closed();
    scene
        .endpoint
        .answer(Answer::key_set(&scene.local_hanko.key_set()).behind(&gate));

    let mut first = TcpStream::connect(scene.app.address)
        .await
        .expect("the API");
    let request = format!(
        "GET /protected HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {new}\r\n\r\n"
    );
    first.write_all(request.as_bytes()).await.expect("the API");
    scene.endpoint.wait_for_requests(2).await;
    drop(first);

    let hanko = scene.app.hanko.clone();
    let token = new.clone();
    let second = tokio::spawn(async move { hanko.authenticate(&token).await.map(|_| ()) });
    gate.open();
    assert_eq!(second.await.expect("no panic"), Ok(()));
    scene.accepts(&new).await;
    assert_eq!(scene.endpoint.requests(), 2);
}

#[tokio::test]
async fn a_fetch_whose_only_caller_is_gone_still_brings_the_key() {
    let scene = Scene::healthy().await;
    scene.local_hanko.rotate_key().await.expect("a key");
    let new = scene.token();
    let gate = Gate::closed();
    scene
        .endpoint
        .answer(Answer::key_set(&scene.local_hanko.key_set()).behind(&gate));
    let hanko = scene.app.hanko.clone();
    let token = new.clone();
    let only = tokio::spawn(async move { hanko.authenticate(&token).await.map(|_| ()) });
    scene.endpoint.wait_for_requests(2).await;
    only.abort();
    assert!(only.await.is_err_and(|error| error.is_cancelled()));

    gate.open();
    scene.fetches(2).await;
    assert_eq!(scene.last_error(), None::<FetchError>);
    assert_eq!(scene.app.hanko.key_set_status().usable_keys, 2);
    scene.accepts(&new).await;
    assert_eq!(scene.endpoint.requests(), 2);
}

#[tokio::test]
async fn a_flood_of_unknown_kids_waits_in_bounded_number() {
    let scene = Scene::healthy().await;
    scene.endpoint.answer(Answer::Silence);
    let hanko = &scene.app.hanko;
    let flood = flood(hanko);
    scene.endpoint.wait_for_requests(2).await;
    assert_too_many(begin(hanko, token_of("one more")));
    scene.cannot_judge(&token_of("by HTTP")).await;
    scene.accepts(&scene.token()).await;

    // Webhooks have their own fetch and their own limit of waiting requests.
    scene.local_hanko.rotate_key().await.expect("a key");
    let told = scene
        .local_hanko
        .webhook_body("user.update", &json!({ "id": ada().id() }))
        .to_string();
    let webhook = {
        let hanko = hanko.clone();
        tokio::spawn(async move { hanko.receive_webhook(told.as_bytes()).await })
    };
    scene.publish();
    scene.app.clock.advance(TIMEOUT);
    let receipt = within(webhook).await.expect("no panic");
    assert!(matches!(receipt, Ok(Receipt::Verified(_))), "{receipt:?}");

    // The waiting requests have been rejected, so others may wait now.
    for waiting in flood {
        assert!(within(waiting).await.is_err());
    }
    scene.app.clock.advance(COOLDOWN);
    scene.endpoint.answer(Answer::Silence);
    assert!(begin(hanko, token_of("later")).is_ok());
}

#[tokio::test]
async fn a_flood_before_the_first_fetch_waits_in_bounded_number() {
    let scene = Scene::start(|_| Answer::Silence).await;
    scene.endpoint.wait_for_requests(1).await;
    let hanko = &scene.app.hanko;
    let mut flood = flood(hanko);
    assert_too_many(begin(hanko, token_of("one more")));
    scene.cannot_judge(&token_of("by HTTP")).await;
    // If a client gives up, another may wait.
    flood.pop();
    assert!(begin(hanko, token_of("another")).is_ok());
}

#[tokio::test]
async fn few_connections_let_few_requests_wait() {
    let (local_hanko, app) = start_with(&[("MAX_CONNECTIONS", "8")]).await;
    local_hanko.set_fault(Fault::Hangs);
    let waiting: Vec<Waiting> = (0..2)
        .map(|kid| begin(&app.hanko, token_of(&kid.to_string())).expect("it waits"))
        .collect();
    assert_too_many(begin(&app.hanko, token_of("one more")));
    drop(waiting);
}
