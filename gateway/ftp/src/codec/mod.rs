//! The words of FTP without sockets, clocks or the file layer: command lines in, typed commands out, and the text formats
//! of listings, times and addresses. Never panics and never allocates more than a line's limit on what a peer sends.

pub mod ascii;
pub mod command;
pub mod facts;
pub mod glob;
pub mod host_port;
pub mod line;
pub mod list_line;
pub mod time;
