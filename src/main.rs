//! The program `poem-hanko`: see the README, or `poem-hanko --help`.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    ExitCode::from(poem_hanko::cli::run().await)
}
