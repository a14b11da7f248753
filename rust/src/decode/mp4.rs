//! MP4 and QuickTime files (ISO/IEC 14496-12): the samples of their first audio track.
//!
//! symphonia's reader refuses a file whose end is missing, ignores edit lists, and takes PCM for
//! little-endian. Here the tables say where the samples are, and what they say beyond the file's end
//! is damage. Entries are used as far as a table has them, whatever count it states. Durations are
//! not used, except those of the edit list, and the edit list only if it agrees with the samples.

use std::ops::Range;

use symphonia::core::codecs::audio::AudioCodecParameters;
use symphonia::core::codecs::audio::well_known::{
    CODEC_ID_AAC, CODEC_ID_ALAC, CODEC_ID_FLAC, CODEC_ID_MP3, CODEC_ID_OPUS, CODEC_ID_PCM_ALAW,
    CODEC_ID_PCM_F32BE, CODEC_ID_PCM_F32LE, CODEC_ID_PCM_F64BE, CODEC_ID_PCM_F64LE,
    CODEC_ID_PCM_MULAW, CODEC_ID_PCM_S8, CODEC_ID_PCM_S16BE, CODEC_ID_PCM_S16LE,
    CODEC_ID_PCM_S24BE, CODEC_ID_PCM_S24LE, CODEC_ID_PCM_S32BE, CODEC_ID_PCM_S32LE,
    CODEC_ID_PCM_U8,
};

use super::frames::channels;
use super::input::{Input, Window};
use super::{Packets, Span, Step, Stream, StreamPacket, chunks};
use crate::error::{Error, Result};

/// The largest index (`moov`) that is read, in bytes.
const MAX_INDEX: u64 = 1 << 28;

/// The largest sample, in bytes.
const MAX_SAMPLE_LEN: u64 = 1 << 24;

/// The bytes of all samples, as a multiple of the file's, after which the index is assumed to repeat
/// itself.
const MAX_DELIVERED: u64 = 8;

/// The frames of PCM in a packet.
const PCM_FRAMES: u64 = 4096;

/// The longest delay of an encoder, in seconds. An edit list that skips more is an edit.
const MAX_DELAY_S: f64 = 1.0;

/// A box: its type and its content, as much of it as there is.
struct Atom<'a> {
    kind: [u8; 4],
    content: &'a [u8],
}

/// The boxes in `bytes`.
fn atoms(mut bytes: &[u8]) -> impl Iterator<Item = Atom<'_>> {
    std::iter::from_fn(move || {
        let header = bytes.get(..8)?;
        let kind = header[4..8].try_into().ok()?;
        let (size, from) = match be(&header[..4]) {
            0 => (bytes.len() as u64, 8),
            1 => (be(bytes.get(8..16)?), 16),
            size => (size, 8),
        };
        let end = size.min(bytes.len() as u64) as usize;
        let content = bytes.get(from..end)?;
        bytes = &bytes[end..];
        Some(Atom { kind, content })
    })
}

/// The content of the first box of this type.
fn find<'a>(bytes: &'a [u8], kind: &[u8; 4]) -> Option<&'a [u8]> {
    atoms(bytes).find(|atom| &atom.kind == kind).map(|atom| atom.content)
}

/// The content of a box in boxes.
fn find_path<'a>(bytes: &'a [u8], path: &[&[u8; 4]]) -> Option<&'a [u8]> {
    path.iter().try_fold(bytes, |bytes, kind| find(bytes, kind))
}

/// An unsigned number, its highest byte first.
fn be(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

/// The number of `len` bytes at `at`.
fn number(bytes: &[u8], at: usize, len: usize) -> Option<u64> {
    bytes.get(at..at.checked_add(len)?).map(be)
}

/// The entries of a table whose header has `header` bytes: those that it has, whatever number it
/// states.
fn entries(table: Option<&[u8]>, header: usize, len: usize) -> impl Iterator<Item = &[u8]> {
    table.and_then(|table| table.get(header..)).unwrap_or_default().chunks_exact(len)
}

/// The samples of a track, one after the other in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    /// The position of the first sample; it may be outside of the file.
    at: i128,
    samples: u64,
}

