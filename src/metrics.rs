//! Counters that any module can increment. They depend on no exporter: the server reads them at each scrape.
//!
//! Counters on the path of every request are kept [per thread](PerThread), so that threads do not contend for their memory.

mod http;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread::available_parallelism,
    time::Duration,
};

pub(crate) use self::http::{HttpCounts, Method, UNMATCHED};

/// Declares an enum whose variants are the values of a label.
macro_rules! labels {
    (
        $(#[$doc:meta])*
        $visibility:vis enum $name:ident {
            $($(#[$variant_doc:meta])* $variant:ident = $value:literal,)*
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $visibility enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// How many values there are.
            #[allow(dead_code, reason = "not each label has counters of its own")]
            pub(crate) const COUNT: usize = Self::ALL.len();
            /// All values, in the order of their numbers.
            #[allow(dead_code, reason = "not each label is exported one by one")]
            pub(crate) const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Returns the value of the label.
            pub(crate) const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $value,)*
                }
            }
        }
    };
}

pub(crate) use labels;

labels! {
    /// How a request was authenticated, or why it was not.
    pub(crate) enum Authentication {
        /// It has a session.
        Accepted = "",
        /// It has no credential, and needs none.
        Anonymous = "",
        /// It has no credential, and needs one.
        Missing = "",
        /// Several credentials were sent.
        Ambiguous = "ambiguous",
        /// A page that is not trusted sent the cookie.
        CrossSite = "cross-site",
        /// The session has ended.
        SessionEnded = "session-ended",
        /// See [`TokenError`](crate::jose::TokenError) for this one and those that follow.
        TooLarge = "too-large",
        NotCompact = "not-compact",
        NotBase64Url = "not-base64url",
        MalformedHeader = "malformed-header",
        AlgorithmNotAllowed = "algorithm-not-allowed",
        WrongType = "wrong-type",
        CriticalExtension = "critical-extension",
        UnknownKey = "unknown-key",
        InvalidSignature = "invalid-signature",
        MalformedClaims = "malformed-claims",
        MissingClaim = "missing-claim",
        MalformedClaim = "malformed-claim",
        Expired = "expired",
        NotYetValid = "not-yet-valid",
        IssuedInTheFuture = "issued-in-the-future",
        WrongAudience = "wrong-audience",
        WrongIssuer = "wrong-issuer",
        KeyBound = "key-bound",
        WrongKind = "wrong-kind",
        /// No key is available to verify the token.
        Keys = "keys",
        /// Hanko did not say whether the session is active.
        Validation = "validation",
        /// The revocations are not known yet.
        Revocations = "revocations",
    }
}

impl Authentication {
    /// Returns the label `outcome`; the name is the label `reason`.
    pub(crate) const fn outcome(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Anonymous => "anonymous",
            Self::Missing => "missing",
            Self::Keys | Self::Validation | Self::Revocations => "unavailable",
            _ => "rejected",
        }
    }
}

labels! {
    /// What a lookup in the token cache has found.
    pub(crate) enum CacheLookup {
        /// A session.
        Hit = "hit",
        /// Nothing.
        Miss = "miss",
        /// A token that has expired, or whose key was withdrawn.
        Outdated = "outdated",
    }
}

labels! {
    /// The outcome of a fetch of the JWK Set.
    pub(crate) enum FetchOutcome {
        Success = "success",
        Transport = "transport",
        Timeout = "timeout",
        Status = "status",
        TooLarge = "too-large",
        Malformed = "malformed",
        NoUsableKey = "no-usable-key",
    }
}

labels! {
    /// The action that followed an unknown `kid`.
    pub(crate) enum UnknownKid {
        /// A fetch.
        Fetched = "fetched",
        /// A wait for a fetch that was pending.
        Shared = "shared",
        /// Nothing, since an unknown `kid` has caused a fetch within the cooldown.
        Cooldown = "cooldown",
        /// A 503, since too many requests wait for a fetch.
        Overloaded = "overloaded",
    }
}

labels! {
    /// The outcome of the validation of a session at Hanko.
    pub(crate) enum ValidationOutcome {
        Active = "active",
        Ended = "ended",
        Transport = "transport",
        Timeout = "timeout",
        Status = "status",
        UnexpectedResponse = "unexpected-response",
        Unconfirmed = "unconfirmed",
        Overloaded = "overloaded",
        /// No request was sent, since Hanko has asked for fewer.
        Postponed = "postponed",
    }
}

labels! {
    /// The last outcome of a webhook.
    pub(crate) enum WebhookOutcome {
        /// It was verified and applied, and every listener accepted it.
        Accepted = "accepted",
        /// It was verified and applied, and a listener did not accept it.
        GivenUp = "given_up",
        /// It is not valid, or there was no room for it.
        Rejected = "rejected",
        /// It was held, and dropped to make room for others.
        Dropped = "dropped",
    }
}

