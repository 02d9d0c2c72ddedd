//! How the requirement of a guard reaches the document.
//!
//! Poem asks an extractor only for the names of its security schemes. While [`collect`] runs, a guard adds a marker to them,
//! which stands for its requirement; at any other time it adds none, so that a document made without
//! [`WithProblems`](crate::WithProblems) names no scheme that does not exist.

use std::cell::RefCell;

use super::requirement::Requirement;
use crate::interned::intern;

thread_local! {
    static COLLECTED: RefCell<Option<Vec<Requirement>>> = const { RefCell::new(None) };
}

/// Calls `f`, and returns with its result the requirements for which markers were made meanwhile.
pub(crate) fn collect<T>(f: impl FnOnce() -> T) -> (T, Requirements) {
    let outer = COLLECTED.replace(Some(Vec::new()));
    let result = f();
    let collected = COLLECTED.replace(outer).unwrap_or_default();
    (result, Requirements(collected))
}

/// Returns the name that stands for a requirement among the security schemes of an operation.
pub(super) fn marker(requirement: &Requirement) -> Option<&'static str> {
    if requirement.0.is_empty() {
        return None;
    }
    COLLECTED.with_borrow_mut(|collected| {
        let collected = collected.as_mut()?;
        collected.push(*requirement);
        Some(intern(format!("guard {}", collected.len() - 1)))
    })
}

/// Requirements by their markers.
pub(crate) struct Requirements(Vec<Requirement>);

impl Requirements {
    /// Returns the requirement that this name stands for.
    pub(crate) fn of_marker(&self, scheme: &str) -> Option<&Requirement> {
        let index: usize = scheme.strip_prefix("guard ")?.parse().ok()?;
        self.0.get(index)
    }
}
