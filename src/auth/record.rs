//! What the authentication of a request has found.

use std::sync::{Arc, OnceLock};

use poem::Request;

use super::rejection::Rejection;
use crate::hanko::Identified;

/// Kept in the data of a request by whoever logs it, and filled in by its authentication.
#[derive(Debug, Default)]
pub(crate) struct AuthRecord {
    identified: Identified,
    rejection: OnceLock<Rejection>,
}

impl AuthRecord {
    /// Adds a record to the data of a request.
    pub(crate) fn add_to(request: &mut Request) -> Arc<Self> {
        let record = Arc::new(Self::default());
        request.set_data(Arc::clone(&record));
        record
    }

    /// Returns the record in the data of a request.
    pub(super) fn of(request: &Request) -> Option<&Self> {
        request.data::<Arc<Self>>().map(|record| &**record)
    }

    /// Returns whose token it was, if its signature was valid.
    pub(crate) fn identified(&self) -> &Identified {
        &self.identified
    }

    /// Returns why the request was first rejected.
    pub(crate) fn rejection(&self) -> Option<&Rejection> {
        self.rejection.get()
    }

    pub(super) fn reject(&self, rejection: &Rejection) {
        self.rejection.get_or_init(|| rejection.clone());
    }
}
