//! `sluice`: parses the arguments and hands over.

use std::process::ExitCode;

use clap::Parser;
use sluice_gateway::cli::{Cli, run};

/// Keeps the memory of large buffers for the next ones for some seconds; the C library would give it back to the system and take
/// it again with every request, page by page.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("sluice: no threads can be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(run(cli));
    // What still runs (a waiting read of standard input) must not keep the process.
    runtime.shutdown_background();
    code
}
