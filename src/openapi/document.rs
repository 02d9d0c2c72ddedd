//! The OpenAPI document as it is served and exported.

use std::{collections::HashSet, iter};

use poem_openapi::{OpenApi, OpenApiService, types::ToJSON};
use serde_json::{Map, Value, json};

use super::{
    headers::{self, LINK, REQUEST_ID},
    problems::split_problem_types,
};
use crate::{
    auth::{COOKIE_SCHEME, Credential, Rejection},
    hanko::Hanko,
    problem::{CONTENT_TYPE_PROBLEM, Problem, ProblemType},
};

/// Describes a request header that every operation accepts. If it were a parameter, each method of a generated client would
/// have an argument for it.
const REQUEST_ID_TEXT: &str = "A request may have an id in the header `X-Request-Id`: 1 to 64 letters, digits, `-`, `_` or `.`. \
    The response and the log of the service have the same id.";

/// Describes the tag of the operations that have none.
const UNTAGGED_TEXT: &str = "Operations without a tag of their own.";

/// The format of the document.
///
/// ```
/// use poem_hanko::DocumentFormat;
///
/// fn format_of(path: &str) -> DocumentFormat {
///     if path.ends_with(".json") { DocumentFormat::Json } else { DocumentFormat::Yaml }
/// }
///
/// assert_eq!(format_of("openapi.yaml"), DocumentFormat::Yaml);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DocumentFormat {
    /// `application/json`
    Json,
    /// `application/yaml` (RFC 9512)
    Yaml,
}

/// The OpenAPI document of a service.
///
/// Its style is the one that openapi-typescript, openapi-generator, openapi-python-client and progenitor all accept:
/// OpenAPI 3.0 (progenitor reads no 3.1), one success type per operation, plain `application/json` (openapi-python-client
/// and openapi-fetch look the media type up by its exact name), an explicit problem body for each error status, and neither
/// `default` nor an error without a body (progenitor needs one error type per operation). `tests/clients/run` tests that.
/// There is one exception: errors are `application/problem+json`, as they are sent. For progenitor, which supports
/// `application/json` only, replace the media type in a copy of the document.
///
/// ```
/// use poem_hanko::{App, DocumentFormat, MeApi};
///
/// let app = App::new(MeApi, "hello", "1.0");
/// let document = app.document("https://api.example.com", "hanko")?;
/// assert_eq!(document.as_json()["servers"][0]["url"], "https://api.example.com");
/// std::fs::write("openapi.yaml", document.to_text(DocumentFormat::Yaml))?;
/// # std::fs::remove_file("openapi.yaml")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Document(Value);

impl Document {
    /// Creates the document of a Poem service whose sessions are those of `hanko`. It adds to Poem's document the name of
    /// the session cookie, an example of each problem and each header, and the header `X-Request-Id`. Operations without a
    /// tag get that of the title, and tags without an operation are left out.
    ///
    /// ```
    /// use poem::{EndpointExt, Route};
    /// use poem_hanko::{Document, Edge, Hanko, MeApi, WithProblems};
    /// use poem_openapi::OpenApiService;
    ///
    /// fn app(hanko: &Hanko) -> impl poem::Endpoint {
    ///     let service = OpenApiService::new(WithProblems(MeApi), "hello", "1.0");
    ///     let pages = Document::new(&service, hanko).pages();
    ///     Route::new().nest("/", service).with(pages).with(Edge::new(hanko))
    /// }
    /// ```
    ///
    /// # Panics
    /// Never: Poem writes JSON.
    pub fn new<A: OpenApi>(service: &OpenApiService<A, ()>, hanko: &Hanko) -> Self {
        Self::of_text(&service.spec(), hanko.cookie_name())
    }

    pub(crate) fn of_text(text: &str, cookie_name: &str) -> Self {
        let document = serde_json::from_str(text).expect("Poem writes the document as JSON");
        Self::of_value(document, cookie_name)
    }

