//! What a guard requires of a session, as data, so that it can be evaluated and documented.

use std::fmt::{self, Display};

use poem::http::StatusCode;
use serde_json::{Number, Value};

use super::challenge::Challenge;
use crate::{hanko::Session, problem::ProblemType};

/// All integers below this are exact as IEEE 754 doubles (RFC 8259 section 6).
const FIRST_INEXACT_NUMBER: f64 = 9_007_199_254_740_992.0;

/// What a [`Guard`](super::Guard) requires of a session.
///
/// ```
/// use poem_hanko::Requirement;
///
/// const ADMIN: Requirement = Requirement::claim("role").equals("admin");
/// const CAN_EDIT: Requirement =
///     Requirement::claim("/org/permissions").contains_any(&["notes:edit", "notes:admin"]);
/// const CAN_READ: Requirement = Requirement::scope("scope").contains_all(&["notes:read"]);
/// const STAFF: Requirement = Requirement::that("an address at acme.example", |session| {
///     session.email().is_some_and(|email| email.is_verified && email.address.ends_with("@acme.example"))
/// });
/// ```
///
/// [`that`](Self::that) reads what Hanko put into the token, which never changes while the token is valid. Check what your
/// own database knows in the handler.
#[derive(Clone, Copy)]
pub struct Requirement(pub(super) Rule<'static>);

/// A requirement that can also be created at run time.
#[derive(Clone, Copy)]
pub(crate) struct Rule<'a> {
    test: Test<'a>,
    /// Replaces the problem type of the rejection.
    problem_type: Option<ProblemType>,
}

#[derive(Clone, Copy)]
enum Test<'a> {
    All(&'a [Rule<'a>]),
    Any(&'a [Rule<'a>]),
    /// Hanko confirms the session now.
    Live,
    VerifiedEmail,
    SignedInWithin {
        seconds: u64,
    },
    SignedInWith {
        methods: &'static [&'static str],
        name: &'static str,
        label: &'static str,
    },
    Claim {
        name: &'a str,
        expected: Expected<'a>,
    },
    Custom {
        text: &'static str,
        is_met: fn(&Session) -> bool,
    },
}

#[derive(Clone, Copy)]
enum Expected<'a> {
    String(&'a str),
    Number(f64),
    Boolean(bool),
    Strings(Quantity, &'a [&'a str]),
    Scopes(Quantity, &'static [&'static str]),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Quantity {
    Any,
    All,
}

/// A claim from which a [`Requirement`] is made. See [`Requirement::claim`].
///
/// ```
/// use poem_hanko::{ClaimRequirement, Requirement};
///
/// const PLAN: ClaimRequirement = Requirement::claim("plan");
/// const PRO: Requirement = PLAN.equals("pro");
/// const TEAM: Requirement = PLAN.equals("team");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ClaimRequirement(&'static str);

/// A claim with scopes from which a [`Requirement`] is made. See [`Requirement::scope`].
///
/// ```
/// use poem_hanko::{Requirement, ScopeRequirement};
///
/// const SCOPE: ScopeRequirement = Requirement::scope("scope");
/// const CAN_READ: Requirement = SCOPE.contains_any(&["notes:read", "notes:write"]);
/// const CAN_WRITE: Requirement = SCOPE.contains_all(&["notes:write"]);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ScopeRequirement(&'static str);

impl Requirement {
    /// Requires nothing beyond the session.
    pub const NONE: Self = Self(Rule::all(&[]));

    /// Starts a requirement on a claim. `name` is the name of the claim, or a JSON Pointer (RFC 6901) if it starts with `/`:
    /// a name may contain dots.
    ///
    /// An absent claim and `null` meet no requirement.
    ///
    /// ```
    /// use poem_hanko::{Guard, Requirement};
    ///
    /// struct Owner;
    ///
    /// impl Guard for Owner {
    ///     // The token has the claim `{"org": {"role": "owner"}}`.
    ///     const REQUIRES: Requirement = Requirement::claim("/org/role").equals("owner");
    /// }
    /// ```
    pub const fn claim(name: &'static str) -> ClaimRequirement {
        ClaimRequirement(name)
    }

