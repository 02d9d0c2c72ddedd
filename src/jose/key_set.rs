//! Parses a JWK Set (RFC 7517 section 5) into the keys that may verify RS256.

use std::fmt;

use aws_lc_rs::{
    digest::{SHA256, digest},
    signature::{ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::{base64url, error::UnusableKey, json};

/// Members that only a private key has (RFC 7518 sections 6.3.2 and 6.4).
const PRIVATE_MEMBERS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// The largest RSA modulus that is accepted. Verification time grows with the square of the size.
const MAX_MODULUS_BITS: usize = 8192;
/// The smallest RSA modulus that is accepted (RFC 7518 section 3.3).
const MIN_MODULUS_BITS: usize = 2048;
/// The largest exponent that aws-lc accepts. It checks this only when it verifies a signature, and reports it as an
/// invalid signature.
const MAX_EXPONENT_BITS: usize = 33;

/// The members that restrict the use of a key. `null` is of the wrong type; it does not mean that there is no restriction.
const RESTRICTING_MEMBERS: [&str; 3] = ["use", "alg", "key_ops"];

/// The JWK thumbprint (RFC 7638, SHA-256) of a key: identifies its key material, whatever its `kid`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct KeyThumbprint([u8; 32]);

impl fmt::Debug for KeyThumbprint {
    /// Writes the thumbprint in base64url, as RFC 7638 does.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&BASE64_URL_SAFE_NO_PAD.encode(self.0))
    }
}

/// A public key that may verify RS256 signatures, parsed once.
pub(crate) struct VerificationKey {
    kid: Option<String>,
    thumbprint: KeyThumbprint,
    public_key: ParsedPublicKey,
}

impl VerificationKey {
    /// Returns whether `signature` is a signature of `message` by this key (RFC 7518 section 3.3).
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.public_key.verify_sig(message, signature).is_ok()
    }

    /// Returns the `kid` of the key in its set.
    pub(crate) fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// Returns the thumbprint of the key.
    pub(crate) fn thumbprint(&self) -> KeyThumbprint {
        self.thumbprint
    }
}

impl fmt::Debug for VerificationKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("VerificationKey")
            .field("kid", &self.kid)
            .field("thumbprint", &self.thumbprint)
            .finish_non_exhaustive()
    }
}

/// An immutable set of verification keys.
#[derive(Debug, Default)]
pub(crate) struct KeySet {
    keys: Vec<VerificationKey>,
}

/// A key of the document that is not in the [`KeySet`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SkippedKey {
    /// Its index in `keys`.
    pub(crate) index: usize,
    /// Its `kid`, if that is present and a string.
    pub(crate) kid: Option<String>,
    /// Why it is not used.
    pub(crate) reason: UnusableKey,
}

/// A parsed JWK Set document: the usable keys, and the others with the reason.
#[derive(Debug)]
pub(crate) struct KeySetDocument {
    /// The keys that may verify RS256; may be empty.
    pub(crate) key_set: KeySet,
    /// All other keys of the document.
    pub(crate) skipped: Vec<SkippedKey>,
}

impl KeySetDocument {
    /// Parses a JWK Set. Returns `None` if it is not a JSON object with an array `keys`. A key that cannot be used is
    /// skipped and does not affect the others (RFC 7517 section 5).
    pub(crate) fn parse(document: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Document<'a> {
            #[serde(borrow)]
            keys: Vec<&'a RawValue>,
        }

        // serde also deserializes a struct from an array, by position.
        if !document.trim_ascii_start().starts_with(b"{") {
            return None;
        }
        let document: Document<'_> = serde_json::from_slice(document).ok()?;
        let mut key_set = KeySet::default();
        let mut skipped = Vec::new();
        for (index, jwk) in document.keys.iter().enumerate() {
            let members = json::parse_object(jwk.get().as_bytes()).map(Value::Object);
            match parse_key(members.as_ref()) {
                Ok(key) => key_set.keys.push(key),
                Err(reason) => skipped.push(SkippedKey {
                    index,
                    kid: members
                        .as_ref()
                        .and_then(|members| members.get("kid")?.as_str())
                        .map(ToOwned::to_owned),
                    reason,
                }),
            }
        }
        Some(Self { key_set, skipped })
    }
}

