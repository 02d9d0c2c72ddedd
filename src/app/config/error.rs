use std::fmt;

/// One error in the configuration: the variable, its value, what is wrong and how to fix it.
///
/// ```
/// use poem_hanko::{Config, HankoChoice};
///
/// let lookup = |name: &str| (name == "PORT").then(|| "http".to_owned());
/// let errors = Config::from_lookup(lookup, HankoChoice::Local).unwrap_err();
/// let error = &errors.0[0];
/// assert_eq!(error.variable, "PORT");
/// assert_eq!(error.value.as_deref(), Some("http"));
/// assert_eq!(error.to_string(), r#"PORT="http" is not a port from 0 to 65535"#);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The name of the environment variable.
    pub variable: &'static str,
    /// Its value, masked if it might contain a secret; `None` if it is unset.
    pub value: Option<String>,
    /// What is wrong and how to fix it, to be read after the variable and its value.
    pub problem: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(formatter, "{}={value:?} {}", self.variable, self.problem),
            None => write!(formatter, "{} {}", self.variable, self.problem),
        }
    }
}

/// All errors in the configuration, one per line.
///
/// ```
/// use poem_hanko::{Config, HankoChoice};
///
/// match Config::from_lookup(|name| std::env::var(name).ok(), HankoChoice::Configured) {
///     Ok(config) => println!("the port is {}", config.http.port),
///     Err(errors) => eprintln!("{errors}"),
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                formatter.write_str("\n")?;
            }
            write!(formatter, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
