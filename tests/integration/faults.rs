//! The key endpoint fails in every possible way. That never rejects a valid token while keys are held, never makes a token
//! accepted, and the service recovers without a restart.

mod answers;
mod freshness;
mod key_endpoint;
mod load;
mod outage;
mod unknown_kid;
mod warnings;

use std::{sync::Arc, time::Duration};

use key_endpoint::{Answer, KeyEndpoint};
use poem_hanko::{FetchError, ManualClock, testing::LocalHanko};
use serde_json::Value;

use crate::support::{App, START, ada, assert_problem, header, local_hanko, send, within};

/// `max-age` of a good response, as Hanko sends it.
const MAX_AGE: Duration = Duration::from_mins(10);
/// By then a refresh of a set of that age is due: 0.8 of it, and 5% of that for jitter.
const REFRESH_IS_DUE: Duration = Duration::from_secs(505);
/// By then another attempt is due in an outage, however long it has lasted: 30 s and 5% for jitter.
const RETRY_IS_DUE: Duration = Duration::from_secs(32);
/// The defaults of `JWKS_TIMEOUT` and `JWKS_COOLDOWN`.
const TIMEOUT: Duration = Duration::from_secs(5);
const COOLDOWN: Duration = Duration::from_secs(30);

/// An API whose keys come from an endpoint that the test controls, and the Hanko that signs with those keys.
struct Scene {
    local_hanko: Arc<LocalHanko>,
    endpoint: KeyEndpoint,
    app: App,
}

impl Scene {
    /// The endpoint sends the response that `answer` makes from the JWK Set.
    async fn start(answer: impl FnOnce(&Value) -> Answer) -> Self {
        Self::start_with(answer, &[]).await
    }

    async fn start_with(answer: impl FnOnce(&Value) -> Answer, variables: &[(&str, &str)]) -> Self {
        let clock = ManualClock::new(START);
        let local_hanko = Arc::new(local_hanko(&clock).await);
        let endpoint = KeyEndpoint::answering(answer(&local_hanko.key_set()));
        Self::of(local_hanko, endpoint, &clock, variables)
    }

    fn of(
        local_hanko: Arc<LocalHanko>,
        endpoint: KeyEndpoint,
        clock: &ManualClock,
        variables: &[(&str, &str)],
    ) -> Self {
        let app = App::start(&endpoint.url(), clock, variables);
        Self {
            local_hanko,
            endpoint,
            app,
        }
    }

    /// Another service for the same Hanko, with an endpoint of its own.
    fn another(&self, answer: impl FnOnce(&Value) -> Answer) -> Self {
        let endpoint = KeyEndpoint::answering(answer(&self.local_hanko.key_set()));
        let local_hanko = Arc::clone(&self.local_hanko);
        Self::of(local_hanko, endpoint, &self.app.clock, &[])
    }

    /// The endpoint responds correctly, and the keys have been fetched.
    async fn healthy() -> Self {
        Self::healthy_with(&[]).await
    }

    async fn healthy_with(variables: &[(&str, &str)]) -> Self {
        let scene = Self::start_with(Answer::key_set, variables).await;
        scene.fetches(1).await;
        scene
    }

    /// The endpoint is down from the start, and the first attempt has failed.
    async fn down() -> Self {
        let clock = ManualClock::new(START);
        let local_hanko = Arc::new(local_hanko(&clock).await);
        let scene = Self::of(local_hanko, KeyEndpoint::down(), &clock, &[]);
        scene.fetches(1).await;
        scene
    }

    /// From now on the endpoint serves what Hanko publishes at this moment.
    fn publish(&self) {
        self.endpoint
            .answer(Answer::key_set(&self.local_hanko.key_set()));
    }

    fn token(&self) -> String {
        self.local_hanko.sign_in(&ada()).token
    }

    #[track_caller]
    fn fetches(&self, fetches: u64) -> impl Future<Output = ()> {
        within(self.app.hanko.wait_for_key_set_fetches(fetches))
    }

    fn last_error(&self) -> Option<FetchError> {
        self.app.hanko.key_set_status().last_error
    }

    async fn status(&self, path: &str) -> u16 {
        send(self.app.get(path)).await.status().as_u16()
    }

    /// Asserts that the token is accepted.
    #[track_caller]
    fn accepts(&self, token: &str) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let response = self.app.get_with_bearer("/protected", token).await;
            assert_eq!(response.status(), 200, "{caller}");
            assert_eq!(self.status("/readyz").await, 200, "{caller}");
        }
    }

    /// Asserts that the token is rejected with 401, as a fault of the token.
    #[track_caller]
    fn refuses(&self, token: &str) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let response = self.app.get_with_bearer("/protected", token).await;
            let challenge = header(&response, "www-authenticate").unwrap_or_default();
            assert!(challenge.contains("invalid_token"), "{caller}: {challenge}");
            assert_problem(response, 401, "invalid-token").await;
        }
    }

    /// Asserts that the token cannot be verified now: 503 with `Retry-After`, and no challenge.
    #[track_caller]
    fn cannot_judge(&self, token: &str) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            for response in [
                self.app.get_with_bearer("/protected", token).await,
                self.app.get_with_cookie("/me", token).await,
            ] {
                let retry_after = header(&response, "retry-after").and_then(|it| it.parse().ok());
                assert!(
                    retry_after.is_some_and(|seconds: u64| (1..=32).contains(&seconds)),
                    "{caller}: {retry_after:?}"
                );
                assert_eq!(header(&response, "www-authenticate"), None, "{caller}");
                assert_problem(response, 503, "authentication-unavailable").await;
            }
        }
    }

    /// Asserts that the service is up, and not ready.
    #[track_caller]
    fn is_alive_but_not_ready(&self) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            assert_eq!(self.status("/livez").await, 200, "{caller}");
            assert_eq!(self.status("/").await, 200, "{caller}");
            let response = send(self.app.get("/readyz")).await;
            assert!(header(&response, "retry-after").is_some(), "{caller}");
            let problem = assert_problem(response, 503, "authentication-unavailable").await;
            let detail = problem["detail"].as_str().unwrap_or_default();
            assert!(detail.contains("JWK Set"), "{caller}: {detail}");
        }
    }
}
