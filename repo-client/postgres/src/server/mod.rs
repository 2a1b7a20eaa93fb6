//! A PostgreSQL server of one's own in a scratch folder: for tests and for `sluice demo`. Owns the processes that it starts and
//! stops them when dropped; never touches a server that it did not start, and is no part of how a production node finds its
//! database.
//!
//! PostgreSQL refuses to run as root, so everything runs as an unprivileged account then (`postgres`, else `nobody`).

mod account;
mod programs;

use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use account::Account;
use programs::Programs;

/// How long a server may take to answer after its start.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// The name under which a standby streams; its primary waits for exactly this one when synchronous.
const STANDBY_NAME: &str = "sluice_standby";
/// The superuser and his database.
const SUPERUSER: &str = "sluice";

/// A server that can't be made, started or stopped: one sentence with what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ServerError(String);

impl ServerError {
    fn new(text: impl Into<String>) -> ServerError {
        ServerError(text.into())
    }
}

type Result<T> = std::result::Result<T, ServerError>;

/// How durable a scratch server has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// As in production: every commit is on disk when answered.
    Disk,
    /// Survives the death of its processes, not of the machine: quicker, for tests.
    Process,
}

/// A running (or stopped) PostgreSQL server with its own folder and port.
pub struct PostgresServer {
    programs: Programs,
    account: Option<Account>,
    folder: PathBuf,
    port: u16,
    password: String,
    durability: Durability,
    child: Option<Child>,
    /// The scratch folder goes with the server, if it was made for it.
    scratch: Option<PathBuf>,
}

impl std::fmt::Debug for PostgresServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresServer")
            .field("folder", &self.folder)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

impl PostgresServer {
    /// Makes and starts a server in a scratch folder that goes away with it: for tests.
    ///
    /// # Errors
    /// PostgreSQL is not installed or does not start; says what to do.
    pub fn temporary() -> Result<PostgresServer> {
        let folder = std::env::temp_dir().join(format!(
            "sluice-postgres-{}-{:016x}",
            std::process::id(),
            random()?
        ));
        let mut server = PostgresServer::create(&folder, Durability::Process)?;
        server.scratch = Some(folder);
        server.start()?;
        Ok(server)
    }

    /// A temporary server that all tests of a process share as long as one of them uses it: each makes its own
    /// [`Self::database`].
    ///
    /// # Errors
    /// As [`Self::temporary`].
    pub fn shared() -> Result<Arc<PostgresServer>> {
        static SHARED: Mutex<Weak<PostgresServer>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = shared.upgrade() {
            return Ok(server);
        }
        let server = Arc::new(PostgresServer::temporary()?);
        *shared = Arc::downgrade(&server);
        Ok(server)
    }

    /// Makes a server in `folder` (which must not exist yet); it is not running yet.
    ///
    /// # Errors
    /// PostgreSQL is not installed, or the folder can't be made.
    pub fn create(folder: &Path, durability: Durability) -> Result<PostgresServer> {
        let server = PostgresServer {
            programs: Programs::find()?,
            account: Account::needed()?,
            folder: folder.to_owned(),
            port: free_port()?,
            password: format!("{:016x}{:016x}", random()?, random()?),
            durability,
            child: None,
            scratch: None,
        };
        server.make_folder()?;
        server.initialise()?;
        Ok(server)
    }

    /// A server that was made in `folder` before; it is not running yet.
    ///
    /// # Errors
    /// PostgreSQL is not installed, or there is no server in the folder.
    pub fn existing(
        folder: &Path,
        durability: Durability,
        port: u16,
        password: &str,
    ) -> Result<PostgresServer> {
        let server = PostgresServer {
            programs: Programs::find()?,
            account: Account::needed()?,
            folder: folder.to_owned(),
            port,
            password: password.to_owned(),
            durability,
            child: None,
            scratch: None,
        };
        if server.folder.exists() {
            Ok(server)
        } else {
            Err(ServerError::new(format!(
                "there is no PostgreSQL server in {}",
                folder.display()
            )))
        }
    }

    fn make_folder(&self) -> Result<()> {
        let shown = self.folder.display();
        std::fs::create_dir_all(&self.folder).map_err(|error| {
            ServerError::new(format!("the folder {shown} can't be made: {error}"))
        })?;
        if let Some(account) = &self.account {
            std::os::unix::fs::chown(&self.folder, Some(account.uid), Some(account.gid)).map_err(
                |error| {
                    ServerError::new(format!(
                        "the folder {shown} can't be given to the account {}: {error}",
                        account.name
                    ))
                },
            )?;
        }
        std::fs::set_permissions(&self.folder, std::fs::Permissions::from_mode(0o700))
            .map_err(|error| ServerError::new(format!("the folder {shown}: {error}")))
    }

