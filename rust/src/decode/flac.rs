//! FLAC files (RFC 9639): frames one after the other, behind metadata.
//!
//! symphonia's reader refuses a file whose cover or comments are broken, loses the last frame if
//! anything is behind it, and ends where another file is joined on. Here the metadata is read as far
//! as it goes, and a frame is what has a right checksum.

use crc_fast::{CrcAlgorithm, Digest};
use symphonia::core::checksum::Crc8Ccitt;
use symphonia::core::codecs::audio::AudioCodecParameters;
use symphonia::core::codecs::audio::well_known::CODEC_ID_FLAC;
use symphonia::core::io::Monitor;

use super::frames::{channels, end_without_tags, tag_end};
use super::input::{Input, Window};
use super::{MAX_MISSING_S, Packets, Step, StreamPacket};
use crate::error::Result;

/// The length of the block STREAMINFO, in bytes.
const STREAM_INFO: usize = 34;

/// The largest block of comments that is read, in bytes.
const MAX_COMMENTS: u64 = 1 << 24;

/// The bytes that the next frame is looked for in at first.
const USUAL_FRAME: usize = 64 * 1024;

/// The bytes in which the ends of frames are looked for, as a multiple of the file's and more, after
/// which no more are found: in a file that is made for it, each frame may seem to have many ends.
const MAX_SEARCHED: u64 = 16;
const MAX_SEARCHED_MORE: u64 = 1 << 24;

/// The longest frame header, in bytes.
const HEADER: usize = 16;

/// The shortest frame, in bytes.
const MIN_FRAME: u64 = 10;

/// The metadata at the start of a file.
struct Metadata {
    info: StreamInfo,
    album: Option<String>,
    is_broken: bool,
    /// Where the first frame begins.
    end: u64,
}

/// The block STREAMINFO, section 8.2.
struct StreamInfo {
    bytes: Vec<u8>,
    rate: u64,
    channels: u64,
    bits: u64,
    /// The number of samples of a channel; 0 if it is not known.
    samples: u64,
    max_block: u64,
}

impl StreamInfo {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..STREAM_INFO)?.to_vec();
        let packed = number(&bytes[10..18]);
        let rate = packed >> 44;
        (rate > 0).then_some(Self {
            rate,
            channels: (packed >> 41 & 7) + 1,
            bits: (packed >> 36 & 31) + 1,
            samples: packed & ((1 << 36) - 1),
            max_block: number(&bytes[2..4]),
            bytes,
        })
    }

    /// The bytes of the longest frame: that of samples as they are.
    fn max_frame(&self) -> usize {
        let block = self.max_block.max(4608);
        (block * self.channels * (self.bits + 1).div_ceil(8) + 64) as usize
    }

    fn parameters(&self) -> AudioCodecParameters {
        let mut parameters = AudioCodecParameters::new();
        parameters
            .for_codec(CODEC_ID_FLAC)
            .with_sample_rate(self.rate as u32)
            .with_channels(channels(self.channels as u8))
            .with_bits_per_sample(self.bits as u32)
            .with_extra_data(self.bytes.clone().into());
        parameters
    }
}

/// A block of metadata.
struct Block {
    kind: u8,
    /// The position and the length of its content.
    content: u64,
    len: u64,
    is_last: bool,
}

/// The block at `at`; none if it is of an unknown kind or does not end before `end`.
fn block(window: &mut Window, at: u64, end: u64) -> Option<Block> {
    let header: [u8; 4] = window.bytes(at, 4).try_into().ok()?;
    let (kind, len, content) = (header[0] & 0x7f, number(&header[1..]), at + 4);
    let is_last = header[0] & 0x80 != 0;
    (kind <= 6 && content + len <= end).then_some(Block { kind, content, len, is_last })
}

