//! Which keys of a JWK Set are used, and which documents are a JWK Set.

use serde_json::json;

use super::{
    KEYS,
    unusable_keys::{unusable, with},
};
use crate::jose::{KeySetDocument, error::UnusableKey};

#[test]
fn unusable_keys_are_skipped_for_their_own_reason() {
    let unusable = unusable(&KEYS.attacker);
    for (kid, jwk, reason) in &unusable {
        let set = json!({ "keys": [jwk, KEYS.good_jwk()] });
        let document = KeySetDocument::parse(set.to_string().as_bytes()).expect("a JWK Set");
        assert_eq!(document.key_set.len(), 1, "{kid}: the good key is used");
        let skipped = &document.skipped[..];
        assert_eq!(skipped.len(), 1, "{kid}: {jwk}");
        assert_eq!(format!("{:?}", skipped[0].reason), *reason, "{kid}: {jwk}");
        assert_eq!(skipped[0].index, 0, "{kid}");
    }
    assert!(unusable.len() >= 50);
}

#[test]
fn a_key_with_duplicate_members_is_skipped() {
    let jwk = KEYS.good_jwk().to_string();
    for member in [
        r#""e":"AQAB""#,
        r#""alg":"RS256","alg":"RS256""#,
        r#""\u006bty":"RSA""#,
    ] {
        let set = format!(r#"{{"keys":[{{{member},{}]}}"#, &jwk[1..]);
        let document = KeySetDocument::parse(set.as_bytes()).expect("a JWK Set");
        assert!(document.key_set.is_empty(), "{member}");
        assert_eq!(document.skipped[0].reason, UnusableKey::Malformed);
    }
}

#[test]
fn a_key_with_exponent_3_is_usable() {
    let set = json!({ "keys": [with(KEYS.good_jwk(), json!({ "e": "Aw" }))] });
    let document = KeySetDocument::parse(set.to_string().as_bytes()).expect("a JWK Set");
    assert_eq!(document.key_set.len(), 1);
}

#[test]
fn other_documents_are_not_parsed_as_a_jwk_set() {
    let jwk = KEYS.good_jwk();
    let rows = [
        ("nothing", String::new()),
        ("HTML", "<html></html>".to_owned()),
        ("a JWK alone", jwk.to_string()),
        ("an array of JWKs", json!([jwk]).to_string()),
        ("no keys", "{}".to_owned()),
        ("keys null", json!({ "keys": null }).to_string()),
        (
            "keys an object",
            json!({ "keys": { "a": jwk } }).to_string(),
        ),
        ("keys a string", json!({ "keys": "a" }).to_string()),
        ("keys twice", format!(r#"{{"keys":[],"keys":[{jwk}]}}"#)),
        ("a truncated set", format!(r#"{{"keys":[{jwk}"#)),
        ("trailing bytes", format!(r#"{{"keys":[{jwk}]}}x"#)),
        ("a byte order mark", format!("\u{feff}{{\"keys\":[{jwk}]}}")),
        (
            "nesting without end",
            format!("{{\"keys\":{}", "[".repeat(100_000)),
        ),
    ];
    for (name, document) in rows {
        assert!(
            KeySetDocument::parse(document.as_bytes()).is_none(),
            "{name}"
        );
    }
    for invalid in [
        &b"{\"keys\":[\"\xff\"]}"[..],
        b"{\"keys\":[{\"kid\":\"\xc0\xaf\"}]}",
    ] {
        assert!(KeySetDocument::parse(invalid).is_none(), "invalid UTF-8");
    }
}

#[test]
fn deep_nesting_inside_a_key_skips_only_that_key() {
    let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let set = format!(r#"{{"keys":[{nested},{}]}}"#, KEYS.good_jwk());
    let document = KeySetDocument::parse(set.as_bytes()).expect("a JWK Set");
    assert_eq!(document.key_set.len(), 1);
    assert_eq!(document.skipped[0].reason, UnusableKey::Malformed);
}

#[test]
fn the_thumbprint_is_that_of_rfc_7638() {
    // RFC 7638 section 3.1.
    let jwk = json!({
        "kty": "RSA",
        "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3ok\
              njhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6\
              qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8aw\
              apJzKnqDKgw",
        "e": "AQAB",
        "alg": "RS256",
        "kid": "2011-04-29",
    });
    let set = json!({ "keys": [jwk] }).to_string();
    let keys = KeySetDocument::parse(set.as_bytes())
        .expect("a JWK Set")
        .key_set;
    let key = keys.candidates(Some("2011-04-29")).next().expect("the key");
    assert_eq!(
        format!("{:?}", key.thumbprint()),
        "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
    );
}
