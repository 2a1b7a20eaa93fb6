//! Data connections: how they come about, and bytes in and out of them. Only the control connection's own peer is ever let in
//! or called (RFC 2577).

mod keeper;
mod link;
mod machine;
mod parts;
mod passive;
mod receiver;
mod sender;
mod stream;
mod watch;

pub(crate) use link::{DataLink, Prepared};
pub(crate) use parts::Parts;
pub(crate) use passive::bind as bind_passive;
pub(crate) use receiver::{End, Receiver};
pub(crate) use sender::Sender;
pub(crate) use stream::DataStream;
pub(crate) use watch::{Doubt, Watch};
