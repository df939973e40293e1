//! Frames as they pass, and how many of them that carry nothing a client may send.

use std::time::Duration;
use tokio::time::Instant;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const SETTINGS: u8 = 4;
pub(super) const CONTINUATION: u8 = 9;
pub(super) const END_HEADERS: u8 = 0x4;

const HEAD: usize = 9;

/// The head of a frame (RFC 9113 section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) length: u32,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
}

impl Frame {
    fn parse(head: [u8; HEAD]) -> Self {
        let [a, b, c, kind, flags, stream @ ..] = head;
        Self {
            length: u32::from_be_bytes([0, a, b, c]),
            kind,
            flags,
            stream: u32::from_be_bytes(stream) & 0x7fff_ffff,
        }
    }

    pub(super) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Whether it is a piece of a body.
    pub(super) fn is_payload(self) -> bool {
        self.kind == DATA && self.length > 0
    }
}

/// Finds the heads of frames in one direction of a connection, whatever pieces it comes in.
#[derive(Debug)]
pub(super) struct FrameScanner {
    /// Bytes before the next frame: the preface, or what is left of a frame.
    skip: usize,
    head: [u8; HEAD],
    have: usize,
}

impl FrameScanner {
    /// For a direction that begins with `preface` bytes that are no frame.
    pub(super) fn new(preface: usize) -> Self {
        Self { skip: preface, head: [0; HEAD], have: 0 }
    }

    /// Takes in what passed, and shows each frame whose head is whole now.
    pub(super) fn scan(&mut self, mut bytes: &[u8], mut saw: impl FnMut(Frame)) {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            if bytes.is_empty() {
                return;
            }
            let taken = (HEAD - self.have).min(bytes.len());
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have < HEAD {
                return;
            }
            self.have = 0;
            let frame = Frame::parse(self.head);
            self.skip = frame.length as usize;
            saw(frame);
        }
    }

    /// Whether what passed last was the end of a frame, or of the preface.
    pub(super) fn is_between_frames(&self) -> bool {
        self.skip == 0 && self.have == 0
    }
}

/// What a client may spend at a time on frames that are no piece of a body.
const MOST: u32 = 1_000;
/// What it gets for each second.
const PER_SECOND: u32 = 100;
/// What it gets for each head or piece of a body that we send: clients answer these with
/// `WINDOW_UPDATE`, some of them twice, and measure the line with PING.
const FOR_EACH_SENT: u32 = 4;

/// How many frames that are no piece of a body a client may send. Each costs us work and may make us
/// answer, while it costs the client next to nothing: PING, SETTINGS, PRIORITY, `RST_STREAM`, empty
/// DATA, `CONTINUATION`, frames of unknown kinds. The `h2` crate bounds what they hold in memory, not
/// how many there are.
#[derive(Debug)]
pub(super) struct Allowance {
    left: u32,
    refilled: Instant,
}

impl Allowance {
    pub(super) fn new(now: Instant) -> Self {
        Self { left: MOST, refilled: now }
    }

    /// Pays for a frame of the client's; `false` if it has sent too many.
    pub(super) fn pay(&mut self, frame: Frame, now: Instant) -> bool {
        if frame.is_payload() {
            self.earn(1);
            return true;
        }
        if self.left == 0 {
            self.refill(now);
        }
        let paid = self.left > 0;
        self.left = self.left.saturating_sub(1);
        paid
    }

    /// Takes in a frame of ours.
    pub(super) fn sent(&mut self, frame: Frame) {
        if frame.is_payload() || frame.kind == HEADERS {
            self.earn(FOR_EACH_SENT);
        }
    }

    fn earn(&mut self, more: u32) {
        self.left = (self.left + more).min(MOST);
    }

    fn refill(&mut self, now: Instant) {
        let waited = now.saturating_duration_since(self.refilled).min(Duration::from_secs(3600));
        self.refilled = now;
        self.earn((waited.as_secs_f64() * f64::from(PER_SECOND)) as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END_STREAM: u8 = 0x1;

    fn bytes(length: u32, kind: u8, flags: u8, stream: u32) -> Vec<u8> {
        let mut bytes = length.to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.resize(9 + length as usize, 0xff);
        bytes
    }

    fn frame(length: u32, kind: u8) -> Frame {
        Frame { length, kind, flags: 0, stream: 1 }
    }

    #[test]
    fn finds_frames_in_pieces_of_any_size() {
        let mut stream = vec![b'P'; 24];
        stream.extend(bytes(0, SETTINGS, 0, 0));
        stream.extend(bytes(300, HEADERS, END_HEADERS, 0x8000_0001));
        stream.extend(bytes(5, DATA, END_STREAM, 1));
        for piece in 1..stream.len() {
            let mut scanner = FrameScanner::new(24);
            let mut seen = Vec::new();
            for piece in stream.chunks(piece) {
                scanner.scan(piece, |frame| seen.push(frame));
            }
            let kinds: Vec<_> = seen.iter().map(|frame| (frame.kind, frame.length)).collect();
            assert_eq!(kinds, [(SETTINGS, 0), (HEADERS, 300), (DATA, 5)], "in pieces of {piece}");
            assert_eq!((seen[1].stream, seen[1].flags), (1, END_HEADERS));
            assert!(scanner.is_between_frames());
        }
    }

    #[test]
    fn knows_when_a_frame_is_not_whole() {
        let mut scanner = FrameScanner::new(0);
        let stream = bytes(5, DATA, 0, 1);
        for end in 1..stream.len() {
            scanner.scan(&stream[end - 1..end], |_| {});
            assert!(!scanner.is_between_frames(), "after {end} bytes");
        }
        scanner.scan(&stream[stream.len() - 1..], |_| {});
        assert!(scanner.is_between_frames());
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_frames_is_not_paid_for() {
        let mut allowance = Allowance::new(Instant::now());
        for _ in 0..MOST {
            assert!(allowance.pay(frame(8, 6), Instant::now()));
        }
        assert!(!allowance.pay(frame(8, 6), Instant::now()));
        tokio::time::advance(Duration::from_secs(1)).await;
        for _ in 0..PER_SECOND {
            assert!(allowance.pay(frame(0, DATA), Instant::now()));
        }
        assert!(!allowance.pay(frame(0, DATA), Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_pay_for_the_frames_that_go_with_them() {
        let mut allowance = Allowance::new(Instant::now());
        for _ in 0..100_000 {
            assert!(allowance.pay(frame(1, DATA), Instant::now()));
            assert!(allowance.pay(frame(8, 6), Instant::now()));
            allowance.sent(frame(16, DATA));
            for _ in 0..3 {
                assert!(allowance.pay(frame(4, 8), Instant::now()));
            }
        }
    }
}
