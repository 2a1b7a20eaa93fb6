//! Tests of the rules as a whole: scenario files, the matrix, a naive model, the service.

mod asked_again;
mod caches;
mod gate;
mod matrix;
mod model;
mod moving;
mod scenario;
mod service;

use std::sync::Arc;
use std::time::Duration;

use crate::table::TableOptions;
use crate::types::{Actor, ClientId, Holder, Protocol};

pub(crate) fn options() -> TableOptions {
    TableOptions {
        break_timeout: Duration::from_secs(35),
        poll_lapse: Duration::from_secs(7),
        waiters_max: 100,
        ranges_max: 1000,
        opens_max: 1000,
    }
}

pub(crate) fn actor(protocol: Protocol, client: u64, user: &str) -> Actor {
    Actor {
        protocol,
        client: ClientId(client),
        holder: Arc::new(Holder {
            protocol,
            user: user.to_owned(),
            address: format!("192.0.2.{client}"),
            client_name: String::new(),
            node: String::from("gw1"),
            path: String::from("a/b.txt"),
            rule: None,
            since_unix_ms: 0,
        }),
    }
}