/// A cue sheet in the metadata of a file.
#[cfg(feature = "cli")]
#[derive(Debug, Default)]
pub(crate) struct EmbeddedCue {
    /// The text of the comment `CUESHEET`.
    pub(crate) text: Option<String>,
    /// The audio tracks of the block CUESHEET: their numbers, and their starts in seconds.
    pub(crate) tracks: Vec<(u32, f64)>,
}

/// The cue sheet in the metadata at `start`; an empty one if there is none.
#[cfg(feature = "cli")]
pub(super) fn embedded_cue(window: &mut Window, start: u64, end: u64) -> EmbeddedCue {
    let mut cue = EmbeddedCue::default();
    if window.bytes(start, 4) != b"fLaC" {
        return cue;
    }
    let (mut at, mut info) = (start + 4, None);
    while let Some(Block { kind, content, len, is_last }) = block(window, at, end) {
        match (kind, &info) {
            (0, None) => info = StreamInfo::parse(window.bytes(content, STREAM_INFO)),
            (4, _) if len <= MAX_COMMENTS => {
                let (_, text) = comment(window.bytes(content, len as usize), "cuesheet");
                cue.text = cue.text.or(text);
            }
            (5, Some(info)) if len <= MAX_COMMENTS => {
                let starts = cue_tracks(window.bytes(content, len as usize));
                let rate = info.rate as f64;
                cue.tracks = starts.map(|(track, at)| (track, at as f64 / rate)).collect();
            }
            _ => {}
        }
        at = content + len;
        if is_last {
            break;
        }
    }
    cue
}

/// The audio tracks in a block CUESHEET, section 8.7: their numbers, and the samples before them.
#[cfg(feature = "cli")]
fn cue_tracks(block: &[u8]) -> impl Iterator<Item = (u32, u64)> {
    /// The catalogue number, the lead-in, flags and reserved bytes, and the number of tracks.
    const HEADER: usize = 128 + 8 + 259 + 1;
    /// An offset, a number, an ISRC, flags and reserved bytes, and the number of index points.
    const TRACK: usize = 8 + 1 + 12 + 14 + 1;
    /// An offset from that of the track, a number, and reserved bytes.
    const POINT: usize = 8 + 1 + 3;
    let mut rest = block.get(HEADER..).unwrap_or_default();
    let tracks = std::iter::from_fn(move || {
        let (track, after) = rest.split_at_checked(TRACK)?;
        let (points, after) = after.split_at_checked(POINT * usize::from(track[TRACK - 1]))?;
        rest = after;
        // The music begins at index point 1; 0 is the pause before it.
        let point = points.chunks_exact(POINT).find(|point| point[8] == 1);
        let start = number(&track[..8]).saturating_add(point.map_or(0, |p| number(&p[..8])));
        let is_audio = track[21] & 0x80 == 0;
        Some((u32::from(track[8]), start, is_audio))
    });
    // The lead-out has the number 170 or 255.
    tracks.filter(|&(track, _, is_audio)| is_audio && track < 100).map(|(track, at, _)| (track, at))
}

/// Reads the metadata at `start`; none if it does not begin as that of FLAC does.
fn metadata(window: &mut Window, start: u64, end: u64) -> Option<Metadata> {
    if window.bytes(start, 4) != b"fLaC" {
        return None;
    }
    let mut at = start + 4;
    let (mut info, mut album, mut is_broken) = (None, None, false);
    loop {
        let Some(Block { kind, content, len, is_last }) = block(window, at, end) else {
            is_broken = true;
            break;
        };
        match kind {
            0 if info.is_none() => info = StreamInfo::parse(window.bytes(content, STREAM_INFO)),
            4 if album.is_none() && len <= MAX_COMMENTS => {
                let (is_whole, found) = comment(window.bytes(content, len as usize), "album");
                is_broken |= !is_whole;
                album = found;
            }
            6 => is_broken |= !is_picture(window.bytes(content, 1 << 10), len),
            _ => {}
        }
        at = content + len;
        if is_last {
            break;
        }
    }
    let info = info?;
    if frame(window.bytes(at, HEADER), &info).is_none() {
        // A block states the wrong length: the audio begins with frame 0.
        let from = start + 4 + 4 + STREAM_INFO as u64;
        let first = find(window, from, end, |bytes| {
            frame(bytes, &info).is_some_and(|frame| frame.number == 0)
        });
        is_broken = true;
        at = first.unwrap_or(at);
    }
    Some(Metadata { info, album, is_broken, end: at })
}

