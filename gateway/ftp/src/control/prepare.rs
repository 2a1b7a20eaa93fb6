//! PASV, EPSV, PORT, EPRT: getting ready for a data connection.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

use super::Control;
use crate::codec::host_port::EpsvArgument;
use crate::data::{self, Prepared};
use crate::reply::{self, Reply};
use crate::session::DataPlan;

/// Pause between two looks for a free port.
const PORT_RETRY: Duration = Duration::from_millis(20);

impl Control {
    /// Replaces whatever was prepared before; a port that is not used any more is free at once.
    pub(super) async fn prepare(&mut self, plan: DataPlan) -> Reply {
        self.prepared = None;
        match plan {
            DataPlan::Active(to) => {
                self.prepared = Some(Prepared::Active {
                    to,
                    from: self.local.ip(),
                });
                Reply::fixed(200, "Will connect to your port.")
            }
            DataPlan::Passive => match self.passive_host() {
                Some(host) => self.listen(|port| reply::passive(host, port)).await,
                None => Reply::fixed(425, "PASV is for IPv4 only; use EPSV."),
            },
            DataPlan::ExtendedPassive(wanted) => {
                let fits = match wanted {
                    EpsvArgument::V4 => self.called.is_ipv4(),
                    EpsvArgument::V6 => self.called.is_ipv6(),
                    EpsvArgument::Any => true,
                    EpsvArgument::All | EpsvArgument::OtherFamily => false,
                };
                if fits {
                    return self.listen(reply::extended_passive).await;
                }
                let own = if self.called.is_ipv4() { "(1)" } else { "(2)" };
                Reply::text(522, format!("Network protocol not supported, use {own}"))
            }
        }
    }

    async fn listen(&mut self, answer: impl FnOnce(u16) -> Reply) -> Reply {
        let limit = self.shared.options.limits.passive_port_timeout;
        let bound = match timeout(limit, self.free_port()).await {
            Ok(bound) => bound,
            Err(_) => Err(io::Error::from(io::ErrorKind::AddrInUse)),
        };
        match bound {
            Ok((listener, port)) => {
                self.prepared = Some(Prepared::Passive(listener));
                answer(port)
            }
            Err(error) => {
                tracing::warn!(%error, "no passive port");
                reply::no_passive_port(&error)
            }
        }
    }

    /// A listener and its port; while the whole range is taken, it waits.
    async fn free_port(&self) -> io::Result<(TcpListener, u16)> {
        loop {
            match data::bind_passive(self.local, self.shared.options.passive_ports.as_ref()) {
                Ok(listener) => {
                    let port = listener.local_addr()?.port();
                    return Ok((listener, port));
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => sleep(PORT_RETRY).await,
                Err(error) => return Err(error),
            }
        }
    }

    /// The address told in a 227: the configured one for clients from elsewhere, otherwise where this client came in.
    fn passive_host(&self) -> Option<Ipv4Addr> {
        let own = match self.called.ip() {
            IpAddr::V4(own) => own,
            IpAddr::V6(_) => return None,
        };
        match self.shared.options.passive_address {
            Some(IpAddr::V4(told)) if !own.is_loopback() => Some(told),
            _ => Some(own),
        }
    }
}

/// An IPv4 address that came in over an IPv6 socket is an IPv4 address.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(v4) => SocketAddr::from((v4, address.port())),
        IpAddr::V6(_) => address,
    }
}
