//! Records as JSON or as a table.

use anyhow::Context;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sluice_vfs::{TableRow, render_table};

/// Pretty JSON with a newline.
pub(super) fn json(value: &Value) -> String {
    format!("{value:#}\n")
}

/// A list of records: JSON as it came, or a table with a line a record.
pub(super) fn records<R: TableRow + DeserializeOwned>(
    value: Value,
    as_json: bool,
) -> anyhow::Result<String> {
    if as_json {
        return Ok(json(&value));
    }
    let rows: Vec<R> = serde_json::from_value(value).context("the answer can't be read")?;
    Ok(render_table(&rows))
}

/// One record: JSON, or `name: value` lines.
pub(super) fn record<R: Serialize + DeserializeOwned>(
    value: &Value,
    as_json: bool,
    text: impl FnOnce(&R) -> String,
) -> anyhow::Result<String> {
    if as_json {
        return Ok(json(value));
    }
    let record: R = serde_json::from_value(value.clone()).context("the answer can't be read")?;
    Ok(text(&record))
}
