//! `sluice`: parses the arguments and hands over.

use std::process::ExitCode;

use clap::Parser;
use sluice_gateway::cli::{Cli, run};

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
