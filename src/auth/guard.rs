//! Guards: what a handler requires beyond a session.

use super::requirement::{Requirement, Rule};

/// Requires more than a session, as the type parameter of [`HankoAuth`](super::HankoAuth). This guard requires the role
/// `admin`:
///
/// ```
/// use poem_hanko::{Guard, Requirement};
///
/// struct Admin;
///
/// impl Guard for Admin {
///     const REQUIRES: Requirement = Requirement::claim("role").equals("admin");
/// }
/// ```
///
/// Guards compose: a tuple requires all of its guards, in this order, and [`AnyOf`] one of them. There is no negation. Guards
/// are checked after authentication and before the body is read.
///
/// ```
/// # use poem_hanko::{Guard, Requirement};
/// # struct Admin;
/// # impl Guard for Admin {
/// #     const REQUIRES: Requirement = Requirement::claim("role").equals("admin");
/// # }
/// use poem_hanko::{AnyOf, Fresh, HankoAuth, JsonBody, VerifiedEmail, WithProblems};
/// use poem_openapi::OpenApi;
///
/// struct Api;
///
/// #[OpenApi]
/// impl Api {
///     /// Delete everything
///     #[oai(path = "/notes", method = "delete", operation_id = "deleteNotes")]
///     async fn delete(&self, auth: HankoAuth<(Admin, Fresh<300>)>) -> JsonBody<String> {
///         JsonBody(format!("deleted by {}", auth.user_id()))
///     }
///
///     /// Invite somebody
///     #[oai(path = "/invitations", method = "post", operation_id = "invite")]
///     async fn invite(&self, auth: HankoAuth<AnyOf<(Admin, VerifiedEmail)>>) -> JsonBody<String> {
///         JsonBody(format!("invited by {}", auth.user_id()))
///     }
/// }
///
/// let api = WithProblems(Api); // documents what each operation requires
/// ```
///
/// # Where claims come from
/// Hanko adds the claims of its JWT template when it issues the token:
///
/// ```yaml
/// session:
///   jwt_template:
///     claims:
///       role: '{{ .User.Metadata.Public "role" }}'
/// ```
///
/// **Never guard on a claim made from `unsafe_metadata`**: users can write it themselves.
///
/// # Errors
/// A session that does not meet a guard on the sign-in ([`Fresh`], [`SecondFactor`], [`Passkey`], [`StrongSignIn`]) is
/// rejected with 401 and the challenge `insufficient_user_authentication` (RFC 9470 section 3), which tells the client that
/// the user must sign in again. For any other guard, it is rejected with 403 and `insufficient_scope` (RFC 6750 section 3.1).
/// If no guard of [`AnyOf`] is met, and another sign-in would help, the response is 401.
pub trait Guard: 'static {
    /// The requirement that a session must meet.
    const REQUIRES: Requirement;
}

impl Guard for () {
    const REQUIRES: Requirement = Requirement::NONE;
}

/// Requires the user's primary e-mail address to be verified (`email.is_verified`).
///
/// ```
/// use poem_hanko::{HankoAuth, JsonBody, VerifiedEmail};
/// use poem_openapi::OpenApi;
///
/// struct Api;
///
/// #[OpenApi]
/// impl Api {
///     /// Subscribe to the newsletter
///     #[oai(path = "/newsletter", method = "post", operation_id = "subscribe")]
///     async fn subscribe(&self, auth: HankoAuth<VerifiedEmail>) -> JsonBody<String> {
///         JsonBody(format!("done by {}", auth.user_id()))
///     }
/// }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct VerifiedEmail;

impl Guard for VerifiedEmail {
    const REQUIRES: Requirement = Requirement(Rule::VERIFIED_EMAIL);
}

/// Requires that the token was issued (`iat`) at most this many seconds ago, without leeway. Hanko issues a token at each
/// sign-in. A token without `iat` does not meet this.
///
/// The challenge of the rejection has `max_age` (RFC 9470 section 3).
///
/// ```
/// use poem_hanko::{Fresh, HankoAuth, JsonBody};
/// use poem_openapi::OpenApi;
///
/// struct Api;
///
/// #[OpenApi]
/// impl Api {
///     /// Delete your account
///     #[oai(path = "/account", method = "delete", operation_id = "deleteAccount")]
///     async fn delete(&self, auth: HankoAuth<Fresh<300>>) -> JsonBody<String> {
///         JsonBody(format!("deleted {}", auth.user_id()))
///     }
/// }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Fresh<const SECONDS: u64>;

impl<const SECONDS: u64> Guard for Fresh<SECONDS> {
    const REQUIRES: Requirement = Requirement(Rule::signed_in_within(SECONDS));
}

/// Requires a second factor at the sign-in: `amr` contains `totp` or `security_key`.
///
/// Hanko asks for no second factor after a sign-in with a passkey, or on a trusted device, so this guard rejects these users.
/// [`StrongSignIn`] accepts a passkey. In the token of a registration, `amr` names what the user has set up, not what they
/// have used. A token without `amr`, such as one that the Admin API issues, does not meet this.
///
/// ```
/// use poem_hanko::{HankoAuth, JsonBody, SecondFactor};
/// use poem_openapi::OpenApi;
///
/// struct Api;
///
/// #[OpenApi]
/// impl Api {
///     /// Transfer money
///     #[oai(path = "/transfers", method = "post", operation_id = "transfer")]
///     async fn transfer(&self, auth: HankoAuth<SecondFactor>) -> JsonBody<String> {
///         JsonBody(format!("done by {}", auth.user_id()))
///     }
/// }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct SecondFactor;

