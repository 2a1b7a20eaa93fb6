//! Who should own which shards: the same answer on every node that sees the same map and members.
//!
//! Pure functions. Balanced to one shard, and moves no more than that takes.

use std::collections::BTreeMap;

use sluice_lockmgr::{Member, SHARDS, ShardEpoch, ShardId, ShardMap};

/// A shard and the epoch under which the plan saw it.
pub type Held = (ShardId, ShardEpoch);

/// How many shards each of `members` should own, as close as possible to what it owns now.
fn targets(map: &ShardMap, members: &[Member]) -> BTreeMap<Member, usize> {
    let mut owned: BTreeMap<Member, usize> = members.iter().map(|m| (*m, 0)).collect();
    for (_, row) in map.iter() {
        if let Some(count) = row.owner.and_then(|owner| owned.get_mut(&owner)) {
            *count += 1;
        }
    }
    let Some(fair) = usize::from(SHARDS).checked_div(owned.len()) else {
        return owned;
    };
    let over = usize::from(SHARDS) % owned.len();
    let mut order: Vec<(Member, usize)> = owned.into_iter().collect();
    // Whoever has most keeps the odd ones.
    order.sort_by_key(|(member, count)| (std::cmp::Reverse(*count), *member));
    order
        .into_iter()
        .enumerate()
        .map(|(at, (member, _))| (member, fair + usize::from(at < over)))
        .collect()
}

/// Shards whose owner is none of `alive`.
pub(crate) fn orphans(map: &ShardMap, alive: &[Member]) -> Vec<Held> {
    map.iter()
        .filter(|(_, row)| row.owner.is_none_or(|owner| !alive.contains(&owner)))
        .map(|(shard, row)| (shard, row.epoch))
        .collect()
}

/// Which of the orphans `me` should take, when `takers` share them.
pub(crate) fn take_over(
    map: &ShardMap,
    orphans: &[Held],
    takers: &[Member],
    me: Member,
) -> Vec<Held> {
    let mut room = targets(map, takers);
    for (_, row) in map.iter() {
        if let Some(room) = row.owner.and_then(|owner| room.get_mut(&owner)) {
            *room = room.saturating_sub(1);
        }
    }
    let mut mine = Vec::new();
    let mut takers = room.iter_mut().filter(|(_, room)| **room > 0);
    let mut taker = takers.next();
    for orphan in orphans {
        while taker.as_ref().is_some_and(|(_, room)| **room == 0) {
            taker = takers.next();
        }
        let Some((member, room)) = &mut taker else {
            break;
        };
        **room -= 1;
        if **member == me {
            mine.push(*orphan);
        }
    }
    mine
}

/// What `me` should give to whom next, when `keepers` share all shards; at most `limit` shards, to one receiver.
pub(crate) fn give_away(
    map: &ShardMap,
    keepers: &[Member],
    me: Member,
    limit: usize,
) -> Option<(Member, Vec<Held>)> {
    if keepers.is_empty() {
        return None;
    }
    let target = targets(map, keepers);
    let mut owned: BTreeMap<Member, usize> = BTreeMap::new();
    for (_, row) in map.iter() {
        if let Some(owner) = row.owner {
            *owned.entry(owner).or_default() += 1;
        }
    }
    let want = |member: &Member| target.get(member).copied().unwrap_or_default();
    let has = |member: &Member| owned.get(member).copied().unwrap_or_default();
    // Givers and receivers are matched in order; the first match of `me` is what it does next.
    let mut skip: usize = owned
        .keys()
        .filter(|giver| **giver < me)
        .map(|giver| has(giver).saturating_sub(want(giver)))
        .sum();
    let surplus = has(&me).saturating_sub(want(&me));
    if surplus == 0 {
        return None;
    }
    for receiver in keepers.iter().filter(|receiver| **receiver != me) {
        let lack = want(receiver).saturating_sub(has(receiver));
        if lack <= skip {
            skip -= lack;
            continue;
        }
        let count = (lack - skip).min(surplus).min(limit);
        let shards = map
            .iter()
            .filter(|(_, row)| row.owner == Some(me))
            .map(|(shard, row)| (shard, row.epoch))
            .take(count)
            .collect();
        return Some((*receiver, shards));
    }
    None
}

#[cfg(test)]
mod tests {
    use sluice_lockmgr::{MemberEpoch, MemberId};

    use super::*;

    fn member(id: u32) -> Member {
        Member {
            id: MemberId(id),
            epoch: MemberEpoch(u64::from(id) + 10),
        }
    }

    fn counts(map: &ShardMap) -> BTreeMap<Option<Member>, usize> {
        let mut counts = BTreeMap::new();
        for (_, row) in map.iter() {
            *counts.entry(row.owner).or_default() += 1;
        }
        counts
    }

    fn apply(map: &mut ShardMap, to: Member, shards: &[Held]) {
        for (shard, epoch) in shards {
            let row = &mut map.owners[usize::from(shard.0)];
            assert_eq!(row.epoch, *epoch);
            row.owner = Some(to);
            row.epoch.0 += 1;
        }
    }

    fn take_all(map: &mut ShardMap, members: &[Member]) {
        let orphans = orphans(map, members);
        let seen = map.clone();
        let mut taken = 0;
        for me in members {
            let mine = take_over(&seen, &orphans, members, *me);
            taken += mine.len();
            apply(map, *me, &mine);
        }
        assert_eq!(taken, orphans.len(), "every orphan has exactly one taker");
    }

    fn rebalance(map: &mut ShardMap, members: &[Member], keepers: &[Member]) -> usize {
        let mut moved = 0;
        loop {
            let seen = map.clone();
            let before = moved;
            for me in members {
                if let Some((to, shards)) = give_away(&seen, keepers, *me, 512) {
                    moved += shards.len();
                    apply(map, to, &shards);
                }
            }
            if moved == before {
                return moved;
            }
        }
    }

    fn assert_balanced(map: &ShardMap, members: &[Member]) {
        let counts = counts(map);
        let fair = usize::from(SHARDS) / members.len();
        assert_eq!(counts.len(), members.len());
        for member in members {
            assert!((fair..=fair + 1).contains(&counts[&Some(*member)]));
        }
    }

    #[test]
    fn orphans_go_to_the_survivors_in_equal_parts() {
        let mut map = ShardMap::default();
        let three: Vec<Member> = (1..=3).map(member).collect();
        take_all(&mut map, &three);
        assert_balanced(&map, &three);
        take_all(&mut map, &three[..2]);
        assert_balanced(&map, &three[..2]);
    }

    #[test]
    fn a_new_member_gets_its_share_with_no_more_moves_than_that_and_then_all_is_quiet() {
        let mut map = ShardMap::default();
        let members: Vec<Member> = (1..=5).map(member).collect();
        take_all(&mut map, &members[..2]);
        for count in 3..=5 {
            let now = &members[..count];
            let moved = rebalance(&mut map, now, now);
            assert_balanced(&map, now);
            assert!(moved <= usize::from(SHARDS) / count + 1);
        }
        assert_eq!(rebalance(&mut map, &members, &members), 0);
    }

    #[test]
    fn a_draining_member_gives_everything_and_gets_nothing() {
        let mut map = ShardMap::default();
        let members: Vec<Member> = (1..=3).map(member).collect();
        take_all(&mut map, &members);
        let keepers = [members[0], members[2]];
        rebalance(&mut map, &members, &keepers);
        assert_balanced(&map, &keepers);
        assert_eq!(give_away(&map, &[], members[0], 512), None);
    }
}
