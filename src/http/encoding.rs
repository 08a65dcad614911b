//! Content codings: which ones a client accepts, and compressing a body for it.
//!
//! Promises: a coding is used only if the client ranks it at least as high as no coding; the same
//! body gives the same bytes. Both codings run at level 1: on JSON of this kind the higher levels
//! save a few percent of the bytes for several times the processor.

use std::cell::RefCell;
use std::io;

use flate2::{Compress, Compression, FlushCompress, Status};
use zstd::stream::raw::{CParameter, Encoder, Operation, OutBuffer};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Coding {
    Gzip,
    Zstd,
}

impl Coding {
    pub fn as_str(self) -> &'static str {
        match self {
            Coding::Gzip => "gzip",
            Coding::Zstd => "zstd",
        }
    }
}

/// The codings a client accepts, in one byte, so that a waiting request can keep them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Accepts(u8);

impl Accepts {
    /// No coding.
    pub const NONE: Accepts = Accepts(0);
    const GZIP: u8 = 1;
    const ZSTD: u8 = 2;
    const GZIP_FIRST: u8 = 4;

    /// One coding.
    pub fn only(coding: Coding) -> Self {
        Self(match coding {
            Coding::Gzip => Self::GZIP,
            Coding::Zstd => Self::ZSTD,
        })
    }

    /// Reads `Accept-Encoding`. A malformed element counts as absent: a response without a coding
    /// is acceptable to every client.
    #[cfg(test)]
    pub fn parse(value: &[u8]) -> Self {
        Self::parse_all(std::iter::once(value))
    }

    /// Reads the values of several fields, which are one list.
    pub fn parse_all<'v>(values: impl Iterator<Item = &'v [u8]>) -> Self {
        let (mut gzip, mut zstd, mut identity, mut other) = (None, None, None, None);
        for element in values.flat_map(|value| value.split(|byte| *byte == b',')) {
            let mut parts = element.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
            let name = parts.next().unwrap_or_default();
            let quality = match parts.next() {
                None => 1000,
                Some(parameter) => match quality(parameter) {
                    Some(quality) if parts.next().is_none() => quality,
                    _ => continue,
                },
            };
            let place =
                if name.eq_ignore_ascii_case(b"gzip") || name.eq_ignore_ascii_case(b"x-gzip") {
                    &mut gzip
                } else if name.eq_ignore_ascii_case(b"zstd") {
                    &mut zstd
                } else if name.eq_ignore_ascii_case(b"identity") {
                    &mut identity
                } else if name == b"*" {
                    &mut other
                } else {
                    continue;
                };
            *place = Some(quality);
        }
        let gzip = gzip.or(other).unwrap_or(0);
        let zstd = zstd.or(other).unwrap_or(0);
        let identity = identity.unwrap_or(0);
        let mut accepts = 0;
        if gzip > 0 && gzip >= identity {
            accepts |= Self::GZIP;
        }
        if zstd > 0 && zstd >= identity {
            accepts |= Self::ZSTD;
        }
        if gzip > zstd {
            accepts |= Self::GZIP_FIRST;
        }
        Accepts(accepts)
    }

    pub fn contains(self, coding: Coding) -> bool {
        self.0
            & match coding {
                Coding::Gzip => Self::GZIP,
                Coding::Zstd => Self::ZSTD,
            }
            != 0
    }

    /// The coding to use: zstd, which is faster, unless the client prefers gzip.
    pub fn best(self) -> Option<Coding> {
        if self.contains(Coding::Zstd) && self.0 & Self::GZIP_FIRST == 0 {
            Some(Coding::Zstd)
        } else if self.contains(Coding::Gzip) {
            Some(Coding::Gzip)
        } else if self.contains(Coding::Zstd) {
            Some(Coding::Zstd)
        } else {
            None
        }
    }
}

/// `q=` with up to three decimals, in thousandths.
pub fn quality(parameter: &[u8]) -> Option<u32> {
    let ([b'q' | b'Q', b'=', whole @ (b'0' | b'1')]
    | [b'q' | b'Q', b'=', whole @ (b'0' | b'1'), b'.', ..]) = parameter
    else {
        return None;
    };
    let decimals = parameter.get(4..).unwrap_or_default();
    if decimals.len() > 3 || !decimals.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let mut thousandths = u32::from(whole - b'0') * 1000;
    let mut unit = 100;
    for digit in decimals {
        thousandths += u32::from(digit - b'0') * unit;
        unit /= 10;
    }
    (thousandths <= 1000).then_some(thousandths)
}

