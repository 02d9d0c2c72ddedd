//! An API of your own: notes that belong to the user who is signed in.
//!
//! ```sh
//! cargo run --example notes -- dev    # Swagger UI, a sign-in page and a command to paste
//! cargo test --features testing --example notes
//! ```

use std::{
    process::ExitCode,
    sync::{Mutex, MutexGuard, PoisonError},
};

use poem_hanko::{
    App, Fresh, Guard, HankoAuth, JsonBody, ProblemOf, ProblemType, ProblemTypes, Requirement,
    UserId, VerifiedEmail,
};
use poem_openapi::{Object, OpenApi, param::Path, payload::Json};

const NOT_YOURS: ProblemType = ProblemType::new(
    "/problems/not-yours",
    403,
    "The note belongs to somebody else",
);
const NO_SUCH_NOTE: ProblemType = ProblemType::new("/problems/no-such-note", 404, "No such note");

/// Why a note cannot be deleted.
struct Undeletable;

impl ProblemTypes for Undeletable {
    const TYPES: &[ProblemType] = &[NOT_YOURS, NO_SUCH_NOTE];
}

/// Users with the claim `role` of `admin`, which Hanko's JWT template sets.
struct Admin;

impl Guard for Admin {
    const REQUIRES: Requirement = Requirement::claim("role").equals("admin");
}

/// A note.
#[derive(Clone, Object)]
struct Note {
    id: u64,
    owner: UserId,
    text: String,
}

/// A new note.
#[derive(Object)]
struct NewNote {
    #[oai(validator(min_length = 1, max_length = 1000))]
    text: String,
}

#[derive(Default)]
struct Api {
    notes: Mutex<Vec<Note>>,
}

impl Api {
    fn notes(&self) -> MutexGuard<'_, Vec<Note>> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[OpenApi]
#[allow(
    clippy::unused_async,
    reason = "operations are async, whether they wait or not"
)]
impl Api {
    /// List your notes
    #[oai(path = "/notes", method = "get", operation_id = "listNotes")]
    async fn list(&self, auth: HankoAuth) -> JsonBody<Vec<Note>> {
        let notes = self.notes();
        let own = notes.iter().filter(|note| note.owner == auth.user_id());
        JsonBody(own.cloned().collect())
    }

    /// Add a note
    #[oai(path = "/notes", method = "post", operation_id = "addNote")]
    async fn add(&self, auth: HankoAuth, new: Json<NewNote>) -> JsonBody<Note> {
        let mut notes = self.notes();
        let note = Note {
            id: notes.last().map_or(1, |last| last.id + 1),
            owner: auth.user_id(),
            text: new.0.text,
        };
        notes.push(note.clone());
        JsonBody(note)
    }

    /// Delete one of your notes
    #[oai(path = "/notes/:id", method = "delete", operation_id = "deleteNote")]
    async fn delete(
        &self,
        auth: HankoAuth,
        id: Path<u64>,
    ) -> Result<JsonBody<Note>, ProblemOf<Undeletable>> {
        let mut notes = self.notes();
        let found = notes.iter().position(|note| note.id == id.0);
        let place = found.ok_or(NO_SUCH_NOTE)?;
        if notes[place].owner != auth.user_id() {
            return Err(NOT_YOURS.into());
        }
        Ok(JsonBody(notes.remove(place)))
    }

    /// List the notes of everybody
    #[oai(path = "/notes/all", method = "get", operation_id = "listAllNotes")]
    async fn list_all(&self, _auth: HankoAuth<Admin>) -> JsonBody<Vec<Note>> {
        JsonBody(self.notes().clone())
    }

    /// Delete all your notes
    #[oai(path = "/notes", method = "delete", operation_id = "deleteNotes")]
    async fn delete_all(&self, auth: HankoAuth<Fresh<300>>) -> JsonBody<Vec<Note>> {
        let own = |note: &mut Note| note.owner == auth.user_id();
        JsonBody(self.notes().extract_if(.., own).collect())
    }

    /// Export your notes as texts
    #[oai(path = "/notes/export", method = "get", operation_id = "exportNotes")]
    async fn export(&self, auth: HankoAuth<VerifiedEmail>) -> JsonBody<Vec<String>> {
        let notes = self.notes();
        let own = notes.iter().filter(|note| note.owner == auth.user_id());
        JsonBody(own.map(|note| note.text.clone()).collect())
    }
}

fn app() -> App {
    App::new(Api::default(), "notes", "1.0").description("Notes for everybody who can sign in.")
}

#[tokio::main]
async fn main() -> ExitCode {
    app().run().await
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use std::time::Duration;

    use poem::http::StatusCode;
    use poem_hanko::testing::{Person, SignedInRequest};

    use super::*;

    #[tokio::test]
    async fn notes_belong_to_their_owner() {
        let app = app().test().await;
        let ada = app.sign_in(&Person::with_email("ada@example.com"));
        let bob = app.sign_in(&Person::with_email("bob@example.com"));
        let note = serde_json::json!({ "text": "buy milk" });
        let request = app.client().post("/notes").signed_in(&ada);
        let added = request.body_json(&note).send().await;
        added.assert_status_is_ok();

        let response = app.client().get("/notes").signed_in(&bob).send().await;
        response.assert_text("[]").await;
        let path = "/notes/1";
        let stolen = app.client().delete(path).signed_in(&bob).send().await;
        stolen.assert_status(StatusCode::FORBIDDEN);
        stolen.assert_header("content-type", "application/problem+json");
        let deleted = app.client().delete(path).signed_in(&ada).send().await;
        deleted.assert_status_is_ok();
        let again = app.client().delete(path).signed_in(&ada).send().await;
        again.assert_status(StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn guards_ask_for_more() {
        let app = app().test().await;
        let old = Person::with_email("ada@example.com").signed_in_ago(Duration::from_mins(6));
        let old = app.sign_in(&old);
        let admin = Person::default().without_email().claim("role", "admin");
        let admin = app.sign_in(&admin);
        let client = app.client();
        let response = client.get("/notes/all").signed_in(&old).send().await;
        response.assert_status(StatusCode::FORBIDDEN);
        let response = client.get("/notes/all").signed_in(&admin).send().await;
        response.assert_text("[]").await;
        let response = client.get("/notes/export").signed_in(&admin).send().await;
        response.assert_status(StatusCode::FORBIDDEN);
        let response = client.delete("/notes").signed_in(&old).send().await;
        response.assert_status(StatusCode::UNAUTHORIZED);
        response.assert_header_exist("www-authenticate");
        let response = client.delete("/notes").signed_in(&admin).send().await;
        response.assert_text("[]").await;
    }

    #[tokio::test]
    async fn ended_session_adds_nothing() {
        let app = app().test().await;
        let ada = app.sign_in(&Person::default());
        app.end_session(&ada).await.expect("the webhook arrives");
        let response = app.client().get("/notes").signed_in(&ada).send().await;
        response.assert_status(StatusCode::UNAUTHORIZED);
    }

    #[test]
    fn document_names_the_problems() {
        let document = app()
            .document("http://localhost:8000", "hanko")
            .expect("no conflict");
        let responses = &document.as_json()["paths"]["/notes/{id}"]["delete"]["responses"];
        let examples = &responses["403"]["content"]["application/problem+json"]["examples"];
        assert_eq!(examples["not-yours"]["value"]["title"], NOT_YOURS.title());
        assert!(examples["cross-site-request"].is_object());
    }
}
