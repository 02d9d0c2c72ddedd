//! JSON objects in which no member occurs twice, at any depth.
//!
//! RFC 7515 section 4 and RFC 7519 section 4 allow a parser to use the last of several members with the same name. Two
//! parsers that choose differently would read different claims from one token, so such an object is rejected here.

use std::{borrow::Cow, collections::HashSet, fmt, mem};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

/// Parses `bytes` as exactly one JSON object without duplicate members.
pub(crate) fn parse_object(bytes: &[u8]) -> Option<Map<String, Value>> {
    match serde_json::from_slice::<Unique>(bytes) {
        Ok(Unique(Value::Object(object))) => Some(object),
        _ => None,
    }
}

struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueVisitor).map(Self)
    }
}

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON without duplicate members")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("not a finite number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Unique(value)) = sequence.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some((name, Unique(value))) = members.next_entry::<String, Unique>()? {
            if object.insert(name, value).is_some() {
                return Err(de::Error::custom("duplicate member"));
            }
        }
        Ok(Value::Object(object))
    }
}

/// Parses `bytes` as exactly one JSON object without duplicate members, and keeps those of its members that have one of these
/// names. The others are checked as well, but not kept: this takes half the time of [`parse_object`].
pub(crate) fn parse_members(bytes: &[u8], names: &[&[&'static str]]) -> Option<Members> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let members = deserializer.deserialize_any(MembersVisitor(names)).ok()?;
    deserializer.end().ok()?;
    Some(members)
}

/// Some members of a JSON object.
#[derive(Debug)]
pub(crate) struct Members {
    kept: Vec<(&'static str, Value)>,
    /// The names that were asked for: any other member would seem to be absent.
    #[cfg(debug_assertions)]
    names: Vec<&'static str>,
}

impl Members {
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.index_of(name).is_some()
    }

    /// Removes and returns the value of a member.
    pub(crate) fn remove(&mut self, name: &str) -> Option<Value> {
        let index = self.index_of(name)?;
        Some(self.kept.swap_remove(index).1)
    }

    fn index_of(&self, name: &str) -> Option<usize> {
        #[cfg(debug_assertions)]
        assert!(self.names.contains(&name), "{name} was not asked for");
        self.kept.iter().position(|(member, _)| *member == name)
    }
}

struct MembersVisitor<'a>(&'a [&'a [&'static str]]);

impl<'de> Visitor<'de> for MembersVisitor<'_> {
    type Value = Members;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON object without duplicate members")
    }

    // serde's own error would quote the string, which takes long for many thousand bytes.
    fn visit_str<E: de::Error>(self, _: &str) -> Result<Members, E> {
        Err(E::custom("not an object"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Members, A::Error> {
        let mut kept = Vec::with_capacity(self.0.iter().map(|names| names.len()).sum());
        let mut names = Names::default();
        while let Some(Name(name)) = members.next_key()? {
            let wanted = self.0.iter().copied().flatten();
            match wanted.copied().find(|wanted| *wanted == name) {
                Some(name) => {
                    let Unique(value) = members.next_value()?;
                    kept.push((name, value));
                }
                None => {
                    let Checked = members.next_value()?;
                }
            }
            names.add(name)?;
        }
        Ok(Members {
            kept,
            #[cfg(debug_assertions)]
            names: self.0.concat(),
        })
    }
}

/// The name of a member, borrowed from the text unless it contains an escape.
struct Name<'de>(Cow<'de, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(NameVisitor)
    }
}

struct NameVisitor;

impl<'de> Visitor<'de> for NameVisitor {
    type Value = Name<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a name")
    }

    fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Name<'de>, E> {
        Ok(Name(Cow::Borrowed(name)))
    }

    fn visit_str<E>(self, name: &str) -> Result<Name<'de>, E> {
        Ok(Name(Cow::Owned(name.to_owned())))
    }
}

/// The names of the members of one object.
#[derive(Default)]
struct Names<'de> {
    /// The first ones, without an allocation.
    few: [Cow<'de, str>; FEW_NAMES],
    length: usize,
    /// All of them, once they are many: comparing each with all others would let a client cause much work with one request.
    many: HashSet<Cow<'de, str>>,
}

/// How many names are compared with each other, one by one.
const FEW_NAMES: usize = 16;

impl<'de> Names<'de> {
    fn add<E: de::Error>(&mut self, name: Cow<'de, str>) -> Result<(), E> {
        let (names, free) = self.few.split_at_mut(self.length);
        let is_new = if let Some(next) = free.first_mut() {
            let is_new = !names.contains(&name);
            *next = name;
            self.length += 1;
            is_new
        } else {
            if self.many.is_empty() {
                self.many.extend(names.iter_mut().map(mem::take));
            }
            self.many.insert(name)
        };
        if is_new {
            Ok(())
        } else {
            Err(E::custom("duplicate member"))
        }
    }
}

