//! What the authentication of a request has found.

use std::{
    fmt::Display,
    sync::{Arc, OnceLock},
};

use poem::Request;

use crate::hanko::Identified;

/// Why a request was rejected.
#[derive(Debug)]
pub(crate) struct Reason {
    /// One of a fixed set.
    pub(crate) name: &'static str,
    /// A sentence without anything that the client has sent.
    pub(crate) detail: String,
}

/// Kept in the data of a request by whoever logs it, and filled in by its authentication.
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

    /// Returns whose token it was, if its signature was valid.
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
