//! The kit to test any Poem endpoint: a local Hanko, a manual clock, and requests with credentials.

use std::{
    fmt,
    ops::Deref,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use poem::{
    EndpointExt, IntoEndpoint,
    http::header,
    middleware::AddDataEndpoint,
    test::{TestClient, TestRequestBuilder},
};

use super::handle::{LocalHanko, LocalHankoBuilder, SignedIn};
use crate::{
    clock::{Clock, ManualClock},
    hanko::{DEFAULT_COOKIE_NAME, Hanko, HankoBuilder},
};

/// 2026-01-01T12:00:00Z: when the clock of a [`TestHanko`] starts unless another time is set.
const START: Duration = Duration::from_hours(490_908);

/// A [`LocalHanko`] and a [`Hanko`] that verifies its sessions, on one [`ManualClock`], for tests of an endpoint. Each test
/// starts its own.
///
/// The [`Hanko`] has the defaults of the library, [`SessionMode::Hybrid`](crate::SessionMode::Hybrid) among them. The
/// webhooks of the local Hanko reach it without HTTP, so the endpoint under test needs no port. All methods of
/// [`LocalHanko`] can be called on this.
///
/// # Time
/// The clock stands still until [`advance`](Self::advance) is called. Real time changes nothing, so tests need no sleeps.
/// There are no limits on how often the keys are fetched, because the time that they require would never pass.
///
/// A request that waits for a Hanko that [hangs](super::Fault::Hangs) gets its response when the clock passes the timeout,
/// 5 s by default. Let its validation request arrive before time advances:
///
/// ```
/// # use std::time::Duration;
/// # use poem::{handler, Request, Result, Route, get, http::StatusCode};
/// use poem_hanko::testing::{Fault, Person, SignedInRequest, TestHanko};
/// # #[handler]
/// # async fn notes(request: &Request) -> Result<String> {
/// #     Ok(poem_hanko::authenticate(request).await?.map_or_else(String::new, |session| session.user_id().to_string()))
/// # }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// # let endpoint = Route::new().at("/notes", get(notes));
/// let hanko = TestHanko::start().await;
/// let client = hanko.client(endpoint);
/// let ada = hanko.sign_in(&Person::default());
/// hanko.set_fault(Fault::Hangs);
/// let (response, ()) = tokio::join!(client.get("/notes").signed_in(&ada).send(), async {
///     hanko.wait_for_validate_requests(1).await;
///     hanko.advance(Duration::from_secs(5)).await;
/// });
/// response.assert_status(StatusCode::SERVICE_UNAVAILABLE);
/// # }
/// ```
pub struct TestHanko {
    local_hanko: LocalHanko,
    clock: ManualClock,
    hanko: Hanko,
}

/// Configures and starts a [`TestHanko`].
///
/// ```
/// use poem_hanko::{SessionMode, testing::TestHanko};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let hanko = TestHanko::builder()
///     .local_hanko(|builder| builder.session_limit(1))
///     .hanko(|builder| builder.session_mode(SessionMode::Stateless))
///     .start()
///     .await;
/// # }
/// ```
#[must_use]
pub struct TestHankoBuilder {
    start: Duration,
    cookie_name: String,
    local_hanko: Box<dyn FnOnce(LocalHankoBuilder) -> LocalHankoBuilder + Send>,
    hanko: Box<dyn FnOnce(HankoBuilder) -> HankoBuilder + Send>,
}

impl TestHanko {
    /// Starts a [`TestHanko`] with default settings.
    ///
    /// ```
    /// use poem_hanko::testing::{Person, TestHanko};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let hanko = TestHanko::start().await;
    /// let ada = hanko.sign_in(&Person::default());
    /// let session = hanko.hanko().authenticate(ada.token()).await?;
    /// assert_eq!(session.user_id(), ada.user_id());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    /// Panics if it cannot be started, for example because no port is free. Must be called within a tokio runtime.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// Returns a builder with default settings.
    ///
    /// ```
    /// use poem_hanko::testing::TestHanko;
    ///
    /// # async fn example() {
    /// let builder = TestHanko::builder().cookie_name("session");
    /// let hanko = builder.start().await;
    /// # }
    /// ```
    pub fn builder() -> TestHankoBuilder {
        TestHankoBuilder {
            start: START,
            cookie_name: DEFAULT_COOKIE_NAME.to_owned(),
            local_hanko: Box::new(|builder| builder),
            hanko: Box::new(|builder| builder),
        }
    }

    /// Returns the [`Hanko`] that verifies the sessions, for the data of the routes under test.
    ///
    /// ```
    /// use poem::{EndpointExt, Route, test::TestClient};
    /// use poem_hanko::{Edge, testing::TestHanko};
    ///
    /// fn client(hanko: &TestHanko, routes: Route) -> TestClient<impl poem::Endpoint> {
    ///     TestClient::new(routes.with(Edge::new(hanko.hanko())))
    /// }
    /// ```
    pub fn hanko(&self) -> &Hanko {
        &self.hanko
    }

    /// Returns the local Hanko, where people sign in.
    ///
    /// ```
    /// use poem_hanko::testing::{LocalHanko, Person, SignedIn, TestHanko};
    ///
    /// fn admin(hanko: &LocalHanko) -> SignedIn {
    ///     hanko.sign_in(&Person::default().claim("role", "admin"))
    /// }
    ///
    /// # fn example(hanko: &TestHanko) {
    /// let ada = admin(hanko.local_hanko());
    /// # }
    /// ```
    pub fn local_hanko(&self) -> &LocalHanko {
        &self.local_hanko
    }

    /// Returns the clock of both. Unlike the clock's own `advance`, [`advance`](Self::advance) also waits for background work.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use poem_hanko::{MemoryStore, testing::TestHanko};
    ///
    /// /// The store has the same time as the test.
    /// fn store(hanko: &TestHanko) -> MemoryStore {
    ///     MemoryStore::new(Arc::new(hanko.clock().clone()))
    /// }
    /// ```
    pub fn clock(&self) -> &ManualClock {
        &self.clock
    }

    /// Returns a client of this endpoint, with the [`Hanko`] in its data.
    ///
    /// ```
    /// use poem::{Request, Result, Route, get, handler, http::StatusCode};
    /// use poem_hanko::testing::TestHanko;
    /// # #[handler]
    /// # async fn notes(request: &Request) -> Result<String> {
    /// #     Ok(poem_hanko::require::<()>(request).await?.user_id().to_string())
    /// # }
    ///
    /// # async fn example(hanko: &TestHanko) {
    /// let client = hanko.client(Route::new().at("/notes", get(notes)));
    /// let response = client.get("/notes").send().await;
    /// response.assert_status(StatusCode::UNAUTHORIZED);
    /// # }
    /// ```
    pub fn client<E: IntoEndpoint>(
        &self,
        endpoint: E,
    ) -> TestClient<AddDataEndpoint<E::Endpoint, Hanko>> {
        TestClient::new(endpoint.into_endpoint().data(self.hanko.clone()))
    }

    /// Advances the clock. Before and after that, waits until all background work is done, see [`settle`](Self::settle).
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use poem_hanko::testing::{Person, TestHanko};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let hanko = TestHanko::start().await;
    /// let ada = hanko.sign_in(&Person::default().lifespan(Duration::from_secs(3600)));
    /// hanko.advance(Duration::from_secs(2 * 3600)).await;
    /// assert!(hanko.hanko().authenticate(ada.token()).await.is_err());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn advance(&self, duration: Duration) {
        self.settle().await;
        self.clock.advance(duration);
        self.settle().await;
    }

    /// Waits until the [`Hanko`] does nothing in the background: no webhook is being delivered, no fetch of the keys and no
    /// validation request is in progress or due.
    ///
    /// In hybrid mode a request may be accepted and cause a validation request in the background. After this call its
    /// outcome applies. While the local Hanko hangs, or holds or delays responses, this returns at once, because only the test
    /// can change that. It does not wait for event listeners or [`Session::ended`](crate::Session::ended), which are tasks of
    /// the application.
    ///
    /// ```
    /// use poem_hanko::testing::{Person, TestHanko};
    ///
    /// # async fn example(hanko: &TestHanko) -> Result<(), Box<dyn std::error::Error>> {
    /// let ada = hanko.sign_in(&Person::default());
    /// hanko.hanko().authenticate(ada.token()).await?;
    /// hanko.settle().await;
    /// assert_eq!(hanko.hanko().validation_status().in_flight, 0);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn settle(&self) {
        let state = &self.local_hanko.state;
        while !state.holds_responses() && (!state.webhooks.is_idle() || self.hanko.is_busy()) {
            tokio::task::yield_now().await;
        }
    }
}

