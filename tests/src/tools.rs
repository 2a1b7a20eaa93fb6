//! Real programs that tests drive: found or named as missing with the remedy.

use std::process::{Command, Output};

use anyhow::{Context, ensure};

/// Runs a program that must succeed; its stdout. A missing program is told with the script that installs it.
pub fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = run_any(command)?;
    ensure!(
        output.status.success(),
        "{command:?} failed ({}):\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a program, whatever it answers.
pub fn run_any(command: &mut Command) -> anyhow::Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    command
        .output()
        .with_context(|| format!("{name} can't be started; scripts/install-test-tools installs it"))
}
