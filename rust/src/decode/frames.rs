//! MPEG audio (MP1, MP2, MP3) and ADTS (AAC) files: frames one after the other, with tags before,
//! between and behind them.
//!
//! No length in a header ends such a file: the frames are read as long as there are any. A Xing or
//! Info frame begins a track, of which the file may have several, joined one to the other. Its
//! encoder's padding is trimmed if it states as many frames as there are.

use symphonia::core::audio::{Channels, layouts};
use symphonia::core::codecs::audio::well_known::{
    CODEC_ID_AAC, CODEC_ID_MP1, CODEC_ID_MP2, CODEC_ID_MP3,
};
use symphonia::core::codecs::audio::{AudioCodecId, AudioCodecParameters};

use super::input::{Input, Window};
use super::{Packets, Step, StreamPacket};
use crate::error::Result;

/// How far into a file the first frame may be, in bytes.
const MAX_JUNK: u64 = 1 << 20;

/// The frames in a row that show that a file has frames.
const FRAMES_IN_A_ROW: usize = 4;

/// The longest frame header that is read, in bytes.
const HEADER: usize = 9;

/// The delay of an MP3 decoder, in samples; a LAME header states that of the encoder alone.
const MP3_DECODER_DELAY: u64 = 528 + 1;

/// The most frames that the padding of an encoder takes: 4,095 samples, or seven short frames.
const MAX_PADDING_FRAMES: u64 = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Mpeg,
    Adts,
}

/// The header of a frame.
#[derive(Clone, Debug)]
struct Frame {
    codec: AudioCodecId,
    /// The version of MPEG audio, or the profile of AAC.
    version: u8,
    rate: u32,
    channels: u8,
    /// The whole frame in bytes.
    len: usize,
    /// The header in bytes, which is no part of an AAC packet.
    header_len: usize,
    samples: u64,
}

impl Frame {
    /// Whether the other is of the same stream.
    fn is_like(&self, other: &Self) -> bool {
        (self.codec, self.version, self.rate) == (other.codec, other.version, other.rate)
    }

    fn parse(family: Family, bytes: &[u8]) -> Option<Self> {
        match family {
            Family::Mpeg => Self::parse_mpeg(bytes),
            Family::Adts => Self::parse_adts(bytes),
        }
    }

    /// ISO/IEC 11172-3, section 2.4.2.3, and 13818-3; version 2.5 is Fraunhofer's.
    fn parse_mpeg(bytes: &[u8]) -> Option<Self> {
        let &[0xff, b, c, d, ..] = bytes else { return None };
        let (version, layer) = ((b >> 3) & 3, 4 - ((b >> 1) & 3));
        let (bitrate, rate) = (usize::from(c >> 4), usize::from((c >> 2) & 3));
        if b < 0xe0 || version == 1 || layer == 4 || rate == 3 || !(1..15).contains(&bitrate) {
            return None;
        }
        let kbit_s: [u32; 14] = match (version, layer) {
            (3, 1) => [32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448],
            (3, 2) => [32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384],
            (3, _) => [32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320],
            (_, 1) => [32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256],
            _ => [8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160],
        };
        let rate = [44_100, 48_000, 32_000][rate] >> [2, 0, 1, 0][usize::from(version)];
        let bits = kbit_s[bitrate - 1] * 1000;
        let padding = u32::from((c >> 1) & 1);
        let (len, samples, codec) = match layer {
            1 => ((12 * bits / rate + padding) * 4, 384, CODEC_ID_MP1),
            2 => (144 * bits / rate + padding, 1152, CODEC_ID_MP2),
            _ if version == 3 => (144 * bits / rate + padding, 1152, CODEC_ID_MP3),
            _ => (72 * bits / rate + padding, 576, CODEC_ID_MP3),
        };
        let channels = if d >> 6 == 3 { 1 } else { 2 };
        Some(Self { codec, version, rate, channels, len: len as usize, header_len: 4, samples })
    }

