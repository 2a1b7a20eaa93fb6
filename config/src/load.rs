//! Reading: file, then environment, then what must fit together.

use std::path::{Path, PathBuf};

use crate::error::ConfigError;
use crate::settings::Settings;
use crate::uri::{ContentUri, MetadataUri};

/// Overrides taken from the environment: `SLUICE_SECTION__KEY=value`, deeper sections by further `__`. Values are read as TOML
/// if they are valid TOML (numbers, lists, true), otherwise as a string.
#[derive(Clone, Debug, Default)]
pub struct EnvOverrides(Vec<(String, String)>);

impl EnvOverrides {
    /// Those in `variables` that name a section and a key.
    pub fn from_variables(variables: impl IntoIterator<Item = (String, String)>) -> EnvOverrides {
        let mut list: Vec<_> = variables
            .into_iter()
            .filter(|(name, _)| name.starts_with("SLUICE_") && name.contains("__"))
            .collect();
        list.sort();
        EnvOverrides(list)
    }
}

/// Reads the settings: from `file`, or the embedded default under `./sluice-data` if there is none; then the overrides.
///
/// # Errors
/// [`ConfigError`] with file and line, or the variable's name.
pub fn load(file: Option<&Path>, overrides: &EnvOverrides) -> Result<Settings, ConfigError> {
    let Some(path) = file else {
        return embedded(overrides);
    };
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable {
        file: name.clone(),
        reason: error.to_string(),
    })?;
    check(&name, &text, overrides)
}

/// Checks the text of a configuration file; `name` stands for it in messages.
///
/// # Errors
/// As [`load`].
pub fn check(name: &str, text: &str, overrides: &EnvOverrides) -> Result<Settings, ConfigError> {
    let line_error = |error: &toml::de::Error| ConfigError::Line {
        file: name.to_owned(),
        line: error
            .span()
            .map_or(1, |span| 1 + text[..span.start].matches('\n').count()),
        reason: error.message().trim().replace('\n', " "),
    };
    let table: toml::Table = toml::from_str(text).map_err(|error| line_error(&error))?;
    let settings = if overrides.0.is_empty() {
        toml::from_str(text).map_err(|error| line_error(&error))?
    } else {
        // The file itself may be what is wrong: then its own line is the better message.
        with_overrides(table, overrides).map_err(|error| {
            toml::from_str::<Settings>(text)
                .err()
                .map_or(error, |own| line_error(&own))
        })?
    };
    combination(name, settings)
}

fn embedded(overrides: &EnvOverrides) -> Result<Settings, ConfigError> {
    if overrides.0.is_empty() {
        return Ok(Settings::embedded(PathBuf::from("sluice-data")));
    }
    let table = toml::from_str(EMBEDDED).map_err(|error| ConfigError::Combination {
        place: "defaults".into(),
        reason: error.to_string(),
    })?;
    with_overrides(table, overrides).and_then(|settings| combination("defaults", settings))
}

/// [`Settings::embedded`] in the file's own words, so that overrides have one thing to change; a test keeps both equal.
const EMBEDDED: &str = r#"
[node]
name = "sluice"
state_dir = "sluice-data"
[repository]
metadata = "sqlite://sluice-data/meta.db"
content = "file://sluice-data/content"
[smb]
listen = ["127.0.0.1:4450"]
[nfs]
listen = ["127.0.0.1:20490"]
[ftp]
listen = ["127.0.0.1:2121"]
[admin]
listen = ["127.0.0.1:8480"]
"#;

fn with_overrides(
    mut table: toml::Table,
    overrides: &EnvOverrides,
) -> Result<Settings, ConfigError> {
    let mut last = Ok(());
    for (name, value) in &overrides.0 {
        put(&mut table, name, value)?;
        let result = table.clone().try_into::<Settings>();
        last = result
            .map(|_| ())
            .map_err(|error| ConfigError::Environment {
                name: name.clone(),
                reason: error.message().trim().replace('\n', " "),
            });
    }
    last?;
    table
        .try_into()
        .map_err(|error: toml::de::Error| ConfigError::Combination {
            place: "settings".into(),
            reason: error.message().to_owned(),
        })
}

