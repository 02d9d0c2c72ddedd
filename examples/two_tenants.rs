//! Two tenants of Hanko in one process: customers sign in at one, the staff at the other.
//!
//! ```sh
//! HANKO_API_URL=https://hanko.example.com/CUSTOMERS STAFF_HANKO_API_URL=https://hanko.example.com/STAFF \
//!   cargo run --example two_tenants -- serve
//! cargo test --features testing --example two_tenants
//! ```
//!
//! The tenant of the customers sends its webhooks to `/webhooks/hanko`, that of the staff to `/staff/webhooks/hanko`.

use std::{env, error::Error, process::ExitCode};

use poem::{EndpointExt, Request, Route, get, handler};
use poem_hanko::{App, Hanko, HankoAuth, HankoUrl, JsonBody, require, webhook_endpoint};
use poem_openapi::OpenApi;

struct Shop;

#[OpenApi]
#[allow(
    clippy::unused_async,
    reason = "operations are async, whether they wait or not"
)]
impl Shop {
    /// List your orders: for customers
    #[oai(path = "/orders", method = "get", operation_id = "listOrders")]
    async fn orders(&self, auth: HankoAuth) -> JsonBody<String> {
        JsonBody(format!("orders of {}", auth.user_id()))
    }
}

/// Returns the figures of the shop to the staff.
#[handler]
async fn figures(request: &Request) -> poem::Result<String> {
    let session = require::<()>(request).await?;
    Ok(format!("figures for {}", session.user_id()))
}

/// Authenticates the staff. A browser sends the cookies of a host to all its paths, so each tenant has its own cookie name.
fn staff_hanko(url: HankoUrl) -> Result<Hanko, Box<dyn Error>> {
    Ok(Hanko::builder(url).cookie_name("hanko_staff").build()?)
}

fn app(staff: &Hanko) -> App {
    let routes = Route::new()
        .at("/figures", get(figures))
        .at("/webhooks/hanko", webhook_endpoint());
    App::new(Shop, "two tenants", "1.0")
        // Below this path, sessions are those of the other tenant.
        .nest("/staff", routes.data(staff.clone()))
        // Its metrics are exported too.
        .tenant(staff)
}

#[allow(
    clippy::disallowed_methods,
    reason = "an example is configured by the environment"
)]
#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let url: HankoUrl = env::var("STAFF_HANKO_API_URL")?.parse()?;
    Ok(app(&staff_hanko(url)?).run().await)
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use poem::http::StatusCode;
    use poem_hanko::testing::{LocalHanko, Person, SignedInRequest};

    use super::*;

    #[tokio::test]
    async fn each_tenant_has_its_own_paths() {
        let staff_tenant = LocalHanko::builder().start().await.expect("a free port");
        let staff = staff_hanko(staff_tenant.hanko_url()).expect("a Hanko");
        staff_tenant.send_webhooks_to_hanko(&staff);
        let app = app(&staff).test().await;
        let client = app.client();

        let customer = app.sign_in(&Person::default());
        let employee = staff_tenant.sign_in(&Person::default());
        for (path, session, status) in [
            ("/orders", &customer, StatusCode::OK),
            ("/orders", &employee, StatusCode::UNAUTHORIZED),
            ("/staff/figures", &employee, StatusCode::OK),
            ("/staff/figures", &customer, StatusCode::UNAUTHORIZED),
        ] {
            let response = client.get(path).signed_in(session).send().await;
            response.assert_status(status);
        }

        let ended = staff_tenant.end_session(&employee).await;
        ended.expect("the webhook arrives");
        let response = client
            .get("/staff/figures")
            .signed_in(&employee)
            .send()
            .await;
        response.assert_status(StatusCode::UNAUTHORIZED);
    }
}