    /// Starts a requirement on a claim that lists scopes: a string in which they are separated by single spaces
    /// (RFC 8693 section 4.2), or an array of strings. `name` is as for [`claim`](Self::claim).
    ///
    /// ```
    /// use poem_hanko::{Guard, Requirement};
    ///
    /// struct CanRead;
    ///
    /// impl Guard for CanRead {
    ///     // The token has a claim such as `{"scope": "notes:read notes:write"}`.
    ///     const REQUIRES: Requirement = Requirement::scope("scope").contains_all(&["notes:read"]);
    /// }
    /// ```
    pub const fn scope(name: &'static str) -> ScopeRequirement {
        ScopeRequirement(name)
    }

    /// Requires that a function returns `true` for the session. `text` completes the sentence "Requires …" in the document and
    /// in the rejection.
    ///
    /// ```
    /// use poem_hanko::{Guard, Requirement};
    ///
    /// struct HasUsername;
    ///
    /// impl Guard for HasUsername {
    ///     const REQUIRES: Requirement =
    ///         Requirement::that("a username", |session| session.username().is_some());
    /// }
    /// ```
    pub const fn that(text: &'static str, is_met: fn(&Session) -> bool) -> Self {
        Self(Rule::new(Test::Custom { text, is_met }))
    }

    /// Sets the problem type of the rejection. Default: [`ProblemType::INSUFFICIENT_PERMISSION`], or
    /// [`ProblemType::SIGN_IN_TOO_OLD`] if another sign-in would help.
    ///
    /// ```
    /// use poem_hanko::{Guard, ProblemType, Requirement};
    ///
    /// const UPGRADE: ProblemType = ProblemType::new("/problems/upgrade", 402, "Your plan lacks this");
    ///
    /// struct Pro;
    ///
    /// impl Guard for Pro {
    ///     const REQUIRES: Requirement = Requirement::claim("plan").equals("pro").with_problem(UPGRADE);
    /// }
    /// ```
    ///
    /// # Panics
    /// If the status of the type is not 402 to 499, or if another sign-in would help: only authentication and guards on the
    /// sign-in reject with 401. In a constant, this is a compile-time error.
    #[must_use]
    pub const fn with_problem(mut self, problem_type: ProblemType) -> Self {
        assert!(
            !self.0.concerns_sign_in(),
            "a guard on the sign-in rejects with 401"
        );
        assert!(
            problem_type.status_code() >= 402 && problem_type.status_code() <= 499,
            "the problem type of a guard has a status from 402 to 499"
        );
        self.0.problem_type = Some(problem_type);
        self
    }
}

impl Requirement {
    pub(crate) fn rule(&self) -> &Rule<'static> {
        &self.0
    }
}

impl ClaimRequirement {
    /// Requires the claim to be exactly this string, in the same case.
    ///
    /// ```
    /// use poem_hanko::Requirement;
    ///
    /// const ADMIN: Requirement = Requirement::claim("role").equals("admin");
    /// ```
    ///
    /// # Panics
    /// If the string is empty: a JWT template writes an empty string for a value that the user does not have. In a constant,
    /// this is a compile-time error.
    pub const fn equals(self, value: &'static str) -> Requirement {
        assert!(!value.is_empty(), "the string is empty");
        self.expecting(Expected::String(value))
    }

    /// Requires the claim to be this number. Numbers compare by value, as IEEE 754 doubles: 3, 3.0 and 3e0 are equal.
    ///
    /// ```
    /// use poem_hanko::Requirement;
    ///
    /// const TOP_LEVEL: Requirement = Requirement::claim("/plan/level").equals_number(3.0);
    /// ```
    ///
    /// # Panics
    /// If a number of this size cannot be compared exactly: its magnitude is 2^53 or more, or it is not finite. In a constant,
    /// this is a compile-time error.
    pub const fn equals_number(self, value: f64) -> Requirement {
        assert!(
            value.abs() < FIRST_INEXACT_NUMBER,
            "a number of 2^53 or more cannot be compared exactly"
        );
        self.expecting(Expected::Number(value))
    }

    /// Requires the claim to be this Boolean. The string `"true"` is not a Boolean.
    ///
    /// ```
    /// use poem_hanko::Requirement;
    ///
    /// const HAS_BETA_FEATURES: Requirement = Requirement::claim("beta").equals_bool(true);
    /// ```
    pub const fn equals_bool(self, value: bool) -> Requirement {
        self.expecting(Expected::Boolean(value))
    }

