//! How the local Hanko fails, and when it sends its responses to validation requests.

use std::time::Duration;

use poem_hanko::testing::{Fault, LocalHanko};
use reqwest::{RequestBuilder, Response};
use serde_json::json;
use tokio::task::JoinHandle;

use super::{builder, get_validation, is_active, json_of, local_hanko, post_validation};
use crate::support::{ada, client, header, send, within};

fn get_keys(local_hanko: &LocalHanko) -> RequestBuilder {
    client().get(format!("{}/.well-known/jwks.json", local_hanko.url()))
}

/// Validation requests by both methods.
fn validations(local_hanko: &LocalHanko, token: &str) -> [RequestBuilder; 2] {
    [
        post_validation(local_hanko, token),
        get_validation(local_hanko, token),
    ]
}

/// Sends requests without waiting for their responses.
fn send_in_background(
    requests: impl IntoIterator<Item = RequestBuilder>,
) -> Vec<JoinHandle<Response>> {
    requests
        .into_iter()
        .map(|request| tokio::spawn(send(request)))
        .collect()
}

async fn are_valid(responses: Vec<JoinHandle<Response>>) -> Vec<bool> {
    let mut are_valid = Vec::new();
    for response in responses {
        let response = within(response).await.unwrap();
        are_valid.push(json_of(response, 200).await["is_valid"] == true);
    }
    are_valid
}

#[tokio::test]
async fn a_failed_database_looks_like_invalid_sessions() {
    let (local_hanko, _clock) = local_hanko().await;
    let session = local_hanko.sign_in(&ada());
    local_hanko.set_fault(Fault::DatabaseDown);
    for request in validations(&local_hanko, &session.token) {
        let body = json_of(send(request).await, 200).await;
        assert_eq!(body, json!({ "is_valid": false }));
    }
    let body = json_of(send(get_keys(&local_hanko)).await, 500).await;
    assert_eq!(
        body,
        json!({ "code": 500, "message": "Internal Server Error" })
    );
    let logout = client()
        .post(format!("{}/logout", local_hanko.url()))
        .bearer_auth(&session.token);
    assert_eq!(send(logout).await.status(), 401);

    local_hanko.set_fault(Fault::None);
    assert!(is_active(&local_hanko, &session.token).await);
    assert_eq!(send(get_keys(&local_hanko)).await.status(), 200);
    assert_eq!(local_hanko.key_set_requests(), 2);
}

#[tokio::test]
async fn refusals_affect_only_validation() {
    let (local_hanko, _clock) = local_hanko().await;
    let session = local_hanko.sign_in(&ada());
    let exactly = Some(Duration::from_secs(7));
    let rounded_up = Some(Duration::from_millis(6001));
    let cases = [
        (
            Fault::TooManyRequests {
                retry_after: exactly,
            },
            429,
            Some("7"),
        ),
        (Fault::TooManyRequests { retry_after: None }, 429, None),
        (
            Fault::Unavailable {
                retry_after: rounded_up,
            },
            503,
            Some("7"),
        ),
        (Fault::Unavailable { retry_after: None }, 503, None),
        (Fault::InternalError, 500, None),
    ];
    for (fault, status, retry_after) in cases {
        local_hanko.set_fault(fault);
        for request in validations(&local_hanko, &session.token) {
            let response = send(request).await;
            assert_eq!(header(&response, "retry-after").as_deref(), retry_after);
            assert_eq!(json_of(response, status).await["code"], status);
        }
        assert_eq!(send(get_keys(&local_hanko)).await.status(), 200);
    }
    local_hanko.set_fault(Fault::None);
    assert!(is_active(&local_hanko, &session.token).await);
}

