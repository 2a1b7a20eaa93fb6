//! When caches are granted, called back and given up (MS-FSA 2.1.4.12, 2.1.5.18; MS-SMB2 3.3.5.9.8, 3.3.5.22).

use std::sync::Arc;

use crate::cache_grant::{
    CacheGranted, CacheRequest, CacheSink, CacheState, GrantKey, LeaseId, OplockLevel, RevokeReason,
};
use crate::document::Document;
use crate::env::{Due, Effect, Env};
use crate::grant_set::{Breaking, Grant};
use crate::obstacle::{Need, Obstacle};
use crate::outcome::AckError;
use crate::request::OpenRequest;
use crate::share_mode::Open;
use crate::types::{Access, ClientId, OpenId, Protocol};

/// Whose request it is: its own caches are not called back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Who {
    pub open: Option<OpenId>,
    pub lease: Option<GrantKey>,
    pub client: ClientId,
    pub protocol: Protocol,
    /// It asks for an open, for the first time or again after a wait.
    pub opening: Option<Turn>,
}

/// Whether a request is looked at for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    First,
    Again,
}

/// What a request is about to do to others' caches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Calling {
    pub need: Need,
    /// It is for writing, which a read delegation does not outlive.
    pub write: bool,
    /// A stat open that reads the security descriptor calls back oplocks only.
    pub spare_leases: bool,
    /// It writes or locks bytes, which ends the asking open's own level II oplock too (MS-FSA 2.1.5.4, 2.1.5.8).
    pub own_level2: bool,
}

impl Calling {
    pub(crate) fn new(need: Need, write: bool) -> Self {
        Self {
            need,
            write,
            spare_leases: false,
            own_level2: false,
        }
    }
}

impl Who {
    /// Windows lets an SMB change go on while a read and handle cache is still being given back; through other doors a
    /// change waits until nobody can read the older state any more.
    fn waits_for_readers(&self) -> bool {
        self.protocol != Protocol::Smb
    }

    pub(crate) fn owns(&self, key: GrantKey) -> bool {
        match key {
            GrantKey::Oplock(open) => self.open == Some(open),
            GrantKey::Lease(_) => self.lease == Some(key),
            GrantKey::Delegation(client) => self.client == client,
        }
    }
}

/// How far calling back has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Nothing needs to be waited for.
    Ready,
    /// A holder has to answer first.
    Wait(Obstacle),
    /// Opens were taken away: look again from the start.
    Again,
}

impl Document {
    /// True if this grant caches a handle that giving back could close.
    pub(crate) fn caches_handle(&self, stream: u32, key: GrantKey) -> bool {
        self.grants.any_handle()
            && self
                .grants
                .find(stream, key)
                .is_some_and(|g| g.state.has(CacheState::H))
    }

    /// Calls back whatever others cache of a stream beyond what the request's need leaves.
    pub(crate) fn call_back(
        &mut self,
        env: &mut Env,
        stream: u32,
        who: &Who,
        calling: Calling,
    ) -> Progress {
        let quiet = calling.need == Need::NoWrite
            && !self.grants.any_write()
            && !self.grants.any_breaking();
        if !self.grants.any() || (quiet && !calling.write) {
            return Progress::Ready;
        }
        let mut progress = Progress::Ready;
        for at in 0..self.grants.len() {
            let Some(grant) = self.grants.at(at) else {
                break;
            };
            let own_level2 =
                calling.own_level2 && grant.is_oplock() && grant.state == CacheState::R;
            if grant.stream != stream
                || (who.owns(grant.key) && !own_level2)
                || (calling.spare_leases && grant.is_lease())
            {
                continue;
            }
            match self.call_back_at(env, at, calling, Some(who)) {
                Progress::Ready => {}
                Progress::Wait(obstacle) => progress = Progress::Wait(obstacle),
                Progress::Again => return Progress::Again,
            }
        }
        progress
    }