    /// Requires the claim to be an array of only strings that contains at least one of these values.
    ///
    /// ```
    /// use poem_hanko::Requirement;
    ///
    /// const EDITOR_OR_ADMIN: Requirement =
    ///     Requirement::claim("roles").contains_any(&["editor", "admin"]);
    /// ```
    ///
    /// # Panics
    /// If `values` is empty. In a constant, this is a compile-time error.
    pub const fn contains_any(self, values: &'static [&'static str]) -> Requirement {
        assert!(!values.is_empty(), "at least one value is needed");
        self.expecting(Expected::Strings(Quantity::Any, values))
    }

    /// Requires the claim to be an array of only strings that contains all of these values.
    ///
    /// ```
    /// use poem_hanko::Requirement;
    ///
    /// const EDITOR_OF_BOTH: Requirement =
    ///     Requirement::claim("sites").contains_all(&["shop", "blog"]);
    /// ```
    ///
    /// # Panics
    /// If `values` is empty. In a constant, this is a compile-time error.
    pub const fn contains_all(self, values: &'static [&'static str]) -> Requirement {
        assert!(!values.is_empty(), "at least one value is needed");
        self.expecting(Expected::Strings(Quantity::All, values))
    }

    const fn expecting(self, expected: Expected<'static>) -> Requirement {
        Requirement(Rule::new(Test::Claim {
            name: self.0,
            expected,
        }))
    }
}

impl ScopeRequirement {
    /// Requires at least one of these scopes.
    ///
    /// ```
    /// use poem_hanko::Requirement;
    ///
    /// const CAN_READ: Requirement =
    ///     Requirement::scope("scope").contains_any(&["notes:read", "notes:write"]);
    /// ```
    ///
    /// # Panics
    /// If `scopes` is empty, or if one of them is not a scope (RFC 6749 section 3.3): it is empty, or contains a space, `"`,
    /// `\` or something other than visible ASCII. In a constant, this is a compile-time error.
    pub const fn contains_any(self, scopes: &'static [&'static str]) -> Requirement {
        self.expecting(Quantity::Any, scopes)
    }

    /// Requires all of these scopes.
    ///
    /// ```
    /// use poem_hanko::Requirement;
    ///
    /// const CAN_MOVE: Requirement =
    ///     Requirement::scope("scope").contains_all(&["notes:read", "notes:write"]);
    /// ```
    ///
    /// # Panics
    /// As [`contains_any`](Self::contains_any).
    pub const fn contains_all(self, scopes: &'static [&'static str]) -> Requirement {
        self.expecting(Quantity::All, scopes)
    }

    const fn expecting(self, quantity: Quantity, scopes: &'static [&'static str]) -> Requirement {
        assert!(!scopes.is_empty(), "at least one scope is needed");
        let mut index = 0;
        while index < scopes.len() {
            assert!(
                is_scope(scopes[index]),
                "a scope is visible ASCII without `\"` and `\\`"
            );
            index += 1;
        }
        ClaimRequirement(self.0).expecting(Expected::Scopes(quantity, scopes))
    }
}

/// Whether this is a `scope-token` (RFC 6749 section 3.3).
const fn is_scope(text: &str) -> bool {
    let bytes = text.as_bytes();
    let mut index = 0;
    while index < bytes.len() {
        if !matches!(bytes[index], 0x21 | 0x23..=0x5B | 0x5D..=0x7E) {
            return false;
        }
        index += 1;
    }
    !bytes.is_empty()
}

/// Whether a session meets a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Met,
    /// It is met if Hanko confirms the session now.
    IfLive,
    /// Boxed: the future of every authenticated request carries space for an outcome.
    Unmet(Box<Unmet>),
}

/// The requirement that a session does not meet.
///
/// ```
/// use poem::Request;
/// use poem_hanko::{Fresh, Rejection, Session, require};
///
/// async fn recent_session(request: &Request) -> Result<Session, Rejection> {
///     require::<Fresh<300>>(request).await.inspect_err(|rejection| {
///         if let Rejection::GuardNotMet(unmet, _) = rejection {
///             println!("guard {}: requires {unmet}", unmet.guard());
///         }
///     })
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmet {
    text: String,
    problem_type: ProblemType,
    challenge: Option<Challenge>,
    label: &'static str,
}

