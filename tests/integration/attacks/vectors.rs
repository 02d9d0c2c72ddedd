//! Vectors that others published.

use std::{fs, path::Path, time::Duration};

use poem_hanko::ManualClock;
use serde_json::{Value, json};

use super::issuer::Issuer;
use crate::support::{App, START, assert_problem, header, report};

/// Beside the repository; there is no copy of them in it.
const WYCHEPROOF: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../shared/vectors/wycheproof-rs256.json"
);

/// The ids of the vectors whose signature is valid. `src/jose/tests/vectors.rs` compares every label.
const VERIFIED: [u64; 7] = [33, 260, 261, 262, 263, 345, 349];

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
                // The signature holds: what refuses it is that its payload is no Claims Set.
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

/// RFC 7515 appendix A.2, the public part of its key.
fn rfc_7515_a_2_jwk() -> Value {
    json!({
        "kty": "RSA",
        "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2l\
              ZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEM\
              a2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2P\
              AcDTW9gb54h4FRWyuXpoQ",
        "e": "AQAB",
    })
}

const RFC_7515_A_2_TOKEN: &str = concat!(
    "eyJhbGciOiJSUzI1NiJ9",
    ".",
    "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ",
    ".",
    "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7",
    "t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi1",
    "2jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGl",
    "UPQGe77Rw"
);

#[tokio::test]
async fn the_example_of_rfc_7515_is_not_a_session() {
    let issuer = Issuer::start().await;
    issuer.publish(&[rfc_7515_a_2_jwk()]);
    // In 2026 it has expired. A minute before its `exp` of 2011-03-22T18:43:00Z it is a token, but no session.
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
