/// Parts of an API that exclude each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Conflict {
    /// Two operations cannot be told apart by method and path. Poem would use one of them and never call the other.
    #[error(
        "{first} and {second} have conflicting routes: change the path or the method of one of them"
    )]
    Route {
        /// One operation, as `GET /things/{id} (getThing)`.
        first: String,
        /// The other one.
        second: String,
    },
    /// Two operations have the same id, which clients are generated from.
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
        /// What it is, as in the document: `schemas` or `securitySchemes`.
        kind: String,
        /// The name.
        name: String,
    },
    /// Two types have the same name in the document.
    #[error("{first} and {second} are both called `{name}` in the document: rename one of them")]
    Type {
        /// The name.
        name: String,
        /// One type, as `notes::Note`.
        first: String,
        /// The other one.
        second: String,
    },
    /// The path of an endpoint is none of Poem's.
    #[error("the path {path} cannot be used: {reason}")]
    Path {
        /// The path.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
}
