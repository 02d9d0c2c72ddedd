use std::time::Duration;

use super::{
    HankoChoice,
    reader::{Reader, boolean, count, duration, list, positive_duration},
};
use crate::{
    hanko::{
        DEFAULT_COOKIE_NAME, DEFAULT_LEEWAY, DEFAULT_TOKEN_CACHE_CAPACITY, HankoBuilder, HankoUrl,
        HankoUrlError, PlainHttp, SessionMode, SessionPolicy, SessionPolicyError,
    },
    keys::FetchPolicy,
    testing::LocalHankoBuilder,
};

/// More leeway would accept tokens long after they expired. A clock that needs more should be fixed.
const MAX_LEEWAY: Duration = Duration::from_mins(10);

/// More would take several GiB, so it is probably a mistake.
const MAX_TOKEN_CACHE_CAPACITY: usize = 10_000_000;
const MAX_SESSION_CAPACITY: usize = 10_000_000;

/// Which Hanko's sessions are accepted, and how they are verified.
///
/// ```
/// use poem_hanko::{Config, HankoChoice, SessionMode};
///
/// let lookup = |name: &str| (name == "HANKO_SESSION_MODE").then(|| "stateful".to_owned());
/// let config = Config::from_lookup(lookup, HankoChoice::Local)?;
/// assert_eq!(config.hanko.session_policy.mode, SessionMode::Stateful);
/// assert_eq!(config.hanko.cookie_name, "hanko");
/// # Ok::<(), poem_hanko::ConfigErrors>(())
/// ```
#[derive(Clone, Debug)]
pub struct HankoConfig {
    /// `HANKO_API_URL`; `None` for the local Hanko.
    pub url: Option<HankoUrl>,
    /// `HANKO_AUDIENCE`, default none
    pub audiences: Vec<String>,
    /// `HANKO_ISSUER`, default none
    pub issuer: Option<String>,
    /// `HANKO_COOKIE_NAME`, default `hanko`
    pub cookie_name: String,
    /// `HANKO_SESSION_MODE`, `SESSION_CACHE_TTL`, `SESSION_MAX_STALE`, `SESSION_VALIDATION_TIMEOUT`, `SESSION_CAPACITY`,
    /// defaults `hybrid`, `30s`, `10m`, `5s`, `100000`
    pub session_policy: SessionPolicy,
    /// `JWT_LEEWAY`, default `30s`
    pub leeway: Duration,
    /// `JWKS_TIMEOUT`, `JWKS_CACHE_MAX_AGE`, `JWKS_COOLDOWN`, `JWKS_MAX_STALE`, defaults `5s`, `10m`, `30s`, `24h`
    pub fetch_policy: FetchPolicy,
    /// `TOKEN_CACHE_CAPACITY`, default `10000`
    pub token_cache_capacity: usize,
}

impl HankoConfig {
    pub(super) fn read(reader: &mut Reader<'_>, choice: HankoChoice) -> Self {
        Self {
            url: match choice {
                HankoChoice::Configured => read_url(reader),
                HankoChoice::Local => None,
            },
            audiences: reader.or("HANKO_AUDIENCE", Vec::new(), |value| {
                let audiences: Vec<String> = list(value).map(ToOwned::to_owned).collect();
                // An empty list would mean any audience.
                if audiences.is_empty() {
                    return Err("names no audience".to_owned());
                }
                Ok(audiences)
            }),
            issuer: reader.optional("HANKO_ISSUER", |value| Ok(value.to_owned())),
            cookie_name: read_cookie_name(reader),
            session_policy: read_session_policy(reader),
            leeway: reader.or("JWT_LEEWAY", DEFAULT_LEEWAY, |value| {
                let leeway = duration(value)?;
                if leeway > MAX_LEEWAY {
                    return Err("must be at most 10m; fix the clock instead".to_owned());
                }
                Ok(leeway)
            }),
            fetch_policy: read_fetch_policy(reader),
            token_cache_capacity: reader.or(
                "TOKEN_CACHE_CAPACITY",
                DEFAULT_TOKEN_CACHE_CAPACITY,
                |value| {
                    let capacity = count(value)?;
                    if capacity > MAX_TOKEN_CACHE_CAPACITY {
                        return Err(format!("must be at most {MAX_TOKEN_CACHE_CAPACITY}"));
                    }
                    Ok(capacity)
                },
            ),
        }
    }

    /// Configures the local Hanko so that its tokens have the required audience and issuer.
    pub(crate) fn apply_to_local(&self, mut builder: LocalHankoBuilder) -> LocalHankoBuilder {
        if let Some(audience) = self.audiences.first() {
            builder = builder.audience(audience);
        }
        if let Some(issuer) = &self.issuer {
            builder = builder.issuer(issuer);
        }
        builder
    }

    /// Applies this section to a builder.
    pub(crate) fn apply(&self, builder: HankoBuilder) -> HankoBuilder {
        let builder = builder
            .audiences(self.audiences.iter().cloned())
            .cookie_name(&self.cookie_name)
            .session_policy(self.session_policy.clone())
            .leeway(self.leeway)
            .token_cache_capacity(self.token_cache_capacity)
            .fetch_policy(self.fetch_policy.clone());
        match &self.issuer {
            Some(issuer) => builder.issuer(issuer),
            None => builder,
        }
    }
}

