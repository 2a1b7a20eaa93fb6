//! The write policy: (share, path, protocol, user, client) to what becomes of a writer and of a conflict.
//!
//! One pure function decides, [`evaluate`]; [`explain`] tells its reasons. Rules are compiled once per change of the records and indexed by
//! share, so that a share without rules costs one lookup. Never looks at locks: what is in conflict is the lock table's business.
//!
//! Order of the rules: share, path, protocol, user or group, client network; in each the narrower first, a newer rule before an
//! older one of the same width. Each key (`write`, `writers`, `on_conflict`, `wait`) comes from the first rule that applies and states it.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use ipnet::IpNet;
use sluice_lockmgr::Writers;
use sluice_repo::{
    OnConflict as RuleOnConflict, PolicyRule, RuleProtocol, ShareId, WriteRule,
    Writers as RuleWriters,
};

use crate::identity::{Caller, Protocol};
use crate::share::Share;
use crate::vfs::Inner;

/// How long a writer waits if a rule says `wait` without saying how long, and by default over FTP and NFSv3.
const WAIT_DEFAULT: Duration = Duration::from_secs(30);

/// What a conflict becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnConflict {
    Reject,
    Wait,
    Fork,
}

/// The evaluated policy for one caller and one path.
#[derive(Clone, Debug)]
pub(crate) struct WritePolicy {
    /// Writing is allowed at all.
    pub(crate) allow: bool,
    /// Name of the rule that decided, for messages and listings; `None`: the default.
    pub(crate) rule: Option<Arc<str>>,
    pub(crate) writers: Writers,
    pub(crate) on_conflict: OnConflict,
    /// How long `Wait` waits.
    pub(crate) wait: Duration,
}

impl Inner {
    /// Whether any rule of this share looks at paths; if not, `policy` may be called with an empty one.
    pub(crate) fn policy_needs_path(&self, share: &Share) -> bool {
        self.records
            .current()
            .policy
            .of_share(share.id)
            .is_some_and(|rules| rules.needs_path)
    }

    /// Evaluates the rules for `path` (from the share's root, `/`-separated).
    pub(crate) fn policy(&self, share: &Share, caller: &Caller, path: &str) -> WritePolicy {
        let directory = self.records.current();
        let Some(rules) = directory.policy.of_share(share.id) else {
            return Decision::default_of(caller.client.protocol).into_policy(&[]);
        };
        let query = Query {
            protocol: caller.client.protocol,
            user: &caller.identity.name,
            groups: &caller.identity.groups,
            client: caller.client.address,
            path,
        };
        evaluate(&rules.rules, &query).into_policy(&rules.rules)
    }
}

/// Who writes what, from where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Query<'a> {
    pub(crate) protocol: Protocol,
    pub(crate) user: &'a str,
    pub(crate) groups: &'a [String],
    pub(crate) client: IpAddr,
    pub(crate) path: &'a str,
}

/// A key's value and the rule that decided it (its place among the rules), `None` for the default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decided<T> {
    pub(crate) value: T,
    pub(crate) by: Option<usize>,
}

impl<T> Decided<T> {
    fn default(value: T) -> Self {
        Decided { value, by: None }
    }

    fn decide(&mut self, stated: Option<T>, rule: usize) {
        if let (None, Some(value)) = (self.by, stated) {
            *self = Decided {
                value,
                by: Some(rule),
            };
        }
    }
}

/// What the rules say about one query, key by key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) write: Decided<WriteRule>,
    pub(crate) writers: Decided<RuleWriters>,
    pub(crate) on_conflict: Decided<RuleOnConflict>,
    pub(crate) wait: Decided<Duration>,
}

impl Decision {
    /// What holds where no rule says otherwise: SMB and NFSv4 programs expect a refusal, FTP and NFSv3 clients can wait.
    pub(crate) fn default_of(protocol: Protocol) -> Decision {
        let on_conflict = match protocol {
            Protocol::Ftp | Protocol::Nfs3 => RuleOnConflict::Wait,
            Protocol::Smb | Protocol::Nfs4 | Protocol::Admin => RuleOnConflict::Reject,
        };
        Decision {
            write: Decided::default(WriteRule::Allow),
            writers: Decided::default(RuleWriters::Native),
            on_conflict: Decided::default(on_conflict),
            wait: Decided::default(WAIT_DEFAULT),
        }
    }

