//! What a traced process did to its files: `strace -ff -ttt -T -y -xx` output, one file a thread, as one list in order of time.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// Calls that change files, make changes durable, or move the place where a file is written next.
const CALLS: &str = "openat,open,creat,write,writev,pwrite64,pwritev,pwritev2,ftruncate,truncate,fallocate,fsync,\
     fdatasync,sync_file_range,rename,renameat,renameat2,unlink,unlinkat,link,linkat,mkdir,mkdirat,rmdir,\
     copy_file_range,sendfile,splice,lseek";

/// What to put before a command so that its calls come to be in files that begin with `prefix`.
pub fn tracer(prefix: &Path) -> Vec<String> {
    let words = [
        "strace", "-D", "-ff", "-ttt", "-T", "-y", "-xx", "-s", "99999999", "-e",
    ];
    let mut words: Vec<String> = words.map(String::from).into();
    words.extend([
        format!("trace={CALLS}"),
        "-o".into(),
        prefix.display().to_string(),
    ]);
    words
}

/// One call that succeeded.
#[derive(Debug)]
pub struct Event {
    /// Microseconds since 1970 when it began.
    pub begun: u64,
    /// And when it had ended.
    pub ended: u64,
    /// What it did.
    pub call: Call,
}

/// See [`Event`]. Offsets and lengths in bytes.
#[derive(Debug)]
pub enum Call {
    /// A file that may be new, or is emptied.
    Open { path: PathBuf, truncate: bool },
    /// Bytes in a file.
    Write {
        path: PathBuf,
        at: u64,
        bytes: Vec<u8>,
    },
    /// The length of a file.
    Truncate { path: PathBuf, length: u64 },
    /// A file at least so long.
    Room { path: PathBuf, end: u64 },
    /// Zeros in a file, which becomes no longer.
    Hole { path: PathBuf, at: u64, length: u64 },
    /// A file or folder made durable.
    Sync(PathBuf),
    /// Another name.
    Rename { from: PathBuf, to: PathBuf },
    /// One name more.
    Link { from: PathBuf, to: PathBuf },
    /// A name taken away.
    Unlink(PathBuf),
    /// A new folder.
    MakeFolder(PathBuf),
    /// A folder taken away.
    RemoveFolder(PathBuf),
}

/// One line, taken apart.
struct Line {
    begun: u64,
    ended: u64,
    name: String,
    args: Vec<String>,
    result: String,
}

/// All calls of the process on files below `root`.
pub fn read(prefix: &Path, root: &Path) -> anyhow::Result<Vec<Event>> {
    let folder = prefix.parent().context("a folder")?;
    let stem = format!("{}.", prefix.file_name().context("a name")?.display());
    let mut lines = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&stem) {
            let text = std::fs::read_to_string(entry.path())?;
            lines.extend(text.lines().filter_map(take_apart));
        }
    }
    lines.sort_by_key(|line| line.ended);
    let mut places = Places::default();
    let mut events = Vec::new();
    for line in &lines {
        if let Some(call) = places.understand(line, root)? {
            let (begun, ended) = (line.begun, line.ended);
            events.push(Event { begun, ended, call });
        }
    }
    Ok(events)
}

/// `time name(args) = result <duration>`; `None` for a call that failed or did not end.
fn take_apart(line: &str) -> Option<Line> {
    let (begun, rest) = line.split_once(' ')?;
    let (name, rest) = rest.split_once('(')?;
    let (rest, lasted) = rest.strip_suffix('>')?.rsplit_once(" <")?;
    let (args, result) = rest.rsplit_once(" = ")?;
    if result.starts_with('-') || result.starts_with('?') {
        return None;
    }
    let begun = micros(begun)?;
    Some(Line {
        begun,
        ended: begun + micros(lasted)?,
        name: name.into(),
        // Texts and paths are written in hexadecimal, so that a comma always ends an argument.
        args: args
            .trim_end()
            .strip_suffix(')')?
            .split(", ")
            .map(String::from)
            .collect(),
        result: result.into(),
    })
}

fn micros(text: &str) -> Option<u64> {
    let (seconds, fraction) = text.split_once('.')?;
    Some(seconds.parse::<u64>().ok()? * 1_000_000 + fraction.parse::<u64>().ok()?)
}

/// Where each open file is written next, by descriptor and path.
#[derive(Default)]
struct Places(HashMap<String, (u64, bool)>);

