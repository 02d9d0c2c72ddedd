use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::{
    hanko::EventKind,
    metrics::{Method, WebhookOutcome},
};

const OPERATING: &str = include_str!("../../../docs/operating.md");

/// The name under which a family is exported.
fn exported_name(family: &Family) -> String {
    match family.kind {
        MetricType::Counter => format!("{}_total", family.name),
        _ => family.name.to_owned(),
    }
}

fn kind(family: &Family) -> &'static str {
    match family.kind {
        MetricType::Counter => "counter",
        MetricType::Histogram => "histogram",
        _ => "gauge",
    }
}

/// The values of a label of a family, apart from those that the operator or the application chooses.
fn values(family: &Family, label: &str) -> Vec<&'static str> {
    fn names<T>(all: &[T], name: impl Fn(&T) -> &'static str) -> Vec<&'static str> {
        all.iter().map(name).collect()
    }
    match (family.name, label) {
        (_, "method") => names(Method::ALL, |method| method.name()),
        (_, "route") => vec!["unmatched"],
        (_, "status") => vec!["other"],
        ("http_connections_closed", "reason") => names(Closed::ALL, |reason| reason.name()),
        ("hanko_authentications", "outcome") => names(Authentication::ALL, |it| it.outcome()),
        ("hanko_authentications", "reason") => names(Authentication::ALL, |it| it.name()),
        ("hanko_token_cache_lookups", "result") => names(CacheLookup::ALL, |found| found.name()),
        ("hanko_jwks_fetches", "outcome") => names(FetchOutcome::ALL, |outcome| outcome.name()),
        ("hanko_jwks_unknown_kid", "action") => names(UnknownKid::ALL, |action| action.name()),
        ("hanko_session_validations", "outcome") => {
            names(ValidationOutcome::ALL, |outcome| outcome.name())
        }
        ("hanko_webhooks", "event") => {
            let others = ["other", "unverified"];
            EventKind::NAMES.iter().copied().chain(others).collect()
        }
        ("hanko_webhooks", "outcome") => names(WebhookOutcome::ALL, |outcome| outcome.name()),
        ("hanko_guard_rejections", "guard") => vec![
            "verified-email",
            "fresh",
            "second-factor",
            "passkey",
            "strong-sign-in",
            "claim",
            "scope",
            "custom",
            "any-of",
        ],
        ("hanko_ready", "component") => vec!["keys", "revocation_store", "hanko", "server"],
        ("hanko_degraded", "component") => vec!["keys", "revocation_store", "hanko"],
        (_, "version") => vec![],
        (_, "mode") => vec!["stateless", "hybrid", "stateful"],
        other => panic!("{other:?}"),
    }
}

/// The metrics of the table in docs/operating.md: name, type, and the words in backticks in the column of the labels.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let (_, section) = OPERATING.split_once("\n## Metrics\n").expect("a section");
    let section = section.split("\n## ").next().expect("text");
    section
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .map(|row| {
            let mut cells = row.split(" | ");
            let mut cell = || cells.next().unwrap_or_else(|| panic!("{row}"));
            let name = cell().trim_end_matches('`').to_owned();
            let kind = cell().to_owned();
            let words = cell().split('`').skip(1).step_by(2);
            (name, (kind, words.map(ToOwned::to_owned).collect()))
        })
        .collect()
}

#[test]
fn docs_list_every_metric_with_every_label_value() {
    let exported: BTreeMap<String, (String, BTreeSet<String>)> = families::ALL
        .iter()
        .map(|family| {
            let words = family.labels.iter().flat_map(|label| {
                let values = values(family, label).into_iter();
                [*label].into_iter().chain(values)
            });
            let words = words.filter(|word| !word.is_empty()).map(ToOwned::to_owned);
            let row = (kind(family).to_owned(), words.collect());
            (exported_name(family), row)
        })
        .collect();
    let documented = documented();
    for (name, row) in &exported {
        assert_eq!(
            documented.get(name),
            Some(row),
            "{name} in docs/operating.md"
        );
    }
    for name in documented.keys() {
        assert!(exported.contains_key(name), "{name} is not exported");
    }
}

#[test]
fn names_follow_the_conventions_of_prometheus() {
    let mut names = BTreeSet::new();
    for family in families::ALL {
        assert!(names.insert(family.name), "{} occurs twice", family.name);
        assert!(!family.name.ends_with("_total"), "{}", family.name);
        assert!(
            family.help.ends_with('.') || family.help.contains(';'),
            "{}",
            family.name
        );
        let is_duration = family.kind.as_str() == "histogram";
        assert_eq!(
            is_duration,
            family.name.ends_with("_duration_seconds"),
            "{}",
            family.name
        );
    }
}
