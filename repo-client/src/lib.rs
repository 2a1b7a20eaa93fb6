//! The repository as the gateway sees it: namespace, attributes, versions, content references, accounts, shares.
//! Owns the words and the ports (traits) for it; never a driver, a lock or a protocol.
//!
//! [`Repository`] keeps names, attributes and the records of the administration; [`ContentStore`] keeps bytes. A
//! write goes `ContentStore::working` -> `WorkingContent::write`.. -> `seal` (bytes durable) -> `Repository::commit`
//! (visible) -> `WorkingContent::committed`. What no commit names is not there, whatever the content store holds.

mod accounts;
mod blocking;
pub mod call;
mod content;
mod error;
mod maintenance;
mod manifest;
mod name;
mod packs;
mod repository;
mod types;

pub use accounts::*;
pub use blocking::*;
pub use content::*;
pub use error::*;
pub use maintenance::*;
pub use manifest::*;
pub use name::*;
pub use packs::*;
pub use repository::*;
pub use types::*;
