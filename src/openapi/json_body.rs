use poem::{IntoResponse, Response, http::header};
use poem_openapi::{
    ApiResponse,
    payload::Payload,
    registry::{MetaMediaType, MetaResponse, MetaResponses, MetaSchemaRef, Registry},
    types::{ToJSON, Type},
};

/// A JSON response body of the media type `application/json`, which has no `charset` (RFC 8259 section 11). Poem's own `Json`
/// adds one, and client generators look the media type up by its exact name.
///
/// ```
/// use poem_hanko::{HankoAuth, JsonBody};
/// use poem_openapi::{Object, OpenApi};
///
/// #[derive(Object)]
/// struct Note {
///     text: String,
/// }
///
/// struct Api;
///
/// #[OpenApi]
/// impl Api {
///     /// List your notes
///     #[oai(path = "/notes", method = "get", operation_id = "listNotes")]
///     async fn list(&self, _auth: HankoAuth) -> JsonBody<Vec<Note>> {
///         JsonBody(vec![Note { text: "buy milk".to_owned() }])
///     }
/// }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct JsonBody<T>(pub T);

impl<T: Type> Payload for JsonBody<T> {
    const CONTENT_TYPE: &'static str = "application/json";

    fn schema_ref() -> MetaSchemaRef {
        T::schema_ref()
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

impl<T: ToJSON> IntoResponse for JsonBody<T> {
    fn into_response(self) -> Response {
        Response::builder()
            .header(header::CONTENT_TYPE, Self::CONTENT_TYPE)
            .body(self.0.to_json_string())
    }
}

impl<T: ToJSON> ApiResponse for JsonBody<T> {
    fn meta() -> MetaResponses {
        MetaResponses {
            responses: vec![MetaResponse {
                description: "The request succeeded.",
                status: Some(200),
                status_range: None,
                content: vec![MetaMediaType {
                    content_type: Self::CONTENT_TYPE,
                    schema: Self::schema_ref(),
                }],
                headers: vec![],
            }],
        }
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}