impl KeySet {
    /// Returns the keys that may have signed a token: those with its `kid`, or all if it has none (RFC 7515 section 4.1.4).
    pub(crate) fn candidates<'a>(
        &'a self,
        kid: Option<&'a str>,
    ) -> impl Iterator<Item = &'a VerificationKey> {
        self.keys
            .iter()
            .filter(move |key| kid.is_none_or(|kid| key.kid() == Some(kid)))
    }

    /// Returns whether the set has a key that may have signed a token with this `kid`, or without one.
    pub(crate) fn has_candidate(&self, kid: Option<&str>) -> bool {
        self.candidates(kid).next().is_some()
    }

    /// Returns whether the set has the key with this thumbprint.
    pub(crate) fn contains(&self, thumbprint: KeyThumbprint) -> bool {
        self.keys.iter().any(|key| key.thumbprint() == thumbprint)
    }

    /// Returns the number of keys.
    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Returns whether the set has no key.
    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

fn parse_key(members: Option<&Value>) -> Result<VerificationKey, UnusableKey> {
    let members = members.ok_or(UnusableKey::Malformed)?;
    if members.get("kty").and_then(Value::as_str) != Some("RSA") {
        return Err(UnusableKey::KeyType);
    }
    if PRIVATE_MEMBERS
        .iter()
        .any(|member| members.get(member).is_some())
    {
        return Err(UnusableKey::Private);
    }
    if RESTRICTING_MEMBERS
        .iter()
        .any(|member| members.get(member).is_some_and(Value::is_null))
    {
        return Err(UnusableKey::Malformed);
    }
    let jwk = Jwk::deserialize(members).map_err(|_| UnusableKey::Malformed)?;
    if !matches!(
        jwk.common.public_key_use,
        None | Some(PublicKeyUse::Signature)
    ) {
        return Err(UnusableKey::Use);
    }
    if !matches!(jwk.common.key_algorithm, None | Some(KeyAlgorithm::RS256)) {
        return Err(UnusableKey::Algorithm);
    }
    if jwk
        .common
        .key_operations
        .as_ref()
        .is_some_and(|operations| !operations.contains(&KeyOperations::Verify))
    {
        return Err(UnusableKey::Operations);
    }
    // `kty` is RSA, so another variant means that `n` or `e` is not a string.
    let AlgorithmParameters::RSA(parameters) = &jwk.algorithm else {
        return Err(UnusableKey::Malformed);
    };
    let modulus = decode_base64url_uint(&parameters.n)?;
    let exponent = decode_base64url_uint(&parameters.e)?;
    let public_key = parse_components(&modulus, &exponent)?;

    Ok(VerificationKey {
        kid: jwk.common.key_id,
        thumbprint: thumbprint(&modulus, &exponent),
        public_key,
    })
}

/// Computes the thumbprint of an RSA key (RFC 7638 section 3): the digest of its required members in lexicographic order.
///
/// Does not use `Jwk::thumbprint`: it needs a process-wide crypto provider, and only the program may choose that.
fn thumbprint(modulus: &[u8], exponent: &[u8]) -> KeyThumbprint {
    let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let (n, e) = (encode(modulus), encode(exponent));
    let members = format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#);
    let mut thumbprint = [0; 32];
    thumbprint.copy_from_slice(digest(&SHA256, members.as_bytes()).as_ref());
    KeyThumbprint(thumbprint)
}

/// Decodes a `Base64urlUInt` (RFC 7518 section 2), which has no leading zero byte.
fn decode_base64url_uint(value: &str) -> Result<Vec<u8>, UnusableKey> {
    let bytes = base64url::decode(value).ok_or(UnusableKey::Malformed)?;
    match bytes.first() {
        None | Some(0) => Err(UnusableKey::Malformed),
        Some(_) => Ok(bytes),
    }
}

fn parse_components(modulus: &[u8], exponent: &[u8]) -> Result<ParsedPublicKey, UnusableKey> {
    // Neither has a leading zero byte.
    let bits = |bytes: &[u8]| bytes.len() * 8 - bytes[0].leading_zeros() as usize;
    if !(MIN_MODULUS_BITS..=MAX_MODULUS_BITS).contains(&bits(modulus)) {
        return Err(UnusableKey::Size);
    }
    let is_odd = |bytes: &[u8]| bytes.last().is_some_and(|byte| byte & 1 == 1);
    // With an exponent of 1 every message is its own signature.
    if !is_odd(modulus)
        || !is_odd(exponent)
        || exponent == [1]
        || bits(exponent) > MAX_EXPONENT_BITS
    {
        return Err(UnusableKey::Components);
    }
    RsaPublicKeyComponents {
        n: modulus,
        e: exponent,
    }
    .to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256)
    .map_err(|_| UnusableKey::Components)
}
