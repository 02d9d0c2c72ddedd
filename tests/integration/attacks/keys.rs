//! Keys that a JWK Set may hold and that must not verify: the attacker owns each of them.

use aws_lc_rs::{
    digest::{SHA256, digest},
    signature::KeyPair,
};
use poem_hanko::jose::{KeySetDocument, UnusableKey};
use serde_json::{Value, json};

use super::{
    Case,
    issuer::{
        HALF_KID, KEYS, KID, SECOND_KID, TWIN_KID, claims, encode, header, header_of, seal,
        signing_input,
    },
    rule,
};
use crate::support::report;

/// The set that the tests' issuer serves: three good keys among many of the stranger's.
pub(super) fn key_set() -> Value {
    let good = [
        with(
            KEYS.current.jwk(KID),
            json!({ "alg": "RS256", "use": "sig" }),
        ),
        KEYS.second.jwk(SECOND_KID),
        KEYS.current.jwk(TWIN_KID),
        KEYS.second.jwk(TWIN_KID),
        with(KEYS.stranger.jwk(HALF_KID), json!({ "use": "enc" })),
        KEYS.second.jwk(HALF_KID),
        with(
            KEYS.second.jwk("key_ops"),
            json!({ "key_ops": ["sign", "verify"] }),
        ),
        KEYS.second
            .jwk("arn:aws:kms:eu-central-1:111122223333:key/1234abcd"),
    ];
    let odd = unusable().into_iter().map(|(_, jwk, _)| jwk);
    json!({ "keys": odd.chain(good).collect::<Vec<_>>() })
}

fn with(mut jwk: Value, members: Value) -> Value {
    if let (Value::Object(jwk), Value::Object(members)) = (&mut jwk, members) {
        jwk.extend(members);
    }
    jwk
}

