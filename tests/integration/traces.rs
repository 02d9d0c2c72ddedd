//! Traces: the spans, their parents and their attributes.

mod program;
mod shared;

use std::collections::BTreeMap;

/// A span that was exported.
#[derive(Clone, Debug)]
struct Seen {
    name: String,
    kind: &'static str,
    trace: String,
    id: String,
    /// Empty for the first span of a trace.
    parent: String,
    /// Trace and id of each span that it is linked to.
    links: Vec<(String, String)>,
    attributes: BTreeMap<String, String>,
    is_error: bool,
}

impl Seen {
    fn links_to(&self, other: &Self) -> bool {
        self.links
            .iter()
            .any(|(trace, id)| (trace, id) == (&other.trace, &other.id))
    }

    /// The same, without the id of the request.
    #[track_caller]
    fn assert_attributes_except_ids(&self, expected: &[(&str, &str)]) {
        let mut without = self.clone();
        assert!(without.attributes.remove("request_id").is_some());
        without.assert_attributes(expected);
    }

    #[track_caller]
    fn assert_attributes(&self, expected: &[(&str, &str)]) {
        let found: Vec<(&str, &str)> = self
            .attributes
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        assert_eq!(found, expected, "{self:?}");
    }
}

/// Returns the only span of this name.
#[track_caller]
fn only<'a>(spans: &'a [Seen], name: &str) -> &'a Seen {
    let found: Vec<&Seen> = spans.iter().filter(|span| span.name == name).collect();
    match found[..] {
        [span] => span,
        _ => panic!("{} spans are called {name}: {spans:#?}", found.len()),
    }
}
