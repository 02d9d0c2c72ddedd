//! The testing kit as an application uses it: only through the public API, without a server and without sleeps.

#![allow(
    clippy::unused_async,
    reason = "operations are async, whether they wait or not"
)]

// The tests of the examples run here, because other tests start each example as a program.
#[allow(dead_code, reason = "its `main` is not called")]
#[path = "../examples/events.rs"]
mod events;
#[allow(dead_code, reason = "its `main` is not called")]
#[path = "../examples/notes.rs"]
mod notes;
#[allow(dead_code, reason = "its `main` is not called")]
#[path = "../examples/two_tenants.rs"]
mod two_tenants;

use std::time::{Duration, UNIX_EPOCH};

use poem::{
    Endpoint, Route,
    http::{StatusCode, header},
    test::{TestClient, TestResponse},
};
use poem_hanko::{
    HankoAuth, SessionMode,
    testing::{Fault, Person, SignedIn, SignedInRequest, TestHanko},
};
use poem_openapi::{OpenApi, OpenApiService, payload::Json};
use serde_json::{Value, json};

const ONE_SECOND: Duration = Duration::from_secs(1);

struct Api;

#[OpenApi]
impl Api {
    /// Get what the token says
    #[oai(path = "/notes", method = "get", operation_id = "getNotes")]
    async fn read(&self, auth: HankoAuth) -> Json<Value> {
        let email = auth.email();
        Json(json!({
            "user": auth.user_id().to_string(),
            "session": auth.id().to_string(),
            "email": email.map(|email| email.address.clone()),
            "is_verified": email.map(|email| email.is_verified),
            "username": auth.username(),
            "issued_at": auth.issued_at().map(|date| date.since_epoch().as_secs()),
            "expires_at": auth.expires_at().since_epoch().as_secs(),
            "custom": auth.custom_claims(),
        }))
    }

    /// Write a note
    #[oai(path = "/notes", method = "post", operation_id = "addNote")]
    async fn write(&self, _auth: HankoAuth) {}
}

fn routes() -> Route {
    Route::new().nest("/", OpenApiService::new(Api, "notes", "1.0"))
}

/// The response to a request with this token, whatever it is.
async fn get<E: Endpoint>(client: &TestClient<E>, token: &str) -> TestResponse {
    client.get("/notes").bearer(token).send().await
}

async fn status<E: Endpoint>(client: &TestClient<E>, session: &SignedIn) -> u16 {
    let response = client.get("/notes").signed_in(session).send().await;
    response.0.status().as_u16()
}

async fn body<E: Endpoint>(client: &TestClient<E>, session: &SignedIn) -> Value {
    let response = client.get("/notes").signed_in(session).send().await;
    response.assert_status_is_ok();
    response.json().await.value().deserialize()
}

