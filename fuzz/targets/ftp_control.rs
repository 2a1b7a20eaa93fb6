//! An FTP control connection as a stranger sends it: Telnet sequences, lines, commands; then listings' wildcards and both text
//! conversions on the same bytes.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use sluice_ftp::codec::ascii::{FromNetwork, ToNetwork};
use sluice_ftp::codec::command::{Command, parse};
use sluice_ftp::codec::glob;
use sluice_ftp::codec::line::{LINE_BYTES_MAX, LineDecoder, LineEvent};

fuzz_target!(|data: &[u8]| {
    let (mut decoder, mut input) = (LineDecoder::default(), BytesMut::from(data));
    while let Some(event) = decoder.next(&mut input) {
        let LineEvent::Line(line) = event else { continue };
        assert!(line.len() <= LINE_BYTES_MAX);
        if let Ok(Command::Nlst(argument) | Command::List(argument)) = parse(&line) {
            let (pattern, name) = argument.split_once('/').unwrap_or((&argument, &argument));
            let _ = glob::matches(pattern, name);
        }
    }
    let (mut stored, mut wire, mut back) = (BytesMut::new(), BytesMut::new(), BytesMut::new());
    let mut from = FromNetwork::default();
    from.convert(data, &mut stored);
    from.finish(&mut stored);
    assert!(stored.len() <= data.len());
    ToNetwork::default().convert(&stored, &mut wire);
    let mut again = FromNetwork::default();
    again.convert(&wire, &mut back);
    again.finish(&mut back);
    assert!(wire.len() <= 2 * stored.len() && back.len() <= stored.len());
});
