//! Each command: its request, and its answer in words.

use std::io::{IsTerminal, Read};
use std::path::Path;

use anyhow::{Context, bail};
use axum::http::Method;
use serde_json::{Value, json};
use sluice_config::{EnvOverrides, Settings};
use sluice_vfs::{
    CheckRecord, GcRecord, LockExplanation, LockRecord, PolicyExplanation, RuleRecord,
    SessionRecord, ShareRecord, SimulatedChange, UserRecord, VersionRecord,
};
use tokio_util::sync::CancellationToken;

use super::args::{
    Cli, ClusterCommand, Command, ConfigCommand, LocksArgs, LocksCommand, NodeCommand,
    PolicyCommand, ReadArgs, RuleArgs, ShareCommand, ShareOptions, UserCommand, VersionCommand,
};
use super::call::Door;
use super::print;
use crate::cluster::{NodeRecord, Seat};
use crate::node::{Ended, Node};
use crate::verify::Plan;

fn settings(config: Option<&Path>) -> anyhow::Result<Settings> {
    let overrides = EnvOverrides::from_variables(std::env::vars());
    Ok(sluice_config::load(config, &overrides)?)
}

/// Runs one command; the text for stdout.
pub(super) async fn run(cli: Cli) -> anyhow::Result<String> {
    let config = cli.config.as_deref();
    match cli.command {
        Command::Serve { until_eof } => serve(&settings(config)?, until_eof).await,
        Command::Config(ConfigCommand::Example) => Ok(sluice_config::EXAMPLE.to_owned()),
        Command::Config(ConfigCommand::Check { file }) => {
            settings(Some(&file)).map(|_| format!("{}: fine\n", file.display()))
        }
        Command::Demo { keep, clean_up } => {
            let done = match clean_up {
                Some(folder) => crate::demo::clean_up(&folder, keep),
                None => crate::demo::run(keep).await,
            };
            done.map(|()| String::new())
        }
        Command::Preflight(read) => preflight(&settings(config)?, read).await,
        Command::Cluster(ClusterCommand::Verify {
            probe_port,
            checks,
            read,
        }) => {
            let plan = Plan {
                settings: settings(config)?,
                config: config.map(Path::to_owned),
                probe_port,
                only: checks,
            };
            let door = Door::open(&plan.settings).await?;
            let verdicts = verify(&door, plan, read).await;
            door.close().await?;
            verdicts
        }
        Command::Cluster(ClusterCommand::Probe { listen, state }) => {
            let settings = settings(config)?;
            let ran = crate::verify::probe::run(&settings, listen, state).await;
            ran.map(|()| String::new())
        }
        Command::Nodes(read) => {
            let settings = settings(config)?;
            if let Some(nodes) = crate::cluster::nodes_from_outside(&settings).await? {
                return print::records::<NodeRecord>(serde_json::to_value(nodes)?, read.json);
            }
            let door = Door::open(&settings).await?;
            let result = nodes(&door, read).await;
            door.close().await?;
            result
        }
        command => {
            let door = Door::open(&settings(config)?).await?;
            let result = on_repository(&door, command).await;
            door.close().await?;
            result
        }
    }
}

async fn serve(settings: &Settings, until_eof: bool) -> anyhow::Result<String> {
    crate::logging::start(&settings.log)?;
    let seat = Seat::take(settings).await?;
    let mut node = Node::bind(settings, seat.as_ref()).await?;
    let stop = CancellationToken::new();
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::spawn({
        let stop = stop.clone();
        async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
                () = end_of_input(), if until_eof => {}
            }
            stop.cancel();
        }
    });
    let mut welcome = crate::welcome::text(settings, node.first_password());
    loop {
        let serving = tokio::spawn(node.serve(stop.clone()));
        print!("{}", std::mem::take(&mut welcome));
        if serving.await.context("the node broke off")?? == Ended::Stopped {
            return Ok(String::new());
        }
        match begin_anew(settings, seat.as_ref(), &stop).await {
            Some(begun) => node = begun,
            None => return Ok(String::new()),
        }
    }
}

async fn end_of_input() {
    let mut input = super::standard_input();
    while input.recv().await.is_some() {}
}

