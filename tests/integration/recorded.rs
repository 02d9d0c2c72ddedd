//! Recorded responses and webhooks of a real Hanko v3 (`tests/vectors/hanko-v3.json`): the library accepts each token and
//! webhook at the time of its recording, and the local Hanko behaves like the real one.

mod shapes;

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use poem_hanko::{
    AuthenticateError, Hanko, HankoUrl, ManualClock, MemoryStore, NumericDate, PlainHttp, Receipt,
    Revocation, RevocationStore, SessionId, SessionMode, Target, TokenError, UserId, WebhookError,
};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::{
    support::{hanko_builder, within},
    testing::receiver::{claims_of_token, decode_part, serve_key_set},
};

const AUDIENCE: &str = "acme-api";
const ISSUER: &str = "http://127.0.0.1:8100";

/// The claims that are not custom claims.
const HANKO_CLAIMS: [&str; 8] = [
    "sub",
    "iat",
    "exp",
    "aud",
    "iss",
    "session_id",
    "email",
    "username",
];

fn recording() -> Value {
    let recording: Value =
        serde_json::from_str(include_str!("../vectors/hanko-v3.json")).expect("JSON");
    assert_eq!(recording["settings"]["session.audience"], json!([AUDIENCE]));
    assert_eq!(recording["settings"]["session.issuer"], ISSUER);
    recording
}

fn array(value: &Value) -> &[Value] {
    value.as_array().expect("an array")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("text")
}

fn uuid(value: &Value) -> Uuid {
    text(value).parse().expect("a UUID")
}

fn seconds(value: &Value) -> Duration {
    Duration::from_secs(value.as_u64().expect("a NumericDate"))
}

/// An RFC 3339 time as a duration since 1970-01-01T00:00:00Z.
fn time(value: &Value) -> Duration {
    let time: DateTime<Utc> = text(value).parse().expect("RFC 3339");
    time.signed_duration_since(DateTime::UNIX_EPOCH)
        .to_std()
        .expect("after 1970")
}

fn headers(value: &Value) -> Vec<(String, String)> {
    let headers = value.as_object().expect("an object");
    headers
        .iter()
        .map(|(name, value)| (name.clone(), text(value).to_owned()))
        .collect()
}

/// A service behind the recorded Hanko, with its keys, at a moment.
struct Service {
    hanko: Hanko,
    clock: ManualClock,
    store: Arc<MemoryStore>,
}

impl Service {
    async fn at(moment: Duration) -> Self {
        let recording = recording();
        let key_set = &recording["key_set"];
        let url = serve_key_set(text(&key_set["body"]), &headers(&key_set["headers"]));
        let clock = ManualClock::new(moment);
        let store = Arc::new(MemoryStore::new(Arc::new(clock.clone())));
        let tenant = HankoUrl::parse(&url, PlainHttp::LoopbackOnly).unwrap();
        let hanko = hanko_builder(tenant)
            .audiences([AUDIENCE.to_owned()])
            .issuer(ISSUER)
            .session_mode(SessionMode::Stateless)
            .revocation_store(Arc::clone(&store) as Arc<dyn RevocationStore>)
            .clock(Arc::new(clock.clone()))
            .build()
            .unwrap();
        within(hanko.wait_for_key_set_fetches(1)).await;
        assert_eq!(hanko.key_set_status().usable_keys, 2);
        Self {
            hanko,
            clock,
            store,
        }
    }
}

/// When a token was verified: at the moment it was issued, and at the end of the recording.
fn moments_of(recording: &Value, token: &Value) -> [Duration; 2] {
    [
        seconds(&token["claims"]["iat"]),
        time(&recording["recorded_at"]),
    ]
}