impl Deref for TestHanko {
    type Target = LocalHanko;

    fn deref(&self) -> &LocalHanko {
        &self.local_hanko
    }
}

impl fmt::Debug for TestHanko {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("TestHanko")
            .field("local_hanko", &self.local_hanko.url())
            .field("clock", &self.clock)
            .finish_non_exhaustive()
    }
}

impl TestHankoBuilder {
    /// Sets the time at which the clock starts. Default: 2026-01-01T12:00:00Z.
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    ///
    /// use poem_hanko::testing::TestHanko;
    ///
    /// # async fn example() {
    /// let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    /// let hanko = TestHanko::builder().start_time(time).start().await;
    /// # }
    /// ```
    pub fn start_time(mut self, time: SystemTime) -> Self {
        self.start = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        self
    }

    /// Sets the name of the session cookie, on both sides. Default: `hanko`.
    ///
    /// ```
    /// use poem_hanko::testing::{Person, TestHanko};
    ///
    /// # async fn example() {
    /// let hanko = TestHanko::builder().cookie_name("session").start().await;
    /// let ada = hanko.sign_in(&Person::default());
    /// assert!(ada.cookie().starts_with("session="));
    /// # }
    /// ```
    pub fn cookie_name(mut self, cookie_name: impl Into<String>) -> Self {
        self.cookie_name = cookie_name.into();
        self
    }

