//! Registered claims (RFC 7519 section 4.1) and their validation.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::{error::TokenError, json::Members};

/// A `NumericDate` (RFC 7519 section 2): seconds since 1970-01-01T00:00:00Z, with or without a fraction.
///
/// Converts to [`SystemTime`] and [`DateTime<Utc>`].
///
/// ```
/// use std::time::{Duration, SystemTime};
///
/// use poem_hanko::NumericDate;
///
/// let date = NumericDate::from(Duration::from_secs(1_767_268_800));
/// assert_eq!(SystemTime::from(date), SystemTime::UNIX_EPOCH + date.since_epoch());
/// let text = chrono::DateTime::<chrono::Utc>::from(date).to_rfc3339();
/// assert_eq!(text, "2026-01-01T12:00:00+00:00");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NumericDate(Duration);

impl NumericDate {
    /// 9999-12-31T23:59:59Z, the last second that RFC 3339 can represent. A token with a later date is rejected.
    pub const LAST: Self = Self(Duration::from_secs(253_402_300_799));

    /// Returns the time since 1970-01-01T00:00:00Z.
    ///
    /// ```
    /// use poem_hanko::Session;
    ///
    /// /// The value for `max-age` of a cookie, at `now` seconds since 1970.
    /// fn max_age(session: &Session, now: u64) -> u64 {
    ///     session.expires_at().since_epoch().as_secs().saturating_sub(now)
    /// }
    /// ```
    pub fn since_epoch(self) -> Duration {
        self.0
    }

    fn from_value(value: &Value) -> Option<Self> {
        let since_epoch = match value.as_u64() {
            Some(seconds) => Duration::from_secs(seconds),
            None => Duration::try_from_secs_f64(value.as_f64()?).ok()?,
        };
        (since_epoch <= Self::LAST.0).then_some(Self(since_epoch))
    }
}

impl From<Duration> for NumericDate {
    /// Returns the date that is `since_epoch` after 1970-01-01T00:00:00Z.
    fn from(since_epoch: Duration) -> Self {
        Self(since_epoch)
    }
}

impl From<NumericDate> for SystemTime {
    /// Converts a date after [`NumericDate::LAST`] to that date.
    fn from(date: NumericDate) -> Self {
        UNIX_EPOCH + date.min(NumericDate::LAST).0
    }
}

impl From<NumericDate> for DateTime<Utc> {
    /// Converts a date after [`NumericDate::LAST`] to that date.
    fn from(date: NumericDate) -> Self {
        SystemTime::from(date).into()
    }
}

/// The registered claims of a token, with their types checked.
#[derive(Clone, Debug)]
pub(crate) struct RegisteredClaims {
    /// `iss`
    pub(crate) issuer: Option<String>,
    /// `sub`
    pub(crate) subject: Option<String>,
    /// `aud`; a string counts as an array with one element.
    pub(crate) audience: Vec<String>,
    /// `exp`
    pub(crate) expires_at: NumericDate,
    /// `nbf`
    pub(crate) not_before: Option<NumericDate>,
    /// `iat`
    pub(crate) issued_at: Option<NumericDate>,
}

/// The names of the registered claims that [`RegisteredClaims`] has.
pub(crate) const REGISTERED_CLAIMS: [&str; 6] = ["iss", "sub", "aud", "exp", "nbf", "iat"];

/// The claim that binds a token to a key of its client (RFC 7800).
pub(super) const CONFIRMATION: &str = "cnf";

impl RegisteredClaims {
    /// Moves the registered claims out of a Claims Set.
    pub(super) fn take_from(claims: &mut Members) -> Result<Self, TokenError> {
        if claims.contains(CONFIRMATION) {
            return Err(TokenError::KeyBound);
        }
        Ok(Self {
            issuer: take_string(claims, "iss")?,
            subject: take_string(claims, "sub")?,
            audience: take_audience(claims)?,
            expires_at: take_numeric_date(claims, "exp")?.ok_or(TokenError::MissingClaim("exp"))?,
            not_before: take_numeric_date(claims, "nbf")?,
            issued_at: take_numeric_date(claims, "iat")?,
        })
    }

