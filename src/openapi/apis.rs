//! Several APIs that are documented and served as one.

use std::{
    any::Any,
    collections::{BTreeMap, HashMap},
    marker::PhantomData,
    panic,
};

use poem::{endpoint::BoxEndpoint, http::Method};
use poem_openapi::{
    OpenApi, OpenApiService,
    registry::{MetaApi, Registry},
};
use serde_json::{Map, Value};

use super::conflict::Conflict;

/// The endpoints of an API by path and method, as Poem's router takes them.
pub(crate) type RouteMap = HashMap<String, HashMap<Method, BoxEndpoint<'static>>>;

/// The type of an API: its metadata, which need no instance.
#[derive(Clone, Debug)]
pub(crate) struct ApiType {
    prefix: String,
    meta: fn() -> Vec<MetaApi>,
    spec: fn() -> Result<String, Conflict>,
}

/// An API without its handlers.
struct WithoutHandlers<A>(PhantomData<A>);

impl<A: OpenApi> OpenApi for WithoutHandlers<A> {
    fn meta() -> Vec<MetaApi> {
        A::meta()
    }

    fn register(registry: &mut Registry) {
        A::register(registry);
    }

    fn add_routes(self, _routes: &mut RouteMap) {}
}

impl ApiType {
    pub(crate) fn of<A: OpenApi>() -> Self {
        Self {
            prefix: String::new(),
            meta: A::meta,
            spec: || {
                // Poem panics if two types have the same name.
                panic::catch_unwind(|| {
                    OpenApiService::new(WithoutHandlers::<A>(PhantomData), "", "").spec()
                })
                .map_err(|panic| match same_name(&*panic) {
                    Some(conflict) => conflict,
                    None => panic::resume_unwind(panic),
                })
            },
        }
    }

    /// Puts the API under a path that starts with a slash and does not end with one.
    pub(crate) fn under(mut self, prefix: &str) -> Self {
        prefix.clone_into(&mut self.prefix);
        self
    }

    /// Returns the metadata, with the prefix in each path.
    pub(crate) fn meta(&self) -> Vec<MetaApi> {
        let mut apis = (self.meta)();
        for path in apis.iter_mut().flat_map(|api| &mut api.paths) {
            path.path.insert_str(0, &self.prefix);
        }
        apis
    }

    /// Adds the endpoints of an API of this type to a router's.
    pub(crate) fn add_routes<A: OpenApi>(&self, api: A, routes: &mut RouteMap) {
        let mut own = RouteMap::new();
        api.add_routes(&mut own);
        for (path, methods) in own {
            routes
                .entry(format!("{}{path}", self.prefix))
                .or_default()
                .extend(methods);
        }
    }
}

/// Returns one document of several APIs. `base` is a document without operations.
///
/// # Errors
/// A [`Conflict`] if two operations have the same id, or two different schemas have the same name.
pub(crate) fn merge(base: &str, apis: &[ApiType]) -> Result<Value, Conflict> {
    let mut merged: Value = serde_json::from_str(base).expect("Poem writes the document as JSON");
    let mut tags = BTreeMap::new();
    let mut paths = Map::new();
    let mut components: BTreeMap<String, BTreeMap<String, Value>> = BTreeMap::new();
    let mut operation_ids: BTreeMap<String, String> = BTreeMap::new();
    for api in apis {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
        if !api.prefix.bytes().all(is_plain) {
            return Err(Conflict::Path {
                path: api.prefix.clone(),
                reason: "it may contain only letters, digits, `-`, `.`, `_`, `~` and `/`"
                    .to_owned(),
            });
        }
        let mut part: Value =
            serde_json::from_str(&(api.spec)()?).expect("Poem writes the document as JSON");
        for tag in part["tags"].as_array().into_iter().flatten() {
            let name = tag["name"].as_str().unwrap_or_default();
            // The first API is the application's own, so its description is kept.
            tags.entry(name.to_owned()).or_insert_with(|| tag.clone());
        }
        for (path, operations) in take_object(&mut part, "paths") {
            let path = format!("{}{path}", api.prefix);
            for (method, operation) in operations.as_object().into_iter().flatten() {
                if let Some(id) = operation["operationId"].as_str() {
                    let name = format!("{} {path}", method.to_uppercase());
                    if let Some(first) = operation_ids.insert(id.to_owned(), name.clone()) {
                        return Err(Conflict::OperationId {
                            id: id.to_owned(),
                            first,
                            second: name,
                        });
                    }
                }
            }
            match paths.get_mut(&path).and_then(Value::as_object_mut) {
                Some(known) => known.extend(operations.as_object().cloned().unwrap_or_default()),
                None => {
                    paths.insert(path, operations);
                }
            }
        }
        for (kind, items) in take_object(&mut part, "components") {
            let known = components.entry(kind.clone()).or_default();
            for (name, item) in items.as_object().into_iter().flatten() {
                let before = known.insert(name.clone(), item.clone());
                if before.is_some_and(|before| before != *item) {
                    return Err(Conflict::Component {
                        kind,
                        name: name.clone(),
                    });
                }
            }
        }
    }
    merged["tags"] = tags.into_values().collect();
    merged["paths"] = Value::Object(paths);
    merged["components"] = components
        .into_iter()
        .map(|(kind, items)| (kind, items.into_iter().collect::<Value>()))
        .collect();
    Ok(merged)
}

/// Parses Poem's panic message about two types with the same name.
fn same_name(panic: &(dyn Any + Send)) -> Option<Conflict> {
    let text = panic.downcast_ref::<String>()?;
    let (types, name) = text.split_once(" have the same OpenAPI name ")?;
    let (first, second) = types.split_once(" and ")?;
    Some(Conflict::Type {
        name: name.trim_matches('`').to_owned(),
        first: first.to_owned(),
        second: second.to_owned(),
    })
}

fn take_object(value: &mut Value, name: &str) -> Map<String, Value> {
    match value.get_mut(name).map(Value::take) {
        Some(Value::Object(object)) => object,
        _ => Map::new(),
    }
}
