//! Warnings about settings that are probably mistakes.

use std::{collections::HashMap, fmt};

use super::config::{
    HttpConfig, TracesWarning, UnknownVariable, traces_warnings, unknown_variables,
};

/// A warning about the configuration, logged at startup and printed by `check`.
#[derive(Debug)]
pub(super) enum Warning {
    /// A variable that nothing reads.
    UnknownVariable(UnknownVariable),
    /// A variable of OpenTelemetry that is ignored.
    Traces(TracesWarning),
    /// An allowed origin on loopback, although the service itself is not on loopback.
    LoopbackOrigin { origin: String, public_url: String },
}

impl fmt::Display for Warning {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownVariable(UnknownVariable { name, meant: None }) => {
                write!(formatter, "{name} is not a variable of this program")
            }
            Self::UnknownVariable(UnknownVariable {
                name,
                meant: Some(meant),
            }) => write!(
                formatter,
                "{name} is not a variable of this program; did you mean {meant}?"
            ),
            Self::Traces(warning) => warning.fmt(formatter),
            Self::LoopbackOrigin { origin, public_url } => write!(
                formatter,
                "CORS_ALLOWED_ORIGINS allows {origin}, which is on loopback, but PUBLIC_URL={public_url} is not: any program \
                 that listens there on a user's machine can act for the user"
            ),
        }
    }
}

impl Warning {
    /// Returns the warnings about the variables that are set, and about the names `ignored`, which `.env` sets without
    /// effect. The application itself reads the variables in `of_application`.
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

    /// Returns `variable_warnings`, followed by those about a service that is reached at `public_url`.
    pub(super) fn all(
        variable_warnings: Vec<Self>,
        config: &HttpConfig,
        public_url: &str,
    ) -> Vec<Self> {
        let origins = config.stray_loopback_origins(public_url).into_iter();
        variable_warnings
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