    /// ISO/IEC 13818-7, section 6.2.
    fn parse_adts(bytes: &[u8]) -> Option<Self> {
        let &[0xff, b, c, d, e, f, g, ..] = bytes else { return None };
        let rates = [
            96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025,
            8_000, 7_350,
        ];
        let rate = *rates.get(usize::from((c >> 2) & 15))?;
        let header_len = if b & 1 == 1 { 7 } else { 9 };
        let len = usize::from(d & 3) << 11 | usize::from(e) << 3 | usize::from(f >> 5);
        // One block a frame: nobody writes more.
        if b & 0xf6 != 0xf0 || len <= header_len || g & 3 != 0 {
            return None;
        }
        let channels = (c & 1) << 2 | d >> 6;
        let version = c >> 6;
        Some(Self { codec: CODEC_ID_AAC, version, rate, channels, len, header_len, samples: 1024 })
    }

    fn parameters(&self) -> AudioCodecParameters {
        let mut parameters = AudioCodecParameters::new();
        parameters.for_codec(self.codec).with_sample_rate(self.rate);
        if self.codec == CODEC_ID_AAC {
            // The audio specific config that says the same, ISO/IEC 14496-3, section 1.6.2.1.
            let rates = [
                96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000,
                11_025, 8_000, 7_350,
            ];
            let rate = rates.iter().position(|&rate| rate == self.rate).unwrap_or(4) as u16;
            let config =
                u16::from(self.version + 1) << 11 | rate << 7 | u16::from(self.channels) << 3;
            parameters.with_extra_data(Box::new(config.to_be_bytes()));
        }
        parameters.with_channels(channels(self.channels));
        parameters
    }
}

pub(super) fn channels(count: u8) -> Channels {
    match count {
        1 => layouts::CHANNEL_LAYOUT_MONO,
        2 => layouts::CHANNEL_LAYOUT_STEREO,
        count => Channels::Discrete(u16::from(count)),
    }
}

/// What a Xing, Info or VBRI frame says of the track that it begins.
#[derive(Debug, Default, PartialEq, Eq)]
struct TrackHeader {
    frames: Option<u64>,
    /// The delay of encoder and decoder, and the encoder's padding, in samples.
    delay: u64,
    padding: u64,
}

impl TrackHeader {
    /// Reads a whole frame of MP3; none if it is audio.
    fn parse(frame: &Frame, bytes: &[u8]) -> Option<Self> {
        if frame.codec != CODEC_ID_MP3 {
            return None;
        }
        let side_info = match (frame.version, frame.channels) {
            (3, 1) => 17,
            (3, _) => 32,
            (_, 1) => 9,
            _ => 17,
        };
        // After the header comes the checksum, if there is one, and the side information, zeros
        // here.
        let zeros_from = if bytes[1] & 1 == 0 { 6 } else { 4 };
        let after = |offset: usize| {
            let zeros = bytes.get(zeros_from..offset)?;
            zeros.iter().all(|&byte| byte == 0).then(|| &bytes[offset..])
        };
        if let Some(tag) = after(4 + side_info)
            && (tag.starts_with(b"Xing") || tag.starts_with(b"Info"))
            && tag.len() >= 8
        {
            return Some(Self::parse_xing(tag));
        }
        let tag = after(4 + 32)?;
        let frames = tag.get(14..18).and_then(|bytes| bytes.try_into().ok());
        tag.starts_with(b"VBRI").then(|| Self {
            frames: frames.map(|bytes| u64::from(u32::from_be_bytes(bytes))),
            ..Self::default()
        })
    }

    /// <http://gabriel.mp3-tech.org/mp3infotag.html>
    fn parse_xing(tag: &[u8]) -> Self {
        let mut header = Self::default();
        let flags = tag[7];
        let mut at = 8;
        if flags & 1 != 0 {
            header.frames = tag.get(at..at + 4).map(be);
            at += 4;
        }
        at += [(2, 4), (4, 100), (8, 4)]
            .iter()
            .filter(|(flag, _)| flags & flag != 0)
            .map(|(_, len)| len)
            .sum::<usize>();
        if let Some(lame) = tag.get(at..at + 24)
            && [&b"LAME"[..], b"Lavf", b"Lavc"].contains(&&lame[..4])
        {
            let trim = be(&lame[21..24]);
            header.delay = MP3_DECODER_DELAY + (trim >> 12);
            header.padding = (trim & 0xfff).saturating_sub(MP3_DECODER_DELAY);
        }
        header
    }
}