/// JSON without duplicate members that is not kept.
struct Checked;

impl<'de> Deserialize<'de> for Checked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CheckedVisitor)
    }
}

struct CheckedVisitor;

impl<'de> Visitor<'de> for CheckedVisitor {
    type Value = Checked;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON without duplicate members")
    }

    fn visit_unit<E>(self) -> Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_str<E>(self, _: &str) -> Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Checked, A::Error> {
        while sequence.next_element::<Checked>()?.is_some() {}
        Ok(Checked)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Checked, A::Error> {
        let mut names = Names::default();
        while let Some((Name(name), Checked)) = members.next_entry()? {
            names.add(name)?;
        }
        Ok(Checked)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAMES: &[&[&str]] = &[&["a", "b"], &["c"]];

    /// What `parse_members` should return, by `parse_object`.
    fn expected(bytes: &[u8]) -> Option<Vec<(String, Value)>> {
        let mut object = parse_object(bytes)?;
        object.retain(|name, _| NAMES.iter().any(|names| names.contains(&name.as_str())));
        Some(object.into_iter().collect())
    }

    fn found(bytes: &[u8]) -> Option<Vec<(String, Value)>> {
        let members = parse_members(bytes, NAMES)?.kept.into_iter();
        Some(
            members
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
        )
    }

    #[test]
    fn kept_and_checked_members_follow_the_same_rules() {
        let many: Vec<String> = (0..200).map(|number| format!(r#""{number}":0"#)).collect();
        let many = many.join(",");
        for (text, is_valid) in [
            ("{}".to_owned(), true),
            (
                r#" {"a":1,"x":[{"y":null}],"c":{"a":"b"}} "#.to_owned(),
                true,
            ),
            (r#"{"\u0061":true,"x\n":-1.5}"#.to_owned(), true),
            (r#"{"a":1,"a":1}"#.to_owned(), false),
            (r#"{"a":1,"\u0061":1}"#.to_owned(), false),
            (r#"{"x":1,"x":1}"#.to_owned(), false),
            (r#"{"x":1,"\u0078":1}"#.to_owned(), false),
            (r#"{"x":{"y":1,"y":1}}"#.to_owned(), false),
            (r#"{"x":[[{"y":1,"y":1}]]}"#.to_owned(), false),
            (r#"{"a":{"y":1,"y":1}}"#.to_owned(), false),
            (r#"{"x":1e999}"#.to_owned(), false),
            (r#"{"x":"\ud800"}"#.to_owned(), false),
            (r#"{"x":1}{}"#.to_owned(), false),
            (r#"{"x":1"#.to_owned(), false),
            ("[]".to_owned(), false),
            (r#""a""#.to_owned(), false),
            (String::new(), false),
            (format!("{{{many}}}"), true),
            (format!(r#"{{{many},"199":0}}"#), false),
            (format!(r#"{{{many},"0":0}}"#), false),
            (format!(r#"{{"x":{{{many},"7":0}}}}"#), false),
            (
                format!(r#"{{"x":{}1{}}}"#, "[".repeat(200), "]".repeat(200)),
                false,
            ),
        ] {
            assert_eq!(found(text.as_bytes()), expected(text.as_bytes()), "{text}");
            assert_eq!(found(text.as_bytes()).is_some(), is_valid, "{text}");
        }
        assert!(parse_members(b"{\"x\":\"\xff\"}", NAMES).is_none());
    }

    /// Texts of the pieces that decide.
    fn texts() -> impl Strategy<Value = String> {
        let pieces = prop::sample::select(vec![
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "\"a\"",
            "\"x\"",
            "\"\\u0061\"",
            "1",
            "null",
            " ",
            "1e400",
            "\"",
        ]);
        prop::collection::vec(pieces, 0..12).prop_map(|pieces| pieces.concat())
    }

    /// Objects, also with duplicate members.
    fn objects() -> impl Strategy<Value = String> {
        let leaf = prop::sample::select(vec!["1", "\"x\"", "true", "null", "-0.5", "[]", "{}"]);
        let leaf = leaf.prop_map(ToOwned::to_owned);
        leaf.prop_recursive(3, 24, 4, |inner| {
            let name = prop::sample::select(vec!["a", "b", "c", "x", "y", "\\u0061", "\\u0078"]);
            prop_oneof![
                prop::collection::vec((name, inner.clone()), 0..4).prop_map(|members| {
                    let members = members
                        .iter()
                        .map(|(name, value)| format!("\"{name}\":{value}"));
                    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
                }),
                prop::collection::vec(inner, 0..3)
                    .prop_map(|values| format!("[{}]", values.join(","))),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2000, ..ProptestConfig::default() })]

        #[test]
        fn members_are_those_of_the_whole_object(text in prop_oneof![texts(), objects()]) {
            prop_assert_eq!(found(text.as_bytes()), expected(text.as_bytes()));
        }
    }
}
