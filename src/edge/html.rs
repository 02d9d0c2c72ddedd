//! HTML for browsers: escaped text, templates, and whether a client asks for it.

use std::borrow::Cow;

use poem::http::{HeaderMap, header};

/// The style of our own pages, light and dark.
pub(crate) const STYLE: &str = include_str!("html/style.css");

/// Escapes a text for HTML.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

/// Replaces each `{{name}}` of a template by its value, which is HTML.
pub(crate) fn fill<'a>(template: &str, value: impl Fn(&str) -> Cow<'a, str>) -> String {
    let mut page = String::with_capacity(template.len());
    // In one pass, so that a value that looks like a placeholder stays text.
    let mut parts = template.split("{{");
    page.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let (name, rest) = part.split_once("}}").unwrap_or((part, ""));
        page.push_str(&value(name));
        page.push_str(rest);
    }
    page
}

/// Returns whether `Accept` names HTML, with at least the weight of JSON (RFC 9110 section 12.5.1). `*/*` does not name it.
pub(crate) fn accepts_html(headers: &HeaderMap) -> bool {
    let html = weight(headers, "text/html");
    html > 0.0 && html >= weight(headers, "application/json")
}

/// Returns the weight that `Accept` gives to a media type by its name, and zero if it does not name it.
fn weight(headers: &HeaderMap, media_type: &str) -> f32 {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            parts
                .next()?
                .eq_ignore_ascii_case(media_type)
                .then_some(())?;
            let weight = parts.find_map(|part| part.strip_prefix("q="));
            Some(weight.map_or(1.0, |weight| weight.parse().unwrap_or(0.0)))
        })
        .fold(0.0, f32::max)
}

#[cfg(test)]
mod tests {
    use poem::http::HeaderValue;

    use super::*;

    #[test]
    fn html_is_for_clients_that_name_it() {
        for (accept, expected) in [
            (
                "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
                true,
            ),
            ("TEXT/HTML", true),
            ("text/html; charset=utf-8", true),
            ("application/json, text/html", true),
            ("application/json, text/html;q=0.9", false),
            ("application/json;q=0.5, text/html;q=0.9", true),
            ("text/html;q=0", false),
            ("text/html;q=often", false),
            ("*/*", false),
            ("text/*", false),
            ("application/json, text/plain, */*", false),
            ("", false),
        ] {
            let headers =
                HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]);
            assert_eq!(accepts_html(&headers), expected, "{accept}");
        }
        assert!(!accepts_html(&HeaderMap::new()));
    }

    #[test]
    fn value_that_looks_like_a_placeholder_stays_text() {
        let page = fill("a {{first}} b {{second}}.", |name| match name {
            "first" => "{{second}}".into(),
            _ => "2".into(),
        });
        assert_eq!(page, "a {{second}} b 2.");
    }
}
