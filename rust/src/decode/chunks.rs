//! WAV (RIFF, RF64), AIFF and CAF files with a header whose sizes are right.
//!
//! The sizes in these headers are often wrong: 0 or the largest number if the file was written to a
//! pipe, too large if its end is missing. symphonia's readers rely on them, so that they get a header
//! that states what there is.

use symphonia::core::codecs::audio::AudioCodecId;
use symphonia::core::codecs::audio::well_known::CODEC_ID_PCM_S8;

use super::frames::end_without_tags;
use super::input::{Input, Part, Window};

/// The largest chunk in front of the samples that is read, in bytes.
const MAX_CHUNK: u64 = 1 << 20;

/// Sizes from here on mean that the size was not known: 0x7fffffff or 0xffffffff, often less the
/// header or rounded down.
const UNKNOWN_SIZES: [std::ops::RangeInclusive<u64>; 2] =
    [0x7fff_0000..=0x8000_0000, 0xfff0_0000..=0xffff_ffff];

/// The part of the samples that bytes behind them must have to count as samples: a quarter.
const MIN_REST: u64 = 4;

/// The damage of a file whose end is missing.
pub(super) const CUT: &str = "the header states more than the file has: its end is missing";

/// A file of chunks as it should be.
pub(super) struct Chunks {
    pub(super) parts: Vec<Part>,
    /// Where the samples begin and end if they are frames of MPEG audio.
    pub(super) mpeg: Option<(u64, u64)>,
    pub(super) damage: Option<String>,
    /// Where the file ends, and another one may be joined on.
    pub(super) end: u64,
}

/// The fields of `fmt ` and `COMM` that matter here.
struct Layout {
    /// The bytes of a frame, or of a block of frames.
    block: u64,
}

