//! Which writer's places each NFSv3 client has, as far as it takes to give one up early: a client that committed and goes on to
//! another document leaves its place before the idle time is over. The places themselves are in the lock table.

use std::collections::HashMap;

use parking_lot::Mutex;
use sluice_lockmgr as lm;
use smallvec::SmallVec;

use crate::identity::ClientId;
use crate::vfs::Inner;

const SHARDS: usize = 16;
/// More than this many documents at once and the oldest is left to its idle time.
const PLACES_MAX: usize = 64;

#[derive(Clone, Copy)]
struct Place {
    resource: lm::ResourceId,
    committed: bool,
}

type OfClients = HashMap<ClientId, SmallVec<[Place; 4]>>;

/// Places by client.
pub(crate) struct Places(Vec<Mutex<OfClients>>);

impl Default for Places {
    fn default() -> Self {
        Places((0..SHARDS).map(|_| Mutex::default()).collect())
    }
}

impl Places {
    fn shard(&self, client: ClientId) -> Option<&Mutex<OfClients>> {
        self.0.get(usize::try_from(client.0).unwrap_or(0) % SHARDS)
    }

    /// A write took or kept a place; those that the client has committed elsewhere are to be released.
    fn wrote(&self, client: ClientId, resource: lm::ResourceId) -> SmallVec<[lm::ResourceId; 4]> {
        let mut left = SmallVec::new();
        let Some(shard) = self.shard(client) else {
            return left;
        };
        let mut shard = shard.lock();
        let places = shard.entry(client).or_default();
        let mut known = false;
        places.retain(|place| {
            if place.resource == resource {
                known = true;
                place.committed = false;
                return true;
            }
            if place.committed {
                left.push(place.resource);
            }
            !place.committed
        });
        if !known {
            if places.len() >= PLACES_MAX {
                places.remove(0);
            }
            places.push(Place {
                resource,
                committed: false,
            });
        }
        left
    }

    /// The client has committed what it wrote there.
    pub(crate) fn committed(&self, client: ClientId, resource: lm::ResourceId) {
        if let Some(shard) = self.shard(client)
            && let Some(places) = shard.lock().get_mut(&client)
        {
            for place in places.iter_mut().filter(|p| p.resource == resource) {
                place.committed = true;
            }
        }
    }

    fn take(&self, client: ClientId) -> SmallVec<[Place; 4]> {
        self.shard(client)
            .and_then(|shard| shard.lock().remove(&client))
            .unwrap_or_default()
    }
}

impl Inner {
    /// The client wrote to `resource` under a place: it leaves those that it is done with.
    pub(crate) async fn place_used(&self, client: ClientId, resource: lm::ResourceId) {
        for left in self.places.wrote(client, resource) {
            self.locks.release_place(left, lm::ClientId(client.0)).await;
        }
    }

    /// The client is gone: so are its places.
    pub(crate) async fn drop_places(&self, client: ClientId) {
        for place in self.places.take(client) {
            self.locks
                .release_place(place.resource, lm::ClientId(client.0))
                .await;
        }
    }
}
