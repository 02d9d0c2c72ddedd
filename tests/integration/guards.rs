//! Guards: what a handler requires beyond a session.

/// Declares guards of these requirements.
macro_rules! guards {
    ($($name:ident = $requirement:expr;)*) => {
        $(
            struct $name;

            impl Guard for $name {
                const REQUIRES: Requirement = $requirement;
            }
        )*
    };
}

mod claims;
mod document;
mod table;

use poem::{Response, test::TestClient};
use poem_hanko::{
    Hanko,
    testing::{LocalHanko, Person, SignedIn},
};

use crate::support::hanko_builder;

/// The Hanko whose sessions the guards of a test examine.
struct Scene {
    local_hanko: LocalHanko,
    hanko: Hanko,
}

impl Scene {
    async fn new() -> Self {
        let local_hanko = LocalHanko::builder().start().await.unwrap();
        let hanko = hanko_builder(local_hanko.hanko_url()).build().unwrap();
        hanko.wait_for_key_set_fetches(1).await;
        Self { local_hanko, hanko }
    }

    fn sign_in(&self, person: &Person) -> SignedIn {
        self.local_hanko.sign_in(person)
    }
}

fn ada() -> Person {
    Person::with_email("ada@example.com")
}

/// The outcome for the client of a guarded operation.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    status: u16,
    /// The last segment of the problem type.
    slug: Option<String>,
    challenge: Option<String>,
    detail: Option<String>,
}

async fn seen(response: Response) -> Seen {
    let status = response.status().as_u16();
    let header = response.headers().get("www-authenticate");
    let challenge = header.map(|value| value.to_str().unwrap().to_owned());
    let body = response.into_body().into_string().await.unwrap();
    let problem: Option<serde_json::Value> = serde_json::from_str(&body).ok();
    let member = |name: &str| {
        let problem = problem.as_ref()?;
        problem[name].as_str().map(ToOwned::to_owned)
    };
    Seen {
        status,
        slug: member("type").and_then(|uri| uri.rsplit('/').next().map(ToOwned::to_owned)),
        challenge,
        detail: member("detail"),
    }
}

async fn get<E: poem::Endpoint>(client: &TestClient<E>, path: &str, token: &str) -> Seen {
    let request = client.get(path);
    let response = request
        .header("authorization", format!("Bearer {token}"))
        .send()
        .await;
    seen(response.0).await
}
