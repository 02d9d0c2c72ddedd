//! The program `poem-hanko`: see the README, or `poem-hanko --help`.

use std::process::ExitCode;

/// Its background thread returns memory that is not used for ten seconds. glibc keeps what 10,000 connections have used
/// forever: see docs/operating.md.
#[cfg(all(feature = "jemalloc", target_os = "linux"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[tokio::main]
async fn main() -> ExitCode {
    ExitCode::from(poem_hanko::cli::run().await)
}
