//! The local Hanko has the members, types and formats of the recorded one.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use poem_hanko::{
    Clock, ManualClock,
    testing::{LocalHanko, Person},
};
use reqwest::Response;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{AUDIENCE, HANKO_CLAIMS, ISSUER, array, headers, recording, text};
use crate::{
    support::{START, client, header, send, within},
    testing::receiver::{Received, Receiver, decode_part},
};

/// Recorded events that the local Hanko does not send.
const NOT_SENT: [&str; 2] = ["user.create", "user.login"];

/// Texts that are the same in every Hanko.
const CONSTANTS: [&str; 6] = ["RS256", "JWT", "RSA", "AQAB", "sig", "hanko webhooks"];

/// The structure of JSON, without its values.
#[derive(Clone, PartialEq, Eq)]
enum Shape {
    Object(BTreeMap<String, Shape>),
    /// The shapes of the elements, each once.
    Array(Vec<Shape>),
    Leaf(String),
}

impl fmt::Debug for Shape {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Object(members) => members.fmt(formatter),
            Self::Array(elements) => elements.fmt(formatter),
            Self::Leaf(format) => formatter.write_str(format),
        }
    }
}

fn shape(value: &Value) -> Shape {
    match value {
        Value::Object(members) => Shape::Object(
            members
                .iter()
                .map(|(name, value)| (name.clone(), shape(value)))
                .collect(),
        ),
        Value::Array(elements) => {
            let mut shapes = Vec::new();
            for shape in elements.iter().map(shape) {
                if !shapes.contains(&shape) {
                    shapes.push(shape);
                }
            }
            Shape::Array(shapes)
        }
        Value::String(text) => Shape::Leaf(format_of(text)),
        Value::Number(number) if number.is_u64() => Shape::Leaf("unsigned integer".to_owned()),
        Value::Number(_) => Shape::Leaf("number".to_owned()),
        Value::Bool(_) => Shape::Leaf("boolean".to_owned()),
        Value::Null => Shape::Leaf("null".to_owned()),
    }
}

fn format_of(text: &str) -> String {
    if CONSTANTS.contains(&text) {
        return format!("{text:?}");
    }
    if Uuid::try_parse(text).is_ok_and(|uuid| uuid.to_string() == text) {
        return "uuid".to_owned();
    }
    if text.parse::<DateTime<Utc>>().is_ok() {
        return format_of_time(text);
    }
    let decode = |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part);
    let parts: Vec<&str> = text.split('.').collect();
    if parts.len() == 3 && parts.iter().all(|part| decode(part).is_ok()) {
        return "compact JWS".to_owned();
    }
    // Shorter strings may be words that look like base64url.
    if let Ok(bytes) = decode(text)
        && bytes.len() >= 32
    {
        return format!("base64url of {} bytes", bytes.len());
    }
    let scheme = text.split_once("://").map(|(scheme, _)| scheme);
    match scheme {
        Some(scheme) => format!("{scheme} url"),
        None if text.contains('@') => "e-mail address".to_owned(),
        None => "text".to_owned(),
    }
}

/// Distinguishes the precisions of Hanko's times: of tokens, of its database, and of its memory.
fn format_of_time(text: &str) -> String {
    assert!(text.ends_with('Z') && text.as_bytes()[10] == b'T', "{text}");
    let fraction = text
        .trim_end_matches('Z')
        .split_once('.')
        .map_or("", |(_, fraction)| fraction);
    // Go drops trailing zeros.
    assert!(!fraction.ends_with('0'), "{text}");
    let precision = match fraction.len() {
        0 => "seconds",
        1..=6 => "microseconds",
        _ => "nanoseconds",
    };
    format!("RFC 3339 in {precision}")
}

#[track_caller]
fn assert_same_shape(what: &str, local: &Value, recorded: &Value) {
    let (local, recorded) = (shape(local), shape(recorded));
    assert_eq!(
        local, recorded,
        "{what}: the local Hanko is left, the recorded one right"
    );
}

