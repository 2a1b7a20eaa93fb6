//! The promise of a link under every bad transport: each message once, in order, nothing lost.

use super::*;

/// A small generator with a seed, so that a failing run can be repeated.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

fn message(number: u64, long: bool) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u64_le(number);
    if long {
        bytes.resize(FRAME_PAYLOAD_MAX * 2 + 5, number.to_le_bytes()[0]);
    }
    bytes.freeze()
}

fn through_the_wire(frame: &Frame) -> Frame {
    let mut bytes = BytesMut::new();
    frame.encode(&mut bytes);
    assert_eq!(bytes.len(), frame.encoded_len());
    Frame::decode(bytes.freeze()).unwrap()
}

/// Two ends and two transports between them; each direction of each transport holds frames on their way.
struct Net {
    ends: [Link; 2],
    wires: [[VecDeque<Frame>; 2]; 2],
    got: [Vec<Bytes>; 2],
    sent: [u64; 2],
}

impl Net {
    fn step(&mut self, dice: &mut Dice, hostile: bool) {
        let end = usize::from(dice.roll(2) == 1);
        let transport = usize::from(dice.roll(2) == 1);
        match dice.roll(if hostile { 10 } else { 6 }) {
            0 => {
                let number = self.sent[end];
                self.ends[end]
                    .send(message(number, dice.roll(40) == 0))
                    .unwrap();
                self.sent[end] += 1;
            }
            1 | 2 => {
                if let Some(frame) = self.ends[end].next_frame() {
                    self.wires[transport][end].push_back(frame);
                }
            }
            3 => {
                let frame = self.ends[end].ack_frame();
                self.wires[transport][end].push_back(frame);
            }
            4 | 5 => self.arrive(end, transport, dice, hostile),
            6 => {
                self.wires[transport][end].pop_front();
            }
            7 => {
                if let Some(frame) = self.wires[transport][end].front().cloned() {
                    self.wires[transport][end].push_back(frame);
                }
            }
            8 => self.ends[end].rewind(),
            _ => self.reconnect(transport),
        }
    }

    fn reconnect(&mut self, transport: usize) {
        self.wires[transport] = [VecDeque::new(), VecDeque::new()];
        let [a, b] = &mut self.ends;
        a.detach();
        b.detach();
        assert!(a.attach(b.received()) && b.attach(a.received()));
    }

    fn arrive(&mut self, from: usize, transport: usize, dice: &mut Dice, hostile: bool) {
        let wire = &mut self.wires[transport][from];
        let frame = if hostile && !wire.is_empty() && dice.roll(4) == 0 {
            let at = usize::try_from(dice.roll(wire.len() as u64)).unwrap();
            wire.remove(at)
        } else {
            wire.pop_front()
        };
        let Some(frame) = frame else { return };
        match self.ends[1 - from].receive(through_the_wire(&frame)) {
            Received::Message(message) => self.got[1 - from].push(message),
            Received::Violation => panic!("an honest peer was taken for a liar"),
            Received::Nothing | Received::Gap => {}
        }
    }
}

#[test]
fn loss_duplication_reorder_and_reconnects_on_two_transports_lose_and_repeat_nothing() {
    for seed in 1..200_u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut net = Net {
            ends: [Link::default(), Link::default()],
            wires: Default::default(),
            got: Default::default(),
            sent: [0, 0],
        };
        net.reconnect(0);
        for _ in 0..2_000 {
            net.step(&mut dice, true);
        }
        // The storm is over: what was sent arrives without anything new.
        net.reconnect(0);
        net.reconnect(1);
        while net.ends.iter().any(Link::has_unacknowledged) {
            for end in 0..2 {
                while let Some(frame) = net.ends[end].next_frame() {
                    net.wires[0][end].push_back(frame);
                }
                let ack = net.ends[end].ack_frame();
                net.wires[0][end].push_back(ack);
                while !net.wires[0][end].is_empty() {
                    net.arrive(end, 0, &mut dice, false);
                }
            }
        }
        for end in 0..2 {
            let numbers: Vec<u64> = net.got[end]
                .iter()
                .map(|m| m.clone().get_u64_le())
                .collect();
            let all: Vec<u64> = (0..net.sent[1 - end]).collect();
            assert_eq!(numbers, all, "seed {seed}");
        }
    }
}

#[test]
fn a_long_message_travels_in_pieces_and_arrives_whole() {
    let (mut a, mut b) = (Link::default(), Link::default());
    let long = message(7, true);
    a.send(long.clone()).unwrap();
    assert!(
        a.next_frame().is_none(),
        "nothing is sent without a transport"
    );
    assert!(a.attach(0) && b.attach(0));
    let mut got = Vec::new();
    while let Some(frame) = a.next_frame() {
        if let Received::Message(m) = b.receive(frame) {
            got.push(m);
        }
    }
    assert_eq!(got, [long]);
    assert!(b.ack_is_urgent() || b.owes_ack());
    let _ = a.receive(b.ack_frame());
    assert!(!a.has_unacknowledged());
}

#[test]
fn limits_hold_for_messages_backlog_and_window() {
    let mut link = Link::default();
    let too_long = Bytes::from(vec![0; MESSAGE_MAX_BYTES + 1]);
    assert_eq!(link.send(too_long), Err(SendError::TooLarge));
    let longest = Bytes::from(vec![0; MESSAGE_MAX_BYTES]);
    for _ in 0..BACKLOG_MAX_BYTES / MESSAGE_MAX_BYTES {
        link.send(longest.clone()).unwrap();
    }
    assert_eq!(link.send(Bytes::from_static(b"x")), Err(SendError::Full));
    assert!(link.attach(0));
    let mut bytes = 0;
    while let Some(frame) = link.next_frame() {
        bytes += frame.encoded_len();
    }
    assert!((WINDOW_BYTES..WINDOW_BYTES * 2).contains(&bytes));
    assert!(!link.wants_to_send());
}

#[test]
fn a_peer_that_acknowledges_what_was_never_sent_or_never_ends_a_message_is_refused() {
    let mut link = Link::default();
    assert!(!link.attach(1));
    assert_eq!(
        link.receive(Frame {
            ack: 1,
            piece: None
        }),
        Received::Violation
    );
    let payload = Bytes::from(vec![0; FRAME_PAYLOAD_MAX]);
    let mut last = Received::Nothing;
    for seq in 1..=(MESSAGE_MAX_BYTES / FRAME_PAYLOAD_MAX) as u64 + 1 {
        last = link.receive(Frame {
            ack: 0,
            piece: Some(Piece {
                seq,
                more: true,
                payload: payload.clone(),
            }),
        });
    }
    assert_eq!(last, Received::Violation);
}

#[test]
fn malformed_frames_are_refused() {
    assert_eq!(Frame::decode(Bytes::from_static(b"short")), None);
    assert_eq!(Frame::decode(Bytes::from(vec![9; FRAME_HEAD])), None);
    assert_eq!(
        Frame::decode(Bytes::from(vec![KIND_ACK; FRAME_HEAD + 1])),
        None
    );
    assert_eq!(
        Frame::decode(Bytes::from(vec![
            KIND_WHOLE;
            FRAME_HEAD + FRAME_PAYLOAD_MAX + 1
        ])),
        None
    );
}