    /// The same for one grant.
    pub(crate) fn call_back_one(
        &mut self,
        env: &mut Env,
        stream: u32,
        key: GrantKey,
        need: Need,
    ) -> Progress {
        match self.grants.position(stream, key) {
            Some(at) => self.call_back_at(env, at, Calling::new(need, true), None),
            None => Progress::Ready,
        }
    }

    fn call_back_at(
        &mut self,
        env: &mut Env,
        at: usize,
        calling: Calling,
        who: Option<&Who>,
    ) -> Progress {
        let Some(grant) = self.grants.at_mut(at) else {
            return Progress::Ready;
        };
        let leaves = leaves(grant, calling);
        let obstacle = Obstacle::Grant {
            stream: grant.stream,
            key: grant.key,
        };
        let wait_if = |wait| {
            if wait {
                Progress::Wait(obstacle)
            } else {
                Progress::Ready
            }
        };
        // An SMB open waits for any lease break under way, but a first try only if the break is about what it needs.
        let opening = who
            .filter(|w| w.protocol == Protocol::Smb)
            .and_then(|w| w.opening);
        let lease_breaking = grant.is_lease() && grant.breaking.is_some();
        if leaves == grant.state {
            return wait_if(opening.is_some() && lease_breaking);
        }
        let readers = who.is_some_and(Who::waits_for_readers);
        let must_wait = grant.is_delegation()
            || !grant.state.common(calling.need.waits_for()).is_empty()
            || (readers && calling.need == Need::Nothing && grant.state != CacheState::R)
            || (opening == Some(Turn::Again) && lease_breaking);
        if let Some(breaking) = &mut grant.breaking {
            // Told already; what this need wants beyond it is told when the holder has answered.
            breaking.then = breaking.then.common(leaves);
            return wait_if(must_wait);
        }
        if grant.connected == 0 && !grant.is_delegation() {
            return self.take_from_disconnected(env, at, leaves);
        }
        wait_if(self.start_break(env, at, leaves, true) && must_wait)
    }

    /// A disconnected client can't be asked, and what it cached may be older than what others now do: its opens end, so
    /// that it can't come back and write over theirs. (MS-SMB2 3.3.4.6; 3.3.4.7 would keep a lease's handle cache.)
    fn take_from_disconnected(&mut self, env: &mut Env, at: usize, leaves: CacheState) -> Progress {
        self.grants.settle(at, leaves);
        let Some(grant) = self.grants.at(at) else {
            return Progress::Ready;
        };
        let key = grant.key;
        let lost: Vec<_> = self
            .opens
            .iter()
            .filter(|o| o.grant == Some(key))
            .map(|o| o.id)
            .collect();
        for id in lost {
            self.revoke_open(env, id, RevokeReason::Disconnected);
        }
        Progress::Again
    }

    /// Tells the holder. True if it has to answer.
    ///
    /// `fresh`: not the next step of a break that has just been answered, which keeps its epoch.
    fn start_break(&mut self, env: &mut Env, at: usize, to: CacheState, fresh: bool) -> bool {
        let document = self.id;
        let Some(grant) = self.grants.at_mut(at) else {
            return false;
        };
        let ack = grant.is_delegation() || grant.state != CacheState::R;
        if fresh {
            grant.bump_epoch();
        }
        let notice = grant.notice(document, to, ack);
        env.effects.push(Effect::Break {
            sink: Arc::clone(&grant.sink),
            notice,
        });
        if !ack {
            self.grants.settle(at, to);
            return false;
        }
        let deadline = env.now.after(env.options.break_timeout);
        let (stream, key) = (grant.stream, grant.key);
        self.grants.set_breaking(
            at,
            Breaking {
                to,
                then: to,
                deadline,
            },
        );
        env.set_timer(deadline, document, Due::Break { stream, key });
        true
    }

