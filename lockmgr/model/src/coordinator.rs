//! The owner of the shard: gives the document to nodes, takes it back, by force if need be, and learns what others have when it is new.

use crate::Mutant;
use crate::node::Step;
use crate::state::{Body, Call, Force, Grant, Held, LEASE, Member, Mode, Role};

impl Step<'_> {
    pub fn coordinate(&mut self, at: usize, from: Member, body: Body) {
        match (&mut self.node(at).role, body) {
            (Role::Rebuilding { silent, claims, .. }, Body::Report(held))
                if silent[usize::from(from.node)] == from.epoch =>
            {
                silent[usize::from(from.node)] = 0;
                claims.push((from, held));
                claims.sort();
                self.finish_if_reported(at);
            }
            (Role::Rebuilding { .. }, Body::Report(_)) => {}
            (Role::Rebuilding { early, .. }, body) => early.push((from, body)),
            (Role::Mine { .. }, Body::Ask) => self.asked(at, from),
            (Role::Mine { mode, .. }, Body::Back(grant)) => {
                let out = match mode {
                    Mode::Alone(holder, held) | Mode::Revoking(holder, held, _) => {
                        *holder == from && *held == grant
                    }
                    Mode::Free | Mode::Central(_) => false,
                };
                if out {
                    self.no_token_out(at, Some(from));
                }
            }
            _ => {}
        }
    }

    fn parts(&mut self, at: usize) -> Option<(&mut Mode, &mut Vec<Member>)> {
        match &mut self.node(at).role {
            Role::Mine { mode, queue } => Some((mode, queue)),
            Role::Other | Role::Rebuilding { .. } => None,
        }
    }

    fn asked(&mut self, at: usize, from: Member) {
        let forced = self.state.nodes[at].forced;
        let Some((mode, queue)) = self.parts(at) else {
            return;
        };
        match mode {
            Mode::Free => self.give(at, from),
            Mode::Alone(holder, _) if *holder == from => {}
            Mode::Alone(holder, grant) => {
                let (holder, grant) = (*holder, *grant);
                queue.push(from);
                *mode = Mode::Revoking(holder, grant, Force::No);
                self.say(at, holder, Body::Surrender(grant));
            }
            Mode::Revoking(..) => {
                if !queue.contains(&from) {
                    queue.push(from);
                }
            }
            Mode::Central(members) => {
                if !members.contains(&from) {
                    members.push(from);
                    members.sort();
                }
                self.say(at, from, Body::Share(forced));
            }
        }
    }

    fn give(&mut self, at: usize, to: Member) {
        let node = self.node(at);
        node.grants += 1;
        let grant = Grant {
            epoch: node.shard_epoch,
            number: node.grants,
        };
        let forced = node.forced;
        let Some((mode, queue)) = self.parts(at) else {
            return;
        };
        *mode = Mode::Alone(to, grant);
        queue.retain(|waits| *waits != to);
        let wanted = !queue.is_empty();
        if wanted {
            *mode = Mode::Revoking(to, grant, Force::No);
        }
        self.say(at, to, Body::Give(grant, forced));
        if wanted {
            self.say(at, to, Body::Surrender(grant));
        }
    }

    /// The document goes on, unless its fence is being raised.
    fn no_token_out(&mut self, at: usize, back: Option<Member>) {
        if let Some((Mode::Revoking(_, _, force), _)) = self.parts(at)
            && matches!(force, Force::Asked | Force::Returned)
        {
            *force = Force::Returned;
        } else {
            self.decide_again(at, back);
        }
    }

    /// No token is out. `back`: who brought it.
    fn decide_again(&mut self, at: usize, back: Option<Member>) {
        let (shared, forced) = (self.plan.shared, self.state.nodes[at].forced);
        let Some((mode, queue)) = self.parts(at) else {
            return;
        };
        *mode = Mode::Free;
        if queue.is_empty() && !(shared && back.is_some()) {
            return;
        }
        if !shared {
            let first = queue.remove(0);
            return self.give(at, first);
        }
        let mut members: Vec<Member> = std::mem::take(queue);
        members.extend(back);
        members.sort();
        members.dedup();
        *mode = Mode::Central(members.clone());
        for member in members {
            self.say(at, member, Body::Share(forced));
        }
    }

    /// Some lives are over: nothing of them counts any more.
    pub fn members_down(&mut self, at: usize) {
        let dead = self.state.nodes[at].dead;
        let gone = |member: &Member| dead[usize::from(member.node)] >= member.epoch;
        match &mut self.node(at).role {
            Role::Other => {}
            Role::Rebuilding {
                silent,
                claims,
                early,
            } => {
                for (life, over) in silent.iter_mut().zip(dead) {
                    if *life <= over {
                        *life = 0;
                    }
                }
                claims.retain(|(from, _)| !gone(from));
                early.retain(|(from, _)| !gone(from));
                self.finish_if_reported(at);
            }
            Role::Mine { mode, queue } => {
                queue.retain(|waits| !gone(waits));
                match mode {
                    Mode::Alone(holder, _) | Mode::Revoking(holder, ..) if gone(holder) => {
                        self.no_token_out(at, None);
                    }
                    Mode::Central(members) => members.retain(|member| !gone(member)),
                    _ => {}
                }
            }
        }
    }

    fn finish_if_reported(&mut self, at: usize) {
        let Role::Rebuilding {
            silent,
            claims,
            early,
        } = &mut self.node(at).role
        else {
            return;
        };
        if silent.iter().any(|life| *life > 0) {
            return;
        }
        let (claims, early) = (std::mem::take(claims), std::mem::take(early));
        let mut alone: Vec<(Grant, Member)> = Vec::new();
        let mut shared: Vec<Member> = Vec::new();
        for (from, held) in claims {
            match held {
                Held::Alone(grant) => alone.push((grant, from)),
                Held::Shared => shared.push(from),
                Held::Nothing => {}
            }
        }
        alone.sort();
        let mode = match alone.pop() {
            Some((grant, holder)) => {
                for (grant, other) in alone {
                    self.say(at, other, Body::Revoked(grant));
                }
                // Others have entries at the coordinator: the holder's have to come there too.
                if shared.is_empty() {
                    Mode::Alone(holder, grant)
                } else {
                    self.say(at, holder, Body::Surrender(grant));
                    Mode::Revoking(holder, grant, Force::No)
                }
            }
            None if shared.is_empty() => Mode::Free,
            None => Mode::Central(shared.clone()),
        };
        let queue = match mode {
            Mode::Revoking(..) => shared,
            _ => Vec::new(),
        };
        self.node(at).role = Role::Mine { mode, queue };
        for (from, body) in early {
            self.coordinate(at, from, body);
        }
    }

    // ---- force ----

    /// The holder has been silent for too long: what it has is to be taken from it.
    pub fn force(&mut self, at: usize) {
        let (by, epoch) = (self.state.me(at), self.state.nodes[at].shard_epoch);
        if let Some((Mode::Revoking(holder, grant, force), _)) = self.parts(at) {
            *force = Force::Asked;
            let call = Call::Force {
                by,
                epoch,
                holder: *holder,
                grant: *grant,
            };
            self.state.calls.push(call);
        }
    }

    /// The answer of the database.
    pub fn force_is_written(&mut self, at: usize, token: Grant, written: Option<u8>) {
        let wait = match self.plan.mutant {
            Mutant::NoWait => 0,
            // The holder's lease may have been renewed just before it was written.
            _ => LEASE,
        };
        if let Some(forced) = written {
            let node = self.node(at);
            node.forced = node.forced.max(forced);
        }
        if let Some((Mode::Revoking(_, grant, force), _)) = self.parts(at)
            && *grant == token
        {
            if *force == Force::Returned {
                return self.decide_again(at, None);
            }
            *force = match written {
                Some(_) => Force::Waits(wait),
                None => Force::No,
            };
        }
    }

    /// The wait is over.
    pub fn force_ends(&mut self, at: usize) {
        if let Some((Mode::Revoking(holder, grant, Force::Waits(0)), _)) = self.parts(at) {
            let (holder, grant) = (*holder, *grant);
            self.say(at, holder, Body::Revoked(grant));
            self.decide_again(at, None);
        }
    }
}
