//! The session and user ids of a request, for the log.

use std::sync::OnceLock;

use super::{
    id::{SessionId, UserId},
    session::Session,
};
use crate::jose::SignedPayload;

/// The ids in a token whose signature is valid, even if the token has expired or its session has ended.
#[derive(Debug, Default)]
pub(crate) struct Identified(OnceLock<(Option<SessionId>, Option<UserId>)>);

impl Identified {
    pub(crate) fn session_id(&self) -> Option<SessionId> {
        self.0.get()?.0
    }

    pub(crate) fn user_id(&self) -> Option<UserId> {
        self.0.get()?.1
    }

    /// Notes the ids of a session, unless ids were noted before.
    pub(super) fn note_session(&self, session: &Session) {
        let _ = self.0.set((Some(session.id()), Some(session.user_id())));
    }

    /// Notes the ids in the payload of a token, unless ids were noted before.
    pub(super) fn note_payload(&self, payload: &SignedPayload<'_>) {
        let Some(claims) = payload.claims() else {
            return;
        };
        let text = |name: &str| claims.get(name).and_then(|value| value.as_str());
        let session_id = text("session_id").and_then(|id| id.parse().ok());
        let user_id = text("sub").and_then(|id| id.parse().ok());
        let _ = self.0.set((session_id, user_id));
    }
}
