//! The write policy: rules, explanations, what-if.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use sluice_repo::{PolicyRule, fold_name};

use super::{
    Admin, AdminError, AdminResult, LockQuery, NewRule, PolicyExplanation, PolicyQuestion,
    RuleRecord, RuleVerdict, SimulatedChange, Simulation,
};
use crate::identity::Protocol;
use crate::policy::{
    Decided, Decision, Query, Rule, evaluate, explain, on_conflict_word, rules_of_share,
    write_word, writers_word,
};
use crate::records::Directory;

/// Longest wait that a rule may state: a client that waits longer is better refused.
const WAIT_MAX: Duration = Duration::from_secs(24 * 3600);

impl Admin {
    /// All rules, by number.
    pub async fn rules(&self) -> AdminResult<Vec<RuleRecord>> {
        let directory = self.inner.records.fresh().await?;
        Ok(directory.rules.iter().map(record).collect())
    }

    /// Adds a rule.
    pub async fn add_rule(&self, rule: NewRule) -> AdminResult<RuleRecord> {
        let directory = self.inner.records.fresh().await?;
        let rule = checked(rule, &directory)?;
        let stored = self.inner.repo.put_policy(rule).await?;
        self.inner.records_changed().await?;
        tracing::info!(rule = stored.id, "write policy rule added");
        Ok(record(&stored))
    }

    /// Removes a rule.
    pub async fn remove_rule(&self, id: u64) -> AdminResult<()> {
        let directory = self.inner.records.fresh().await?;
        if !directory.rules.iter().any(|rule| rule.id == id) {
            return Err(AdminError::NotFound(format!("there is no rule {id}")));
        }
        self.inner.repo.remove_policy(id).await?;
        self.inner.records_changed().await?;
        tracing::info!(rule = id, "write policy rule removed");
        Ok(())
    }

    /// Which rules were considered for one writer and path, why each matched or not, and what comes out.
    pub async fn explain_policy(&self, question: PolicyQuestion) -> AdminResult<PolicyExplanation> {
        let directory = self.inner.records.fresh().await?;
        let Some(share) = directory.share(&question.share) else {
            let why = format!("there is no share {}", question.share);
            return Err(AdminError::NotFound(why));
        };
        let groups = groups_of(&directory, &question)?;
        let query = query(&question, &groups);
        let set = directory.policy.of_share(share.id);
        let rules = set.map_or(&[][..], |set| set.rules.as_slice());
        let decision = evaluate(rules, &query);
        let verdicts = rules.iter().zip(explain(rules, &query));
        let considered = verdicts.map(|(rule, (applies, why))| RuleVerdict {
            id: rule.source.id,
            rule: rule.name.to_string(),
            applies,
            why,
        });
        Ok(PolicyExplanation {
            considered: considered.collect(),
            write: write_word(decision.write.value).to_owned(),
            writers: writers_word(decision.writers.value).to_owned(),
            on_conflict: on_conflict_word(decision.on_conflict.value).to_owned(),
            wait_ms: millis(decision.wait.value),
            decided_by: decided_by(&decision, rules),
            outcome: outcome(&decision, rules, &query, share.read_only),
        })
    }

    /// What other rules would change for the present holders and waiters, and for the questions asked.
    pub async fn simulate_policy(&self, what_if: Simulation) -> AdminResult<Vec<SimulatedChange>> {
        let directory = self.inner.records.fresh().await?;
        let mut rules = directory.rules.clone();
        rules.retain(|rule| !what_if.remove.contains(&rule.id));
        let newest = rules.iter().map(|rule| rule.id).max().unwrap_or(0);
        for (id, rule) in (newest + 1..).zip(what_if.add) {
            rules.push(PolicyRule {
                id,
                ..checked(rule, &directory)?
            });
        }
        let mut questions = what_if.questions;
        for held in self.locks(LockQuery::default()).await? {
            questions.extend(question_of(&held));
        }
        questions.dedup();
        let mut changes = Vec::with_capacity(questions.len());
        for question in &questions {
            let Some(share) = directory.share(&question.share) else {
                continue;
            };
            // A holder that has no account any more has no groups.
            let groups = groups_of(&directory, question).unwrap_or_default();
            let query = query(question, &groups);
            let before = told(rules_of_share(&directory.rules, &share.name), &query);
            let after = told(rules_of_share(&rules, &share.name), &query);
            changes.push(SimulatedChange {
                path: format!("/{}/{}", share.name, query.path),
                who: who(&query),
                changed: before != after,
                before,
                after,
            });
        }
        Ok(changes)
    }
}