impl Unmet {
    /// Returns the rejection of a session that does not meet a requirement of the proxy, without naming the requirement.
    pub(super) fn of_proxy() -> Self {
        let text = "a claim that the proxy asks for";
        Self {
            text: text.to_owned(),
            problem_type: ProblemType::INSUFFICIENT_PERMISSION,
            challenge: Some(Challenge::InsufficientScope {
                requires: text.to_owned(),
                scope: None,
            }),
            label: "claim",
        }
    }

    /// Returns the problem type of the response.
    ///
    /// ```
    /// use poem_hanko::{ProblemType, Unmet};
    ///
    /// fn can_sign_in_again(unmet: &Unmet) -> bool {
    ///     unmet.problem_type() == ProblemType::SIGN_IN_TOO_OLD
    /// }
    /// ```
    pub fn problem_type(&self) -> ProblemType {
        self.problem_type
    }

    /// Returns the challenge of the response, or `None` if the problem type is an application's own and its status is not 403.
    ///
    /// ```
    /// use poem_hanko::{Challenge, Unmet};
    ///
    /// /// Returns how old the sign-in may be, in seconds.
    /// fn max_age(unmet: &Unmet) -> Option<u64> {
    ///     match unmet.challenge() {
    ///         Some(Challenge::InsufficientUserAuthentication { max_age, .. }) => *max_age,
    ///         _ => None,
    ///     }
    /// }
    /// ```
    pub fn challenge(&self) -> Option<&Challenge> {
        self.challenge.as_ref()
    }

    /// Returns the kind of guard: `verified-email`, `fresh`, `second-factor`, `passkey`, `strong-sign-in`, `claim`, `scope`,
    /// `custom` or `any-of`.
    ///
    /// ```
    /// use poem_hanko::Unmet;
    ///
    /// fn hint(unmet: &Unmet) -> &'static str {
    ///     match unmet.guard() {
    ///         "verified-email" => "Verify your e-mail address first.",
    ///         "fresh" | "passkey" | "second-factor" | "strong-sign-in" => "Sign in again.",
    ///         _ => "Ask an administrator for access.",
    ///     }
    /// }
    /// ```
    pub fn guard(&self) -> &'static str {
        self.label
    }
}

impl Display for Unmet {
    /// Completes the sentence "Requires …".
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl<'a> Rule<'a> {
    const fn new(test: Test<'a>) -> Self {
        Self {
            test,
            problem_type: None,
        }
    }

    pub(super) const fn all(rules: &'a [Self]) -> Self {
        Self::new(Test::All(rules))
    }

    pub(super) const fn any(rules: &'a [Self]) -> Self {
        Self::new(Test::Any(rules))
    }

    pub(super) const LIVE: Self = Self::new(Test::Live);
    pub(super) const VERIFIED_EMAIL: Self = Self::new(Test::VerifiedEmail);

    pub(super) const fn signed_in_within(seconds: u64) -> Self {
        assert!(
            seconds > 0,
            "the maximum age of a sign-in is at least 1 second"
        );
        Self::max_age(seconds)
    }

    /// Like [`signed_in_within`](Self::signed_in_within), but accepts 0.
    pub(super) const fn max_age(seconds: u64) -> Self {
        Self::new(Test::SignedInWithin { seconds })
    }

    /// Returns two rules: the claim is this string, or an array that contains it.
    pub(super) const fn string_or_element(
        name: &'a str,
        value: &'a str,
        values: &'a [&'a str; 1],
    ) -> [Self; 2] {
        [
            Self::new(Test::Claim {
                name,
                expected: Expected::String(value),
            }),
            Self::new(Test::Claim {
                name,
                expected: Expected::Strings(Quantity::Any, values),
            }),
        ]
    }