/// The sizes of the samples, in bytes.
enum Sizes {
    /// Each is of this size. PCM is.
    Constant(u64),
    Table(Vec<u32>),
}

/// The fields of a track that fragments refer to.
#[derive(Clone, Copy, Debug, Default)]
struct FragmentDefaults {
    track_id: u64,
    size: u64,
}

pub(super) struct Mp4 {
    window: Window,
    len: u64,
    stream: Option<Stream>,
    /// The size of a frame of PCM in bytes; of another codec none.
    pcm_frame: Option<u64>,
    runs: std::vec::IntoIter<Run>,
    run: Run,
    sizes: Sizes,
    /// The samples so far, an index into `sizes`.
    sample: usize,
    fragments: FragmentDefaults,
    /// Where the next box may be a fragment.
    next_atom: u64,
    /// The bytes of the samples so far.
    delivered: u64,
    damage: Option<String>,
    ended: bool,
    pub(super) album: Option<String>,
}

impl Mp4 {
    /// Reads the boxes from `start` to the first fragment.
    pub(super) fn open(input: &Input, start: u64) -> Result<Self> {
        let len = input.len();
        let mut window = Window::new(input.clone());
        let (mut moov, mut media, mut fragment) = (None, None, None);
        let mut is_cut = false;
        let mut at = start;
        while let Some((kind, from, end)) = top_level(&mut window, at, len) {
            match &kind {
                b"moov" if moov.is_none() => {
                    let size = end.min(len) - from;
                    if size > MAX_INDEX {
                        return Err(Error::audio(format!("an index of {size} bytes")));
                    }
                    moov = Some(window.bytes(from, size as usize).to_vec());
                    is_cut = end > len;
                }
                b"mdat" if media.is_none() => media = Some(from..end.min(len)),
                b"moof" if fragment.is_none() => fragment = Some(at),
                _ => {}
            }
            at = end;
        }
        let moov = moov.ok_or_else(|| {
            Error::audio(
                "the index (moov), which says where the audio is, is missing: the file is cut short \
                 or was not finished",
            )
        })?;
        let audio: Vec<_> = atoms(&moov)
            .filter(|atom| &atom.kind == b"trak")
            .filter(|track| {
                find_path(track.content, &[b"mdia", b"hdlr"])
                    .is_none_or(|hdlr| hdlr.get(8..12) == Some(b"soun"))
            })
            .collect();
        let only_track = atoms(&moov).filter(|atom| &atom.kind == b"trak").count() == 1;
        let mut problem = "no audio track of a supported format".to_string();
        for track in audio {
            let table = find_path(track.content, &[b"mdia", b"minf", b"stbl"]).unwrap_or_default();
            let entry = match find(table, b"stsd").and_then(sample_entry) {
                Some(Ok(entry)) => entry,
                Some(Err(reason)) => {
                    problem = reason;
                    continue;
                }
                None => {
                    problem = lacks("stsd, the table of codecs", is_cut);
                    continue;
                }
            };
            let track_id = find(track.content, b"tkhd")
                .and_then(|tkhd| number(tkhd, if tkhd.first() == Some(&1) { 20 } else { 12 }, 4));
            let fragments = fragment_defaults(&moov, track_id.unwrap_or(1));
            let sizes = match entry.pcm_frame {
                Some(size) => Sizes::Constant(size),
                None => sample_sizes(table),
            };
            let contiguous = if only_track { media.clone() } else { None };
            let runs = runs(table, &sizes, contiguous, len, fragment.is_some());
            if fragment.is_none()
                && let Some(missing) = missing_table(table, &sizes, &runs)
            {
                problem = lacks(missing, is_cut);
                continue;
            }
            let span = span(&moov, track.content, entry.stream.parameters.codec == CODEC_ID_OPUS);
            let mut stream = entry.stream;
            stream.span = span;
            return Ok(Self {
                window,
                len,
                stream: Some(stream),
                pcm_frame: entry.pcm_frame,
                runs: runs.into_iter(),
                run: Run { at: 0, samples: 0 },
                sizes,
                sample: 0,
                fragments,
                next_atom: fragment.unwrap_or(len),
                delivered: 0,
                damage: is_cut.then(|| chunks::CUT.to_string()),
                ended: false,
                album: album(&moov),
            });
        }
        Err(Error::audio(problem))
    }

