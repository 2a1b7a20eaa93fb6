//! An FTP client: passive mode, binary, explicit steps so that a test can stop half way.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, ensure};

/// One control connection, logged in.
pub struct FtpClient {
    control: BufReader<TcpStream>,
    host: String,
}

/// A reply: its code and its text, all lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Three digits.
    pub code: u16,
    /// All lines.
    pub text: String,
}

impl FtpClient {
    /// Connects and logs in, binary mode.
    pub fn connect(address: &str, user: &str, password: &str) -> anyhow::Result<FtpClient> {
        let stream = TcpStream::connect(address).with_context(|| format!("FTP at {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let host = stream.peer_addr()?.ip().to_string();
        let mut client = FtpClient {
            control: BufReader::new(stream),
            host,
        };
        client.reply()?;
        client.command(&format!("USER {user}"))?;
        let login = client.command(&format!("PASS {password}"))?;
        ensure!(login.code == 230, "login: {}", login.text);
        client.command("TYPE I")?;
        Ok(client)
    }

    /// Sends a command and waits for its reply.
    pub fn command(&mut self, line: &str) -> anyhow::Result<Reply> {
        self.send(line)?;
        self.reply()
    }

    /// Sends a command only.
    pub fn send(&mut self, line: &str) -> anyhow::Result<()> {
        self.control
            .get_mut()
            .write_all(format!("{line}\r\n").as_bytes())?;
        Ok(())
    }

    /// Waits for one reply.
    pub fn reply(&mut self) -> anyhow::Result<Reply> {
        let mut text = String::new();
        loop {
            let mut line = String::new();
            ensure!(
                self.control.read_line(&mut line)? > 0,
                "the control connection ended"
            );
            let last = line.len() >= 4
                && line.as_bytes()[3] == b' '
                && line.as_bytes()[..3].iter().all(u8::is_ascii_digit);
            text.push_str(&line);
            if last {
                let code = line[..3].parse()?;
                return Ok(Reply { code, text });
            }
        }
    }

    /// Opens a data connection (EPSV).
    pub fn passive(&mut self) -> anyhow::Result<TcpStream> {
        let reply = self.command("EPSV")?;
        ensure!(reply.code == 229, "EPSV: {}", reply.text);
        let port: u16 = reply
            .text
            .split("|||")
            .nth(1)
            .and_then(|rest| rest.split('|').next())
            .context("EPSV reply")?
            .parse()?;
        let data = TcpStream::connect((self.host.as_str(), port))?;
        data.set_nodelay(true)?;
        data.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(data)
    }

    /// Begins an upload (STOR, APPE): the data connection if the server agreed, else its refusal.
    pub fn begin(&mut self, verb: &str, path: &str) -> anyhow::Result<Result<TcpStream, Reply>> {
        let data = self.passive()?;
        let reply = self.command(&format!("{verb} {path}"))?;
        Ok(if reply.code == 150 || reply.code == 125 {
            Ok(data)
        } else {
            Err(reply)
        })
    }

    /// Uploads; the final reply.
    pub fn store(&mut self, path: &str, bytes: &[u8]) -> anyhow::Result<Reply> {
        match self.begin("STOR", path)? {
            Ok(mut data) => {
                // A server that refuses half way closes the data connection; its reply says why.
                let sent = data
                    .write_all(bytes)
                    .and_then(|()| data.shutdown(std::net::Shutdown::Write));
                drop(data);
                let reply = self.reply()?;
                ensure!(
                    sent.is_ok() || reply.code >= 400,
                    "the data connection broke but the reply is {}",
                    reply.text
                );
                Ok(reply)
            }
            Err(reply) => Ok(reply),
        }
    }

    /// Appends: the final reply once bytes were sent, or the refusal before that.
    pub fn append(&mut self, path: &str, bytes: &[u8]) -> anyhow::Result<Result<Reply, Reply>> {
        match self.begin("APPE", path)? {
            Ok(mut data) => {
                data.write_all(bytes)?;
                data.shutdown(std::net::Shutdown::Write)?;
                drop(data);
                Ok(Ok(self.reply()?))
            }
            Err(reply) => Ok(Err(reply)),
        }
    }

    /// Downloads: the bytes, or the refusal.
    pub fn retrieve(&mut self, path: &str) -> anyhow::Result<Result<Vec<u8>, Reply>> {
        match self.begin("RETR", path)? {
            Ok(mut data) => {
                let mut bytes = Vec::new();
                data.read_to_end(&mut bytes)?;
                let reply = self.reply()?;
                Ok(if reply.code == 226 {
                    Ok(bytes)
                } else {
                    Err(reply)
                })
            }
            Err(reply) => Ok(Err(reply)),
        }
    }

    /// MLSD: the listing's lines.
    pub fn list(&mut self, path: &str) -> anyhow::Result<Vec<String>> {
        let mut data = match self.begin("MLSD", path)? {
            Ok(data) => data,
            Err(reply) => anyhow::bail!("MLSD: {}", reply.text),
        };
        let mut text = String::new();
        data.read_to_string(&mut text)?;
        let reply = self.reply()?;
        ensure!(reply.code == 226, "MLSD: {}", reply.text);
        Ok(text.lines().map(str::to_owned).collect())
    }
}
