//! A JWK Set (RFC 7517 section 5) turned into the keys that may verify RS256.

use std::fmt;

use aws_lc_rs::signature::{ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::{
    AlgorithmParameters, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse, ThumbprintHash,
};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::{ensure_crypto_provider, error::UnusableKey, json};

/// Members that only a private key has (RFC 7518 sections 6.3.2 and 6.4).
const PRIVATE_MEMBERS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// The largest RSA modulus that is taken. Verification time grows with the square of the size.
const MAX_MODULUS_BITS: usize = 8192;
/// The smallest (RFC 7518 section 3.3).
const MIN_MODULUS_BITS: usize = 2048;
/// The largest exponent with which aws-lc verifies. It would find that out at the first signature only, and call that
/// wrong.
const MAX_EXPONENT_BITS: usize = 33;

/// The members that say what a key is for. A `null` there is of the wrong type, and no licence for everything.
const RESTRICTING_MEMBERS: [&str; 3] = ["use", "alg", "key_ops"];

/// The JWK thumbprint (RFC 7638, SHA-256) of a key: its identity, whatever `kid` it goes by.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyThumbprint([u8; 32]);

impl fmt::Debug for KeyThumbprint {
    /// As RFC 7638 writes it: in base64url.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&BASE64_URL_SAFE_NO_PAD.encode(self.0))
    }
}

/// A public key that may verify RS256 signatures, parsed once.
pub struct VerificationKey {
    kid: Option<String>,
    thumbprint: KeyThumbprint,
    public_key: ParsedPublicKey,
}

impl VerificationKey {
    /// Whether `signature` is this key's over `message` (RFC 7518 section 3.3).
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.public_key.verify_sig(message, signature).is_ok()
    }

    /// The `kid` under which the set lists the key.
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// The identity of the key material.
    pub fn thumbprint(&self) -> KeyThumbprint {
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
pub struct KeySet {
    keys: Vec<VerificationKey>,
}

/// A key of the document that is not in the [`KeySet`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassedOverKey {
    /// Its place in `keys`, from 0.
    pub index: usize,
    /// Its `kid`, where that could be read.
    pub kid: Option<String>,
    /// Why it was passed over.
    pub reason: UnusableKey,
}

/// What a JWK Set document holds: the usable keys, and the others with the reason.
#[derive(Debug)]
pub struct KeySetDocument {
    /// The keys that may verify RS256, perhaps none.
    pub key_set: KeySet,
    /// All other keys of the document.
    pub passed_over: Vec<PassedOverKey>,
}

impl KeySetDocument {
    /// Parses a JWK Set. `None` where it is no JSON object with an array `keys`; a key that cannot be used is passed
    /// over and spoils nothing (RFC 7517 section 5).
    pub fn parse(document: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Document<'a> {
            #[serde(borrow)]
            keys: Vec<&'a RawValue>,
        }

        // serde would take an array for an object whose members have lost their names.
        if !document.trim_ascii_start().starts_with(b"{") {
            return None;
        }
        let document: Document<'_> = serde_json::from_slice(document).ok()?;
        let mut key_set = KeySet::default();
        let mut passed_over = Vec::new();
        for (index, jwk) in document.keys.iter().enumerate() {
            let members = json::parse_object(jwk.get().as_bytes()).map(Value::Object);
            match parse_key(members.as_ref()) {
                Ok(key) => key_set.keys.push(key),
                Err(reason) => passed_over.push(PassedOverKey {
                    index,
                    kid: members
                        .as_ref()
                        .and_then(|members| members.get("kid")?.as_str())
                        .map(ToOwned::to_owned),
                    reason,
                }),
            }
        }
        Some(Self {
            key_set,
            passed_over,
        })
    }
}

impl KeySet {
    /// The keys that a token may have been signed with: those of its `kid`, or all where it names none
    /// (RFC 7515 section 4.1.4).
    pub fn candidates<'a>(
        &'a self,
        kid: Option<&'a str>,
    ) -> impl Iterator<Item = &'a VerificationKey> {
        self.keys
            .iter()
            .filter(move |key| kid.is_none_or(|kid| key.kid() == Some(kid)))
    }

    /// Whether there is a key that a token of this `kid`, or without one, may have been signed with.
    pub fn has_candidate(&self, kid: Option<&str>) -> bool {
        self.candidates(kid).next().is_some()
    }

    /// Whether the set has this key material.
    pub fn contains(&self, thumbprint: KeyThumbprint) -> bool {
        self.keys.iter().any(|key| key.thumbprint() == thumbprint)
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
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
    // `kty` is RSA: what has come out as anything else has an `n` or `e` that is no string.
    let AlgorithmParameters::RSA(parameters) = &jwk.algorithm else {
        return Err(UnusableKey::Malformed);
    };
    let modulus = decode_base64url_uint(&parameters.n)?;
    let exponent = decode_base64url_uint(&parameters.e)?;
    let public_key = parse_components(&modulus, &exponent)?;

    ensure_crypto_provider();
    let thumbprint = jwk
        .thumbprint(ThumbprintHash::SHA256)
        .ok()
        .and_then(|text| BASE64_URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok())
        .map(KeyThumbprint)
        .ok_or(UnusableKey::Malformed)?;
    Ok(VerificationKey {
        kid: jwk.common.key_id,
        thumbprint,
        public_key,
    })
}

/// Decodes a `Base64urlUInt` (RFC 7518 section 2), which has no leading zero octet.
fn decode_base64url_uint(value: &str) -> Result<Vec<u8>, UnusableKey> {
    let octets = BASE64_URL_SAFE_NO_PAD
        .decode(value)
        .map_err(|_| UnusableKey::Malformed)?;
    match octets.first() {
        None | Some(0) => Err(UnusableKey::Malformed),
        Some(_) => Ok(octets),
    }
}

fn parse_components(modulus: &[u8], exponent: &[u8]) -> Result<ParsedPublicKey, UnusableKey> {
    // Neither has a leading zero octet.
    let bits = |octets: &[u8]| octets.len() * 8 - octets[0].leading_zeros() as usize;
    if !(MIN_MODULUS_BITS..=MAX_MODULUS_BITS).contains(&bits(modulus)) {
        return Err(UnusableKey::Size);
    }
    let is_odd = |octets: &[u8]| octets.last().is_some_and(|octet| octet & 1 == 1);
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
