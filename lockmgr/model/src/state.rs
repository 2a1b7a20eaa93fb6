//! The state of the model: plain values, so that two ways to one state are seen to be the same.

/// Nodes at most.
pub(crate) const NODES: usize = 3;
/// Ticks that a lease lasts in the database.
pub(crate) const LEASE: u8 = 2;
/// Ticks that it lasts by its holder's clock: a margin less, counted from before the renewal was sent.
pub(crate) const OWN_LEASE: u8 = LEASE - 1;

/// One life of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// Which node, from 0.
    pub node: u8,
    /// Grows with every start in the cluster; 0: no life.
    pub epoch: u8,
}

/// Names a token: greater if given later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Grant {
    /// Of the shard when it was given.
    pub epoch: u8,
    /// Within it.
    pub number: u8,
}

/// The fence that a commit carries and the document has: the shard's epoch, and how often force was used in it.
pub(crate) type Fence = (u8, u8);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Row {
    pub epoch: u8,
    pub expires: u8,
}

/// The arbiter. Statements are atomic.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Database {
    pub rows: [Option<Row>; NODES],
    pub last_epoch: u8,
    pub owner: Member,
    pub shard_epoch: u8,
    pub fence: Fence,
    pub version: u8,
    /// Operations that are in the history.
    pub applied: u16,
    /// Tokens that were taken by force, and from whom.
    pub revoked: Vec<(Member, Grant)>,
}

/// A statement on its way to the database.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Call {
    Commit(Commit),
    Force {
        by: Member,
        epoch: u8,
        holder: Member,
        grant: Grant,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Commit {
    pub by: Member,
    pub operation: u8,
    pub fence: Fence,
    pub base: u8,
    /// Only without row locks: the rows were read and found good.
    pub passed: bool,
}

/// A renewal of the own lease.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Renewal {
    Idle,
    /// Sent so many ticks ago.
    Sent(u8),
    /// Answered: what was taken from this node by force until then. `None`: it is no member any more.
    Answered(u8, Option<Vec<Grant>>),
}

/// What a node is on the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Side {
    Away,
    /// It decides alone.
    Alone(Grant),
    /// It was asked to give the token back and commits what is not committed.
    Surrendering(Grant),
    /// Its entries are at the coordinator, since this epoch of the shard.
    Shared(u8),
}

impl Side {
    pub fn grant(self) -> Option<Grant> {
        match self {
            Side::Alone(grant) | Side::Surrendering(grant) => Some(grant),
            Side::Away | Side::Shared(_) => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    Other,
    Rebuilding {
        /// Lives that have not told yet what they have; 0: none.
        silent: [u8; NODES],
        claims: Vec<(Member, Held)>,
        /// What came before it could be looked at.
        early: Vec<(Member, Body)>,
    },
    Mine {
        mode: Mode,
        queue: Vec<Member>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Mode {
    Free,
    Alone(Member, Grant),
    Revoking(Member, Grant, Force),
    Central(Vec<Member>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Force {
    No,
    /// The statement is on its way: what becomes of it must be known before the document goes on.
    Asked,
    /// So too, and the token is back or its holder gone.
    Returned,
    /// It is written; so many ticks until others are let in.
    Waits(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Held {
    Alone(Grant),
    Shared,
    Nothing,
}

/// What is said, first to a coordinator, then by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Body {
    Ask,
    Back(Grant),
    Report(Held),
    Give(Grant, u8),
    Share(u8),
    Surrender(Grant),
    Revoked(Grant),
    ReportAsk,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Letter {
    pub from: Member,
    pub to: Member,
    /// Under which ownership of the shard.
    pub epoch: u8,
    pub body: Body,
}

/// A change that a client waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Work {
    None,
    /// The change with this number.
    Wanted(u8),
    /// Its commit is sent.
    Sent(Commit),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Node {
    /// 0: no process.
    pub epoch: u8,
    /// Ticks that it may act.
    pub left: u8,
    /// Tokens of this node that were taken by force, as far as it was told: they count for nothing when they arrive late.
    pub void: Vec<Grant>,
    pub renewal: Renewal,
    pub owner: Member,
    pub shard_epoch: u8,
    pub reported: u8,
    /// Latest life of each node that is known to be over.
    pub dead: [u8; NODES],
    pub side: Side,
    /// The version that it works on, as far as it knows it.
    pub base: Option<u8>,
    /// How often force was used in this epoch of the shard.
    pub forced: u8,
    pub work: Work,
    /// The fence with which a commit was refused: it is not tried again with that.
    pub refused: Fence,
    /// Under which ownership it has asked.
    pub asked: u8,
    pub role: Role,
    pub grants: u8,
}

impl Node {
    pub fn gone() -> Self {
        Self {
            epoch: 0,
            left: 0,
            void: Vec::new(),
            renewal: Renewal::Idle,
            owner: Member { node: 0, epoch: 0 },
            shard_epoch: 0,
            reported: 0,
            dead: [0; NODES],
            side: Side::Away,
            base: None,
            forced: 0,
            work: Work::None,
            refused: (0, 0),
            asked: 0,
            role: Role::Other,
            grants: 0,
        }
    }

    pub fn is_dead(&self, member: Member) -> bool {
        self.dead[usize::from(member.node)] >= member.epoch
    }

    /// Acts on the document by itself, as far as it knows.
    pub fn acts_alone(&self) -> bool {
        self.left > 0 && matches!(self.side, Side::Alone(_) | Side::Surrendering(_))
    }

    pub fn shares(&self) -> bool {
        self.left > 0 && matches!(self.side, Side::Shared(_))
    }
}

/// What must not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Broken {
    /// I3: a commit was accepted while another node had the right.
    Intruder,
    /// I2: a commit was accepted that did not know the version before it.
    LostUpdate,
}

/// What is still allowed to go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Budget {
    pub asks: u8,
    pub crashes: u8,
    pub starts: u8,
    pub ticks: u8,
    pub forces: u8,
    pub resends: u8,
}

/// Everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub(crate) database: Database,
    pub(crate) nodes: [Node; NODES],
    /// Kept in the order of the links, so that the order between links does not count.
    pub(crate) net: Vec<Letter>,
    pub(crate) calls: Vec<Call>,
    pub(crate) budget: Budget,
    pub(crate) operations: u8,
    pub(crate) broken: Option<Broken>,
    /// Somebody committed what he asked for after a right was taken by force.
    pub(crate) forced_and_done: bool,
}

impl State {
    pub(crate) fn me(&self, node: usize) -> Member {
        Member {
            node: node as u8,
            epoch: self.nodes[node].epoch,
        }
    }

    /// What was seen to be wrong.
    #[must_use]
    pub fn broken(&self) -> Option<Broken> {
        self.broken
    }

    pub(crate) fn post(&mut self, letter: Letter) {
        let link = |l: &Letter| (l.from.node, l.to.node);
        let key = link(&letter);
        let at = self.net.partition_point(|l| link(l) <= key);
        self.net.insert(at, letter);
    }
}
