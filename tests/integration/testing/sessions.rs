//! Sessions at the local Hanko: claims, session limit, idle timeout.

use std::time::Duration;

use poem_hanko::testing::{LocalHanko, SESSION_LIFESPAN, SignedIn};
use reqwest::RequestBuilder;
use serde_json::{Value, json};

use super::{
    builder, get_validation, is_active, json_of, local_hanko, post_validation,
    receiver::{Receiver, claims_of_token},
};
use crate::support::{ada, header, send, within};

const IDLE_TIMEOUT: Duration = Duration::from_mins(10);
const ONE_SECOND: Duration = Duration::from_secs(1);
/// The time of a session without its last second.
const ALMOST_LIFESPAN: Duration = Duration::from_secs(SESSION_LIFESPAN.as_secs() - 1);

type ValidationRequest = fn(&LocalHanko, &str) -> RequestBuilder;
const BY_POST: ValidationRequest = post_validation;
const BY_GET: ValidationRequest = get_validation;

/// Which of these sessions are active.
async fn active(local_hanko: &LocalHanko, sessions: &[SignedIn]) -> Vec<bool> {
    let mut active = Vec::new();
    for session in sessions {
        active.push(is_active(local_hanko, &session.token).await);
    }
    active
}

/// The webhooks about these sessions.
fn limit_webhooks(sessions: &[&SignedIn]) -> Vec<(String, String)> {
    let event = "session.delete.passive.limit".to_owned();
    sessions
        .iter()
        .map(|session| (event.clone(), session.session_id.to_string()))
        .collect()
}

#[tokio::test]
async fn a_token_says_how_its_person_signed_in() {
    let (local_hanko, _clock) = local_hanko().await;
    let person = ada()
        .amr(["pwd", "totp"])
        .unverified_email("ada@example.com");
    let session = local_hanko.sign_in(&person);
    let claims = claims_of_token(&session.token);
    assert_eq!(claims["amr"], json!(["pwd", "totp"]));
    assert_eq!(claims["email"]["is_verified"], false);
    let body = json_of(
        send(post_validation(&local_hanko, &session.token)).await,
        200,
    )
    .await;
    assert_eq!(body["claims"]["amr"], json!(["pwd", "totp"]));
    assert_eq!(body["claims"]["email"]["is_verified"], false);

    // As at Hanko, sessions created by the Admin API contain no details of a sign-in.
    let by_admin = local_hanko.create_session(&person);
    assert_eq!(claims_of_token(&by_admin.token).get("amr"), None);
    let data = local_hanko.session_data(by_admin.session_id).unwrap();
    assert_eq!(data["user_agent"], Value::Null);
    assert_eq!(data["ip_address"], Value::Null);
    let unknown = local_hanko.sign_in(&ada());
    assert_eq!(claims_of_token(&unknown.token).get("amr"), None);
}

#[tokio::test]
async fn the_sixth_session_of_a_user_ends_the_oldest() {
    let (local_hanko, _clock) = local_hanko().await;
    let receiver = Receiver::start();
    local_hanko.send_webhooks_to(&receiver.url);
    let bystander = local_hanko.sign_in(&ada());
    let person = ada();
    // All at the same moment: the order of the sign-ins decides.
    let mut sessions: Vec<SignedIn> = (0..5).map(|_| local_hanko.sign_in(&person)).collect();
    assert_eq!(active(&local_hanko, &sessions).await, [true; 5]);

    sessions.push(local_hanko.sign_in(&person));
    within(local_hanko.wait_for_webhooks()).await;
    assert_eq!(receiver.summary(), limit_webhooks(&[&sessions[0]]));
    assert_eq!(
        active(&local_hanko, &sessions).await,
        [false, true, true, true, true, true]
    );
    assert!(is_active(&local_hanko, &bystander.token).await);
}

#[tokio::test]
async fn a_lower_limit_ends_all_above_it_at_the_next_sign_in() {
    let (builder, _clock) = builder();
    let local_hanko = builder.session_limit(4).start().await.unwrap();
    let receiver = Receiver::start();
    local_hanko.send_webhooks_to(&receiver.url);
    let person = ada();
    let mut sessions: Vec<SignedIn> = (0..4).map(|_| local_hanko.sign_in(&person)).collect();
    local_hanko.set_session_limit(2);
    assert_eq!(active(&local_hanko, &sessions).await, [true; 4]);

    sessions.push(local_hanko.create_session(&person));
    within(local_hanko.wait_for_webhooks()).await;
    // Hanko ends them from the newest to the oldest.
    let ended = limit_webhooks(&[&sessions[2], &sessions[1], &sessions[0]]);
    assert_eq!(receiver.summary(), ended);
    assert_eq!(
        active(&local_hanko, &sessions).await,
        [false, false, false, true, true]
    );

    // A user can always sign in.
    local_hanko.set_session_limit(0);
    sessions.push(local_hanko.sign_in(&person));
    assert_eq!(
        active(&local_hanko, &sessions[3..]).await,
        [false, false, true]
    );
}

#[tokio::test]
async fn ended_and_expired_sessions_do_not_count_for_the_limit() {
    let (builder, clock) = builder();
    let local_hanko = builder.session_limit(2).start().await.unwrap();
    let receiver = Receiver::start();
    local_hanko.send_webhooks_to(&receiver.url);
    local_hanko.set_webhook_events(&["session.delete.passive"]);
    let person = ada();
    let expired = local_hanko.sign_in(&person);
    clock.advance(ONE_SECOND);
    let ended = local_hanko.sign_in(&person);
    local_hanko.end_session(ended.session_id).await.unwrap();
    clock.advance(ALMOST_LIFESPAN);
    assert!(!is_active(&local_hanko, &expired.token).await);

    let sessions = [local_hanko.sign_in(&person), local_hanko.sign_in(&person)];
    within(local_hanko.wait_for_webhooks()).await;
    assert_eq!(receiver.summary(), []);
    assert_eq!(active(&local_hanko, &sessions).await, [true; 2]);
}