    fn initialise(&self) -> Result<()> {
        let password = self.folder.join("password");
        std::fs::File::create(&password)
            .and_then(|mut file| {
                file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
                writeln!(file, "{}", self.password)
            })
            .map_err(|error| {
                ServerError::new(format!("{} can't be written: {error}", password.display()))
            })?;
        let mut command = self.command("initdb");
        command
            .args(["--username", SUPERUSER, "--auth", "scram-sha-256"])
            .args(["--encoding", "UTF8", "--locale", "C", "--no-sync"])
            .arg("--pwfile")
            .arg(&password)
            .arg("-D")
            .arg(self.data());
        run(command)?;
        std::fs::remove_file(&password)
            .map_err(|error| ServerError::new(format!("{}: {error}", password.display())))
    }

    fn data(&self) -> PathBuf {
        data(&self.folder)
    }

    /// One of PostgreSQL's programs, as the right account, knowing the password.
    fn command(&self, program: &str) -> Command {
        let mut command = self.programs.command(program);
        if let Some(account) = &self.account {
            account.apply(&mut command);
        }
        command
            .current_dir(&self.folder)
            .env("PGPASSWORD", &self.password)
            .env("LC_ALL", "C")
            .stdin(Stdio::null());
        command
    }

    /// The URL of a node's `metadata` setting, password included.
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    fn url_of(&self, database: &str) -> String {
        format!(
            "postgres://{SUPERUSER}:{}@127.0.0.1:{}/{database}",
            self.password, self.port
        )
    }

    /// Makes an empty database of its own and returns its URL, so that many tests share one server.
    ///
    /// # Errors
    /// The server does not answer.
    pub fn database(&self) -> Result<String> {
        let name = format!("t{:016x}", random()?);
        self.sql(&format!("CREATE DATABASE {name}"))?;
        Ok(self.url_of(&name))
    }

    /// The file whose first line is the process id of the server in `folder` while that runs.
    pub fn pid_file(folder: &Path) -> PathBuf {
        data(folder).join("postmaster.pid")
    }

    /// The superuser's password.
    pub fn password(&self) -> &str {
        &self.password
    }

    /// Its TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Starts it and waits until it answers; nothing if it runs.
    ///
    /// # Errors
    /// It does not answer in time; the sentence holds the end of its log.
    pub fn start(&mut self) -> Result<()> {
        let begin = Instant::now();
        while begin.elapsed() < START_PATIENCE {
            if let Some(child) = &mut self.child
                && child.try_wait().is_ok_and(|status| status.is_none())
            {
                if self.answers() {
                    return Ok(());
                }
                std::thread::sleep(Duration::from_millis(50));
            } else {
                // A server that was killed leaves processes for a moment, during which the next one refuses to start.
                self.child = Some(self.spawn()?);
            }
        }
        Err(ServerError::new(format!(
            "PostgreSQL in {} did not start: {}",
            self.folder.display(),
            self.log_end()
        )))
    }