/// An unsigned number, its highest byte first.
fn be(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

/// The frames of a file.
pub(super) struct Frames {
    window: Window,
    family: Family,
    at: u64,
    end: u64,
    /// The header of the last frame.
    last: Frame,
    /// Whether the decoder of the track is still to be announced.
    announce: bool,
    header: TrackHeader,
    /// The frames of the track so far.
    frames: u64,
    /// Samples of the delay that are still to be dropped.
    delay: u64,
    /// Samples of the padding, once the number of frames agrees with the header.
    padding: Option<u64>,
    damage: Option<String>,
}

impl Frames {
    /// Finds the first frames between `start` and `end`.
    pub(super) fn open(input: &Input, start: u64, end: u64) -> Option<Self> {
        let mut window = Window::new(input.clone());
        let limit = end.min(start + MAX_JUNK);
        let mut at = start;
        let (family, last) = loop {
            // None at the end, or if the file cannot be read.
            let byte = *window.bytes(at, 1).first().filter(|_| at < limit)?;
            let found = (byte == 0xff).then(|| {
                [Family::Mpeg, Family::Adts].into_iter().find_map(|family| {
                    Some((family, frames_at(&mut window, family, at, end, at == start)?))
                })
            });
            match found.flatten() {
                Some(found) => break found,
                None => at += 1,
            }
        };
        Some(Self {
            window,
            family,
            at,
            end,
            last,
            announce: true,
            header: TrackHeader::default(),
            frames: 0,
            delay: 0,
            padding: None,
            damage: None,
        })
    }

    fn header_at(&mut self, at: u64) -> Option<Frame> {
        frame_at(&mut self.window, self.family, at, self.end)
    }

    /// Where the next frame begins after a loss of synchronisation, or none.
    fn resync(&mut self) -> Option<u64> {
        let mut at = self.at;
        let mut is_damage = false;
        while at < self.end {
            if let Some(tag_end) = tag_end(self.window.bytes(at, 32), at) {
                at = tag_end.max(at + 1);
                continue;
            }
            let byte = self.window.bytes(at, 1).first().copied()?;
            if byte == 0xff
                && let Some(frame) = frames_at(&mut self.window, self.family, at, self.end, false)
                && frame.codec == self.last.codec
            {
                if is_damage {
                    let what = format!("{} bytes between the frames are no frames", at - self.at);
                    self.damage.get_or_insert(what);
                }
                return Some(at);
            }
            // Zeros are padding.
            is_damage |= byte != 0;
            at += 1;
        }
        None
    }

    /// Ends the track: compares its frames with its header.
    fn end_track(&mut self) {
        if let Some(stated) = self.header.frames
            // Some encoders count the header's frame.
            && self.frames + 1 < stated
        {
            let seconds =
                |frames: u64| frames as f64 * self.last.samples as f64 / f64::from(self.last.rate);
            let [found_s, stated_s] = [seconds(self.frames), seconds(stated)];
            let what = format!("{found_s:.1} s of {stated_s:.1} s could be decoded");
            self.damage.get_or_insert(what);
        }
    }

    /// The number of frames from `at` to the end of the track, up to `most`.
    fn frames_left(&mut self, mut at: u64, most: u64) -> u64 {
        let mut count = 0;
        while count < most
            && let Some(frame) = self.header_at(at)
        {
            let bytes = self.window.bytes(at, frame.len);
            if bytes.len() < frame.len || TrackHeader::parse(&frame, bytes).is_some() {
                break;
            }
            at += frame.len as u64;
            count += 1;
        }
        count
    }

    /// The samples to trim from the end of the frame, which is the `frames`-th.
    fn trim_end(&mut self, frame: &Frame) -> u64 {
        let Some(stated) = self.header.frames else { return 0 };
        if self.header.padding == 0 || self.frames + MAX_PADDING_FRAMES < stated {
            return 0;
        }
        if self.padding.is_none() {
            let next = self.at + frame.len as u64;
            let count = self.frames + self.frames_left(next, 2 * MAX_PADDING_FRAMES);
            self.padding = Some(if count == stated { self.header.padding } else { 0 });
        }
        let after = stated.saturating_sub(self.frames) * frame.samples;
        self.padding.unwrap_or(0).saturating_sub(after).min(frame.samples)
    }
}

impl Packets for Frames {
    fn next_step(&mut self) -> Result<Option<Step>> {
        loop {
            let in_sync = self.header_at(self.at).filter(|frame| {
                // A frame of another kind counts if the next one is like it.
                frame.is_like(&self.last)
                    || frames_at(&mut self.window, self.family, self.at, self.end, false)
                        .is_some_and(|frame| frame.codec == self.last.codec)
            });
            let Some(frame) = in_sync else {
                let Some(at) = self.resync() else {
                    self.end_track();
                    self.at = self.end;
                    return Ok(None);
                };
                self.at = at;
                continue;
            };
            let bytes = self.window.bytes(self.at, frame.len).to_vec();
            if bytes.len() < frame.len || self.at + frame.len as u64 > self.end {
                self.end_track();
                self.damage.get_or_insert("ends within a frame".to_string());
                self.at = self.end;
                return Ok(None);
            }
            if let Some(header) = TrackHeader::parse(&frame, &bytes) {
                if self.frames > 0 {
                    self.end_track();
                }
                self.at += frame.len as u64;
                (self.frames, self.delay, self.padding) = (0, header.delay, None);
                (self.header, self.last, self.announce) = (header, frame, true);
                continue;
            }
            if self.announce {
                self.announce = false;
                self.last = frame;
                return Ok(Some(Step::Stream(self.last.parameters().into())));
            }
            self.frames += 1;
            let trim_start = self.delay.min(frame.samples);
            self.delay -= trim_start;
            let trim_end = self.trim_end(&frame);
            self.at += frame.len as u64;
            let skip = if self.family == Family::Adts { frame.header_len } else { 0 };
            let data = bytes[skip..].into();
            let frames = frame.samples;
            self.last = frame;
            let is_exact = true;
            let packet = StreamPacket { data, frames, is_exact, trim_start, trim_end };
            return Ok(Some(Step::Packet(packet)));
        }
    }

    fn damage(&mut self) -> Option<String> {
        self.damage.take()
    }
}

/// The samples of a frame of MPEG audio at this rate, by its header; none if it is of another rate.
pub(super) fn mpeg_samples(packet: &[u8], rate: u32) -> Option<u64> {
    Frame::parse_mpeg(packet).filter(|frame| frame.rate == rate).map(|frame| frame.samples)
}

/// What a frame of MP3 says of the main data, which may begin in earlier frames (ISO/IEC 11172-3,
/// section 2.4.1.7).
pub(super) struct Reservoir {
    pub(super) is_version_1: bool,
    /// How many bytes before the frame's own main data, headers and side information not counted, its
    /// data begins.
    pub(super) begin: usize,
    /// The bytes of main data in the frame.
    pub(super) main_data: usize,
}

/// Reads the side information of a frame of MP3.
pub(super) fn reservoir(packet: &[u8]) -> Option<Reservoir> {
    let frame = Frame::parse_mpeg(packet)?;
    let is_version_1 = frame.version == 3;
    let checksum = if packet[1] & 1 == 0 { 2 } else { 0 };
    let side_info = 4 + checksum;
    let side_info_len = match (is_version_1, frame.channels) {
        (true, 1) => 17,
        (true, _) => 32,
        (false, 1) => 9,
        (false, _) => 17,
    };
    let &[high, low] = packet.get(side_info..side_info + 2)? else { return None };
    // Nine bits, or eight.
    let begin = if is_version_1 {
        usize::from(high) << 1 | usize::from(low >> 7)
    } else {
        usize::from(high)
    };
    let main_data = packet.len().saturating_sub(side_info + side_info_len);
    Some(Reservoir { is_version_1, begin, main_data })
}

/// The header at `at`.
fn frame_at(window: &mut Window, family: Family, at: u64, end: u64) -> Option<Frame> {
    let header = HEADER.min(end.saturating_sub(at) as usize);
    Frame::parse(family, window.bytes(at, header))
}

/// The header at `at`, if there are frames in a row: [`FRAMES_IN_A_ROW`], or two to the end, or,
/// `at_start`, one.
fn frames_at(
    window: &mut Window,
    family: Family,
    at: u64,
    end: u64,
    at_start: bool,
) -> Option<Frame> {
    let first = frame_at(window, family, at, end)?;
    let mut next = at + first.len as u64;
    for count in 1..FRAMES_IN_A_ROW {
        match frame_at(window, family, next, end) {
            Some(frame) if frame.is_like(&first) => next += frame.len as u64,
            // A tag or the end.
            _ => {
                let at_end = next >= end || tag_end(window.bytes(next, 32), next).is_some();
                return (at_end && (count > 1 || at_start && next <= end)).then_some(first);
            }
        }
    }
    Some(first)
}

/// Where the tag that begins with `bytes`, at `at`, ends: ID3v2, ID3v1, APE, Lyrics3; none if it is
/// no tag.
pub(super) fn tag_end(bytes: &[u8], at: u64) -> Option<u64> {
    if let Some(len) = id3v2_len(bytes) {
        return Some(at + len);
    }
    if bytes.starts_with(b"TAG+") {
        return Some(at + 227);
    }
    if bytes.starts_with(b"TAG") {
        return Some(at + 128);
    }
    if bytes.starts_with(b"APETAGEX") && bytes.len() >= 32 {
        // The size counts the items and the footer; this may be the header or the footer.
        let size = u64::from(u32::from_le_bytes(bytes[12..16].try_into().ok()?));
        let is_header = bytes[23] & 0x20 != 0;
        return Some(at + 32 + if is_header { size } else { 0 });
    }
    None
}

/// The length of an ID3v2 tag, header and footer included.
pub(super) fn id3v2_len(bytes: &[u8]) -> Option<u64> {
    let &[b'I', b'D', b'3', major, revision, flags, a, b, c, d, ..] = bytes else { return None };
    if major == 0xff || revision == 0xff || [a, b, c, d].iter().any(|&byte| byte >= 0x80) {
        return None;
    }
    let size = [a, b, c, d].iter().fold(0, |size, &byte| size << 7 | u64::from(byte));
    Some(10 + size + if flags & 0x10 != 0 { 10 } else { 0 })
}

/// Where the audio of a file ends: before its ID3v1, APE and Lyrics3 tags.
pub(super) fn end_without_tags(input: &Input, start: u64) -> u64 {
    let mut window = Window::new(input.clone());
    let mut end = input.len();
    loop {
        let mut is_at = |back: u64, marker: &[u8]| {
            end >= start + back && window.bytes(end - back, marker.len()) == marker
        };
        if is_at(128, b"TAG") {
            end -= 128;
        } else if is_at(227, b"TAG+") {
            end -= 227;
        } else if is_at(32, b"APETAGEX") {
            let footer = window.bytes(end - 32, 32);
            let size =
                u64::from(u32::from_le_bytes([footer[12], footer[13], footer[14], footer[15]]));
            let header = if footer[23] & 0x80 != 0 { 32 } else { 0 };
            // The footer is 32 of these bytes.
            match end.checked_sub((size + header).max(32)) {
                Some(before) if before >= start => end = before,
                _ => end -= 32,
            }
        } else if is_at(9, b"LYRICS200") {
            let digits = window.bytes(end - 15, 6);
            let size = std::str::from_utf8(digits).ok().and_then(|text| text.parse::<u64>().ok());
            match size.and_then(|size| end.checked_sub(size + 15)) {
                Some(before) if before >= start => end = before,
                _ => end -= 9,
            }
        } else {
            return end;
        }
    }
}
