//! `sluice cluster verify` is green on a sound cluster, and red with a clear sentence on one with a seeded fault: in the
//! configuration, in the network, or in the database.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::Value;
use sluice_tests::cluster::Cluster;

type Outcome = anyhow::Result<()>;

/// Exit code, verdicts, standard error.
fn verify(cluster: &Cluster, checks: &[&str]) -> anyhow::Result<(i32, Vec<Value>, String)> {
    let mut args = vec!["cluster", "verify", "--json"];
    for check in checks {
        args.extend(["--check", *check]);
    }
    let output = cluster.node(0).cli(&args, "")?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let verdicts: Value = serde_json::from_slice(&output.stdout).with_context(|| told.clone())?;
    let verdicts = verdicts.as_array().cloned().context("a list")?;
    Ok((
        output.status.code().context("an exit code")?,
        verdicts,
        told,
    ))
}

/// Some verdict of the check is red and says these words; the exit code is 1.
fn catches(cluster: &Cluster, check: &str, words: &str) -> Outcome {
    let (code, verdicts, told) = verify(cluster, &[check])?;
    let said = |v: &&Value| {
        v["ok"] == false
            && v["detail"]
                .as_str()
                .is_some_and(|text| text.contains(words))
    };
    ensure!(
        verdicts.iter().any(|v| said(&v)),
        "{check} does not say {words:?}: {verdicts:#?}"
    );
    ensure!(
        code == 1 && told.contains("checks failed"),
        "{code}: {told}"
    );
    Ok(())
}

fn until(what: &str, come: impl Fn() -> anyhow::Result<bool>) -> Outcome {
    let begin = Instant::now();
    while !come()? {
        ensure!(
            begin.elapsed() < Duration::from_secs(20),
            "not in time: {what}"
        );
    }
    Ok(())
}

#[test]
fn a_sound_cluster_proves_itself_and_keeps_its_shards_and_members() -> Outcome {
    let cluster = Cluster::start()?;
    let shards = |cluster: &Cluster| {
        cluster
            .server
            .sql("SELECT max(epoch), sum(epoch) FROM sluice.lock_shard")
    };
    cluster.wait_until_spread()?;
    let before = shards(&cluster)?;
    let (code, verdicts, told) = verify(&cluster, &[])?;
    ensure!(code == 0, "{told}: {verdicts:#?}");
    for (check, count) in [
        ("peer link", 6),
        ("content", 9),
        ("lock", 9),
        ("fencing", 5),
        ("failover", 3),
    ] {
        let found = verdicts.iter().filter(|v| v["check"] == check).count();
        ensure!(found == count, "{check}: {found}");
    }
    ensure!(shards(&cluster)? == before, "the probe was given shards");
    let nodes = cluster.node(0).cli_ok(&["nodes"], "")?;
    ensure!(!nodes.contains("sluice-verify"), "{nodes}");
    Ok(())
}

#[test]
fn a_content_folder_that_is_not_shared_is_caught() -> Outcome {
    let mut cluster = Cluster::start_with(1, false, "", "")?;
    cluster.add(false, |place| place.content = None)?;
    catches(&cluster, "content", "")
}

#[test]
fn peers_that_do_not_reach_each_other_and_heads_that_nobody_reaches_are_caught() -> Outcome {
    let cluster = Cluster::start_with(2, true, "", "")?;
    let told = |direct| {
        cluster.server.sql(&format!(
            "SELECT count(*) FROM sluice.setting WHERE key LIKE 'node.facts.%' AND convert_from(value, 'UTF8') LIKE '%\"direct\":{direct}%'"
        ))
    };
    until("both are connected", || Ok(told(true)?.trim() == "2"))?;
    cluster.cut_peers_to(0, true);
    cluster.cut_peers_to(1, true);
    until("both notice the cut", || Ok(told(false)?.trim() == "2"))?;
    catches(&cluster, "peer link", "messages go through the database")?;
    let heads = r#"{"smb":"127.0.0.1:1","nfs":null,"ftp":null}"#;
    cluster.server.sql(&format!(
        "UPDATE sluice.setting SET value = convert_to('{heads}', 'UTF8') WHERE key = 'node.facts.gw2'"
    ))?;
    catches(&cluster, "policy", "SMB at 127.0.0.1:1 can't be called")
}

