//! The keys of the local Hanko.
//!
//! They use the functions of `jsonwebtoken` that take a crypto provider. The others use the provider of the process: they panic
//! if the application has both providers and has not installed one, and a library should not install one.

use std::{
    fmt, io,
    sync::{Arc, OnceLock},
};

use aws_lc_rs::{
    encoding::AsDer,
    rsa::{KeyPair, KeySize},
};
use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use jsonwebtoken::{Algorithm, EncodingKey, Header, crypto::aws_lc::DEFAULT_PROVIDER, jwk};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::jose::{KeySet, KeySetDocument};

/// The keys of the JWK Set, oldest first, as Hanko lists them. The last one signs; there is always at least one.
#[derive(Debug)]
pub(super) struct KeyRing {
    keys: Vec<Arc<SigningKey>>,
    /// Parsed once, because every validation request needs it.
    verification_keys: Arc<KeySet>,
}

impl KeyRing {
    pub(super) fn new(key: SigningKey) -> Self {
        Self::of(vec![Arc::new(key)])
    }

    fn of(keys: Vec<Arc<SigningKey>>) -> Self {
        let document = KeySetDocument::parse(jwk_set(&keys).to_string().as_bytes());
        Self {
            keys,
            verification_keys: Arc::new(
                document
                    .map(|document| document.key_set)
                    .unwrap_or_default(),
            ),
        }
    }

    /// Signs with `key` from now on.
    pub(super) fn add(&mut self, key: SigningKey) {
        self.keys.push(Arc::new(key));
        *self = Self::of(std::mem::take(&mut self.keys));
    }

    /// Removes all keys but the one that signs.
    pub(super) fn retire_old(&mut self) {
        *self = Self::of(self.keys.split_off(self.keys.len() - 1));
    }

    /// Returns the key that signs, to be used without the lock: a signature takes milliseconds.
    pub(super) fn signing_key(&self) -> Arc<SigningKey> {
        Arc::clone(&self.keys[self.keys.len() - 1])
    }

    pub(super) fn verification_keys(&self) -> Arc<KeySet> {
        Arc::clone(&self.verification_keys)
    }

    pub(super) fn jwk_set(&self) -> Value {
        jwk_set(&self.keys)
    }
}

fn jwk_set(keys: &[Arc<SigningKey>]) -> Value {
    let keys: Vec<&jwk::Jwk> = keys.iter().map(|key| &key.public).collect();
    json!({ "keys": keys })
}

/// A key that signs session tokens and webhooks.
pub(super) struct SigningKey {
    pub(super) kid: String,
    private: EncodingKey,
    public: jwk::Jwk,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SigningKey")
            .field("kid", &self.kid)
            .finish_non_exhaustive()
    }
}

impl SigningKey {
    pub(super) fn generate(size: KeySize) -> io::Result<Self> {
        let failed = |error: &dyn fmt::Display| {
            io::Error::other(format!("no RSA key could be generated: {error}"))
        };
        let key_pair = KeyPair::generate(size).map_err(|error| failed(&error))?;
        let der = key_pair.as_der().map_err(|error| failed(&error))?;
        // jsonwebtoken reads PKCS #8 only from PEM.
        let pem = format!(
            "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
            BASE64_STANDARD.encode(der.as_ref())
        );
        let private = EncodingKey::from_rsa_pem(pem.as_bytes()).map_err(|error| failed(&error))?;
        let components = DEFAULT_PROVIDER
            .key_utils
            .rsa_pub_components_from_private_key;
        let (modulus, exponent) = components(private.as_bytes()).map_err(|error| failed(&error))?;
        let kid = Uuid::new_v4().to_string();
        let public = jwk::Jwk {
            common: jwk::CommonParameters {
                public_key_use: Some(jwk::PublicKeyUse::Signature),
                key_algorithm: Some(jwk::KeyAlgorithm::RS256),
                key_id: Some(kid.clone()),
                ..jwk::CommonParameters::default()
            },
            algorithm: jwk::AlgorithmParameters::RSA(jwk::RSAKeyParameters {
                key_type: jwk::RSAKeyType::RSA,
                n: BASE64_URL_SAFE_NO_PAD.encode(modulus),
                e: BASE64_URL_SAFE_NO_PAD.encode(exponent),
            }),
        };
        Ok(Self {
            kid,
            private,
            public,
        })
    }

    /// Returns a key that is in no JWK Set. It is the same for the whole process and generated at the first call.
    pub(super) fn foreign() -> &'static Self {
        static FOREIGN: OnceLock<SigningKey> = OnceLock::new();
        FOREIGN.get_or_init(|| {
            Self::generate(KeySize::Rsa2048).expect("a key could be generated before this one")
        })
    }

    pub(super) fn sign(&self, claims: &Map<String, Value>) -> String {
        self.sign_as(&self.kid, claims)
    }

    /// Signs under the `kid` of another key.
    pub(super) fn sign_as(&self, kid: &str, claims: &Map<String, Value>) -> String {
        let mut header = Header::new(Algorithm::RS256);
        header.kid = Some(kid.to_owned());
        let [header, payload] = [serde_json::to_vec(&header), serde_json::to_vec(claims)]
            .map(|json| json.expect("a header and claims are JSON"));
        self.sign_raw(&header, &payload)
    }

    pub(super) fn sign_raw(&self, header: &[u8], payload: &[u8]) -> String {
        let signing_input = format!(
            "{}.{}",
            BASE64_URL_SAFE_NO_PAD.encode(header),
            BASE64_URL_SAFE_NO_PAD.encode(payload)
        );
        let signature = (DEFAULT_PROVIDER.signer_factory)(&Algorithm::RS256, &self.private)
            .and_then(|signer| Ok(signer.try_sign(signing_input.as_bytes())?))
            .expect("a key that this process generated signs any bytes");
        format!(
            "{signing_input}.{}",
            BASE64_URL_SAFE_NO_PAD.encode(signature)
        )
    }
}