/// The first position from which the bytes begin as a frame does and `accept` takes them.
fn find(window: &mut Window, from: u64, end: u64, accept: impl Fn(&[u8]) -> bool) -> Option<u64> {
    let mut at = from;
    while at + HEADER as u64 <= end {
        let len = USUAL_FRAME.min((end - at) as usize);
        let bytes = window.bytes(at, len);
        if bytes.len() < HEADER {
            return None;
        }
        let last = bytes.len() - HEADER;
        let found = (0..=last).find(|&i| bytes[i] == 0xff && accept(&bytes[i..]));
        if let Some(found) = found {
            return Some(at + found as u64);
        }
        at += last as u64 + 1;
    }
    None
}

/// An unsigned number, its highest byte first.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

/// Whether the block of comments is whole, and the first value of `key`, which is in lower case.
fn comment(block: &[u8], key: &str) -> (bool, Option<String>) {
    fn field(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
        let (len, rest) = bytes.split_at_checked(4)?;
        rest.split_at_checked(u32::from_le_bytes(len.try_into().ok()?) as usize)
    }
    let Some((_, rest)) = field(block) else { return (false, None) };
    let Some((count, mut rest)) = rest.split_at_checked(4) else { return (false, None) };
    let mut found = None;
    for _ in 0..u32::from_le_bytes(count.try_into().unwrap_or_default()) {
        let Some((entry, after)) = field(rest) else { return (false, found) };
        rest = after;
        if let Some((name, value)) = std::str::from_utf8(entry).ok().and_then(|e| e.split_once('='))
            && name.eq_ignore_ascii_case(key)
        {
            found.get_or_insert(value.to_string());
        }
    }
    (true, found)
}

/// Whether the lengths in the block of a picture are right. `head` is its beginning, `len` its
/// stated length.
fn is_picture(head: &[u8], len: u64) -> bool {
    let mut at = 4;
    for skip in [0, 16] {
        let Some(field) = head.get(at..at + 4) else { return true };
        at = at.saturating_add(4 + number(field) as usize + skip);
    }
    // The head may be too short to tell.
    head.get(at..at + 4).is_none_or(|field| at as u64 + 4 + number(field) <= len)
}

/// The frames of a file.
pub(super) struct FlacFrames {
    window: Window,
    at: u64,
    end: u64,
    info: StreamInfo,
    /// Whether the stream is still to be announced.
    announce: bool,
    /// Whether the bytes at `at` directly follow a whole frame or the metadata.
    is_in_sync: bool,
    /// The samples of the stream's frames so far.
    samples: u64,
    /// The bytes in which the end of a frame was looked for.
    searched: u64,
    /// Whether there were broken frames in the stream, or bytes that are no frames.
    is_broken: bool,
    damage: Option<String>,
    pub(super) album: Option<String>,
}

impl FlacFrames {
    /// Reads the metadata at `start`; none if there is none of FLAC.
    pub(super) fn open(input: &Input, start: u64) -> Option<Self> {
        let mut window = Window::new(input.clone());
        let end = end_without_tags(input, start);
        let metadata = metadata(&mut window, start, end)?;
        Some(Self {
            window,
            at: metadata.end,
            end,
            info: metadata.info,
            announce: true,
            is_in_sync: true,
            samples: 0,
            searched: 0,
            is_broken: false,
            damage: metadata.is_broken.then(|| "a block of metadata is broken".to_string()),
            album: metadata.album,
        })
    }