    pub(crate) fn of_value(mut document: Value, cookie_name: &str) -> Self {
        if let Some(scheme) =
            document.pointer_mut(&format!("/components/securitySchemes/{COOKIE_SCHEME}"))
        {
            scheme["name"] = json!(cookie_name);
        }
        describe_request_id(&mut document["info"]);
        let title = document["info"]["title"].clone();
        let details = example_details(cookie_name);
        let problem_types = ProblemType::known();
        let mut documented = HashSet::new();
        for operation in operations_mut(&mut document) {
            // Generators disagree about an operation without `security` if the document has no `security` either.
            operation
                .entry("security")
                .or_insert_with(|| Value::Array(Vec::new()));
            let is_secured = operation["security"] != json!([]);
            let details = if is_secured { &details[..] } else { &[] };
            let tags = operation.entry("tags").or_insert_with(|| json!([]));
            if *tags == json!([]) {
                *tags = json!([title]);
            }
            for response in objects_mut(&mut operation["responses"]) {
                documented.extend(add_examples(response, &problem_types, details));
                tidy_response(response);
            }
        }
        if let Some(response) = document.pointer_mut("/paths/~1/get/responses/200/headers") {
            response[LINK.name] = LINK.reference();
        }
        document["components"]["headers"] = used_headers(&mut document);
        tidy_schemas(&mut document["components"]["schemas"]);
        list_tags(&mut document, &title);
        if let Some(member) = document.pointer_mut("/components/schemas/Problem/properties/type") {
            // The types of this crate, which any response may have, and those that this application documents.
            let listed: Vec<ProblemType> = problem_types
                .into_iter()
                .filter(|known| ProblemType::ALL.contains(known) || documented.contains(known))
                .collect();
            list_problem_types(member, &listed);
        }
        Self(document)
    }

    /// Returns the title.
    ///
    /// ```
    /// use poem_hanko::{App, MeApi};
    ///
    /// let app = App::new(MeApi, "hello", "1.0");
    /// let document = app.document("https://api.example.com", "hanko")?;
    /// assert_eq!(document.title(), "hello");
    /// # Ok::<(), poem_hanko::Conflict>(())
    /// ```
    pub fn title(&self) -> &str {
        self.0["info"]["title"].as_str().unwrap_or_default()
    }

    /// Returns the document as JSON.
    ///
    /// ```
    /// use poem_hanko::{App, MeApi};
    ///
    /// let app = App::new(MeApi, "hello", "1.0");
    /// let document = app.document("https://api.example.com", "hanko")?;
    /// assert_eq!(document.as_json()["info"]["version"], "1.0");
    /// # Ok::<(), poem_hanko::Conflict>(())
    /// ```
    pub fn as_json(&self) -> &Value {
        &self.0
    }

