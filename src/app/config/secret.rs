//! Hides secrets in values that are shown.

use url::Url;

/// Replaces a hidden part.
const MASK: &str = "***";

/// Returns `value` if it cannot contain a password; otherwise with its user information masked, or masked as a whole.
///
/// A misplaced `/`, `#`, `?` or `@` moves a password to where another part of the URL is expected, so nothing is cut out of
/// a malformed value: it is shown only if it matches a strict grammar, and masked as a whole in any doubt.
pub(super) fn mask_url(value: &str) -> String {
    let Some((scheme, rest)) = value.split_once("://") else {
        return MASK.to_owned();
    };
    let is_url = is_scheme(scheme) && Url::parse(value).is_ok();
    match rest.split_once('@') {
        None if is_url && is_host_and_path(rest) => value.to_owned(),
        Some((user_info, rest)) if is_url && is_user_info(user_info) && is_host_and_path(rest) => {
            format!("{scheme}://{MASK}@{rest}")
        }
        _ => MASK.to_owned(),
    }
}

/// Returns `value`, masked by [`mask_url`] if it may be a URL.
pub(super) fn mask(value: &str) -> String {
    if may_be_url(value) {
        mask_url(value)
    } else {
        value.to_owned()
    }
}

/// Returns a list of origins, separated by commas, if no item can be a part of a password; otherwise masks the whole list.
///
/// A comma in a password splits it into items that do not look like a password.
pub(super) fn mask_origins(value: &str) -> String {
    let is_list = value.contains(',');
    let is_shown = |item: &str| match item.split_once("://") {
        Some((scheme, rest)) => is_scheme(scheme) && is_host_and_path(rest),
        None => matches!(item, "" | "*" | "null") || (!is_list && is_host_and_path(item)),
    };
    if value.split(',').map(str::trim).all(is_shown) {
        value.to_owned()
    } else if is_list {
        MASK.to_owned()
    } else {
        mask_url(value)
    }
}

/// Whether the value may be meant as a URL, even a malformed one.
fn may_be_url(value: &str) -> bool {
    let lowercase = value.to_ascii_lowercase();
    lowercase.contains("//")
        || lowercase.contains(['@', '\\'])
        || ["http:", "https:", "redis:", "rediss:"]
            .iter()
            .any(|scheme| lowercase.contains(scheme))
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_lowercase())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

/// Whether this is user information (RFC 3986 section 3.2.1) without sub-delimiters.
fn is_user_info(text: &str) -> bool {
    text.bytes()
        .all(|byte| is_unreserved(byte) || b"%:".contains(&byte))
}

/// Whether this is a host, perhaps with a port, a path and a query that is known to hold no secret.
fn is_host_and_path(text: &str) -> bool {
    let (text, query) = text.split_once('?').unwrap_or((text, ""));
    let (authority, path) = text.split_at(text.find('/').unwrap_or(text.len()));
    let (host, port) = split_port(authority);
    // Any other single label may be a password without a host, or the part of a password after an `@`.
    let is_name = (host == "localhost" || host.contains('.')) && host.bytes().all(is_unreserved);
    let is_ipv6 = host.len() > 2
        && host.starts_with('[')
        && host.ends_with(']')
        && host[1..host.len() - 1]
            .bytes()
            .all(|byte| byte.is_ascii_hexdigit() || byte == b':');
    (is_name || is_ipv6)
        && port.is_none_or(is_port)
        && path.bytes().all(|byte| is_unreserved(byte) || byte == b'/')
        && is_public_query(query)
}

fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