/// Keys that are passed over: `kid`, JWK, and why. Where a JWK has the material of an RSA key, it is the stranger's.
fn unusable() -> Vec<(&'static str, Value, UnusableKey)> {
    let stranger = |kid: &'static str, members: Value, reason| {
        (kid, with(KEYS.stranger.jwk(kid), members), reason)
    };
    let modulus = KEYS.stranger.modulus();
    let n = |octets: &[u8]| json!({ "n": encode(octets) });
    let end_of_modulus = |length: usize| {
        let mut end = modulus[256 - length..].to_vec();
        end[0] |= 0x80;
        n(&end)
    };
    let mut even_modulus = modulus.clone();
    even_modulus[255] &= 0xfe;
    let mut modulus_of_2047_bits = modulus.clone();
    modulus_of_2047_bits[0] = 0x7f;
    let mut modulus_of_8193_bits = vec![1_u8];
    modulus_of_8193_bits.extend_from_slice(&[0xff; 1024]);
    let leading_zero = [&[0], &modulus[..]].concat();
    let p256 = KEYS.p256.public_key().as_ref();
    let p384 = KEYS.p384.public_key().as_ref();
    let ed25519 = KEYS.ed25519.public_key().as_ref();
    vec![
        stranger(
            "alg RS384",
            json!({ "alg": "RS384" }),
            UnusableKey::Algorithm,
        ),
        stranger(
            "alg RS512",
            json!({ "alg": "RS512" }),
            UnusableKey::Algorithm,
        ),
        stranger(
            "alg PS256",
            json!({ "alg": "PS256" }),
            UnusableKey::Algorithm,
        ),
        stranger(
            "alg HS256",
            json!({ "alg": "HS256" }),
            UnusableKey::Algorithm,
        ),
        stranger(
            "alg ES256",
            json!({ "alg": "ES256" }),
            UnusableKey::Algorithm,
        ),
        stranger("alg none", json!({ "alg": "none" }), UnusableKey::Algorithm),
        stranger(
            "alg rs256",
            json!({ "alg": "rs256" }),
            UnusableKey::Algorithm,
        ),
        stranger(
            "alg RSA-OAEP",
            json!({ "alg": "RSA-OAEP-256" }),
            UnusableKey::Algorithm,
        ),
        stranger("alg null", json!({ "alg": null }), UnusableKey::Malformed),
        stranger(
            "alg a number",
            json!({ "alg": 256 }),
            UnusableKey::Malformed,
        ),
        stranger("use enc", json!({ "use": "enc" }), UnusableKey::Use),
        stranger("use SIG", json!({ "use": "SIG" }), UnusableKey::Use),
        stranger("use empty", json!({ "use": "" }), UnusableKey::Use),
        stranger("use null", json!({ "use": null }), UnusableKey::Malformed),
        stranger(
            "use an array",
            json!({ "use": ["sig"] }),
            UnusableKey::Malformed,
        ),
        stranger(
            "key_ops encrypt",
            json!({ "key_ops": ["encrypt"] }),
            UnusableKey::Operations,
        ),
        stranger(
            "key_ops sign",
            json!({ "key_ops": ["sign"] }),
            UnusableKey::Operations,
        ),
        stranger(
            "key_ops empty",
            json!({ "key_ops": [] }),
            UnusableKey::Operations,
        ),
        stranger(
            "key_ops null",
            json!({ "key_ops": null }),
            UnusableKey::Malformed,
        ),
        stranger(
            "key_ops a string",
            json!({ "key_ops": "verify" }),
            UnusableKey::Malformed,
        ),
        stranger("private d", json!({ "d": "AQAB" }), UnusableKey::Private),
        stranger("private p", json!({ "p": "AQAB" }), UnusableKey::Private),
        stranger("private oth", json!({ "oth": [] }), UnusableKey::Private),
        stranger("symmetric k", json!({ "k": "AQAB" }), UnusableKey::Private),
        stranger("e 1", json!({ "e": "AQ" }), UnusableKey::Components),
        stranger("e 2", json!({ "e": "Ag" }), UnusableKey::Components),
        stranger("e 65536", json!({ "e": "AQAA" }), UnusableKey::Components),
        stranger(
            "e 2^34 + 1",
            json!({ "e": "BAAAAAE" }),
            UnusableKey::Components,
        ),
        stranger("e 0", json!({ "e": "AA" }), UnusableKey::Malformed),
        stranger("e empty", json!({ "e": "" }), UnusableKey::Malformed),
        stranger(
            "e with a leading zero",
            json!({ "e": "AAEAAQ" }),
            UnusableKey::Malformed,
        ),
        stranger(
            "e padded",
            json!({ "e": "AQAB====" }),
            UnusableKey::Malformed,
        ),
        stranger("e a number", json!({ "e": 65537 }), UnusableKey::Malformed),
        stranger("n of 512 bits", end_of_modulus(64), UnusableKey::Size),
        stranger("n of 1024 bits", end_of_modulus(128), UnusableKey::Size),
        stranger(
            "n of 2047 bits",
            n(&modulus_of_2047_bits),
            UnusableKey::Size,
        ),
        stranger(
            "n of 8193 bits",
            n(&modulus_of_8193_bits),
            UnusableKey::Size,
        ),
        stranger("n even", n(&even_modulus), UnusableKey::Components),
        stranger(
            "n with a leading zero",
            n(&leading_zero),
            UnusableKey::Malformed,
        ),
        stranger("n empty", json!({ "n": "" }), UnusableKey::Malformed),
        stranger("n null", json!({ "n": null }), UnusableKey::Malformed),
        stranger(
            "n padded",
            json!({ "n": format!("{}==", encode(&modulus)) }),
            UnusableKey::Malformed,
        ),
        stranger("kty rsa", json!({ "kty": "rsa" }), UnusableKey::KeyType),
        stranger("kty null", json!({ "kty": null }), UnusableKey::KeyType),
        stranger(
            "kty oct",
            json!({ "kty": "oct", "k": "AAAA" }),
            UnusableKey::KeyType,
        ),
        (
            "oct",
            json!({ "kty": "oct", "kid": "oct", "alg": "HS256", "k": encode(HMAC_SECRET) }),
            UnusableKey::KeyType,
        ),
        (
            "p256",
            json!({
                "kty": "EC", "kid": "p256", "alg": "ES256", "use": "sig", "crv": "P-256",
                "x": encode(&p256[1..33]), "y": encode(&p256[33..]),
            }),
            UnusableKey::KeyType,
        ),
        (
            "p384",
            json!({
                "kty": "EC", "kid": "p384", "crv": "P-384",
                "x": encode(&p384[1..49]), "y": encode(&p384[49..]),
            }),
            UnusableKey::KeyType,
        ),
        (
            "ed25519",
            json!({ "kty": "OKP", "kid": "ed25519", "crv": "Ed25519", "x": encode(ed25519) }),
            UnusableKey::KeyType,
        ),
        ("", json!("RSA"), UnusableKey::Malformed),
        ("", json!(null), UnusableKey::Malformed),
        ("", json!([]), UnusableKey::Malformed),
        ("", json!({}), UnusableKey::KeyType),
    ]
}

/// The secret of the `oct` key that the set publishes.
pub(super) const HMAC_SECRET: &[u8] = b"a secret that everybody can read";