#[tokio::test]
async fn recorded_tokens_give_the_sessions_beside_them() {
    let recording = recording();
    let tokens = array(&recording["tokens"]);
    assert_eq!(tokens.len(), 3);
    for token in tokens {
        let claims = &token["claims"];
        assert_eq!(claims_of_token(text(&token["token"])), *claims);
        for moment in moments_of(&recording, token) {
            let service = Service::at(moment).await;
            let session = service.hanko.authenticate(text(&token["token"])).await;
            let session = session.unwrap_or_else(|error| panic!("{}: {error}", token["of"]));
            assert_eq!(session.user_id().as_uuid(), uuid(&claims["sub"]));
            assert_eq!(session.id().as_uuid(), uuid(&claims["session_id"]));
            let email = session.email().expect("an e-mail address");
            assert_eq!(
                claims["email"],
                json!({
                    "address": email.address,
                    "is_primary": email.is_primary,
                    "is_verified": email.is_verified,
                })
            );
            assert_eq!(session.username(), None);
            assert_eq!(
                session.issued_at().map(NumericDate::since_epoch),
                Some(seconds(&claims["iat"]))
            );
            assert_eq!(session.expires_at().since_epoch(), seconds(&claims["exp"]));
            assert_eq!(json!(session.audience()), claims["aud"]);
            assert_eq!(session.issuer(), claims["iss"].as_str());
            let custom: Map<String, Value> = claims
                .as_object()
                .into_iter()
                .flatten()
                .filter(|(name, _)| !HANKO_CLAIMS.contains(&name.as_str()))
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect();
            assert_eq!(*session.custom_claims(), custom);
            assert_eq!(session.custom_claims().get("amr"), claims.get("amr"));
        }
    }
}

