//! `sluice cluster verify` proves what it says, on one node too, and leaves nothing behind.

use anyhow::ensure;
use sluice_tests::node::TestNode;

#[test]
fn a_node_proves_itself_and_keeps_no_trace_of_it() -> anyhow::Result<()> {
    let node = TestNode::start()?;
    let before = node.cli_ok(&["share", "list", "--json"], "")?;
    let verdicts: Vec<serde_json::Value> =
        serde_json::from_str(&node.cli_ok(&["cluster", "verify", "--json"], "")?)?;
    for check in [
        "content",
        "metadata",
        "cache",
        "cache recall",
        "lock",
        "upload",
        "policy",
    ] {
        ensure!(
            verdicts
                .iter()
                .any(|v| v["check"] == check && v["ok"] == true),
            "{check}: {verdicts:#?}"
        );
    }
    ensure!(
        node.cli_ok(&["share", "list", "--json"], "")? == before,
        "a share is left"
    );
    let users = node.cli_ok(&["user", "list", "--json"], "")?;
    ensure!(!users.contains("sluice-verify"), "a user is left: {users}");
    Ok(())
}
