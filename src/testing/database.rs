//! What Hanko's database has: users and their sessions.

use std::{collections::HashMap, time::Duration};

use serde_json::{Value, json};
use uuid::Uuid;

use super::{Person, SESSION_LIFESPAN, time};

/// The user agent and address of sessions that a flow creates, as if a browser on this machine had signed in.
const USER_AGENT: &str = "poem-hanko local Hanko";
const IP_ADDRESS: &str = "127.0.0.1";

/// How a session was created. Only a flow has a browser, whose user agent and address it stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Flow,
    AdminApi,
}

/// A row of `sessions`. Times are durations since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug)]
pub(super) struct SessionRow {
    pub(super) id: Uuid,
    user_id: Uuid,
    source: Source,
    created_at: Duration,
    updated_at: Duration,
    expires_at: Duration,
    last_used: Duration,
}

impl SessionRow {
    pub(super) fn new(user_id: Uuid, source: Source, now: Duration) -> Self {
        Self {
            id: Uuid::new_v4(),
            user_id,
            source,
            created_at: now,
            updated_at: now,
            expires_at: now + SESSION_LIFESPAN,
            last_used: now,
        }
    }

    /// The `data` of a webhook about this session.
    pub(super) fn webhook_data(&self) -> Value {
        let is_from_flow = self.source == Source::Flow;
        json!({
            "id": self.id,
            "user_id": self.user_id,
            "user_agent": is_from_flow.then_some(USER_AGENT),
            "ip_address": is_from_flow.then_some(IP_ADDRESS),
            "created_at": time::with_fraction(self.created_at),
            "updated_at": time::with_fraction(self.updated_at),
            "expires_at": time::with_fraction(self.expires_at),
            "last_used": time::with_fraction(self.last_used),
        })
    }

    /// The session as the database returns it.
    fn stored(mut self) -> Self {
        for time in [
            &mut self.created_at,
            &mut self.updated_at,
            &mut self.expires_at,
            &mut self.last_used,
        ] {
            *time = time::in_database(*time);
        }
        self
    }
}

/// A row of `emails` or `usernames`.
#[derive(Clone, Debug)]
struct Identifier {
    id: Uuid,
    text: String,
    is_verified: bool,
    created_at: Duration,
    updated_at: Duration,
}

impl Identifier {
    /// Stores what a person has now. An unchanged identifier keeps its id and times.
    fn store(slot: &mut Option<Self>, text: Option<&String>, is_verified: bool, now: Duration) {
        let Some(text) = text else {
            *slot = None;
            return;
        };
        match slot {
            Some(stored) if stored.text == *text => {
                if stored.is_verified != is_verified {
                    stored.is_verified = is_verified;
                    stored.updated_at = now;
                }
            }
            _ => {
                *slot = Some(Self {
                    id: Uuid::new_v4(),
                    text: text.clone(),
                    is_verified,
                    created_at: now,
                    updated_at: now,
                });
            }
        }
    }
}

/// A row of `users` with what belongs to it.
#[derive(Debug)]
struct UserRow {
    email: Option<Identifier>,
    username: Option<Identifier>,
    created_at: Duration,
    updated_at: Duration,
    /// The ids of the sessions, oldest first.
    sessions: Vec<Uuid>,
}

/// What the database says about a session that a token names.
#[derive(Debug)]
pub(super) enum Found {
    /// Active; if there is an idle timeout, with the time when it ends the session.
    Active { idle_expires_at: Option<Duration> },
    /// It had been idle for too long and has just been deleted.
    Idle(SessionRow),
    /// No such session.
    Nothing,
}

#[derive(Debug, Default)]
pub(super) struct Database {
    users: HashMap<Uuid, UserRow>,
    sessions: HashMap<Uuid, SessionRow>,
}

