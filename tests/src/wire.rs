//! A TCP connection with a switch: stands between a node and what it calls, and can be cut without a word to either side, as a
//! broken network does.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Listens on a port of its own and passes everything on, while it is whole.
pub struct Wire {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    switch: Mutex<Switch>,
    changed: Condvar,
}

#[derive(Default)]
struct Switch {
    cut: bool,
    over: bool,
}

impl State {
    /// Waits while the wire is cut; false when it is over.
    fn passes(&self) -> bool {
        let mut switch = self.switch.lock().unwrap_or_else(PoisonError::into_inner);
        while switch.cut && !switch.over {
            switch = self
                .changed
                .wait(switch)
                .unwrap_or_else(PoisonError::into_inner);
        }
        !switch.over
    }

    fn set(&self, change: impl FnOnce(&mut Switch)) {
        change(&mut self.switch.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }
}

impl Wire {
    /// A whole wire to `target`.
    pub fn to(target: SocketAddr) -> std::io::Result<Wire> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let state = Arc::new(State::default());
        std::thread::spawn({
            let state = state.clone();
            move || {
                for stream in listener.incoming().flatten() {
                    if !state.passes() {
                        return;
                    }
                    let state = state.clone();
                    std::thread::spawn(move || connect(stream, target, &state));
                }
            }
        });
        Ok(Wire { address, state })
    }

    /// Where to call instead of the target.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on nothing passes: neither data nor the end of a connection.
    pub fn cut(&self) {
        self.state.set(|switch| switch.cut = true);
    }

    /// Everything passes again, also what was held back.
    pub fn heal(&self) {
        self.state.set(|switch| switch.cut = false);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.state.set(|switch| switch.over = true);
        // Wakes the accepting thread, which then ends.
        let _ = TcpStream::connect(self.address);
    }
}

fn connect(caller: TcpStream, target: SocketAddr, state: &Arc<State>) {
    // The caller sees the refusal as the end of its connection.
    let Ok(called) = TcpStream::connect(target) else {
        return;
    };
    let (Ok(back_from), Ok(back_to)) = (called.try_clone(), caller.try_clone()) else {
        return;
    };
    let other = state.clone();
    std::thread::spawn(move || pass(back_from, back_to, &other));
    pass(caller, called, state);
}

fn pass(mut from: TcpStream, mut to: TcpStream, state: &State) {
    let _ = to.set_nodelay(true);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let got = from.read(&mut buffer);
        if !state.passes() {
            break;
        }
        match got {
            Ok(length) if length > 0 => {
                if to.write_all(&buffer[..length]).is_err() {
                    break;
                }
            }
            _ => break,
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
    let _ = from.shutdown(std::net::Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_wire_passes_nothing_until_it_is_healed() {
        let target = TcpListener::bind("127.0.0.1:0").unwrap();
        let wire = Wire::to(target.local_addr().unwrap()).unwrap();
        let mut caller = TcpStream::connect(wire.address()).unwrap();
        let (mut called, _) = target.accept().unwrap();
        let mut byte = [0];
        caller.write_all(b"a").unwrap();
        called.read_exact(&mut byte).unwrap();
        wire.cut();
        caller.write_all(b"b").unwrap();
        called
            .set_read_timeout(Some(std::time::Duration::from_millis(50)))
            .unwrap();
        assert!(called.read_exact(&mut byte).is_err());
        wire.heal();
        called.set_read_timeout(None).unwrap();
        called.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"b");
    }
}
