//! Session modes: the response to a request in each, and how often Hanko is asked.

mod answers;
mod burst;
mod live;
mod streams;
mod table;

use std::{sync::Arc, time::Duration};

use poem_hanko::{
    AuthenticateError, Hanko, ManualClock, SessionMode, SessionPolicy,
    testing::{LocalHanko, LocalHankoBuilder, SignedIn},
};

use crate::support::{START, hanko_builder, within};

/// The default of `SESSION_CACHE_TTL`.
const TTL: Duration = Duration::from_secs(30);
/// Jitter asks Hanko at most a tenth earlier.
const BEFORE_REFRESH: Duration = Duration::from_secs(26);
const SECOND: Duration = Duration::from_secs(1);

/// A local Hanko and a `Hanko` that authenticates its sessions, in process and on the same clock.
struct Scene {
    clock: ManualClock,
    local_hanko: LocalHanko,
    hanko: Hanko,
    policy: SessionPolicy,
}

impl Scene {
    async fn new(mode: SessionMode) -> Self {
        Self::with(mode, |builder| builder).await
    }

    /// With a local Hanko that `configure` sets up.
    async fn with(
        mode: SessionMode,
        configure: impl FnOnce(LocalHankoBuilder) -> LocalHankoBuilder,
    ) -> Self {
        let policy = SessionPolicy {
            mode,
            ..SessionPolicy::default()
        };
        Self::with_policy(policy, configure).await
    }

    async fn with_policy(
        policy: SessionPolicy,
        configure: impl FnOnce(LocalHankoBuilder) -> LocalHankoBuilder,
    ) -> Self {
        let clock = ManualClock::new(START);
        let local_hanko = configure(LocalHanko::builder().clock(Arc::new(clock.clone())))
            .start()
            .await
            .unwrap();
        let hanko = Self::build(&local_hanko, &clock, &policy);
        hanko.wait_for_key_set_fetches(1).await;
        Self {
            clock,
            local_hanko,
            hanko,
            policy,
        }
    }

    fn build(local_hanko: &LocalHanko, clock: &ManualClock, policy: &SessionPolicy) -> Hanko {
        hanko_builder(local_hanko.hanko_url())
            .clock(Arc::new(clock.clone()))
            .session_policy(policy.clone())
            .build()
            .unwrap()
    }

    /// Creates a new `Hanko` without any state, as after a restart of the process.
    async fn restart(&mut self) {
        self.hanko = Self::build(&self.local_hanko, &self.clock, &self.policy);
        self.hanko.wait_for_key_set_fetches(1).await;
    }

    /// Advances in steps of a second, so that everything due in between happens.
    async fn pass(&self, duration: Duration) {
        let mut left = duration;
        while !left.is_zero() {
            let step = left.min(SECOND);
            self.clock.advance(step);
            left -= step;
            // Lets the tasks run that are now due.
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
        }
    }

    /// The status of the response to a request of this session.
    async fn status(&self, session: &SignedIn) -> u16 {
        status_of(
            within(self.hanko.authenticate(&session.token))
                .await
                .map(drop),
        )
    }

    /// Waits until no validation request is open.
    async fn settle(&self) {
        within(async {
            while self.hanko.validation_status().in_flight > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// How many validation requests have been sent, once none is open.
    async fn validations(&self) -> u64 {
        self.settle().await;
        self.local_hanko.validate_requests()
    }
}

fn status_of(outcome: Result<(), AuthenticateError>) -> u16 {
    match outcome {
        Ok(()) => 200,
        Err(error) if error.retry_after().is_some() => 503,
        Err(_) => 401,
    }
}
