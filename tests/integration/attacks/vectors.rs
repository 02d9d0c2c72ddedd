//! Vectors that others published.

use std::{fs, path::Path, time::Duration};

use poem_hanko::{
    ManualClock,
    jose::{KeySetDocument, TokenError, UnverifiedToken},
};
use serde_json::{Value, json};

use super::issuer::Issuer;
use crate::support::{App, START, assert_problem, header, report};

/// Beside the repository; there is no copy of them in it.
const WYCHEPROOF: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../shared/vectors/wycheproof-rs256.json"
);

/// Those whose label says `valid` and that are refused all the same, with the rule that refuses them and the argument.
const ARGUED: [(&[u64], TokenError, &str); 4] = [
    (
        &[259, 264, 268, 272, 320, 325],
        TokenError::NotCompact,
        "an empty payload: that of a JWT is a JSON object (RFC 7519 section 7.2)",
    ),
    (
        &[265, 266, 267, 269, 270, 271],
        TokenError::AlgorithmNotAllowed,
        "RS384 and RS512 are not RS256",
    ),
    (
        &[273, 274, 275, 287, 288, 321, 322, 323, 326, 327, 328],
        TokenError::AlgorithmNotAllowed,
        "PS256, PS384 and PS512 are not RS256",
    ),
    // The label contradicts the octets, too. The other cases of which that is true, 347, 351, 367, 370, 372 and 373, are
    // not about RSA and not among these vectors.
    (
        &[346, 350],
        TokenError::AlgorithmNotAllowed,
        "the JWK is for PS256 and the header says PS384",
    ),
];

fn verify(jwk: &Value, token: &str) -> Result<(), TokenError> {
    let set = json!({ "keys": [jwk] }).to_string();
    let document = KeySetDocument::parse(set.as_bytes()).expect("a JWK Set");
    UnverifiedToken::parse(token)?
        .verify_signature(&document.key_set)
        .map(drop)
}

#[tokio::test]
async fn wycheproof_signatures_are_verified_as_labelled_and_none_is_a_session() {
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
            let is_labelled_valid = test["valid"] == true;
            let verdict = verify(&group["jwk"], token);
            let argued = ARGUED.iter().find(|(ids, ..)| ids.contains(&id));
            let is_valid = if let Some((_, rule, argument)) = argued {
                assert!(is_labelled_valid, "{name} needs no argument");
                assert_eq!(verdict, Err(*rule), "{name}: {argument}");
                false
            } else {
                assert_eq!(verdict.is_ok(), is_labelled_valid, "{name}: {verdict:?}");
                is_labelled_valid
            };
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
    assert_eq!(verified, [33, 260, 261, 262, 263, 345, 349]);
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
async fn the_example_of_rfc_7515_verifies_and_is_no_session() {
    assert_eq!(verify(&rfc_7515_a_2_jwk(), RFC_7515_A_2_TOKEN), Ok(()));

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

#[test]
fn the_private_key_of_rfc_7515_is_passed_over() {
    let mut jwk = rfc_7515_a_2_jwk();
    jwk["d"] = json!("AQAB");
    assert_eq!(
        verify(&jwk, RFC_7515_A_2_TOKEN),
        Err(TokenError::UnknownKey)
    );
}