#[tokio::test]
async fn recorded_tokens_expire_after_twelve_hours() {
    let recording = recording();
    for token in array(&recording["tokens"]) {
        let service = Service::at(seconds(&token["claims"]["exp"])).await;
        let authenticate = || service.hanko.authenticate(text(&token["token"]));
        // Within the leeway.
        service.clock.advance(Duration::from_secs(29));
        authenticate().await.unwrap();
        service.clock.advance(Duration::from_secs(1));
        let error = authenticate().await.unwrap_err();
        assert!(
            matches!(error, AuthenticateError::Token(TokenError::Expired)),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn recorded_webhooks_have_their_effects() {
    let recording = recording();
    let webhooks = array(&recording["webhooks"]);
    assert_eq!(webhooks.len(), 9);
    for webhook in webhooks {
        let name = text(&webhook["event"]);
        let body = text(&webhook["body"]);
        let recorded_at = time(&webhook["recorded_at"]);
        let service = Service::at(recorded_at).await;
        let event = service.hanko.receive_webhook(body.as_bytes()).await;
        let Ok(Receipt::Verified(event)) = event else {
            panic!("{name}: {event:?}");
        };

        let body: Value = serde_json::from_str(body).unwrap();
        let claims = claims_of_token(text(&body["token"]));
        let data = &claims["data"];
        assert_eq!(event.kind().name(), name);
        assert_eq!(event.data(), data, "{name}");
        assert_eq!(event.subject_id(), Some(uuid(&data["id"])), "{name}");
        assert_eq!(event.issued_at().since_epoch(), seconds(&claims["iat"]));

        let is_revoked = |session: Uuid, user: Uuid, issued_at: Duration| {
            service.store.is_revoked(
                SessionId::from(session),
                UserId::from(user),
                Some(issued_at.into()),
            )
        };
        let other = Uuid::new_v4();
        let issued_at = event.issued_at().since_epoch();
        let later = issued_at + Duration::from_secs(1);
        let count = if name.starts_with("session.delete.") {
            let (session, user) = (uuid(&data["id"]), uuid(&data["user_id"]));
            assert!(is_revoked(session, user, issued_at), "{name}");
            assert!(!is_revoked(other, user, issued_at), "{name}");
            1
        } else if name == "user.delete" {
            let user = uuid(&data["id"]);
            assert!(is_revoked(other, user, issued_at), "{name}");
            assert!(!is_revoked(other, user, later), "{name}");
            assert!(!is_revoked(other, other, issued_at), "{name}");
            1
        } else {
            0
        };
        assert_eq!(service.store.len(), count, "{name}");
    }
}

#[tokio::test]
async fn an_entry_of_the_store_rejects_a_recorded_token() {
    // The recorded tokens and webhooks are about different sessions. So the store shows which session a webhook ends, and
    // this shows that such an entry rejects a recorded token.
    let recording = recording();
    let token = &recording["tokens"][0];
    let service = Service::at(time(&recording["recorded_at"])).await;
    let authenticate = || service.hanko.authenticate(text(&token["token"]));
    authenticate().await.unwrap();
    let target = Target::Session(uuid(&token["claims"]["session_id"]).into());
    let revocation = Revocation {
        target,
        until: seconds(&token["claims"]["exp"]).into(),
    };
    service.store.revoke(revocation).await.unwrap();
    let error = authenticate().await.unwrap_err();
    assert!(
        matches!(error, AuthenticateError::SessionEnded),
        "{error:?}"
    );
}

#[tokio::test]
async fn recorded_webhooks_expire_after_five_minutes() {
    let recording = recording();
    for webhook in array(&recording["webhooks"]) {
        let body = text(&webhook["body"]);
        let claims: Value = serde_json::from_str(body).unwrap();
        let claims = claims_of_token(text(&claims["token"]));
        assert_eq!(
            seconds(&claims["exp"]),
            seconds(&claims["iat"]) + Duration::from_mins(5)
        );
        let leeway = Duration::from_secs(30);
        let service = Service::at(seconds(&claims["exp"]) + leeway).await;
        let error = service.hanko.receive_webhook(body.as_bytes()).await;
        assert!(
            matches!(error, Err(WebhookError::Token(TokenError::Expired))),
            "{error:?}"
        );
        assert!(service.store.is_empty());
    }
}

#[tokio::test]
async fn recorded_webhook_tokens_are_no_sessions() {
    let recording = recording();
    for webhook in array(&recording["webhooks"]) {
        let body: Value = serde_json::from_str(text(&webhook["body"])).unwrap();
        let service = Service::at(time(&webhook["recorded_at"])).await;
        let error = service.hanko.authenticate(text(&body["token"])).await;
        assert!(
            matches!(error, Err(AuthenticateError::Token(_))),
            "{}: {error:?}",
            webhook["event"]
        );
    }
}

#[tokio::test]
async fn recorded_session_tokens_are_no_webhooks() {
    let recording = recording();
    let service = Service::at(time(&recording["recorded_at"])).await;
    for token in array(&recording["tokens"]) {
        for webhook in array(&recording["webhooks"]) {
            let body = json!({ "token": token["token"], "event": webhook["event"] }).to_string();
            let error = service.hanko.receive_webhook(body.as_bytes()).await;
            assert!(matches!(error, Err(WebhookError::Token(_))), "{error:?}");
        }
        service
            .hanko
            .authenticate(text(&token["token"]))
            .await
            .unwrap();
    }
    assert!(service.store.is_empty());
}

#[tokio::test]
async fn recorded_webhooks_are_rejected_under_another_event() {
    let recording = recording();
    let webhooks = array(&recording["webhooks"]);
    for webhook in webhooks {
        let body: Value = serde_json::from_str(text(&webhook["body"])).unwrap();
        let service = Service::at(time(&webhook["recorded_at"])).await;
        for other in webhooks {
            if other["event"] == webhook["event"] {
                continue;
            }
            let body = json!({ "token": body["token"], "event": other["event"] }).to_string();
            let error = service.hanko.receive_webhook(body.as_bytes()).await;
            assert!(matches!(error, Err(WebhookError::Token(_))), "{error:?}");
        }
        assert!(service.store.is_empty());
    }
}

#[test]
fn both_recorded_keys_have_signed_something() {
    let recording = recording();
    let key_set: Value = serde_json::from_str(text(&recording["key_set"]["body"])).unwrap();
    let tokens = array(&recording["tokens"])
        .iter()
        .map(|token| text(&token["token"]).to_owned());
    let webhooks = array(&recording["webhooks"]).iter().map(|webhook| {
        let body: Value = serde_json::from_str(text(&webhook["body"])).unwrap();
        text(&body["token"]).to_owned()
    });
    let kids: Vec<Value> = tokens
        .chain(webhooks)
        .map(|token| decode_part(&token, 0)["kid"].clone())
        .collect();
    for key in array(&key_set["keys"]) {
        assert!(kids.contains(&key["kid"]), "{}", key["kid"]);
    }
}
