//! What Hanko says: where its API is, what its tokens claim, and which sessions are alive. Nothing of Poem.

mod authenticate;
mod claims;
mod session;
mod tenant;

pub use authenticate::{
    AuthenticateError, DEFAULT_COOKIE_NAME, DEFAULT_LEEWAY, Hanko, HankoBuilder,
};
pub use claims::{EmailClaim, SessionClaims};
pub use session::{Session, SessionId, UserId};
pub use tenant::{PlainHttp, Tenant, TenantError};