    fn into_policy(self, rules: &[Rule]) -> WritePolicy {
        let by = match self.write.value {
            WriteRule::Deny => self.write.by,
            WriteRule::Allow => self.on_conflict.by.or(self.writers.by).or(self.write.by),
        };
        WritePolicy {
            allow: self.write.value == WriteRule::Allow,
            rule: by
                .and_then(|by| rules.get(by))
                .map(|rule| rule.name.clone()),
            writers: match self.writers.value {
                RuleWriters::Native => Writers::Native,
                RuleWriters::Exclusive => Writers::Exclusive,
                RuleWriters::Shared => Writers::Shared,
            },
            on_conflict: match self.on_conflict.value {
                RuleOnConflict::Reject => OnConflict::Reject,
                RuleOnConflict::Wait => OnConflict::Wait,
                RuleOnConflict::Fork => OnConflict::Fork,
            },
            wait: self.wait.value,
        }
    }
}

/// The decision of `rules` (most specific first) about a query.
pub(crate) fn evaluate(rules: &[Rule], query: &Query<'_>) -> Decision {
    let mut decision = Decision::default_of(query.protocol);
    for (place, rule) in rules.iter().enumerate() {
        if rule.mismatch(query).is_none() {
            decision.write.decide(rule.source.write, place);
            decision.writers.decide(rule.source.writers, place);
            decision.on_conflict.decide(rule.source.on_conflict, place);
            let wait = rule.source.wait_ms.map(Duration::from_millis);
            decision.wait.decide(wait, place);
        }
    }
    decision
}

/// For each rule in its order: whether it applies, and why.
pub(crate) fn explain(rules: &[Rule], query: &Query<'_>) -> Vec<(bool, String)> {
    rules
        .iter()
        .map(|rule| match rule.mismatch(query) {
            Some(mismatch) => (false, rule.why_not(mismatch, query)),
            None => (true, rule.why(query)),
        })
        .collect()
}

/// The first condition of a rule that does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mismatch {
    Path,
    Protocol,
    User,
    Group,
    Client,
}

/// A rule made ready for matching. Its share is settled by the index.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) source: PolicyRule,
    /// What refusals and listings call it: `3 (share docs, protocol ftp)`.
    pub(crate) name: Arc<str>,
    path: Option<GlobSet>,
    client: Option<IpNet>,
}

impl Rule {
    /// Compiles a rule.
    ///
    /// # Errors
    /// A sentence that says which condition can't be read.
    pub(crate) fn compile(source: PolicyRule) -> Result<Rule, String> {
        let path = source.path.as_deref().map(compile_glob).transpose()?;
        let client = source.client.as_deref().map(parse_network).transpose()?;
        Ok(Rule {
            name: rule_name(&source).into(),
            path,
            client,
            source,
        })
    }

    fn mismatch(&self, query: &Query<'_>) -> Option<Mismatch> {
        let rule = &self.source;
        if !rule.protocol.is_none_or(|p| means(p, query.protocol)) {
            return Some(Mismatch::Protocol);
        }
        let user = |name: &String| same_name(name, query.user);
        if !rule.user.as_ref().is_none_or(user) {
            return Some(Mismatch::User);
        }
        let group = |name: &String| query.groups.iter().any(|group| same_name(name, group));
        if !rule.group.as_ref().is_none_or(group) {
            return Some(Mismatch::Group);
        }
        let client = query.client.to_canonical();
        if !self.client.is_none_or(|net| net.contains(&client)) {
            return Some(Mismatch::Client);
        }
        // Last, because it costs most.
        if !self
            .path
            .as_ref()
            .is_none_or(|glob| glob.is_match(query.path))
        {
            return Some(Mismatch::Path);
        }
        None
    }

    fn why_not(&self, mismatch: Mismatch, query: &Query<'_>) -> String {
        let rule = &self.source;
        let word = |value: &Option<String>| value.clone().unwrap_or_default();
        match mismatch {
            Mismatch::Path => format!(
                "the path \"{}\" is not one of \"{}\"",
                query.path,
                word(&rule.path)
            ),
            Mismatch::Protocol => format!(
                "it is for {}, the request comes through {}",
                rule.protocol.map_or("any", protocol_word),
                query.protocol.name()
            ),
            Mismatch::User => format!(
                "it is for user {}, the writer is {}",
                word(&rule.user),
                nobody_if_empty(query.user)
            ),
            Mismatch::Group => format!(
                "it is for group {}, {} is not in it",
                word(&rule.group),
                nobody_if_empty(query.user)
            ),
            Mismatch::Client => format!(
                "it is for clients in {}, the client is {}",
                word(&rule.client),
                query.client
            ),
        }
    }

