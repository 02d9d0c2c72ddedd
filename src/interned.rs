//! Texts that live as long as the process, which Poem's metadata demand.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

/// Returns the text as one that lives as long as the process. Each text is kept once.
pub(crate) fn intern(text: String) -> &'static str {
    static TEXTS: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut texts = TEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = texts.get(text.as_str()) {
        return known;
    }
    let text: &'static str = Box::leak(text.into_boxed_str());
    texts.insert(text);
    text
}
