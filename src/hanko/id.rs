//! The ids of users and sessions at Hanko.

use std::{borrow::Cow, fmt, str::FromStr};

use poem::http::HeaderValue;
use poem_openapi::{
    registry::{MetaSchema, MetaSchemaRef},
    types::{ParseError, ParseFromJSON, ParseFromParameter, ParseResult, ToHeader, ToJSON, Type},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;
use uuid::Uuid;

/// A text is not the id of a user or session.
///
/// ```
/// use poem_hanko::{IdError, UserId};
///
/// let parsed: Result<UserId, IdError> = "42".parse();
/// if let Err(error) = parsed {
///     println!("the user id {error}");
/// }
/// # assert!(parsed.is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a UUID such as 019c0000-0000-7000-8000-000000000000")]
pub struct IdError(());

/// Parses a UUID as Hanko writes it: hyphenated (RFC 9562 section 4). Rejects the braced, `urn:` and plain forms, so
/// that two spellings of one id differ only in case.
fn parse(text: &str) -> Result<Uuid, IdError> {
    const HYPHENATED_LENGTH: usize = 36;
    if text.len() != HYPHENATED_LENGTH {
        return Err(IdError(()));
    }
    Uuid::try_parse(text).map_err(|_| IdError(()))
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// Returns the id as a UUID.
            ///
            /// ```
            /// use poem_hanko::{SessionId, UserId};
            ///
            /// // For the columns of a database.
            /// let session: SessionId = "9657906e-4e86-42d0-b020-a7dcb0f20e24".parse()?;
            /// let user: UserId = "019c0000-0000-7000-8000-0000000000ab".parse()?;
            /// let row = (session.as_uuid(), user.as_uuid());
            /// assert_eq!(UserId::from(row.1), user);
            /// # Ok::<(), poem_hanko::IdError>(())
            /// ```
            pub fn as_uuid(self) -> Uuid {
                self.0
            }
        }

        impl From<Uuid> for $name {
            fn from(uuid: Uuid) -> Self {
                Self(uuid)
            }
        }

        impl From<$name> for Uuid {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            /// Parses a hyphenated UUID.
            fn from_str(text: &str) -> Result<Self, IdError> {
                parse(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(formatter)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }

        impl Type for $name {
            const IS_REQUIRED: bool = true;

            type RawValueType = Self;
            type RawElementValueType = Self;

            fn name() -> Cow<'static, str> {
                "string_uuid".into()
            }

            fn schema_ref() -> MetaSchemaRef {
                MetaSchemaRef::Inline(Box::new(MetaSchema::new_with_format("string", "uuid")))
            }

            fn as_raw_value(&self) -> Option<&Self> {
                Some(self)
            }

            fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
                Box::new(self.as_raw_value().into_iter())
            }
        }

        impl ParseFromJSON for $name {
            fn parse_from_json(value: Option<Value>) -> ParseResult<Self> {
                match value.unwrap_or_default() {
                    Value::String(text) => text.parse().map_err(ParseError::custom),
                    other => Err(ParseError::expected_type(other)),
                }
            }
        }

        impl ParseFromParameter for $name {
            fn parse_from_parameter(text: &str) -> ParseResult<Self> {
                text.parse().map_err(ParseError::custom)
            }
        }

        impl ToJSON for $name {
            fn to_json(&self) -> Option<Value> {
                Some(Value::String(self.to_string()))
            }
        }

        impl ToHeader for $name {
            fn to_header(&self) -> Option<HeaderValue> {
                HeaderValue::from_str(&self.to_string()).ok()
            }
        }
    };
}

id! {
    /// The id of a session at Hanko (`session_id`). It proves nothing, unlike a [`Session`](super::Session): anybody can
    /// create one.
    ///
    /// ```
    /// use poem_hanko::SessionId;
    ///
    /// let id: SessionId = "9657906e-4e86-42d0-b020-a7dcb0f20e24".parse()?;
    /// assert_eq!(id.to_string(), "9657906e-4e86-42d0-b020-a7dcb0f20e24");
    /// assert!("9657906e".parse::<SessionId>().is_err());
    /// # Ok::<(), poem_hanko::IdError>(())
    /// ```
    SessionId
}
id! {
    /// The id of a user at Hanko (`sub`). It proves nothing, unlike a [`Session`](super::Session): anybody can create one.
    ///
    /// ```
    /// use poem_hanko::UserId;
    ///
    /// #[derive(serde::Deserialize, serde::Serialize)]
    /// struct Note {
    ///     owner: UserId,
    /// }
    ///
    /// let json = r#"{"owner":"019c0000-0000-7000-8000-0000000000ab"}"#;
    /// let note: Note = serde_json::from_str(json)?;
    /// assert_eq!(serde_json::to_string(&note)?, json);
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    UserId
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TEXT: &str = "019c0000-0000-7000-8000-0000000000ab";

    #[test]
    fn ids_are_parsed_and_written_as_hyphenated_uuids() {
        let id: UserId = TEXT.parse().unwrap();
        assert_eq!(id.to_string(), TEXT);
        assert_eq!(
            UserId::from(Uuid::try_parse(TEXT).unwrap()),
            TEXT.to_uppercase().parse().unwrap()
        );
        assert_eq!(serde_json::to_value(id).unwrap(), json!(TEXT));
        assert_eq!(serde_json::from_value::<UserId>(json!(TEXT)).unwrap(), id);
        assert_eq!(id.to_json(), Some(json!(TEXT)));
        assert_eq!(UserId::parse_from_json(Some(json!(TEXT))).unwrap(), id);
        assert_eq!(UserId::parse_from_parameter(TEXT).unwrap(), id);
    }

    #[test]
    fn other_forms_of_ids_are_rejected() {
        for text in [
            "",
            "019c00000000700080000000000000ab",
            "{019c0000-0000-7000-8000-0000000000ab}",
            "urn:uuid:019c0000-0000-7000-8000-0000000000ab",
            "019c0000-0000-7000-8000-0000000000a",
            "019c0000-0000-7000-8000-0000000000ag",
        ] {
            assert!(text.parse::<SessionId>().is_err(), "{text}");
            assert!(serde_json::from_value::<SessionId>(json!(text)).is_err());
            assert!(SessionId::parse_from_json(Some(json!(text))).is_err());
            assert!(SessionId::parse_from_parameter(text).is_err(), "{text}");
        }
        assert!(SessionId::parse_from_json(None).is_err());
        assert!(SessionId::parse_from_json(Some(json!(1))).is_err());
    }
}
