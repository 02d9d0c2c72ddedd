//! Why a Redis cannot be used, for now or as it is configured.

use std::fmt;

use redis::{ErrorKind, RedisError, ServerErrorKind};

/// Why a [`RedisStore`](super::RedisStore) cannot be started, or cannot work with its Redis as it is configured.
///
/// The message neither contains the URL nor repeats the message of the Redis client, which may contain the password.
///
/// ```
/// use std::sync::Arc;
///
/// use poem_hanko::{RedisStore, RedisStoreError, SystemClock};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// match RedisStore::start("localhost:6379", Arc::new(SystemClock::new())) {
///     Ok(store) => store.check().await?,
///     Err(RedisStoreError::Url) => eprintln!("write redis://localhost:6379"),
///     Err(error) => return Err(error.into()),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RedisStoreError {
    /// The URL is not a Redis URL.
    #[error("not a Redis URL such as redis://localhost:6379 or rediss://redis.example:6380/1")]
    Url,
    /// There is no tokio runtime, so the task that mirrors Redis cannot be started.
    #[error("must be started within a tokio runtime, such as in an async fn of #[tokio::main]")]
    NoRuntime,
    /// Redis does not accept the user name and password, or requires them.
    #[error(
        "a Redis that rejects the user name or password of the URL, or requires one (redis://user:password@host)"
    )]
    Credentials,
    /// The user of the URL may not run a command that is needed.
    #[error(
        "a Redis whose user lacks a permission; required are ~poem-hanko:revoked:* &poem-hanko:revoked +set +publish +multi \
         +exec +scan +subscribe +ping, and for a cluster +cluster|slots +cluster|nodes"
    )]
    Permissions,
    /// The database of the URL does not exist. A cluster has only database 0.
    #[error("a Redis without the database that the URL names (a cluster has only database 0)")]
    Database,
    /// The server is a replica that accepts no writes.
    #[error("a replica that accepts no writes; name its primary")]
    ReadOnly,
    /// The server is a Redis Sentinel, which keeps no data.
    #[error("a Redis Sentinel, which keeps no data; name the primary that it watches")]
    Sentinel,
    /// The server is part of a cluster in which some slots have no owner.
    #[error(
        "a Redis Cluster in which some slots have no owner; `redis-cli --cluster fix` assigns them"
    )]
    SlotsMissing,
    /// The server does not know a command or option that is needed.
    #[error("a server that lacks a command, such as SET with EXAT; Redis 6.2 or later is required")]
    TooOld,
}

/// Why an attempt to use Redis failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// It may work later.
    Unavailable(RedisError),
    /// It fails until somebody changes the server or the URL.
    Unusable(RedisStoreError),
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable(error) => error.fmt(formatter),
            Self::Unusable(error) => write!(formatter, "it is {error}"),
        }
    }
}

impl From<RedisError> for Failure {
    /// A failed authentication counts as unavailable here: Redis also rejects it if it has too many clients.
    fn from(error: RedisError) -> Self {
        // `EXECABORT` hides the errors of the commands in a transaction.
        let replies = error.clone().into_server_errors();
        let lasting = replies
            .iter()
            .flat_map(|replies| replies.iter())
            .find_map(|(_, reply)| {
                lasting(
                    reply.kind(),
                    reply.code(),
                    reply.details().unwrap_or_default(),
                )
            });
        let lasting = lasting.or_else(|| match error.kind() {
            // The Redis client replaces the code of this error.
            ErrorKind::Server(ServerErrorKind::ResponseError)
                if error.to_string().contains("refused to switch database") =>
            {
                selection(error.detail().unwrap_or_default())
            }
            _ => None,
        });
        lasting.map_or(Self::Unavailable(error), Self::Unusable)
    }
}

/// Returns the reason if this error reply lasts until somebody changes the server or the URL.
fn lasting(kind: Option<ServerErrorKind>, code: &str, details: &str) -> Option<RedisStoreError> {
    match (kind, code) {
        (Some(ServerErrorKind::NoPerm), _) => Some(RedisStoreError::Permissions),
        // The permission for EXEC itself is missing.
        (Some(ServerErrorKind::ExecAbort), _) if details.contains("NOPERM") => {
            Some(RedisStoreError::Permissions)
        }
        (Some(ServerErrorKind::ReadOnly), _) => Some(RedisStoreError::ReadOnly),
        (None, "NOAUTH" | "WRONGPASS") => Some(RedisStoreError::Credentials),
        (Some(ServerErrorKind::ResponseError), _) => {
            let details = details.to_ascii_lowercase();
            let says = |text: &str| details.contains(text);
            if says("invalid password") || says("without any password configured") {
                Some(RedisStoreError::Credentials)
            } else if says("unknown command") || says("unknown subcommand") || says("syntax error")
            {
                Some(RedisStoreError::TooOld)
            } else {
                None
            }
        }
        _ => None,
    }
}

/// Returns why Redis did not select the database of the URL.
fn selection(details: &str) -> Option<RedisStoreError> {
    let says = |text: &str| details.to_ascii_lowercase().contains(text);
    if says("out of range") || says("not allowed in cluster mode") {
        Some(RedisStoreError::Database)
    } else if says("authentication required") {
        Some(RedisStoreError::Credentials)
    } else if says("no permissions") {
        Some(RedisStoreError::Permissions)
    } else {
        None
    }
}
