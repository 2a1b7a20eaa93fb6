//! Calls between nodes in memory, for tests: with a switch for each way between two nodes.
//!
//! Must never be used by a daemon.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};

use super::{DialError, Incoming, PeerStream, Transport};

const PIPE_BYTES: usize = 1 << 20;

/// What happens to bytes between two addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Way {
    /// They arrive.
    #[default]
    Open,
    /// They vanish: calls and connections hang, as behind a dead switch.
    Silent,
    /// Connections break and calls find nobody listening, as when the process is gone.
    Refused,
}

/// A network of named nodes in memory.
#[derive(Clone, Default)]
pub struct ChannelNet(Arc<Mutex<Nodes>>);

#[derive(Default)]
struct Nodes {
    doors: HashMap<String, mpsc::Sender<Incoming>>,
    ways: HashMap<(String, String), watch::Sender<Way>>,
}

impl ChannelNet {
    /// A node with this address; its ways are open again if it was killed before.
    #[must_use]
    pub fn transport(&self, address: &str) -> Arc<ChannelTransport> {
        let (door, incoming) = mpsc::channel(64);
        let mut nodes = self.0.lock();
        nodes.doors.insert(address.to_owned(), door);
        for ((a, b), way) in &nodes.ways {
            if a == address || b == address {
                way.send_replace(Way::Open);
            }
        }
        drop(nodes);
        Arc::new(ChannelTransport {
            net: self.clone(),
            address: address.to_owned(),
            incoming: tokio::sync::Mutex::new(incoming),
        })
    }

    /// Sets what happens between two addresses, in both directions.
    pub fn set_way(&self, a: &str, b: &str, way: Way) {
        self.way(a, b).send_replace(way);
    }

    /// The process at an address is gone: its connections break and calls are refused.
    pub fn kill(&self, address: &str) {
        let mut nodes = self.0.lock();
        nodes.doors.remove(address);
        for ((a, b), way) in &nodes.ways {
            if a == address || b == address {
                way.send_replace(Way::Refused);
            }
        }
    }

    fn way(&self, a: &str, b: &str) -> watch::Sender<Way> {
        let key = if a <= b { (a, b) } else { (b, a) };
        let mut nodes = self.0.lock();
        nodes
            .ways
            .entry((key.0.to_owned(), key.1.to_owned()))
            .or_default()
            .clone()
    }
}

/// One node's end of a [`ChannelNet`].
pub struct ChannelTransport {
    net: ChannelNet,
    address: String,
    incoming: tokio::sync::Mutex<mpsc::Receiver<Incoming>>,
}

/// Carries bytes one way while the way is open; ends both when it breaks.
async fn carry(
    mut from: ReadHalf<DuplexStream>,
    mut to: WriteHalf<DuplexStream>,
    mut way: watch::Receiver<Way>,
) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            broken = way.wait_for(|way| *way == Way::Refused) => {
                drop(broken);
                return;
            }
        };
        let Ok(read @ 1..) = read else { return };
        // Held up as long as the way is silent.
        match way
            .wait_for(|way| *way != Way::Silent)
            .await
            .map(|way| *way)
        {
            Ok(Way::Open) => {}
            _ => return,
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

#[async_trait]
impl Transport for ChannelTransport {
    async fn dial(&self, address: &str) -> Result<PeerStream, DialError> {
        let way = self.net.way(&self.address, address);
        let door = self.net.0.lock().doors.get(address).cloned();
        let now = *way.borrow();
        let door = match (now, door) {
            (Way::Open, Some(door)) => door,
            (Way::Silent, _) => {
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                return Err(DialError::Unreachable("no answer in time".into()));
            }
            _ => return Err(DialError::Refused),
        };
        let (near, near_wire) = tokio::io::duplex(PIPE_BYTES);
        let (far, far_wire) = tokio::io::duplex(PIPE_BYTES);
        let (near_read, near_write) = tokio::io::split(near_wire);
        let (far_read, far_write) = tokio::io::split(far_wire);
        let (there, back) = (way.subscribe(), way.subscribe());
        tokio::spawn(async move {
            // Either direction's end ends both.
            tokio::select! {
                () = carry(near_read, far_write, there) => {}
                () = carry(far_read, near_write, back) => {}
            }
        });
        let incoming = Incoming::Peer(PeerStream {
            io: Box::new(far),
            remote: self.address.clone(),
        });
        door.send(incoming).await.map_err(|_| DialError::Refused)?;
        Ok(PeerStream {
            io: Box::new(near),
            remote: address.to_owned(),
        })
    }

    async fn accept(&self) -> io::Result<Incoming> {
        let next = self.incoming.lock().await.recv().await;
        next.ok_or_else(|| io::Error::other("the node is gone"))
    }
}
