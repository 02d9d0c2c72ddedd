//! Keys that a JWK Set may contain but that must not verify: the attacker owns each of them.

use aws_lc_rs::{
    digest::{SHA256, digest},
    signature::KeyPair,
};
use serde_json::{Value, json};

use super::{
    Case,
    issuer::{
        HALF_KID, KEYS, KID, SECOND_KID, TWIN_KID, claims, encode, header, header_of, seal,
        signing_input,
    },
    rule,
};

#[path = "../../../src/jose/tests/unusable_keys.rs"]
mod unusable_keys;

pub(super) use unusable_keys::HMAC_SECRET;
use unusable_keys::{AttackerKeys, with};

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

/// The table of `jose`'s own tests, with keys that the tests here can sign with.
fn unusable() -> Vec<(&'static str, Value, &'static str)> {
    unusable_keys::unusable(&AttackerKeys {
        modulus: KEYS.stranger.modulus(),
        p256: KEYS.p256.public_key().as_ref().to_vec(),
        p384: KEYS.p384.public_key().as_ref().to_vec(),
        ed25519: KEYS.ed25519.public_key().as_ref().to_vec(),
    })
}

/// Sessions with valid signatures by keys that must not be used.
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

/// The valid signature for a key with the exponent 1: the EMSA-PKCS1-v1_5 encoding of the message (RFC 8017
/// section 9.2). Anyone can compute it.
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