    fn spawn(&self) -> Result<Child> {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.join("log"))
            .map_err(|error| ServerError::new(format!("PostgreSQL's log: {error}")))?;
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data());
        for setting in self.settings() {
            command.arg("-c").arg(setting);
        }
        command
            // Ctrl-C at the terminal is for its owner, who stops the server when everybody has let go of it.
            .process_group(0)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|error| ServerError::new(format!("PostgreSQL can't be started: {error}")))
    }

    fn settings(&self) -> Vec<String> {
        let mut settings = vec![
            format!("port={}", self.port),
            "listen_addresses=127.0.0.1".to_owned(),
            format!("unix_socket_directories={}", self.folder.display()),
            "max_connections=200".to_owned(),
            "wal_level=replica".to_owned(),
            "max_wal_senders=4".to_owned(),
            "shared_buffers=64MB".to_owned(),
            "wal_receiver_timeout=3s".to_owned(),
            "wal_retrieve_retry_interval=200ms".to_owned(),
        ];
        if self.durability == Durability::Process {
            settings.push("fsync=off".to_owned());
        }
        settings
    }

    fn answers(&self) -> bool {
        self.psql("select 1").is_ok()
    }

    fn psql(&self, statement: &str) -> Result<String> {
        let mut command = self.command("psql");
        command
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"])
            .args(["-h", "127.0.0.1", "-U", SUPERUSER, "-d", "postgres"])
            .args(["-p", &self.port.to_string(), "-c", statement]);
        run(command)
    }

    /// Runs one statement as the superuser; what it printed.
    ///
    /// # Errors
    /// The server's own words.
    pub fn sql(&self, statement: &str) -> Result<String> {
        self.psql(statement)
    }

    fn log_end(&self) -> String {
        let text = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(5);
        lines.get(from..).unwrap_or_default().join("; ")
    }

    /// Stops it in order (its clients are cut off); nothing if it does not run.
    ///
    /// # Errors
    /// It does not stop.
    pub fn stop(&mut self) -> Result<()> {
        self.stop_how("fast")
    }

    fn stop_how(&mut self, how: &str) -> Result<()> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        let mut command = self.command("pg_ctl");
        command
            .args(["stop", "-w", "-m", how, "-D"])
            .arg(self.data());
        let asked = run(command);
        if asked.is_err() {
            // Already gone or deaf: either way it must not be left behind.
            let _ = child.kill();
        }
        child
            .wait()
            .map_err(|error| ServerError::new(format!("PostgreSQL: {error}")))?;
        Ok(())
    }

    /// Stops and starts it.
    ///
    /// # Errors
    /// As [`Self::stop`] and [`Self::start`].
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.start()
    }

    /// Kills the server as a crash would (SIGKILL).
    ///
    /// # Errors
    /// The process can't be killed.
    pub fn kill(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        child
            .kill()
            .and_then(|()| child.wait())
            .map_err(|error| ServerError::new(format!("PostgreSQL can't be killed: {error}")))?;
        Ok(())
    }

    /// Makes and starts a hot standby of this server in its own scratch folder.
    ///
    /// # Errors
    /// The copy or its start fails.
    pub fn standby(&self) -> Result<PostgresServer> {
        let folder = std::env::temp_dir().join(format!(
            "sluice-standby-{}-{:016x}",
            std::process::id(),
            random()?
        ));
        let mut standby = PostgresServer {
            programs: self.programs.clone(),
            account: self.account.clone(),
            folder: folder.clone(),
            port: free_port()?,
            password: self.password.clone(),
            durability: self.durability,
            child: None,
            scratch: Some(folder),
        };
        standby.make_folder()?;
        let mut command = standby.command("pg_basebackup");
        command
            .args(["-R", "-X", "stream", "-c", "fast", "--no-sync", "-d"])
            .arg(format!(
                "host=127.0.0.1 port={} user={SUPERUSER} application_name={STANDBY_NAME}",
                self.port
            ))
            .arg("-D")
            .arg(standby.data());
        run(command)?;
        standby.start()?;
        Ok(standby)
    }

    /// Whether commits wait for the standby from now on.
    ///
    /// # Errors
    /// The server does not answer.
    pub fn synchronous(&self, on: bool) -> Result<()> {
        let names = if on { STANDBY_NAME } else { "" };
        self.sql(&format!(
            "ALTER SYSTEM SET synchronous_standby_names = '{names}'"
        ))?;
        self.sql("SELECT pg_reload_conf()")?;
        let wanted = u8::from(on);
        self.until(&format!(
            "SELECT CASE WHEN count(*) = {wanted} THEN 1 ELSE 0 END FROM pg_stat_replication WHERE sync_state = 'sync'"
        ))
    }

    /// A standby stops receiving what its primary commits (an asynchronous one loses it when promoted).
    ///
    /// # Errors
    /// The server does not answer.
    pub fn cut_replication(&self) -> Result<()> {
        self.sql("ALTER SYSTEM SET primary_conninfo = ''")?;
        self.sql("SELECT pg_reload_conf()")?;
        self.until("SELECT 1 - count(*) FROM pg_stat_wal_receiver")
    }

    /// Makes a standby a primary.
    ///
    /// # Errors
    /// The server does not answer, or is no standby.
    pub fn promote(&self) -> Result<()> {
        self.sql("SELECT pg_promote(true, 30)")?;
        self.until("SELECT CASE WHEN pg_is_in_recovery() THEN 0 ELSE 1 END")
    }

    /// Changes places with another server: clients of this one's port now reach `other`'s data, as after a fail-over behind one
    /// address. Both must be stopped.
    pub fn exchange_ports(&mut self, other: &mut PostgresServer) {
        std::mem::swap(&mut self.port, &mut other.port);
    }

    fn until(&self, question: &str) -> Result<()> {
        let begin = Instant::now();
        while begin.elapsed() < START_PATIENCE {
            if self.sql(question)?.trim() == "1" {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(ServerError::new(format!(
            "PostgreSQL never answered 1 to {question}"
        )))
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        // Nothing more can be done about a failure here.
        let _ = self.stop_how(if self.scratch.is_some() {
            "immediate"
        } else {
            "fast"
        });
        if let Some(folder) = self.scratch.take() {
            remove(&folder);
        }
    }
}

/// Where a server in `folder` has its files.
fn data(folder: &Path) -> PathBuf {
    folder.join("data")
}

/// Orphaned server processes of a killed server may still write for a moment.
fn remove(folder: &Path) {
    for _ in 0..50 {
        if std::fs::remove_dir_all(folder).is_ok() || !folder.exists() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn run(mut command: Command) -> Result<String> {
    let program = Path::new(command.get_program())
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let output = command
        .output()
        .map_err(|error| ServerError::new(format!("{program} can't be run: {error}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(ServerError::new(format!(
        "{program} failed: {}",
        String::from_utf8_lossy(&output.stderr)
            .trim()
            .replace('\n', "; ")
    )))
}

/// A port below the range from which the system takes ports of outgoing connections, so that it is still free after a restart.
fn free_port() -> Result<u16> {
    for _ in 0..200 {
        let port = 30_000 + u16::try_from(random()? % 2_700).unwrap_or_default();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    Err(ServerError::new(
        "no free TCP port between 30000 and 32700 on 127.0.0.1",
    ))
}

fn random() -> Result<u64> {
    let mut bytes = [0; 8];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes))
        .map_err(|error| ServerError::new(format!("/dev/urandom: {error}")))?;
    Ok(u64::from_le_bytes(bytes))
}
