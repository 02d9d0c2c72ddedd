//! What is configured, and probably not meant.

use std::{collections::HashMap, fmt};

use super::config::{
    HttpConfig, TracesWarning, UnknownVariable, traces_warnings, unknown_variables,
};

/// A warning about the configuration, logged at startup and printed by `check`.
#[derive(Debug)]
pub(super) enum Warning {
    /// A variable that nothing reads.
    UnknownVariable(UnknownVariable),
    /// A variable of OpenTelemetry without the effect that was meant.
    Traces(TracesWarning),
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
            Self::Traces(warning) => warning.fmt(formatter),
            Self::LoopbackOrigin { origin, public_url } => write!(
                formatter,
                "CORS_ALLOWED_ORIGINS allows {origin}, on loopback, but PUBLIC_URL={public_url} is not: whatever listens \
                 there on a user's machine can act for the user"
            ),
        }
    }
}

impl Warning {
    /// Returns the warnings about the variables that are set, and about the names of those in `.env` that are ignored there.
    /// The application reads those in `of_application`.
    pub(super) fn of_variables(
        variables: &HashMap<String, String>,
        of_application: &[String],
        ignored: Vec<String>,
    ) -> Vec<Self> {
        let traces = traces_warnings(variables, ignored);
        let names = variables.keys().map(String::as_str);
        let unknown = unknown_variables(names, of_application).into_iter();
        unknown
            .map(Self::UnknownVariable)
            .chain(traces.into_iter().map(Self::Traces))
            .collect()
    }

    /// Returns the warnings about a service that is reached at `public_url`, after those about its variables.
    pub(super) fn all(of_variables: Vec<Self>, config: &HttpConfig, public_url: &str) -> Vec<Self> {
        let origins = config.stray_loopback_origins(public_url).into_iter();
        of_variables
            .into_iter()
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
            Self::Traces(warning) => tracing::warn!(
                event = "otel_variable_ignored",
                variable = warning.variable(),
                "{self}"
            ),
            Self::LoopbackOrigin { origin, .. } => {
                tracing::warn!(event = "loopback_origin", origin, "{self}");
            }
        }
    }
}