    /// Changes the settings of the [`LocalHanko`].
    ///
    /// ```
    /// use poem_hanko::testing::TestHanko;
    ///
    /// # async fn example() {
    /// let hanko = TestHanko::builder()
    ///     .local_hanko(|builder| builder.audience("acme-api"))
    ///     .start()
    ///     .await;
    /// # }
    /// ```
    pub fn local_hanko(
        mut self,
        change: impl FnOnce(LocalHankoBuilder) -> LocalHankoBuilder + Send + 'static,
    ) -> Self {
        self.local_hanko = Box::new(change);
        self
    }

    /// Changes the settings of the [`Hanko`], such as its session mode or its event listeners.
    ///
    /// ```
    /// use poem_hanko::testing::TestHanko;
    ///
    /// # async fn example() {
    /// let hanko = TestHanko::builder()
    ///     .hanko(|builder| builder.trusted_origins(["https://app.example.com".to_owned()]))
    ///     .start()
    ///     .await;
    /// # }
    /// ```
    pub fn hanko(
        mut self,
        change: impl FnOnce(HankoBuilder) -> HankoBuilder + Send + 'static,
    ) -> Self {
        self.hanko = Box::new(change);
        self
    }

    /// Starts the [`TestHanko`] and waits until the keys have been fetched.
    ///
    /// ```
    /// use poem_hanko::{SessionMode, testing::TestHanko};
    ///
    /// # async fn example() {
    /// let builder = TestHanko::builder().hanko(|hanko| hanko.session_mode(SessionMode::Stateful));
    /// let hanko = builder.start().await;
    /// # }
    /// ```
    ///
    /// # Panics
    /// Panics if it cannot be started, for example because no port is free, or if the [`HankoBuilder`] rejects its
    /// settings. Must be called within a tokio runtime.
    pub async fn start(self) -> TestHanko {
        let clock = ManualClock::new(self.start);
        let shared: Arc<dyn Clock> = Arc::new(clock.clone());
        let local_hanko = LocalHanko::builder().cookie_name(self.cookie_name.clone());
        let local_hanko = (self.local_hanko)(local_hanko)
            .clock(Arc::clone(&shared))
            .start()
            .await
            .expect("a local Hanko can be started");
        let hanko = Hanko::builder(local_hanko.hanko_url()).cookie_name(self.cookie_name);
        let hanko = (self.hanko)(hanko)
            .clock(shared)
            .build()
            .expect("the settings of the Hanko are valid");
        hanko.lift_limits();
        local_hanko.send_webhooks_to_hanko(&hanko);
        let test_hanko = TestHanko {
            local_hanko,
            clock,
            hanko,
        };
        test_hanko.settle().await;
        test_hanko
    }
}

impl fmt::Debug for TestHankoBuilder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("TestHankoBuilder")
            .field("start", &self.start)
            .field("cookie_name", &self.cookie_name)
            .finish_non_exhaustive()
    }
}

/// Adds credentials to the requests of Poem's [`TestClient`].
///
/// ```
/// use poem::{Route, get, handler};
/// use poem_hanko::testing::{Person, SignedInRequest, TestHanko};
/// # #[handler]
/// # async fn hello(request: &poem::Request) -> poem::Result<String> {
/// #     Ok(poem_hanko::require::<()>(request).await?.user_id().to_string())
/// # }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let hanko = TestHanko::start().await;
/// let client = hanko.client(Route::new().at("/hello", get(hello)));
/// let ada = hanko.sign_in(&Person::default());
/// client.get("/hello").signed_in(&ada).send().await.assert_status_is_ok();
/// client.get("/hello").with_session_cookie(&ada).send().await.assert_status_is_ok();
/// # }
/// ```
pub trait SignedInRequest {
    /// Sends the session token in an `Authorization: Bearer` header.
    #[must_use]
    fn signed_in(self, session: &SignedIn) -> Self;

    /// Sends the session token in the cookie, as a browser does. Browsers also send `Origin` and `Sec-Fetch-Site` with
    /// requests that change something; add these headers to test the rule about cross-site requests.
    #[must_use]
    fn with_session_cookie(self, session: &SignedIn) -> Self;

    /// Sends any token in an `Authorization: Bearer` header, such as an [expired](LocalHanko::expired_token) one.
    #[must_use]
    fn bearer(self, token: &str) -> Self;
}

impl<E> SignedInRequest for TestRequestBuilder<'_, E> {
    fn signed_in(self, session: &SignedIn) -> Self {
        self.bearer(session.token())
    }

    fn with_session_cookie(self, session: &SignedIn) -> Self {
        self.header(header::COOKIE, session.cookie())
    }

    fn bearer(self, token: &str) -> Self {
        self.header(header::AUTHORIZATION, format!("Bearer {token}"))
    }
}
