use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use poem_openapi::{
    Object, OpenApi,
    types::{Email, Example},
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::Tag;
use crate::openapi::JsonBody;
use crate::{
    auth::HankoAuth,
    hanko::{EmailClaim, Session},
    jose::NumericDate,
};

/// The operation `GET /me`, which returns the session of the request as described by its token.
///
/// ```
/// use poem_hanko::{App, MeApi};
///
/// let app = App::new(MeApi, "hello", "1.0");
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct MeApi;

/// An e-mail address of a user.
#[derive(Object)]
struct EmailAddress {
    /// The address.
    address: Email,
    /// Whether it is the user's primary address.
    is_primary: bool,
    /// Whether the user has verified the address.
    is_verified: bool,
}

/// A session, as described by its token.
#[derive(Object)]
#[oai(skip_serializing_if_is_none, example)]
struct SessionView {
    /// The id of the user at Hanko.
    user_id: Uuid,
    /// The id of the session at Hanko.
    session_id: Uuid,
    /// The user's e-mail address, if the user has one.
    email: Option<EmailAddress>,
    /// The user name, if the user has one.
    username: Option<String>,
    /// When the token was issued.
    issued_at: Option<DateTime<Utc>>,
    /// When the token expires.
    expires_at: DateTime<Utc>,
    // A token has at most 16 KiB, so its claims have at most 12 KiB, and an entry takes at least three bytes (`"",`).
    /// The recipients that the token is intended for; by default the WebAuthn relying party id.
    #[oai(validator(max_items = "4096"))]
    audience: Vec<String>,
    /// The issuer of the token, if Hanko is configured to include it.
    issuer: Option<String>,
    /// The claims that the JWT template of the Hanko project adds, sorted by name.
    claims: BTreeMap<String, Value>,
}

impl Example for SessionView {
    fn example() -> Self {
        let issued_at = DateTime::from_timestamp(1_795_442_400, 0).unwrap_or_default();
        Self {
            user_id: Uuid::from_u128(0x0e6f_2f43_54b2_4d2c_9c53_6f1a_40f5_0d2b),
            session_id: Uuid::from_u128(0x7a1c_90fe_23b1_4f0e_8b7a_54f9_fb2f_9d11),
            email: Some(EmailAddress {
                address: Email("ada@example.com".to_owned()),
                is_primary: true,
                is_verified: true,
            }),
            username: Some("ada".to_owned()),
            issued_at: Some(issued_at),
            expires_at: issued_at + chrono::Duration::hours(12),
            audience: vec!["localhost".to_owned()],
            issuer: None,
            claims: BTreeMap::from([("plan".to_owned(), json!({ "name": "pro" }))]),
        }
    }
}

#[OpenApi]
impl MeApi {
    /// Get the current session
    ///
    /// Returns the session as described by its token, with every custom claim under `claims`.
    #[oai(
        path = "/me",
        method = "get",
        operation_id = "getMe",
        tag = "Tag::Session"
    )]
    async fn me(&self, auth: HankoAuth) -> JsonBody<SessionView> {
        JsonBody(SessionView::from(&*auth))
    }
}

impl From<&Session> for SessionView {
    fn from(session: &Session) -> Self {
        Self {
            user_id: session.user_id().as_uuid(),
            session_id: session.id().as_uuid(),
            email: session.email().map(EmailAddress::from),
            username: session.username().map(ToOwned::to_owned),
            issued_at: session.issued_at().map(date_time),
            expires_at: date_time(session.expires_at()),
            audience: session.audience().to_vec(),
            issuer: session.issuer().map(ToOwned::to_owned),
            claims: session
                .custom_claims()
                .iter()
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
        }
    }
}

impl From<&EmailClaim> for EmailAddress {
    fn from(email: &EmailClaim) -> Self {
        Self {
            address: Email(email.address.clone()),
            is_primary: email.is_primary,
            is_verified: email.is_verified,
        }
    }
}

/// A `NumericDate` is never beyond the year 9999, which chrono can hold.
fn date_time(date: NumericDate) -> DateTime<Utc> {
    let since_epoch = date.since_epoch();
    i64::try_from(since_epoch.as_secs())
        .ok()
        .and_then(|seconds| DateTime::from_timestamp(seconds, since_epoch.subsec_nanos()))
        .unwrap_or_default()
}
