//! Authenticates Poem requests: extracts the credentials, checks guards, and turns errors into responses.

mod challenge;
mod credentials;
pub(crate) mod documented;
mod extractor;
pub(crate) mod forward;
mod guard;
mod record;
mod rejection;
mod requirement;

pub use challenge::Challenge;
#[cfg(feature = "server")]
pub(crate) use credentials::comes_from_trusted_page;
pub(crate) use credentials::is_safe;
pub use extractor::{
    BEARER_SCHEME, COOKIE_SCHEME, HankoAuth, OptionalHankoAuth, Require, Required, authenticate,
    require,
};
pub use guard::{AnyOf, Fresh, Guard, Live, Passkey, SecondFactor, StrongSignIn, VerifiedEmail};
pub(crate) use record::AuthRecord;
pub use rejection::{Credential, Rejection};
pub use requirement::{ClaimRequirement, Requirement, ScopeRequirement, Unmet};
