//! The OpenAPI document as it is served and exported.

use poem_openapi::{OpenApi, OpenApiService};
use serde_json::{Map, Value, json};

use crate::{
    auth::COOKIE_SCHEME,
    problem::{CONTENT_TYPE_PROBLEM, Problem, ProblemType},
};
use poem_openapi::types::ToJSON;

/// How the document is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DocumentFormat {
    /// `application/json`
    Json,
    /// `application/yaml` (RFC 9512)
    Yaml,
}

/// The OpenAPI document of a service.
#[derive(Clone, Debug)]
pub struct Document(Value);

impl Document {
    /// The document of `service`, whose session cookie is called `cookie_name`.
    ///
    /// # Panics
    /// Where Poem writes something other than JSON, which it does not.
    pub fn new<A: OpenApi>(service: &OpenApiService<A, ()>, cookie_name: &str) -> Self {
        let mut document: Value =
            serde_json::from_str(&service.spec()).expect("Poem writes the document as JSON");
        document["components"]["securitySchemes"][COOKIE_SCHEME]["name"] = json!(cookie_name);
        for operation in operations_mut(&mut document) {
            // Without a list of its own an operation takes the document's, and generators differ in what they make of
            // neither having one.
            operation
                .entry("security")
                .or_insert_with(|| Value::Array(Vec::new()));
            add_examples(operation);
        }
        Self(document)
    }

    /// The text of the document, ending in a line feed.
    ///
    /// # Panics
    /// Where JSON cannot be written to memory, which it can.
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

/// Shows, at every error response, the problems that it may carry.
fn add_examples(operation: &mut Map<String, Value>) {
    let is_authenticated = operation["security"]
        .as_array()
        .is_some_and(|schemes| !schemes.is_empty());
    let reads_input = operation.contains_key("requestBody") || operation.contains_key("parameters");
    let Some(responses) = operation["responses"].as_object_mut() else {
        return;
    };
    for (status, response) in responses {
        let content = &mut response["content"][CONTENT_TYPE_PROBLEM];
        if !content.is_object() {
            // Indexing has put `null` there.
            if let Some(content) = response["content"].as_object_mut() {
                content.remove(CONTENT_TYPE_PROBLEM);
            }
            continue;
        }
        let examples: Map<String, Value> = ProblemType::ALL
            .into_iter()
            .filter(|problem_type| problem_type.status().as_str() == status)
            .filter(|problem_type| match problem_type {
                ProblemType::AmbiguousCredentials => is_authenticated,
                ProblemType::BadRequest => reads_input,
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