    /// A holder's answer. Gives the rights that stay.
    pub(crate) fn acknowledge(
        &mut self,
        env: &mut Env,
        stream: u32,
        key: GrantKey,
        state: CacheState,
    ) -> Result<CacheState, AckError> {
        let at = self
            .grants
            .position(stream, key)
            .ok_or(AckError::NoSuchGrant)?;
        let grant = self.grants.at(at).ok_or(AckError::NoSuchGrant)?;
        let Some(breaking) = grant.breaking else {
            if grant.is_delegation() {
                self.drop_grant(at);
                return Ok(CacheState::NONE);
            }
            return Err(AckError::NotBreaking);
        };
        if !breaking.to.has(state) {
            if grant.is_oplock() {
                self.grants.settle(at, CacheState::NONE);
            }
            return Err(AckError::TooMuch);
        }
        if grant.is_delegation() {
            self.drop_grant(at);
            return Ok(CacheState::NONE);
        }
        let state = state.valid();
        self.grants.settle(at, state);
        self.go_on_breaking(env, at, state.common(breaking.then).valid());
        Ok(state)
    }

    /// Another request needed more meanwhile: the break goes on, one step at a time, handles before reads.
    fn go_on_breaking(&mut self, env: &mut Env, at: usize, then: CacheState) {
        let Some(state) = self.grants.at(at).map(|g| g.state).filter(|s| *s != then) else {
            return;
        };
        let step = if state.has(CacheState::H) && then.is_empty() {
            CacheState::R
        } else {
            then
        };
        if self.start_break(env, at, step, false)
            && let Some(breaking) = self.grants.at_mut(at).and_then(|g| g.breaking.as_mut())
        {
            breaking.then = then;
        }
    }

    /// The break timer of a grant ran out: it is gone. True if so.
    pub(crate) fn break_ran_out(&mut self, env: &mut Env, stream: u32, key: GrantKey) -> bool {
        let Some(at) = self.grants.position(stream, key) else {
            return false;
        };
        let due = self
            .grants
            .at(at)
            .and_then(|g| g.breaking)
            .is_some_and(|b| b.deadline <= env.now);
        if !due {
            return false;
        }
        self.grants.settle(at, CacheState::NONE);
        let resource = self.resource(stream);
        if let Some(grant) = self.grants.at(at) {
            env.effects.push(Effect::CacheRevoked {
                sink: Arc::clone(&grant.sink),
                resource,
                grant: key,
                reason: RevokeReason::BreakTimeout,
            });
            if grant.is_delegation() {
                self.drop_grant(at);
            }
        }
        true
    }

    fn drop_grant(&mut self, at: usize) {
        self.grants.remove(at);
    }

    /// An open ends: so does its oplock, or its part in a lease.
    pub(crate) fn leave_grant(&mut self, env: &mut Env, open: &Open) {
        let Some(key) = open.grant else { return };
        if let GrantKey::Lease(lease) = key {
            env.effects.push(Effect::LeaseUnused {
                lease,
                open: open.id,
                client: open.claim.client,
            });
        }
        let Some(at) = self.grants.position(open.stream, key) else {
            return;
        };
        let Some(grant) = self.grants.at_mut(at) else {
            return;
        };
        grant.opens -= 1;
        grant.weighty -= u32::from(open.weighty);
        grant.connected -= u32::from(!open.disconnected);
        self.choose_speaker(at, open.id);
        let Some(grant) = self.grants.at(at) else {
            return;
        };
        // A delegation outlives its opens until it is returned (RFC 8881 10.4).
        if grant.opens == 0 && !grant.is_delegation() {
            self.drop_grant(at);
        } else {
            self.nobody_left_to_answer(env, at);
        }
    }

    /// If the last connected client of a grant is gone while a break is under way, nobody will answer it.
    fn nobody_left_to_answer(&mut self, env: &mut Env, at: usize) {
        let Some(grant) = self.grants.at(at) else {
            return;
        };
        if let Some(breaking) = grant.breaking
            && grant.connected == 0
            && !grant.is_delegation()
        {
            self.take_from_disconnected(env, at, breaking.then);
        }
    }

    /// The client of an open in this grant is gone.
    pub(crate) fn holder_disconnected(
        &mut self,
        env: &mut Env,
        stream: u32,
        key: GrantKey,
        id: OpenId,
    ) {
        let Some(at) = self.grants.position(stream, key) else {
            return;
        };
        if let Some(grant) = self.grants.at_mut(at) {
            grant.connected -= 1;
        }
        self.choose_speaker(at, id);
        self.nobody_left_to_answer(env, at);
    }

