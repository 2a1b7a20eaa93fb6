//! Splits the control connection's bytes into command lines (RFC 959 5.3.1) and takes Telnet's control sequences out of them
//! (RFC 854; RFC 1123 4.1.2.10). A line is at most [`LINE_BYTES_MAX`] long; a longer one is reported and skipped, never stored.

use bytes::{Buf, BytesMut};

/// Longest command line in bytes, line end not counted.
pub const LINE_BYTES_MAX: usize = 8 * 1024;

const IAC: u8 = 255;
const DONT: u8 = 254;
const DO: u8 = 253;
const WONT: u8 = 252;
const WILL: u8 = 251;
/// The lowest Telnet command (SE); anything below after an IAC is data whose command byte got lost as urgent data.
const TELNET_COMMAND_FIRST: u8 = 240;

/// One thing found in the byte stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LineEvent {
    /// A complete line without its end.
    Line(Vec<u8>),
    /// A line over the limit ended here; it was dropped.
    TooLong,
    /// The peer proposed a Telnet option; these three bytes refuse it (RFC 1123 4.1.2.12).
    RefuseOption([u8; 3]),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Telnet {
    Data,
    Command,
    Option(u8),
}

/// The decoder of one control connection. State survives between reads, so bytes may come in any pieces.
#[derive(Debug)]
pub struct LineDecoder {
    line: Vec<u8>,
    telnet: Telnet,
    after_cr: bool,
    overlong: bool,
}

impl Default for LineDecoder {
    fn default() -> Self {
        LineDecoder {
            line: Vec::new(),
            telnet: Telnet::Data,
            after_cr: false,
            overlong: false,
        }
    }
}

impl LineDecoder {
    /// Takes bytes from the front of `input` until something is complete; `None` when all bytes are used up.
    pub fn next(&mut self, input: &mut BytesMut) -> Option<LineEvent> {
        while input.has_remaining() {
            let byte = input.get_u8();
            if let Some(event) = self.take(byte) {
                return Some(event);
            }
        }
        None
    }

    fn take(&mut self, byte: u8) -> Option<LineEvent> {
        match self.telnet {
            Telnet::Data if byte == IAC => {
                self.telnet = Telnet::Command;
                None
            }
            Telnet::Data => self.data(byte),
            Telnet::Command => {
                self.telnet = Telnet::Data;
                match byte {
                    IAC => self.data(IAC),
                    WILL..=DONT => {
                        self.telnet = Telnet::Option(byte);
                        None
                    }
                    TELNET_COMMAND_FIRST.. => None,
                    data => self.data(data),
                }
            }
            Telnet::Option(verb) => {
                self.telnet = Telnet::Data;
                match verb {
                    DO => Some(LineEvent::RefuseOption([IAC, WONT, byte])),
                    WILL => Some(LineEvent::RefuseOption([IAC, DONT, byte])),
                    _ => None,
                }
            }
        }
    }

    fn data(&mut self, byte: u8) -> Option<LineEvent> {
        if self.after_cr {
            self.after_cr = false;
            match byte {
                b'\n' => return Some(self.end()),
                // CR NUL is a bare carriage return (RFC 2640 3.1).
                0 => {
                    self.store(b'\r');
                    return None;
                }
                _ => self.store(b'\r'),
            }
        }
        match byte {
            b'\r' => {
                self.after_cr = true;
                None
            }
            b'\n' => Some(self.end()),
            _ => {
                self.store(byte);
                None
            }
        }
    }

    fn store(&mut self, byte: u8) {
        if self.line.len() < LINE_BYTES_MAX {
            self.line.push(byte);
        } else {
            self.overlong = true;
        }
    }

    fn end(&mut self) -> LineEvent {
        let line = std::mem::take(&mut self.line);
        if std::mem::take(&mut self.overlong) {
            LineEvent::TooLong
        } else {
            LineEvent::Line(line)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn events(decoder: &mut LineDecoder, bytes: &[u8]) -> Vec<LineEvent> {
        let mut input = BytesMut::from(bytes);
        std::iter::from_fn(|| decoder.next(&mut input)).collect()
    }

    fn line(text: &str) -> LineEvent {
        LineEvent::Line(text.as_bytes().to_vec())
    }

    #[test]
    fn lines_end_with_crlf_or_a_bare_lf() {
        let got = events(&mut LineDecoder::default(), b"NOOP\r\nPWD\nQU");
        assert_eq!(got, vec![line("NOOP"), line("PWD")]);
    }

    #[test]
    fn telnet_interrupt_and_synch_before_abor_are_taken_out() {
        let got = events(
            &mut LineDecoder::default(),
            b"\xff\xf4\xff\xf2ABOR\r\n\xff\xf4\xffABOR\r\n",
        );
        assert_eq!(got, vec![line("ABOR"), line("ABOR")]);
    }

    #[test]
    fn telnet_options_are_refused() {
        let got = events(
            &mut LineDecoder::default(),
            b"\xff\xfd\x01\xff\xfb\x03\xff\xfe\x01X\n",
        );
        assert_eq!(
            got,
            vec![
                LineEvent::RefuseOption([IAC, WONT, 1]),
                LineEvent::RefuseOption([IAC, DONT, 3]),
                line("X")
            ]
        );
    }

    #[test]
    fn an_overlong_line_is_reported_once_and_the_next_line_is_read() {
        let mut bytes = vec![b'a'; LINE_BYTES_MAX + 1];
        bytes.extend_from_slice(b"\r\nNOOP\r\n");
        let got = events(&mut LineDecoder::default(), &bytes);
        assert_eq!(got, vec![LineEvent::TooLong, line("NOOP")]);
    }

    #[test]
    fn cr_nul_is_a_bare_carriage_return() {
        let got = events(&mut LineDecoder::default(), b"a\r\0b\rc\r\n");
        assert_eq!(got, vec![line("a\rb\rc")]);
    }

    proptest! {
        #[test]
        fn the_cut_between_reads_changes_nothing(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0usize..200) {
            let whole = events(&mut LineDecoder::default(), &bytes);
            let cut = cut.min(bytes.len());
            let mut decoder = LineDecoder::default();
            let mut parts = events(&mut decoder, &bytes[..cut]);
            parts.extend(events(&mut decoder, &bytes[cut..]));
            prop_assert_eq!(whole, parts);
        }
    }
}