    fn why(&self, query: &Query<'_>) -> String {
        let rule = &self.source;
        let mut held = Vec::new();
        if let Some(share) = &rule.share {
            held.push(format!("the share is {share}"));
        }
        if let Some(path) = &rule.path {
            held.push(format!("\"{}\" is one of \"{path}\"", query.path));
        }
        if rule.protocol.is_some() {
            held.push(format!("the protocol is {}", query.protocol.name()));
        }
        if rule.user.is_some() {
            held.push(format!("the writer is {}", query.user));
        }
        if let Some(group) = &rule.group {
            held.push(format!("{} is in group {group}", query.user));
        }
        if let Some(client) = &rule.client {
            held.push(format!("{} is in {client}", query.client));
        }
        if held.is_empty() {
            return "it has no conditions".to_owned();
        }
        held.join(", ")
    }

    /// Sorts the most specific first.
    fn order(&self) -> impl Ord + use<> {
        let rule = &self.source;
        let path = rule
            .path
            .as_deref()
            .map_or(0, |glob| 1 + literal_chars(glob));
        let protocol = match rule.protocol {
            None => 0u8,
            Some(RuleProtocol::Nfs) => 1,
            Some(_) => 2,
        };
        let who = match (&rule.user, &rule.group) {
            (Some(_), _) => 2u8,
            (None, Some(_)) => 1,
            (None, None) => 0,
        };
        let client = self.client.map_or(0, |net| 1 + u16::from(net.prefix_len()));
        Reverse((rule.share.is_some(), path, protocol, who, client, rule.id))
    }
}

/// The rules of one share, most specific first.
#[derive(Debug)]
pub(crate) struct ShareRules {
    pub(crate) rules: Vec<Rule>,
    pub(crate) needs_path: bool,
}

/// All rules, by share. Shares that no rule means are not in it.
#[derive(Debug, Default)]
pub(crate) struct PolicySet(HashMap<ShareId, ShareRules>);

impl PolicySet {
    /// Compiles `rules` for these shares. A rule that can't be read (made by an older or newer release) is told in the log and
    /// left out, except that it denies: then it denies all that its other conditions mean.
    pub(crate) fn new<'a>(
        rules: &[PolicyRule],
        shares: impl Iterator<Item = (ShareId, &'a str)>,
    ) -> PolicySet {
        let sets = shares.filter_map(|(id, name)| Some((id, rules_of_share(rules, name)?)));
        PolicySet(sets.collect())
    }

    pub(crate) fn of_share(&self, share: ShareId) -> Option<&ShareRules> {
        self.0.get(&share)
    }
}

/// The rules that mean the share of this name, `None` if there are none.
pub(crate) fn rules_of_share(rules: &[PolicyRule], share: &str) -> Option<ShareRules> {
    let meant = |rule: &&PolicyRule| rule.share.as_deref().is_none_or(|s| same_name(s, share));
    let mut rules: Vec<Rule> = rules
        .iter()
        .filter(meant)
        .filter_map(|rule| compile_or_widen(rule.clone()))
        .collect();
    rules.sort_by_cached_key(Rule::order);
    (!rules.is_empty()).then(|| ShareRules {
        needs_path: rules.iter().any(|rule| rule.path.is_some()),
        rules,
    })
}

fn compile_or_widen(rule: PolicyRule) -> Option<Rule> {
    let denies = rule.write == Some(WriteRule::Deny);
    let wide = PolicyRule {
        path: None,
        client: None,
        ..rule.clone()
    };
    Rule::compile(rule)
        .inspect_err(|why| tracing::error!(why, "a write policy rule can't be read"))
        .ok()
        .or_else(|| denies.then(|| Rule::compile(wide).ok()).flatten())
}

