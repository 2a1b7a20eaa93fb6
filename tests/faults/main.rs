//! What goes wrong on real machines: a process killed or the power lost at any moment, a full disk, a wrong password, garbage on the wire.

mod bad_input;
mod documents;
mod full_disk;
mod kill;
mod order;
mod power;
