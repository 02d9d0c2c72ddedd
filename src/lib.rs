#![doc = include_str!("crate.md")]
// Without the feature, links to its items lead to the list of features.
#![cfg_attr(
    not(feature = "server"),
    doc = "",
    doc = "[`App`]: #features",
    doc = "[`App::bind`]: #features",
    doc = "[`App::on_event`]: #features",
    doc = "[`Config`]: #features",
    doc = "[`Server::run`]: #features"
)]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "server")]
mod app;
mod auth;
mod clock;
#[cfg_attr(
    not(feature = "server"),
    allow(
        dead_code,
        unused_imports,
        reason = "some limits concern connections, which only the server accepts"
    )
)]
mod edge;
mod hanko;
mod interned;
mod jose;
mod keys;
#[cfg_attr(
    not(feature = "server"),
    allow(
        dead_code,
        unused_imports,
        reason = "only the server exports the counters"
    )
)]
mod metrics;
#[cfg_attr(
    not(feature = "server"),
    allow(dead_code, unused_imports, reason = "only `App` combines APIs")
)]
mod openapi;
mod operations;
mod problem;
mod sampling;
#[cfg(feature = "server")]
mod server;
#[cfg(feature = "local-hanko")]
pub mod testing;
mod trace;

// Protect a route.
pub use auth::{
    BEARER_SCHEME, COOKIE_SCHEME, Challenge, Credential, HankoAuth, OptionalHankoAuth, Rejection,
    authenticate,
};
pub use hanko::{
    AuthenticateError, BuildError, ClaimError, DEFAULT_COOKIE_NAME, DEFAULT_LEEWAY,
    DEFAULT_TOKEN_CACHE_CAPACITY, EmailClaim, EndReason, Hanko, HankoBuilder, HankoUrl,
    HankoUrlError, HttpClientError, IdError, PlainHttp, Session, SessionId, SessionMode,
    SessionPolicy, SessionPolicyError, UserId, ValidationError, ValidationStatus,
};
pub use jose::{NumericDate, TokenError};
pub use keys::{FetchError, FetchPolicy, KeySetError, KeySetStatus};

// Require more than a session.
pub use auth::{
    AnyOf, ClaimRequirement, Fresh, Guard, Live, Passkey, Require, Required, Requirement,
    ScopeRequirement, SecondFactor, StrongSignIn, Unmet, VerifiedEmail, require,
};

// Receive events, and revoke sessions.
pub use hanko::{
    Event, EventKind, MemoryStore, Receipt, Revocation, RevocationStore, Revoking, StoreStatus,
    StoreUnavailable, Target, WebhookError, WebhookStatus,
};
#[cfg(feature = "redis")]
pub use hanko::{RedisStore, RedisStoreError};
#[cfg(feature = "server")]
pub use operations::CheckStatus;
pub use operations::{HealthApi, MeApi, WebhooksApi, webhook_endpoint};

// Return errors, and document them.
pub use openapi::{
    Conflict, Document, DocumentFormat, JsonBody, ProblemOf, ProblemTypes, WithProblems,
};
pub use problem::{CONTENT_TYPE_PROBLEM, Problem, ProblemType};

// Wrap an existing Poem app.
pub use edge::{
    Edge, EdgeEndpoint, LimitedEndpoint, Pages, RequestLimits, RouteTable, TrustedProxies,
    TrustedProxiesError, WithPages, WithRouteTable,
};

// Run the server.
#[cfg(all(feature = "server", feature = "testing"))]
pub use app::TestApp;
#[cfg(feature = "server")]
pub use app::{
    App, Config, ConfigError, ConfigErrors, HankoChoice, HankoConfig, HttpConfig, InstallLogError,
    LogFormat, RevocationConfig, TelemetryConfig, flush_log, install_log, log_subscriber,
};
pub use clock::{Clock, ManualClock, Sleep, SystemClock};
#[cfg(feature = "server")]
pub use server::{Server, StartError};

/// Compiles the code blocks of the documentation pages.
#[cfg(all(doctest, feature = "server", feature = "testing"))]
mod pages {
    #[doc = include_str!("../README.md")]
    struct Readme;
    #[doc = include_str!("../docs/embedding.md")]
    struct Embedding;
    #[doc = include_str!("../docs/guards.md")]
    struct Guards;
    #[doc = include_str!("../docs/hanko.md")]
    struct OwnHanko;
    #[doc = include_str!("../docs/testing.md")]
    struct Testing;
}
