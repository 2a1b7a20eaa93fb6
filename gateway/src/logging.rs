//! Structured logs: set up once, at start, on stderr. Spans carry the same fields everywhere: node, protocol, session, client, document, open.

use std::io::IsTerminal;

use anyhow::Context;
use sluice_config::{Log, LogFormat};
use tracing_subscriber::EnvFilter;

/// Starts logging as configured.
///
/// # Errors
/// A filter that can't be parsed.
pub fn start(log: &Log) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&log.level).with_context(|| {
        format!(
            "log.level \"{}\" is not a log filter; write for example \"info\"",
            log.level
        )
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        // A log that can't be written (its disk is full) must stop nothing: complaining about that on stderr would panic.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    let started = match log.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("logging can't start: {error}"))
}
