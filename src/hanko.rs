//! The API of Hanko: its URL, the claims of its tokens, which sessions are active, and its webhooks. Depends on Poem only
//! for the OpenAPI types of the ids.

mod authenticate;
mod builder;
mod claim_reader;
mod claims;
mod cookie_name;
mod error;
mod http_client;
mod id;
mod identified;
mod liveness;
mod origin;
mod revocation;
mod session;
mod streams;
mod token_cache;
mod url;
mod webhook;

pub use authenticate::Hanko;
pub use builder::{
    DEFAULT_COOKIE_NAME, DEFAULT_LEEWAY, DEFAULT_TOKEN_CACHE_CAPACITY, HankoBuilder,
};
pub use claim_reader::ClaimError;
pub use claims::EmailClaim;
pub(crate) use error::counted_as;
pub use error::{AuthenticateError, BuildError};
pub use http_client::HttpClientError;
pub use id::{IdError, SessionId, UserId};
pub(crate) use identified::Identified;
pub use liveness::{
    SessionMode, SessionPolicy, SessionPolicyError, ValidationError, ValidationStatus,
};
pub use revocation::{
    MemoryStore, Revocation, RevocationStore, Revoking, StoreStatus, StoreUnavailable, Target,
};
#[cfg(feature = "redis")]
pub use revocation::{RedisStore, RedisStoreError};
pub use session::Session;
pub use streams::EndReason;
#[cfg(feature = "server")]
pub(crate) use url::is_loopback;
pub use url::{HankoUrl, HankoUrlError, PlainHttp};
pub use webhook::{Event, EventKind, Receipt, WebhookError, WebhookStatus};
