use std::{fmt, ops::Deref};

use poem::test::TestClient;

use super::{App, Config};
use crate::{edge::EdgeEndpoint, operations::Checks, testing::TestHanko};

/// The URL of the app in its document, whose origin it trusts.
const PUBLIC_URL: &str = "http://localhost:8000";

/// An [`App`] under test, with a local Hanko and a clock that the test advances. It needs no port.
///
/// ```
/// use poem_hanko::{
///     App, HankoAuth,
///     testing::{Person, SignedInRequest},
/// };
/// # use poem::http::StatusCode;
/// # use poem_openapi::{OpenApi, payload::PlainText};
/// # struct Api;
/// # #[OpenApi]
/// # impl Api {
/// #     #[oai(path = "/hello", method = "get", operation_id = "getHello")]
/// #     async fn hello(&self, _auth: HankoAuth) -> PlainText<&'static str> { PlainText("hello") }
/// # }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let app = App::new(Api, "hello", "1.0").test().await;
/// let ada = app.sign_in(&Person::default());
/// let response = app.client().get("/hello").signed_in(&ada).send().await;
/// response.assert_status_is_ok();
///
/// app.end_session(&ada).await?;
/// let response = app.client().get("/hello").signed_in(&ada).send().await;
/// response.assert_status(StatusCode::UNAUTHORIZED);
/// # Ok(())
/// # }
/// ```
pub struct TestApp {
    hanko: TestHanko,
    client: TestClient<EdgeEndpoint>,
}

impl App {
    /// Creates the app for a test, with default settings.
    ///
    /// ```
    /// use poem::http::StatusCode;
    /// use poem_hanko::{App, MeApi};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let app = App::new(MeApi, "hello", "1.0").test().await;
    /// let response = app.client().get("/me").send().await;
    /// response.assert_status(StatusCode::UNAUTHORIZED);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    /// If it cannot be created. Must be called within a tokio runtime.
    pub async fn test(self) -> TestApp {
        self.test_with(&[]).await
    }

    /// Creates the app for a test, configured by these variables and nothing from the environment.
    ///
    /// ```
    /// use poem_hanko::{App, MeApi, SessionMode};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let app = App::new(MeApi, "hello", "1.0")
    ///     .test_with(&[("HANKO_SESSION_MODE", "stateless")])
    ///     .await;
    /// assert_eq!(app.hanko().session_policy().mode, SessionMode::Stateless);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    /// If it cannot be created, or if a variable is invalid. Must be called within a tokio runtime.
    pub async fn test_with(mut self, variables: &[(&str, &str)]) -> TestApp {
        let config = Config::of_variables(variables);
        let builder = config
            .hanko
            .apply(Self::builder_without_hanko())
            .trusted_origins(config.http.trusted_origins(PUBLIC_URL));
        let changed = self.change(builder);
        let of_local = config.hanko.clone();
        let hanko = TestHanko::builder()
            .cookie_name(changed.cookie_name_so_far())
            .local_hanko(move |builder| of_local.apply_to_local(builder))
            .hanko(move |builder| changed.url(builder.url_so_far()))
            .start()
            .await;
        let checks = Checks::start(std::mem::take(&mut self.checks), hanko.hanko().clock());
        let core = self
            .edge(&config, hanko.hanko().clone(), &checks, PUBLIC_URL, None)
            .await
            .unwrap_or_else(|error| panic!("{error}"));
        TestApp {
            client: TestClient::new(EdgeEndpoint::new(core, config.http.limits())),
            hanko,
        }
    }
}

impl TestApp {
    /// Returns a client of the app. [`SignedInRequest`](crate::testing::SignedInRequest) signs its requests in.
    ///
    /// ```
    /// use poem_hanko::{
    ///     TestApp,
    ///     testing::{Person, SignedInRequest},
    /// };
    ///
    /// async fn shows_who_is_signed_in(app: &TestApp) {
    ///     let ada = app.sign_in(&Person::default());
    ///     let response = app.client().get("/me").signed_in(&ada).send().await;
    ///     response.assert_status_is_ok();
    /// }
    /// ```
    pub fn client(&self) -> &TestClient<EdgeEndpoint> {
        &self.client
    }
}

impl Deref for TestApp {
    type Target = TestHanko;

    fn deref(&self) -> &TestHanko {
        &self.hanko
    }
}

impl fmt::Debug for TestApp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("TestApp")
            .field("hanko", &self.hanko)
            .finish_non_exhaustive()
    }
}
