//! The three stages of a token: well-formed, signed, valid.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use super::{
    claims::{Claims, ClaimsRules, NumericDate, RegisteredClaims},
    error::TokenError,
    json,
    key_set::{KeySet, KeyThumbprint, VerificationKey},
};

/// The longest bearer token that is looked at, in bytes. Hanko's are below 1 KiB; browsers keep no cookie above 4 KiB.
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// A compact JWS (RFC 7515 section 7.1) with an acceptable JOSE Header. Nothing in it may be believed yet.
pub struct UnverifiedToken<'a> {
    kid: Option<String>,
    signing_input: &'a str,
    payload: Vec<u8>,
    signature: Vec<u8>,
}

impl<'a> UnverifiedToken<'a> {
    /// Takes a bearer token of at most [`MAX_TOKEN_BYTES`] apart, refusing before any cryptography what could not be
    /// accepted anyway.
    ///
    /// # Errors
    /// [`TokenError::TooLarge`] up to [`TokenError::CriticalExtension`], in the order of that enum.
    pub fn parse(token: &'a str) -> Result<Self, TokenError> {
        Self::parse_within(token, MAX_TOKEN_BYTES)
    }

    /// The same for a token of another use, of at most `max_bytes`.
    ///
    /// # Errors
    /// Those of [`parse`](Self::parse).
    pub fn parse_within(token: &'a str, max_bytes: usize) -> Result<Self, TokenError> {
        if token.len() > max_bytes {
            return Err(TokenError::TooLarge);
        }
        let mut segments = token.split('.');
        let (Some(header), Some(payload), Some(signature), None) = (
            segments.next(),
            segments.next(),
            segments.next(),
            segments.next(),
        ) else {
            return Err(TokenError::NotCompact);
        };
        if header.is_empty() || payload.is_empty() || signature.is_empty() {
            return Err(TokenError::NotCompact);
        }
        Ok(Self {
            kid: parse_header(&decode(header)?)?,
            signing_input: &token[..header.len() + 1 + payload.len()],
            payload: decode(payload)?,
            signature: decode(signature)?,
        })
    }

    /// The `kid` that the header names.
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// Checks what the claims would be worth if the signature were valid. Nothing in them may be believed: this only tells a
    /// token that may turn out to be valid from one that never can.
    ///
    /// # Errors
    /// Those of [`SignedPayload::validate`].
    pub(crate) fn check_unverified_claims<C: Claims>(
        &self,
        rules: &ClaimsRules,
        now: NumericDate,
    ) -> Result<UnverifiedClaims<C>, TokenError> {
        let (registered, claims) = read_claims(&self.payload, rules, now)?;
        Ok(UnverifiedClaims { registered, claims })
    }

    /// Verifies the signature with the keys of the set that go by the token's `kid`, or with all where it names none.
    ///
    /// # Errors
    /// [`TokenError::UnknownKey`] or [`TokenError::InvalidSignature`].
    pub fn verify_signature(self, keys: &KeySet) -> Result<SignedPayload, TokenError> {
        if !keys.has_candidate(self.kid()) {
            return Err(TokenError::UnknownKey);
        }
        let signed_by = keys
            .candidates(self.kid())
            .find(|key| key.verifies(self.signing_input.as_bytes(), &self.signature))
            .map(VerificationKey::thumbprint)
            .ok_or(TokenError::InvalidSignature)?;
        Ok(SignedPayload {
            signed_by,
            payload: self.payload,
        })
    }
}

/// A payload that a key of the set has signed. What it says need not hold now, nor be meant for us.
pub struct SignedPayload {
    signed_by: KeyThumbprint,
    payload: Vec<u8>,
}

impl SignedPayload {
    /// Reads the Claims Set and validates it at `now`.
    ///
    /// # Errors
    /// [`TokenError::MalformedClaims`] and those after it in that enum.
    pub fn validate<C: Claims>(
        self,
        rules: &ClaimsRules,
        now: NumericDate,
    ) -> Result<Verified<C>, TokenError> {
        let (registered, claims) = read_claims(&self.payload, rules, now)?;
        Ok(Verified {
            signed_by: self.signed_by,
            registered,
            claims,
        })
    }
}

fn read_claims<C: Claims>(
    payload: &[u8],
    rules: &ClaimsRules,
    now: NumericDate,
) -> Result<(RegisteredClaims, C), TokenError> {
    let mut private = json::parse_object(payload).ok_or(TokenError::MalformedClaims)?;
    let registered = RegisteredClaims::take_from(&mut private)?;
    rules.check(&registered, now)?;
    let claims = C::from_claims(&registered, private)?;
    Ok((registered, claims))
}

/// The claims of a token whose signature was not verified.
pub(crate) struct UnverifiedClaims<C> {
    pub(crate) registered: RegisteredClaims,
    pub(crate) claims: C,
}

/// The claims of a token whose signature was verified and whose claims held when they were validated.
#[derive(Clone, Debug)]
pub struct Verified<C> {
    signed_by: KeyThumbprint,
    registered: RegisteredClaims,
    claims: C,
}

impl<C> Verified<C> {
    /// The key that signed.
    pub fn signed_by(&self) -> KeyThumbprint {
        self.signed_by
    }

    /// The registered claims.
    pub fn registered(&self) -> &RegisteredClaims {
        &self.registered
    }

    /// The claims of this kind of token.
    pub fn claims(&self) -> &C {
        &self.claims
    }
}

fn decode(segment: &str) -> Result<Vec<u8>, TokenError> {
    BASE64_URL_SAFE_NO_PAD
        .decode(segment)
        .map_err(|_| TokenError::NotBase64Url)
}

/// Checks a JOSE Header and returns its `kid`. `jku`, `jwk`, `x5u` and `x5c` are not even read: a key that comes with
/// the token proves nothing.
fn parse_header(header: &[u8]) -> Result<Option<String>, TokenError> {
    let mut header: Map<String, Value> =
        json::parse_object(header).ok_or(TokenError::MalformedHeader)?;
    if header.get("alg").and_then(Value::as_str) != Some("RS256") {
        return Err(TokenError::AlgorithmNotAllowed);
    }
    match header.get("typ") {
        None => {}
        Some(Value::String(typ)) if typ.eq_ignore_ascii_case("JWT") => {}
        Some(_) => return Err(TokenError::WrongType),
    }
    if header.contains_key("crit") || header.contains_key("b64") {
        return Err(TokenError::CriticalExtension);
    }
    match header.remove("kid") {
        None => Ok(None),
        Some(Value::String(kid)) => Ok(Some(kid)),
        Some(_) => Err(TokenError::MalformedHeader),
    }
}
