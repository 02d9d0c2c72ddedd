//! What Hanko says: where its API is, what its tokens claim, and which sessions are active. Nothing of Poem.

mod authenticate;
mod claims;
mod http_client;
mod liveness;
mod origin;
mod revocation;
mod session;
mod streams;
mod token_cache;
mod url;
mod webhook;

pub use authenticate::{
    AuthenticateError, BuildError, DEFAULT_COOKIE_NAME, DEFAULT_LEEWAY,
    DEFAULT_TOKEN_CACHE_CAPACITY, Hanko, HankoBuilder,
};
pub use claims::{EmailClaim, SessionClaims};
pub use http_client::HttpClientError;
pub use liveness::{
    SessionMode, SessionPolicy, SessionPolicyError, ValidationError, ValidationStatus,
};
pub use revocation::{
    MemoryStore, Revocation, RevocationStore, Revoking, StoreStatus, StoreUnavailable, Target,
};
#[cfg(feature = "redis")]
pub use revocation::{RedisStore, RedisStoreError};
pub use session::{Session, SessionId, UserId};
pub use streams::EndReason;
#[cfg(feature = "server")]
pub(crate) use url::is_loopback;
pub use url::{HankoUrl, HankoUrlError, PlainHttp};
pub use webhook::{Event, EventKind, Receipt, WebhookError, WebhookStatus};