thread_local! {
    // Each holds some hundred KiB of tables, which are costly to set up per response.
    static GZIP: RefCell<Compress> = RefCell::new(Compress::new_gzip(Compression::fast(), 15));
    static ZSTD: RefCell<Option<zstd::bulk::Compressor<'static>>> =
        RefCell::new(zstd::bulk::Compressor::new(1).ok());
}

/// The compressed body; `None` if it would not get smaller.
pub fn compress(body: &[u8], coding: Coding) -> Option<Vec<u8>> {
    // A result as large as the body is useless, so there is no more room than that.
    let mut out = Vec::with_capacity(body.len());
    let fits = match coding {
        Coding::Gzip => GZIP.with_borrow_mut(|gzip| {
            gzip.reset();
            matches!(
                gzip.compress_vec(body, &mut out, FlushCompress::Finish),
                Ok(Status::StreamEnd)
            )
        }),
        Coding::Zstd => ZSTD.with_borrow_mut(|zstd| {
            zstd.as_mut()
                .is_some_and(|zstd| zstd.compress_to_buffer(body, &mut out).is_ok())
        }),
    };
    if !fits || out.len() >= body.len() {
        return None;
    }
    out.shrink_to_fit();
    Some(out)
}

/// Memory of a [`StreamEncoder`], at most.
pub const ENCODER_BYTES: usize = 768 * 1024;
/// Logarithm of the bytes that the zstd encoder of an answer looks back. Its memory is a multiple.
const ZSTD_WINDOW_LOG: u32 = 17;
/// Room for the result of one call of an encoder.
const STEP_BYTES: usize = 16 * 1024;

/// Compresses a body part by part: what has been encoded can be decoded without the rest.
pub enum StreamEncoder {
    Gzip(Box<Compress>),
    Zstd(Encoder<'static>),
}

impl StreamEncoder {
    pub fn new(coding: Coding) -> Option<Self> {
        Some(match coding {
            Coding::Gzip => Self::Gzip(Box::new(Compress::new_gzip(Compression::fast(), 15))),
            Coding::Zstd => {
                let mut encoder = Encoder::new(1).ok()?;
                let window = CParameter::WindowLog(ZSTD_WINDOW_LOG);
                encoder.set_parameter(window).ok()?;
                Self::Zstd(encoder)
            }
        })
    }

    pub fn coding(&self) -> Coding {
        match self {
            Self::Gzip(_) => Coding::Gzip,
            Self::Zstd(_) => Coding::Zstd,
        }
    }

