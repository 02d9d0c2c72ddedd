use std::fmt;

use redis::IntoConnectionInfo;

use super::reader::{Reader, mask};

/// Where revocations are kept.
#[derive(Clone, Default)]
pub struct RevocationConfig {
    /// `REVOCATION_STORE_URL`, default none: in this process
    pub store_url: Option<String>,
}

impl fmt::Debug for RevocationConfig {
    /// Leaves the password out.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("RevocationConfig")
            .field("store_url", &self.store_url.as_deref().map(mask))
            .finish()
    }
}

impl RevocationConfig {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            store_url: reader.optional("REVOCATION_STORE_URL", |value| {
                let problem =
                    "is not a URL such as redis://localhost:6379 or rediss://redis.example:6380/1";
                let is_redis = url::Url::parse(value).is_ok_and(|url| {
                    matches!(url.scheme(), "redis" | "rediss") && url.host().is_some()
                });
                if !is_redis {
                    return Err(problem.to_owned());
                }
                match value.into_connection_info() {
                    Ok(_) => Ok(value.to_owned()),
                    Err(error) => Err(format!("{problem}: {error}")),
                }
            }),
        }
    }
}