#[tokio::test]
async fn sessions_never_idle_out_by_default() {
    let (local_hanko, clock) = local_hanko().await;
    let session = local_hanko.sign_in(&ada());
    clock.advance(ALMOST_LIFESPAN);
    for validation in [BY_GET, BY_POST] {
        let response = send(validation(&local_hanko, &session.token)).await;
        let body = json_of(response, 200).await;
        assert_eq!(body["is_valid"], true);
        assert_eq!(body.get("idle_expires_at"), None);
    }
}

#[tokio::test]
async fn only_validation_by_post_renews_a_session() {
    let (builder, clock) = builder();
    let local_hanko = builder.idle_timeout(IDLE_TIMEOUT).start().await.unwrap();
    let by_post = local_hanko.sign_in(&ada());
    let by_get = local_hanko.sign_in(&ada());
    let validate = async |validation: ValidationRequest, session: &SignedIn| {
        let response = send(validation(&local_hanko, &session.token)).await;
        json_of(response, 200).await
    };
    // At the end of the idle timeout, a session is still active.
    clock.advance(IDLE_TIMEOUT);
    let body = validate(BY_POST, &by_post).await;
    assert_eq!(body["idle_expires_at"], "2026-11-23T12:20:00Z");
    let data = local_hanko.session_data(by_post.session_id).unwrap();
    assert_eq!(data["last_used"], "2026-11-23T12:10:00Z");
    assert_eq!(data["created_at"], "2026-11-23T12:00:00Z");
    let body = validate(BY_GET, &by_get).await;
    assert_eq!(body["is_valid"], true);
    assert_eq!(body["idle_expires_at"], "2026-11-23T12:10:00Z");
    let data = local_hanko.session_data(by_get.session_id).unwrap();
    assert_eq!(data["last_used"], "2026-11-23T12:00:00Z");

    clock.advance(IDLE_TIMEOUT);
    assert_eq!(validate(BY_POST, &by_post).await["is_valid"], true);
    assert_eq!(validate(BY_GET, &by_get).await["is_valid"], false);
}

#[tokio::test]
async fn validating_an_idle_session_ends_it() {
    for validation in [BY_POST, BY_GET] {
        let (local_hanko, clock) = local_hanko().await;
        let receiver = Receiver::start();
        local_hanko.send_webhooks_to(&receiver.url);
        local_hanko.set_idle_timeout(Some(IDLE_TIMEOUT));
        let session = local_hanko.sign_in(&ada());
        clock.advance(IDLE_TIMEOUT + Duration::from_millis(1));
        // Only a validation request ends it.
        assert!(local_hanko.session_data(session.session_id).is_some());

        let response = send(validation(&local_hanko, &session.token)).await;
        assert_eq!(
            header(&response, "set-cookie").as_deref(),
            Some("hanko=; Path=/; Max-Age=0; SameSite=Lax")
        );
        let body = json_of(response, 200).await;
        assert_eq!(body, json!({ "is_valid": false }));
        assert_eq!(local_hanko.session_data(session.session_id), None);

        let response = send(validation(&local_hanko, &session.token)).await;
        assert_eq!(header(&response, "set-cookie"), None);
        assert_eq!(json_of(response, 200).await, json!({ "is_valid": false }));
        within(local_hanko.wait_for_webhooks()).await;
        let event = "session.delete.passive.expire".to_owned();
        assert_eq!(
            receiver.summary(),
            [(event, session.session_id.to_string())]
        );
    }
}

#[tokio::test]
async fn a_session_is_never_active_after_its_token_expires() {
    let (local_hanko, clock) = local_hanko().await;
    local_hanko.set_idle_timeout(Some(SESSION_LIFESPAN));
    let session = local_hanko.sign_in(&ada());
    clock.advance(ALMOST_LIFESPAN);
    let response = send(post_validation(&local_hanko, &session.token)).await;
    let body = json_of(response, 200).await;
    assert_eq!(body["expiration_time"], "2026-11-24T00:00:00Z");
    assert_eq!(body["idle_expires_at"], body["expiration_time"]);

    clock.advance(ONE_SECOND);
    for validation in [BY_POST, BY_GET] {
        let response = send(validation(&local_hanko, &session.token)).await;
        assert_eq!(json_of(response, 200).await, json!({ "is_valid": false }));
    }
}

#[tokio::test]
async fn get_skips_an_invalid_bearer_token_for_a_valid_cookie() {
    let (local_hanko, clock) = local_hanko().await;
    local_hanko.set_idle_timeout(Some(IDLE_TIMEOUT));
    let idle = local_hanko.sign_in(&ada());
    clock.advance(IDLE_TIMEOUT + ONE_SECOND);
    let active = local_hanko.sign_in(&ada());
    for bearer in ["nonsense", &idle.token] {
        let request = get_validation(&local_hanko, bearer)
            .header("cookie", format!("hanko={}", active.token));
        let body = json_of(send(request).await, 200).await;
        assert_eq!(
            body["claims"]["session_id"],
            active.session_id.to_string(),
            "{bearer}"
        );
    }
    // One request, whatever it tries.
    assert_eq!(local_hanko.validate_requests(), 2);
}
