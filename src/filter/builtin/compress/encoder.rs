//! Compressing a body piece by piece.
//!
//! The libraries are those that Pingora has anyway. Its own wrappers around them are not used: they
//! hold pieces back until a block is full, which stalls a stream whose pieces are small and slow, and
//! their brotli ends in a flush, not in the mark that tells a decoder that nothing is missing.

use super::Algorithm;
use brotli::CompressorWriter;
use flate2::{Compression, write::GzEncoder};
use std::io::{Result, Write};
use zstd::{stream::write::Encoder as ZstdEncoder, zstd_safe::CParameter};

/// The levels are where the next one costs much more than it saves; docs/performance.md has the
/// numbers.
const ZSTD_LEVEL: i32 = 3;
const BROTLI_QUALITY: u32 = 4;
const GZIP_LEVEL: u32 = 4;
/// How far back zstd and brotli look, as a power of two in bytes. It bounds their memory; gzip's 15
/// is part of its format.
const WINDOW: u32 = 17;
/// Where brotli puts its output before it comes to the vector, in bytes.
const BROTLI_BUFFER: usize = 4096;

/// The compression of one body.
pub(super) enum Encoder {
    Zstd(ZstdEncoder<'static, Vec<u8>>),
    Br(Box<CompressorWriter<Vec<u8>>>),
    Gzip(GzEncoder<Vec<u8>>),
}

impl Encoder {
    /// An encoder for a body of `length` bytes, if that is known.
    pub(super) fn new(algorithm: Algorithm, length: Option<u64>) -> Result<Self> {
        let out = Vec::new();
        Ok(match algorithm {
            Algorithm::Zstd => Self::Zstd(zstd(out, length)?),
            Algorithm::Br => {
                let writer = CompressorWriter::new(out, BROTLI_BUFFER, BROTLI_QUALITY, WINDOW);
                Self::Br(Box::new(writer))
            }
            Algorithm::Gzip => Self::Gzip(GzEncoder::new(out, Compression::new(GZIP_LEVEL))),
        })
    }

    /// Takes in a piece and returns all that a decoder needs to give it out again.
    pub(super) fn piece(&mut self, data: &[u8]) -> Result<Vec<u8>> {
        self.writer().write_all(data)?;
        self.writer().flush()?;
        Ok(std::mem::take(match self {
            Self::Zstd(encoder) => encoder.get_mut(),
            Self::Br(encoder) => encoder.get_mut(),
            Self::Gzip(encoder) => encoder.get_mut(),
        }))
    }

    /// Takes in the last piece and returns the end of the compressed body.
    pub(super) fn finish(mut self, data: &[u8]) -> Result<Vec<u8>> {
        self.writer().write_all(data)?;
        match self {
            Self::Zstd(encoder) => encoder.finish(),
            Self::Br(encoder) => Ok(encoder.into_inner()),
            Self::Gzip(encoder) => encoder.finish(),
        }
    }

    fn writer(&mut self) -> &mut dyn Write {
        match self {
            Self::Zstd(encoder) => encoder,
            Self::Br(encoder) => encoder,
            Self::Gzip(encoder) => encoder,
        }
    }
}

/// With the length, zstd has tables of a size to match, which halves the cost of a small body.
fn zstd(out: Vec<u8>, length: Option<u64>) -> Result<ZstdEncoder<'static, Vec<u8>>> {
    let mut encoder = ZstdEncoder::new(out, ZSTD_LEVEL)?;
    encoder.set_parameter(CParameter::WindowLog(WINDOW))?;
    encoder.set_pledged_src_size(length)?;
    Ok(encoder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    const ALL: [Algorithm; 3] = [Algorithm::Zstd, Algorithm::Br, Algorithm::Gzip];

    /// What a decoder gives out once it was given `bytes`, and whether that was the end.
    fn decoded(algorithm: Algorithm, bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut decoder: Box<dyn Read> = match algorithm {
            Algorithm::Zstd => Box::new(zstd::Decoder::new(bytes).unwrap()),
            Algorithm::Br => Box::new(brotli::Decompressor::new(bytes, 4096)),
            Algorithm::Gzip => Box::new(flate2::read::GzDecoder::new(bytes)),
        };
        let mut all = Vec::new();
        let ended = decoder.read_to_end(&mut all).is_ok();
        (all, ended)
    }

    #[test]
    fn every_piece_can_be_read_before_the_next_comes() {
        for algorithm in ALL {
            let mut encoder = Encoder::new(algorithm, None).unwrap();
            let (mut sent, mut received) = (Vec::new(), Vec::new());
            for number in 0..50 {
                let piece = format!("{{\"number\":{number}}}\n").into_bytes();
                sent.extend_from_slice(&piece);
                received.extend(encoder.piece(&piece).unwrap());
                assert_eq!(decoded(algorithm, &received), (sent.clone(), false), "{algorithm:?}");
            }
            received.extend(encoder.finish(b"end").unwrap());
            sent.extend_from_slice(b"end");
            assert_eq!(decoded(algorithm, &received), (sent, true), "{algorithm:?}");
        }
    }

    #[test]
    fn a_body_of_known_length_comes_back_whole() {
        let body = b"All work and no play makes Jack a dull boy. ".repeat(20_000);
        for algorithm in ALL {
            let mut encoder = Encoder::new(algorithm, Some(body.len() as u64)).unwrap();
            let (first, last) = body.split_at(700_000);
            let mut bytes = encoder.piece(first).unwrap();
            bytes.extend(encoder.finish(last).unwrap());
            assert!(bytes.len() < body.len() / 50, "{algorithm:?} {}", bytes.len());
            assert_eq!(decoded(algorithm, &bytes), (body.clone(), true), "{algorithm:?}");
        }
    }

    #[test]
    fn an_empty_body_has_an_end() {
        for algorithm in ALL {
            let bytes = Encoder::new(algorithm, None).unwrap().finish(b"").unwrap();
            assert_eq!(decoded(algorithm, &bytes), (Vec::new(), true), "{algorithm:?}");
        }
    }
}
