//! Published test vectors.

use std::{fs, path::Path};

use serde_json::{Value, json};

use super::published::{RFC_7515_A_2_TOKEN, VERIFIED, WYCHEPROOF, rfc_7515_a_2_jwk};
use crate::jose::{KeySetDocument, TokenError, UnverifiedToken};

/// Vectors that are labelled valid but rejected here: their ids, the error, and the reason.
const EXCEPTIONS: [(&[u64], TokenError, &str); 4] = [
    (
        &[259, 264, 268, 272, 320, 325],
        TokenError::NotCompact,
        "the payload is empty, but a JWT's is a JSON object (RFC 7519 section 7.2)",
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
    // Here the label is wrong, too. The other wrong labels (347, 351, 367, 370, 372 and 373) are not about RSA and not among
    // these vectors.
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

#[test]
fn wycheproof_signatures_are_verified_as_labelled() {
    if !Path::new(WYCHEPROOF).exists() {
        eprintln!("skipped: the Wycheproof vectors are not in ../shared/vectors");
        return;
    }
    let text = fs::read_to_string(WYCHEPROOF).expect("the vectors");
    let vectors: Value = serde_json::from_str(&text).expect("JSON");
    let (mut verified, mut rejected) = (Vec::new(), 0);
    for group in vectors["groups"].as_array().expect("groups") {
        for test in group["tests"].as_array().expect("tests") {
            let id = test["id"].as_u64().expect("an id");
            let name = format!("{} {id} {}", group["name"], test["name"]);
            let is_labelled_valid = test["valid"] == true;
            let verdict = verify(&group["jwk"], test["jws"].as_str().expect("a JWS"));
            let exception = EXCEPTIONS.iter().find(|(ids, ..)| ids.contains(&id));
            if let Some((_, error, reason)) = exception {
                assert!(is_labelled_valid, "{name} is no exception");
                assert_eq!(verdict, Err(*error), "{name}: {reason}");
            } else {
                assert_eq!(verdict.is_ok(), is_labelled_valid, "{name}: {verdict:?}");
            }
            if verdict.is_ok() {
                verified.push(id);
            } else {
                rejected += 1;
            }
        }
    }
    assert_eq!(verified, VERIFIED);
    assert_eq!(rejected, 311);
}

#[test]
fn the_example_of_rfc_7515_is_verified() {
    assert_eq!(verify(&rfc_7515_a_2_jwk(), RFC_7515_A_2_TOKEN), Ok(()));
}

#[test]
fn the_private_key_of_rfc_7515_is_skipped() {
    let mut jwk = rfc_7515_a_2_jwk();
    jwk["d"] = json!("AQAB");
    assert_eq!(
        verify(&jwk, RFC_7515_A_2_TOKEN),
        Err(TokenError::UnknownKey)
    );
}
