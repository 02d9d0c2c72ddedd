//! The HTML of the sign-in page.

use poem::{
    IntoResponse, Response,
    http::{HeaderValue, StatusCode, header},
    web::Html,
};

use super::form::{Form, METHODS, Mistake};
use crate::{
    auth::Rejection,
    edge::html::{STYLE, escape, fill},
    hanko::Session,
};

const CONTENT_SECURITY_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'; base-uri 'none'; \
     frame-ancestors 'none'",
);

/// The page that signs a person in.
pub(super) struct SignInPage {
    /// The notice about the session of this browser, as HTML.
    pub(super) notice: String,
    pub(super) form: Form,
    pub(super) mistake: Option<Mistake>,
    pub(super) has_docs: bool,
}

impl SignInPage {
    pub(super) fn into_response(self, status: StatusCode) -> Response {
        let mut response = Html(self.to_html()).into_response();
        response.set_status(status);
        response
            .headers_mut()
            .insert(header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY);
        response
    }

    fn to_html(&self) -> String {
        let form = &self.form;
        let checked = |is_checked| if is_checked { " checked" } else { "" };
        fill(include_str!("sign_in.html"), |name| match name {
            "style" => STYLE.into(),
            "notice" => self.notice.as_str().into(),
            "email" => escape(&form.email).into(),
            "unverified" => checked(form.is_unverified).into(),
            "username" => escape(&form.username).into(),
            "open" if self.has_mistake(&["amr", "signed_in_ago", "claims"]) => " open".into(),
            "methods" => self.methods().into(),
            "signed_in_ago" => escape(&form.signed_in_ago).into(),
            "claims" => escape(&form.claims).into(),
            "action" if self.has_docs => "Sign in and open Swagger UI".into(),
            "action" => "Sign in".into(),
            "docs" if self.has_docs => DOCS_LINK.into(),
            _ => match name.split_once(':') {
                Some(("attributes", field)) => self.attributes(field).into(),
                Some(("mistake", field)) => self.mistake_in(field).into(),
                _ => "".into(),
            },
        })
    }

    fn has_mistake(&self, fields: &[&str]) -> bool {
        let mistake = self.mistake.as_ref();
        mistake.is_some_and(|mistake| fields.contains(&mistake.field))
    }

    /// Returns the attributes of a field. A field with a mistake gets the focus, and screen readers read the message with it.
    fn attributes(&self, field: &str) -> String {
        if self.has_mistake(&[field]) {
            format!(r#" aria-invalid="true" aria-describedby="{field}-mistake" autofocus"#)
        } else if field == "email" && self.mistake.is_none() {
            " autofocus".to_owned()
        } else {
            String::new()
        }
    }

    fn mistake_in(&self, field: &str) -> String {
        let mistake = self.mistake.as_ref();
        let mistake = mistake.filter(|mistake| mistake.field == field);
        mistake.map_or_else(String::new, |mistake| {
            let message = escape(&mistake.message);
            format!(r#"<p class="mistake" id="{field}-mistake">{message}</p>"#)
        })
    }

    fn methods(&self) -> String {
        let mut boxes = String::new();
        for (value, meaning) in METHODS {
            let is_chosen = self.form.methods.iter().any(|method| method == value);
            boxes.push_str(&fill(METHOD_BOX, |name| match name {
                "value" => value.into(),
                "checked" if is_chosen => " checked".into(),
                "meaning" => meaning.into(),
                _ => "".into(),
            }));
        }
        boxes
    }
}

const METHOD_BOX: &str = r#"<label class="box"><input type="checkbox" name="amr" value="{{value}}"{{checked}}>
          <span><code>{{value}}</code>: {{meaning}}</span></label>
        "#;

const DOCS_LINK: &str =
    r#"<p><a href="../docs">Swagger UI</a> sends requests with this session.</p>"#;

/// Returns the notice about the session of a browser, as HTML. `is_at_hanko` returns whether the local Hanko has a session.
pub(super) fn notice(
    outcome: &Result<Option<Session>, Rejection>,
    is_at_hanko: impl Fn(&Session) -> bool,
) -> String {
    match outcome {
        Ok(None) => String::new(),
        Ok(Some(session)) if is_at_hanko(session) => fill(
            include_str!("signed_in.html"),
            |placeholder| match placeholder {
                "name" => escape(&name(session)).into(),
                _ => session.id().to_string().into(),
            },
        ),
        Ok(Some(session)) => information(&format!(
            "The session of {} has ended at Hanko. This API accepts it until it asks Hanko again.",
            name(session)
        )),
        Err(Rejection::SessionEnded(_)) => information(
            "The session has ended. Its cookie is still in this browser, so that you can see the API reject it.",
        ),
        Err(rejection) => information(&format!(
            "The API rejects the cookie of this browser: {rejection}. Sign in to replace it."
        )),
    }
}

/// Returns a notice with this text, as HTML.
pub(super) fn information(text: &str) -> String {
    format!(r#"<p class="notice" role="status">{}</p>"#, escape(text))
}

/// Returns the e-mail address, the user name or the id of the session's user.
fn name(session: &Session) -> String {
    let email = session.email().map(|email| email.address.clone());
    email
        .or_else(|| session.username().map(ToOwned::to_owned))
        .unwrap_or_else(|| session.user_id().to_string())
}
