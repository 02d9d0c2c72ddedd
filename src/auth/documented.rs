//! Passes the requirements of guards to the OpenAPI document.
//!
//! Poem asks an extractor only for the names of its security schemes. While [`collect`] runs, a guard adds a marker to these
//! names, which identifies its requirement. At other times it adds none: a document made without
//! [`WithProblems`](crate::WithProblems) would name a scheme that does not exist.

use std::cell::RefCell;

use super::requirement::Requirement;
use crate::interned::intern;

thread_local! {
    static COLLECTED: RefCell<Option<Vec<Requirement>>> = const { RefCell::new(None) };
}

/// Calls `f`. Returns its result and the requirements for which it made markers.
pub(crate) fn collect<T>(f: impl FnOnce() -> T) -> (T, Requirements) {
    let outer = COLLECTED.replace(Some(Vec::new()));
    let result = f();
    let collected = COLLECTED.replace(outer).unwrap_or_default();
    (result, Requirements(collected))
}

/// Returns the marker of a requirement, or `None` if nothing is required or [`collect`] is not running.
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

/// The collected requirements. The number in a marker is the index.
pub(crate) struct Requirements(Vec<Requirement>);

impl Requirements {
    /// Returns the requirement whose marker this is.
    pub(crate) fn of_marker(&self, scheme: &str) -> Option<&Requirement> {
        let index: usize = scheme.strip_prefix("guard ")?.parse().ok()?;
        self.0.get(index)
    }
}
