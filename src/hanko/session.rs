//! The proof that a request was authenticated.

use std::{
    borrow::Cow,
    fmt,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{
    authenticate::Inner,
    claim_reader::{self, ClaimError},
    claims::{EmailClaim, SessionClaims, custom_claims, is_custom},
    id::{SessionId, UserId},
    streams::{self, EndReason},
};
use crate::jose::{NumericDate, Verified, decode_base64url, parse_object};

/// An authenticated session. Only [`Hanko::authenticate`](super::Hanko::authenticate) and its variants return one. A clone
/// is cheap.
///
/// ```
/// use poem_hanko::Session;
///
/// fn greeting(session: &Session) -> String {
///     match session.email() {
///         Some(email) if email.is_verified => format!("Hello, {}!", email.address),
///         _ => format!("Hello, {}!", session.user_id()),
///     }
/// }
/// ```
#[derive(Clone)]
pub struct Session(Arc<Authenticated>);

/// A verified token with its claims, and what verified it.
pub(super) struct Authenticated {
    verified: Verified<SessionClaims>,
    /// Decoded when they are first read: most applications never do, and a cached token would occupy twice the memory.
    custom: OnceLock<Box<Map<String, Value>>>,
    /// Weak, since the token cache of that [`Hanko`](super::Hanko) holds this.
    hanko: Weak<Inner>,
}

impl Authenticated {
    pub(super) fn new(verified: Verified<SessionClaims>, hanko: &Arc<Inner>) -> Self {
        Self {
            verified,
            custom: OnceLock::new(),
            hanko: Arc::downgrade(hanko),
        }
    }

    pub(super) fn token(&self) -> &str {
        self.verified.text()
    }
}

impl fmt::Debug for Session {
    /// Leaves the token out.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_tuple("Session")
            .field(&self.0.verified)
            .finish()
    }
}

impl Session {
    pub(super) fn new(authenticated: Arc<Authenticated>) -> Self {
        Self(authenticated)
    }

    pub(super) fn authenticated(&self) -> &Arc<Authenticated> {
        &self.0
    }

    pub(super) fn verified(&self) -> &Verified<SessionClaims> {
        &self.0.verified
    }

    pub(super) fn token(&self) -> &str {
        self.0.token()
    }

    pub(super) fn hanko(&self) -> Option<Arc<Inner>> {
        self.0.hanko.upgrade()
    }

    /// Returns the id of the session.
    ///
    /// ```
    /// use poem_hanko::{Session, SessionId};
    ///
    /// /// Whether a session of a list is the one of this request.
    /// fn is_current(session: &Session, listed: SessionId) -> bool {
    ///     session.id() == listed
    /// }
    /// ```
    pub fn id(&self) -> SessionId {
        self.session_claims().session_id
    }

    /// Returns the id of the user whose session it is.
    ///
    /// ```
    /// use poem_hanko::{Session, UserId};
    ///
    /// struct Note {
    ///     owner: UserId,
    ///     text: String,
    /// }
    ///
    /// fn own_notes<'a>(session: &Session, notes: &'a [Note]) -> Vec<&'a Note> {
    ///     notes.iter().filter(|note| note.owner == session.user_id()).collect()
    /// }
    /// ```
    pub fn user_id(&self) -> UserId {
        self.session_claims().user_id
    }

    /// Returns the user's primary e-mail address, if the user has one.
    ///
    /// ```
    /// use poem_hanko::Session;
    ///
    /// fn confirmed_address(session: &Session) -> Option<&str> {
    ///     let email = session.email().filter(|email| email.is_verified)?;
    ///     Some(&email.address)
    /// }
    /// ```
    pub fn email(&self) -> Option<&EmailClaim> {
        self.session_claims().email.as_ref()
    }

    /// Returns the user name, if the user has one.
    ///
    /// ```
    /// use poem_hanko::Session;
    ///
    /// fn display_name(session: &Session) -> String {
    ///     session.username().map_or_else(|| session.user_id().to_string(), str::to_owned)
    /// }
    /// ```
    pub fn username(&self) -> Option<&str> {
        self.session_claims().username.as_deref()
    }