    /// Appends the coded form of the next part to `out`, up to its last byte.
    pub fn encode(&mut self, part: &[u8], is_last: bool, out: &mut Vec<u8>) {
        match self {
            Self::Gzip(gzip) => encode_gzip(gzip, part, is_last, out),
            Self::Zstd(zstd) => encode_zstd(zstd, part, is_last, out)
                .expect("compression into memory does not fail"),
        }
    }
}

fn encode_gzip(gzip: &mut Compress, part: &[u8], is_last: bool, out: &mut Vec<u8>) {
    let flush = if is_last {
        FlushCompress::Finish
    } else {
        FlushCompress::Sync
    };
    let before = gzip.total_in();
    loop {
        out.reserve(STEP_BYTES);
        let read = usize::try_from(gzip.total_in() - before).expect("a part is in memory");
        let status = gzip.compress_vec(&part[read..], out, flush);
        let has_room = out.len() < out.capacity();
        match status.expect("compression into memory does not fail") {
            Status::StreamEnd => return,
            // Room that is left over means that nothing is held back.
            Status::Ok | Status::BufError if has_room && !is_last => return,
            Status::Ok | Status::BufError => {}
        }
    }
}

fn encode_zstd(
    zstd: &mut Encoder<'static>,
    part: &[u8],
    is_last: bool,
    out: &mut Vec<u8>,
) -> io::Result<()> {
    let mut step = [0; STEP_BYTES];
    let mut read = 0;
    while read < part.len() {
        let status = zstd.run_on_buffers(&part[read..], &mut step)?;
        read += status.bytes_read;
        out.extend_from_slice(&step[..status.bytes_written]);
    }
    loop {
        let mut buffer = OutBuffer::around(&mut step[..]);
        let left = if is_last {
            zstd.finish(&mut buffer, true)?
        } else {
            zstd.flush(&mut buffer)?
        };
        out.extend_from_slice(buffer.as_slice());
        if left == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn coding_follows_the_ranks_of_the_client() {
        let cases: [(&[u8], Option<Coding>); 16] = [
            (b"", None),
            (b"identity", None),
            (b"br, deflate", None),
            (b"gzip", Some(Coding::Gzip)),
            (b"x-GZIP", Some(Coding::Gzip)),
            (b"gzip, zstd", Some(Coding::Zstd)),
            (b"gzip;q=1, zstd;q=0.5", Some(Coding::Gzip)),
            (b"gzip ; q=0.001", Some(Coding::Gzip)),
            (b"gzip;q=0", None),
            (b"gzip;q=0, *", Some(Coding::Zstd)),
            (b"*", Some(Coding::Zstd)),
            (b"*;q=0", None),
            (b"identity;q=1, gzip;q=0.5", None),
            (b"gzip;q=2", None),
            (b"gzip;q=0.1234", None),
            (b"zstd;level=3, gzip", Some(Coding::Gzip)),
        ];
        for (value, expected) in cases {
            assert_eq!(
                Accepts::parse(value).best(),
                expected,
                "{}",
                value.escape_ascii()
            );
        }
    }

    #[test]
    fn compressed_bodies_decompress_to_the_original() {
        let body = b"{\"streams\":[\"one\",\"two\",\"three\"]}".repeat(100);
        for round in 0..3 {
            let gzip = compress(&body, Coding::Gzip).expect("it repeats itself");
            let mut plain = Vec::new();
            flate2::read::GzDecoder::new(&gzip[..])
                .read_to_end(&mut plain)
                .expect("gzip");
            assert_eq!(plain, body, "round {round}");
            let zstd = compress(&body, Coding::Zstd).expect("it repeats itself");
            assert_eq!(zstd::decode_all(&zstd[..]).expect("zstd"), body);
            assert!(gzip.len() < body.len() / 10 && zstd.len() < body.len() / 10);
        }
    }

    #[test]
    fn bodies_encoded_in_parts_decompress_to_the_original() {
        let noise = noise(100_000);
        for coding in [Coding::Gzip, Coding::Zstd] {
            let mut encoder = StreamEncoder::new(coding).expect("memory");
            let (mut plain, mut coded) = (Vec::new(), Vec::new());
            for bytes in [0, 1, 70_000, 0, 100_000, 333] {
                let json = b"{\"streams\":[\"one\",\"two\"]}".repeat(bytes / 25 + 1);
                for part in [&json[..bytes], &noise[..bytes]] {
                    encoder.encode(part, false, &mut coded);
                    plain.extend_from_slice(part);
                    assert_eq!(decoded(coding, &coded, plain.len()), plain, "{coding:?}");
                }
            }
            encoder.encode(b"]}", true, &mut coded);
            plain.extend_from_slice(b"]}");
            // The end is there: nothing but this length is read.
            assert_eq!(decoded(coding, &coded, usize::MAX), plain, "{coding:?}");
        }
    }

    /// The first `bytes` of a coded text, or all of a complete one.
    fn decoded(coding: Coding, coded: &[u8], bytes: usize) -> Vec<u8> {
        let mut plain = Vec::new();
        let decoder: Box<dyn Read> = match coding {
            Coding::Gzip => Box::new(flate2::read::GzDecoder::new(coded)),
            Coding::Zstd => Box::new(zstd::Decoder::new(coded).expect("memory")),
        };
        let mut decoder = decoder.take(bytes as u64);
        decoder.read_to_end(&mut plain).expect("it is coded");
        plain
    }

    fn noise(bytes: usize) -> Vec<u8> {
        let mut seed = 1_u64;
        let mut next = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 56) as u8
        };
        (0..bytes).map(|_| next()).collect()
    }

    #[test]
    fn incompressible_bodies_are_not_compressed() {
        let noise = noise(4096);
        assert_eq!(compress(&noise, Coding::Gzip), None);
        assert_eq!(compress(&noise, Coding::Zstd), None);
        let body = b"after a failure the encoder works".repeat(50);
        assert!(compress(&body, Coding::Gzip).is_some());
        assert!(compress(&body, Coding::Zstd).is_some());
    }
}