    /// An open of a grant ends or loses its client: breaks are told through another from now on.
    fn choose_speaker(&mut self, at: usize, gone: OpenId) {
        let Some(grant) = self.grants.at_mut(at).filter(|g| g.speaker == gone) else {
            return;
        };
        let next = self
            .opens
            .iter()
            .filter(|o| o.stream == grant.stream && o.grant == Some(grant.key) && !o.disconnected)
            .filter(|o| o.id != gone)
            .min_by_key(|o| o.id);
        if let Some((open, sink)) = next.and_then(|o| o.sink.as_ref().map(|s| (o.id, s))) {
            grant.speaker = open;
            grant.sink = Arc::clone(sink);
        }
    }

    /// The client of a disconnected open is back.
    pub(crate) fn holder_is_back(
        &mut self,
        stream: u32,
        key: GrantKey,
        id: OpenId,
        sink: Option<Arc<dyn CacheSink>>,
    ) -> CacheGranted {
        let Some(at) = self.grants.position(stream, key) else {
            return CacheGranted::default();
        };
        if let Some(grant) = self.grants.at_mut(at) {
            grant.connected += 1;
            if let Some(sink) = sink.filter(|_| grant.connected == 1) {
                grant.speaker = id;
                grant.sink = sink;
            }
        }
        self.told(at)
    }

    // ---- granting ----

    /// What cache a new open gets.
    pub(crate) fn grant_cache(
        &mut self,
        r: &OpenRequest,
        id: OpenId,
        weighty: bool,
    ) -> CacheGranted {
        let stream = r.resource.stream;
        let Some(sink) = &r.sink else {
            return CacheGranted::default();
        };
        let (key, want) = match r.cache {
            CacheRequest::None => return CacheGranted::default(),
            CacheRequest::Oplock(level) => (GrantKey::Oplock(id), level.state()),
            CacheRequest::Lease { lease, want, .. } => (GrantKey::Lease(lease), want.valid()),
            CacheRequest::Delegation { write } => {
                let want = if write {
                    CacheState::RWH
                } else {
                    CacheState::R
                };
                (GrantKey::Delegation(r.actor.client), want)
            }
        };
        let at = self.grants.position(stream, key);
        let own_weighty = at
            .and_then(|at| self.grants.at(at))
            .map_or(0, |g| g.weighty)
            + u32::from(weighty);
        let state = self.allowed_cache(stream, key, want, own_weighty);
        let lease = matches!(key, GrantKey::Lease(_));
        if at.is_none() && state.is_empty() && !lease {
            return CacheGranted::default();
        }
        let at = at.unwrap_or_else(|| self.grants.insert(new_grant(r, key, sink, stream, id)));
        if let Some(grant) = self.grants.at_mut(at) {
            grant.opens += 1;
            grant.weighty += u32::from(weighty);
            grant.connected += 1;
            if grant.connected == 1 {
                grant.speaker = id;
                grant.sink = Arc::clone(sink);
            }
        }
        if let Some(open) = self.opens.get_mut(id) {
            open.grant = Some(key);
        }
        self.raise(at, want, state);
        if !weighty && self.grants.at(at).is_some_and(|g| !g.state.is_empty()) {
            // A stat open that caches stands in the way of others' sole right.
            self.opens.make_weighty(id);
            if let Some(grant) = self.grants.at_mut(at) {
                grant.weighty += 1;
            }
        }
        self.told(at)
    }

    /// Raises a grant to a wider state: only if all that was asked for is free and nothing is being called back.
    fn raise(&mut self, at: usize, want: CacheState, state: CacheState) {
        let Some(grant) = self.grants.at_mut(at) else {
            return;
        };
        let first = grant.opens == 1;
        let wider = state.has(grant.state)
            && state != grant.state
            && state == want
            && grant.breaking.is_none();
        if first || wider {
            if !state.is_empty() {
                grant.bump_epoch();
            }
            self.grants.settle(at, state);
        }
    }

