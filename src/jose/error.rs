//! Why a token is rejected, or a key is not used.

/// Why a token was rejected. The same token will be rejected again.
///
/// The messages are fixed and contain no part of the token, so they may be logged and sent to clients.
///
/// ```
/// use poem_hanko::TokenError;
///
/// fn hint(error: TokenError) -> Option<&'static str> {
///     match error {
///         TokenError::UnknownKey => Some("is the token of another Hanko?"),
///         TokenError::IssuedInTheFuture | TokenError::NotYetValid => Some("compare the clocks"),
///         _ => None,
///     }
/// }
/// # assert_eq!(hint(TokenError::NotYetValid), Some("compare the clocks"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The token is longer than allowed: 16 KiB for a session token.
    #[error("the token is too large")]
    TooLarge,
    /// Not three non-empty segments (RFC 7515 section 7.1).
    #[error("the token is not a compact JWS")]
    NotCompact,
    /// A segment is not canonical, unpadded base64url (RFC 7515 section 2).
    #[error("the token is not base64url-encoded")]
    NotBase64Url,
    /// The JOSE Header is not a JSON object without duplicate members (RFC 7515 section 4).
    #[error("the token's header is malformed")]
    MalformedHeader,
    /// `alg` is missing or anything but `RS256` (RFC 8725 section 3.1).
    #[error("the token's algorithm is not allowed")]
    AlgorithmNotAllowed,
    /// `typ` is neither absent nor `JWT` (RFC 8725 section 3.11).
    #[error("the token is of another type")]
    WrongType,
    /// `crit` or `b64` is present, but no extension is supported (RFC 7515 section 4.1.11, RFC 7797).
    #[error("the token requires an extension that is not supported")]
    CriticalExtension,
    /// No key of the current set has this `kid`.
    #[error("the token was signed by an unknown key")]
    UnknownKey,
    /// The signature was made by no key with this `kid`.
    #[error("the token's signature is invalid")]
    InvalidSignature,
    /// The Claims Set is not a JSON object without duplicate members (RFC 7519 section 4).
    #[error("the token's claims are malformed")]
    MalformedClaims,
    /// A required claim is absent.
    #[error("the token lacks the claim `{0}`")]
    MissingClaim(&'static str),
    /// A claim is of the wrong type, or out of range.
    #[error("the token's claim `{0}` is malformed")]
    MalformedClaim(&'static str),
    /// `exp` is in the past (RFC 7519 section 4.1.4).
    #[error("the token has expired")]
    Expired,
    /// `nbf` is in the future (RFC 7519 section 4.1.5).
    #[error("the token is not valid yet")]
    NotYetValid,
    /// `iat` is in the future (RFC 7519 section 4.1.6).
    #[error("the token was issued in the future")]
    IssuedInTheFuture,
    /// `aud` names none of the configured audiences (RFC 7519 section 4.1.3).
    #[error("the token is meant for another audience")]
    WrongAudience,
    /// `iss` is not the configured issuer (RFC 7519 section 4.1.1).
    #[error("the token is from another issuer")]
    WrongIssuer,
    /// `cnf` binds the token to a key whose possession the sender must prove (RFC 7800), so it is not a bearer token.
    #[error("the token is bound to a key and cannot be used as a bearer token")]
    KeyBound,
    /// Another kind of token, signed by the same keys, such as a webhook token.
    #[error("the token is of another kind")]
    WrongKind,
}

/// Why a key of a JWK Set is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum UnusableKey {
    /// Not a JSON object without duplicate members, or a member has the wrong type.
    #[error("it is not a well-formed JWK")]
    Malformed,
    /// `kty` is not `RSA`.
    #[error("its `kty` is not RSA")]
    KeyType,
    /// `use` is neither absent nor `sig`.
    #[error("its `use` is not sig")]
    Use,
    /// `alg` is neither absent nor `RS256`.
    #[error("its `alg` is not RS256")]
    Algorithm,
    /// `key_ops` is present without `verify`.
    #[error("its `key_ops` does not contain verify")]
    Operations,
    /// The set publishes a private key, so anybody can sign with it.
    #[error("it is a private key")]
    Private,
    /// The modulus has fewer than 2048 bits or more than 8192.
    #[error("its modulus does not have 2048 to 8192 bits")]
    Size,
    /// The exponent is even, less than 3 or more than 33 bits long, or the modulus is even.
    #[error("its modulus and exponent do not form an RSA public key")]
    Components,
}