fn record(rule: &PolicyRule) -> RuleRecord {
    RuleRecord {
        id: rule.id,
        rule: NewRule {
            share: rule.share.clone(),
            path: rule.path.clone(),
            protocol: rule.protocol,
            user: rule.user.clone(),
            group: rule.group.clone(),
            client: rule.client.clone(),
            write: rule.write,
            writers: rule.writers,
            on_conflict: rule.on_conflict,
            wait: rule.wait_ms.map(duration_words),
        },
    }
}

/// A rule that can be stored: its conditions can be read and it says something.
fn checked(rule: NewRule, directory: &Directory) -> AdminResult<PolicyRule> {
    if rule.write.is_none()
        && rule.writers.is_none()
        && rule.on_conflict.is_none()
        && rule.wait.is_none()
    {
        return Err(AdminError::Invalid(
            "a rule must say something: write, writers, on-conflict or wait".to_owned(),
        ));
    }
    if rule.user.is_some() && rule.group.is_some() {
        return Err(AdminError::Invalid(
            "a rule names a user or a group, not both".to_owned(),
        ));
    }
    if let Some(share) = &rule.share
        && directory.share(share).is_none()
    {
        return Err(AdminError::NotFound(format!("there is no share {share}")));
    }
    if let Some(user) = &rule.user
        && directory.user(user).is_none()
    {
        return Err(AdminError::NotFound(format!("there is no user {user}")));
    }
    if let Some(group) = &rule.group {
        let wanted = fold_name(group);
        if !directory
            .groups
            .iter()
            .any(|g| fold_name(&g.name) == wanted)
        {
            return Err(AdminError::NotFound(format!("there is no group {group}")));
        }
    }
    let wait_ms = rule.wait.as_deref().map(parse_wait).transpose()?;
    let rule = PolicyRule {
        id: 0,
        share: rule.share,
        path: rule.path,
        protocol: rule.protocol,
        user: rule.user,
        group: rule.group,
        client: rule.client,
        write: rule.write,
        writers: rule.writers,
        on_conflict: rule.on_conflict,
        wait_ms,
    };
    Rule::compile(rule.clone()).map_err(AdminError::Invalid)?;
    Ok(rule)
}

/// `500ms`, `10s`, `2m`, `1h`, or seconds as a bare number.
fn parse_wait(text: &str) -> AdminResult<u64> {
    let bad = || {
        AdminError::Invalid(format!(
            "\"{text}\" is not a duration such as 500ms, 10s or 2m, at most 24h"
        ))
    };
    let trimmed = text.trim();
    let digits = trimmed.find(|c: char| !c.is_ascii_digit());
    let (number, unit) = trimmed.split_at(digits.unwrap_or(trimmed.len()));
    let factor = match unit.trim() {
        "ms" => 1,
        "" | "s" => 1000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => return Err(bad()),
    };
    let number: u64 = number.parse().map_err(|_| bad())?;
    let ms = number.checked_mul(factor).ok_or_else(bad)?;
    if u128::from(ms) > WAIT_MAX.as_millis() {
        return Err(bad());
    }
    Ok(ms)
}

fn duration_words(ms: u64) -> String {
    if ms.is_multiple_of(1000) {
        format!("{}s", ms / 1000)
    } else {
        format!("{ms}ms")
    }
}

fn groups_of(directory: &Directory, question: &PolicyQuestion) -> AdminResult<Vec<String>> {
    let Some(user) = &question.user else {
        return Ok(Vec::new());
    };
    match directory.user(user) {
        Some((_, identity)) => Ok(identity.groups.clone()),
        // Over AUTH_SYS there are writers without an account.
        None if question.protocol.is_nfs() => Ok(Vec::new()),
        None => Err(AdminError::NotFound(format!("there is no user {user}"))),
    }
}

