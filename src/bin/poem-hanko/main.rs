//! The program `poem-hanko`: see README.md, or `poem-hanko --help`.

mod greeting;

/// Returns unused memory to the system; glibc keeps it. See docs/operating.md.
#[cfg(all(feature = "jemalloc", target_os = "linux"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[tokio::main]
async fn main() -> std::process::ExitCode {
    greeting::app().run().await
}