    /// Reads boxes up to the next fragment with samples of the track. Returns whether there is one.
    fn next_fragment(&mut self) -> bool {
        while let Some((kind, from, end)) = top_level(&mut self.window, self.next_atom, self.len) {
            let at = self.next_atom;
            self.next_atom = end;
            if &kind != b"moof" {
                continue;
            }
            if end > self.len {
                self.damage.get_or_insert_with(|| "ends within a fragment's index".to_string());
            }
            let size = (end.min(self.len) - from).min(MAX_INDEX) as usize;
            let moof = self.window.bytes(from, size).to_vec();
            let (runs, sizes) = fragment_runs(&moof, at, &self.fragments, self.len);
            if !runs.is_empty() {
                (self.runs, self.sizes, self.sample) = (runs.into_iter(), Sizes::Table(sizes), 0);
                return true;
            }
        }
        false
    }

    /// The position and the length of the next packet.
    fn next_range(&mut self) -> Option<(i128, u64)> {
        while self.run.samples == 0 {
            match self.runs.next() {
                Some(run) => self.run = run,
                None if self.next_fragment() => {}
                None => return None,
            }
        }
        let count = match (self.pcm_frame, &self.sizes) {
            (Some(_), Sizes::Constant(_)) => self.run.samples.min(PCM_FRAMES),
            _ => 1,
        };
        let len = match &self.sizes {
            Sizes::Constant(size) => count * size,
            Sizes::Table(sizes) => u64::from(*sizes.get(self.sample)?),
        };
        let range = (self.run.at, len);
        self.run.at += i128::from(len);
        self.run.samples -= count;
        self.sample += count as usize;
        Some(range)
    }
}

impl Packets for Mp4 {
    fn next_step(&mut self) -> Result<Option<Step>> {
        if let Some(stream) = self.stream.take() {
            return Ok(Some(Step::Stream(stream)));
        }
        while !self.ended {
            let Some((at, len)) = self.next_range() else {
                // A `mdat` that is larger than the file has no more samples.
                self.ended = true;
                break;
            };
            if len == 0 {
                continue;
            }
            self.delivered += len;
            if self.delivered > MAX_DELIVERED * self.len {
                self.ended = true;
                let what = "the index has the same samples again and again";
                self.damage.get_or_insert_with(|| what.to_string());
                break;
            }
            let in_file = u64::try_from(at).ok().filter(|&at| at < self.len);
            let data = match in_file {
                Some(at) if len <= MAX_SAMPLE_LEN => self.window.bytes(at, len as usize),
                _ => &[],
            };
            if (data.len() as u64) < len {
                self.ended = true;
                let what = "the index has samples beyond the end of the file";
                self.damage.get_or_insert_with(|| what.to_string());
            }
            // Of PCM, what there is; of another codec, whole samples.
            let whole = match self.pcm_frame {
                Some(frame) => data.len() - data.len() % frame as usize,
                None if self.ended => 0,
                None => data.len(),
            };
            if whole > 0 {
                let data = data[..whole].into();
                return Ok(Some(Step::Packet(StreamPacket {
                    data,
                    frames: self.pcm_frame.map_or(0, |frame| whole as u64 / frame),
                    is_exact: self.pcm_frame.is_some(),
                    trim_start: 0,
                    trim_end: 0,
                })));
            }
        }
        Ok(None)
    }

    fn damage(&mut self) -> Option<String> {
        self.damage.take()
    }

    fn skip(&mut self, frames: u64) -> Result<u64> {
        let (Some(frame), Sizes::Constant(size)) = (self.pcm_frame, &self.sizes) else {
            return Ok(0);
        };
        let frames = frames.min(self.run.samples);
        let end = self.run.at + i128::from(frames * size);
        // What is outside of the file is for the next packet to find.
        if *size != frame || self.run.at < 0 || end > i128::from(self.len) {
            return Ok(0);
        }
        self.run.at = end;
        self.run.samples -= frames;
        self.sample += frames as usize;
        self.delivered += frames * size;
        Ok(frames)
    }
}

