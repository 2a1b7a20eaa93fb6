//! The properties that must hold, one file each. Each is a plain function over what the world can see; the world calls it when
//! something happened that could break it.

pub mod coherent;
pub mod fenced;
pub mod lineage;
pub mod liveness;
pub mod once;
pub mod settled;
pub mod single_writer;
