//! Finds variables that are probably meant for this program but that nothing reads.

use std::{cell::RefCell, collections::BTreeSet};

use super::{HankoChoice, Reader, Sections};

/// A variable with one of these prefixes is probably meant for this program.
const PREFIXES: [&str; 3] = ["HANKO_", "JWKS_", "JWT_"];

/// A variable that is set and that nothing reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnknownVariable {
    pub(crate) name: String,
    /// The variable that was probably meant.
    pub(crate) meant: Option<String>,
}

/// Returns the variables in `names`, sorted, that look like ones of this program but that nothing reads. The application
/// itself reads those in `of_application`.
pub(crate) fn unknown_variables<'a>(
    names: impl Iterator<Item = &'a str>,
    of_application: &[String],
) -> Vec<UnknownVariable> {
    let known = known();
    let names: BTreeSet<&str> = names
        .filter(|name| !known.contains(*name) && !of_application.iter().any(|own| own == name))
        .filter(|name| !is_set_by_kubernetes(name))
        .collect();
    names
        .into_iter()
        .filter_map(|name| {
            let meant = known.iter().find(|known| is_one_letter_away(name, known));
            let is_meant_for_us = PREFIXES.iter().any(|prefix| name.starts_with(prefix));
            (is_meant_for_us || meant.is_some()).then(|| UnknownVariable {
                name: name.to_owned(),
                meant: meant.cloned(),
            })
        })
        .collect()
}

/// Returns the names of the variables that are read.
fn known() -> BTreeSet<String> {
    let names = RefCell::new(BTreeSet::new());
    let lookup = |name: &str| {
        names.borrow_mut().insert(name.to_owned());
        None
    };
    // The errors do not matter: they are about variables that are unset here.
    let _ = Sections::read(&mut Reader::new(&lookup), HankoChoice::Configured);
    names.into_inner()
}

/// Returns whether Kubernetes sets variables of this form for a Service, such as `HANKO_SERVICE_HOST` and
/// `HANKO_PORT_80_TCP_ADDR` for a Service called `hanko`.
fn is_set_by_kubernetes(name: &str) -> bool {
    let is_port = |rest: &str| {
        let mut parts = rest.split('_');
        let is_number =
            |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        parts.next().is_some_and(is_number)
            && matches!(parts.next(), Some("TCP" | "UDP" | "SCTP"))
            && matches!(parts.next(), None | Some("PROTO" | "PORT" | "ADDR"))
            && parts.next().is_none()
    };
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_PORT")
        || name.contains("_SERVICE_PORT_")
        || name
            .match_indices("_PORT_")
            .any(|(start, separator)| is_port(&name[start + separator.len()..]))
}

/// Returns whether one letter is missing, added or replaced, or two neighbours are swapped.
fn is_one_letter_away(name: &str, known: &str) -> bool {
    let (mut name, mut known) = (name.as_bytes(), known.as_bytes());
    while let ([first, name_rest @ ..], [same, known_rest @ ..]) = (name, known)
        && first == same
    {
        (name, known) = (name_rest, known_rest);
    }
    while let ([name_rest @ .., last], [known_rest @ .., same]) = (name, known)
        && last == same
    {
        (name, known) = (name_rest, known_rest);
    }
    match (name, known) {
        ([_], [] | [_]) | ([], [_]) => true,
        ([a, b], [c, d]) => a == d && b == c,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(variables: &[&str]) -> Vec<String> {
        unknown_variables(variables.iter().copied(), &["HANKO_ADMIN_KEY".to_owned()])
            .into_iter()
            .map(|unknown| match unknown.meant {
                Some(meant) => format!("{} -> {meant}", unknown.name),
                None => unknown.name,
            })
            .collect()
    }

    #[test]
    fn misspelt_variables_are_found() {
        for (name, meant) in [
            ("HANKO_AUDIENCES", "HANKO_AUDIENCE"),
            ("HANKO_ISUER", "HANKO_ISSUER"),
            ("MAX_REQUEST_BODI", "MAX_REQUEST_BODY"),
            ("TRUSTED_PROXEIS", "TRUSTED_PROXIES"),
            ("ORT", "PORT"),
            ("SHUTDOWN_GRACES", "SHUTDOWN_GRACE"),
        ] {
            assert_eq!(names(&[name]), [format!("{name} -> {meant}")]);
        }
        assert_eq!(
            names(&["JWT_SECRET", "HANKO_URL", "JWKS_", "HANKO_URL"]),
            ["HANKO_URL", "JWKS_", "JWT_SECRET"]
        );
    }

    #[test]
    fn other_variables_are_left_alone() {
        for name in [
            "HANKO_AUDIENCE",
            "HANKO_API_URL",
            "HANKO_ALLOW_HTTP",
            "ACCESS_LOG",
            "RUST_LOG",
            "HANKO_ADMIN_KEY",
            "PATH",
            "HOME",
            "HOSTNAME",
            "SSL_CERT_FILE",
            "DATABASE_URL",
            "MAX_REQUEST_BODIES",
        ] {
            assert!(names(&[name]).is_empty(), "{name}");
        }
    }

    #[test]
    fn variables_of_kubernetes_are_left_alone() {
        for name in [
            "HANKO_SERVICE_HOST",
            "HANKO_SERVICE_PORT",
            "HANKO_SERVICE_PORT_HTTP",
            "HANKO_PORT",
            "HANKO_PORT_8000_TCP",
            "HANKO_PORT_8000_TCP_PROTO",
            "HANKO_PORT_8000_TCP_PORT",
            "HANKO_PORT_8000_UDP_ADDR",
            "HANKO_PUBLIC_SERVICE_HOST",
            "HANKO_PUBLIC_PORT_443_TCP_ADDR",
            "JWT_ISSUER_PORT_80_SCTP",
        ] {
            assert!(names(&[name]).is_empty(), "{name}");
        }
        for name in ["HANKO_PORT_TCP", "HANKO_HOST", "HANKO_PORT_80_TCP_X"] {
            assert_eq!(names(&[name]), [name]);
        }
    }

    #[test]
    fn one_letter_is_the_limit() {
        assert!(is_one_letter_away("DOC", "DOCS"));
        assert!(is_one_letter_away("DOCSS", "DOCS"));
        assert!(is_one_letter_away("DOCX", "DOCS"));
        assert!(is_one_letter_away("DOSC", "DOCS"));
        for other in ["DOCS", "DO", "DOXX", "SCOD", ""] {
            assert!(!is_one_letter_away(other, "DOCS"), "{other}");
        }
    }
}