/// The type of the box at `at`, and where its content begins and ends.
fn top_level(window: &mut Window, at: u64, len: u64) -> Option<([u8; 4], u64, u64)> {
    let header = window.bytes(at, 16);
    let kind: [u8; 4] = header.get(4..8)?.try_into().ok()?;
    let (size, header_len) = match be(&header[..4]) {
        0 => (len - at, 8),
        1 => (number(header, 8, 8)?, 16),
        size => (size, 8),
    };
    if size < header_len || !kind.iter().all(|byte| (0x20..0x7f).contains(byte) || *byte == 0xa9) {
        return None;
    }
    let from = at + header_len;
    (from <= len).then(|| (kind, from, at.saturating_add(size)))
}

/// The sizes in `stsz` or `stz2`.
fn sample_sizes(table: &[u8]) -> Sizes {
    if let Some(stsz) = find(table, b"stsz") {
        match number(stsz, 4, 4) {
            Some(size) if size > 0 => return Sizes::Constant(size),
            _ => {
                let sizes = entries(Some(stsz), 12, 4).map(|entry| be(entry) as u32);
                return Sizes::Table(sizes.collect());
            }
        }
    }
    let stz2 = find(table, b"stz2");
    let sizes = match stz2.and_then(|stz2| stz2.get(7)) {
        Some(16) => entries(stz2, 12, 2).map(|entry| be(entry) as u32).collect(),
        Some(8) => entries(stz2, 12, 1).map(|entry| be(entry) as u32).collect(),
        Some(4) => entries(stz2, 12, 1)
            .flat_map(|entry| [u32::from(entry[0] >> 4), u32::from(entry[0] & 15)])
            .collect(),
        _ => Vec::new(),
    };
    Sizes::Table(sizes)
}

/// The error of an index without a table.
fn lacks(table: &str, is_cut: bool) -> String {
    let state = if is_cut { "cut short" } else { "broken" };
    format!("the index (moov) is {state}: {table}, is missing or empty")
}

/// The table without which no sample of the track is found; none if there are samples.
fn missing_table(table: &[u8], sizes: &Sizes, runs: &[Run]) -> Option<&'static str> {
    if matches!(sizes, Sizes::Table(sizes) if sizes.iter().all(|&size| size == 0)) {
        return Some("stsz, the table of sample sizes");
    }
    runs.is_empty().then(|| match chunk_offsets(table)[..] {
        [] => "stco, the table of chunk offsets",
        _ => "stsc, the table of samples per chunk",
    })
}

/// The positions of the chunks in the file.
fn chunk_offsets(table: &[u8]) -> Vec<u64> {
    match find(table, b"co64") {
        Some(co64) => entries(Some(co64), 8, 8).map(be).collect(),
        None => entries(find(table, b"stco"), 8, 4).map(be).collect(),
    }
}

