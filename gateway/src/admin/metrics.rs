//! `/metrics` in Prometheus' text form. Every name is in this file, or beside what it counts.

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;

use super::AdminState;

pub(super) async fn text(State(state): State<AdminState>) -> impl IntoResponse {
    let mut text = state.vfs.metrics().prometheus();
    if let Some(packs) = state.vfs.packs() {
        text.push_str(&packs.prometheus());
    }
    text.push_str("# HELP sluice_durable Whether changes can become durable; 0: see to the disk, then start the node again.\n# TYPE sluice_durable gauge\n");
    let durable = u8::from(state.vfs.sound().is_ok());
    text.push_str(&format!("sluice_durable {durable}\n"));
    text.push_str("# HELP sluice_ready Whether the heads serve.\n# TYPE sluice_ready gauge\n");
    text.push_str(&format!("sluice_ready {}\n", u8::from(state.ready.get())));
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text)
}
