//! Signed tokens and key sets as the RFCs define them. Nothing here depends on Hanko, HTTP, Poem or tokio.
//!
//! A token passes three stages, each a type that only the previous stage can create: [`UnverifiedToken`] is well-formed and
//! uses the allowed algorithm, [`SignedPayload`] was signed by a key of the set, and [`Verified`] also has valid claims.
//! RFC 7515 (JWS), RFC 7517 (JWK), RFC 7518 (JWA), RFC 7519 (JWT), RFC 8725 (best practices).

mod base64url;
mod claims;
mod error;
mod json;
mod key_set;
#[cfg(test)]
mod tests;
mod verifier;

pub(crate) use base64url::decode as decode_base64url;
pub use claims::NumericDate;
pub(crate) use claims::{Claims, ClaimsRules, REGISTERED_CLAIMS, RegisteredClaims};
pub use error::TokenError;
pub(crate) use json::{Members, parse_object};
pub(crate) use key_set::{KeySet, KeySetDocument, KeyThumbprint, SkippedKey};
pub(crate) use verifier::{MAX_TOKEN_BYTES, SignedPayload, UnverifiedToken, Verified};