    /// Returns when the token was issued.
    ///
    /// ```
    /// use std::time::SystemTime;
    ///
    /// use poem_hanko::Session;
    ///
    /// fn signed_in_at(session: &Session) -> Option<SystemTime> {
    ///     session.issued_at().map(SystemTime::from)
    /// }
    /// ```
    pub fn issued_at(&self) -> Option<NumericDate> {
        self.verified().registered().issued_at
    }

    /// Returns how long ago the token was issued; Hanko issues one at each sign-in. Zero if `iat` is in the future. Returns
    /// `None` if the token has no `iat`, or if the [`Hanko`](super::Hanko) that authenticated the session no longer exists.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use poem_hanko::testing::{Person, TestHanko};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let test = TestHanko::start().await;
    /// let hour = Duration::from_secs(3600);
    /// let ada = test.sign_in(&Person::default().signed_in_ago(hour));
    /// let session = test.hanko().authenticate(ada.token()).await?;
    /// assert_eq!(session.age(), Some(hour));
    /// # Ok(())
    /// # }
    /// ```
    pub fn age(&self) -> Option<Duration> {
        let now = self.hanko()?.now().since_epoch();
        Some(now.saturating_sub(self.issued_at()?.since_epoch()))
    }

    /// Returns when the token expires.
    ///
    /// ```
    /// use std::time::SystemTime;
    ///
    /// use poem_hanko::Session;
    ///
    /// fn expires_at(session: &Session) -> SystemTime {
    ///     session.expires_at().into()
    /// }
    /// ```
    pub fn expires_at(&self) -> NumericDate {
        self.verified().registered().expires_at
    }

    /// Returns the audience of the token: by default the id of the WebAuthn relying party.
    ///
    /// ```
    /// use poem_hanko::Session;
    ///
    /// fn is_for_admin(session: &Session) -> bool {
    ///     session.audience().iter().any(|audience| audience == "admin.example.com")
    /// }
    /// ```
    pub fn audience(&self) -> &[String] {
        &self.verified().registered().audience
    }

    /// Returns the issuer of the token, if Hanko is configured with one.
    ///
    /// ```
    /// use poem_hanko::Session;
    ///
    /// fn tenant(session: &Session) -> Option<&str> {
    ///     session.issuer()?.strip_prefix("https://hanko.example.com/")
    /// }
    /// ```
    pub fn issuer(&self) -> Option<&str> {
        self.verified().registered().issuer.as_deref()
    }

    /// Returns the claims that the operator's JWT template adds.
    ///
    /// ```
    /// use poem_hanko::testing::{Person, TestHanko};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let test = TestHanko::start().await;
    /// let ada = test.sign_in(&Person::default().claim("role", "admin"));
    /// let session = test.hanko().authenticate(ada.token()).await?;
    /// assert_eq!(session.custom_claims()["role"], "admin");
    /// # Ok(())
    /// # }
    /// ```
    pub fn custom_claims(&self) -> &Map<String, Value> {
        let decode = || Box::new(custom_claims(self.all_claims()));
        self.0.custom.get_or_init(decode)
    }

    /// Reads all claims of the token into a type of yours: the registered ones, Hanko's and those of the JWT template.
    ///
    /// ```no_run
    /// # fn example(session: poem_hanko::Session) -> Result<(), poem_hanko::ClaimError> {
    /// #[derive(serde::Deserialize)]
    /// struct Claims {
    ///     sub: poem_hanko::UserId,
    ///     role: String,
    ///     plan: Option<String>,
    /// }
    ///
    /// let claims: Claims = session.claims()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Decodes the token again. To read a claim of the JWT template alone, [`claim`](Self::claim) is faster.
    ///
    /// # Errors
    /// [`ClaimError`] if a claim is missing or has another form.
    pub fn claims<T: DeserializeOwned>(&self) -> Result<T, ClaimError> {
        claim_reader::read_all(self.all_claims())
    }

