//! The pages that are served beside the API and are not in its document.

use std::{collections::HashMap, fmt, sync::Arc};

use poem::{
    Endpoint, EndpointExt, IntoResponse, Middleware, Request, Response,
    endpoint::{BoxEndpoint, DynEndpoint},
};

/// Pages, each by its whole path. As a middleware, they come before the paths of the endpoint.
#[derive(Clone, Default)]
pub struct Pages(Arc<HashMap<String, Page>>);

struct Page {
    number: usize,
    endpoint: BoxEndpoint<'static>,
}

impl fmt::Debug for Pages {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.0.keys()).finish()
    }
}

impl Pages {
    /// Adds a page, while there is only one of these.
    pub(crate) fn at(mut self, path: impl Into<String>, page: impl Endpoint + 'static) -> Self {
        if let Some(pages) = Arc::get_mut(&mut self.0) {
            let path = path.into();
            let number = pages.get(&path).map_or(pages.len(), |page| page.number);
            let endpoint = page.map_to_response().boxed();
            pages.insert(path, Page { number, endpoint });
        }
        self
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the paths of the pages, in the order of their numbers.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &str> {
        let mut pages: Vec<(usize, &str)> = self
            .0
            .iter()
            .map(|(path, page)| (page.number, path.as_str()))
            .collect();
        pages.sort_unstable();
        pages.into_iter().map(|(_, path)| path)
    }

    /// The page at this path, and its number.
    pub(crate) fn get(
        &self,
        path: &str,
    ) -> Option<(usize, &(dyn DynEndpoint<Output = Response> + 'static))> {
        self.0.get(path).map(|page| (page.number, &*page.endpoint))
    }
}

impl<E: Endpoint> Middleware<E> for Pages {
    type Output = WithPages<E>;

    fn transform(&self, endpoint: E) -> Self::Output {
        WithPages {
            endpoint,
            pages: self.clone(),
        }
    }
}

/// An endpoint with [`Pages`] before it.
#[derive(Debug)]
pub struct WithPages<E> {
    endpoint: E,
    pages: Pages,
}

impl<E: Endpoint> Endpoint for WithPages<E> {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        match self.pages.get(request.uri().path()) {
            Some((_, page)) => DynEndpoint::call(page, request).await,
            None => self
                .endpoint
                .call(request)
                .await
                .map(IntoResponse::into_response),
        }
    }
}
