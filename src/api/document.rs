//! The OpenAPI document as it is served and exported.

use poem_openapi::{OpenApi, OpenApiService};
use serde_json::{Map, Value, json};

use crate::{
    auth::COOKIE_SCHEME,
    problem::{CONTENT_TYPE_PROBLEM, Problem, ProblemType},
};
use poem_openapi::types::ToJSON;

/// The name of the component for the header `X-Request-Id`.
const REQUEST_ID_COMPONENT: &str = "RequestId";

/// The format of the document.
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
/// There is one exception: errors are `application/problem+json`, as they are sent, although progenitor supports
/// `application/json` only, so that one must be replaced by the other before it generates.
#[derive(Clone, Debug)]
pub struct Document(Value);

impl Document {
    /// Creates the document of `service`, whose session cookie is called `cookie_name`.
    ///
    /// # Panics
    /// If Poem writes something other than JSON, which it does not.
    pub fn new<A: OpenApi>(service: &OpenApiService<A, ()>, cookie_name: &str) -> Self {
        let mut document: Value =
            serde_json::from_str(&service.spec()).expect("Poem writes the document as JSON");
        document["components"]["securitySchemes"][COOKIE_SCHEME]["name"] = json!(cookie_name);
        for operation in operations_mut(&mut document) {
            // Generators disagree about an operation without a list of its own if the document has none either.
            operation
                .entry("security")
                .or_insert_with(|| Value::Array(Vec::new()));
            add_examples(operation);
            tidy_responses(operation);
        }
        document["components"]["headers"] = json!({ REQUEST_ID_COMPONENT: {
            "description": "Tells one request from another: the id that came with the request if it is 1 to 64 letters, \
                digits, `-`, `_` or `.`, else a new one.",
            "required": true,
            "schema": { "type": "string" },
            "example": "6f1a40f50d2b4d2c9c530e6f2f4354b2",
        }});
        tidy_schemas(&mut document["components"]["schemas"]);
        Self(document)
    }

    /// Returns the text of the document, which ends in a line feed.
    ///
    /// # Panics
    /// If JSON cannot be written to memory, which it can.
    pub fn to_text(&self, format: DocumentFormat) -> String {
        match format {
            DocumentFormat::Json => {
                let mut text = serde_json::to_string_pretty(&self.0).expect("JSON can be written");
                text.push('\n');
                text
            }
            DocumentFormat::Yaml => {
                serde_norway::to_string(&self.0).expect("JSON can be written as YAML")
            }
        }
    }
}

fn operations_mut(document: &mut Value) -> impl Iterator<Item = &mut Map<String, Value>> {
    document["paths"]
        .as_object_mut()
        .into_iter()
        .flat_map(|paths| paths.values_mut())
        .filter_map(Value::as_object_mut)
        .flat_map(|path| path.values_mut())
        .filter_map(Value::as_object_mut)
}

/// Declares the headers that every response has, and removes empty members that Poem writes.
fn tidy_responses(operation: &mut Map<String, Value>) {
    let responses = operation["responses"].as_object_mut();
    for response in responses.into_iter().flat_map(|map| map.values_mut()) {
        let Some(response) = response.as_object_mut() else {
            continue;
        };
        if response.get("content") == Some(&json!({})) {
            response.remove("content");
        }
        let headers = response.entry("headers").or_insert_with(|| json!({}));
        for header in headers
            .as_object_mut()
            .into_iter()
            .flat_map(Map::values_mut)
        {
            if let Some(header) = header.as_object_mut() {
                header.retain(|key, value| key != "deprecated" || *value == json!(true));
            }
        }
        headers["X-Request-Id"] =
            json!({ "$ref": format!("#/components/headers/{REQUEST_ID_COMPONENT}") });
    }
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
                    #[expect(clippy::cast_possible_truncation, reason = "bounds are small")]
                    schema.insert(bound.to_owned(), json!(number as i64));
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

/// Adds to every error response an example of each problem that it may contain.
fn add_examples(operation: &mut Map<String, Value>) {
    let is_authenticated = operation["security"]
        .as_array()
        .is_some_and(|schemes| !schemes.is_empty());
    let reads_input = operation.contains_key("requestBody") || operation.contains_key("parameters");
    let Some(responses) = operation["responses"].as_object_mut() else {
        return;
    };
    for (status, response) in responses {
        let needs_no_keys =
            response["description"].as_str() == Some(ProblemType::Overloaded.meta().description);
        let content = &mut response["content"][CONTENT_TYPE_PROBLEM];
        if !content.is_object() {
            // Indexing has inserted `null`.
            if let Some(content) = response["content"].as_object_mut() {
                content.remove(CONTENT_TYPE_PROBLEM);
            }
            continue;
        }
        let examples: Map<String, Value> = ProblemType::ALL
            .into_iter()
            .filter(|problem_type| problem_type.status().as_str() == status)
            .filter(|problem_type| match problem_type {
                ProblemType::AmbiguousCredentials | ProblemType::MissingCredentials => {
                    is_authenticated
                }
                ProblemType::BadRequest => reads_input,
                ProblemType::AuthenticationUnavailable => !needs_no_keys,
                _ => true,
            })
            .map(|problem_type| {
                let example = Problem::from(problem_type).to_json();
                (problem_type.slug().to_owned(), json!({ "value": example }))
            })
            .collect();
        content["examples"] = Value::Object(examples);
    }
}