impl Database {
    /// Stores a new session of a person, and the person as a user. Returns the sessions that were deleted because the user
    /// had `limit` of them, as Hanko does: all but the newest `limit - 1`, in the order newest to oldest.
    pub(super) fn create_session(
        &mut self,
        person: &Person,
        session: SessionRow,
        limit: usize,
    ) -> Vec<SessionRow> {
        let now = time::in_database(session.created_at);
        let user = self.users.entry(person.id).or_insert_with(|| UserRow {
            email: None,
            username: None,
            created_at: now,
            updated_at: now,
            sessions: Vec::new(),
        });
        let is_verified = person.is_email_verified;
        Identifier::store(&mut user.email, person.email.as_ref(), is_verified, now);
        Identifier::store(&mut user.username, person.username.as_ref(), true, now);

        let sessions = &mut self.sessions;
        // Hanko does not count expired sessions; here they are deleted, so that they use no memory.
        user.sessions.retain(|id| {
            let is_active = sessions.get(id).is_some_and(|row| row.expires_at > now);
            if !is_active {
                sessions.remove(id);
            }
            is_active
        });
        let excess = (user.sessions.len() + 1).saturating_sub(limit.max(1));
        let deleted = user
            .sessions
            .drain(..excess)
            .rev()
            .filter_map(|id| sessions.remove(&id))
            .collect();
        user.sessions.push(session.id);
        sessions.insert(session.id, session.stored());
        deleted
    }

    pub(super) fn session(&self, id: Uuid) -> Option<SessionRow> {
        self.sessions.get(&id).copied()
    }

    pub(super) fn delete_session(&mut self, id: Uuid) -> Option<SessionRow> {
        let session = self.sessions.remove(&id)?;
        if let Some(user) = self.users.get_mut(&session.user_id) {
            user.sessions.retain(|session| *session != id);
        }
        Some(session)
    }

    /// Deletes a user with all sessions. Returns the `data` of the webhook about it.
    pub(super) fn delete_user(&mut self, id: Uuid, now: Duration) -> Value {
        let now = time::in_database(now);
        let user = self.users.remove(&id);
        for session in user.iter().flat_map(|user| &user.sessions) {
            self.sessions.remove(session);
        }
        let created_at = user.as_ref().map_or(now, |user| user.created_at);
        let updated_at = user.as_ref().map_or(now, |user| user.updated_at);
        let mut data = json!({
            "id": id,
            "created_at": time::with_fraction(created_at),
            "updated_at": time::with_fraction(updated_at),
        });
        // Hanko omits what the user does not have.
        let (email, username) = user.map_or((None, None), |user| (user.email, user.username));
        if let Some(email) = email {
            data["emails"] = json!([{
                "id": email.id,
                "address": email.text,
                "is_verified": email.is_verified,
                "is_primary": true,
                "created_at": time::with_fraction(email.created_at),
                "updated_at": time::with_fraction(email.updated_at),
            }]);
        }
        if let Some(username) = username {
            data["username"] = json!({
                "id": username.id,
                "username": username.text,
                "created_at": time::with_fraction(username.created_at),
                "updated_at": time::with_fraction(username.updated_at),
            });
        }
        data
    }

    /// Looks a session up, deletes it if it is idle, and otherwise renews `last_used` if asked to.
    pub(super) fn use_session(
        &mut self,
        id: Uuid,
        now: Duration,
        idle_timeout: Option<Duration>,
        renew: bool,
    ) -> Found {
        let Some(session) = self.sessions.get_mut(&id) else {
            return Found::Nothing;
        };
        let idle_for = now.saturating_sub(session.last_used);
        if idle_timeout.is_some_and(|timeout| idle_for > timeout) {
            return self.delete_session(id).map_or(Found::Nothing, Found::Idle);
        }
        let mut last_used = session.last_used;
        if renew {
            last_used = now;
            session.last_used = time::in_database(now);
            session.updated_at = session.last_used;
        }
        Found::Active {
            idle_expires_at: idle_timeout.map(|timeout| last_used + timeout),
        }
    }
}
