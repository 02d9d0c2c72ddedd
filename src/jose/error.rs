//! Two kinds of failure that must never be mixed: the caller's token is bad, or we have no keys to judge it with.

use std::time::Duration;

use reqwest::StatusCode;

/// Why a token was refused. The token is at fault, and the same token will be refused again.
///
/// The messages are fixed and hold nothing of the token, so they may be logged and sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Longer than a token of its use may be: [`MAX_TOKEN_BYTES`](super::MAX_TOKEN_BYTES) for one that a request bears.
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
    /// `crit` or `b64` is present: no extension is understood here (RFC 7515 section 4.1.11, RFC 7797).
    #[error("the token demands an extension that is not supported")]
    CriticalExtension,
    /// No key of the current set has this `kid`.
    #[error("the token was signed by an unknown key")]
    UnknownKey,
    /// The signature is not that of the key.
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
    /// `exp` has come (RFC 7519 section 4.1.4).
    #[error("the token has expired")]
    Expired,
    /// `nbf` lies in the future (RFC 7519 section 4.1.5).
    #[error("the token is not valid yet")]
    NotYetValid,
    /// `iat` lies in the future (RFC 7519 section 4.1.6).
    #[error("the token was issued in the future")]
    IssuedInTheFuture,
    /// `aud` names none of the configured audiences (RFC 7519 section 4.1.3).
    #[error("the token is meant for another audience")]
    WrongAudience,
    /// `iss` is not the configured issuer (RFC 7519 section 4.1.1).
    #[error("the token is from another issuer")]
    WrongIssuer,
    /// `cnf` binds the token to a key that its sender has to prove (RFC 7800): it is no bearer token.
    #[error("the token is bound to a key and cannot be used as a bearer token")]
    KeyBound,
    /// A token of another kind, signed by the same keys.
    #[error("the token is of another kind")]
    WrongKind,
}

/// Why a key of a JWK Set was passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnusableKey {
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
    #[error("its `key_ops` lack verify")]
    Operations,
    /// A private key was published: anybody can sign with it.
    #[error("it is a private key")]
    Private,
    /// Less than 2048 bits or more than 8192.
    #[error("its modulus is not of 2048 to 8192 bits")]
    Size,
    /// The exponent is even, less than 3 or more than 33 bits long, or the modulus is even.
    #[error("its components are no RSA public key")]
    Components,
}

/// Why there are no keys from the JWK Set: one fetch failed, or was not waited for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// No connection, or it broke.
    #[error("the JWK Set could not be fetched: {0}")]
    Transport(String),
    /// Not complete in time.
    #[error("the JWK Set was not complete within {0:?}")]
    Timeout(Duration),
    /// Any status but 200. Redirects are not followed.
    #[error("the JWK Set was answered with status {0}")]
    Status(StatusCode),
    /// More than 1 MiB.
    #[error("the JWK Set is larger than 1 MiB")]
    TooLarge,
    /// Not a JSON object with an array `keys`.
    #[error("the answer is not a JWK Set")]
    Malformed,
    /// Not one key of the set may verify RS256.
    #[error("the JWK Set holds no usable key")]
    NoUsableKey,
    /// Too many requests wait for a fetch already. The fetch itself may succeed.
    #[error("too many requests wait for the JWK Set")]
    Overloaded,
}

impl FetchError {
    /// The same in words that hold nothing internal, such as the name of a host, and that anybody may read.
    pub fn summary(&self) -> &'static str {
        match self {
            Self::Transport(_) => "The JWK Set could not be fetched.",
            Self::Timeout(_) => "The JWK Set was not complete in time.",
            Self::Status(_) => "The JWK Set was answered with another status than 200.",
            Self::TooLarge => "The JWK Set is too large.",
            Self::Malformed => "The answer is not a JWK Set.",
            Self::NoUsableKey => "The JWK Set holds no usable key.",
            Self::Overloaded => "Too many requests wait for the JWK Set.",
        }
    }
}

/// There are no keys to verify with. The caller's token may be good, and trying again later may help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no verification keys: {}", reason.as_ref().map_or_else(|| "not fetched yet".to_owned(), ToString::to_string))]
pub struct KeySetError {
    /// What went wrong at the last fetch; `None` before the first one ended.
    pub reason: Option<FetchError>,
    /// When the next fetch is due, from now.
    pub retry_after: Duration,
}

impl KeySetError {
    /// The same in words that hold nothing internal and are one of a fixed set.
    pub fn summary(&self) -> &'static str {
        self.reason
            .as_ref()
            .map_or("The JWK Set has not been fetched yet.", FetchError::summary)
    }
}