    /// Whether the file is not yet one in which too much was searched.
    fn may_search(&self) -> bool {
        self.searched <= MAX_SEARCHED * self.end + MAX_SEARCHED_MORE
    }

    /// The metadata of a file that begins at `at` with a frame behind it.
    fn metadata(&mut self) -> Option<Metadata> {
        if !self.may_search() || self.window.bytes(self.at, 4) != b"fLaC" {
            return None;
        }
        let found = metadata(&mut self.window, self.at, self.end)?;
        if found.is_broken {
            self.searched += self.end - self.at; // for its first frame
        }
        let begins = self.window.bytes(found.end, HEADER);
        frame(begins, &found.info).is_some().then_some(found)
    }

    /// The length of the frame at `at`, and whether its checksum is right.
    fn frame_len(&mut self, number: u64) -> Option<(u64, bool)> {
        // Tags and other files are rare, so that they are looked for only if nothing else is found.
        let (len, is_whole) = self.frame_len_before(number, &[0xff]).unzip();
        if is_whole == Some(true) {
            return len.zip(is_whole);
        }
        let marked = self.frame_len_before(number, b"fTIA");
        marked.filter(|(_, is_whole)| *is_whole).or(len.zip(is_whole))
    }

    /// As [`Self::frame_len`], if what follows begins with one of these bytes or is the end.
    fn frame_len_before(&mut self, number: u64, first: &[u8]) -> Option<(u64, bool)> {
        let most = self.info.max_frame().min((self.end - self.at) as usize);
        if !self.may_search() {
            return None;
        }
        // Where the next frame seems to begin, if none has a right checksum before it.
        let mut next = None;
        let mut checksum = 0;
        let (mut checked, mut from, mut len) = (0, MIN_FRAME as usize, USUAL_FRAME);
        loop {
            let wanted = len.min(most);
            // The header of the next frame must be whole, too.
            let bytes = self.window.bytes(self.at, wanted + HEADER);
            let until = wanted.min(bytes.len());
            let start = from.min(until);
            let at_end = self.at + until as u64 >= self.end;
            while from <= until {
                let rest = bytes.get(from..until).unwrap_or_default();
                let Some(skipped) = find_byte(rest, first) else {
                    if at_end {
                        // The frame's own checksum makes the whole 0.
                        if crc16(checksum, &bytes[checked..until]) == 0 {
                            return Some((until as u64, true));
                        }
                    }
                    break;
                };
                from += skipped;
                let found = frame(&bytes[from..], &self.info);
                if next.is_none() && found.as_ref().is_some_and(|frame| frame.number > number) {
                    next = Some(from as u64);
                }
                if found.is_some() || is_marker(&bytes[from..]) {
                    checksum = crc16(checksum, &bytes[checked..from]);
                    checked = from;
                    if checksum == 0 {
                        self.searched += (from - start) as u64;
                        return Some((from as u64, true));
                    }
                }
                from += 1;
            }
            self.searched += (until - start) as u64;
            if until < wanted || wanted == most {
                return next.map(|len| (len, false));
            }
            from = until;
            len *= 4;
        }
    }

    /// Ends the stream: compares its samples with STREAMINFO.
    fn end_stream(&mut self) {
        let rate = self.info.rate as f64;
        let (found_s, stated_s) = (self.samples as f64 / rate, self.info.samples as f64 / rate);
        if found_s < stated_s - MAX_MISSING_S {
            let what = format!("{found_s:.1} s of {stated_s:.1} s could be decoded");
            self.damage.get_or_insert(what);
        } else if self.is_broken {
            self.damage.get_or_insert("a frame is broken".to_string());
        }
    }

