//! Reads variables one by one and collects the errors.

use std::time::Duration;

use url::Url;

use super::{
    error::{ConfigError, ConfigErrors},
    secret::{mask, mask_origins, mask_url},
};

/// Variables for which an empty value is an error, because the default may be weaker than the intended value: a check that
/// is off, a longer time in which withdrawn keys or sessions are accepted, another trusted origin, or visible documentation.
///
/// Any other variable counts as unset if it is empty. Those defaults weaken nothing: `HOST` is loopback, `HANKO_ALLOW_HTTP`
/// is false. An empty `CORS_ALLOWED_ORIGINS` allows no origin.
const NEVER_EMPTY: [&str; 12] = [
    "HANKO_AUDIENCE",
    "HANKO_ISSUER",
    "HANKO_COOKIE_NAME",
    "HANKO_SESSION_MODE",
    "SESSION_CACHE_TTL",
    "SESSION_MAX_STALE",
    "JWT_LEEWAY",
    "JWKS_CACHE_MAX_AGE",
    "JWKS_MAX_STALE",
    "REVOCATION_STORE_URL",
    "PUBLIC_URL",
    "DOCS",
];

/// Returns the value of a variable that is set.
pub(crate) type Lookup<'a> = dyn Fn(&str) -> Option<String> + 'a;

pub(super) struct Reader<'a> {
    lookup: &'a Lookup<'a>,
    errors: Vec<ConfigError>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(lookup: &'a Lookup<'a>) -> Self {
        Self {
            lookup,
            errors: Vec::new(),
        }
    }

    /// Returns the value of a variable, without surrounding white space, even if it is empty.
    pub(super) fn raw(&self, variable: &str) -> Option<String> {
        (self.lookup)(variable).map(|value| value.trim().to_owned())
    }

    /// Reads a variable with `parse`. Returns `None` if it is unset or empty, or if there is an error, which is collected.
    pub(super) fn optional<T>(
        &mut self,
        variable: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let value = self.raw(variable)?;
        if value.is_empty() {
            if NEVER_EMPTY.contains(&variable) {
                self.wrong(
                    variable,
                    "",
                    "must not be empty, because its default may weaken a check: give it a value or remove it",
                );
            }
            return None;
        }
        parse(&value)
            .map_err(|problem| self.wrong(variable, &value, problem))
            .ok()
    }

    /// Like [`optional`](Self::optional), with a default.
    pub(super) fn or<T>(
        &mut self,
        variable: &'static str,
        default: T,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> T {
        self.optional(variable, parse).unwrap_or(default)
    }

    /// Returns `NAME=value`, or the name and the default if the variable is unset.
    pub(super) fn described(&self, variable: &str, default: &str) -> String {
        match self.raw(variable).filter(|value| !value.is_empty()) {
            Some(value) => format!("{variable}={}", shown(variable, &value)),
            None => format!("{variable} (default {default})"),
        }
    }

    /// Collects the error that a variable has a wrong value.
    pub(super) fn wrong(
        &mut self,
        variable: &'static str,
        value: &str,
        problem: impl Into<String>,
    ) {
        self.errors.push(ConfigError {
            variable,
            value: Some(shown(variable, value)),
            problem: problem.into(),
        });
    }

    /// Collects the error that a variable is unset.
    pub(super) fn missing(&mut self, variable: &'static str, problem: impl Into<String>) {
        self.errors.push(ConfigError {
            variable,
            value: None,
            problem: problem.into(),
        });
    }

    /// Returns `config`, or all errors that were collected.
    pub(super) fn finish<T>(self, config: T) -> Result<T, ConfigErrors> {
        if self.errors.is_empty() {
            Ok(config)
        } else {
            Err(ConfigErrors(self.errors))
        }
    }
}

/// Returns the value of a variable for an error message, with possible secrets masked.
fn shown(variable: &str, value: &str) -> String {
    if variable.ends_with("_ORIGINS") {
        mask_origins(value)
    } else if variable.ends_with("_URL") && !value.is_empty() {
        mask_url(value)
    } else {
        mask(value)
    }
}

/// Reads `500ms`, `30s`, `10m` or `12h`.
pub(in crate::app) fn duration(value: &str) -> Result<Duration, String> {
    let problem = || "is not a duration such as 500ms, 30s, 10m or 12h".to_owned();
    let digits_end = value
        .find(|character: char| !character.is_ascii_digit())
        .ok_or_else(problem)?;
    let (amount, unit) = value.split_at(digits_end);
    let amount: u32 = amount.parse().map_err(|_| problem())?;
    let unit = match unit {
        "ms" => Duration::from_millis(1),
        "s" => Duration::from_secs(1),
        "m" => Duration::from_mins(1),
        "h" => Duration::from_hours(1),
        _ => return Err(problem()),
    };
    Ok(unit * amount)
}

/// Reads a duration that must not be zero.
pub(super) fn positive_duration(value: &str) -> Result<Duration, String> {
    let duration = duration(value)?;
    if duration.is_zero() {
        return Err("must be more than zero".to_owned());
    }
    Ok(duration)
}