    /// `name` completes the text "a sign-in with …".
    pub(super) const fn signed_in_with(
        methods: &'static [&'static str],
        name: &'static str,
        label: &'static str,
    ) -> Self {
        Self::new(Test::SignedInWith {
            methods,
            name,
            label,
        })
    }

    /// Whether another sign-in could help to meet any part of the rule.
    const fn concerns_sign_in(&self) -> bool {
        match self.test {
            Test::SignedInWithin { .. } | Test::SignedInWith { .. } => true,
            Test::All(rules) | Test::Any(rules) => {
                let mut index = 0;
                while index < rules.len() {
                    if rules[index].concerns_sign_in() {
                        return true;
                    }
                    index += 1;
                }
                false
            }
            _ => false,
        }
    }

    /// Whether no session meets the rule without a confirmation by Hanko.
    pub(super) fn is_always_live(&self) -> bool {
        match self.test {
            Test::Live => true,
            Test::All(rules) => rules.iter().any(Self::is_always_live),
            Test::Any(rules) => !rules.is_empty() && rules.iter().all(Self::is_always_live),
            _ => false,
        }
    }

    /// Evaluates the rule. `is_live` says whether Hanko has just confirmed the session.
    pub(super) fn evaluate(&self, session: &Session, is_live: bool) -> Outcome {
        let is_met = match self.test {
            Test::All(rules) => return self.evaluate_all(rules, session, is_live),
            Test::Any(rules) => return self.evaluate_any(rules, session, is_live),
            Test::Live if is_live => true,
            Test::Live => return Outcome::IfLive,
            Test::VerifiedEmail => session.email().is_some_and(|email| email.is_verified),
            Test::SignedInWithin { seconds } => session
                .age()
                .is_some_and(|age| age.as_secs_f64() <= seconds_as_f64(seconds)),
            Test::SignedInWith { methods, .. } => session.read_claim("amr", |amr| {
                amr.is_some_and(|amr| Expected::Strings(Quantity::Any, methods).accepts(amr))
            }),
            Test::Claim { name, expected } => session.read_claim(name, |claim| {
                claim.is_some_and(|claim| expected.accepts(claim))
            }),
            Test::Custom { is_met, .. } => is_met(session),
        };
        if is_met {
            Outcome::Met
        } else {
            Outcome::Unmet(Box::new(self.unmet()))
        }
    }

    fn evaluate_all(&self, rules: &[Rule<'_>], session: &Session, is_live: bool) -> Outcome {
        let mut outcome = Outcome::Met;
        for rule in rules {
            match rule.evaluate(session, is_live) {
                Outcome::Met => {}
                Outcome::IfLive => outcome = Outcome::IfLive,
                Outcome::Unmet(unmet) if self.problem_type.is_none() => {
                    return Outcome::Unmet(unmet);
                }
                Outcome::Unmet(unmet) => {
                    return Outcome::Unmet(Box::new(self.unmet_like(*unmet)));
                }
            }
        }
        outcome
    }

    fn evaluate_any(&self, rules: &[Rule<'_>], session: &Session, is_live: bool) -> Outcome {
        let mut reported: Option<Unmet> = None;
        let mut is_met_if_live = false;
        let mut max_ages = Vec::new();
        for rule in rules {
            let outcome = rule.evaluate(session, is_live);
            if let Outcome::Unmet(unmet) = &outcome {
                max_ages.extend(unmet.max_age());
            }
            match outcome {
                Outcome::Met => return Outcome::Met,
                Outcome::IfLive => is_met_if_live = true,
                // The user can sign in again, so a requirement on the sign-in is reported rather than another one.
                Outcome::Unmet(unmet)
                    if reported.as_ref().is_none_or(|reported| {
                        unmet.asks_for_sign_in() && !reported.asks_for_sign_in()
                    }) =>
                {
                    reported = Some(*unmet);
                }
                Outcome::Unmet(_) => {}
            }
        }
        if is_met_if_live {
            return Outcome::IfLive;
        }
        let mut unmet = match reported {
            Some(reported) => self.unmet_like(reported),
            None => self.unmet(),
        };
        match &mut unmet.challenge {
            // The scopes are only one of several ways to meet the rule.
            Some(Challenge::InsufficientScope { scope, .. }) => *scope = None,
            Some(Challenge::InsufficientUserAuthentication { max_age, .. }) => {
                *max_age = max_ages.into_iter().max();
            }
            _ => {}
        }
        Outcome::Unmet(Box::new(unmet))
    }

    /// Returns the rejection by a rule that has no parts.
    fn unmet(&self) -> Unmet {
        let text = self.to_string();
        let (problem_type, challenge) = match self.test {
            Test::SignedInWithin { seconds } => (
                ProblemType::SIGN_IN_TOO_OLD,
                Challenge::InsufficientUserAuthentication {
                    requires: text.clone(),
                    max_age: Some(seconds),
                },
            ),
            Test::SignedInWith { .. } => (
                ProblemType::SIGN_IN_TOO_OLD,
                Challenge::InsufficientUserAuthentication {
                    requires: text.clone(),
                    max_age: None,
                },
            ),
            _ => (
                ProblemType::INSUFFICIENT_PERMISSION,
                Challenge::InsufficientScope {
                    requires: text.clone(),
                    scope: self.scope(),
                },
            ),
        };
        self.unmet_like(Unmet {
            text,
            problem_type,
            challenge: Some(challenge),
            label: self.label(),
        })
    }

    /// Returns the rejection by this rule because of a `part` that is not met.
    fn unmet_like(&self, part: Unmet) -> Unmet {
        let text = self.to_string();
        let challenge = match (self.problem_type, part.challenge) {
            (None, Some(challenge)) => Some(challenge.requiring(text.clone())),
            (Some(problem_type), _) if problem_type.status() == StatusCode::FORBIDDEN => {
                Some(Challenge::InsufficientScope {
                    requires: text.clone(),
                    scope: self.scope(),
                })
            }
            _ => None,
        };
        Unmet {
            text,
            problem_type: self.problem_type.unwrap_or(part.problem_type),
            challenge,
            label: self.label(),
        }
    }

    /// Returns the scopes that a token needs, if there is only one way to meet the rule.
    fn scope(&self) -> Option<String> {
        match self.test {
            Test::Claim {
                expected: Expected::Scopes(quantity, scopes),
                ..
            } if quantity == Quantity::All || scopes.len() == 1 => Some(scopes.join(" ")),
            _ => None,
        }
    }

    fn label(&self) -> &'static str {
        match self.test {
            Test::All(_) => "all-of",
            Test::Any(_) => "any-of",
            Test::Live => "live",
            Test::VerifiedEmail => "verified-email",
            Test::SignedInWithin { .. } => "fresh",
            Test::SignedInWith { label, .. } => label,
            Test::Claim {
                expected: Expected::Scopes(..),
                ..
            } => "scope",
            Test::Claim { .. } => "claim",
            Test::Custom { .. } => "custom",
        }
    }

    /// Returns the problem types of the rule's rejections.
    pub(crate) fn problem_types(&self) -> Vec<ProblemType> {
        let own = match self.test {
            Test::All(rules) => rules.iter().flat_map(Self::problem_types).collect(),
            Test::Any(rules) => {
                let of_each: Vec<_> = rules.iter().map(Self::problem_types).collect();
                if of_each.iter().any(Vec::is_empty) {
                    // The rule itself never rejects: one part requires nothing, or asks Hanko, and then authentication fails.
                    vec![]
                } else if of_each.contains(&vec![ProblemType::SIGN_IN_TOO_OLD]) {
                    vec![ProblemType::SIGN_IN_TOO_OLD]
                } else {
                    of_each.concat()
                }
            }
            Test::Live => vec![],
            Test::SignedInWithin { .. } | Test::SignedInWith { .. } => {
                vec![ProblemType::SIGN_IN_TOO_OLD]
            }
            Test::VerifiedEmail | Test::Claim { .. } | Test::Custom { .. } => {
                vec![ProblemType::INSUFFICIENT_PERMISSION]
            }
        };
        match self.problem_type {
            Some(problem_type) if !own.is_empty() => vec![problem_type],
            _ => own,
        }
    }

    /// Whether nothing is required.
    pub(crate) fn is_empty(&self) -> bool {
        match self.test {
            Test::All(rules) => rules.iter().all(Self::is_empty),
            _ => false,
        }
    }
}