/// Reads the header at `start`; none if it is none.
pub(super) fn repaired(input: &Input, start: u64) -> Option<Chunks> {
    let mut window = Window::new(input.clone());
    let header: [u8; 12] = window.bytes(start, 12).try_into().ok()?;
    let is_wave = matches!(&header[..4], b"RIFF" | b"RF64" | b"BW64") && header[8..] == *b"WAVE";
    let is_aiff = header[..4] == *b"FORM" && matches!(&header[8..], b"AIFF" | b"AIFC");
    if !is_wave && !is_aiff {
        return None;
    }
    let number = |bytes: &[u8]| -> u64 {
        let bytes = bytes.iter();
        let fold = |value: u64, &byte: &u8| value << 8 | u64::from(byte);
        if is_wave { bytes.rev().fold(0, fold) } else { bytes.fold(0, fold) }
    };
    let written = |value: u64| -> [u8; 4] {
        let value = u32::try_from(value).unwrap_or(u32::MAX);
        if is_wave { value.to_le_bytes() } else { value.to_be_bytes() }
    };
    let end = end_without_tags(input, start);
    let form_end = start.saturating_add(8).saturating_add(number(&header[4..8]));
    let (samples_id, format_id) = if is_wave { (b"data", b"fmt ") } else { (b"SSND", b"COMM") };

    let mut at = start + 12;
    let mut before = Vec::new();
    let mut format: Option<Vec<u8>> = None;
    let mut size_64 = None;
    // Where the content of the samples' chunk begins, and its size in the header.
    let mut samples = None;
    while samples.is_none() || format.is_none() {
        let chunk = window.bytes(at, 8).to_vec();
        if chunk.len() < 8 {
            break;
        }
        let (id, size, content) = (&chunk[..4], number(&chunk[4..]), at + 8);
        if id == samples_id {
            samples = Some((content, size));
        } else if size <= MAX_CHUNK {
            let bytes = window.bytes(content, size as usize).to_vec();
            if bytes.len() as u64 == size {
                if id == format_id {
                    format = Some(bytes);
                } else if id == b"ds64" && size >= 16 {
                    size_64 = Some(number(&bytes[8..16]));
                } else if id == b"LIST" && bytes.starts_with(b"INFO") {
                    // Tags do not matter for the sound, but symphonia refuses a file for their sizes.
                    let list = info_list(&bytes, number);
                    before.extend(b"LIST");
                    before.extend(written(list.len() as u64));
                    before.extend(list);
                } else if id == b"FVER" {
                    before.extend_from_slice(&chunk);
                    before.extend(bytes);
                    before.resize(before.len().next_multiple_of(2), 0);
                }
            }
        }
        // A chunk of an odd size is followed by a zero.
        at = content.saturating_add(size).saturating_add(size % 2);
    }
    let ((content, stated), mut format) = (samples?, format?);
    let stated = if is_wave && stated == 0xffff_ffff { size_64.unwrap_or(stated) } else { stated };
    // In AIFF an offset and a block size are in front.
    let inner = if is_wave { 0 } else { 8 };
    let first = content + inner;
    let available = end.saturating_sub(first);
    let stated = stated.saturating_sub(inner);
    let is_unknown = UNKNOWN_SIZES.iter().any(|range| range.contains(&(stated + inner)));

    let mut mpeg = None;
    let layout = if is_wave {
        let tag = number(format.get(..2)?);
        let channels = number(format.get(2..4)?).max(1);
        let block = number(format.get(12..14)?).max(1);
        let bits = number(format.get(14..16)?);
        // Samples of 24 bits in 4 bytes, or 20 in 3: the rest are zeros below.
        let container = block / channels * 8;
        if matches!(tag, 1 | 0xfffe) && block % channels == 0 && container <= 32 && bits < container
        {
            format[14..16].copy_from_slice(&(container as u16).to_le_bytes());
        }
        // MP2 and MP3.
        if matches!(tag, 0x50 | 0x55) {
            mpeg = Some(());
        }
        Layout { block }
    } else {
        let channels = number(format.get(..2)?).max(1);
        let bits = number(format.get(6..8)?).max(1);
        Layout { block: channels * bits.div_ceil(8) }
    };

    let mut damage = None;
    let len = if is_unknown && stated > available {
        available
    } else if stated > available {
        damage = Some(CUT.to_string());
        available
    } else {
        let behind = first + stated + stated % 2;
        let rest = end.saturating_sub(behind);
        let next = window.bytes(behind, 12).to_vec();
        let is_whole = rest < 8
            || joined(&next)
            || is_chunk(&next, rest, number)
            || (stated > 0 && form_end == behind && rest < stated / MIN_REST)
            || (stated > 0 && rest < layout.block);
        if is_whole {
            stated
        } else {
            if stated > 0 {
                let what = "the header states fewer samples than the file has";
                damage = Some(what.to_string());
            }
            available
        }
    };
    // The samples are read to the last whole frame or block.
    let whole = len - len % layout.block;
    let kept = if whole > 0 { whole } else { len };
    let mpeg = mpeg.map(|()| (first, first + len));

    let mut parts = Vec::new();
    if is_aiff {
        let frames = number(format.get(2..6)?);
        // For PCM a frame is a block; for a compressed codec the number cannot be known from it.
        let is_pcm = header[8..] == *b"AIFF"
            || matches!(
                format.get(18..22)?,
                b"NONE"
                    | b"twos"
                    | b"sowt"
                    | b"fl32"
                    | b"FL32"
                    | b"fl64"
                    | b"FL64"
                    | b"in24"
                    | b"in32"
                    | b"raw "
            );
        if is_pcm {
            format[2..6].copy_from_slice(&written(kept / layout.block));
            let stated = frames * layout.block;
            if damage.is_none() && stated > kept && stated - kept >= layout.block * 4096 {
                damage = Some("the header states more frames than the file has".to_string());
            }
        }
    }
    let mut bytes = header.to_vec();
    if is_wave {
        bytes[..4].copy_from_slice(b"RIFF");
    }
    bytes.extend(format_id);
    bytes.extend(written(format.len() as u64));
    bytes.extend(&format);
    bytes.resize(bytes.len().next_multiple_of(2), 0);
    bytes.extend(before);
    bytes.extend(samples_id);
    bytes.extend(written(inner + kept));
    bytes.extend(vec![0; inner as usize]);
    let form_len = bytes.len() as u64 - 8 + kept;
    bytes[4..8].copy_from_slice(&written(form_len));
    parts.push(Part::Bytes(bytes));
    parts.push(Part::Range(first, kept));
    let mut file_end = first + len + len % 2;
    // The chunks behind the samples.
    loop {
        let next = window.bytes(file_end, 12).to_vec();
        if joined(&next) || !is_chunk(&next, end.saturating_sub(file_end), number) {
            break;
        }
        let size = number(&next[4..8]);
        file_end += 8 + size + size % 2;
    }
    Some(Chunks { parts, mpeg, damage, end: file_end })
}