#[tokio::test]
async fn a_hanging_hanko_responds_when_it_continues() {
    let (builder, _clock) = builder();
    let local_hanko = builder.fault(Fault::Hangs).start().await.unwrap();
    let session = local_hanko.sign_in(&ada());
    let [by_post, by_get] = validations(&local_hanko, &session.token);
    let mut hanging = send_in_background([by_post, by_get, get_keys(&local_hanko)]);
    within(local_hanko.wait_for_validate_requests(2)).await;
    within(async {
        while local_hanko.key_set_requests() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;

    assert!(hanging.iter().all(|response| !response.is_finished()));

    // As if the process continues: the responses are computed now.
    local_hanko.end_session(session.session_id).await.unwrap();
    local_hanko.set_fault(Fault::None);
    let keys = within(hanging.pop().unwrap()).await.unwrap();
    assert_eq!(keys.status(), 200);
    assert_eq!(are_valid(hanging).await, [false, false]);
}

#[tokio::test]
async fn a_hanko_that_is_down_closes_connections() {
    let (local_hanko, _clock) = local_hanko().await;
    let session = local_hanko.sign_in(&ada());
    assert!(is_active(&local_hanko, &session.token).await);
    local_hanko.set_fault(Fault::Down);
    let [by_post, by_get] = validations(&local_hanko, &session.token);
    for request in [by_post, by_get, get_keys(&local_hanko)] {
        let error = within(request.send()).await.unwrap_err();
        assert!(error.is_request() && !error.is_timeout(), "{error:?}");
    }
    assert_eq!(local_hanko.validate_requests(), 1);

    // Sessions survive, requests in progress do not.
    local_hanko.set_fault(Fault::Hangs);
    let request = tokio::spawn(get_validation(&local_hanko, &session.token).send());
    within(local_hanko.wait_for_validate_requests(2)).await;
    local_hanko.set_fault(Fault::Down);
    let error = within(request).await.unwrap().unwrap_err();
    assert!(error.is_request() && !error.is_timeout(), "{error:?}");
    local_hanko.set_fault(Fault::None);
    assert!(is_active(&local_hanko, &session.token).await);
}

#[tokio::test]
async fn a_dropped_hanko_closes_connections_in_use() {
    let (local_hanko, _clock) = local_hanko().await;
    let session = local_hanko.sign_in(&ada());
    let held = local_hanko.hold_validations();
    let request = tokio::spawn(get_validation(&local_hanko, &session.token).send());
    within(held.wait_for(1)).await;
    drop(local_hanko);
    let error = within(request).await.unwrap().unwrap_err();
    assert!(error.is_request(), "{error:?}");
    held.release();
}

#[tokio::test]
async fn delayed_responses_were_computed_at_the_request() {
    let (builder, clock) = builder();
    let delay = Duration::from_secs(5);
    let local_hanko = builder.validation_delay(delay).start().await.unwrap();
    let session = local_hanko.sign_in(&ada());
    // This shows that the responses have been computed.
    let held = local_hanko.hold_validations();
    let responses = send_in_background(validations(&local_hanko, &session.token));
    within(held.wait_for(2)).await;
    held.release();
    local_hanko.end_session(session.session_id).await.unwrap();
    clock.advance(delay.checked_sub(Duration::from_millis(1)).unwrap());
    // A round trip, during which they would have been sent.
    send(get_keys(&local_hanko)).await;
    assert!(responses.iter().all(|response| !response.is_finished()));
    clock.advance(Duration::from_millis(1));
    assert_eq!(are_valid(responses).await, [true, true]);

    local_hanko.set_validation_delay(Duration::ZERO);
    assert!(!is_active(&local_hanko, &session.token).await);
}

#[tokio::test]
async fn a_held_response_can_arrive_after_a_sign_out() {
    let (local_hanko, _clock) = local_hanko().await;
    let session = local_hanko.sign_in(&ada());
    let held = local_hanko.hold_validations();
    assert_eq!(held.count(), 0);
    let before = send_in_background(validations(&local_hanko, &session.token));
    within(held.wait_for(2)).await;
    local_hanko.end_session(session.session_id).await.unwrap();
    let after = send_in_background(validations(&local_hanko, &session.token));
    within(held.wait_for(4)).await;
    assert_eq!(held.count(), 4);
    // A round trip, during which they would have been sent.
    send(get_keys(&local_hanko)).await;
    assert!(before.iter().chain(&after).all(|held| !held.is_finished()));

    drop(held);
    assert_eq!(are_valid(before).await, [true, true]);
    assert_eq!(are_valid(after).await, [false, false]);
    // Nothing is held any more.
    assert!(!is_active(&local_hanko, &session.token).await);
}

#[tokio::test]
async fn each_hold_releases_its_own_responses() {
    let (local_hanko, _clock) = local_hanko().await;
    let session = local_hanko.sign_in(&ada());
    let request = || [get_validation(&local_hanko, &session.token)];
    let first = local_hanko.hold_validations();
    let of_first = send_in_background(request());
    within(first.wait_for(1)).await;
    let second = local_hanko.hold_validations();
    let of_second = send_in_background(request());
    within(second.wait_for(1)).await;
    assert_eq!((first.count(), second.count()), (1, 1));

    // The newer hold stays, also for new responses.
    first.release();
    assert_eq!(are_valid(of_first).await, [true]);
    let more_of_second = send_in_background(request());
    within(second.wait_for(2)).await;
    assert!(!of_second[0].is_finished());
    second.release();
    assert_eq!(are_valid(of_second).await, [true]);
    assert_eq!(are_valid(more_of_second).await, [true]);
}

#[tokio::test]
async fn a_client_that_gives_up_is_not_counted() {
    let (local_hanko, _clock) = local_hanko().await;
    let session = local_hanko.sign_in(&ada());
    let held = local_hanko.hold_validations();
    let responses = send_in_background(validations(&local_hanko, &session.token));
    within(held.wait_for(2)).await;
    for response in responses {
        response.abort();
    }
    within(async {
        while held.count() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    held.release();
    assert!(is_active(&local_hanko, &session.token).await);
    assert_eq!(local_hanko.validate_requests(), 3);
    assert_eq!(local_hanko.most_validations_at_once(), 2);
}

#[tokio::test]
async fn every_validation_request_is_counted() {
    let (local_hanko, _clock) = local_hanko().await;
    let session = local_hanko.sign_in(&ada());
    assert_eq!(local_hanko.most_validations_at_once(), 0);
    for request in validations(&local_hanko, &session.token) {
        send(request).await;
    }
    send(get_validation(&local_hanko, "nonsense")).await;
    assert_eq!(local_hanko.validate_requests(), 3);
    assert_eq!(local_hanko.validate_requests_by_get(), 2);
    assert_eq!(local_hanko.most_validations_at_once(), 1);

    let held = local_hanko.hold_validations();
    let requests = (0..5).map(|_| post_validation(&local_hanko, &session.token));
    let responses = send_in_background(requests);
    within(held.wait_for(5)).await;
    held.release();
    are_valid(responses).await;
    local_hanko.set_fault(Fault::InternalError);
    send(get_validation(&local_hanko, &session.token)).await;
    assert_eq!(local_hanko.validate_requests(), 9);
    assert_eq!(local_hanko.validate_requests_by_get(), 3);
    assert_eq!(local_hanko.most_validations_at_once(), 5);
}

#[tokio::test]
async fn bad_validation_requests_are_400() {
    let (local_hanko, _clock) = local_hanko().await;
    let url = format!("{}/sessions/validate", local_hanko.url());
    for body in ["", "{}", "[]", r#"{"session_token":""}"#] {
        let response = send(client().post(&url).body(body)).await;
        assert_eq!(json_of(response, 400).await["code"], 400, "{body}");
    }
    // Hanko reads the subject of every signed token as a UUID.
    let webhook = local_hanko.webhook_body("user.login", &json!({}));
    for request in validations(&local_hanko, webhook["token"].as_str().unwrap()) {
        assert_eq!(send(request).await.status(), 400);
    }
    // A signed token of no session, and a token of another Hanko, are not valid.
    let stranger = LocalHanko::builder().start().await.unwrap();
    for token in [
        local_hanko.sign_claims(&local_hanko.claims_of(&ada())),
        stranger.sign_in(&ada()).token,
    ] {
        for request in validations(&local_hanko, &token) {
            let body = json_of(send(request).await, 200).await;
            assert_eq!(body, json!({ "is_valid": false }));
        }
    }
}