impl Guard for SecondFactor {
    const REQUIRES: Requirement = Requirement(Rule::signed_in_with(
        &["totp", "security_key"],
        "a second factor",
        "second-factor",
    ));
}

/// Requires a sign-in with a passkey: `amr` contains `passkey`.
///
/// In the token of a registration, this means that the user has set one up. A token without `amr`, such as one that the Admin
/// API issues, does not meet this.
///
/// ```
/// use poem_hanko::{HankoAuth, JsonBody, Passkey};
/// use poem_openapi::OpenApi;
///
/// struct Api;
///
/// #[OpenApi]
/// impl Api {
///     /// Transfer money
///     #[oai(path = "/transfers", method = "post", operation_id = "transfer")]
///     async fn transfer(&self, auth: HankoAuth<Passkey>) -> JsonBody<String> {
///         JsonBody(format!("done by {}", auth.user_id()))
///     }
/// }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Passkey;

impl Guard for Passkey {
    const REQUIRES: Requirement =
        Requirement(Rule::signed_in_with(&["passkey"], "a passkey", "passkey"));
}

/// Requires a sign-in that needs more than a password or access to a mailbox: `amr` contains `totp`, `security_key` or
/// `passkey`.
///
/// As with [`SecondFactor`], the token of a registration counts by what the user has set up, and a sign-in on a trusted device
/// without a passkey does not meet this. A token without `amr`, such as one that the Admin API issues, does not meet this.
///
/// ```
/// use poem_hanko::{HankoAuth, JsonBody, StrongSignIn};
/// use poem_openapi::OpenApi;
///
/// struct Api;
///
/// #[OpenApi]
/// impl Api {
///     /// Delete your account
///     #[oai(path = "/account", method = "delete", operation_id = "deleteAccount")]
///     async fn delete(&self, auth: HankoAuth<StrongSignIn>) -> JsonBody<String> {
///         JsonBody(format!("deleted {}", auth.user_id()))
///     }
/// }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct StrongSignIn;

impl Guard for StrongSignIn {
    const REQUIRES: Requirement = Requirement(Rule::signed_in_with(
        &["totp", "security_key", "passkey"],
        "a passkey or a second factor",
        "strong-sign-in",
    ));
}

/// Requires that Hanko confirms the session now, whatever is cached, in every [`SessionMode`](crate::hanko::SessionMode).
/// Use it where an ended session must not work even for a minute, such as a payment or the deletion of an account. Each
/// request waits for Hanko; if Hanko does not respond, the response is 503.
///
/// In [`AnyOf`], Hanko is asked only if no other guard is met.
///
/// ```
/// use poem_hanko::{HankoAuth, JsonBody, Live};
/// use poem_openapi::OpenApi;
///
/// struct Api;
///
/// #[OpenApi]
/// impl Api {
///     /// Delete your account
///     #[oai(path = "/account", method = "delete", operation_id = "deleteAccount")]
///     async fn delete(&self, auth: HankoAuth<Live>) -> JsonBody<String> {
///         JsonBody(format!("deleted {}", auth.user_id()))
///     }
/// }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Live;

impl Guard for Live {
    const REQUIRES: Requirement = Requirement(Rule::LIVE);
}

/// Requires one of the guards of a tuple.
///
/// ```
/// use poem_hanko::{AnyOf, Guard, HankoAuth, JsonBody, Requirement, VerifiedEmail};
/// use poem_openapi::OpenApi;
///
/// struct Admin;
///
/// impl Guard for Admin {
///     const REQUIRES: Requirement = Requirement::claim("role").equals("admin");
/// }
///
/// struct Api;
///
/// #[OpenApi]
/// impl Api {
///     /// Invite somebody
///     #[oai(path = "/invitations", method = "post", operation_id = "invite")]
///     async fn invite(&self, auth: HankoAuth<AnyOf<(Admin, VerifiedEmail)>>) -> JsonBody<String> {
///         JsonBody(format!("invited by {}", auth.user_id()))
///     }
/// }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct AnyOf<G>(std::marker::PhantomData<G>);

macro_rules! tuples {
    ($(($($guard:ident),+);)*) => {
        $(
            impl<$($guard: Guard),+> Guard for ($($guard,)+) {
                const REQUIRES: Requirement = Requirement(Rule::all(&[$($guard::REQUIRES.0),+]));
            }

            impl<$($guard: Guard),+> Guard for AnyOf<($($guard,)+)> {
                const REQUIRES: Requirement = Requirement(Rule::any(&[$($guard::REQUIRES.0),+]));
            }
        )*
    };
}

tuples! {
    (A);
    (A, B);
    (A, B, C);
    (A, B, C, D);
    (A, B, C, D, E);
    (A, B, C, D, E, F);
}