/// A local Hanko with the settings of the recorded one, and a clock with a fraction of each precision.
async fn start() -> (LocalHanko, ManualClock, Receiver) {
    let clock = ManualClock::new(START + Duration::from_nanos(123_456_789));
    let local_hanko = LocalHanko::builder()
        .clock(Arc::new(clock.clone()) as Arc<dyn Clock>)
        .rsa_4096()
        .audience(AUDIENCE)
        .issuer(ISSUER)
        .webhook_events(&["user", "session"])
        .start()
        .await
        .unwrap();
    let receiver = Receiver::start();
    local_hanko.send_webhooks_to(&receiver.url);
    (local_hanko, clock, receiver)
}

/// The person of a recorded token.
fn person(token: &Value) -> Person {
    let claims = token["claims"].as_object().unwrap();
    let custom_claims: Map<String, Value> = claims
        .iter()
        .filter(|(name, _)| !HANKO_CLAIMS.contains(&name.as_str()) && *name != "amr")
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let amr = claims.get("amr").map_or_else(Vec::new, |amr| {
        array(amr)
            .iter()
            .map(|name| text(name).to_owned())
            .collect()
    });
    let email = text(&claims["email"]["address"]);
    let person = Person::with_email(email).amr(amr).claims(custom_claims);
    if claims["email"]["is_verified"] == true {
        person
    } else {
        person.unverified_email(email)
    }
}

async fn assert_like_recorded(response: Response, recorded_headers: &Value, recorded_body: &str) {
    assert_eq!(response.status(), 200);
    for (name, value) in headers(recorded_headers) {
        assert_eq!(
            header(&response, &name).as_deref(),
            Some(value.as_str()),
            "{name}"
        );
    }
    let body: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
    let recorded: Value = serde_json::from_str(recorded_body).unwrap();
    assert_same_shape("the body", &body, &recorded);
}

#[tokio::test]
async fn the_jwk_set_has_the_recorded_shape() {
    let (local_hanko, _clock, _receiver) = start().await;
    let recorded = &recording()["key_set"];
    let request = client().get(format!("{}/.well-known/jwks.json", local_hanko.url()));
    assert_like_recorded(
        send(request).await,
        &recorded["headers"],
        text(&recorded["body"]),
    )
    .await;
}

#[tokio::test]
async fn session_tokens_have_the_recorded_shape() {
    let (local_hanko, _clock, _receiver) = start().await;
    let recording = recording();
    let [by_admin, with_amr @ ..] = array(&recording["tokens"]) else {
        panic!("three tokens");
    };
    let assert_like = |token: &str, recorded: &Value| {
        let recorded_token = text(&recorded["token"]);
        assert_eq!(format_of(token), format_of(recorded_token));
        for part in [0, 1] {
            let recorded = decode_part(recorded_token, part);
            assert_same_shape("a session token", &decode_part(token, part), &recorded);
        }
    };
    let person_of_admin = person(by_admin);
    assert_like(
        &local_hanko.create_session(&person_of_admin).token,
        by_admin,
    );
    // The Admin API involves no authentication, whatever methods the person has.
    let with_password = person_of_admin.amr(["pwd"]);
    assert_like(&local_hanko.create_session(&with_password).token, by_admin);
    assert_eq!(with_amr.len(), 2);
    for recorded in with_amr {
        assert_like(&local_hanko.sign_in(&person(recorded)).token, recorded);
    }
}

#[tokio::test]
async fn validation_responses_have_the_recorded_shape() {
    let (local_hanko, _clock, _receiver) = start().await;
    let recording = recording();
    let [valid, invalid] = array(&recording["validate"]) else {
        panic!("two responses");
    };
    let json_headers = json!({ "content-type": "application/json" });
    let session = local_hanko.create_session(&person(&recording["tokens"][0]));
    let url = format!("{}/sessions/validate", local_hanko.url());
    for recorded in [valid, invalid] {
        let by_post = client()
            .post(&url)
            .json(&json!({ "session_token": session.token }));
        let by_get = client().get(&url).bearer_auth(&session.token);
        for request in [by_post, by_get] {
            let response = send(request).await;
            assert_like_recorded(response, &json_headers, text(&recorded["body"])).await;
        }
        // The second one was recorded after a logout.
        let _ended = local_hanko.end_session(session.session_id).await.unwrap();
    }
}

