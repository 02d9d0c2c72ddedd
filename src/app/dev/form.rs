//! The form of the sign-in page.

use std::time::Duration;

use serde_json::{Map, Value};
use url::form_urlencoded;

use crate::{
    app::config::duration,
    testing::{Person, SESSION_LIFESPAN},
};

/// The longest address that can receive mail (RFC 5321 section 4.5.3.1.3), and long enough for a user name.
const MAX_FIELD_BYTES: usize = 254;

/// The values of `amr` that the form offers, and what they mean.
pub(super) const METHODS: [(&str, &str); 5] = [
    ("pwd", "password"),
    ("passkey", "passkey"),
    ("otp", "passcode by e-mail"),
    ("totp", "authenticator app"),
    ("security_key", "security key"),
];

/// The fields as they were entered.
#[derive(Debug, Default)]
pub(super) struct Form {
    pub(super) email: String,
    pub(super) is_unverified: bool,
    pub(super) username: String,
    pub(super) methods: Vec<String>,
    pub(super) signed_in_ago: String,
    pub(super) claims: String,
}

/// An error in the form, because of which nobody is signed in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mistake {
    /// The name of the field.
    pub(super) field: &'static str,
    pub(super) message: String,
}

impl Mistake {
    pub(super) fn new(field: &'static str, message: impl Into<String>) -> Self {
        Self {
            field,
            message: message.into(),
        }
    }
}

impl Form {
    /// Returns the form as the page first shows it: a user with a verified e-mail address who signs in now with a password.
    pub(super) fn example() -> Self {
        Self {
            email: "ada@example.com".to_owned(),
            methods: vec!["pwd".to_owned()],
            signed_in_ago: "0s".to_owned(),
            ..Self::default()
        }
    }

    /// Reads a body of `application/x-www-form-urlencoded`. A field that is absent is empty.
    pub(super) fn read(body: &[u8]) -> Self {
        let mut form = Self::default();
        for (name, value) in form_urlencoded::parse(body) {
            let value = value.trim().to_owned();
            match &*name {
                "email" => form.email = value,
                "unverified" => form.is_unverified = true,
                "username" => form.username = value,
                "amr" => form.methods.push(value),
                "signed_in_ago" => form.signed_in_ago = value,
                "claims" => form.claims = value,
                _ => {}
            }
        }
        form
    }

    /// Returns the person, and how long ago the sign-in was.
    pub(super) fn person(&self) -> Result<(Person, Duration), Mistake> {
        let mut person = Person::default().without_email();
        if !self.email.is_empty() {
            check_email(&self.email).map_err(|message| Mistake::new("email", message))?;
            person = if self.is_unverified {
                person.unverified_email(&self.email)
            } else {
                person.verified_email(&self.email)
            };
        }
        if !self.username.is_empty() {
            if !is_plain(&self.username) {
                let message = format!("A user name has at most {MAX_FIELD_BYTES} bytes.");
                return Err(Mistake::new("username", message));
            }
            person = person.username(&self.username);
        }
        let is_known = |method: &String| METHODS.iter().any(|(known, _)| known == method);
        if !self.methods.iter().all(is_known) {
            let message = "This is not a method that the form offers.";
            return Err(Mistake::new("amr", message));
        }
        let age = self
            .age()
            .map_err(|message| Mistake::new("signed_in_ago", message))?;
        let claims = self
            .custom_claims()
            .map_err(|message| Mistake::new("claims", message))?;
        let person = person.amr(&self.methods).signed_in_ago(age).claims(claims);
        Ok((person, age))
    }

    fn age(&self) -> Result<Duration, String> {
        if self.signed_in_ago.is_empty() {
            return Ok(Duration::ZERO);
        }
        let age = duration(&self.signed_in_ago)
            .map_err(|_| "This is not a duration such as 90s, 10m or 2h.".to_owned())?;
        if age >= SESSION_LIFESPAN {
            return Err(format!(
                "A session lasts {} hours, so this one would have expired.",
                SESSION_LIFESPAN.as_secs() / 3600
            ));
        }
        Ok(age)
    }

    fn custom_claims(&self) -> Result<Map<String, Value>, String> {
        if self.claims.is_empty() {
            return Ok(Map::new());
        }
        let claims = match serde_json::from_str(&self.claims) {
            Ok(Value::Object(claims)) => claims,
            Ok(_) => {
                return Err(r#"This is not a JSON object such as {"role": "admin"}."#.to_owned());
            }
            Err(error) => return Err(format!("This is not JSON: {error}.")),
        };
        for name in claims.keys() {
            if name == "cnf" {
                return Err(
                    "`cnf` binds a token to a key, and such tokens are rejected.".to_owned(),
                );
            }
            if Person::RESERVED_CLAIMS.contains(&name.as_str()) {
                return Err(format!(
                    "`{name}` cannot be a custom claim: Hanko sets it, and ignores it in a JWT template."
                ));
            }
            if name == "amr" && !self.methods.is_empty() {
                return Err(
                    "`amr` is set by the boxes above: uncheck them all, or remove it here."
                        .to_owned(),
                );
            }
        }
        Ok(claims)
    }
}

fn check_email(email: &str) -> Result<(), &'static str> {
    let has_both_sides = email
        .rsplit_once('@')
        .is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty());
    if has_both_sides && is_plain(email) && !email.contains(char::is_whitespace) {
        Ok(())
    } else {
        Err("This is not an e-mail address.")
    }
}

fn is_plain(value: &str) -> bool {
    value.len() <= MAX_FIELD_BYTES && !value.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(body: &str) -> Form {
        Form::read(body.as_bytes())
    }

    #[test]
    fn mistake_names_its_field_and_what_is_wrong() {
        for (body, field, part) in [
            ("email=ada", "email", "not an e-mail address"),
            ("email=a+b@example.com", "email", "not an e-mail address"),
            ("email=@example.com", "email", "not an e-mail address"),
            ("username=a%00b", "username", "254 bytes"),
            ("amr=pwd&amr=face", "amr", "not a method"),
            (
                "signed_in_ago=yesterday",
                "signed_in_ago",
                "such as 90s, 10m or 2h",
            ),
            ("signed_in_ago=12h", "signed_in_ago", "would have expired"),
            (
                "claims=role",
                "claims",
                "not JSON: expected value at line 1",
            ),
            (r#"claims=["admin"]"#, "claims", "not a JSON object"),
            (
                r#"claims={"sub":"a"}"#,
                "claims",
                "`sub` cannot be a custom claim",
            ),
            (
                r#"claims={"amr":"totp"}&amr=pwd"#,
                "claims",
                "uncheck them all",
            ),
        ] {
            let mistake = form(body).person().unwrap_err();
            assert_eq!(mistake.field, field, "{body}");
            assert!(
                mistake.message.contains(part),
                "{body}: {}",
                mistake.message
            );
        }
    }

    #[test]
    fn every_reserved_name_is_rejected() {
        for name in Person::RESERVED_CLAIMS {
            let claims = format!(r#"{{"role":"admin","{name}":1}}"#);
            let form = Form {
                claims,
                ..Form::example()
            };
            let mistake = form.person().unwrap_err();
            assert!(
                mistake.message.starts_with(&format!("`{name}` ")),
                "{}",
                mistake.message
            );
        }
    }

    #[test]
    fn empty_form_is_a_person_without_anything() {
        assert!(form("").person().is_ok());
        assert!(Form::example().person().is_ok());
    }
}