/// A CAF file as it should be.
pub(super) struct Caf {
    pub(super) parts: Vec<Part>,
    pub(super) damage: Option<String>,
    /// The codec, if the reader takes it for another one.
    pub(super) codec: Option<AudioCodecId>,
}

/// Reads a CAF file up to the last of its chunks, with a size of the samples that is right; none if it
/// is none (Apple, Core Audio Format Specification 1.0).
pub(super) fn repaired_caf(window: &mut Window, start: u64, len: u64) -> Option<Caf> {
    if window.bytes(start, 4) != b"caff" {
        return None;
    }
    let mut caf = Caf { parts: vec![Part::Range(start, 8)], damage: None, codec: None };
    let mut at = start + 8;
    while let Ok(chunk) = <[u8; 12]>::try_from(window.bytes(at, 12)) {
        let (id, stated) = chunk.split_at(4);
        let stated = i64::from_be_bytes(stated.try_into().ok()?);
        let rest = len - at - 12;
        let is_data = id == b"data";
        let size = match u64::try_from(stated) {
            Ok(size) if size <= rest && is_id(id) => size,
            Ok(_) if is_data => {
                caf.damage = Some(CUT.to_string());
                rest
            }
            // Of samples that are the last chunk, the size need not be known.
            Err(_) if is_data && stated == -1 => rest,
            _ => break,
        };
        let mut head = [id, &size.to_be_bytes()].concat();
        let mut content = (at + 12, size);
        if id == b"desc" && size == 32 {
            let mut description = window.bytes(content.0, 32).to_vec();
            let (format, rest) = description.split_at_mut(12);
            let (is_float, bits) = (rest[3] & 1 == 1, &rest[16..]);
            if format[8..] == *b"lpcm" && !is_float && bits == 8_u32.to_be_bytes() {
                // symphonia's reader refuses PCM of 8 bits; µ-law has frames of the same size.
                format[8..].copy_from_slice(b"ulaw");
                caf.codec = Some(CODEC_ID_PCM_S8);
            }
            head.extend(description);
            content = (at + 12 + size, 0);
        }
        caf.parts.extend([Part::Bytes(head), Part::Range(content.0, content.1)]);
        at += 12 + size;
    }
    Some(caf)
}

/// A list of tags with the sizes that its texts have; without those that do not fit.
fn info_list(content: &[u8], number: impl Fn(&[u8]) -> u64) -> Vec<u8> {
    let mut list = b"INFO".to_vec();
    let mut rest = &content[4..];
    while let Some((head, behind)) = rest.split_at_checked(8)
        && let Some(text) = behind.get(..number(&head[4..]) as usize)
    {
        list.extend(head);
        list.extend(text);
        list.resize(list.len().next_multiple_of(2), 0);
        rest = behind.get(text.len().next_multiple_of(2)..).unwrap_or_default();
    }
    list
}

/// Whether another file begins here.
fn joined(bytes: &[u8]) -> bool {
    matches!(bytes, [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'A', b'V', b'E', ..])
        || matches!(bytes, [b'F', b'O', b'R', b'M', _, _, _, _, b'A', b'I', b'F', b'F' | b'C', ..])
}

/// Whether a chunk begins here that fits into the `rest` of the file.
fn is_chunk(bytes: &[u8], rest: u64, number: impl Fn(&[u8]) -> u64) -> bool {
    bytes.get(..4).is_some_and(is_id)
        && bytes.get(4..8).is_some_and(|size| number(size).saturating_add(8) <= rest)
}

/// Whether these bytes may be the name of a chunk.
fn is_id(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ')
}
