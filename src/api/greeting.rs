use poem_openapi::{Object, OpenApi, types::Example};

use super::{Tag, json::Json};
use crate::auth::HankoAuth;

pub(super) struct GreetingApi;

/// A greeting.
#[derive(Object)]
#[oai(example)]
struct Greeting {
    /// The text of the greeting.
    message: String,
}

impl Example for Greeting {
    fn example() -> Self {
        Self {
            message: "Poem x Hanko!".to_owned(),
        }
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
        Json(Greeting {
            message: "Poem x Hanko!".to_owned(),
        })
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
        Json(Greeting {
            message: "Hello from protected route!".to_owned(),
        })
    }
}