impl Places {
    fn understand(&mut self, line: &Line, root: &Path) -> anyhow::Result<Option<Call>> {
        let arg = |at: usize| line.args.get(at).map_or("", String::as_str);
        let below = |path: PathBuf| path.starts_with(root).then_some(path);
        let of_descriptor = |at: usize| described(arg(at)).and_then(below);
        let call = match line.name.as_str() {
            "open" | "openat" | "creat" => {
                let flags = if line.name == "openat" {
                    arg(2)
                } else {
                    arg(1)
                };
                let Some(path) = described(&line.result).and_then(below) else {
                    return Ok(None);
                };
                let append = flags.contains("O_APPEND");
                self.0.insert(line.result.clone(), (0, append));
                let truncate = flags.contains("O_TRUNC");
                let opened = flags.contains("O_CREAT") || truncate;
                opened.then_some(Call::Open { path, truncate })
            }
            "lseek" => {
                if of_descriptor(0).is_some() {
                    let place = self.0.entry(arg(0).into()).or_default();
                    place.0 = line.result.parse()?;
                }
                None
            }
            "write" | "writev" | "pwrite64" | "pwritev" | "pwritev2" => {
                let Some(path) = of_descriptor(0) else {
                    return Ok(None);
                };
                let (at, bytes) = self.written(line)?;
                Some(Call::Write { path, at, bytes })
            }
            "ftruncate" => of_descriptor(0)
                .map(|path| {
                    anyhow::Ok(Call::Truncate {
                        path,
                        length: arg(1).parse()?,
                    })
                })
                .transpose()?,
            "fallocate" => {
                let (at, length): (u64, u64) = (arg(2).parse()?, arg(3).parse()?);
                let path = of_descriptor(0);
                match arg(1) {
                    "0" => path.map(|path| Call::Room {
                        path,
                        end: at + length,
                    }),
                    "FALLOC_FL_KEEP_SIZE|FALLOC_FL_PUNCH_HOLE" => {
                        path.map(|path| Call::Hole { path, at, length })
                    }
                    // Room alone changes nothing that is read.
                    "FALLOC_FL_KEEP_SIZE" => None,
                    other => bail!("this test can't replay fallocate with {other}"),
                }
            }
            "fsync" | "fdatasync" => of_descriptor(0).map(Call::Sync),
            "rename" => named(arg(0), None)
                .and_then(below)
                .zip(named(arg(1), None))
                .map(|(from, to)| Call::Rename { from, to }),
            "renameat" | "renameat2" => named(arg(1), described(arg(0)))
                .and_then(below)
                .zip(named(arg(3), described(arg(2))))
                .map(|(from, to)| Call::Rename { from, to }),
            "link" => named(arg(0), None)
                .and_then(below)
                .zip(named(arg(1), None))
                .map(|(from, to)| Call::Link { from, to }),
            "linkat" => named(arg(1), described(arg(0)))
                .and_then(below)
                .zip(named(arg(3), described(arg(2))))
                .map(|(from, to)| Call::Link { from, to }),
            "unlink" => named(arg(0), None).and_then(below).map(Call::Unlink),
            "unlinkat" => named(arg(1), described(arg(0)))
                .and_then(below)
                .map(|path| {
                    if arg(2).contains("AT_REMOVEDIR") {
                        Call::RemoveFolder(path)
                    } else {
                        Call::Unlink(path)
                    }
                }),
            "mkdir" => named(arg(0), None).and_then(below).map(Call::MakeFolder),
            "mkdirat" => named(arg(1), described(arg(0)))
                .and_then(below)
                .map(Call::MakeFolder),
            "rmdir" => named(arg(0), None).and_then(below).map(Call::RemoveFolder),
            name => {
                // Bytes that go into a file on a way that this does not follow.
                let touched = line
                    .args
                    .iter()
                    .any(|arg| described(arg).and_then(below).is_some());
                if touched && !(name == "sendfile" && of_descriptor(0).is_none()) {
                    bail!("the process used {name} on its files, which this test can't replay");
                }
                None
            }
        };
        Ok(call)
    }

    /// Where a write went, and the bytes that were taken.
    fn written(&mut self, line: &Line) -> anyhow::Result<(u64, Vec<u8>)> {
        let taken: usize = line.result.parse()?;
        let mut bytes = Vec::new();
        for arg in &line.args {
            let text = arg.trim_start_matches(['[', '{']);
            let text = text.strip_prefix("iov_base=").unwrap_or(text);
            if text.starts_with('"') {
                bytes.extend(unquoted(text).context("a text in hexadecimal")?);
            }
        }
        bytes.truncate(taken);
        let at = match line.name.as_str() {
            "pwrite64" => line.args[3].parse()?,
            "pwritev" => line.args[line.args.len() - 1].parse()?,
            "pwritev2" => line.args[line.args.len() - 2].parse()?,
            _ => {
                let (place, append) = self.0.entry(line.args[0].clone()).or_default();
                let at = if *append { u64::MAX } else { *place };
                *place += taken as u64;
                at
            }
        };
        Ok((at, bytes))
    }
}

/// The path in `7<\x2f...>`; `None` for what has none, or none any more.
fn described(text: &str) -> Option<PathBuf> {
    let (_, hex) = text.strip_suffix('>')?.split_once('<')?;
    let path = PathBuf::from(String::from_utf8(bytes_of(hex)?).ok()?);
    path.is_absolute().then_some(path)
}

/// The path in `"\x2f..."`.
fn named(text: &str, folder: Option<PathBuf>) -> Option<PathBuf> {
    let path = PathBuf::from(String::from_utf8(unquoted(text)?).ok()?);
    Some(folder.map_or_else(|| path.clone(), |folder| folder.join(&path)))
}

fn unquoted(text: &str) -> Option<Vec<u8>> {
    bytes_of(text.strip_prefix('"')?.split_once('"')?.0)
}

fn bytes_of(hex: &str) -> Option<Vec<u8>> {
    hex.split("\\x")
        .skip(1)
        .map(|byte| u8::from_str_radix(byte, 16).ok())
        .collect()
}
