//! What a node prints when it starts: how to connect, ready to paste, and once the administrator's password.

use std::fmt::Write;
use std::net::SocketAddr;

use sluice_config::Settings;

/// The lines for stdout.
pub fn text(settings: &Settings, first_password: Option<&str>) -> String {
    let mut out = String::new();
    let user = "admin";
    let _ = writeln!(out, "sluice: node {} is ready", settings.node.name);
    if let Some(password) = first_password {
        let _ = writeln!(
            out,
            "\nFirst start: user \"{user}\" with password {password}\n(shown once; change it with: sluice user passwd {user})"
        );
    }
    let _ = writeln!(out, "\nConnect to the share \"docs\":");
    if let Some((host, port)) = settings.smb.as_ref().and_then(|smb| first(&smb.listen)) {
        let _ = writeln!(
            out,
            "  Windows      net use S: \\\\{host}\\docs /user:{user}{}",
            windows_port(port)
        );
        let _ = writeln!(out, "  macOS        open 'smb://{user}@{host}:{port}/docs'");
        let _ = writeln!(
            out,
            "  Linux        sudo mount -t cifs //{host}/docs /mnt -o port={port},user={user}"
        );
        let _ = writeln!(
            out,
            "               smbclient //{host}/docs -p {port} -U {user}"
        );
    }
    if let Some((host, port)) = settings.nfs.as_ref().and_then(|nfs| first(&nfs.listen)) {
        let _ = writeln!(
            out,
            "  Linux NFS    sudo mount -t nfs {host}:/docs /mnt -o vers=3,tcp,port={port},mountport={port},nolock"
        );
        let _ = writeln!(
            out,
            "  macOS NFS    sudo mount -t nfs -o vers=3,tcp,port={port},mountport={port},nolocks {host}:/docs /mnt"
        );
    }
    if let Some((host, port)) = settings.ftp.as_ref().and_then(|ftp| first(&ftp.listen)) {
        let _ = writeln!(
            out,
            "  FTP          lftp -u {user} -p {port} {host}    then: cd docs"
        );
        let _ = writeln!(
            out,
            "               curl -u {user} -T FILE ftp://{host}:{port}/docs/"
        );
    }
    if let Some((host, port)) = settings
        .admin
        .as_ref()
        .and_then(|admin| first(&admin.listen))
    {
        let _ = writeln!(
            out,
            "  Admin        curl http://{host}:{port}/readyz    (also /healthz, /metrics)"
        );
    }
    out
}

/// The first address to tell people; an address that means "all" is told as this machine's loopback.
fn first(listen: &[SocketAddr]) -> Option<(String, u16)> {
    let address = listen.first()?;
    let host = match address.ip() {
        ip if ip.is_unspecified() => "127.0.0.1".to_owned(),
        std::net::IpAddr::V6(ip) => format!("[{ip}]"),
        ip => ip.to_string(),
    };
    Some((host, address.port()))
}

/// Windows before 11 24H2 can only use port 445; newer ones take the port as an option.
fn windows_port(port: u16) -> String {
    if port == 445 {
        String::new()
    } else {
        format!(" /TCPPORT:{port}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_shown_only_when_given_and_every_head_has_a_line() {
        let settings = Settings::embedded("x".into());
        let first = text(&settings, Some("secret-word"));
        assert!(first.contains("secret-word"));
        for word in ["net use", "mount -t cifs", "mount -t nfs", "lftp", "curl"] {
            assert!(first.contains(word), "{word} is missing");
        }
        assert!(!text(&settings, None).contains("First start"));
    }
}