impl Unmet {
    fn asks_for_sign_in(&self) -> bool {
        self.problem_type == ProblemType::SIGN_IN_TOO_OLD
    }

    fn max_age(&self) -> Option<u64> {
        match self.challenge {
            Some(Challenge::InsufficientUserAuthentication { max_age, .. }) => max_age,
            _ => None,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "no sign-in is 2^53 seconds old")]
fn seconds_as_f64(seconds: u64) -> f64 {
    seconds as f64
}

impl Expected<'_> {
    fn accepts(self, claim: &Value) -> bool {
        match (self, claim) {
            (Self::String(expected), Value::String(claim)) => claim == expected,
            (Self::Number(expected), Value::Number(claim)) => equals_number(expected, claim),
            (Self::Boolean(expected), Value::Bool(claim)) => *claim == expected,
            (
                Self::Strings(quantity, expected) | Self::Scopes(quantity, expected),
                Value::Array(claim),
            ) => strings(claim)
                .is_some_and(|claim| quantity.holds(expected, |value| claim.contains(&value))),
            (Self::Scopes(quantity, expected), Value::String(claim)) => quantity
                .holds(expected, |value| {
                    claim.split(' ').any(|scope| scope == value)
                }),
            _ => false,
        }
    }
}

impl Quantity {
    fn holds(self, expected: &[&str], mut is_present: impl FnMut(&str) -> bool) -> bool {
        match self {
            Self::Any => expected.iter().any(|value| is_present(value)),
            Self::All => expected.iter().all(|value| is_present(value)),
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Any => " or ",
            Self::All => " and ",
        }
    }
}