/// Makes the local Hanko send every event that it can send, about sessions as in the recording.
async fn every_webhook() -> Vec<Received> {
    let (local_hanko, clock, receiver) = start().await;
    local_hanko.set_session_limit(1);
    let person = || Person::with_email("ada@example.com");
    local_hanko.sign_in(&person());

    let logged_out = local_hanko.create_session(&person()).session_id;
    local_hanko.end_session(logged_out).await.unwrap();
    let revoked = local_hanko.create_session(&person()).session_id;
    local_hanko.revoke_session(revoked).await.unwrap();
    let limited = person();
    for _ in 0..2 {
        local_hanko.create_session(&limited);
    }
    let deleted = person();
    local_hanko.create_session(&deleted);
    local_hanko.delete_user(&deleted).await.unwrap();
    local_hanko.set_idle_timeout(Some(Duration::from_secs(1)));
    let idle = local_hanko.create_session(&person());
    clock.advance(Duration::from_secs(2));
    let validation = client()
        .get(format!("{}/sessions/validate", local_hanko.url()))
        .bearer_auth(&idle.token);
    send(validation).await;
    within(local_hanko.wait_for_webhooks()).await;
    receiver.received()
}

#[tokio::test]
async fn webhooks_have_the_recorded_shape() {
    let recording = recording();
    let recorded: BTreeMap<&str, &Value> = array(&recording["webhooks"])
        .iter()
        .map(|webhook| (text(&webhook["event"]), webhook))
        .collect();
    let local: BTreeMap<String, Received> = every_webhook()
        .await
        .into_iter()
        .map(|webhook| (webhook.event().to_owned(), webhook))
        .collect();
    let expected: Vec<&str> = recorded
        .keys()
        .copied()
        .filter(|event| !NOT_SENT.contains(event))
        .collect();
    assert_eq!(local.keys().collect::<Vec<_>>(), expected);
    for (event, webhook) in &local {
        let recorded = recorded[event.as_str()];
        for (name, value) in headers(&recorded["headers"]) {
            assert_eq!(webhook.headers[&name], value, "{event}: {name}");
        }
        let recorded: Value = serde_json::from_str(text(&recorded["body"])).unwrap();
        assert_same_shape(event, &webhook.body, &recorded);
        assert_eq!(webhook.body["event"], recorded["event"]);
        for part in [0, 1] {
            assert_same_shape(
                event,
                &decode_part(text(&webhook.body["token"]), part),
                &decode_part(text(&recorded["token"]), part),
            );
        }
        let claims = webhook.claims();
        assert_eq!(claims["evt"], *event);
        assert_eq!(
            claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(),
            300
        );
    }
}

#[test]
fn a_shape_shows_every_difference() {
    let value = json!({
        "id": "6d35e07c-8718-4308-8bb6-b90cf66f18d1",
        "at": "2026-11-24T13:03:04.427114Z",
        "emails": [{ "address": "a@example.com", "is_primary": true }],
        "n": 1,
        "agent": null,
    });
    let other_values = json!({
        "id": "457d9756-aea9-42c2-b681-ccab0957c1d4",
        "at": "2027-01-01T00:00:00.5Z",
        "emails": [
            { "address": "b@example.com", "is_primary": false },
            { "address": "c@example.com", "is_primary": true },
        ],
        "n": 2,
        "agent": null,
    });
    assert_eq!(shape(&value), shape(&other_values));

    let with = |member: &str, new: Value| {
        let mut value = value.clone();
        value[member] = new;
        value
    };
    let mut without = value.clone();
    without.as_object_mut().unwrap().remove("n");
    for different in [
        without,
        with("more", json!(1)),
        with("n", json!("1")),
        with("n", json!(1.5)),
        with("agent", json!("Mozilla/5.0")),
        with("id", json!("6D35E07C-8718-4308-8BB6-B90CF66F18D1")),
        with("at", json!("2026-11-24T13:03:04Z")),
        with("at", json!("2026-11-24T13:03:04.427114492Z")),
        with("at", json!(1_795_525_384)),
        with("emails", json!([])),
        with("emails", json!([{ "address": "a@example.com" }])),
        with("emails", json!([{ "address": 1, "is_primary": true }])),
    ] {
        assert_ne!(shape(&value), shape(&different), "{different}");
    }
}