/// The samples by their chunks. If `contiguous` is the only track's data, samples that no chunk has
/// follow the last one.
fn runs(
    table: &[u8],
    sizes: &Sizes,
    contiguous: Option<Range<u64>>,
    len: u64,
    fragmented: bool,
) -> Vec<Run> {
    let chunks = chunk_offsets(table);
    let per_chunk: Vec<(u64, u64)> = entries(find(table, b"stsc"), 8, 12)
        .map(|entry| (be(&entry[..4]), be(&entry[4..8])))
        .collect();
    let stated = find(table, b"stsz").and_then(|stsz| number(stsz, 8, 4)).unwrap_or(0);
    let mut left = match sizes {
        Sizes::Table(sizes) => sizes.len() as u64,
        // A count without entries: what the chunks have counts.
        Sizes::Constant(_) => u64::MAX,
    };
    let mut runs: Vec<Run> = Vec::new();
    let mut next_sample = 0;
    let mut end = None;
    let mut group = 0;
    for (index, &at) in (1_u64..).zip(&chunks) {
        while per_chunk.get(group + 1).is_some_and(|next| next.0 <= index) {
            group += 1;
        }
        let Some(&(_, count)) = per_chunk.get(group) else { break };
        // A chunk before any data, or an empty one, is no chunk.
        if contiguous.as_ref().is_some_and(|data| at < data.start.min(16)) || count == 0 {
            break;
        }
        let count = count.min(left);
        if count == 0 {
            break;
        }
        let bytes = match sizes {
            Sizes::Constant(size) => count.saturating_mul(*size),
            Sizes::Table(sizes) => {
                sizes[next_sample..][..count as usize].iter().map(|&size| u64::from(size)).sum()
            }
        };
        runs.push(Run { at: i128::from(at), samples: count });
        next_sample += count as usize;
        if left != u64::MAX {
            left -= count;
        }
        end = Some(at.saturating_add(bytes));
    }
    if let Some(data) = contiguous
        && !fragmented
    {
        let at = end.unwrap_or(data.start);
        let rest = match sizes {
            Sizes::Table(_) => left,
            // The count that the table states may be of PCM frames or of bytes; no more than these.
            Sizes::Constant(size) if end.is_none() && stated > 0 => {
                stated.min(len.saturating_sub(at) / size)
            }
            Sizes::Constant(size) if end.is_none() => (data.end - data.start) / size,
            Sizes::Constant(_) => 0,
        };
        if rest > 0 {
            runs.push(Run { at: i128::from(at), samples: rest });
        }
    }
    runs
}

/// The sizes of the track's samples in fragments, from `trex`.
fn fragment_defaults(moov: &[u8], track_id: u64) -> FragmentDefaults {
    let mvex = find(moov, b"mvex").unwrap_or_default();
    let size = atoms(mvex)
        .filter(|atom| &atom.kind == b"trex")
        .find(|trex| number(trex.content, 4, 4) == Some(track_id))
        .and_then(|trex| number(trex.content, 16, 4));
    FragmentDefaults { track_id, size: size.unwrap_or(0) }
}

/// The samples of the track in the fragment at `at` of a file of `len` bytes, and their sizes.
fn fragment_runs(moof: &[u8], at: u64, track: &FragmentDefaults, len: u64) -> (Vec<Run>, Vec<u32>) {
    let (mut runs, mut sizes) = (Vec::new(), Vec::new());
    for traf in atoms(moof).filter(|atom| &atom.kind == b"traf") {
        let Some(tfhd) = find(traf.content, b"tfhd") else { continue };
        if number(tfhd, 4, 4) != Some(track.track_id) {
            continue;
        }
        let flags = number(tfhd, 1, 3).unwrap_or(0);
        let mut field = 8;
        let mut next = |flag: u64, len: usize| {
            let value = (flags & flag != 0).then(|| number(tfhd, field, len)).flatten();
            field += if flags & flag != 0 { len } else { 0 };
            value
        };
        let base = i128::from(next(0x1, 8).unwrap_or(at));
        next(0x2, 4);
        next(0x8, 4);
        let default_size = next(0x10, 4).unwrap_or(track.size);
        let mut follows = base;
        for run in atoms(traf.content).filter(|atom| &atom.kind == b"trun") {
            let flags = number(run.content, 1, 3).unwrap_or(0);
            let count = number(run.content, 4, 4).unwrap_or(0);
            let mut field = 8;
            let mut run_at = follows;
            if flags & 0x1 != 0 {
                let offset = number(run.content, field, 4).unwrap_or(0) as u32 as i32;
                run_at = base + i128::from(offset);
                field += 4;
            }
            field += if flags & 0x4 != 0 { 4 } else { 0 };
            let widths =
                [0x100, 0x200, 0x400, 0x800].map(|flag| usize::from(flags & flag != 0) * 4);
            let (entry_len, size_at) = (widths.iter().sum::<usize>(), widths[0]);
            let first = sizes.len();
            if widths[1] == 0 {
                // No more samples than the file has bytes.
                let left = len.saturating_sub(sizes.len() as u64);
                let count = count.min(len.checked_div(default_size).unwrap_or(0)).min(left);
                sizes.extend(std::iter::repeat_n(default_size as u32, count as usize));
            } else {
                let entries = run.content.get(field..).unwrap_or_default().chunks_exact(entry_len);
                let entries = entries.take(count as usize);
                sizes.extend(entries.map(|entry| be(&entry[size_at..][..4]) as u32));
            }
            let len: u64 = sizes[first..].iter().map(|&size| u64::from(size)).sum();
            follows = run_at + i128::from(len);
            runs.push(Run { at: run_at, samples: (sizes.len() - first) as u64 });
        }
    }
    (runs, sizes)
}

