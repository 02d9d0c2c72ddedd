//! What the RFCs say of signed tokens and key sets, with nothing of Hanko or Poem in it.
//!
//! A token passes three stages, each a type that only the stage before can make: [`UnverifiedToken`] is well-formed and
//! of an allowed algorithm, [`SignedPayload`] was signed by a key of the set, and [`Verified`] also has claims that hold
//! now. RFC 7515 (JWS), RFC 7517 (JWK), RFC 7518 (JWA), RFC 7519 (JWT), RFC 8725 (best practices).

mod claims;
mod error;
mod json;
mod key_set;
mod verifier;

use std::sync::Once;

pub use claims::{Claims, ClaimsRules, NumericDate, RegisteredClaims};
pub use error::{TokenError, UnusableKey};
pub(crate) use json::parse_object;
pub use key_set::{KeySet, KeySetDocument, KeyThumbprint, PassedOverKey, VerificationKey};
pub use verifier::{MAX_TOKEN_BYTES, SignedPayload, UnverifiedToken, Verified};

/// Makes sure that `jsonwebtoken` has a crypto provider.
///
/// Where another crate of the same program turns on its second backend, `jsonwebtoken` knows no default and panics at
/// first use. A provider that the program has installed itself is left in place.
pub(crate) fn ensure_crypto_provider() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let _already_installed = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    });
}
