//! Published test vectors.

#[path = "../../../src/jose/tests/published.rs"]
mod published;

use std::{fs, path::Path, time::Duration};

use poem_hanko::ManualClock;
use serde_json::Value;

use self::published::{RFC_7515_A_2_TOKEN, VERIFIED, WYCHEPROOF, rfc_7515_a_2_jwk};
use super::issuer::Issuer;
use crate::support::{App, START, assert_problem, header, report};

#[tokio::test]
async fn no_wycheproof_vector_is_a_session() {
    if !Path::new(WYCHEPROOF).exists() {
        report("skipped: the Wycheproof vectors are not in ../shared/vectors");
        return;
    }
    let text = fs::read_to_string(WYCHEPROOF).expect("the vectors");
    let vectors: Value = serde_json::from_str(&text).expect("JSON");
    let issuer = Issuer::start().await;
    let jwks: Vec<Value> = vectors["groups"]
        .as_array()
        .expect("groups")
        .iter()
        .map(|group| group["jwk"].clone())
        .collect();
    issuer.publish(&jwks);
    let app = App::start(issuer.url(), &ManualClock::new(START), &[]);
    app.hanko.wait_for_key_set_fetches(1).await;

    let (mut verified, mut refused) = (Vec::new(), 0);
    for group in vectors["groups"].as_array().expect("groups") {
        for test in group["tests"].as_array().expect("tests") {
            let id = test["id"].as_u64().expect("an id");
            let name = format!("{} {id} {}", group["name"], test["name"]);
            let token = test["jws"].as_str().expect("a JWS");
            let is_valid = VERIFIED.contains(&id);
            if is_valid {
                verified.push(id);
            } else {
                refused += 1;
            }

            let response = app.get_with_bearer("/protected", token).await;
            assert_eq!(response.status(), 401, "{name}");
            if is_valid {
                // The signature is valid; the token is rejected because its payload is not a Claims Set.
                assert_eq!(
                    header(&response, "www-authenticate").as_deref(),
                    Some(
                        r#"Bearer error="invalid_token", error_description="the token's claims are malformed""#
                    ),
                    "{name}"
                );
            }
            assert_problem(response, 401, "invalid-token").await;
        }
    }
    report(&format!(
        "wycheproof: {} verified, {refused} refused",
        verified.len()
    ));
    assert_eq!(verified, VERIFIED);
    assert_eq!(refused, 311);
}

#[tokio::test]
async fn the_example_of_rfc_7515_is_not_a_session() {
    let issuer = Issuer::start().await;
    issuer.publish(&[rfc_7515_a_2_jwk()]);
    // In 2026 it has expired. A minute before its `exp` of 2011-03-22T18:43:00Z it is valid, but it lacks the claims of a session.
    for (clock, rule) in [
        (ManualClock::new(START), "the token has expired"),
        (
            ManualClock::new(Duration::from_mins(21_680_322)),
            "the token lacks the claim `sub`",
        ),
    ] {
        let app = App::start(issuer.url(), &clock, &[]);
        app.hanko.wait_for_key_set_fetches(1).await;
        let response = app.get_with_bearer("/protected", RFC_7515_A_2_TOKEN).await;
        assert_eq!(
            header(&response, "www-authenticate"),
            Some(format!(
                r#"Bearer error="invalid_token", error_description="{rule}""#
            ))
        );
        assert_problem(response, 401, "invalid-token").await;
    }
}
