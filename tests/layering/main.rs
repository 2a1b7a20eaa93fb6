//! The walls between crates: who may import whom, and under which licences third-party code comes in. Read off
//! `cargo metadata`, so that a new edge or licence fails here and must be argued for.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

/// Normal (not dev) edges between the project's own crates. Heads know the vfs and their own wire crate only; the lock
/// manager, the repository port and the wire crates know nobody; the daemon alone knows all.
const ALLOWED: &[(&str, &[&str])] = &[
    (
        "sluice-gateway",
        &[
            "sluice-clients",
            "sluice-config",
            "sluice-ftp",
            "sluice-lockmgr",
            "sluice-lockmgr-cluster",
            "sluice-nfs",
            "sluice-proxy",
            "sluice-repo",
            "sluice-repo-content",
            "sluice-repo-postgres",
            "sluice-repo-sqlite",
            "sluice-smb",
            "sluice-vfs",
        ],
    ),
    (
        "sluice-smb",
        &["sluice-vfs", "sluice-smb-wire", "sluice-proxy"],
    ),
    (
        "sluice-nfs",
        &["sluice-vfs", "sluice-nfs-wire", "sluice-proxy"],
    ),
    ("sluice-ftp", &["sluice-vfs", "sluice-proxy"]),
    ("sluice-proxy", &[]),
    ("sluice-vfs", &["sluice-lockmgr", "sluice-repo"]),
    ("sluice-lockmgr", &[]),
    ("sluice-lockmgr-cluster", &["sluice-lockmgr"]),
    (
        "sluice-lockmgr-sim",
        &["sluice-lockmgr", "sluice-lockmgr-cluster"],
    ),
    ("sluice-lockmgr-model", &[]),
    ("sluice-repo", &[]),
    ("sluice-repo-postgres", &["sluice-repo", "sluice-lockmgr"]),
    ("sluice-repo-sqlite", &["sluice-repo"]),
    ("sluice-repo-content", &["sluice-repo"]),
    ("sluice-repo-suite", &["sluice-repo"]),
    ("sluice-smb-wire", &[]),
    ("sluice-nfs-wire", &[]),
    ("sluice-config", &[]),
    ("sluice-clients", &[]),
    ("sluice-tests", &["sluice-clients", "sluice-repo-postgres"]),
    ("sluice-s3-tests", &[]),
];

/// Crates that do no input or output: none of these may be among their direct dependencies.
const PURE: &[&str] = &["sluice-smb-wire", "sluice-nfs-wire", "sluice-repo"];
const RUNTIMES: &[&str] = &["tokio", "async-std", "mio", "socket2"];

/// Licences that third-party code may come under; an expression passes if one of its alternatives needs nothing else.
const LICENCES: &[&str] = &[
    "MIT",
    "MIT-0",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "Unicode-3.0",
    "Unlicense",
    "CC0-1.0",
    "0BSD",
    "OpenSSL",
    "BSL-1.0",
    "CDLA-Permissive-2.0",
];

fn metadata() -> Metadata {
    MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .other_options(vec![
            "--locked".into(),
            "--filter-platform".into(),
            "x86_64-unknown-linux-gnu".into(),
        ])
        .exec()
        .expect("cargo metadata of a built workspace")
}

#[test]
fn crates_import_only_what_the_layering_allows() {
    let metadata = metadata();
    let allowed: BTreeMap<&str, BTreeSet<&str>> = ALLOWED
        .iter()
        .map(|(name, edges)| (*name, edges.iter().copied().collect()))
        .collect();
    let mut wrong = Vec::new();
    for package in metadata.workspace_packages() {
        let Some(edges) = allowed.get(package.name.as_str()) else {
            wrong.push(format!("{} is not in the layering table", package.name));
            continue;
        };
        for dependency in package
            .dependencies
            .iter()
            .filter(|d| d.kind == DependencyKind::Normal && d.name.starts_with("sluice-"))
        {
            if !edges.contains(dependency.name.as_str()) {
                wrong.push(format!("{} -> {}", package.name, dependency.name));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "edges that the layering forbids: {wrong:#?}"
    );
}

#[test]
fn wire_crates_and_the_repository_port_know_no_runtime() {
    for package in metadata().workspace_packages() {
        if PURE.contains(&package.name.as_str()) {
            for dependency in &package.dependencies {
                assert!(
                    dependency.kind != DependencyKind::Normal
                        || !RUNTIMES.contains(&dependency.name.as_str()),
                    "{} must do no input or output but depends on {}",
                    package.name,
                    dependency.name
                );
            }
        }
    }
}

#[test]
fn third_party_licences_are_permissive() {
    let mut wrong = Vec::new();
    for package in &metadata().packages {
        if package.source.is_none() {
            continue;
        }
        let expression = package.license.clone().unwrap_or_default();
        if !permissive(&expression) {
            wrong.push(format!(
                "{} {}: \"{expression}\"",
                package.name, package.version
            ));
        }
    }
    assert!(wrong.is_empty(), "licences to argue for: {wrong:#?}");
}

/// `A OR B` passes if one does; `A AND B` if both do; parentheses group. Old `A/B` means OR.
fn permissive(expression: &str) -> bool {
    let text = expression.replace('/', " OR ");
    let text = text.trim();
    if let Some(parts) = split_outside_parentheses(text, " AND ") {
        return parts.iter().all(|part| permissive(part));
    }
    if let Some(parts) = split_outside_parentheses(text, " OR ") {
        return parts.iter().any(|part| permissive(part));
    }
    if let Some(inner) = text.strip_prefix('(').and_then(|t| t.strip_suffix(')')) {
        return permissive(inner);
    }
    LICENCES.contains(&text)
}

fn split_outside_parentheses(text: &str, separator: &str) -> Option<Vec<String>> {
    let (mut depth, mut start, mut parts) = (0_i32, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ if depth == 0 && text[at..].starts_with(separator) => {
                parts.push(text[start..at].to_owned());
                start = at + separator.len();
            }
            _ => {}
        }
    }
    if parts.is_empty() {
        return None;
    }
    parts.push(text[start..].to_owned());
    Some(parts)
}

#[test]
fn the_licence_reader_understands_expressions() {
    assert!(permissive("MIT OR GPL-3.0"));
    assert!(permissive("(MIT OR Apache-2.0) AND Unicode-3.0"));
    assert!(!permissive("MIT AND GPL-3.0"));
    assert!(!permissive(""));
}