fn query<'a>(question: &'a PolicyQuestion, groups: &'a [String]) -> Query<'a> {
    Query {
        protocol: question.protocol,
        user: question.user.as_deref().unwrap_or(""),
        groups,
        client: question.client.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        path: question.path.trim_matches('/'),
    }
}

/// The question that a holder or waiter of the lock table poses.
fn question_of(held: &super::LockRecord) -> Option<PolicyQuestion> {
    let (share, path) = held.path.trim_start_matches('/').split_once('/')?;
    let protocols = [Protocol::Smb, Protocol::Nfs3, Protocol::Nfs4, Protocol::Ftp];
    Some(PolicyQuestion {
        share: share.to_owned(),
        protocol: *protocols.iter().find(|p| p.name() == held.protocol)?,
        user: (!held.user.is_empty()).then(|| held.user.clone()),
        client: held.client.parse().ok(),
        path: path.to_owned(),
    })
}

fn told(set: Option<crate::policy::ShareRules>, query: &Query<'_>) -> String {
    let rules = set.map(|set| set.rules).unwrap_or_default();
    let decision = evaluate(&rules, query);
    let wait = match decision.on_conflict.value {
        sluice_repo::OnConflict::Wait => {
            format!(" up to {}", duration_words(millis(decision.wait.value)))
        }
        _ => String::new(),
    };
    format!(
        "write {}, writers {}, on conflict {}{wait}",
        write_word(decision.write.value),
        writers_word(decision.writers.value),
        on_conflict_word(decision.on_conflict.value),
    )
}

fn who(query: &Query<'_>) -> String {
    let user = if query.user.is_empty() {
        "anybody".to_owned()
    } else {
        format!("user {}", query.user)
    };
    format!("{} {user} from {}", query.protocol.name(), query.client)
}

fn millis(wait: Duration) -> u64 {
    u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)
}

fn by<T>(key: &Decided<T>, rules: &[Rule]) -> String {
    let rule = key.by.and_then(|place| rules.get(place));
    rule.map_or_else(|| "default".to_owned(), |rule| rule.name.to_string())
}

fn decided_by(decision: &Decision, rules: &[Rule]) -> Vec<(String, String)> {
    vec![
        ("write".to_owned(), by(&decision.write, rules)),
        ("writers".to_owned(), by(&decision.writers, rules)),
        ("on_conflict".to_owned(), by(&decision.on_conflict, rules)),
        ("wait".to_owned(), by(&decision.wait, rules)),
    ]
}

fn outcome(decision: &Decision, rules: &[Rule], query: &Query<'_>, read_only: bool) -> Vec<String> {
    use sluice_repo::{OnConflict, WriteRule, Writers};
    let protocol = query.protocol.name();
    let named = |by: String| match by.as_str() {
        "default" => "by default".to_owned(),
        _ => format!("by rule {by}"),
    };
    let mut told = Vec::new();
    if read_only {
        told.push("The share is read-only: nobody may write.".to_owned());
    }
    if decision.write.value == WriteRule::Deny {
        let by = named(by(&decision.write, rules));
        told.push(format!("Writing through {protocol} is denied {by}."));
        return told;
    }
    let by_write = named(by(&decision.write, rules));
    told.push(format!("Writing through {protocol} is allowed {by_write}."));
    let writers = match decision.writers.value {
        Writers::Native => "The protocols' own share modes decide how many write at once",
        Writers::Exclusive => "One writer per document, whatever share modes say",
        Writers::Shared => "NFSv3 writes take no writer's place",
    };
    told.push(format!(
        "{writers}, {}.",
        named(by(&decision.writers, rules))
    ));
    let wait = duration_words(millis(decision.wait.value));
    let conflict = match decision.on_conflict.value {
        OnConflict::Reject => "A writer that comes second is refused at once".to_owned(),
        OnConflict::Wait => format!("A writer that comes second waits up to {wait}"),
        OnConflict::Fork => {
            "The content of a writer that comes second becomes a conflicted copy".to_owned()
        }
    };
    told.push(format!(
        "{conflict}, {}.",
        named(by(&decision.on_conflict, rules))
    ));
    told
}
