//! The response headers that the document describes.

use poem_openapi::{
    registry::{MetaHeader, MetaSchemaRef},
    types::Type,
};
use serde_json::{Map, Value, json};

/// A response header that has the same meaning in every response.
pub(super) struct ResponseHeader {
    /// Its name, which is also that of its component.
    pub(super) name: &'static str,
    description: &'static str,
    /// The same in every response, since some generators need one type for all of them.
    is_required: bool,
    meta_schema: fn() -> MetaSchemaRef,
    schema: fn() -> Value,
    example: fn() -> Value,
}

pub(super) const REQUEST_ID: ResponseHeader = ResponseHeader {
    name: "X-Request-Id",
    description: "Identifies the request: the id that came with the request if it is 1 to 64 letters, digits, `-`, \
        `_` or `.`, otherwise a new one.",
    is_required: true,
    meta_schema: String::schema_ref,
    schema: || json!({ "type": "string", "minLength": 1, "maxLength": 64, "pattern": "^[A-Za-z0-9._-]+$" }),
    example: || json!("6f1a40f50d2b4d2c9c530e6f2f4354b2"),
};

// Not required, because a 400 or 403 may have no challenge.
pub(super) const CHALLENGE: ResponseHeader = ResponseHeader {
    name: "WWW-Authenticate",
    description: "The challenge (RFC 6750, RFC 9470): `Bearer`, with `error` and `error_description` where a credential was \
        sent. Every 401 has one.",
    is_required: false,
    meta_schema: String::schema_ref,
    schema: || json!({ "type": "string" }),
    example: || json!(r#"Bearer error="invalid_token", error_description="the session has ended""#),
};

pub(super) const RETRY_AFTER: ResponseHeader = ResponseHeader {
    name: "Retry-After",
    description: "Seconds to wait before another attempt.",
    is_required: true,
    meta_schema: u32::schema_ref,
    schema: || json!({ "type": "integer", "format": "uint32", "minimum": 1 }),
    example: || json!(1),
};

/// Sent by `GET /` if the service has documentation.
pub(super) const LINK: ResponseHeader = ResponseHeader {
    name: "Link",
    description: "The documentation and this document (RFC 8631), if the service serves them.",
    is_required: false,
    meta_schema: String::schema_ref,
    schema: || json!({ "type": "string" }),
    example: || json!(ROOT_LINK),
};

/// The value of `Link` at `/`.
pub(super) const ROOT_LINK: &str = r#"<docs>; rel="service-doc"; type="text/html", <openapi.json>; rel="service-desc"; type="application/json""#;

/// All headers, in the order of the document.
pub(super) const ALL: [ResponseHeader; 4] = [CHALLENGE, LINK, RETRY_AFTER, REQUEST_ID];

impl ResponseHeader {
    /// Returns the header as Poem documents it.
    pub(super) fn meta(&self) -> MetaHeader {
        MetaHeader {
            name: self.name.to_owned(),
            description: Some(self.description.to_owned()),
            required: self.is_required,
            deprecated: false,
            schema: (self.meta_schema)(),
        }
    }

    /// Returns a reference to the component.
    pub(super) fn reference(&self) -> Value {
        json!({ "$ref": format!("#/components/headers/{}", self.name) })
    }

    /// Returns the component.
    pub(super) fn component(&self) -> Value {
        let mut component = json!({ "description": self.description });
        if self.is_required {
            component["required"] = json!(true);
        }
        component["schema"] = (self.schema)();
        component["example"] = (self.example)();
        component
    }

    /// Whether a header of a response is this one. An application may use the same name for something else.
    pub(super) fn describes(&self, name: &str, header: &Map<String, Value>) -> bool {
        name == self.name && header.get("description") == Some(&json!(self.description))
    }
}
