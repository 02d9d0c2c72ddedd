//! Tests of behaviour that `Hanko` does not show: why a key is skipped, and signatures of tokens that are no session tokens.

mod fuzz;
mod key_sets;
mod published;
mod unusable_keys;
mod vectors;

use std::sync::LazyLock;

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::{KeyPair, KeySize},
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
        Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaPublicKeyComponents,
    },
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use self::unusable_keys::AttackerKeys;

/// Generated once for all tests.
struct Keys {
    good: KeyPair,
    attacker: AttackerKeys,
}

static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    let rsa = || KeyPair::generate(KeySize::Rsa2048).expect("a key");
    let p256 = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
    let p384 = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).expect("a key");
    let ed25519 = Ed25519KeyPair::generate().expect("a key");
    Keys {
        good: rsa(),
        attacker: AttackerKeys {
            modulus: components(&rsa()).n,
            p256: p256.public_key().as_ref().to_vec(),
            p384: p384.public_key().as_ref().to_vec(),
            ed25519: ed25519.public_key().as_ref().to_vec(),
        },
    }
});

fn components(key: &KeyPair) -> RsaPublicKeyComponents<Vec<u8>> {
    RsaPublicKeyComponents::from(key.public_key())
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

impl Keys {
    /// Returns the JWK of the key that signs.
    fn good_jwk(&self) -> Value {
        let components = components(&self.good);
        json!({
            "kty": "RSA", "kid": "good", "use": "sig", "alg": "RS256",
            "n": encode(components.n), "e": encode(components.e),
        })
    }

    /// Signs a payload and a header of any bytes with the good key.
    fn sign(&self, header: &[u8], payload: &[u8]) -> String {
        let signing_input = format!("{}.{}", encode(header), encode(payload));
        let mut signature = vec![0; self.good.public_modulus_len()];
        self.good
            .sign(
                &RSA_PKCS1_SHA256,
                &SystemRandom::new(),
                signing_input.as_bytes(),
                &mut signature,
            )
            .expect("a signature");
        format!("{signing_input}.{}", encode(signature))
    }
}
