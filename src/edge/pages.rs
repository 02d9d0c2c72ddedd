//! The pages that are served beside the API and are not in its document.

use std::{fmt, sync::Arc};

use poem::{
    Endpoint, EndpointExt, IntoResponse, Middleware, Request, Response,
    endpoint::{BoxEndpoint, DynEndpoint},
    http::{HeaderValue, Method, header},
};

use super::html::accepts_html;

/// Pages by their full paths. As a middleware, they take precedence over the endpoint.
///
/// ```
/// use poem::{EndpointExt, Route};
/// use poem_hanko::{Document, Hanko, MeApi, Pages};
/// use poem_openapi::OpenApiService;
///
/// fn app(hanko: &Hanko) -> impl poem::Endpoint {
///     let service = OpenApiService::new(MeApi, "hello", "1.0");
///     let pages: Pages = Document::new(&service, hanko).pages();
///     Route::new().nest("/", service).with(pages)
/// }
/// ```
#[derive(Clone, Default)]
pub struct Pages(Arc<PagesByPath>);

#[derive(Default)]
struct PagesByPath {
    /// Few, so comparing them with a path takes less time than hashing it.
    pages: Vec<(String, BoxEndpoint<'static>)>,
    root: Option<Root>,
}

/// The page for browsers at `/`, where an operation responds to all other clients.
pub(crate) struct Root {
    page: BoxEndpoint<'static>,
    link: HeaderValue,
}

impl fmt::Debug for Pages {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.paths()).finish()
    }
}

impl Pages {
    /// Adds a page. Has no effect if `self` has been cloned.
    pub(crate) fn at(mut self, path: impl Into<String>, page: impl Endpoint + 'static) -> Self {
        if let Some(PagesByPath { pages, .. }) = Arc::get_mut(&mut self.0) {
            let path = path.into();
            let page = page.map_to_response().boxed();
            match pages.iter_mut().find(|(other, _)| *other == path) {
                Some((_, replaced)) => *replaced = page,
                None => pages.push((path, page)),
            }
        }
        self
    }

    /// Sets the page for browsers at `/`, and the `Link` of every response there. Has no effect if `self` has been cloned.
    pub(crate) fn with_root(mut self, page: impl Endpoint + 'static, link: HeaderValue) -> Self {
        if let Some(by_path) = Arc::get_mut(&mut self.0) {
            let page = page.map_to_response().boxed();
            by_path.root = Some(Root { page, link });
        }
        self
    }

    /// Returns the page for browsers at `/` if the request is for `/`, whether or not a browser sent it.
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
        self.0.pages.iter().map(|(path, _)| path.as_str())
    }

    /// Returns the page at this path, and its number.
    pub(crate) fn get(
        &self,
        path: &str,
    ) -> Option<(usize, &(dyn DynEndpoint<Output = Response> + 'static))> {
        let mut pages = self.0.pages.iter().enumerate();
        pages.find_map(|(number, (other, page))| (other == path).then_some((number, &**page)))
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

    /// Adds the headers that every response at `/` has.
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

/// An endpoint with [`Pages`] that take precedence over it.
///
/// ```
/// use poem::{EndpointExt, Route};
/// use poem_hanko::{Document, WithPages};
///
/// fn with_docs(routes: Route, document: &Document) -> WithPages<Route> {
///     routes.with(document.pages())
/// }
/// ```
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