#[test]
fn a_database_that_lets_old_rights_commit_is_caught() -> Outcome {
    let cluster = Cluster::start_with(1, false, "", "")?;
    for (guard, words) in [
        ("ANY(held), false) THEN 12", "a shard's owner before"),
        ("w.fence <> 0) THEN 12", "taken away by force"),
    ] {
        let sound = cluster
            .server
            .sql("SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname = 'commit_verdicts'")?;
        let faulty = sound.replace(guard, &guard.replace(") THEN 12", ") AND false THEN 12"));
        ensure!(faulty != sound, "the guard is there");
        cluster
            .server
            .sql(&format!("SET search_path = sluice; {faulty}"))?;
        catches(&cluster, "fencing", words)?;
        cluster
            .server
            .sql(&format!("SET search_path = sluice; {sound}"))?;
    }
    Ok(())
}

/// Two roles of the database see different things, and gw2 comes as the other one.
const ROLES: &str = "
    CREATE ROLE plain LOGIN PASSWORD 'p'; CREATE ROLE other LOGIN PASSWORD 'p' IN ROLE plain;
    GRANT ALL ON DATABASE postgres TO plain";

/// The other role sees the first version of every document only.
const STALE: &str = "
    ALTER TABLE sluice.content ENABLE ROW LEVEL SECURITY;
    ALTER TABLE sluice.content FORCE ROW LEVEL SECURITY;
    CREATE POLICY stale ON sluice.content USING (current_user <> 'other' OR version = 1) WITH CHECK (true);";

/// The other role finds another document under every new name: its locks never meet those of the first one.
const APART: &str = "
    DROP INDEX sluice.entry_name; CREATE INDEX entry_name ON sluice.entry(parent, fold, name);
    CREATE FUNCTION sluice.twin() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO sluice.node SELECT (jsonb_populate_record(n, jsonb_build_object('id', n.id + 1000000))).*
          FROM sluice.node n WHERE n.id = NEW.node AND n.kind = 1;
        IF FOUND THEN
            INSERT INTO sluice.entry VALUES (NEW.parent, NEW.cookie + 1000000, NEW.name, NEW.fold, NEW.node + 1000000);
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER twin AFTER INSERT ON sluice.entry FOR EACH ROW WHEN (pg_trigger_depth() = 0)
      EXECUTE FUNCTION sluice.twin();
    ALTER TABLE sluice.entry ENABLE ROW LEVEL SECURITY;
    ALTER TABLE sluice.entry FORCE ROW LEVEL SECURITY;
    CREATE POLICY apart ON sluice.entry USING (CASE current_user
        WHEN 'other' THEN node >= 1000000
          OR NOT EXISTS(SELECT 1 FROM sluice.node t WHERE t.id = entry.node + 1000000)
        ELSE node < 1000000 END) WITH CHECK (true);";

/// Two nodes; what the second one is shown is changed by a statement.
fn with_a_faulty_node(fault: &str) -> anyhow::Result<Cluster> {
    let mut cluster = Cluster::empty()?;
    cluster.server.sql(ROLES)?;
    let at = cluster.server.port();
    let url = |user| Some(format!("postgres://{user}:p@127.0.0.1:{at}/postgres"));
    cluster.add(false, |place| place.metadata = url("plain"))?;
    cluster.server.sql(fault)?;
    cluster.add(false, |place| place.metadata = url("other"))?;
    Ok(cluster)
}

#[test]
fn a_node_that_shows_what_was_before_is_caught() -> Outcome {
    catches(&with_a_faulty_node(STALE)?, "cache", "shows other bytes")
}

#[test]
fn a_lock_that_is_not_honoured_is_caught() -> Outcome {
    let cluster = with_a_faulty_node(APART)?;
    catches(
        &cluster,
        "lock",
        "SMB opened a document that is denied to it",
    )
}