/// The node again after it was fenced, as soon as the database and the sockets let it; nothing if it is told to stop before.
async fn begin_anew(
    settings: &Settings,
    seat: Option<&Seat>,
    stop: &CancellationToken,
) -> Option<Node> {
    const PAUSE: std::time::Duration = std::time::Duration::from_millis(500);
    loop {
        tokio::select! {
            () = stop.cancelled() => return None,
            bound = Node::bind(settings, seat) => match bound {
                Ok(node) => {
                    tracing::info!("serving again");
                    return Some(node);
                }
                Err(error) => tracing::warn!(error = format!("{error:#}"), "can't begin anew yet"),
            },
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn on_repository(door: &Door, command: Command) -> anyhow::Result<String> {
    match command {
        Command::User(command) => user(door, command).await,
        Command::Share(command) => share(door, command).await,
        Command::Policy(command) => policy(door, command).await,
        Command::Locks(args) => locks(door, args).await,
        Command::Sessions(read) => {
            print::records::<SessionRecord>(get(door, "/sessions").await?, read.json)
        }
        Command::Check { repair, read } => check(door, repair, read).await,
        Command::Gc(read) => {
            let value = post(door, "/gc", json!({})).await?;
            print::record(&value, read.json, |done: &GcRecord| {
                format!(
                    "deleted {} objects that no version needs any more and {} ({} bytes) that none ever named; {} are in use\n",
                    done.given_up, done.unreferenced, done.unreferenced_bytes, done.kept
                )
            })
        }
        Command::Version(command) => version(door, command).await,
        Command::Node(NodeCommand::Drain { name }) => {
            post(
                door,
                &format!("/nodes/{}/drain", component(&name)),
                json!({}),
            )
            .await?;
            Ok(format!(
                "node {name} gives its shards away, finishes with its clients and leaves; sluice nodes shows when it has\n"
            ))
        }
        Command::Serve { .. }
        | Command::Preflight(_)
        | Command::Demo { .. }
        | Command::Config(_)
        | Command::Nodes(_)
        | Command::Cluster(_) => {
            bail!("this command needs no repository")
        }
    }
}

/// The list goes out before the refusal that makes the exit code.
async fn preflight(settings: &Settings, read: ReadArgs) -> anyhow::Result<String> {
    let items = crate::preflight::run(settings).await;
    let text = if read.json {
        print::json(&serde_json::to_value(&items)?)
    } else {
        crate::preflight::table(&items)
    };
    let failed = items
        .iter()
        .filter(|item| item.verdict == crate::preflight::Verdict::Failed)
        .count();
    if failed > 0 {
        print!("{text}");
        bail!(
            "{failed} of {} items must be mended before going live",
            items.len()
        );
    }
    Ok(text)
}

/// The table goes out before the refusal that makes the exit code.
async fn verify(door: &Door, plan: Plan, read: ReadArgs) -> anyhow::Result<String> {
    if matches!(door, Door::Stopped(..)) {
        bail!("no node runs here; run this on a node of the cluster: sluice cluster verify")
    }
    let verdicts = crate::verify::run(door, plan).await?;
    let text = if read.json {
        print::json(&serde_json::to_value(&verdicts)?)
    } else {
        crate::verify::table(&verdicts)
    };
    let failed = verdicts.iter().filter(|verdict| !verdict.ok).count();
    if failed > 0 {
        print!("{text}");
        bail!("{failed} of {} checks failed", verdicts.len());
    }
    Ok(text)
}

async fn get(door: &Door, path: &str) -> anyhow::Result<Value> {
    door.call(Method::GET, path, None).await
}

async fn post(door: &Door, path: &str, body: Value) -> anyhow::Result<Value> {
    door.call(Method::POST, path, Some(body)).await
}

/// `text` as one component of a URL.
fn component(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

fn read_password(stdin: bool) -> anyhow::Result<String> {
    if !stdin && std::io::stdin().is_terminal() {
        eprint!("Password (shown as you type; pipe it with --password-stdin to hide it): ");
    } else if !stdin {
        bail!("give the password on standard input with --password-stdin");
    }
    let mut text = String::new();
    if stdin {
        std::io::stdin().take(4096).read_to_string(&mut text)?;
    } else {
        std::io::stdin().read_line(&mut text)?;
    }
    let line = text.lines().next().unwrap_or_default().to_owned();
    if line.is_empty() {
        bail!("the password is empty; write it as the first line of standard input");
    }
    Ok(line)
}

async fn user(door: &Door, command: UserCommand) -> anyhow::Result<String> {
    match command {
        UserCommand::Add {
            name,
            password_stdin,
            uid,
            gid,
            groups,
            admin,
        } => {
            let body = json!({
                "name": name, "password": read_password(password_stdin)?, "uid": uid, "gid": gid,
                "groups": groups, "admin": admin,
            });
            post(door, "/users", body).await?;
            Ok(format!("user {name} added\n"))
        }
        UserCommand::Passwd {
            name,
            password_stdin,
        } => {
            let body = json!({ "password": read_password(password_stdin)? });
            let path = format!("/users/{}/password", component(&name));
            door.call(Method::PUT, &path, Some(body)).await?;
            Ok(format!("password of {name} set\n"))
        }
        UserCommand::List(read) => {
            print::records::<UserRecord>(get(door, "/users").await?, read.json)
        }
        UserCommand::Remove { name } => {
            let path = format!("/users/{}", component(&name));
            door.call(Method::DELETE, &path, None).await?;
            Ok(format!("user {name} removed\n"))
        }
    }
}

/// Bytes of a size such as `500M` or `10G` (powers of 1024); 0 is no limit.
fn size(text: &str) -> anyhow::Result<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "" | "B" => 1,
        "K" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        "T" | "TiB" => 1_u64 << 40,
        unit => bail!("--quota: \"{unit}\" is not a unit; use K, M, G or T"),
    };
    let number: u64 = digits
        .parse()
        .with_context(|| format!("--quota: \"{text}\" is not a size; write for example 10G"))?;
    number
        .checked_mul(factor)
        .with_context(|| format!("--quota: {text} is too large"))
}

fn share_body(options: ShareOptions) -> anyhow::Result<Value> {
    let mut body = serde_json::Map::new();
    let mut put = |key: &str, value: Value| {
        if !value.is_null() {
            body.insert(key.to_owned(), value);
        }
    };
    put("path", json!(options.path));
    put("comment", json!(options.comment));
    put("protocols", json!(options.protocols));
    put("read_only", json!(options.read_only));
    put("smb_encrypt", json!(options.encrypt));
    put("nfs_clients", json!(options.nfs_clients));
    put("nfs_mandatory_locks", json!(options.mandatory_nfs_locks));
    put("squash", json!(options.squash));
    put("case", json!(options.case));
    if let Some(text) = options.quota {
        put("quota_bytes", json!(size(&text)?));
    }
    Ok(Value::Object(body))
}

async fn share(door: &Door, command: ShareCommand) -> anyhow::Result<String> {
    let path = |name: &str| format!("/shares/{}", component(name));
    match command {
        ShareCommand::Add { name, options } => {
            post(door, &path(&name), share_body(options)?).await?;
            Ok(format!("share {name} added\n"))
        }
        ShareCommand::Set { name, options } => {
            let body = share_body(options)?;
            door.call(Method::PATCH, &path(&name), Some(body)).await?;
            Ok(format!("share {name} changed\n"))
        }
        ShareCommand::List(read) => {
            print::records::<ShareRecord>(get(door, "/shares").await?, read.json)
        }
        ShareCommand::Remove { name } => {
            door.call(Method::DELETE, &path(&name), None).await?;
            Ok(format!("share {name} removed; its documents stay\n"))
        }
    }
}

fn rule_body(rule: RuleArgs) -> Value {
    json!({
        "share": rule.share, "path": rule.path, "protocol": rule.protocol, "user": rule.user,
        "group": rule.group, "client": rule.client, "write": rule.write, "writers": rule.writers,
        "on_conflict": rule.on_conflict, "wait": rule.wait,
    })
}

async fn policy(door: &Door, command: PolicyCommand) -> anyhow::Result<String> {
    match command {
        PolicyCommand::Add(rule) => {
            let value = post(door, "/policies", rule_body(rule)).await?;
            Ok(format!("rule {} added\n", value["id"]))
        }
        PolicyCommand::List(read) => {
            print::records::<RuleRecord>(get(door, "/policies").await?, read.json)
        }
        PolicyCommand::Remove { id } => {
            let path = format!("/policies/{id}");
            door.call(Method::DELETE, &path, None).await?;
            Ok(format!("rule {id} removed\n"))
        }
        PolicyCommand::Explain {
            share,
            protocol,
            user,
            client,
            path,
            read,
        } => {
            let question = json!({
                "share": share, "protocol": protocol, "user": user, "client": client, "path": path,
            });
            let value = post(door, "/policies/explain", question).await?;
            print::record(&value, read.json, explained)
        }
        PolicyCommand::Simulate { rule, read } => {
            let body = json!({ "add": [rule_body(rule)] });
            let value = post(door, "/policies/simulate", body).await?;
            print::records::<SimulatedChange>(value, read.json)
        }
    }
}

fn explained(explanation: &PolicyExplanation) -> String {
    let mut text = String::new();
    for verdict in &explanation.considered {
        let applies = if verdict.applies {
            "applies"
        } else {
            "does not apply"
        };
        text.push_str(&format!("rule {} {applies}: {}\n", verdict.id, verdict.why));
    }
    for sentence in &explanation.outcome {
        text.push_str(sentence);
        text.push('\n');
    }
    text
}

async fn locks(door: &Door, args: LocksArgs) -> anyhow::Result<String> {
    let list = async |path: Option<String>, json: bool| {
        let query = path.map_or(String::new(), |path| format!("?path={}", component(&path)));
        print::records::<LockRecord>(get(door, &format!("/locks{query}")).await?, json)
    };
    match args.command {
        None => list(args.path, args.read.json).await,
        Some(LocksCommand::List { path, read }) => {
            list(path.or(args.path), read.json || args.read.json).await
        }
        Some(LocksCommand::Explain { path, read }) => {
            let value = get(door, &format!("/locks/explain?path={}", component(&path))).await?;
            let as_json = read.json || args.read.json;
            print::record(&value, as_json, |explanation: &LockExplanation| {
                let mut text = explanation.sentences.join("\n");
                text.push('\n');
                text
            })
        }
        Some(LocksCommand::Break { id, why }) => {
            let path = format!("/locks/{}/break", component(&id));
            post(door, &path, json!({ "why": why })).await?;
            Ok(format!("lock {id} broken\n"))
        }
    }
}

async fn nodes(door: &Door, read: ReadArgs) -> anyhow::Result<String> {
    let mut value = get(door, "/nodes").await?;
    if let Door::Stopped(..) = door {
        for node in value.as_array_mut().into_iter().flatten() {
            if node["this"] == true {
                node["state"] = json!("stopped");
            }
        }
    }
    print::records::<NodeRecord>(value, read.json)
}

async fn check(door: &Door, repair: bool, read: ReadArgs) -> anyhow::Result<String> {
    let value = post(door, "/check", json!({ "repair": repair })).await?;
    let record: CheckRecord =
        serde_json::from_value(value.clone()).context("the answer can't be read")?;
    let text = print::record(&value, read.json, |found: &CheckRecord| {
        let mut text = format!(
            "checked {} nodes and {} versions\n",
            found.nodes, found.versions
        );
        for problem in &found.problems {
            text.push_str(&format!("problem: {problem}\n"));
        }
        text
    })?;
    let left = record.problems.len() as u64 - record.repaired.min(record.problems.len() as u64);
    if left == 0 {
        return Ok(text);
    }
    print!("{text}");
    bail!(
        "{left} problems are left; see the list, and use --repair for those that can be repaired without losing content"
    )
}

async fn version(door: &Door, command: VersionCommand) -> anyhow::Result<String> {
    match command {
        VersionCommand::List { path, read } => {
            let value = get(door, &format!("/versions?path={}", component(&path))).await?;
            print::records::<VersionRecord>(value, read.json)
        }
        VersionCommand::Restore { path, version } => {
            let body = json!({ "path": path, "version": version });
            let value = post(door, "/versions/restore", body).await?;
            Ok(format!(
                "{path} is restored as version {}\n",
                value["version"]
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024_and_wrong_ones_are_named() {
        assert_eq!(size("10G").unwrap(), 10 << 30);
        assert_eq!(size("0").unwrap(), 0);
        assert!(size("10Q").unwrap_err().to_string().contains('Q'));
        assert!(size("99999999999T").is_err());
    }

    #[test]
    fn paths_survive_being_part_of_a_url() {
        assert_eq!(component("/docs/a b?.txt"), "%2Fdocs%2Fa%20b%3F.txt");
    }
}