    /// Goes to the next frame with a right checksum, or to the next file, behind `at`, where neither
    /// begins. Returns whether there is one.
    fn resync(&mut self) -> bool {
        // `fLaC` at `at` begins no file, or one without a frame: it would be found for ever.
        let mut at = self.at + 1;
        loop {
            let info = &self.info;
            let found = find_any(&mut self.window, at, self.end, info);
            let Some(found) = found else { return false };
            self.at = found;
            let bytes = self.window.bytes(found, HEADER);
            let Some(frame) = frame(bytes, &self.info) else { return true };
            if matches!(self.frame_len(frame.number), Some((_, true))) {
                self.is_broken = true;
                return true;
            }
            at = found + 1;
        }
    }
}

impl Packets for FlacFrames {
    fn next_step(&mut self) -> Result<Option<Step>> {
        loop {
            if self.announce {
                self.announce = false;
                return Ok(Some(Step::Stream(self.info.parameters().into())));
            }
            let head = self.window.bytes(self.at, 32).to_vec();
            if let Some(tag_end) = tag_end(&head, self.at) {
                self.at = tag_end;
                continue;
            }
            if let Some(metadata) = self.metadata() {
                self.end_stream();
                if metadata.is_broken {
                    self.damage.get_or_insert("a block of metadata is broken".to_string());
                }
                (self.at, self.info) = (metadata.end, metadata.info);
                (self.announce, self.is_in_sync) = (true, true);
                (self.samples, self.is_broken) = (0, false);
                continue;
            }
            let Some(frame) = frame(&head, &self.info).filter(|_| self.at < self.end) else {
                self.is_in_sync = false;
                if self.at < self.end && self.resync() {
                    continue;
                }
                self.end_stream();
                self.at = self.end;
                return Ok(None);
            };
            let (len, is_whole) = match self.frame_len(frame.number) {
                Some(found) => found,
                // The last frame, with something behind it; its decoder knows where it ends.
                None if self.is_in_sync => {
                    let most = self.info.max_frame() as u64;
                    let data = self.window.bytes(self.at, most as usize).into();
                    self.at += MIN_FRAME;
                    self.is_in_sync = false;
                    self.samples += frame.samples;
                    return Ok(Some(packet(data, frame.samples)));
                }
                None => (1, false),
            };
            let at = self.at;
            self.at += len;
            self.is_in_sync = is_whole;
            if is_whole {
                self.samples += frame.samples;
                let data = self.window.bytes(at, len as usize).into();
                return Ok(Some(packet(data, frame.samples)));
            }
            self.is_broken = true;
        }
    }

    fn damage(&mut self) -> Option<String> {
        self.damage.take()
    }
}

fn packet(data: Box<[u8]>, frames: u64) -> Step {
    Step::Packet(StreamPacket { data, frames, is_exact: true, trim_start: 0, trim_end: 0 })
}

/// The samples of a frame by its header; `stream_info` is the block STREAMINFO.
pub(super) fn frame_samples(packet: &[u8], stream_info: &[u8]) -> Option<u64> {
    frame(packet, &StreamInfo::parse(stream_info)?).map(|frame| frame.samples)
}

/// The position of the first of these bytes.
fn find_byte(bytes: &[u8], first: &[u8]) -> Option<usize> {
    match first {
        [byte] => memchr::memchr(*byte, bytes),
        _ => bytes.iter().position(|byte| first.contains(byte)),
    }
}

/// The checksum of a frame, whose polynomial is x^16 + x^15 + x^2 + 1 (RFC 9639, section 9.3), of
/// bytes that follow those of `crc`. Every byte of a file is checked, and this is most of the cost of a
/// frame that is not decoded.
fn crc16(crc: u16, bytes: &[u8]) -> u16 {
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc16Umts, u64::from(crc));
    digest.update(bytes);
    digest.finalize() as u16
}

/// Whether a tag or another FLAC file begins here.
fn is_marker(bytes: &[u8]) -> bool {
    [&b"fLaC"[..], b"TAG", b"ID3", b"APETAGEX"].iter().any(|marker| bytes.starts_with(marker))
}

