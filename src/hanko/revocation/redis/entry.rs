//! How a revocation is written in Redis: the key contains all of it, and the same text is published.

use std::time::Duration;

use uuid::Uuid;

use crate::{
    hanko::{
        id::{SessionId, UserId},
        revocation::{Revocation, Target},
    },
    jose::NumericDate,
};

/// Prefix of every key, and the name of the channel.
pub(super) const PREFIX: &str = "poem-hanko:revoked";

/// Returns the key that holds this revocation.
pub(super) fn key(revocation: &Revocation) -> String {
    let until = whole_seconds(revocation.until);
    match revocation.target {
        Target::Session(id) => format!("{PREFIX}:session:{id}:{until}"),
        Target::User { id, issued_until } => {
            let issued_until = whole_seconds(issued_until);
            format!("{PREFIX}:user:{id}:{until}:{issued_until}")
        }
    }
}

/// Returns a date in whole seconds, rounded up so that no revocation is dropped a fraction of a second early. A date after
/// [`NumericDate::LAST`] becomes that date, because Redis rejects an expiry far beyond it.
pub(super) fn whole_seconds(date: NumericDate) -> u64 {
    let since_epoch = date.min(NumericDate::LAST).since_epoch();
    since_epoch.as_secs() + u64::from(since_epoch.subsec_nanos() > 0)
}

/// Reads a key or a published message, which anybody with access to the store may have written.
pub(super) fn parse(key: &[u8]) -> Option<Revocation> {
    let mut parts = std::str::from_utf8(key)
        .ok()?
        .strip_prefix(PREFIX)?
        .strip_prefix(':')?
        .split(':');
    let (kind, id): (&str, Uuid) = (parts.next()?, parts.next()?.parse().ok()?);
    let mut seconds = || {
        let seconds: u64 = parts.next()?.parse().ok()?;
        Some(NumericDate::from(Duration::from_secs(seconds)).min(NumericDate::LAST))
    };
    let until = seconds()?;
    let target = match kind {
        "session" => Target::Session(SessionId::from(id)),
        "user" => Target::User {
            id: UserId::from(id),
            issued_until: seconds()?,
        },
        _ => return None,
    };
    parts
        .next()
        .is_none()
        .then_some(Revocation { target, until })
}