/// Returns the elements if all of them are strings.
fn strings(values: &[Value]) -> Option<Vec<&str>> {
    values.iter().map(Value::as_str).collect()
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "below 2^53, both numbers are exact"
)]
fn equals_number(expected: f64, claim: &Number) -> bool {
    let integer = claim
        .as_i64()
        .map(i128::from)
        .or(claim.as_u64().map(i128::from));
    match integer {
        // Compared as integers, because the claim may not be exact as a double.
        Some(integer) => expected.fract() == 0.0 && integer == expected as i128,
        None => claim.as_f64() == Some(expected),
    }
}

impl Display for Rule<'_> {
    /// Completes the sentence "Requires …".
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.test {
            Test::All(rules) => join(formatter, rules, ", and "),
            Test::Any(rules) => join(formatter, rules, ", or "),
            Test::Live => formatter.write_str("that Hanko confirms the session now"),
            Test::VerifiedEmail => formatter.write_str("a verified e-mail address"),
            Test::SignedInWithin { seconds } => {
                write!(formatter, "a sign-in within the last {seconds} seconds")
            }
            Test::SignedInWith { name, .. } => write!(formatter, "a sign-in with {name}"),
            Test::Claim { name, expected } => {
                write!(formatter, "the claim `{name}` to {expected}")
            }
            Test::Custom { text, .. } => formatter.write_str(text),
        }
    }
}

impl fmt::Debug for Requirement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Requirement({})", self.0)
    }
}

impl Display for Expected<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::String(value) => write!(formatter, "be `{value}`"),
            Self::Number(value) => write!(formatter, "be the number {value}"),
            Self::Boolean(value) => write!(formatter, "be {value}"),
            Self::Strings(quantity, values) => {
                formatter.write_str("contain ")?;
                list(formatter, values, *quantity)
            }
            Self::Scopes(quantity, values) => {
                formatter.write_str(if values.len() == 1 {
                    "contain the scope "
                } else {
                    "contain the scopes "
                })?;
                list(formatter, values, *quantity)
            }
        }
    }
}

fn join(formatter: &mut fmt::Formatter<'_>, rules: &[Rule<'_>], word: &str) -> fmt::Result {
    let rules: Vec<&Rule<'_>> = rules.iter().filter(|rule| !rule.is_empty()).collect();
    for (index, rule) in rules.iter().enumerate() {
        if index > 0 {
            formatter.write_str(word)?;
        }
        let is_nested = rules.len() > 1
            && matches!(rule.test, Test::All(parts) | Test::Any(parts) if parts.len() > 1);
        if is_nested {
            write!(formatter, "({rule})")?;
        } else {
            write!(formatter, "{rule}")?;
        }
    }
    Ok(())
}

fn list(formatter: &mut fmt::Formatter<'_>, values: &[&str], quantity: Quantity) -> fmt::Result {
    for (index, value) in values.iter().enumerate() {
        if index > 0 {
            formatter.write_str(quantity.word())?;
        }
        write!(formatter, "`{value}`")?;
    }
    Ok(())
}
