//! Bytes that both ends can make and check: pseudo-random, by seed, and their digest.
//!
//! Neither is cryptographic: they show bytes lost, doubled, swapped or damaged on the way.

use std::io::{self, Read, Write};

/// Bytes moved at a time.
pub const CHUNK: usize = 32 * 1024;

/// An endless stream of bytes that depends on its seed alone.
#[derive(Clone, Debug)]
pub struct Bytes {
    state: u64,
    word: [u8; 8],
    used: usize,
}

impl Bytes {
    /// The stream of a seed.
    pub fn new(seed: u64) -> Self {
        Self { state: seed, word: [0; 8], used: 8 }
    }

    /// Fills the buffer with the next bytes, however the stream is cut into buffers.
    pub fn fill(&mut self, mut buffer: &mut [u8]) {
        while !buffer.is_empty() {
            if self.used == 8 {
                self.word = self.next().to_le_bytes();
                self.used = 0;
            }
            let count = buffer.len().min(8 - self.used);
            let (head, rest) = buffer.split_at_mut(count);
            head.copy_from_slice(&self.word[self.used..self.used + count]);
            self.used += count;
            buffer = rest;
        }
    }

    /// Writes the next `length` bytes of the stream, and gives their digest.
    pub fn write_to(&mut self, length: u64, sink: &mut impl Write) -> io::Result<u64> {
        let mut digest = Digest::default();
        let mut buffer = vec![0; CHUNK];
        let mut left = length;
        while left > 0 {
            let count = CHUNK.min(usize::try_from(left).unwrap_or(CHUNK));
            self.fill(&mut buffer[..count]);
            digest.add(&buffer[..count]);
            sink.write_all(&buffer[..count])?;
            left -= count as u64;
        }
        Ok(digest.value())
    }

    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// The digest of the first `length` bytes of a seed's stream.
pub fn digest_of(seed: u64, length: u64) -> u64 {
    Bytes::new(seed).write_to(length, &mut io::sink()).expect("a sink takes everything")
}

/// Reads exactly `length` bytes and gives their digest.
pub fn digest_from(source: &mut impl Read, length: u64) -> io::Result<u64> {
    let mut digest = Digest::default();
    let mut buffer = vec![0; CHUNK];
    let mut left = length;
    while left > 0 {
        let want = CHUNK.min(usize::try_from(left).unwrap_or(CHUNK));
        let count = source.read(&mut buffer[..want])?;
        if count == 0 {
            let missing = format!("the connection ended {left} bytes early");
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, missing));
        }
        digest.add(&buffer[..count]);
        left -= count as u64;
    }
    Ok(digest.value())
}

/// A digest of bytes in their order, the same however they are cut.
#[derive(Clone, Debug, Default)]
pub struct Digest {
    state: u64,
    length: u64,
    word: [u8; 8],
    held: usize,
}

impl Digest {
    /// Takes the next bytes in.
    pub fn add(&mut self, mut bytes: &[u8]) {
        self.length += bytes.len() as u64;
        if self.held > 0 {
            let count = bytes.len().min(8 - self.held);
            self.word[self.held..self.held + count].copy_from_slice(&bytes[..count]);
            self.held += count;
            bytes = &bytes[count..];
            if self.held < 8 {
                return;
            }
            self.state = mix(self.state, u64::from_le_bytes(self.word));
            self.held = 0;
        }
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.state = mix(self.state, u64::from_le_bytes(*word));
        }
        self.word[..rest.len()].copy_from_slice(rest);
        self.held = rest.len();
    }

    /// The digest of all bytes so far.
    pub fn value(&self) -> u64 {
        let mut last = [0; 8];
        last[..self.held].copy_from_slice(&self.word[..self.held]);
        mix(mix(self.state, u64::from_le_bytes(last)), self.length)
    }
}

/// One step: the position counts, since the state is turned and multiplied each time.
fn mix(state: u64, word: u64) -> u64 {
    (state.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_does_not_depend_on_how_it_is_cut() {
        let mut whole = [0; 1000];
        Bytes::new(7).fill(&mut whole);
        let mut cut = [0; 1000];
        let mut stream = Bytes::new(7);
        for piece in cut.chunks_mut(13) {
            stream.fill(piece);
        }
        assert_eq!(whole, cut);
    }

    #[test]
    fn seeds_differ() {
        assert_ne!(digest_of(1, 64), digest_of(2, 64));
    }

    #[test]
    fn a_digest_does_not_depend_on_how_its_bytes_are_cut() {
        let mut bytes = [0; 1001];
        Bytes::new(3).fill(&mut bytes);
        let mut cut = Digest::default();
        for piece in bytes.chunks(5) {
            cut.add(piece);
        }
        assert_eq!(cut.value(), digest_of(3, 1001));
    }

    #[test]
    fn a_digest_shows_swapped_lost_and_damaged_bytes() {
        let digest = |bytes: &[u8]| {
            let mut digest = Digest::default();
            digest.add(bytes);
            digest.value()
        };
        let good = digest(b"0123456789abcdef");
        assert_ne!(good, digest(b"89abcdef01234567"));
        assert_ne!(good, digest(b"0123456789abcde"));
        assert_ne!(good, digest(b"0123456789abcdeF"));
        assert_ne!(digest(b""), digest(b"\0"));
    }

    #[test]
    fn a_source_that_ends_early_is_an_error() {
        let error = digest_from(&mut &b"abc"[..], 5).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(error.to_string().contains("2 bytes early"), "{error}");
    }
}