    /// What a grant's holders are told that they have.
    pub(crate) fn cache_told(&self, stream: u32, key: GrantKey) -> CacheGranted {
        self.grants
            .position(stream, key)
            .map_or_else(CacheGranted::default, |at| self.told(at))
    }

    fn told(&self, at: usize) -> CacheGranted {
        self.grants
            .at(at)
            .map_or_else(CacheGranted::default, |g| CacheGranted {
                state: g.state,
                epoch: if g.v2 { g.epoch } else { 0 },
                break_in_progress: g.breaking.is_some(),
                v2: g.v2,
            })
    }

    /// What of the wanted rights others leave free.
    fn allowed_cache(
        &self,
        stream: u32,
        key: GrantKey,
        want: CacheState,
        own_weighty: u32,
    ) -> CacheState {
        let counts = self.opens.counts(stream);
        let mut state = want;
        if self.range_set(stream).is_some_and(|set| !set.is_empty()) {
            return CacheState::NONE;
        }
        if counts.weighty > own_weighty {
            state = state.without(CacheState::W);
        }
        let others = || {
            self.grants
                .iter()
                .filter(|g| g.stream == stream && g.key != key && !g.state.is_empty())
        };
        match key {
            GrantKey::Oplock(_) => {
                if self.grants.any_handle()
                    && others().any(|g| g.is_lease() && g.state.has(CacheState::H))
                {
                    return CacheState::NONE;
                }
                if !state.has(CacheState::W) {
                    state = state.common(CacheState::R);
                }
            }
            GrantKey::Lease(_) => {
                if state.has(CacheState::H) && self.grants.any() && others().any(Grant::is_oplock) {
                    state = state.without(CacheState::H);
                }
            }
            GrantKey::Delegation(_) => {
                let all_or_read = want.has(CacheState::W) && !state.has(CacheState::W);
                if all_or_read || counts.doing(Access::WRITE) > 0 && !want.has(CacheState::W) {
                    return CacheState::NONE;
                }
            }
        }
        // Somebody who did not give back in time has nothing left, so a write cache here means a stat open asks.
        if self.grants.any_write() && others().any(|g| g.state.has(CacheState::W)) {
            return CacheState::NONE;
        }
        state.valid()
    }
}

fn new_grant(
    r: &OpenRequest,
    key: GrantKey,
    sink: &Arc<dyn CacheSink>,
    stream: u32,
    speaker: OpenId,
) -> Grant {
    let (v2, epoch) = match r.cache {
        CacheRequest::Lease { v2, epoch, .. } => (v2, epoch),
        _ => (false, 0),
    };
    Grant {
        key,
        stream,
        state: CacheState::NONE,
        breaking: None,
        epoch,
        v2,
        opens: 0,
        weighty: 0,
        connected: 0,
        sink: Arc::clone(sink),
        speaker,
        holder: Arc::clone(&r.actor.holder),
    }
}

/// The lease that an open request names, and the level that an oplock ended at, in words for the heads.
pub(crate) fn lease_of(cache: &CacheRequest) -> Option<LeaseId> {
    match cache {
        CacheRequest::Lease { lease, .. } => Some(*lease),
        CacheRequest::None | CacheRequest::Oplock(_) | CacheRequest::Delegation { .. } => None,
    }
}

impl CacheGranted {
    /// The oplock level to tell, if an oplock was asked for.
    #[must_use]
    pub fn oplock(&self) -> Option<OplockLevel> {
        OplockLevel::of(self.state)
    }
}

/// What of a grant may stay.
fn leaves(grant: &Grant, calling: Calling) -> CacheState {
    if !grant.is_delegation() {
        return calling.need.leaves(grant.state, grant.is_lease());
    }
    let stays = calling.need == Need::NoWrite && !calling.write && !grant.state.has(CacheState::W);
    if stays { grant.state } else { CacheState::NONE }
}
