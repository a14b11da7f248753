//! FLAC files without the metadata that a reader may stumble over.
//!
//! symphonia refuses a file whose cover or comments are broken. The audio needs the first block
//! alone, and the album the comments.

use symphonia::core::checksum::Crc8Ccitt;
use symphonia::core::io::Monitor;

use super::frames::end_without_tags;
use super::input::{Input, Part, Window};

/// The length of the block STREAMINFO, in bytes.
const STREAM_INFO: usize = 34;

/// The largest block of comments that is read, in bytes.
const MAX_COMMENTS: u64 = 1 << 24;

pub(super) struct Flac {
    pub(super) parts: Vec<Part>,
    pub(super) damage: Option<String>,
}

/// Reads the metadata at `start`; none if it does not begin as that of FLAC does.
pub(super) fn repaired(input: &Input, start: u64) -> Option<Flac> {
    let mut window = Window::new(input.clone());
    if window.bytes(start, 4) != b"fLaC" {
        return None;
    }
    let end = end_without_tags(input, start);
    let mut at = start + 4;
    let (mut info, mut comments, mut is_broken) = (None, None, false);
    loop {
        let header: [u8; 4] = window.bytes(at, 4).try_into().ok()?;
        let (kind, len) = (header[0] & 0x7f, number(&header[1..]));
        let content = at + 4;
        if kind > 6 && kind != 0x7e || content + len > end || (header[0] == 0xff) {
            is_broken = true;
            break;
        }
        match kind {
            0 if info.is_none() => {
                let bytes = window.bytes(content, STREAM_INFO);
                info = (bytes.len() == STREAM_INFO).then(|| bytes.to_vec());
            }
            4 if comments.is_none() && len <= MAX_COMMENTS => {
                let (whole, block) = readable_comments(window.bytes(content, len as usize));
                is_broken |= !whole;
                comments = Some(block);
            }
            6 => is_broken |= !is_picture(window.bytes(content, 1 << 10), len),
            _ => {}
        }
        at = content + len;
        if header[0] & 0x80 != 0 {
            break;
        }
    }
    let info = info?;
    if !is_frame(window.bytes(at, 16), &info) {
        // A block states the wrong length: the audio begins with frame 0.
        is_broken = true;
        let first = (start + 4 + 4 + STREAM_INFO as u64..end).find(|&at| {
            window.bytes(at, 2).first() == Some(&0xff) && is_first(&mut window, at, &info)
        });
        at = first.unwrap_or(at);
    }
    let mut bytes = b"fLaC".to_vec();
    bytes.extend([if comments.is_some() { 0 } else { 0x80 }, 0, 0, STREAM_INFO as u8]);
    bytes.extend(info);
    if let Some(comments) = comments {
        bytes.push(0x84);
        bytes.extend(&(comments.len() as u32).to_be_bytes()[1..]);
        bytes.extend(comments);
    }
    let damage = is_broken.then(|| "a block of metadata is broken".to_string());
    Some(Flac { parts: vec![Part::Bytes(bytes), Part::Range(at, end.saturating_sub(at))], damage })
}

/// An unsigned number, its highest byte first.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

/// Whether the block of comments is whole, and a block of those that can be read.
fn readable_comments(block: &[u8]) -> (bool, Vec<u8>) {
    fn field(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
        let (len, rest) = bytes.split_at_checked(4)?;
        rest.split_at_checked(u32::from_le_bytes(len.try_into().ok()?) as usize)
    }
    let mut entries: Vec<&[u8]> = Vec::new();
    let mut stated = None;
    if let Some((_, rest)) = field(block)
        && let Some((count, mut rest)) = rest.split_at_checked(4)
    {
        stated = Some(u32::from_le_bytes(count.try_into().unwrap_or_default()) as usize);
        while let Some((entry, after)) = field(rest)
            && Some(entries.len()) < stated
        {
            rest = after;
            entries.push(entry);
        }
    }
    let mut readable = vec![0; 4];
    readable.extend((entries.len() as u32).to_le_bytes());
    for entry in &entries {
        readable.extend((entry.len() as u32).to_le_bytes());
        readable.extend(*entry);
    }
    (stated == Some(entries.len()), readable)
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

/// Whether a frame header of this stream begins here.
fn is_frame(bytes: &[u8], info: &[u8]) -> bool {
    frame_number(bytes, info).is_some()
}

/// Whether the first frame of the stream is at `at`.
fn is_first(window: &mut Window, at: u64, info: &[u8]) -> bool {
    frame_number(window.bytes(at, 16), info) == Some(0)
}

/// The number in the frame header that begins here; none if its checksum is wrong, or it is of
/// another rate, bit depth or number of channels than STREAMINFO (RFC 9639, sections 8.2 and 9.1).
fn frame_number(bytes: &[u8], info: &[u8]) -> Option<u64> {
    let &[0xff, sync, sizes, layout, first, ..] = bytes else { return None };
    if sync & 0xfe != 0xf8 || layout & 1 != 0 {
        return None;
    }
    let packed = number(&info[10..18]);
    let (rate, channels, bits) = (packed >> 44, (packed >> 41 & 7) + 1, (packed >> 36 & 31) + 1);
    let frame_channels = match layout >> 4 {
        count @ 0..=7 => u64::from(count) + 1,
        8..=10 => 2,
        _ => return None,
    };
    let frame_bits = [0, 8, 12, 0, 16, 20, 24, 32][usize::from(layout >> 1 & 7)];
    if frame_channels != channels || frame_bits != 0 && frame_bits != bits {
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
    len += match sizes >> 4 {
        0 => return None,
        6 => 1,
        7 => 2,
        _ => 0,
    };
    let rates = [
        0, 88_200, 176_400, 192_000, 8_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000,
    ];
    match sizes & 15 {
        0 => {}
        12 => len += 1,
        13 | 14 => len += 2,
        15 => return None,
        code if rates[usize::from(code)] != rate => return None,
        _ => {}
    }
    let mut checksum = Crc8Ccitt::new(0);
    checksum.process_buf_bytes(bytes.get(..len)?);
    (bytes.get(len) == Some(&checksum.crc())).then_some(value)
}
