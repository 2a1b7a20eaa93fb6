//! The command line: arguments in, one request to the admin API out, its answer printed. The commands know no store: a running
//! node answers over its control socket, a stopped repository is opened by the same code in this process.

mod args;
mod call;
mod commands;
mod print;

pub use args::Cli;
pub(crate) use call::Door;

use std::io::{BufRead, Write};
use std::process::ExitCode;

use tokio::sync::mpsc;

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

/// The lines of standard input as they come. A thread of its own reads them: a waiting read would keep the runtime from ending.
pub(crate) fn standard_input() -> mpsc::UnboundedReceiver<String> {
    let (tell, lines) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if tell.send(line).is_err() {
                return;
            }
        }
    });
    lines
}