/// A path glob: `*` and `?` stay within a name, `**` crosses folders. Without wildcards it means the document or folder and all below; a
/// pattern of one name with wildcards (`*.log`) means such names in every folder. Upper and lower case are the same.
fn compile_glob(text: &str) -> Result<GlobSet, String> {
    let bad = |why: globset::Error| format!("the path glob \"{text}\" can't be read: {why}");
    let pattern = text.trim_matches('/');
    if pattern.is_empty() {
        return Err("the path glob is empty; leave it out to mean every path".to_owned());
    }
    let wild = pattern.contains(['*', '?', '[', '{', '\\']);
    let mut patterns = vec![pattern.to_owned()];
    if !wild {
        patterns.push(format!("{pattern}/**"));
    } else if !pattern.contains('/') {
        patterns.push(format!("**/{pattern}"));
    }
    let mut set = GlobSetBuilder::new();
    for pattern in &patterns {
        let glob = GlobBuilder::new(pattern)
            .literal_separator(true)
            .case_insensitive(true)
            .build();
        set.add(glob.map_err(bad)?);
    }
    set.build().map_err(bad)
}

/// A network, or a single address.
///
/// # Errors
/// A sentence with the text that can't be read.
pub(crate) fn parse_network(text: &str) -> Result<IpNet, String> {
    text.parse::<IpNet>()
        .map(|net| net.trunc())
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| format!("\"{text}\" is not a network such as 10.0.0.0/8, and not an address"))
}

fn literal_chars(glob: &str) -> usize {
    let wild = |c: &char| matches!(c, '*' | '?' | '[' | ']' | '{' | '}' | '\\');
    let literal = glob.chars().filter(|c| !wild(c)).count();
    let exact = literal == glob.chars().count();
    literal + if exact { 1_000_000 } else { 0 }
}

fn means(rule: RuleProtocol, protocol: Protocol) -> bool {
    match rule {
        RuleProtocol::Smb => protocol == Protocol::Smb,
        RuleProtocol::Nfs => protocol.is_nfs(),
        RuleProtocol::Nfs3 => protocol == Protocol::Nfs3,
        RuleProtocol::Nfs4 => protocol == Protocol::Nfs4,
        RuleProtocol::Ftp => protocol == Protocol::Ftp,
    }
}

fn same_name(a: &str, b: &str) -> bool {
    if a.is_ascii() && b.is_ascii() {
        return a.eq_ignore_ascii_case(b);
    }
    sluice_repo::fold_name(a) == sluice_repo::fold_name(b)
}

fn nobody_if_empty(user: &str) -> &str {
    if user.is_empty() {
        "nobody in particular"
    } else {
        user
    }
}

fn rule_name(rule: &PolicyRule) -> String {
    let mut conditions = Vec::new();
    let named = [
        ("share", &rule.share),
        ("path", &rule.path),
        ("user", &rule.user),
        ("group", &rule.group),
        ("client", &rule.client),
    ];
    for (word, value) in named {
        if let Some(value) = value {
            conditions.push(format!("{word} {value}"));
        }
    }
    if let Some(protocol) = rule.protocol {
        conditions.push(format!("protocol {}", protocol_word(protocol)));
    }
    if conditions.is_empty() {
        return rule.id.to_string();
    }
    format!("{} ({})", rule.id, conditions.join(", "))
}

/// The word of the command line.
pub(crate) fn protocol_word(protocol: RuleProtocol) -> &'static str {
    match protocol {
        RuleProtocol::Smb => "smb",
        RuleProtocol::Nfs => "nfs",
        RuleProtocol::Nfs3 => "nfs3",
        RuleProtocol::Nfs4 => "nfs4",
        RuleProtocol::Ftp => "ftp",
    }
}

/// The word of the command line.
pub(crate) fn write_word(write: WriteRule) -> &'static str {
    match write {
        WriteRule::Allow => "allow",
        WriteRule::Deny => "deny",
    }
}

/// The word of the command line.
pub(crate) fn writers_word(writers: RuleWriters) -> &'static str {
    match writers {
        RuleWriters::Native => "native",
        RuleWriters::Exclusive => "exclusive",
        RuleWriters::Shared => "shared",
    }
}

/// The word of the command line.
pub(crate) fn on_conflict_word(on_conflict: RuleOnConflict) -> &'static str {
    match on_conflict {
        RuleOnConflict::Reject => "reject",
        RuleOnConflict::Wait => "wait",
        RuleOnConflict::Fork => "fork",
    }
}

#[cfg(test)]
mod tests;
