//! What Hanko says: where its API is, what its tokens claim, and which sessions are alive. Nothing of Poem.

mod authenticate;
mod claims;
mod http_client;
mod origin;
mod revocation;
mod session;
mod tenant;
mod validation;
mod webhook;

pub use authenticate::{
    AuthenticateError, BuildError, DEFAULT_COOKIE_NAME, DEFAULT_LEEWAY,
    DEFAULT_TOKEN_CACHE_CAPACITY, Hanko, HankoBuilder, SessionMode, WebhookError,
};
pub use claims::{EmailClaim, SessionClaims};
pub use http_client::HttpClientError;
pub use revocation::{
    MemoryStore, Revocation, RevocationStore, Revoking, StoreUnavailable, Target,
};
#[cfg(feature = "redis")]
pub use revocation::{RedisStore, RedisStoreError};
pub use session::{Session, SessionId, UserId};
#[cfg(feature = "server")]
pub(crate) use tenant::is_loopback;
pub use tenant::{PlainHttp, Tenant, TenantError};
pub use validation::ValidationError;
pub use webhook::{Event, EventKind};
