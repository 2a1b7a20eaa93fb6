//! How many control connections there are, in all and from each address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::options::Limits;

/// Which bound was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    Server,
    Address,
}

/// The counters.
pub(crate) struct Admission {
    total_max: usize,
    per_address_max: usize,
    /// Connections by address, and their sum. Taken alone, for some instructions.
    counts: Mutex<(HashMap<IpAddr, usize>, usize)>,
}

/// One counted connection; dropping it makes room.
pub(crate) struct Ticket {
    admission: Arc<Admission>,
    address: IpAddr,
}

impl Admission {
    pub(crate) fn new(limits: &Limits) -> Arc<Admission> {
        Arc::new(Admission {
            total_max: limits.connections_max,
            per_address_max: limits.connections_per_address_max,
            counts: Mutex::default(),
        })
    }

    /// Counts a connection in.
    pub(crate) fn admit(self: &Arc<Self>, from: IpAddr) -> Result<Ticket, Full> {
        let address = network(from);
        let mut counts = self.counts.lock();
        let (by_address, total) = &mut *counts;
        if *total >= self.total_max {
            return Err(Full::Server);
        }
        let count = by_address.entry(address).or_default();
        if *count >= self.per_address_max {
            return Err(Full::Address);
        }
        *count += 1;
        *total += 1;
        Ok(Ticket {
            admission: Arc::clone(self),
            address,
        })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut counts = self.admission.counts.lock();
        let (by_address, total) = &mut *counts;
        *total -= 1;
        if let Some(count) = by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&self.address);
            }
        }
    }
}

/// One IPv6 client owns a whole /64, so that is what counts as its address.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn address(last: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 0, 0, last))
    }

    #[test]
    fn both_bounds_hold_and_a_dropped_ticket_makes_room() {
        let admission = Admission::new(&Limits {
            connections_max: 3,
            connections_per_address_max: 2,
            ..Limits::default()
        });
        let first = admission.admit(address(1));
        let second = admission.admit(address(1));
        assert!(first.is_ok() && second.is_ok());
        assert_eq!(admission.admit(address(1)).err(), Some(Full::Address));
        let third = admission.admit(address(2));
        assert!(third.is_ok());
        assert_eq!(admission.admit(address(3)).err(), Some(Full::Server));
        drop(first);
        assert!(admission.admit(address(1)).is_ok());
        drop((second, third));
        assert!(admission.counts.lock().0.is_empty());
    }
}
