//! The pages that are served beside the API and are not in its document.

use std::{collections::HashMap, fmt, sync::Arc};

use poem::{
    Endpoint, EndpointExt, IntoResponse, Middleware, Request, Response,
    endpoint::{BoxEndpoint, DynEndpoint},
    http::{HeaderValue, Method, header},
};

use super::html::accepts_html;

/// Pages, each by its whole path. As a middleware, they come before the paths of the endpoint.
#[derive(Clone, Default)]
pub struct Pages(Arc<PagesByPath>);

#[derive(Default)]
struct PagesByPath {
    pages: HashMap<String, Page>,
    root: Option<Root>,
}

struct Page {
    number: usize,
    endpoint: BoxEndpoint<'static>,
}

/// The page at `/`, where an operation responds to all clients but browsers.
pub(crate) struct Root {
    page: BoxEndpoint<'static>,
    link: HeaderValue,
}

impl fmt::Debug for Pages {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.0.pages.keys()).finish()
    }
}

impl Pages {
    /// Adds a page, while there is only one of these.
    pub(crate) fn at(mut self, path: impl Into<String>, page: impl Endpoint + 'static) -> Self {
        if let Some(PagesByPath { pages, .. }) = Arc::get_mut(&mut self.0) {
            let path = path.into();
            let number = pages.get(&path).map_or(pages.len(), |page| page.number);
            let endpoint = page.map_to_response().boxed();
            pages.insert(path, Page { number, endpoint });
        }
        self
    }

    /// Sets the page for browsers at `/`, and the `Link` of every response there, while there is only one of these.
    pub(crate) fn with_root(mut self, page: impl Endpoint + 'static, link: HeaderValue) -> Self {
        if let Some(by_path) = Arc::get_mut(&mut self.0) {
            let page = page.map_to_response().boxed();
            by_path.root = Some(Root { page, link });
        }
        self
    }

    /// Returns the page for browsers at `/` if the request is one for `/`, whoever sent it.
    pub(crate) fn root(&self, request: &Request) -> Option<&Root> {
        let is_at_root =
            request.uri().path() == "/" && matches!(*request.method(), Method::GET | Method::HEAD);
        self.0.root.as_ref().filter(|_| is_at_root)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.pages.len()
    }

    /// Returns the paths of the pages, in the order of their numbers.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &str> {
        let mut pages: Vec<(usize, &str)> = self
            .0
            .pages
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
        let page = self.0.pages.get(path)?;
        Some((page.number, &*page.endpoint))
    }
}

impl Root {
    /// Returns the page if the client is a browser.
    pub(crate) fn page(
        &self,
        request: &Request,
    ) -> Option<&(dyn DynEndpoint<Output = Response> + 'static)> {
        accepts_html(request.headers()).then_some(&*self.page)
    }

    /// Adds what every response at `/` has.
    pub(crate) fn complete(&self, response: &mut Response) {
        let headers = response.headers_mut();
        headers.append(header::LINK, self.link.clone());
        headers.append(header::VARY, HeaderValue::from_static("accept"));
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