fn put(table: &mut toml::Table, name: &str, value: &str) -> Result<(), ConfigError> {
    let wrong = |reason: &str| ConfigError::Environment {
        name: name.to_owned(),
        reason: reason.to_owned(),
    };
    let key = name.trim_start_matches("SLUICE_").to_lowercase();
    let mut parts: Vec<&str> = key.split("__").collect();
    let Some(last) = parts.pop().filter(|last| !last.is_empty()) else {
        return Err(wrong("it names no key"));
    };
    let mut section = table;
    for part in parts {
        if part.is_empty() {
            return Err(wrong("it names no section"));
        }
        section = section
            .entry(part)
            .or_insert_with(|| toml::Value::Table(toml::Table::new()))
            .as_table_mut()
            .ok_or_else(|| wrong("a part of its name is a key, not a section"))?;
    }
    section.insert(last.to_owned(), toml_value(value));
    Ok(())
}

fn toml_value(text: &str) -> toml::Value {
    toml::from_str::<toml::Table>(&format!("value = {text}"))
        .ok()
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| toml::Value::String(text.to_owned()))
}

fn combination(name: &str, settings: Settings) -> Result<Settings, ConfigError> {
    let wrong = |key: &str, reason: &str| {
        Err(ConfigError::Combination {
            place: format!("{name}: {key}"),
            reason: reason.to_owned(),
        })
    };
    if let Err((key, reason)) = cluster(&settings) {
        return wrong(key, reason);
    }
    if let Some(s3) = &settings.repository.s3 {
        if matches!(settings.repository.content, ContentUri::Folder(_)) {
            return wrong(
                "repository.s3",
                "it belongs to S3 content only; remove the section or set content = \"s3://bucket/prefix\"",
            );
        }
        if s3.access_key_id.is_some() != s3.secret_access_key.is_some() {
            return wrong(
                "repository.s3.access_key_id",
                "give both access_key_id and secret_access_key, or neither (the environment or the machine's role counts then)",
            );
        }
        if !s3.allow_http
            && s3
                .endpoint
                .as_deref()
                .is_some_and(|e| e.starts_with("http://"))
        {
            return wrong(
                "repository.s3.endpoint",
                "it is not encrypted; write https://, or allow_http = true in a network that you trust",
            );
        }
    }
    if let Some(ftp) = &settings.ftp
        && ftp.tls_cert.is_some() != ftp.tls_key.is_some()
    {
        return wrong("ftp.tls_cert", "give both tls_cert and tls_key, or neither");
    }
    Ok(settings)
}