/// What of the decoded audio the edit list keeps, or the tag `iTunSMPB`.
fn span(moov: &[u8], track: &[u8], is_opus: bool) -> Option<Span> {
    let timescale = |header: Option<&[u8]>| {
        let header = header?;
        let at = if header.first() == Some(&1) { 20 } else { 12 };
        number(header, at, 4).filter(|&scale| scale > 0)
    };
    let media = timescale(find_path(track, &[b"mdia", b"mdhd"]))? as f64;
    let movie = timescale(find(moov, b"mvhd")).unwrap_or(1) as f64;
    let elst = find_path(track, &[b"edts", b"elst"]);
    let wide = elst.and_then(<[u8]>::first) == Some(&1);
    let edits: Vec<(u64, i64)> = entries(elst, 8, if wide { 20 } else { 12 })
        .map(|entry| {
            let (duration, time) = entry.split_at(if wide { 8 } else { 4 });
            let time =
                if wide { be(&time[..8]) as i64 } else { be(&time[..4]) as u32 as i32 as i64 };
            (be(duration), time)
        })
        // An empty edit is a pause before the track.
        .filter(|&(_, time)| time >= 0)
        .collect();
    if let [(duration, time)] = edits[..]
        && time > 0
    {
        let start_s = time as f64 / media;
        let length_s = (duration > 0).then(|| duration as f64 / movie);
        // Opus states its delay in its own header, too.
        let skipped_s = if is_opus { 0.0 } else { start_s };
        return (start_s <= MAX_DELAY_S).then_some(Span { start_s: skipped_s, length_s });
    }
    if is_opus {
        return None;
    }
    let (delay, length) = itunes_gapless(moov)?;
    let rate = find_path(track, &[b"mdia", b"minf", b"stbl", b"stsd"])
        .and_then(|stsd| number(stsd, 8 + 8 + 24, 2))
        .filter(|&rate| rate > 0)
        .map_or(media, |rate| rate as f64);
    let start_s = delay as f64 / rate;
    (start_s <= MAX_DELAY_S)
        .then(|| Span { start_s, length_s: (length > 0).then(|| length as f64 / rate) })
}

/// The items of the iTunes metadata.
fn items(moov: &[u8]) -> &[u8] {
    let meta = find_path(moov, &[b"udta", b"meta"]).unwrap_or_default();
    // In MP4 it has a version and flags, in QuickTime it has none.
    let is_plain = meta.get(4..8) == Some(b"hdlr");
    let meta = if is_plain { meta } else { meta.get(4..).unwrap_or_default() };
    find(meta, b"ilst").unwrap_or_default()
}

/// The delay and the length of the track in samples, by the tag `iTunSMPB`.
fn itunes_gapless(moov: &[u8]) -> Option<(u64, u64)> {
    let item = atoms(items(moov)).find(|item| {
        &item.kind == b"----"
            && find(item.content, b"name").is_some_and(|name| name.ends_with(b"iTunSMPB"))
    })?;
    let text = std::str::from_utf8(find(item.content, b"data")?.get(8..)?).ok()?;
    let mut fields = text.split_whitespace().map(|field| u64::from_str_radix(field, 16));
    let delay = fields.nth(1)?.ok()?;
    Some((delay, fields.nth(1)?.ok()?))
}

fn album(moov: &[u8]) -> Option<String> {
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(ToString::to_string);
    if let Some(item) = find(items(moov), b"\xa9alb") {
        return text(find(item, b"data")?.get(8..)?);
    }
    // QuickTime: a length, a language, a text.
    let item = find_path(moov, &[b"udta", b"\xa9alb"])?;
    let len = number(item, 0, 2)? as usize;
    text(item.get(4..4 + len)?)
}

