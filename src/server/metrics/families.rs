//! The metrics that are exported. docs/operating.md lists them for operators, and a test compares the two.

use prometheus_client::metrics::MetricType;

/// A metric and its labels.
#[derive(Debug)]
pub(super) struct Family {
    /// Without the suffix `_total` of a counter.
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) kind: MetricType,
    pub(super) labels: &'static [&'static str],
}

macro_rules! families {
    ($($constant:ident: $kind:ident $name:literal [$($label:literal),*] = $help:literal;)*) => {
        $(
            pub(super) static $constant: Family = Family {
                name: $name,
                help: $help,
                kind: MetricType::$kind,
                labels: &[$($label),*],
            };
        )*

        /// All metrics.
        #[cfg(test)]
        pub(super) static ALL: &[&Family] = &[$(&$constant),*];
    };
}

families! {
    HTTP_REQUESTS: Counter "http_requests" ["method", "route", "status"] =
        "Requests whose response has begun.";
    HTTP_REQUEST_DURATION: Histogram "http_request_duration_seconds" ["method", "route"] =
        "Time from the end of the request head to the beginning of the response.";
    HTTP_REQUESTS_IN_FLIGHT: Gauge "http_requests_in_flight" [] =
        "Requests whose response has not begun.";
    HTTP_CONNECTIONS: Gauge "http_connections" [] = "Open connections.";
    HTTP_CONNECTIONS_LIMIT: Gauge "http_connections_limit" [] =
        "How many connections may be open.";
    HTTP_CONNECTIONS_CLOSED: Counter "http_connections_closed" ["reason"] =
        "Connections that were closed, by reason.";
    AUTHENTICATIONS: Counter "hanko_authentications" ["outcome", "reason"] =
        "Requests by the outcome of their authentication and its reason.";
    GUARD_REJECTIONS: Counter "hanko_guard_rejections" ["guard"] =
        "Requests with a session that did not meet a guard.";
    TOKEN_CACHE_LOOKUPS: Counter "hanko_token_cache_lookups" ["result"] =
        "Lookups in the cache of verified tokens.";
    TOKEN_CACHE_ENTRIES: Gauge "hanko_token_cache_entries" [] = "Verified tokens in the cache.";
    JWKS_KEYS: Gauge "hanko_jwks_keys" [] = "Keys that tokens are verified with.";
    JWKS_STALE: Gauge "hanko_jwks_stale" [] =
        "Whether the JWK Set is older than its freshness lifetime.";
    JWKS_LAST_SUCCESS: Gauge "hanko_jwks_last_success_timestamp_seconds" [] =
        "When the JWK Set was last fetched; 0 if never.";
    JWKS_LIFETIME: Gauge "hanko_jwks_lifetime_seconds" [] =
        "The freshness lifetime of the JWK Set; 0 if there is none.";
    JWKS_FETCHES: Counter "hanko_jwks_fetches" ["outcome"] = "Fetches of the JWK Set.";
    JWKS_FETCH_DURATION: Histogram "hanko_jwks_fetch_duration_seconds" [] =
        "Duration of the fetches of the JWK Set.";
    JWKS_UNKNOWN_KID: Counter "hanko_jwks_unknown_kid" ["action"] =
        "Session tokens with an unknown key id, by the action that followed.";
    SESSION_VALIDATIONS: Counter "hanko_session_validations" ["outcome"] =
        "Validations of sessions at Hanko.";
    SESSION_VALIDATION_DURATION: Histogram "hanko_session_validation_duration_seconds" [] =
        "Duration of the validation requests to Hanko.";
    SESSION_VALIDATIONS_IN_FLIGHT: Gauge "hanko_session_validations_in_flight" [] =
        "Validations that are open or wait for a slot.";
    SESSIONS_FOUND_ENDED: Counter "hanko_sessions_found_ended" [] =
        "Sessions found ended at Hanko that no webhook has reported.";
    SESSIONS_KNOWN: Gauge "hanko_sessions_known" [] =
        "Sessions whose last answer from Hanko is kept.";
    WEBHOOKS: Counter "hanko_webhooks" ["event", "outcome"] = "Webhooks by their last outcome.";
    WEBHOOK_LAST: Gauge "hanko_webhook_last_timestamp_seconds" [] =
        "When a webhook was last verified; 0 if never.";
    WEBHOOKS_HELD: Gauge "hanko_webhooks_held" [] = "Webhooks that cannot be verified yet.";
    REVOCATIONS: Gauge "hanko_revocations" [] = "Revocations that are kept.";
    STORE_UP: Gauge "hanko_revocation_store_up" [] =
        "Whether the revocations of other replicas are received; 1 without a shared store.";
    STORE_LAST_SYNC: Gauge "hanko_revocation_store_last_sync_timestamp_seconds" [] =
        "When the revocations were last in sync with the store; 0 if never, or without a shared store.";
    STORE_WRITE_FAILURES: Counter "hanko_revocation_store_write_failures" [] =
        "Revocations that the store did not accept at once.";
    READY: Gauge "hanko_ready" ["component"] = "Whether a component allows the service to be ready.";
    DEGRADED: Gauge "hanko_degraded" ["component"] =
        "Whether a component has failed and the service can run without it for a time.";
    LOG_LINES_DROPPED: Counter "log_lines_dropped" [] =
        "Log lines that were dropped because the output did not accept them in time.";
    BUILD_INFO: Gauge "poem_hanko_build_info" ["version", "mode"] =
        "The version of poem-hanko and the session mode; always 1.";
    PROCESS_CPU: Counter "process_cpu_seconds" [] = "User and system CPU time spent.";
    PROCESS_RESIDENT: Gauge "process_resident_memory_bytes" [] = "Resident memory size.";
    PROCESS_VIRTUAL: Gauge "process_virtual_memory_bytes" [] = "Virtual memory size.";
    PROCESS_OPEN_FDS: Gauge "process_open_fds" [] = "Open file descriptors.";
    PROCESS_MAX_FDS: Gauge "process_max_fds" [] = "The limit of open file descriptors.";
    PROCESS_START: Gauge "process_start_time_seconds" [] = "When the process started.";
}
