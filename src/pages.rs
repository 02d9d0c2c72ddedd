//! The pages that are served beside the API and are not in its document.

use std::collections::HashMap;

use poem::{
    Endpoint, EndpointExt,
    endpoint::{BoxEndpoint, DynEndpoint},
};

/// Pages, each by its whole path.
#[derive(Default)]
pub(crate) struct Pages(HashMap<String, BoxEndpoint<'static>>);

impl Pages {
    /// Adds a page.
    pub(crate) fn at(mut self, path: impl Into<String>, page: impl Endpoint + 'static) -> Self {
        self.0.insert(path.into(), page.map_to_response().boxed());
        self
    }

    /// The page at this path.
    pub(crate) fn get(
        &self,
        path: &str,
    ) -> Option<&(dyn DynEndpoint<Output = poem::Response> + 'static)> {
        self.0.get(path).map(|page| &**page)
    }
}
