//! The command line: arguments in, one request to the admin API out, its answer printed. The commands know no store: a running
//! node answers over its control socket, a stopped repository is opened by the same code in this process.

mod args;
mod call;
mod commands;
mod print;

pub use args::Cli;
pub(crate) use call::Door;

use std::io::Write;
use std::process::ExitCode;

/// Runs one command. Prints results to stdout, one clear sentence to stderr when refused.
///
/// Exit codes: 0 done, 1 refused or failed; wrong usage (2) ends in the argument parser.
pub async fn run(cli: Cli) -> ExitCode {
    match commands::run(cli).await {
        Ok(text) => {
            // A closed pipe (`| head`) is no failure of the command.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("sluice: {error:#}");
            ExitCode::FAILURE
        }
    }
}