fn read_session_policy(reader: &mut Reader<'_>) -> SessionPolicy {
    let default = SessionPolicy::default();
    let policy = SessionPolicy {
        mode: reader.or("HANKO_SESSION_MODE", default.mode, |value| match value {
            "stateless" => Ok(SessionMode::Stateless),
            "hybrid" => Ok(SessionMode::Hybrid),
            "stateful" => Ok(SessionMode::Stateful),
            _ => Err("must be stateless, hybrid or stateful".to_owned()),
        }),
        cache_ttl: reader.or("SESSION_CACHE_TTL", default.cache_ttl, duration),
        max_stale: reader.or("SESSION_MAX_STALE", default.max_stale, positive_duration),
        validation_timeout: reader.or(
            "SESSION_VALIDATION_TIMEOUT",
            default.validation_timeout,
            positive_duration,
        ),
        capacity: reader.or("SESSION_CAPACITY", default.capacity, |value| {
            match count(value)? {
                0 => Err("must be more than zero".to_owned()),
                capacity if capacity > MAX_SESSION_CAPACITY => {
                    Err(format!("must be at most {MAX_SESSION_CAPACITY}"))
                }
                capacity => Ok(capacity),
            }
        }),
    };
    match policy.validate() {
        Ok(()) | Err(SessionPolicyError::ZeroCapacity) => {}
        Err(SessionPolicyError::ZeroCacheTtl) => {
            let value = reader.raw("SESSION_CACHE_TTL").unwrap_or_default();
            reader.wrong(
                "SESSION_CACHE_TTL",
                &value,
                "must be more than zero in hybrid mode; HANKO_SESSION_MODE=stateful asks Hanko for every request",
            );
        }
        Err(SessionPolicyError::ShortMaxStale) => {
            let ttl = reader.described("SESSION_CACHE_TTL", "30s");
            let max_stale = reader.described("SESSION_MAX_STALE", "10m");
            // The error names the variable that was set.
            let (variable, problem) = match reader.raw("SESSION_MAX_STALE") {
                Some(value) if !value.is_empty() => (
                    "SESSION_MAX_STALE",
                    format!("must be at least twice {ttl} in hybrid mode"),
                ),
                _ => (
                    "SESSION_CACHE_TTL",
                    format!("must be at most half of {max_stale} in hybrid mode"),
                ),
            };
            let value = reader.raw(variable).unwrap_or_default();
            reader.wrong(variable, &value, problem);
        }
    }
    policy
}

/// Reads `HANKO_COOKIE_NAME`, a token (RFC 6265 section 4.1.1).
pub(super) fn read_cookie_name(reader: &mut Reader<'_>) -> String {
    reader.or(
        "HANKO_COOKIE_NAME",
        DEFAULT_COOKIE_NAME.to_owned(),
        |value| {
            let is_token = value
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte));
            if is_token {
                Ok(value.to_owned())
            } else {
                Err("is not a cookie name: use letters, digits, - and _".to_owned())
            }
        },
    )
}

fn read_url(reader: &mut Reader<'_>) -> Option<HankoUrl> {
    let plain_http = if reader.or("HANKO_ALLOW_HTTP", false, boolean) {
        PlainHttp::Allowed
    } else {
        PlainHttp::LoopbackOnly
    };
    if reader.raw("HANKO_API_URL").is_none_or(|url| url.is_empty()) {
        reader.missing(
            "HANKO_API_URL",
            "is not set: copy the API URL from your project's dashboard at Hanko Cloud, or give the URL of your own \
             Hanko; `cargo run -- dev` needs none",
        );
        return None;
    }
    reader.optional("HANKO_API_URL", |url| {
        HankoUrl::parse(url, plain_http).map_err(|error| match error {
            HankoUrlError::PlainHttp => format!(
                "{error}: use https, or set HANKO_ALLOW_HTTP=true if you trust the network in between"
            ),
            error => error.to_string(),
        })
    })
}

fn read_fetch_policy(reader: &mut Reader<'_>) -> FetchPolicy {
    let default = FetchPolicy::default();
    let policy = FetchPolicy {
        timeout: reader.or("JWKS_TIMEOUT", default.timeout, positive_duration),
        max_age: reader.or("JWKS_CACHE_MAX_AGE", default.max_age, positive_duration),
        cooldown: reader.or("JWKS_COOLDOWN", default.cooldown, positive_duration),
        max_stale: reader.or("JWKS_MAX_STALE", default.max_stale, positive_duration),
    };
    if policy.max_stale < policy.max_age {
        let (max_stale, max_age) = (
            reader.described("JWKS_MAX_STALE", "24h"),
            reader.described("JWKS_CACHE_MAX_AGE", "10m"),
        );
        // The error names the variable that was set.
        let (variable, problem) = match reader.raw("JWKS_MAX_STALE") {
            Some(value) if !value.is_empty() => (
                "JWKS_MAX_STALE",
                format!("is less than {max_age}: keys would be dropped while they are fresh"),
            ),
            _ => (
                "JWKS_CACHE_MAX_AGE",
                format!("is more than {max_stale}: keys would be dropped while they are fresh"),
            ),
        };
        let value = reader.raw(variable).unwrap_or_default();
        reader.wrong(variable, &value, problem);
    }
    policy
}
