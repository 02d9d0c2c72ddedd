//! Keys of a JWK Set that must not verify: the attacker owns each of them.
//!
//! The tests of the running server (`tests/integration/attacks`) include this file and sign tokens with these keys.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// The secret of the `oct` key that the set publishes.
pub(in super::super) const HMAC_SECRET: &[u8] = b"a secret that everybody can read";

fn encode(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// Returns the JWK with other members.
pub(super) fn with(mut jwk: Value, members: Value) -> Value {
    if let (Value::Object(jwk), Value::Object(members)) = (&mut jwk, members) {
        jwk.extend(members);
    }
    jwk
}

/// The public keys of the attacker, who has the private ones.
pub(super) struct Stranger {
    /// Of a key of RSA 2048.
    pub(super) modulus: Vec<u8>,
    /// An uncompressed point.
    pub(super) p256: Vec<u8>,
    /// An uncompressed point.
    pub(super) p384: Vec<u8>,
    pub(super) ed25519: Vec<u8>,
}

/// Returns keys that must be skipped: `kid`, JWK, and the name of the reason. Each JWK with the material of an RSA key has
/// that of the stranger.
#[allow(clippy::too_many_lines, reason = "a table is as long as it has rows")]
pub(super) fn unusable(keys: &Stranger) -> Vec<(&'static str, Value, &'static str)> {
    let modulus = &keys.modulus;
    let stranger = |kid: &'static str, members: Value, reason: &'static str| {
        let jwk = json!({ "kty": "RSA", "kid": kid, "n": encode(modulus), "e": "AQAB" });
        (kid, with(jwk, members), reason)
    };
    let n = |bytes: &[u8]| json!({ "n": encode(bytes) });
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
    let (p256, p384, ed25519) = (&keys.p256, &keys.p384, &keys.ed25519);
    vec![
        stranger("alg RS384", json!({ "alg": "RS384" }), "Algorithm"),
        stranger("alg RS512", json!({ "alg": "RS512" }), "Algorithm"),
        stranger("alg PS256", json!({ "alg": "PS256" }), "Algorithm"),
        stranger("alg HS256", json!({ "alg": "HS256" }), "Algorithm"),
        stranger("alg ES256", json!({ "alg": "ES256" }), "Algorithm"),
        stranger("alg none", json!({ "alg": "none" }), "Algorithm"),
        stranger("alg rs256", json!({ "alg": "rs256" }), "Algorithm"),
        stranger(
            "alg RSA-OAEP",
            json!({ "alg": "RSA-OAEP-256" }),
            "Algorithm",
        ),
        stranger("alg null", json!({ "alg": null }), "Malformed"),
        stranger("alg a number", json!({ "alg": 256 }), "Malformed"),
        stranger("use enc", json!({ "use": "enc" }), "Use"),
        stranger("use SIG", json!({ "use": "SIG" }), "Use"),
        stranger("use empty", json!({ "use": "" }), "Use"),
        stranger("use null", json!({ "use": null }), "Malformed"),
        stranger("use an array", json!({ "use": ["sig"] }), "Malformed"),
        stranger(
            "key_ops encrypt",
            json!({ "key_ops": ["encrypt"] }),
            "Operations",
        ),
        stranger("key_ops sign", json!({ "key_ops": ["sign"] }), "Operations"),
        stranger("key_ops empty", json!({ "key_ops": [] }), "Operations"),
        stranger("key_ops null", json!({ "key_ops": null }), "Malformed"),
        stranger(
            "key_ops a string",
            json!({ "key_ops": "verify" }),
            "Malformed",
        ),
        stranger("private d", json!({ "d": "AQAB" }), "Private"),
        stranger("private p", json!({ "p": "AQAB" }), "Private"),
        stranger("private oth", json!({ "oth": [] }), "Private"),
        stranger("symmetric k", json!({ "k": "AQAB" }), "Private"),
        stranger("e 1", json!({ "e": "AQ" }), "Components"),
        stranger("e 2", json!({ "e": "Ag" }), "Components"),
        stranger("e 65536", json!({ "e": "AQAA" }), "Components"),
        stranger("e 2^34 + 1", json!({ "e": "BAAAAAE" }), "Components"),
        stranger("e 0", json!({ "e": "AA" }), "Malformed"),
        stranger("e empty", json!({ "e": "" }), "Malformed"),
        stranger(
            "e with a leading zero",
            json!({ "e": "AAEAAQ" }),
            "Malformed",
        ),
        stranger("e padded", json!({ "e": "AQAB====" }), "Malformed"),
        stranger("e a number", json!({ "e": 65537 }), "Malformed"),
        stranger("n of 512 bits", end_of_modulus(64), "Size"),
        stranger("n of 1024 bits", end_of_modulus(128), "Size"),
        stranger("n of 2047 bits", n(&modulus_of_2047_bits), "Size"),
        stranger("n of 8193 bits", n(&modulus_of_8193_bits), "Size"),
        stranger("n even", n(&even_modulus), "Components"),
        stranger("n with a leading zero", n(&leading_zero), "Malformed"),
        stranger("n empty", json!({ "n": "" }), "Malformed"),
        stranger("n null", json!({ "n": null }), "Malformed"),
        stranger(
            "n padded",
            json!({ "n": format!("{}==", encode(modulus)) }),
            "Malformed",
        ),
        stranger("kty rsa", json!({ "kty": "rsa" }), "KeyType"),
        stranger("kty null", json!({ "kty": null }), "KeyType"),
        stranger("kty oct", json!({ "kty": "oct", "k": "AAAA" }), "KeyType"),
        (
            "oct",
            json!({ "kty": "oct", "kid": "oct", "alg": "HS256", "k": encode(HMAC_SECRET) }),
            "KeyType",
        ),
        (
            "p256",
            json!({
                "kty": "EC", "kid": "p256", "alg": "ES256", "use": "sig", "crv": "P-256",
                "x": encode(&p256[1..33]), "y": encode(&p256[33..]),
            }),
            "KeyType",
        ),
        (
            "p384",
            json!({
                "kty": "EC", "kid": "p384", "crv": "P-384",
                "x": encode(&p384[1..49]), "y": encode(&p384[49..]),
            }),
            "KeyType",
        ),
        (
            "ed25519",
            json!({ "kty": "OKP", "kid": "ed25519", "crv": "Ed25519", "x": encode(ed25519) }),
            "KeyType",
        ),
        ("", json!("RSA"), "Malformed"),
        ("", json!(null), "Malformed"),
        ("", json!([]), "Malformed"),
        ("", json!({}), "KeyType"),
    ]
}
