//! The three stages of a token: well-formed, verified signature, validated claims.

use std::fmt;

use memchr::memchr_iter;
use serde_json::{Map, Value};

use super::{
    base64url,
    claims::{CONFIRMATION, Claims, ClaimsRules, NumericDate, REGISTERED_CLAIMS, RegisteredClaims},
    error::TokenError,
    json,
    key_set::{KeySet, KeyThumbprint, VerificationKey},
};

/// The longest session token that is parsed, in bytes. Hanko's are below 1 KiB; browsers keep no cookie above 4 KiB.
pub(crate) const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// A compact JWS (RFC 7515 section 7.1) with an acceptable JOSE Header. Nothing in it can be trusted yet.
pub(crate) struct UnverifiedToken<'a> {
    text: &'a str,
    kid: Option<String>,
    signing_input: &'a str,
    payload: Vec<u8>,
    signature: Vec<u8>,
}

impl<'a> UnverifiedToken<'a> {
    /// Parses a session token of at most [`MAX_TOKEN_BYTES`]. Rejects a token that can never be accepted before any
    /// cryptography.
    ///
    /// # Errors
    /// The variants of [`TokenError`] from [`TooLarge`](TokenError::TooLarge) to
    /// [`CriticalExtension`](TokenError::CriticalExtension).
    pub(crate) fn parse(token: &'a str) -> Result<Self, TokenError> {
        Self::parse_within(token, MAX_TOKEN_BYTES)
    }

    /// Parses a token of at most `max_bytes`.
    ///
    /// # Errors
    /// Those of [`parse`](Self::parse).
    pub(crate) fn parse_within(token: &'a str, max_bytes: usize) -> Result<Self, TokenError> {
        if token.len() > max_bytes {
            return Err(TokenError::TooLarge);
        }
        let mut dots = memchr_iter(b'.', token.as_bytes());
        let (Some(first), Some(second), None) = (dots.next(), dots.next(), dots.next()) else {
            return Err(TokenError::NotCompact);
        };
        let header = &token[..first];
        let payload = &token[first + 1..second];
        let signature = &token[second + 1..];
        if header.is_empty() || payload.is_empty() || signature.is_empty() {
            return Err(TokenError::NotCompact);
        }
        Ok(Self {
            text: token,
            kid: parse_header(&decode(header)?)?,
            signing_input: &token[..second],
            payload: decode(payload)?,
            signature: decode(signature)?,
        })
    }

    /// Returns the `kid` of the header.
    pub(crate) fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// Validates the claims without verifying the signature, to reject a token that can never become valid. The claims
    /// cannot be trusted.
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

    /// Verifies the signature with the keys of the set that have the token's `kid`, or with all if it has none.
    ///
    /// # Errors
    /// [`TokenError::UnknownKey`] or [`TokenError::InvalidSignature`].
    pub(crate) fn verify_signature(self, keys: &KeySet) -> Result<SignedPayload<'a>, TokenError> {
        if !keys.has_candidate(self.kid()) {
            return Err(TokenError::UnknownKey);
        }
        let signed_by = keys
            .candidates(self.kid())
            .find(|key| key.verifies(self.signing_input.as_bytes(), &self.signature))
            .map(VerificationKey::thumbprint)
            .ok_or(TokenError::InvalidSignature)?;
        Ok(SignedPayload {
            text: self.text,
            signed_by,
            payload: self.payload,
        })
    }
}

/// A payload that a key of the set has signed. The token may have expired, or be meant for another audience.
pub(crate) struct SignedPayload<'a> {
    text: &'a str,
    signed_by: KeyThumbprint,
    payload: Vec<u8>,
}

impl SignedPayload<'_> {
    /// Returns the Claims Set without validating it; `None` if it is malformed.
    pub(crate) fn claims(&self) -> Option<Map<String, Value>> {
        json::parse_object(&self.payload)
    }

    /// Reads the Claims Set and validates it at `now`.
    ///
    /// # Errors
    /// [`TokenError::MalformedClaims`] or a variant after it.
    pub(crate) fn validate<C: Claims>(
        self,
        rules: &ClaimsRules,
        now: NumericDate,
    ) -> Result<Verified<C>, TokenError> {
        let (registered, claims) = read_claims(&self.payload, rules, now)?;
        Ok(Verified {
            text: self.text.into(),
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
    let names = [&REGISTERED_CLAIMS[..], &[CONFIRMATION], C::NAMES];
    let mut private = json::parse_members(payload, &names).ok_or(TokenError::MalformedClaims)?;
    let registered = RegisteredClaims::take_from(&mut private)?;
    rules.check(&registered, now)?;
    let claims = C::from_claims(&registered, private)?;
    Ok((registered, claims))
}

/// The claims of a token whose signature has not been verified.
pub(crate) struct UnverifiedClaims<C> {
    pub(crate) registered: RegisteredClaims,
    pub(crate) claims: C,
}

/// A token with a verified signature, and its claims, which were valid when they were checked.
pub(crate) struct Verified<C> {
    text: Box<str>,
    signed_by: KeyThumbprint,
    registered: RegisteredClaims,
    claims: C,
}

impl<C: fmt::Debug> fmt::Debug for Verified<C> {
    /// Omits the token.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Verified")
            .field("signed_by", &self.signed_by)
            .field("registered", &self.registered)
            .field("claims", &self.claims)
            .finish_non_exhaustive()
    }
}

impl<C> Verified<C> {
    /// Returns the token that was verified, as it was sent.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Returns the key that signed the token.
    pub(crate) fn signed_by(&self) -> KeyThumbprint {
        self.signed_by
    }

    /// Returns the registered claims.
    pub(crate) fn registered(&self) -> &RegisteredClaims {
        &self.registered
    }

    /// Returns the other claims of this kind of token.
    pub(crate) fn claims(&self) -> &C {
        &self.claims
    }
}

fn decode(segment: &str) -> Result<Vec<u8>, TokenError> {
    base64url::decode(segment).ok_or(TokenError::NotBase64Url)
}

/// Checks a JOSE Header and returns its `kid`. Never reads `jku`, `jwk`, `x5u` or `x5c`: a key that comes with the
/// token proves nothing.
fn parse_header(header: &[u8]) -> Result<Option<String>, TokenError> {
    let names = &["alg", "typ", "crit", "b64", "kid"][..];
    let mut header = json::parse_members(header, &[names]).ok_or(TokenError::MalformedHeader)?;
    if header.remove("alg").is_none_or(|alg| alg != "RS256") {
        return Err(TokenError::AlgorithmNotAllowed);
    }
    match header.remove("typ") {
        None => {}
        Some(Value::String(typ)) if typ.eq_ignore_ascii_case("JWT") => {}
        Some(_) => return Err(TokenError::WrongType),
    }
    if header.contains("crit") || header.contains("b64") {
        return Err(TokenError::CriticalExtension);
    }
    match header.remove("kid") {
        None => Ok(None),
        Some(Value::String(kid)) => Ok(Some(kid)),
        Some(_) => Err(TokenError::MalformedHeader),
    }
}
