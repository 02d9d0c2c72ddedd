//! Deserializes claims into types of the application.

use std::fmt;

use serde::{
    Deserializer,
    de::{
        DeserializeOwned, DeserializeSeed, Error, MapAccess, Unexpected, Visitor,
        value::StringDeserializer,
    },
    forward_to_deserialize_any,
};
use serde_json::{Map, Value, map};

/// Why claims cannot be read into a type. The message names the claim and never repeats its value.
///
/// ```
/// use poem_hanko::{ClaimError, Session};
///
/// fn role(session: &Session) -> Result<String, ClaimError> {
///     match session.claim("role") {
///         Ok(role) => Ok(role.unwrap_or_else(|| "guest".to_owned())),
///         Err(ClaimError::Malformed(_)) => Ok("guest".to_owned()),
///         Err(error) => Err(error),
///     }
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimError {
    /// The type requires a claim that the token does not have.
    #[error("the session token lacks the claim `{0}`")]
    Missing(String),
    /// The claim does not have the form that the type requires.
    #[error("the claim `{0}` of the session token does not have the expected form")]
    Malformed(String),
    /// The claims as a whole do not have the form that the type requires.
    #[error("the claims of the session token do not have the expected form")]
    Unexpected,
}

impl Error for ClaimError {
    /// Drops the message, which may repeat the value of a claim.
    fn custom<T: fmt::Display>(_message: T) -> Self {
        Self::Unexpected
    }

    fn invalid_type(_unexpected: Unexpected<'_>, _expected: &dyn serde::de::Expected) -> Self {
        Self::Unexpected
    }

    fn missing_field(field: &'static str) -> Self {
        Self::Missing(field.to_owned())
    }

    fn unknown_field(field: &str, _expected: &'static [&'static str]) -> Self {
        Self::Malformed(field.to_owned())
    }
}

/// Reads a Claims Set.
pub(super) fn read_all<T: DeserializeOwned>(claims: Map<String, Value>) -> Result<T, ClaimError> {
    T::deserialize(Reader(claims))
}

/// Reads one claim, or a part of it. `name` is used in the error only.
pub(super) fn read_one<T: DeserializeOwned>(name: &str, value: &Value) -> Result<T, ClaimError> {
    T::deserialize(value).map_err(|_| ClaimError::Malformed(name.to_owned()))
}

/// Deserializes a Claims Set, with errors that name the claim. Those of `serde_json` repeat values.
struct Reader(Map<String, Value>);

impl<'de> Deserializer<'de> for Reader {
    type Error = ClaimError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ClaimError> {
        visitor.visit_map(Members {
            members: self.0.into_iter(),
            next: None,
        })
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, ClaimError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ClaimError> {
        visitor.visit_some(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct enum identifier ignored_any
    }
}

struct Members {
    members: map::IntoIter,
    next: Option<(String, Value)>,
}

impl<'de> MapAccess<'de> for Members {
    type Error = ClaimError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, ClaimError> {
        let Some((name, value)) = self.members.next() else {
            return Ok(None);
        };
        let key = seed.deserialize(StringDeserializer::new(name.clone()))?;
        self.next = Some((name, value));
        Ok(Some(key))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> Result<V::Value, ClaimError> {
        let (name, value) = self.next.take().ok_or(ClaimError::Unexpected)?;
        seed.deserialize(value)
            .map_err(|_| ClaimError::Malformed(name))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Claims {
        role: Role,
        #[serde(default)]
        seats: Option<u32>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Role {
        Admin,
        Member,
    }

    fn read<T: DeserializeOwned>(claims: Value) -> Result<T, ClaimError> {
        let Value::Object(claims) = claims else {
            panic!("an object");
        };
        read_all(claims)
    }

    #[test]
    fn claims_are_read_into_a_struct() {
        let expected = Claims {
            role: Role::Admin,
            seats: Some(3),
        };
        let claims = json!({ "role": "admin", "seats": 3, "other": [1] });
        assert_eq!(read(claims), Ok(expected));
        let expected = Claims {
            role: Role::Member,
            seats: None,
        };
        assert_eq!(read(json!({ "role": "member" })), Ok(expected));
    }

    #[test]
    fn claims_are_read_into_maps_and_wrappers() {
        #[derive(Debug, PartialEq, Deserialize)]
        struct Wrapper(BTreeMap<String, Value>);

        let claims = json!({ "a": 1, "b": null });
        let expected = BTreeMap::from([("a".to_owned(), json!(1)), ("b".to_owned(), Value::Null)]);
        assert_eq!(read(claims.clone()), Ok(expected.clone()));
        assert_eq!(read(claims.clone()), Ok(Some(Wrapper(expected))));
        assert_eq!(read::<Value>(claims.clone()), Ok(claims));
    }

    #[test]
    fn claim_errors_name_the_claim_and_hide_its_value() {
        #[derive(Debug, PartialEq, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Strict {}

        #[derive(Debug, PartialEq, Deserialize)]
        #[serde(untagged)]
        enum Untagged {
            One { one: u8 },
        }

        let error = read::<Claims>(json!({ "seats": 3 })).unwrap_err();
        assert_eq!(error, ClaimError::Missing("role".to_owned()));
        for claims in [
            json!({ "role": "secret" }),
            json!({ "role": 1_234_567 }),
            json!({ "role": { "secret": 1 } }),
        ] {
            let error = read::<Claims>(claims).unwrap_err();
            assert_eq!(error, ClaimError::Malformed("role".to_owned()));
        }
        let error = read::<Claims>(json!({ "role": "admin", "seats": -1 })).unwrap_err();
        assert_eq!(error, ClaimError::Malformed("seats".to_owned()));
        let error = read::<Strict>(json!({ "role": "secret" })).unwrap_err();
        assert_eq!(error, ClaimError::Malformed("role".to_owned()));
        let error = read::<Untagged>(json!({ "one": "secret" })).unwrap_err();
        assert_eq!(error, ClaimError::Unexpected);
        assert_eq!(read::<String>(json!({})), Err(ClaimError::Unexpected));
        let error = read_one::<Role>("role", &json!("secret")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the claim `role` of the session token does not have the expected form"
        );
    }
}
