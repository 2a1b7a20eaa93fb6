//! Folders, ports and configuration files of a demo, and what it tells people.

use std::fmt::Write;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use sluice_config::{EnvOverrides, Settings};

use super::process::NodeProcess;

/// The nodes of a demo.
pub(super) struct Layout {
    pub(super) nodes: Vec<NodePlace>,
}

/// One node's files, and its settings as they are in its file.
pub(super) struct NodePlace {
    pub(super) name: String,
    pub(super) config: PathBuf,
    pub(super) log: PathBuf,
    settings: Settings,
}

/// A folder that others may pass through (the database runs as another account when this is root) but not list.
pub(super) fn make_folder(folder: &Path) -> anyhow::Result<()> {
    let shown = folder.display();
    std::fs::create_dir_all(folder).with_context(|| format!("the folder {shown} can't be made"))?;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o711))
        .with_context(|| format!("the folder {shown} can't be protected"))
}

impl Layout {
    /// Writes what is missing: the secret, a configuration file for each node.
    pub(super) fn make(folder: &Path, database: &str, count: u16) -> anyhow::Result<Layout> {
        let secret = folder.join("cluster.secret");
        if !secret.exists() {
            crate::files::write_private(&secret, random_hex()?.as_bytes())?;
        }
        let nodes = (1..=count)
            .map(|number| NodePlace::make(folder, database, number))
            .collect::<anyhow::Result<_>>()?;
        Ok(Layout { nodes })
    }
}

impl NodePlace {
    fn make(folder: &Path, database: &str, number: u16) -> anyhow::Result<NodePlace> {
        let name = format!("gw{number}");
        let config = folder.join(format!("{name}.toml"));
        if !config.exists() {
            let text = config_text(folder, database, &name, number)?;
            crate::files::write_private(&config, text.as_bytes())?;
        }
        let settings = sluice_config::load(Some(&config), &EnvOverrides::default())?;
        Ok(NodePlace {
            log: folder.join(format!("{name}.log")),
            name,
            config,
            settings,
        })
    }
}

fn config_text(folder: &Path, database: &str, name: &str, number: u16) -> anyhow::Result<String> {
    let base = folder.display();
    // One after the other and kept open until all are chosen, so that no port is taken twice.
    let mut held = Vec::new();
    let mut port = |preferred: u16| -> anyhow::Result<u16> {
        let listener = TcpListener::bind(("127.0.0.1", preferred + number))
            .or_else(|_| TcpListener::bind("127.0.0.1:0"))
            .context("no free TCP port")?;
        let port = listener.local_addr().context("no free TCP port")?.port();
        held.push(listener);
        Ok(port)
    };
    let (smb, nfs, ftp, admin, peers) = (
        port(4450)?,
        port(20490)?,
        port(2120)?,
        port(8480)?,
        port(7480)?,
    );
    let first_passive = 50_000 + 100 * number;
    Ok(format!(
        "# Node {name} of a Sluice demo.\n\
         [node]\nname = \"{name}\"\nstate_dir = \"{base}/{name}\"\n\n\
         [repository]\nmetadata = \"{database}\"\ncontent = \"file://{base}/content\"\n\n\
         [cluster]\nlisten = \"127.0.0.1:{peers}\"\nadvertise = \"127.0.0.1:{peers}\"\n\
         secret_file = \"{base}/cluster.secret\"\n\n\
         [smb]\nlisten = [\"127.0.0.1:{smb}\"]\n\n[nfs]\nlisten = [\"127.0.0.1:{nfs}\"]\n\n\
         [ftp]\nlisten = [\"127.0.0.1:{ftp}\"]\npassive_ports = \"{first_passive}-{}\"\n\n\
         [admin]\nlisten = [\"127.0.0.1:{admin}\"]\n",
        first_passive + 99
    ))
}

fn random_hex() -> anyhow::Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("no random numbers: {error}"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn first_port(listen: Option<&Vec<std::net::SocketAddr>>) -> u16 {
    listen
        .and_then(|listen| listen.first())
        .map_or(0, std::net::SocketAddr::port)
}

/// Where everything is, and what to try.
pub(super) fn welcome(layout: &Layout, nodes: &[NodeProcess], password: Option<&str>) -> String {
    let mut out =
        String::from("\nOne repository, three doors on three nodes, all on 127.0.0.1:\n\n");
    out.push_str("  NODE  SMB    NFS    FTP    ADMIN  PROCESS\n");
    for (place, node) in layout.nodes.iter().zip(nodes) {
        let settings = &place.settings;
        let _ = writeln!(
            out,
            "  {:4}  {:<5}  {:<5}  {:<5}  {:<5}  {}",
            place.name,
            first_port(settings.smb.as_ref().map(|head| &head.listen)),
            first_port(settings.nfs.as_ref().map(|head| &head.listen)),
            first_port(settings.ftp.as_ref().map(|head| &head.listen)),
            first_port(settings.admin.as_ref().map(|head| &head.listen)),
            node.pid(),
        );
    }
    let _ = match password {
        Some(password) => writeln!(out, "\nUser \"admin\" with password {password}"),
        None => writeln!(
            out,
            "\nUser \"admin\" with the password of this demo's first start"
        ),
    };
    if let [first, second, .., last] = layout.nodes.as_slice() {
        try_this(
            &mut out,
            [first, second, last],
            password.unwrap_or("PASSWORD"),
        );
    }
    out.push_str("\nCtrl-C stops everything.\n");
    out
}

fn try_this(out: &mut String, [first, second, last]: [&NodePlace; 3], password: &str) {
    let ftp = first_port(first.settings.ftp.as_ref().map(|head| &head.listen));
    let smb = first_port(second.settings.smb.as_ref().map(|head| &head.listen));
    let nfs = first_port(last.settings.nfs.as_ref().map(|head| &head.listen));
    let config = first.config.display();
    let _ = write!(
        out,
        "\nWrite through one node, read through the others:\n\
         \x20 echo hello > hello.txt && curl -u admin:{password} -T hello.txt ftp://127.0.0.1:{ftp}/docs/\n\
         \x20 smbclient //127.0.0.1/docs -p {smb} -U 'admin%{password}' -c 'ls; get hello.txt -'\n\
         \x20 sudo mount -t nfs 127.0.0.1:/docs /mnt -o vers=3,tcp,port={nfs},mountport={nfs},nolock && cat /mnt/hello.txt\n\
         Look at the cluster:\n\
         \x20 sluice --config {config} nodes\n\
         \x20 sluice --config {config} locks\n\
         Kill a node and see the others go on; start it again:\n\
         \x20 kill -9 PROCESS\n\
         \x20 sluice --config {} serve\n",
        last.config.display()
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_gets_a_valid_file_of_its_own_and_a_second_start_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let database = "postgres://u:p@127.0.0.1:1/d";
        let layout = Layout::make(dir.path(), database, 3).unwrap();
        let mut ports = std::collections::HashSet::new();
        for node in &layout.nodes {
            let cluster = node.settings.cluster.as_ref().unwrap();
            assert!(ports.insert(cluster.listen.port()));
            assert!(ports.insert(node.settings.smb.as_ref().unwrap().listen[0].port()));
        }
        let before = std::fs::read_to_string(&layout.nodes[2].config).unwrap();
        let again = Layout::make(dir.path(), "postgres://other/d", 3).unwrap();
        assert_eq!(
            std::fs::read_to_string(&again.nodes[2].config).unwrap(),
            before
        );
    }
}
