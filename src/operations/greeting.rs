use poem_openapi::{Object, OpenApi, types::Example};

use super::Tag;
use crate::auth::HankoAuth;
use crate::openapi::Json;

const PUBLIC_MESSAGE: &str = "Poem x Hanko!";
const PROTECTED_MESSAGE: &str = "Hello from protected route!";

pub(super) struct GreetingApi {
    public: Json<Greeting>,
    protected: Json<Greeting>,
}

impl Default for GreetingApi {
    fn default() -> Self {
        Self {
            public: Json::new(&Greeting::of(PUBLIC_MESSAGE)),
            protected: Json::new(&Greeting::of(PROTECTED_MESSAGE)),
        }
    }
}

/// A greeting.
#[derive(Object)]
#[oai(example)]
struct Greeting {
    /// The text of the greeting.
    message: String,
}

impl Greeting {
    fn of(message: &str) -> Self {
        Self {
            message: message.to_owned(),
        }
    }
}

impl Example for Greeting {
    fn example() -> Self {
        Self::of(PUBLIC_MESSAGE)
    }
}

#[OpenApi]
impl GreetingApi {
    /// Greet anybody
    ///
    /// Needs no session.
    #[oai(
        path = "/",
        method = "get",
        operation_id = "getGreeting",
        tag = "Tag::Greeting"
    )]
    async fn greeting(&self) -> Json<Greeting> {
        self.public.clone()
    }

    /// Greet those who are signed in
    ///
    /// Needs a session.
    #[oai(
        path = "/protected",
        method = "get",
        operation_id = "getProtectedGreeting",
        tag = "Tag::Greeting"
    )]
    async fn protected(&self, _auth: HankoAuth) -> Json<Greeting> {
        self.protected.clone()
    }
}