    /// Reads one claim by its name, or by a JSON Pointer (RFC 6901) if `name` starts with `/`. Returns `None` if the claim is
    /// absent or `null`.
    ///
    /// ```no_run
    /// # fn example(session: poem_hanko::Session) -> Result<(), poem_hanko::ClaimError> {
    /// let role: Option<String> = session.claim("role")?;
    /// let seats: Option<u32> = session.claim("/metadata/plan/seats")?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ClaimError`] if the claim has another form.
    pub fn claim<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, ClaimError> {
        self.read_claim(name, |claim| match claim {
            None | Some(Value::Null) => Ok(None),
            Some(value) => claim_reader::read_one(name, value).map(Some),
        })
    }

    /// Calls `read` with one claim, which is named as for [`claim`](Self::claim).
    pub(crate) fn read_claim<R>(&self, name: &str, read: impl FnOnce(Option<&Value>) -> R) -> R {
        if is_custom(&first_segment(name)) {
            read(find(self.custom_claims(), name))
        } else {
            read(find(&self.all_claims(), name))
        }
    }

    /// Decodes the Claims Set from the token, which was verified.
    fn all_claims(&self) -> Map<String, Value> {
        let payload = self.token().split('.').nth(1).unwrap_or_default();
        decode_base64url(payload)
            .and_then(|payload| parse_object(&payload))
            .unwrap_or_default()
    }

    /// Completes when the session ends: when Hanko reports or confirms its end, its key is withdrawn, its token expires, or
    /// it can no longer be verified. For handlers that respond with a stream, to end it then:
    ///
    /// ```no_run
    /// # async fn example(session: poem_hanko::Session, mut news: tokio::sync::mpsc::Receiver<String>) {
    /// let ended = session.ended();
    /// tokio::pin!(ended);
    /// loop {
    ///     tokio::select! {
    ///         reason = &mut ended => { println!("closed: {reason}"); break }
    ///         Some(item) = news.recv() => println!("{item}"),
    ///     }
    /// }
    /// # }
    /// ```
    ///
    /// While it is awaited in [`Hybrid`](super::SessionMode::Hybrid) or [`Stateful`](super::SessionMode::Stateful) mode,
    /// Hanko is asked about the session every [`cache_ttl`](super::SessionPolicy::cache_ttl), at least a second apart and
    /// once for all streams of a session. This does not renew Hanko's idle timeout, so an open page does not keep its user
    /// signed in. All streams are watched by one task. Must be awaited within a tokio runtime.
    pub fn ended(&self) -> impl Future<Output = EndReason> + Send + use<> {
        streams::ended(self.clone())
    }

    fn session_claims(&self) -> &SessionClaims {
        self.verified().claims()
    }
}

/// Returns the name of the claim that `name` is about: itself, or the first segment of a JSON Pointer.
fn first_segment(name: &str) -> Cow<'_, str> {
    match name.strip_prefix('/') {
        None => Cow::Borrowed(name),
        Some(pointer) => {
            let first = pointer.split('/').next().unwrap_or_default();
            if !first.contains('~') {
                return Cow::Borrowed(first);
            }
            // RFC 6901 section 4, in this order.
            Cow::Owned(first.replace("~1", "/").replace("~0", "~"))
        }
    }
}

/// Returns the claim of this name, or the value at this JSON Pointer.
fn find<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let claim = claims.get(&*first_segment(name))?;
    match name.strip_prefix('/').and_then(|rest| rest.find('/')) {
        // One for the slash that was removed.
        Some(end) => claim.pointer(&name[end + 1..]),
        None => Some(claim),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn claims_are_found_by_name_and_by_pointer() {
        let claims = json!({
            "role": "admin",
            "a/b~c": { "": [{ "d": 1 }] },
            "https://example.com/role": "owner",
        });
        let claims = claims.as_object().unwrap();
        for (name, expected) in [
            ("role", Some(json!("admin"))),
            ("/role", Some(json!("admin"))),
            ("https://example.com/role", Some(json!("owner"))),
            ("a/b~c", Some(json!({ "": [{ "d": 1 }] }))),
            ("/a~1b~0c//0/d", Some(json!(1))),
            ("/a~1b~0c//1/d", None),
            ("/role/x", None),
            ("/role/", None),
            ("absent", None),
            ("/", None),
            ("", None),
        ] {
            assert_eq!(find(claims, name), expected.as_ref(), "{name}");
        }
    }
}