labels! {
    /// Why a connection was closed.
    pub(crate) enum Closed {
        /// Its client closed it, or its last response was complete.
        Ended = "ended",
        /// It had no request for too long.
        Idle = "idle",
        /// The head of its request took too long.
        HeadTimeout = "head-timeout",
        /// Others needed its place.
        Room = "room",
        /// Others needed the memory that its head occupied.
        Memory = "memory",
        /// Its client did not read an HTTP/2 response that was reset.
        Unread = "unread",
        /// Too many connections use HTTP/2.
        Http2 = "http2",
        /// The server shut down.
        Shutdown = "shutdown",
    }
}

/// One counter for each value of a label.
#[derive(Debug)]
pub(crate) struct Counters<const N: usize>([AtomicU64; N]);

impl<const N: usize> Default for Counters<N> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl<const N: usize> Counters<N> {
    /// Increments the counter of the value with this number.
    pub(crate) fn add(&self, number: usize) {
        if let Some(counter) = self.0.get(number) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn get(&self, number: usize) -> u64 {
        self.0
            .get(number)
            .map_or(0, |counter| counter.load(Ordering::Relaxed))
    }
}

/// The upper bounds of the histograms of durations, from 100 µs to 10 s, in microseconds.
pub(crate) const BUCKETS: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000,
];

/// A histogram of durations.
#[derive(Debug, Default)]
pub(crate) struct Durations {
    /// The last one is for durations above all bounds.
    counts: Counters<{ BUCKETS.len() + 1 }>,
    nanoseconds: AtomicU64,
}

/// The counts of a histogram.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct DurationCounts {
    /// By bucket, not cumulative.
    pub(crate) counts: [u64; BUCKETS.len() + 1],
    pub(crate) sum: Duration,
}

impl DurationCounts {
    pub(crate) fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        self.sum += other.sum;
    }

    pub(crate) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

impl Durations {
    pub(crate) fn record(&self, duration: Duration) {
        let bucket = BUCKETS.partition_point(|bound| Duration::from_micros(*bound) < duration);
        self.counts.add(bucket);
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> DurationCounts {
        DurationCounts {
            counts: std::array::from_fn(|bucket| self.counts.get(bucket)),
            sum: Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed)),
        }
    }
}

/// The largest number of values in a [`PerThread`].
const MAX_THREADS: usize = 64;

/// One value per thread. If there are more threads than values, several threads share one.
pub(crate) struct PerThread<T>(Box<[Slot<T>]>);

/// Aligned to two cache lines, which processors fetch together, so that no two threads write to the same ones.
#[derive(Default)]
#[repr(align(128))]
struct Slot<T>(T);

impl<T> fmt::Debug for PerThread<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("PerThread").finish_non_exhaustive()
    }
}

impl<T: Default> Default for PerThread<T> {
    fn default() -> Self {
        Self::new(T::default)
    }
}

impl<T> PerThread<T> {
    pub(crate) fn new(mut value: impl FnMut() -> T) -> Self {
        let cores = available_parallelism().map_or(1, usize::from);
        // One for each worker thread, and as many for other threads.
        let threads = (2 * cores).next_power_of_two().min(MAX_THREADS);
        Self((0..threads).map(|_| Slot(value())).collect())
    }

    /// Returns the value of this thread.
    pub(crate) fn here(&self) -> &T {
        thread_local! {
            static NUMBER: usize = {
                static THREADS: AtomicUsize = AtomicUsize::new(0);
                THREADS.fetch_add(1, Ordering::Relaxed)
            };
        }
        // The length is a power of two.
        let number = NUMBER.with(|number| *number) & (self.0.len() - 1);
        &self.0[number].0
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|slot| &slot.0)
    }
}

/// The counts on the path of every request to its session.
#[derive(Debug, Default)]
struct RequestCounts {
    authentications: Counters<{ Authentication::COUNT }>,
    cache_lookups: Counters<{ CacheLookup::COUNT }>,
}

/// The counts of the authentication of requests.
#[derive(Debug, Default)]
pub(crate) struct AuthenticationCounts {
    requests: PerThread<RequestCounts>,
    guards: Mutex<BTreeMap<&'static str, u64>>,
}

impl AuthenticationCounts {
    pub(crate) fn authenticated(&self, outcome: Authentication) {
        self.requests.here().authentications.add(outcome as usize);
    }

    pub(crate) fn looked_up(&self, found: CacheLookup) {
        self.requests.here().cache_lookups.add(found as usize);
    }

