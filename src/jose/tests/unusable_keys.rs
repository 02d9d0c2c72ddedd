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

/// Returns the JWK with these members added or replaced.
pub(super) fn with(mut jwk: Value, members: Value) -> Value {
    if let (Value::Object(jwk), Value::Object(members)) = (&mut jwk, members) {
        jwk.extend(members);
    }
    jwk
}

/// The public keys of the attacker, who has the private keys.
pub(super) struct AttackerKeys {
    /// The modulus of an RSA key of 2048 bits.
    pub(super) modulus: Vec<u8>,
    /// The public key, an uncompressed point.
    pub(super) p256: Vec<u8>,
    /// The public key, an uncompressed point.
    pub(super) p384: Vec<u8>,
    pub(super) ed25519: Vec<u8>,
}

/// Returns keys that must be skipped: `kid`, JWK, and the name of the reason. Each RSA JWK is made from the attacker's
/// modulus.
#[allow(clippy::too_many_lines, reason = "a table with one row per key")]
pub(super) fn unusable(keys: &AttackerKeys) -> Vec<(&'static str, Value, &'static str)> {
    let modulus = &keys.modulus;
    let attacker = |kid: &'static str, members: Value, reason: &'static str| {
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
        attacker("alg RS384", json!({ "alg": "RS384" }), "Algorithm"),
        attacker("alg RS512", json!({ "alg": "RS512" }), "Algorithm"),
        attacker("alg PS256", json!({ "alg": "PS256" }), "Algorithm"),
        attacker("alg HS256", json!({ "alg": "HS256" }), "Algorithm"),
        attacker("alg ES256", json!({ "alg": "ES256" }), "Algorithm"),
        attacker("alg none", json!({ "alg": "none" }), "Algorithm"),
        attacker("alg rs256", json!({ "alg": "rs256" }), "Algorithm"),
        attacker(
            "alg RSA-OAEP",
            json!({ "alg": "RSA-OAEP-256" }),
            "Algorithm",
        ),
        attacker("alg null", json!({ "alg": null }), "Malformed"),
        attacker("alg a number", json!({ "alg": 256 }), "Malformed"),
        attacker("use enc", json!({ "use": "enc" }), "Use"),
        attacker("use SIG", json!({ "use": "SIG" }), "Use"),
        attacker("use empty", json!({ "use": "" }), "Use"),
        attacker("use null", json!({ "use": null }), "Malformed"),
        attacker("use an array", json!({ "use": ["sig"] }), "Malformed"),
        attacker(
            "key_ops encrypt",
            json!({ "key_ops": ["encrypt"] }),
            "Operations",
        ),
        attacker("key_ops sign", json!({ "key_ops": ["sign"] }), "Operations"),
        attacker("key_ops empty", json!({ "key_ops": [] }), "Operations"),
        attacker("key_ops null", json!({ "key_ops": null }), "Malformed"),
        attacker(
            "key_ops a string",
            json!({ "key_ops": "verify" }),
            "Malformed",
        ),
        attacker("private d", json!({ "d": "AQAB" }), "Private"),
        attacker("private p", json!({ "p": "AQAB" }), "Private"),
        attacker("private oth", json!({ "oth": [] }), "Private"),
        attacker("symmetric k", json!({ "k": "AQAB" }), "Private"),
        attacker("e 1", json!({ "e": "AQ" }), "Components"),
        attacker("e 2", json!({ "e": "Ag" }), "Components"),
        attacker("e 65536", json!({ "e": "AQAA" }), "Components"),
        attacker("e 2^34 + 1", json!({ "e": "BAAAAAE" }), "Components"),
        attacker("e 0", json!({ "e": "AA" }), "Malformed"),
        attacker("e empty", json!({ "e": "" }), "Malformed"),
        attacker(
            "e with a leading zero",
            json!({ "e": "AAEAAQ" }),
            "Malformed",
        ),
        attacker("e padded", json!({ "e": "AQAB====" }), "Malformed"),
        attacker("e a number", json!({ "e": 65537 }), "Malformed"),
        attacker("n of 512 bits", end_of_modulus(64), "Size"),
        attacker("n of 1024 bits", end_of_modulus(128), "Size"),
        attacker("n of 2047 bits", n(&modulus_of_2047_bits), "Size"),
        attacker("n of 8193 bits", n(&modulus_of_8193_bits), "Size"),
        attacker("n even", n(&even_modulus), "Components"),
        attacker("n with a leading zero", n(&leading_zero), "Malformed"),
        attacker("n empty", json!({ "n": "" }), "Malformed"),
        attacker("n null", json!({ "n": null }), "Malformed"),
        attacker(
            "n padded",
            json!({ "n": format!("{}==", encode(modulus)) }),
            "Malformed",
        ),
        attacker("kty rsa", json!({ "kty": "rsa" }), "KeyType"),
        attacker("kty null", json!({ "kty": null }), "KeyType"),
        attacker("kty oct", json!({ "kty": "oct", "k": "AAAA" }), "KeyType"),
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
