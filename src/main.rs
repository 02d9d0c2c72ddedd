//! The program `poem-hanko`: see the README, or `poem-hanko --help`.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// Serves some percent more requests than the system's, from less memory: futures and buffers come and go all the time.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    ExitCode::from(poem_hanko::cli::run().await)
}
