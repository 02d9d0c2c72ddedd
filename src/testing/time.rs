//! Times as Hanko, a Go program, writes them.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};

/// Formats a time in whole seconds, as in the responses of `/sessions/validate`.
pub(super) fn seconds(unix_time: Duration) -> String {
    date_time(unix_time).to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// Formats a time with its fraction, without trailing zeros (Go's `time.RFC3339Nano`).
pub(super) fn with_fraction(unix_time: Duration) -> String {
    if unix_time.subsec_nanos() == 0 {
        return seconds(unix_time);
    }
    let text = date_time(unix_time)
        .format("%Y-%m-%dT%H:%M:%S%.9f")
        .to_string();
    format!("{}Z", text.trim_end_matches('0'))
}

/// Cuts a time to microseconds, the precision of Hanko's database.
pub(super) fn in_database(unix_time: Duration) -> Duration {
    Duration::from_micros(u64::try_from(unix_time.as_micros()).unwrap_or(u64::MAX))
}

fn date_time(unix_time: Duration) -> DateTime<Utc> {
    i64::try_from(unix_time.as_secs())
        .ok()
        .and_then(|seconds| DateTime::from_timestamp(seconds, unix_time.subsec_nanos()))
        .unwrap_or_default()
}