    /// Returns the security schemes whose key is in the query, or in a cookie other than the session cookie.
    pub(crate) fn router_schemes(&self) -> HashSet<String> {
        let schemes = self.0["components"]["securitySchemes"].as_object();
        schemes
            .into_iter()
            .flatten()
            .filter(|(name, scheme)| {
                scheme["in"] == "query" || (scheme["in"] == "cookie" && *name != COOKIE_SCHEME)
            })
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Returns the URL of the first server, or nothing if the document names none.
    pub(crate) fn server_url(&self) -> &str {
        self.0["servers"][0]["url"].as_str().unwrap_or_default()
    }

    /// Returns the text of the document, which ends in a line feed.
    ///
    /// ```
    /// use poem_hanko::{App, DocumentFormat, MeApi};
    ///
    /// let app = App::new(MeApi, "hello", "1.0");
    /// let document = app.document("https://api.example.com", "hanko")?;
    /// let json = document.to_text(DocumentFormat::Json);
    /// assert!(json.starts_with('{'));
    /// # Ok::<(), poem_hanko::Conflict>(())
    /// ```
    ///
    /// # Panics
    /// Never: JSON can always be written to memory.
    pub fn to_text(&self, format: DocumentFormat) -> String {
        match format {
            DocumentFormat::Json => {
                let mut text = serde_json::to_string_pretty(&self.0).expect("JSON can be written");
                text.push('\n');
                text
            }
            DocumentFormat::Yaml => {
                serde_saphyr::to_string(&self.0).expect("JSON can be written as YAML")
            }
        }
    }
}

/// Returns the members of a JSON object that are objects.
fn objects_mut(value: &mut Value) -> impl Iterator<Item = &mut Map<String, Value>> {
    value
        .as_object_mut()
        .into_iter()
        .flat_map(Map::values_mut)
        .filter_map(Value::as_object_mut)
}

fn operations_mut(document: &mut Value) -> impl Iterator<Item = &mut Map<String, Value>> {
    objects_mut(&mut document["paths"])
        .flat_map(|path| path.values_mut())
        .filter_map(Value::as_object_mut)
}

/// Adds the text about request ids to the description of the API.
fn describe_request_id(info: &mut Value) {
    let description = match info["description"].as_str() {
        Some(text) if !text.is_empty() => format!("{text}\n\n{REQUEST_ID_TEXT}"),
        _ => REQUEST_ID_TEXT.to_owned(),
    };
    info["description"] = json!(description);
}

/// Lists the tags that operations have, in the order of their first operations, in which Swagger UI shows them. Poem sorts them
/// by name, so that the application's tags would be between health checks and webhooks, and also lists unused tags.
fn list_tags(document: &mut Value, untagged: &Value) {
    let mut used: Vec<Value> = Vec::new();
    for operation in operations_mut(document) {
        for name in operation["tags"].as_array().into_iter().flatten() {
            if !used.contains(name) {
                used.push(name.clone());
            }
        }
    }
    let declared = document["tags"].as_array().cloned().unwrap_or_default();
    let tags = used.into_iter().map(|name| {
        let declared = declared.iter().find(|tag| tag["name"] == name);
        match declared {
            Some(tag) => tag.clone(),
            None if name == *untagged => json!({ "name": name, "description": UNTAGGED_TEXT }),
            None => json!({ "name": name }),
        }
    });
    document["tags"] = tags.collect();
}

/// Returns the components of the headers that responses refer to.
fn used_headers(document: &mut Value) -> Value {
    let mut references: HashSet<String> = HashSet::new();
    for operation in operations_mut(document) {
        for response in objects_mut(&mut operation["responses"]) {
            for header in objects_mut(&mut response["headers"]) {
                references.extend(
                    header
                        .get("$ref")
                        .and_then(Value::as_str)
                        .map(ToOwned::to_owned),
                );
            }
        }
    }
    let is_used = |header: &headers::ResponseHeader| {
        let reference = header.reference();
        reference["$ref"]
            .as_str()
            .is_some_and(|reference| references.contains(reference))
    };
    headers::ALL
        .iter()
        .filter(|header| is_used(header))
        .map(|header| (header.name, header.component()))
        .collect()
}

/// Returns the `detail` of each example about rejected credentials.
fn example_details(cookie_name: &str) -> [(ProblemType, String); 4] {
    let name = || cookie_name.to_owned();
    let cookie = || Credential::Cookie { name: name() };
    let detail = |rejection: &Rejection| rejection.detail().unwrap_or_default();
    [
        (
            ProblemType::MISSING_CREDENTIALS,
            detail(&Rejection::MissingCredentials {
                cookie_name: name(),
            }),
        ),
        (
            ProblemType::INVALID_TOKEN,
            detail(&Rejection::SessionEnded(cookie())),
        ),
        (
            ProblemType::AMBIGUOUS_CREDENTIALS,
            detail(&Rejection::AmbiguousCredentials(cookie())),
        ),
        (
            ProblemType::CROSS_SITE_REQUEST,
            detail(&Rejection::CrossSiteRequest {
                cookie_name: name(),
            }),
        ),
    ]
}

/// Lists the known problem types without making them a closed enum, which would break clients with each new type.
fn list_problem_types(member: &mut Value, problem_types: &[ProblemType]) {
    let lines = problem_types.iter().map(|known| {
        let (uri, title, status) = (known.uri(), known.title(), known.status().as_u16());
        format!("\n- `{uri}`: {title} ({status})")
    });
    let description: String = iter::once(
        "A URI reference that identifies the kind of problem. New kinds may be added. The known ones:\n".to_owned(),
    )
    .chain(lines)
    .collect();
    member["description"] = json!(description);
    member["x-extensible-enum"] = problem_types.iter().map(|known| known.uri()).collect();
}

/// Declares the headers that every response has, refers to those that have a component, and removes empty members that Poem
/// writes.
fn tidy_response(response: &mut Map<String, Value>) {
    if response.get("content") == Some(&json!({})) {
        response.remove("content");
    }
    let headers = response.entry("headers").or_insert_with(|| json!({}));
    for (name, header) in headers.as_object_mut().into_iter().flatten() {
        let Some(members) = header.as_object_mut() else {
            continue;
        };
        members.retain(|key, value| key != "deprecated" || *value == json!(true));
        let known = headers::ALL
            .iter()
            .find(|known| known.describes(name, members));
        if let Some(known) = known {
            *header = known.reference();
        }
    }
    headers[REQUEST_ID.name] = REQUEST_ID.reference();
}

/// Moves the list of problem types from the description of a response to its examples, and returns it.
fn add_examples(
    response: &mut Map<String, Value>,
    problem_types: &[ProblemType],
    details: &[(ProblemType, String)],
) -> Vec<ProblemType> {
    let Some(description) = response.get("description").and_then(Value::as_str) else {
        return Vec::new();
    };
    let (text, uris) = split_problem_types(description);
    let documented: Vec<ProblemType> = problem_types
        .iter()
        .filter(|problem_type| uris.contains(&problem_type.uri()))
        .copied()
        .collect();
    let examples: Map<String, Value> = documented
        .iter()
        .map(|problem_type| {
            let mut example = Problem::from(*problem_type);
            if let Some((_, detail)) = details.iter().find(|(known, _)| known == problem_type) {
                example = example.with_detail(detail);
            }
            let example = example.to_json();
            // A type of an application may have the same last segment as one of this crate.
            let is_ambiguous = problem_types
                .iter()
                .any(|other| other != problem_type && other.slug() == problem_type.slug());
            let name = if is_ambiguous {
                problem_type.uri()
            } else {
                problem_type.slug()
            };
            (name.to_owned(), json!({ "value": example }))
        })
        .collect();
    let text = json!(text);
    if let Some(content) = response
        .get_mut("content")
        .and_then(|content| content.get_mut(CONTENT_TYPE_PROBLEM))
        && !examples.is_empty()
    {
        content["examples"] = Value::Object(examples);
    }
    response.insert("description".to_owned(), text);
    documented
}

/// Rewrites schemas so that generators understand them.
fn tidy_schemas(value: &mut Value) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(tidy_schemas),
        Value::Object(schema) => {
            // Poem writes the bounds of integers as floating point numbers.
            for bound in ["minimum", "maximum"] {
                let number = schema.get(bound).and_then(Value::as_f64);
                if let Some(number) = number.filter(|number| number.fract() == 0.0) {
                    #[expect(
                        clippy::cast_possible_truncation,
                        clippy::cast_sign_loss,
                        reason = "a bound is that of an integer type, and the cast saturates"
                    )]
                    let integer = if number < 0.0 {
                        json!(number as i64)
                    } else {
                        json!(number as u64)
                    };
                    schema.insert(bound.to_owned(), integer);
                }
            }
            // Poem writes the description of a reference beside `allOf`, where it belongs, and again as a second schema in
            // it, from which generators make an intersection with an empty type.
            let description = schema.get("description").cloned();
            if let Some(all_of) = schema.get_mut("allOf").and_then(Value::as_array_mut) {
                all_of.retain(|part| {
                    description.is_none() || part.get("description") != description.as_ref()
                });
            }
            schema.values_mut().for_each(tidy_schemas);
        }
        _ => {}
    }
}
