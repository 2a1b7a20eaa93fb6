//! A wire to the server that can be cut without the server's noticing while it works.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;

pub struct Wire {
    pub port: u16,
    pub connections: Arc<AtomicU32>,
    cut: broadcast::Sender<()>,
}

impl Wire {
    /// Passes connections on to a port of this machine.
    pub async fn to(port: u16) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let own = listener.local_addr().expect("address").port();
        let (cut, _) = broadcast::channel(1);
        let connections = Arc::new(AtomicU32::new(0));
        let (cutter, count) = (cut.clone(), connections.clone());
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let mut end = cutter.subscribe();
                tokio::spawn(async move {
                    let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await else {
                        return;
                    };
                    tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut server) => {}
                        _ = end.recv() => {}
                    }
                });
            }
        });
        Wire {
            port: own,
            connections,
            cut,
        }
    }

    /// Cuts all connections that there are.
    pub fn cut(&self) {
        let _ = self.cut.send(());
    }
}
