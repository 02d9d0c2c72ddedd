use std::fmt;

/// One error in the configuration: the variable, its value, what is wrong and how to fix it.
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
