//! Headers as balancers send them, and as they must not be believed.

use proptest::prelude::*;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::*;
use crate::header::{FIXED_LEN, decode, rest_len};

fn header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    bytes.extend([command, family]);
    bytes.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    bytes.extend(body);
    bytes
}

const IPV4: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 9, 0xc0, 1, 0x01, 0xbd];

/// What a server that believes loopback makes of these bytes, and what is left on the stream.
async fn served(bytes: &[u8], proxies: &Proxies) -> (Result<Ends, ProxyError>, Vec<u8>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let (mut stream, peer) = listener.accept().await.unwrap();
    client.write_all(bytes).await.unwrap();
    drop(client);
    let ends = proxies.ends(&mut stream, peer).await;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap_or_default();
    (ends, rest)
}

fn loopback() -> Proxies {
    Proxies::new(["127.0.0.0/8".parse().unwrap()])
}

#[tokio::test]
async fn a_balancer_names_its_client_and_the_next_byte_is_the_clients() {
    let mut body = IPV4.to_vec();
    // A TLV that nobody knows is skipped.
    body.extend([0xea, 0, 3, 1, 2, 3]);
    let mut bytes = header(0x21, 0x11, &body);
    bytes.extend(b"USER anna\r\n");
    let (ends, rest) = served(&bytes, &loopback()).await;
    let ends = ends.unwrap();
    assert_eq!(ends.client, "192.0.2.7:49153".parse().unwrap());
    assert_eq!(ends.called, Some("198.51.100.9:445".parse().unwrap()));
    assert_eq!(rest, b"USER anna\r\n");
}

#[tokio::test]
async fn a_stranger_is_not_believed() {
    let bytes = header(0x21, 0x11, &IPV4);
    let strict = Proxies::new(["192.0.2.0/24".parse().unwrap()]);
    let (ends, rest) = served(&bytes, &strict).await;
    assert!(ends.unwrap().client.ip().is_loopback());
    assert_eq!(rest, bytes, "nothing was taken off the stream");
}

#[tokio::test]
async fn a_balancer_without_a_header_is_dropped() {
    let (ends, _) = served(b"GET / HTTP/1.1\r\nHost: example\r\n\r\n", &loopback()).await;
    assert!(matches!(
        ends,
        Err(ProxyError::Header(BadHeader::Signature))
    ));
    let (ends, _) = served(&header(0x21, 0x11, &IPV4)[..20], &loopback()).await;
    assert!(matches!(ends, Err(ProxyError::Io(_))));
}

#[tokio::test]
async fn a_health_check_is_the_balancer_itself() {
    let (ends, _) = served(&header(0x20, 0x00, &[]), &loopback()).await;
    assert!(ends.unwrap().client.ip().is_loopback());
}

#[test]
fn version_6_addresses_and_unknown_families() {
    let mut body = [0_u8; 36];
    body[15] = 1;
    body[31] = 2;
    body[35] = 21;
    let bytes = header(0x21, 0x21, &body);
    let fixed = *bytes.first_chunk::<FIXED_LEN>().unwrap();
    assert_eq!(
        decode(&fixed, &body),
        Ok(Announced::Client {
            client: "[::1]:0".parse().unwrap(),
            called: "[::2]:21".parse().unwrap()
        })
    );
    let unix = header(0x21, 0x31, &[]);
    let fixed = *unix.first_chunk::<FIXED_LEN>().unwrap();
    assert_eq!(decode(&fixed, &[]), Ok(Announced::Direct));
}

#[test]
fn lengths_are_bounded() {
    let mut bytes = header(0x21, 0x11, &IPV4);
    bytes[14] = 0xff;
    let fixed = *bytes.first_chunk::<FIXED_LEN>().unwrap();
    assert!(matches!(rest_len(&fixed), Err(BadHeader::TooLong(_))));
    let short = header(0x21, 0x11, &IPV4[..11]);
    let fixed = *short.first_chunk::<FIXED_LEN>().unwrap();
    assert_eq!(decode(&fixed, &IPV4[..11]), Err(BadHeader::TooShort));
    let old = header(0x11, 0x11, &IPV4);
    let fixed = *old.first_chunk::<FIXED_LEN>().unwrap();
    assert_eq!(rest_len(&fixed), Err(BadHeader::Command(0x11)));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(fixed in any::<[u8; FIXED_LEN]>(), body in proptest::collection::vec(any::<u8>(), 0..80)) {
        let _ = rest_len(&fixed);
        let _ = decode(&fixed, &body);
    }
}
