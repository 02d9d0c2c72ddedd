//! The result of authenticating a request, for the log.

use std::{
    fmt::Display,
    sync::{Arc, OnceLock},
};

use poem::Request;

use crate::hanko::Identified;

/// Why a request was rejected.
#[derive(Debug)]
pub(crate) struct Reason {
    /// A name from a fixed set.
    pub(crate) name: &'static str,
    /// A sentence without any text that the client sent.
    pub(crate) detail: String,
}

/// Whose request it is, and why it was rejected. The code that logs a request adds this to its data, and authentication fills
/// it in.
#[derive(Debug, Default)]
pub(crate) struct AuthRecord {
    identified: Identified,
    reason: OnceLock<Reason>,
}

impl AuthRecord {
    /// Adds a record to the data of a request.
    pub(crate) fn add_to(request: &mut Request) -> Arc<Self> {
        let record = Arc::new(Self::default());
        request.set_data(Arc::clone(&record));
        record
    }

    /// Returns the record in the data of a request.
    pub(crate) fn of(request: &Request) -> Option<&Self> {
        request.data::<Arc<Self>>().map(|record| &**record)
    }

    /// Returns the ids in the token, if its signature was valid.
    pub(crate) fn identified(&self) -> &Identified {
        &self.identified
    }

    /// Returns why the request was first rejected.
    pub(crate) fn reason(&self) -> Option<&Reason> {
        self.reason.get()
    }

    /// Notes why the request was rejected, unless it was rejected before.
    pub(crate) fn reject(&self, name: &'static str, detail: &dyn Display) {
        self.reason.get_or_init(|| Reason {
            name,
            detail: detail.to_string(),
        });
    }
}
