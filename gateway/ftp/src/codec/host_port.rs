//! Addresses in FTP's forms: PORT and the 227 reply (RFC 959 4.1.2), EPRT, EPSV and the 229 reply (RFC 2428).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Why an EPRT argument was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EprtError {
    /// Not of the form `|1|host|port|`.
    Syntax,
    /// A network protocol number other than 1 (IPv4) and 2 (IPv6).
    Family,
}

/// Argument of EPSV (RFC 2428 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EpsvArgument {
    /// None: the control connection's family.
    Any,
    /// `1`.
    V4,
    /// `2`.
    V6,
    /// `ALL`: from now on only EPSV opens data connections.
    All,
    /// Another family number.
    OtherFamily,
}

/// Reads `h1,h2,h3,h4,p1,p2`.
pub fn parse_port(argument: &str) -> Option<SocketAddr> {
    let mut numbers = [0_u8; 6];
    let mut parts = argument.trim().split(',');
    for number in &mut numbers {
        let part = parts.next()?.trim();
        if part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        *number = part.parse().ok()?;
    }
    if parts.next().is_some() {
        return None;
    }
    let [a, b, c, d, high, low] = numbers;
    let port = u16::from_be_bytes([high, low]);
    Some(SocketAddr::from((Ipv4Addr::new(a, b, c, d), port)))
}

/// Reads `|family|host|port|` with any printable delimiter.
///
/// # Errors
/// [`EprtError`] says which reply is due.
pub fn parse_eprt(argument: &str) -> Result<SocketAddr, EprtError> {
    let argument = argument.trim();
    let delimiter = argument
        .chars()
        .next()
        .filter(|c| c.is_ascii_graphic())
        .ok_or(EprtError::Syntax)?;
    let mut parts = argument.split(delimiter).skip(1);
    let mut part = || parts.next().ok_or(EprtError::Syntax);
    let (family, host, port) = (part()?, part()?, part()?);
    if !part()?.is_empty() {
        return Err(EprtError::Syntax);
    }
    let port: u16 = port.parse().map_err(|_| EprtError::Syntax)?;
    let host: IpAddr = match family {
        "1" => IpAddr::V4(host.parse().map_err(|_| EprtError::Syntax)?),
        "2" => IpAddr::V6(host.parse().map_err(|_| EprtError::Syntax)?),
        other if other.bytes().all(|b| b.is_ascii_digit()) && !other.is_empty() => {
            return Err(EprtError::Family);
        }
        _ => return Err(EprtError::Syntax),
    };
    Ok(SocketAddr::from((host, port)))
}

/// Reads EPSV's argument; `None` is a syntax error.
pub fn parse_epsv(argument: &str) -> Option<EpsvArgument> {
    match argument.trim() {
        "" => Some(EpsvArgument::Any),
        "1" => Some(EpsvArgument::V4),
        "2" => Some(EpsvArgument::V6),
        all if all.eq_ignore_ascii_case("ALL") => Some(EpsvArgument::All),
        other if other.bytes().all(|b| b.is_ascii_digit()) => Some(EpsvArgument::OtherFamily),
        _ => None,
    }
}

/// The numbers of a 227 reply.
pub fn format_pasv(host: Ipv4Addr, port: u16) -> String {
    let [a, b, c, d] = host.octets();
    let [high, low] = port.to_be_bytes();
    format!("({a},{b},{c},{d},{high},{low})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn port_takes_six_octets_and_nothing_else() {
        assert_eq!(
            parse_port("127,0,0,1,8,1"),
            Some(SocketAddr::from(([127, 0, 0, 1], 2049)))
        );
        for bad in [
            "",
            "1,2,3,4,5",
            "1,2,3,4,5,6,7",
            "256,0,0,1,1,1",
            "1,2,3,4,5,",
            "+1,2,3,4,5,6",
        ] {
            assert_eq!(parse_port(bad), None, "{bad}");
        }
    }

    #[test]
    fn eprt_tells_a_foreign_family_from_bad_syntax() {
        assert_eq!(
            parse_eprt("|2|::1|5000|"),
            Ok(SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, 5000)))
        );
        assert_eq!(
            parse_eprt("!1!10.0.0.1!80!"),
            Ok(SocketAddr::from(([10, 0, 0, 1], 80)))
        );
        assert_eq!(parse_eprt("|3|x|1|"), Err(EprtError::Family));
        for bad in [
            "",
            "|",
            "|1|::1|5|",
            "|1|1.2.3.4|5",
            "|1|1.2.3.4|5|x",
            "|1|1.2.3.4|99999|",
        ] {
            assert_eq!(parse_eprt(bad), Err(EprtError::Syntax), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_argument_panics(text in any::<String>()) {
            let _ = (parse_port(&text), parse_eprt(&text), parse_epsv(&text));
        }

        #[test]
        fn a_227_reply_is_read_back_by_port(host in any::<[u8; 4]>(), port in any::<u16>()) {
            let text = format_pasv(Ipv4Addr::from(host), port);
            let inner = text.trim_matches(['(', ')']);
            prop_assert_eq!(parse_port(inner), Some(SocketAddr::from((host, port))));
        }
    }
}
