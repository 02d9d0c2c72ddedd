//! The operations of this program, and the app that serves them.

use poem_hanko::{App, HankoAuth, JsonBody, MeApi, VerifiedEmail};
use poem_openapi::{Object, OpenApi, Tags, types::Example};

const DESCRIPTION: &str = "A backend behind [Hanko](https://www.hanko.io): it verifies Hanko's session tokens on every \
    request, whether they come as a Bearer token or in the session cookie.\n\nEvery error is a problem document \
    (RFC 9457, `application/problem+json`).";

#[derive(Tags)]
enum Tag {
    /// Routes to see that authentication works.
    Greeting,
}

struct GreetingApi;

/// A greeting.
#[derive(Object)]
#[oai(example)]
struct Greeting {
    /// The text of the greeting.
    message: String,
}

impl Greeting {
    fn new(message: &str) -> JsonBody<Self> {
        JsonBody(Self {
            message: message.to_owned(),
        })
    }
}

impl Example for Greeting {
    fn example() -> Self {
        Self {
            message: "Poem x Hanko!".to_owned(),
        }
    }
}

#[OpenApi(tag = "Tag::Greeting")]
#[allow(
    clippy::unused_async,
    reason = "operations are async, whether they wait or not"
)]
impl GreetingApi {
    /// Greet anybody
    ///
    /// Needs no session.
    #[oai(path = "/", method = "get", operation_id = "getGreeting")]
    async fn greeting(&self) -> JsonBody<Greeting> {
        Greeting::new("Poem x Hanko!")
    }

    /// Greet a signed-in user
    ///
    /// Needs a session.
    #[oai(
        path = "/protected",
        method = "get",
        operation_id = "getProtectedGreeting"
    )]
    async fn protected(&self, _auth: HankoAuth) -> JsonBody<Greeting> {
        Greeting::new("Hello from protected route!")
    }

    /// Greet a user whose e-mail address is verified
    #[oai(
        path = "/verified",
        method = "get",
        operation_id = "getVerifiedGreeting"
    )]
    async fn verified(&self, auth: HankoAuth<VerifiedEmail>) -> JsonBody<Greeting> {
        let address = auth.email().map_or("", |email| &email.address);
        Greeting::new(&format!("Hello {address}!"))
    }
}

/// The app of this program.
pub(crate) fn app() -> App {
    App::new(
        (GreetingApi, MeApi),
        "poem-hanko",
        env!("CARGO_PKG_VERSION"),
    )
    .description(DESCRIPTION)
    .license("MIT OR Apache-2.0", "https://spdx.org/licenses/MIT.html")
    .external_docs("Hanko's documentation", "https://docs.hanko.io")
}