    /// Checks the times at `now`, with `leeway`.
    ///
    /// # Errors
    /// [`TokenError::Expired`], [`TokenError::NotYetValid`] or [`TokenError::IssuedInTheFuture`].
    pub(crate) fn check_times(&self, now: NumericDate, leeway: Duration) -> Result<(), TokenError> {
        if now.0 >= self.expires_at.0 + leeway {
            return Err(TokenError::Expired);
        }
        let is_in_the_future =
            |date: Option<NumericDate>| date.is_some_and(|date| date.0 > now.0 + leeway);
        if is_in_the_future(self.not_before) {
            return Err(TokenError::NotYetValid);
        }
        if is_in_the_future(self.issued_at) {
            return Err(TokenError::IssuedInTheFuture);
        }
        Ok(())
    }
}

/// The claims of one kind of token.
pub(crate) trait Claims: Sized {
    /// The names of the private claims that [`from_claims`](Self::from_claims) reads.
    const NAMES: &[&'static str];

    /// Reads the claims of this kind of token.
    ///
    /// # Errors
    /// A [`TokenError`] if the token is not of this kind.
    fn from_claims(registered: &RegisteredClaims, private: Members) -> Result<Self, TokenError>;
}

/// The rules that registered claims are validated by.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClaimsRules {
    /// `aud` must contain one of these. If empty, `aud` is not checked.
    pub(crate) audiences: Vec<String>,
    /// `iss` must equal this. If `None`, `iss` is not checked.
    pub(crate) issuer: Option<String>,
    /// The allowed clock skew for `exp`, `nbf` and `iat`.
    pub(crate) leeway: Duration,
}

impl ClaimsRules {
    pub(super) fn check(
        &self,
        claims: &RegisteredClaims,
        now: NumericDate,
    ) -> Result<(), TokenError> {
        claims.check_times(now, self.leeway)?;
        if let Some(expected) = &self.issuer {
            match &claims.issuer {
                None => return Err(TokenError::MissingClaim("iss")),
                Some(issuer) if issuer != expected => return Err(TokenError::WrongIssuer),
                Some(_) => {}
            }
        }
        if !self.audiences.is_empty() {
            if claims.audience.is_empty() {
                return Err(TokenError::MissingClaim("aud"));
            }
            if !claims
                .audience
                .iter()
                .any(|audience| self.audiences.contains(audience))
            {
                return Err(TokenError::WrongAudience);
            }
        }
        Ok(())
    }
}

fn take_string(claims: &mut Members, name: &'static str) -> Result<Option<String>, TokenError> {
    match claims.remove(name) {
        None => Ok(None),
        Some(Value::String(value)) => Ok(Some(value)),
        Some(_) => Err(TokenError::MalformedClaim(name)),
    }
}

fn take_numeric_date(
    claims: &mut Members,
    name: &'static str,
) -> Result<Option<NumericDate>, TokenError> {
    claims
        .remove(name)
        .map(|value| NumericDate::from_value(&value).ok_or(TokenError::MalformedClaim(name)))
        .transpose()
}

fn take_audience(claims: &mut Members) -> Result<Vec<String>, TokenError> {
    let malformed = TokenError::MalformedClaim("aud");
    match claims.remove("aud") {
        None => Ok(Vec::new()),
        Some(Value::String(audience)) => Ok(vec![audience]),
        Some(Value::Array(audiences)) => {
            let mut audiences: Vec<String> = audiences
                .into_iter()
                .map(|audience| match audience {
                    Value::String(audience) => Ok(audience),
                    _ => Err(malformed),
                })
                .collect::<Result<_, _>>()?;
            // `collect` reused the larger allocation; shrink it, since cached tokens live for hours.
            audiences.shrink_to_fit();
            Ok(audiences)
        }
        Some(_) => Err(malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numeric_dates_convert_to_system_time_and_chrono() {
        let date = NumericDate::from(Duration::from_millis(1_795_442_400_250));
        let time = UNIX_EPOCH + Duration::from_millis(1_795_442_400_250);
        assert_eq!(SystemTime::from(date), time);
        let text = DateTime::<Utc>::from(date).to_rfc3339();
        assert_eq!(text, "2026-11-23T14:00:00.250+00:00");
        let last = DateTime::<Utc>::from(NumericDate::from(Duration::MAX));
        assert_eq!(last.to_rfc3339(), "9999-12-31T23:59:59+00:00");
    }
}