/// Where the next frame or file seems to begin.
fn find_any(window: &mut Window, from: u64, end: u64, info: &StreamInfo) -> Option<u64> {
    let mut at = from;
    while at < end {
        let bytes = window.bytes(at, USUAL_FRAME);
        if bytes.is_empty() {
            return None;
        }
        let last = bytes.len().saturating_sub(HEADER);
        let found = (0..=last).find(|&i| match bytes[i] {
            0xff => frame(&bytes[i..], info).is_some(),
            b'f' => bytes[i..].starts_with(b"fLaC"),
            _ => false,
        });
        if let Some(found) = found {
            return Some(at + found as u64);
        }
        at += last as u64 + 1;
    }
    None
}

/// A frame header.
struct Frame {
    /// Of the frame, or of its first sample if the blocks differ in size.
    number: u64,
    /// Samples of a channel.
    samples: u64,
}

/// The frame header that begins here; none if its checksum is wrong, or it is of
/// another rate, bit depth or number of channels than STREAMINFO (RFC 9639, sections 8.2 and 9.1).
fn frame(bytes: &[u8], info: &StreamInfo) -> Option<Frame> {
    let &[0xff, sync, sizes, layout, first, ..] = bytes else { return None };
    if sync & 0xfe != 0xf8 || layout & 1 != 0 {
        return None;
    }
    let frame_channels = match layout >> 4 {
        count @ 0..=7 => u64::from(count) + 1,
        8..=10 => 2,
        _ => return None,
    };
    let frame_bits = [0, 8, 12, 0, 16, 20, 24, 32][usize::from(layout >> 1 & 7)];
    if frame_channels != info.channels || frame_bits != 0 && frame_bits != info.bits {
        return None;
    }
    // As UTF-8, but up to 36 bits.
    let more = match first.leading_ones() {
        0 => 0,
        ones @ 2..=7 => ones as usize - 1,
        _ => return None,
    };
    let mut value = u64::from(if more == 0 { first } else { first & (0x3f >> more) });
    for &byte in bytes.get(5..5 + more)? {
        value = value << 6 | u64::from(byte & 0x3f);
    }
    let mut len = 5 + more;
    let coded = |len: usize, count: usize| bytes.get(len..len + count).map(number);
    let samples = match sizes >> 4 {
        0 => return None,
        1 => 192,
        code @ 2..=5 => 576 << (code - 2),
        6 => coded(len, 1)? + 1,
        7 => coded(len, 2)? + 1,
        code => 256 << (code - 8),
    };
    len += [0, 0, 0, 0, 0, 0, 1, 2].get(usize::from(sizes >> 4)).copied().unwrap_or(0);
    let rates = [
        0, 88_200, 176_400, 192_000, 8_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000,
    ];
    match sizes & 15 {
        0 => {}
        12 => len += 1,
        13 | 14 => len += 2,
        15 => return None,
        code if rates[usize::from(code)] != info.rate => return None,
        _ => {}
    }
    let mut checksum = Crc8Ccitt::new(0);
    checksum.process_buf_bytes(bytes.get(..len)?);
    (bytes.get(len) == Some(&checksum.crc())).then_some(Frame { number: value, samples })
}

#[cfg(test)]
mod tests {
    use symphonia::core::checksum::Crc16Ansi;

    use super::*;

    #[test]
    fn the_checksum_is_that_of_symphonia() {
        let bytes: Vec<u8> =
            (0..1_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for len in (0..50).chain([999, 1_000]) {
            for cut in [0, len / 3, len] {
                let mut want = Crc16Ansi::new(0);
                want.process_buf_bytes(&bytes[..len]);
                let got = crc16(crc16(0, &bytes[..cut]), &bytes[cut..len]);
                assert_eq!(got, want.crc(), "{len} bytes, cut at {cut}");
            }
        }
    }
}