/// Sessions signed, and signed well, by keys that may not.
pub(super) fn cases() -> Vec<Case> {
    let by_stranger =
        |header: String| seal(&KEYS.stranger, &signing_input(header, claims().json()));
    let signed_by_unusable_keys = unusable()
        .into_iter()
        .filter(|(kid, ..)| !kid.is_empty())
        .map(|(kid, ..)| {
            Case::refused(
                format!("signed by the key `{kid}`"),
                by_stranger(header_of(kid).json()),
                rule::UNKNOWN_KEY,
            )
        });
    let signed_by_nobody = ["e 1", KID].map(|kid| {
        let rule = if kid == KID {
            rule::SIGNATURE
        } else {
            rule::UNKNOWN_KEY
        };
        Case::refused(
            format!("the encoded message as its own signature, for the key `{kid}`"),
            own_signature(kid),
            rule,
        )
    });
    signed_by_unusable_keys
        .chain(signed_by_nobody)
        .chain([
            Case::refused(
                "signed by a stranger without kid",
                by_stranger(header().without("kid").json()),
                rule::SIGNATURE,
            ),
            Case::refused(
                "signed by a stranger in the name of the current key",
                by_stranger(header().json()),
                rule::SIGNATURE,
            ),
            Case::refused(
                "signed by a stranger under his own kid",
                by_stranger(header_of("stranger").json()),
                rule::UNKNOWN_KEY,
            ),
            Case::refused(
                "signed by the unusable one of two keys of one kid",
                by_stranger(header_of(HALF_KID).json()),
                rule::SIGNATURE,
            ),
            Case::refused(
                "signed by none of two keys of one kid",
                by_stranger(header_of(TWIN_KID).json()),
                rule::SIGNATURE,
            ),
            Case::refused(
                "signed by a good key in the name of another",
                seal(
                    &KEYS.second,
                    &signing_input(header().json(), claims().json()),
                ),
                rule::SIGNATURE,
            ),
        ])
        .collect()
}

/// What a key with the exponent 1 takes for a signature: the EMSA-PKCS1-v1_5 encoding of the message (RFC 8017
/// section 9.2). Everybody can write it.
fn own_signature(kid: &str) -> String {
    const DIGEST_INFO: [u8; 19] = [
        0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01,
        0x05, 0x00, 0x04, 0x20,
    ];
    let signing_input = signing_input(header_of(kid).json(), claims().json());
    let mut encoded = vec![0xff; 256];
    encoded[0] = 0;
    encoded[1] = 1;
    encoded[204] = 0;
    encoded[205..224].copy_from_slice(&DIGEST_INFO);
    encoded[224..].copy_from_slice(digest(&SHA256, signing_input.as_bytes()).as_ref());
    format!("{signing_input}.{}", encode(encoded))
}

#[test]
fn each_unusable_key_is_passed_over_for_its_own_reason() {
    let unusable = unusable();
    for (kid, jwk, reason) in &unusable {
        let set = json!({ "keys": [jwk, KEYS.current.jwk(KID)] });
        let document = KeySetDocument::parse(set.to_string().as_bytes()).expect("a JWK Set");
        assert_eq!(document.key_set.len(), 1, "{kid}: the good key beside it");
        let passed_over = &document.passed_over[..];
        assert_eq!(passed_over.len(), 1, "{kid}: {jwk}");
        assert_eq!(passed_over[0].reason, *reason, "{kid}: {jwk}");
        assert_eq!(passed_over[0].index, 0, "{kid}");
    }
    report(&format!("passed over: {} keys", unusable.len()));
    assert!(unusable.len() >= 50);
}

#[test]
fn a_key_with_duplicate_members_is_passed_over() {
    let jwk = KEYS.current.jwk(KID).to_string();
    for member in [
        r#""e":"AQAB""#,
        r#""alg":"RS256","alg":"RS256""#,
        r#""\u006bty":"RSA""#,
    ] {
        let set = format!(r#"{{"keys":[{{{member},{}]}}"#, &jwk[1..]);
        let document = KeySetDocument::parse(set.as_bytes()).expect("a JWK Set");
        assert!(document.key_set.is_empty(), "{member}");
        assert_eq!(document.passed_over[0].reason, UnusableKey::Malformed);
    }
}

#[test]
fn a_key_with_the_least_safe_exponent_is_usable() {
    let set = json!({ "keys": [with(KEYS.current.jwk(KID), json!({ "e": "Aw" }))] });
    let document = KeySetDocument::parse(set.to_string().as_bytes()).expect("a JWK Set");
    assert_eq!(document.key_set.len(), 1);
}

#[test]
fn what_is_no_jwk_set_is_not_parsed() {
    let jwk = KEYS.current.jwk(KID);
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
        ("trailing octets", format!(r#"{{"keys":[{jwk}]}}x"#)),
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
fn a_set_that_nests_without_end_inside_a_key_spoils_nothing() {
    let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let set = format!(r#"{{"keys":[{nested},{}]}}"#, KEYS.current.jwk(KID));
    let document = KeySetDocument::parse(set.as_bytes()).expect("a JWK Set");
    assert_eq!(document.key_set.len(), 1);
    assert_eq!(document.passed_over[0].reason, UnusableKey::Malformed);
}
