//! Rules for I/O, with an open or without, and for changes that call caches back.

use crate::caches::{Calling, Progress, Who};
use crate::claims::{held_open, io_claim, party, touched};
use crate::conflict::RangeParty;
use crate::document::{Document, Step};
use crate::env::{Due, Env};
use crate::obstacle::{Granted, Need, Verdict};
use crate::outcome::Denial;
use crate::request::{IoKind, IoRequest, PlaceRequest};
use crate::types::{Actor, OpenId, OpenRef};
use crate::wait_queue::Waiter;

impl Document {
    pub(crate) fn try_io(&mut self, env: &mut Env, r: &IoRequest, earlier: &[Waiter]) -> Step {
        let stream = r.resource.stream;
        let who = Who {
            open: None,
            lease: None,
            client: r.actor.client,
            protocol: r.actor.protocol,
            opening: None,
        };
        let Some((range, write)) = touched(r.kind) else {
            return self.finish(env, stream, &who, Calling::new(Need::Nothing, true));
        };
        let bind = r.nfs_ranges_mandatory;
        let actor = party(&r.actor, None);
        if let Some(stop) = self.io_stop(stream, actor, range, write, bind) {
            return Some(stop);
        }
        let place = r.place.filter(|_| matches!(r.kind, IoKind::Write(_)));
        if place.is_some() && self.opens.place(stream, r.actor.client).is_some() {
            if let Some(stop) =
                self.stop_of_caches(env, stream, &who, Calling::new(Need::Nothing, true))
            {
                return stop;
            }
            return Some(self.use_place(env, stream, r, place));
        }
        let place = place.filter(|_| !self.inside_own_range(stream, r.actor.client, range));
        let mut claim = io_claim(&r.actor, write, place.is_some());
        claim.reclaims = self.opens.may_conflict(stream, &claim)
            && self.passes_kept(stream, actor, range, write);
        if let Some(stop) = self.share_check(env, stream, &claim, &who, bind) {
            return stop;
        }
        if let Some(obstacle) =
            self.queue_obstacle(r.on_conflict, &r.actor, stream, &claim, earlier)
        {
            return Some(Verdict::Blocked(obstacle));
        }
        let need = if write { Need::Nothing } else { Need::NoWrite };
        if let Some(stop) = self.stop_of_caches(env, stream, &who, Calling::new(need, write)) {
            return stop;
        }
        Some(self.use_place(env, stream, r, place))
    }

    /// Takes or keeps the writer's place, if the write needs one.
    fn use_place(
        &mut self,
        env: &mut Env,
        stream: u32,
        r: &IoRequest,
        place: Option<PlaceRequest>,
    ) -> Verdict {
        if let Some(place) = place {
            let until = env.now.after(place.idle);
            if let Some(id) = self.opens.place(stream, r.actor.client) {
                if let Some(open) = self.opens.get_mut(id) {
                    open.until = Some(until);
                }
            } else {
                let id = OpenId(env.fresh_id());
                let claim = io_claim(&r.actor, true, true);
                self.opens
                    .insert(held_open(id, stream, claim, &r.actor, Some(until)));
                env.set_timer(until, self.id, Due::Open(id));
            }
        }
        Verdict::Granted(Granted::Done)
    }

    pub(crate) fn try_open_io(&mut self, env: &mut Env, open: OpenRef, kind: IoKind) -> Step {
        let Some(held) = self.opens.get(open.id) else {
            return Some(Verdict::Denied(Denial::NoSuchOpen));
        };
        let stream = held.stream;
        let party = RangeParty {
            open: Some(held.id),
            client: held.claim.client,
            protocol: held.claim.protocol,
        };
        let who = Who {
            open: Some(held.id),
            lease: held.grant,
            client: held.claim.client,
            protocol: held.claim.protocol,
            opening: None,
        };
        let Some((range, write)) = touched(kind) else {
            return self.finish(env, stream, &who, Calling::new(Need::Nothing, true));
        };
        if let Some(stop) = self.io_stop(stream, party, range, write, false) {
            return Some(stop);
        }
        let need = if write { Need::Nothing } else { Need::NoWrite };
        let calling = Calling {
            own_level2: write,
            ..Calling::new(need, write)
        };
        self.finish(env, stream, &who, calling)
    }

    pub(crate) fn try_move(
        &mut self,
        env: &mut Env,
        stream: u32,
        actor: &Actor,
        open: Option<OpenId>,
    ) -> Step {
        let lease = open.and_then(|id| self.opens.get(id)).and_then(|o| o.grant);
        let who = Who {
            open,
            lease,
            client: actor.client,
            protocol: actor.protocol,
            opening: None,
        };
        self.finish(env, stream, &who, Calling::new(Need::NoHandle, true))
    }

    /// Calls caches back as needed; granted when nobody has to answer first.
    fn finish(&mut self, env: &mut Env, stream: u32, who: &Who, calling: Calling) -> Step {
        match self.stop_of_caches(env, stream, who, calling) {
            Some(stop) => stop,
            None => Some(Verdict::Granted(Granted::Done)),
        }
    }

    pub(crate) fn stop_of_caches(
        &mut self,
        env: &mut Env,
        stream: u32,
        who: &Who,
        calling: Calling,
    ) -> Option<Step> {
        if !self.grants.any() {
            return None;
        }
        match self.call_back(env, stream, who, calling) {
            Progress::Ready => None,
            Progress::Wait(obstacle) => Some(Some(Verdict::Break(obstacle))),
            Progress::Again => Some(None),
        }
    }
}