/// What must fit together for a cluster: key and reason if it does not.
fn cluster(settings: &Settings) -> Result<(), (&'static str, &'static str)> {
    let shared = matches!(settings.repository.metadata, MetadataUri::Postgres(_));
    let Some(cluster) = &settings.cluster else {
        return if shared {
            Err((
                "cluster",
                "nodes on one database are a cluster and must reach each other; add [cluster] with listen, advertise and secret_file, or write metadata = \"sqlite:///path/meta.db\" for a single node",
            ))
        } else {
            Ok(())
        };
    };
    if !shared {
        return Err((
            "cluster",
            "a cluster needs a shared database (metadata = \"postgres://…\"); remove the [cluster] section for a single node",
        ));
    }
    if cluster.advertise.ip().is_unspecified() || cluster.advertise.port() == 0 {
        return Err((
            "cluster.advertise",
            "the other nodes can't call this address; write an address and port of this node that they reach",
        ));
    }
    if cluster.listen.port() == 0 {
        return Err((
            "cluster.listen",
            "write the port at which the other nodes call this one",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> EnvOverrides {
        EnvOverrides::from_variables(pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())))
    }

    #[test]
    fn the_embedded_text_says_what_the_embedded_settings_are() {
        let table: toml::Table = toml::from_str(EMBEDDED).unwrap();
        let settings: Settings = table.try_into().unwrap();
        assert_eq!(settings, Settings::embedded(PathBuf::from("sluice-data")));
    }

    #[test]
    fn the_example_is_valid_once_its_cluster_parts_are_left_out() {
        let settings = check("example", crate::EXAMPLE, &env(&[])).unwrap();
        assert_eq!(settings.node.name, "gw1");
    }

    #[test]
    fn a_wrong_key_is_told_with_file_and_line() {
        let text = "[node]\nname = \"a\"\nstate_dir = \"/x\"\ncolour = 1\n";
        let error = check("x.toml", text, &env(&[])).unwrap_err().to_string();
        assert!(
            error.starts_with("x.toml:4: unknown field `colour`"),
            "{error}"
        );
    }

    #[test]
    fn an_environment_variable_overrides_the_file_and_is_named_when_wrong() {
        let settings = load(None, &env(&[("SLUICE_NODE__NAME", "gw7")])).unwrap();
        assert_eq!(settings.node.name, "gw7");
        let list = load(
            None,
            &env(&[("SLUICE_SMB__LISTEN", "[\"127.0.0.1:1445\"]")]),
        )
        .unwrap();
        assert_eq!(list.smb.unwrap().listen[0].port(), 1445);
        let error = load(None, &env(&[("SLUICE_FTP__TLS", "perhaps")])).unwrap_err();
        assert!(error.to_string().contains("SLUICE_FTP__TLS"), "{error}");
    }

    #[test]
    fn a_shared_database_and_the_cluster_section_belong_together() {
        let text = |metadata: &str, cluster: &str| {
            format!(
                "[node]\nname = \"a\"\nstate_dir = \"/x\"\n[repository]\nmetadata = \"{metadata}\"\ncontent = \"file:///c\"\n{cluster}"
            )
        };
        let section = |advertise: &str| {
            format!(
                "[cluster]\nlisten = \"0.0.0.0:7480\"\nadvertise = \"{advertise}\"\nsecret_file = \"/s\"\n"
            )
        };
        let told =
            |metadata: &str, cluster: &str| match check("x", &text(metadata, cluster), &env(&[])) {
                Ok(_) => "fine".to_owned(),
                Err(error) => error.to_string(),
            };
        let fine = section("10.0.0.1:7480");
        assert_eq!(told("postgres://h/d", &fine), "fine");
        assert!(told("postgres://h/d", "").starts_with("x: cluster: "));
        assert!(told("sqlite:///m", &fine).contains("shared database"));
        let unspecified = told("postgres://h/d", &section("0.0.0.0:7480"));
        assert!(
            unspecified.starts_with("x: cluster.advertise: "),
            "{unspecified}"
        );
        let overridden = check(
            "x",
            &text("postgres://h/d", &fine),
            &env(&[("SLUICE_CLUSTER__LISTEN", "10.0.0.9:1")]),
        );
        assert_eq!(overridden.unwrap().cluster.unwrap().listen.port(), 1);
    }

    #[test]
    fn access_to_s3_must_be_whole_and_fit_the_content() {
        let text = |content: &str, s3: &str| {
            format!(
                "[node]\nname = \"a\"\nstate_dir = \"/x\"\n[repository]\nmetadata = \"sqlite:///m\"\ncontent = \"{content}\"\n[repository.s3]\n{s3}\n"
            )
        };
        let told = |content, s3| match check("x", &text(content, s3), &env(&[])) {
            Ok(settings) => format!("{settings:?}"),
            Err(error) => error.to_string(),
        };
        assert!(told("file:///c", "").contains("S3 content only"));
        assert!(told("s3://b/p", "access_key_id = \"k\"").contains("give both"));
        assert!(told("s3://b/p", "endpoint = \"http://h\"").contains("allow_http"));
        let fine = told(
            "s3://b/p",
            "endpoint = \"http://h\"\nallow_http = true\naccess_key_id = \"kkkk\"\nsecret_access_key = \"ssss\"",
        );
        assert!(
            fine.starts_with("Settings") && !fine.contains("ssss"),
            "{fine}"
        );
    }

    #[test]
    fn half_a_certificate_is_refused() {
        let error = load(None, &env(&[("SLUICE_FTP__TLS_CERT", "/x.pem")])).unwrap_err();
        assert!(error.to_string().contains("tls_key"), "{error}");
    }
}