/// The codec of a track.
struct SampleEntry {
    stream: Stream,
    pcm_frame: Option<u64>,
}

/// The first entry of `stsd`, or why its codec is not supported.
fn sample_entry(stsd: &[u8]) -> Option<std::result::Result<SampleEntry, String>> {
    let entry = atoms(stsd.get(8..)?).next()?;
    let fields = entry.content;
    let version = number(fields, 8, 2)?;
    let mut channel_count = number(fields, 16, 2)?;
    let mut bits = number(fields, 18, 2)?;
    let mut rate = number(fields, 24, 2)?;
    let mut lpcm_flags = 0;
    let boxes_at = match version {
        1 => 28 + 16,
        2 => {
            rate = f64::from_bits(number(fields, 32, 8)?) as u64;
            channel_count = number(fields, 40, 4)?;
            bits = number(fields, 48, 4)?;
            lpcm_flags = number(fields, 52, 4)?;
            28 + 36
        }
        _ => 28,
    };
    let boxes = fields.get(boxes_at.min(fields.len())..)?;
    // QuickTime puts the decoder's boxes into `wave`.
    let wave = find(boxes, b"wave").unwrap_or_default();
    let config = |kind: &[u8; 4]| find(boxes, kind).or_else(|| find(wave, kind));
    let little = config(b"enda").and_then(|enda| number(enda, 0, 2)).unwrap_or(0) != 0;

    let mut parameters = AudioCodecParameters::new();
    parameters.with_sample_rate(rate as u32);
    if let Ok(count @ 1..) = u8::try_from(channel_count) {
        parameters.with_channels(channels(count));
    }
    let pcm = |bits: u64, is_float: bool, is_little: bool| {
        Some(match (bits, is_float, is_little) {
            (1..=8, false, _) => CODEC_ID_PCM_S8,
            (16, false, true) => CODEC_ID_PCM_S16LE,
            (16, false, false) => CODEC_ID_PCM_S16BE,
            (24, false, true) => CODEC_ID_PCM_S24LE,
            (24, false, false) => CODEC_ID_PCM_S24BE,
            (32, false, true) => CODEC_ID_PCM_S32LE,
            (32, false, false) => CODEC_ID_PCM_S32BE,
            (32, true, true) => CODEC_ID_PCM_F32LE,
            (32, true, false) => CODEC_ID_PCM_F32BE,
            (64, true, true) => CODEC_ID_PCM_F64LE,
            (64, true, false) => CODEC_ID_PCM_F64BE,
            _ => return None,
        })
    };
    let name = String::from_utf8_lossy(&entry.kind).into_owned();
    let unsupported = Some(Err(format!("the codec {} is not supported", name.escape_default())));
    let lacks = |config| Some(Err(format!("the codec's configuration ({config}) is missing")));
    let pcm_bits = |default: u64| if bits == 0 { default } else { bits };
    let (codec, pcm_bits) = match &entry.kind {
        b"mp4a" | b".mp3" | b"ms\0U" => {
            let (object_type, config) = config(b"esds").map_or((None, None), elementary_stream);
            match object_type {
                Some(0x69 | 0x6b) => (Some(CODEC_ID_MP3), 0),
                Some(0x40 | 0x66..=0x68) => {
                    if let Some(config) = config {
                        parameters.with_extra_data(config.into());
                    }
                    (Some(CODEC_ID_AAC), 0)
                }
                None if &entry.kind == b"mp4a" => (Some(CODEC_ID_AAC), 0),
                None => (Some(CODEC_ID_MP3), 0),
                Some(_) => (None, 0),
            }
        }
        b"alac" => {
            let cookie = config(b"alac").and_then(|alac| alac.get(4..));
            let Some(cookie) = cookie else { return lacks("alac") };
            parameters.with_extra_data(cookie.into());
            (Some(CODEC_ID_ALAC), 0)
        }
        b"fLaC" => {
            let info = config(b"dfLa").and_then(|flac| flac.get(8..8 + 34));
            let Some(info) = info else { return lacks("dfLa") };
            parameters.with_extra_data(info.into());
            (Some(CODEC_ID_FLAC), 0)
        }
        b"Opus" => {
            let Some(head) = config(b"dOps").and_then(opus_head) else { return lacks("dOps") };
            parameters.with_extra_data(head.into());
            (Some(CODEC_ID_OPUS), 0)
        }
        b"raw " if pcm_bits(8) == 8 => (Some(CODEC_ID_PCM_U8), 8),
        b"raw " | b"twos" | b"sowt" | b"NONE" => {
            let bits = pcm_bits(16);
            (pcm(bits, false, &entry.kind == b"sowt"), bits)
        }
        b"in24" => (pcm(24, false, little), 24),
        b"in32" => (pcm(32, false, little), 32),
        b"fl32" => (pcm(32, true, little), 32),
        b"fl64" => (pcm(64, true, little), 64),
        // Bit 0 is set for floats, bit 1 for big-endian, bit 2 for signed.
        b"lpcm" if bits == 8 && lpcm_flags & 4 == 0 => (Some(CODEC_ID_PCM_U8), 8),
        b"lpcm" => (pcm(bits, lpcm_flags & 1 != 0, lpcm_flags & 2 == 0), bits),
        b"ipcm" | b"fpcm" => {
            // ISO/IEC 23003-5: flags and the bits of a sample.
            let config = config(b"pcmC").and_then(|config| config.get(4..6)).unwrap_or(&[0, 16]);
            let (is_little, bits) = (config[0] & 1 != 0, u64::from(config[1]));
            (pcm(bits, &entry.kind == b"fpcm", is_little), bits)
        }
        b"alaw" => (Some(CODEC_ID_PCM_ALAW), 8),
        b"ulaw" => (Some(CODEC_ID_PCM_MULAW), 8),
        _ => return unsupported,
    };
    let Some(codec) = codec else { return unsupported };
    parameters.for_codec(codec);
    let pcm_frame = (pcm_bits > 0).then(|| pcm_bits.div_ceil(8) * channel_count.max(1));
    Some(Ok(SampleEntry { stream: parameters.into(), pcm_frame }))
}

