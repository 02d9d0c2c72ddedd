/// Why an API cannot be served or documented: two of its parts conflict, or a path is not valid.
///
/// ```
/// use poem_hanko::{App, Conflict, MeApi};
///
/// // The same API twice.
/// let app = App::new((MeApi, MeApi), "hello", "1.0");
/// match app.document("https://api.example.com", "hanko") {
///     Ok(document) => println!("{}", document.title()),
///     Err(Conflict::Route { first, second }) => eprintln!("{first} or {second}?"),
///     Err(conflict) => eprintln!("{conflict}"),
/// }
/// # let result = app.document("https://api.example.com", "hanko");
/// # assert!(matches!(result, Err(Conflict::Route { .. })), "{result:?}");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Conflict {
    /// Two operations cannot be told apart by method and path. Poem would use one of them and never call the other.
    #[error(
        "{first} and {second} have conflicting routes: change the path or the method of one of them"
    )]
    Route {
        /// One operation, such as `GET /things/{id} (getThing)`.
        first: String,
        /// The other one.
        second: String,
    },
    /// Two operations have the same id, from which generated clients name their methods.
    #[error("{first} and {second} have the same operation id `{id}`: change one of them")]
    OperationId {
        /// The id.
        id: String,
        /// One operation.
        first: String,
        /// The other one.
        second: String,
    },
    /// Two schemas, or two security schemes, have the same name and are different.
    #[error("two parts of the API define `{name}` in different ways ({kind}): rename one of them")]
    Component {
        /// The kind of part, as in the document: `schemas` or `securitySchemes`.
        kind: String,
        /// The name.
        name: String,
    },
    /// Two types have the same name in the document.
    #[error("{first} and {second} are both called `{name}` in the document: rename one of them")]
    Type {
        /// The name.
        name: String,
        /// One type, such as `notes::Note`.
        first: String,
        /// The other one.
        second: String,
    },
    /// Poem does not support the path of an endpoint.
    #[error("the path {path} cannot be used: {reason}")]
    Path {
        /// The path.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
}
