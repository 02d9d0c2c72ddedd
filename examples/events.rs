//! Deletes the data of a user when Hanko deletes the user.
//!
//! ```sh
//! HANKO_API_URL=https://….hanko.io cargo run --example events -- serve
//! cargo test --features testing --example events
//! ```
//!
//! Hanko needs a webhook to `/webhooks/hanko` with the event `user`.

use std::{
    collections::{HashMap, HashSet},
    process::ExitCode,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use poem_hanko::{App, Event, EventKind, HankoAuth, JsonBody, UserId};
use poem_openapi::{OpenApi, payload::Json};

/// Stands for a database: each lock is a transaction.
#[derive(Clone, Default)]
struct Database(Arc<Mutex<Tables>>);

#[derive(Default)]
struct Tables {
    notes: HashMap<UserId, Vec<String>>,
    /// The events that were handled, by their id.
    events: HashSet<String>,
    /// One line for each deleted user.
    journal: Vec<String>,
}

impl Database {
    fn transaction(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Handles each event once, even if it is received again: its id is stored in the same transaction as its effect.
fn delete_user(database: &Database, event: &Event) -> Result<(), String> {
    if *event.kind() != EventKind::UserDelete {
        return Ok(());
    }
    // An error is logged, and the event is delivered again for up to ten minutes.
    let id = event.subject_id().ok_or("the event names no user")?;
    let mut tables = database.transaction();
    if tables.events.insert(event.id().to_owned()) {
        let notes = tables.notes.remove(&UserId::from(id)).unwrap_or_default();
        tables
            .journal
            .push(format!("{id}: deleted {} notes", notes.len()));
    }
    Ok(())
}

struct Api {
    database: Database,
}

#[OpenApi]
#[allow(
    clippy::unused_async,
    reason = "operations are async, whether they wait or not"
)]
impl Api {
    /// List your notes
    #[oai(path = "/notes", method = "get", operation_id = "listNotes")]
    async fn list(&self, auth: HankoAuth) -> JsonBody<Vec<String>> {
        let tables = self.database.transaction();
        let own = tables.notes.get(&auth.user_id());
        JsonBody(own.cloned().unwrap_or_default())
    }

    /// Add a note
    #[oai(path = "/notes", method = "post", operation_id = "addNote")]
    async fn add(&self, auth: HankoAuth, note: Json<String>) -> JsonBody<String> {
        let mut tables = self.database.transaction();
        let own = tables.notes.entry(auth.user_id()).or_default();
        own.push(note.0.clone());
        JsonBody(note.0)
    }
}

fn app(database: &Database) -> App {
    let api = Api {
        database: database.clone(),
    };
    let database = database.clone();
    App::new(api, "events", "1.0").on_event(move |event| {
        let handled = delete_user(&database, &event);
        async { handled }
    })
}

#[tokio::main]
async fn main() -> ExitCode {
    app(&Database::default()).run().await
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use poem_hanko::testing::{Person, SignedInRequest};
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn deleted_user_leaves_nothing() {
        let database = Database::default();
        let app = app(&database).test().await;
        let ada = app.sign_in(&Person::with_email("ada@example.com"));
        let bob = app.sign_in(&Person::with_email("bob@example.com"));
        for session in [&ada, &bob] {
            let request = app.client().post("/notes").signed_in(session);
            let added = request.body_json(&json!("buy milk")).send().await;
            added.assert_status_is_ok();
        }
        app.delete_user(&ada).await.expect("the webhook arrives");
        app.settle().await;
        let tables = database.transaction();
        assert_eq!(
            tables.notes.keys().collect::<Vec<_>>(),
            [&bob.user_id()],
            "the notes of others stay"
        );
    }

    #[tokio::test]
    async fn event_received_twice_is_handled_once() {
        let database = Database::default();
        let app = app(&database).test().await;
        let user = json!({ "id": Person::default().id().to_string() });
        let body = app.webhook_body("user.delete", &user).to_string();
        for _ in 0..2 {
            let received = app.hanko().receive_webhook(body.as_bytes()).await;
            received.expect("a webhook of this Hanko");
            app.settle().await;
        }
        assert_eq!(database.transaction().journal.len(), 1);
    }
}