/// The object type and the decoder's config in `esds`, ISO/IEC 14496-1, section 7.2.6.
fn elementary_stream(esds: &[u8]) -> (Option<u64>, Option<&[u8]>) {
    /// The tag and the content of the next descriptor, and what follows.
    fn descriptor(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
        let (&tag, mut rest) = bytes.split_first()?;
        let mut len = 0;
        for _ in 0..4 {
            let (&byte, after) = rest.split_first()?;
            (len, rest) = (len << 7 | usize::from(byte & 0x7f), after);
            if byte & 0x80 == 0 {
                break;
            }
        }
        let (content, after) = rest.split_at(len.min(rest.len()));
        Some((tag, content, after))
    }
    let parsed = || {
        let (3, stream, _) = descriptor(esds.get(4..)?)? else { return None };
        let flags = *stream.get(2)?;
        let url = if flags & 0x40 != 0 { 1 + usize::from(*stream.get(3)?) } else { 0 };
        let skipped = 3 + usize::from(flags >> 7) * 2 + url + usize::from(flags >> 5 & 1) * 2;
        let (4, config, _) = descriptor(stream.get(skipped..)?)? else { return None };
        let object_type = u64::from(*config.first()?);
        let specific = match descriptor(config.get(13..).unwrap_or_default()) {
            Some((5, specific, _)) => Some(specific),
            _ => None,
        };
        Some((Some(object_type), specific))
    };
    parsed().unwrap_or((None, None))
}

/// The header of Ogg Opus that says the same as `dOps`, whose numbers are big-endian.
fn opus_head(dops: &[u8]) -> Option<Vec<u8>> {
    let mut head = [&b"OpusHead"[..], dops].concat();
    // The version is 0 here, 1 in Ogg.
    *head.get_mut(8)? = 1;
    head.get_mut(10..12)?.reverse();
    head.get_mut(12..16)?.reverse();
    head.get_mut(16..18)?.reverse();
    Some(head)
}