/// Reads a size in bytes such as `512B`, `64KiB`, `1MiB` or `1GiB`.
pub(super) fn size(value: &str) -> Result<usize, String> {
    let problem = || "is not a size such as 64KiB, 1MiB or 1GiB".to_owned();
    let digits_end = value
        .find(|character: char| !character.is_ascii_digit())
        .ok_or_else(problem)?;
    let (amount, unit) = value.split_at(digits_end);
    let amount: usize = amount.parse().map_err(|_| problem())?;
    let unit = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(problem()),
    };
    amount.checked_mul(unit).ok_or_else(problem)
}

/// Reads a whole number that must not be zero.
pub(super) fn positive_count(value: &str) -> Result<usize, String> {
    match count(value)? {
        0 => Err("must be more than zero".to_owned()),
        count => Ok(count),
    }
}

/// Reads a whole number.
pub(super) fn count(value: &str) -> Result<usize, String> {
    value
        .parse()
        .map_err(|_| "is not a whole number".to_owned())
}

/// Reads `true` or `false`.
pub(super) fn boolean(value: &str) -> Result<bool, String> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("must be true or false".to_owned()),
    }
}

/// Splits at commas and skips empty items.
pub(super) fn list(value: &str) -> impl Iterator<Item = &str> {
    value
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

/// Reads a list of exact origins: scheme, host and optional port (RFC 6454 section 6.2). Returns a problem for each item
/// that is not one.
pub(super) fn origins(value: &str) -> Vec<Result<String, String>> {
    // A password may contain a comma, so whether an item may be secret depends on the whole value.
    let is_shown = mask_origins(value) == value;
    list(value)
        .enumerate()
        .map(|(index, item)| {
            let name = if is_shown {
                format!("{item:?}")
            } else {
                format!("an item (number {})", index + 1)
            };
            origin(item).map_err(|exact| match exact {
                _ if item == "*" => {
                    "allows every origin with credentials; list the exact origins of your frontends"
                        .to_owned()
                }
                Some(exact) if is_shown => {
                    format!("contains {name}, which is not an exact origin; {exact} is")
                }
                _ => format!("contains {name}, which is not an origin such as https://app.example"),
            })
        })
        .collect()
}

/// Returns the origin if it is exact. Otherwise, the error is its exact form, if there is one.
fn origin(item: &str) -> Result<String, Option<String>> {
    let url = Url::parse(item).map_err(|_| None)?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(None);
    }
    let origin = url.origin().ascii_serialization();
    if origin == item {
        Ok(origin)
    } else {
        Err(Some(origin))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("10m"), Ok(Duration::from_mins(10)));
        assert_eq!(duration("12h"), Ok(Duration::from_hours(12)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        for wrong in [
            "",
            "30",
            "s",
            "-1s",
            "1.5s",
            "30 s",
            "1d",
            "99999999999s",
            "٣s",
        ] {
            assert!(duration(wrong).is_err(), "{wrong:?}");
        }
        assert!(positive_duration("0s").is_err());
    }

    #[test]
    fn sizes_have_a_unit() {
        assert_eq!(size("512B"), Ok(512));
        assert_eq!(size("64KiB"), Ok(65_536));
        assert_eq!(size("1MiB"), Ok(1_048_576));
        assert_eq!(size("0B"), Ok(0));
        for wrong in [
            "",
            "64",
            "KiB",
            "64kb",
            "64KB",
            "1.5MiB",
            "-1KiB",
            "64 KiB",
            "99999999999GiB",
        ] {
            assert!(size(wrong).is_err(), "{wrong:?}");
        }
        assert!(positive_count("0").is_err());
        assert_eq!(positive_count("7"), Ok(7));
    }

    #[test]
    fn origins_are_exact() {
        assert_eq!(
            origins("http://localhost:3000, https://app.example"),
            [
                Ok("http://localhost:3000".to_owned()),
                Ok("https://app.example".to_owned())
            ]
        );
        for wrong in [
            "*",
            "null",
            "localhost:3000",
            "https://app.example/",
            "https://app.example/path",
            "https://APP.example",
            "https://app.example:443",
            "https://user@app.example",
            "ftp://app.example",
        ] {
            assert!(origins(wrong)[0].is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn wrong_origins_are_named_unless_they_may_be_secret() {
        let problems = |value: &str| -> Vec<String> {
            origins(value).into_iter().filter_map(Result::err).collect()
        };
        assert_eq!(
            problems("https://app.example, https://b.example/, ftp://c.example"),
            [
                "contains \"https://b.example/\", which is not an exact origin; https://b.example is",
                "contains \"ftp://c.example\", which is not an origin such as https://app.example"
            ]
        );
        assert_eq!(
            problems("https://app.example, https://user:hun.example,ter2@b.example"),
            [
                "contains an item (number 2), which is not an origin such as https://app.example",
                "contains an item (number 3), which is not an origin such as https://app.example"
            ]
        );
    }
}
