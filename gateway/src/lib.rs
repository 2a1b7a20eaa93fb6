//! The daemon: composes stores, locks, file layer and heads from the settings, serves the admin API, and is its command line.
//! The only crate that knows every other; it decides nothing about files.

pub mod admin;
pub mod cli;
pub mod cluster;
mod content;
pub mod demo;
pub mod files;
mod housekeeping;
pub mod logging;
pub mod node;
pub mod preflight;
pub mod tls;
pub mod verify;
pub mod welcome;
