//! What is configured, and probably not meant.

use std::fmt;

use super::config::{HttpConfig, UnknownVariable};

/// A warning about the configuration, logged at startup and printed by `check`.
#[derive(Debug)]
pub(super) enum Warning {
    /// A variable that nothing reads.
    UnknownVariable(UnknownVariable),
    /// A frontend on the machine of whoever runs it, at a service that others reach.
    LoopbackOrigin { origin: String, public_url: String },
}

impl fmt::Display for Warning {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownVariable(UnknownVariable { name, meant: None }) => {
                write!(formatter, "{name} is no variable of this program")
            }
            Self::UnknownVariable(UnknownVariable {
                name,
                meant: Some(meant),
            }) => write!(
                formatter,
                "{name} is no variable of this program; {meant} is"
            ),
            Self::LoopbackOrigin { origin, public_url } => write!(
                formatter,
                "CORS_ALLOWED_ORIGINS allows {origin}, on loopback, but PUBLIC_URL={public_url} is not: whatever listens \
                 there on a user's machine can act for the user"
            ),
        }
    }
}

impl Warning {
    /// Returns the warnings about a service that is reached at `public_url`.
    pub(super) fn all(
        unknown: Vec<UnknownVariable>,
        config: &HttpConfig,
        public_url: &str,
    ) -> Vec<Self> {
        let origins = config.stray_loopback_origins(public_url).into_iter();
        let unknown = unknown.into_iter().map(Self::UnknownVariable);
        unknown
            .chain(origins.map(|origin| Self::LoopbackOrigin {
                origin: origin.to_owned(),
                public_url: public_url.to_owned(),
            }))
            .collect()
    }

    pub(super) fn log(&self) {
        match self {
            Self::UnknownVariable(unknown) => tracing::warn!(
                event = "unknown_variable",
                variable = unknown.name,
                "{self}"
            ),
            Self::LoopbackOrigin { origin, .. } => {
                tracing::warn!(event = "loopback_origin", origin, "{self}");
            }
        }
    }
}
