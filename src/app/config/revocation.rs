use std::fmt;

use redis::IntoConnectionInfo;

use super::{reader::Reader, secret::mask_url};
use crate::hanko::{Hanko, StoreStatus};

/// Where revocations are kept.
///
/// ```
/// use poem_hanko::{Config, HankoChoice};
///
/// const STORE: &str = "redis://localhost:6379";
/// let lookup = |name: &str| (name == "REVOCATION_STORE_URL").then(|| STORE.to_owned());
/// let config = Config::from_lookup(lookup, HankoChoice::Local)?;
/// assert_eq!(config.revocation.store_url.as_deref(), Some(STORE));
/// # Ok::<(), poem_hanko::ConfigErrors>(())
/// ```
#[derive(Clone, Default)]
pub struct RevocationConfig {
    /// `REVOCATION_STORE_URL`, default unset: in this process
    pub store_url: Option<String>,
}

impl fmt::Debug for RevocationConfig {
    /// Masks the password.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("RevocationConfig")
            .field("store_url", &self.store_url.as_deref().map(mask_url))
            .finish()
    }
}

impl RevocationConfig {
    /// Describes where `hanko` keeps revocations, without a password.
    pub(crate) fn described(&self, hanko: &Hanko) -> String {
        match (&self.store_url, hanko.revocation_store_status()) {
            (_, StoreStatus::Unshared) => "in this process".to_owned(),
            (Some(url), _) => mask_url(url),
            (None, _) => "of the application".to_owned(),
        }
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            store_url: reader.optional("REVOCATION_STORE_URL", |value| {
                let is_redis = url::Url::parse(value).is_ok_and(|url| {
                    matches!(url.scheme(), "redis" | "rediss") && url.host().is_some()
                }) && value.into_connection_info().is_ok();
                // The message of the Redis client is not repeated: it may contain the password.
                if is_redis {
                    Ok(value.to_owned())
                } else {
                    Err("is not a URL such as redis://localhost:6379 or rediss://redis.example:6380/1; \
                         percent-encode a password (/ is %2F, # is %23, ? is %3F, @ is %40)"
                        .to_owned())
                }
            }),
        }
    }
}