    /// Counts a request with a session that does not meet the guard of this name. The name must be one of a fixed set.
    pub(crate) fn guard_rejected(&self, guard: &'static str) {
        let mut guards = self.guards.lock().unwrap_or_else(PoisonError::into_inner);
        *guards.entry(guard).or_default() += 1;
    }

    pub(crate) fn authentications(&self, outcome: Authentication) -> u64 {
        let counts = self.requests.iter();
        counts
            .map(|counts| counts.authentications.get(outcome as usize))
            .sum()
    }

    pub(crate) fn cache_lookups(&self, found: CacheLookup) -> u64 {
        let counts = self.requests.iter();
        counts
            .map(|counts| counts.cache_lookups.get(found as usize))
            .sum()
    }

    pub(crate) fn guard_rejections(&self) -> BTreeMap<&'static str, u64> {
        self.guards
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// The counts of the fetches of the JWK Set.
#[derive(Debug, Default)]
pub(crate) struct FetchCounts {
    outcomes: Counters<{ FetchOutcome::COUNT }>,
    pub(crate) durations: Durations,
    unknown_kids: Counters<{ UnknownKid::COUNT }>,
}

impl FetchCounts {
    pub(crate) fn fetched(&self, outcome: FetchOutcome, duration: Duration) {
        self.outcomes.add(outcome as usize);
        self.durations.record(duration);
    }

    pub(crate) fn unknown_kid(&self, action: UnknownKid) {
        self.unknown_kids.add(action as usize);
    }

    pub(crate) fn fetches(&self, outcome: FetchOutcome) -> u64 {
        self.outcomes.get(outcome as usize)
    }

    pub(crate) fn unknown_kids(&self, action: UnknownKid) -> u64 {
        self.unknown_kids.get(action as usize)
    }
}

/// The counts of validation requests.
#[derive(Debug, Default)]
pub(crate) struct ValidationCounts {
    outcomes: Counters<{ ValidationOutcome::COUNT }>,
    pub(crate) durations: Durations,
}

impl ValidationCounts {
    pub(crate) fn validated(&self, outcome: ValidationOutcome) {
        self.outcomes.add(outcome as usize);
    }

    pub(crate) fn validations(&self, outcome: ValidationOutcome) -> u64 {
        self.outcomes.get(outcome as usize)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc, thread};

    use super::*;

    #[test]
    fn no_two_outcomes_have_the_same_labels() {
        let labels: BTreeSet<_> = Authentication::ALL
            .iter()
            .map(|outcome| (outcome.outcome(), outcome.name()))
            .collect();
        assert_eq!(labels.len(), Authentication::COUNT);
        for (number, outcome) in Authentication::ALL.iter().enumerate() {
            assert_eq!(*outcome as usize, number);
        }
    }

    #[test]
    fn counts_of_all_threads_are_summed() {
        let counts = Arc::new(AuthenticationCounts::default());
        let threads: Vec<_> = (0..200)
            .map(|_| {
                let counts = Arc::clone(&counts);
                thread::spawn(move || {
                    for _ in 0..100 {
                        counts.authenticated(Authentication::Accepted);
                    }
                    counts.looked_up(CacheLookup::Miss);
                })
            })
            .collect();
        for thread in threads {
            thread.join().expect("no panic");
        }
        assert_eq!(counts.authentications(Authentication::Accepted), 20_000);
        assert_eq!(counts.cache_lookups(CacheLookup::Miss), 200);
        assert_eq!(counts.cache_lookups(CacheLookup::Hit), 0);
    }

    #[test]
    fn threads_write_to_cache_lines_of_their_own() {
        let per_thread = PerThread::<RequestCounts>::default();
        let addresses: Vec<usize> = per_thread
            .iter()
            .map(|counts| std::ptr::from_ref(counts).addr())
            .collect();
        assert!(addresses.len().is_power_of_two());
        assert!(addresses.iter().all(|address| address % 128 == 0));
        let here = || std::ptr::from_ref(per_thread.here()).addr();
        let elsewhere = thread::scope(|scope| scope.spawn(here).join().expect("no panic"));
        assert_ne!(elsewhere, here());
    }

    #[test]
    fn bound_of_bucket_is_within_it() {
        let durations = Durations::default();
        for bound in BUCKETS {
            durations.record(Duration::from_micros(bound));
            durations.record(Duration::from_micros(bound) + Duration::from_nanos(1));
        }
        let counts = durations.get();
        let mut expected = [2; BUCKETS.len() + 1];
        expected[0] = 1;
        expected[BUCKETS.len()] = 1;
        assert_eq!(counts.counts, expected);
        assert_eq!(counts.count(), 32);
        let sum = BUCKETS.iter().sum::<u64>() * 2_000 + 16;
        assert_eq!(counts.sum, Duration::from_nanos(sum));
    }
}