fn is_port(text: &str) -> bool {
    (1..=5).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether the query is known to hold no secret: it is empty, or the protocol version of a Redis URL.
fn is_public_query(query: &str) -> bool {
    query.is_empty()
        || query.strip_prefix("protocol=").is_some_and(|version| {
            version.len() <= 8 && version.bytes().all(|byte| byte.is_ascii_alphanumeric())
        })
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn well_formed_urls_show_their_host() {
        for (value, shown) in [
            ("https://u:p@h.example/x", "https://***@h.example/x"),
            ("redis://:p@localhost", "redis://***@localhost"),
            ("redis://:p@10.0.0.7:6379/1", "redis://***@10.0.0.7:6379/1"),
            ("rediss://u:p%2F@[::1]:6380", "rediss://***@[::1]:6380"),
            ("https://h.example/a/b", "https://h.example/a/b"),
            ("http://[::1]:8000", "http://[::1]:8000"),
            (
                "redis://localhost?protocol=3",
                "redis://localhost?protocol=3",
            ),
        ] {
            assert_eq!(mask_url(value), shown);
            assert_eq!(mask(value), shown);
        }
        assert_eq!(mask("30 s"), "30 s");
        assert_eq!(mask("localhost:8000"), "localhost:8000");
    }

    #[test]
    fn origins_are_shown_if_no_item_can_be_a_secret() {
        for shown in [
            "*",
            "null",
            "localhost:3000",
            "https://app.example/path",
            "https://a.example, http://localhost:3000,",
            "https://a.example, *",
        ] {
            assert_eq!(mask_origins(shown), shown);
        }
        for masked in [
            "hunter2",
            "https://user:pa,ss@h.example",
            "https://a.example:12,34@h.example",
            "https://a.example, ss.example",
            "https:/user:pa",
        ] {
            assert_eq!(mask_origins(masked), MASK, "{masked}");
        }
        assert_eq!(
            mask_origins("https://u:p@h.example"),
            "https://***@h.example"
        );
    }

    #[test]
    fn anything_else_is_masked_as_a_whole() {
        for value in [
            "redis://:pa/ss@h.example",
            "redis://:pa#ss@h.example",
            "redis://:pa?ss@h.example",
            "redis://:p@ss@h.example",
            "redis://:p@ss",
            "redis://u:12/ss@h.example",
            "redis://:secret",
            "redis://secret",
            "redis://user:1234",
            "redis://:p@secret:6379",
            "redis://h?password=secret",
            "redis://h#secret",
            "redis:/:pw@h.example",
            "redis:\\\\:pw@h.example",
            "https:/user:pw@h.example",
            "https:user:pw@h.example",
            "https://user:pw\t@h.example",
            "u:p@h.example",
            ":pw@h.example",
            "secret",
        ] {
            assert_eq!(mask_url(value), MASK, "{value}");
        }
    }

    /// The ways to write a password into a URL, right and wrong.
    const TEMPLATES: [&str; 20] = [
        "redis://:PASSWORD@h.example:6379/1",
        "redis://user:PASSWORD@h.example",
        "redis://PASSWORD@h.example",
        "redis://PASSWORD:@h.example",
        "rediss://:PASSWORD@localhost",
        "redis://h.example?password=PASSWORD",
        "redis://h.example#PASSWORD",
        "redis://:PASSWORD",
        "redis:/:PASSWORD@h.example",
        "redis::PASSWORD@h.example",
        "https:/user:PASSWORD@h.example",
        "https:\\\\user:PASSWORD@h.example",
        "//user:PASSWORD@h.example/path",
        "user:PASSWORD@h.example",
        " https://user:PASSWORD@h.example",
        "https://user:PASSWORD@h.example/a@b",
        "https:/user:PASSWORD",
        "HTTP:user:PASSWORD",
        "redis:PASSWORD",
        "rediss:/:PASSWORD",
    ];

    proptest! {
        #[test]
        fn no_piece_of_a_password_is_shown(
            // Three pieces that occur nowhere else, with anything that may break a URL between them.
            breaks in prop::array::uniform2("[/#?@,:;\\\\%&= \\[\\]a-z\t\u{e9}]{0,4}"),
            template in prop::sample::select(&TEMPLATES[..]),
        ) {
            let password = format!("Xq1{}Xq2{}Xq3", breaks[0], breaks[1]);
            let value = template.replace("PASSWORD", &password);
            for shown in [mask_url(&value), mask(&value), mask_origins(&value)] {
                prop_assert!(!shown.contains("Xq"), "{value} is shown as {shown}");
            }
        }

        #[test]
        fn mask_never_panics(value in "\\PC*") {
            mask_url(&value);
            mask(&value);
            mask_origins(&value);
        }
    }
}