/// Asserts that the challenge of a 401 gives this reason.
#[track_caller]
fn assert_rejected(response: &TestResponse, reason: &str) {
    response.assert_status(StatusCode::UNAUTHORIZED);
    let challenge = response.0.header(header::WWW_AUTHENTICATE.as_str());
    let expected = format!(r#"Bearer error="invalid_token", error_description="{reason}""#);
    assert_eq!(challenge, Some(expected.as_str()));
}

#[tokio::test]
async fn the_default_person_has_a_verified_email() {
    let hanko = TestHanko::start().await;
    let client = hanko.client(routes());
    let ada = hanko.sign_in(&Person::default());
    let body = body(&client, &ada).await;
    assert_eq!(body["user"], ada.user_id().to_string());
    assert_eq!(body["session"], ada.session_id().to_string());
    assert_eq!(body["email"], "ada@example.com");
    assert_eq!(body["is_verified"], true);
    assert_eq!(body["username"], Value::Null);
    assert_eq!(body["custom"], json!({}));
    let expires_at = ada.expires_at().duration_since(UNIX_EPOCH).unwrap();
    assert_eq!(body["expires_at"], expires_at.as_secs());
    assert_ne!(Person::default().id(), Person::default().id());
}

#[tokio::test]
async fn a_person_decides_the_claims_of_the_token() {
    let hanko = TestHanko::start().await;
    let client = hanko.client(routes());
    let hour = Duration::from_hours(1);
    let person = Person::default()
        .unverified_email("grace@example.com")
        .username("grace")
        .claim("role", "admin")
        .claim("seats", json!([1, { "a": null }]))
        .amr(["pwd", "totp"])
        .signed_in_ago(hour)
        .lifespan(2 * hour);
    let grace = body(&client, &hanko.sign_in(&person)).await;
    assert_eq!(grace["user"], person.id().to_string());
    assert_eq!(grace["email"], "grace@example.com");
    assert_eq!(grace["is_verified"], false);
    assert_eq!(grace["username"], "grace");
    assert_eq!(
        grace["custom"],
        json!({ "role": "admin", "seats": [1, { "a": null }], "amr": ["pwd", "totp"] })
    );
    let issued_at = grace["issued_at"].as_u64().unwrap();
    assert_eq!(grace["expires_at"], issued_at + 2 * hour.as_secs());

    let at = UNIX_EPOCH + Duration::from_secs(issued_at);
    let id = Person::default().id();
    let person = Person::default()
        .with_id(id)
        .without_email()
        .signed_in_at(at);
    let nobody = body(&client, &hanko.sign_in(&person)).await;
    assert_eq!(nobody["user"], id.to_string());
    assert_eq!(nobody["email"], Value::Null);
    assert_eq!(nobody["issued_at"], issued_at);
    assert_eq!(nobody["custom"], json!({}));
}

#[test]
fn reserved_claims_cannot_be_custom() {
    for name in Person::RESERVED_CLAIMS {
        std::panic::catch_unwind(|| Person::default().claim(name, "x")).unwrap_err();
    }
    let _person = Person::default().claim("Email", "x").claim("roles", "x");
}

#[tokio::test]
async fn bearer_and_cookie_sign_a_request_in() {
    let hanko = TestHanko::builder()
        .cookie_name("app_session")
        .start()
        .await;
    let client = hanko.client(routes());
    let ada = hanko.sign_in(&Person::default());
    let requests = [
        client.get("/notes").signed_in(&ada),
        client.get("/notes").bearer(ada.token()),
        client.get("/notes").with_session_cookie(&ada),
        client.post("/notes").with_session_cookie(&ada),
    ];
    for request in requests {
        request.send().await.assert_status_is_ok();
    }
    assert!(ada.cookie().starts_with("app_session=ey"));
    let anonymous = client.get("/notes").send().await;
    anonymous.assert_status(StatusCode::UNAUTHORIZED);
    let request = client.post("/notes").with_session_cookie(&ada);
    let cross_site = request
        .header("sec-fetch-site", "cross-site")
        .header("origin", "https://evil.example")
        .send()
        .await;
    cross_site.assert_status(StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn each_bad_token_is_rejected_for_its_own_reason() {
    let hanko = TestHanko::start().await;
    let client = hanko.client(routes());
    let person = Person::default();
    let ada = hanko.sign_in(&person);
    let mut no_session = hanko.claims_of(&person);
    no_session.remove("session_id");
    let cases = [
        (hanko.expired_token(&person), "the token has expired"),
        (
            hanko.foreign_token(&person),
            "the token was signed by an unknown key",
        ),
        (
            hanko.forged_token(&person),
            "the token's signature is invalid",
        ),
        (
            hanko.token_of_wrong_kind(),
            "the token lacks the claim `session_id`",
        ),
        (
            hanko.sign_claims(&no_session),
            "the token lacks the claim `session_id`",
        ),
    ];
    for (token, reason) in cases {
        assert_rejected(&get(&client, &token).await, reason);
    }
    // Of a session that Hanko does not have.
    let response = get(&client, &hanko.sign_claims(&hanko.claims_of(&person))).await;
    assert_rejected(&response, "the session has ended");
    assert_eq!(status(&client, &ada).await, 200);
}

#[tokio::test]
async fn a_rotated_key_is_picked_up_and_a_retired_one_dropped() {
    let hanko = TestHanko::start().await;
    let client = hanko.client(routes());
    let before = hanko.sign_in(&Person::default());
    assert_eq!(status(&client, &before).await, 200);
    // A foreign token does not use up the fetch that the new key needs.
    let foreign = hanko.foreign_token(&Person::default());
    get(&client, &foreign)
        .await
        .assert_status(StatusCode::UNAUTHORIZED);

    hanko.rotate_key().await.unwrap();
    let after = hanko.sign_in(&Person::default());
    assert_eq!(status(&client, &after).await, 200);
    assert_eq!(status(&client, &before).await, 200);

    hanko.retire_old_keys();
    // The keys are fetched again when they are due.
    hanko.advance(Duration::from_mins(10)).await;
    assert_eq!(status(&client, &before).await, 401);
    assert_eq!(status(&client, &after).await, 200);
}

#[tokio::test]
async fn the_webhook_of_an_ended_session_arrives_at_once() {
    let hanko = TestHanko::builder()
        .hanko(|builder| builder.session_mode(SessionMode::Stateless))
        .start()
        .await;
    let client = hanko.client(routes());
    let [signed_out, revoked, stays] =
        [(); 3].map(|()| hanko.sign_in(&Person::with_email("ada@example.com")));
    assert_eq!(hanko.end_session(&signed_out).await.unwrap(), Some(()));
    assert_eq!(hanko.revoke_session(&revoked).await.unwrap(), Some(()));
    assert_eq!(hanko.end_session(&signed_out).await.unwrap(), None);
    for ended in [&signed_out, &revoked] {
        let response = get(&client, ended.token()).await;
        assert_rejected(&response, "the session has ended");
    }
    assert_eq!(status(&client, &stays).await, 200);
    assert_eq!(hanko.hanko().webhook_status().accepted, 2);
}

#[tokio::test]
async fn a_deleted_user_is_rejected_with_all_sessions() {
    // Only the webhook ends it.
    let hanko = TestHanko::builder()
        .hanko(|builder| builder.session_mode(SessionMode::Stateless))
        .start()
        .await;
    let client = hanko.client(routes());
    let person = Person::default();
    let [first, second] = [(); 2].map(|()| hanko.sign_in(&person));
    let other = hanko.sign_in(&Person::default());
    hanko.delete_user(&person).await.unwrap();
    for session in [&first, &second] {
        assert_eq!(status(&client, session).await, 401);
    }
    assert_eq!(status(&client, &other).await, 200);
}

#[tokio::test]
async fn without_webhooks_the_background_validation_finds_an_end() {
    let hanko = TestHanko::start().await;
    let client = hanko.client(routes());
    let sessions = [(); 3].map(|()| hanko.sign_in(&Person::default()));
    for session in &sessions {
        assert_eq!(status(&client, session).await, 200);
    }
    hanko.stop_webhooks();
    for session in &sessions {
        hanko.end_session(session).await.unwrap();
        // Hanko's last response is fresh.
        assert_eq!(status(&client, session).await, 200);
    }
    hanko.advance(Duration::from_secs(31)).await;
    for session in &sessions {
        assert_eq!(status(&client, session).await, 200);
    }
    // In the background, all three at the same instant.
    hanko.settle().await;
    for session in &sessions {
        assert_eq!(status(&client, session).await, 401);
    }
}

#[tokio::test]
async fn a_hanging_hanko_times_out_on_the_clock() {
    let hanko = TestHanko::start().await;
    let client = hanko.client(routes());
    let known = hanko.sign_in(&Person::default());
    assert_eq!(status(&client, &known).await, 200);
    let new = hanko.sign_in(&Person::default());
    hanko.set_fault(Fault::Hangs);
    let (while_hanging, ()) = tokio::join!(status(&client, &new), async {
        hanko.wait_for_validate_requests(2).await;
        hanko.advance(Duration::from_secs(5)).await;
    });
    assert_eq!(while_hanging, 503);
    // It was confirmed before.
    assert_eq!(status(&client, &known).await, 200);
    hanko.set_fault(Fault::None);
    assert_eq!(status(&client, &new).await, 200);
}

#[tokio::test]
async fn a_failing_hanko_is_503_for_new_sessions_only() {
    let hanko = TestHanko::start().await;
    let client = hanko.client(routes());
    let known = hanko.sign_in(&Person::default());
    assert_eq!(status(&client, &known).await, 200);
    for fault in [
        Fault::Down,
        Fault::InternalError,
        Fault::DatabaseDown,
        Fault::UnexpectedResponse,
        Fault::Unavailable { retry_after: None },
        Fault::TooManyRequests { retry_after: None },
    ] {
        hanko.set_fault(fault);
        let new = hanko.sign_in(&Person::default());
        assert_eq!(status(&client, &new).await, 503, "{fault:?}");
        assert_eq!(status(&client, &known).await, 200, "{fault:?}");
        hanko.set_fault(Fault::None);
        hanko.advance(Duration::from_secs(29)).await;
        assert_eq!(status(&client, &new).await, 200, "{fault:?}");
        assert_eq!(status(&client, &known).await, 200, "{fault:?}");
    }
}

#[tokio::test]
async fn an_outage_of_the_keys_ends_when_time_passes() {
    let hanko = TestHanko::builder()
        .local_hanko(|builder| builder.fault(Fault::DatabaseDown))
        .start()
        .await;
    let client = hanko.client(routes());
    let ada = hanko.sign_in(&Person::default());
    assert_eq!(status(&client, &ada).await, 503);
    hanko.set_fault(Fault::None);
    assert_eq!(status(&client, &ada).await, 503);
    hanko.advance(ONE_SECOND).await;
    assert_eq!(status(&client, &ada).await, 200);
}

#[tokio::test]
async fn a_token_expires_to_the_second() {
    let hanko = TestHanko::start().await;
    let client = hanko.client(routes());
    // Whole days pass, after which the keys are too old to be used: they are fetched again before the next request.
    let long = hanko.sign_in(&Person::default().lifespan(Duration::from_hours(1000)));
    hanko.advance(Duration::from_hours(900)).await;
    assert_eq!(status(&client, &long).await, 200);

    let short = hanko.sign_in(&Person::default().lifespan(Duration::from_mins(1)));
    let usual = hanko.sign_in(&Person::default());
    // With the default leeway of 30 s, less one.
    hanko.advance(Duration::from_secs(89)).await;
    // The token has not expired, but Hanko allows no leeway.
    let response = get(&client, short.token()).await;
    assert_rejected(&response, "the session has ended");
    hanko.advance(ONE_SECOND).await;
    let response = get(&client, short.token()).await;
    assert_rejected(&response, "the token has expired");
    assert_eq!(status(&client, &usual).await, 200);
    hanko.advance(Duration::from_hours(11)).await;
    assert_eq!(status(&client, &usual).await, 200);
}

#[tokio::test]
async fn settling_returns_while_a_test_holds_responses() {
    let hanko = TestHanko::start().await;
    let client = hanko.client(routes());
    let ada = hanko.sign_in(&Person::default());
    let held = hanko.hold_validations();
    let (response, ()) = tokio::join!(status(&client, &ada), async {
        held.wait_for(1).await;
        hanko.settle().await;
        held.release();
    });
    assert_eq!(response, 200);
}
