//! What a file is, by its content, and the reader of it.

use std::ops::Range;

use symphonia::core::codecs::CodecParameters;
use symphonia::core::codecs::audio::AudioCodecId;
use symphonia::core::codecs::audio::well_known::{
    CODEC_ID_ADPCM_IMA_QT, CODEC_ID_ADPCM_IMA_WAV, CODEC_ID_ADPCM_MS, CODEC_ID_OPUS,
};
use symphonia::core::errors::Error as Symphonia;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::well_known::{
    FORMAT_ID_AIFF, FORMAT_ID_MKV, FORMAT_ID_OGG, FORMAT_ID_WAVE,
};
use symphonia::core::formats::{FormatOptions, FormatReader, SeekMode, SeekTo, TrackType};
use symphonia::core::io::{MediaSourceStream, MediaSourceStreamOptions};
use symphonia::core::meta::{MetadataOptions, StandardTag};
use symphonia::core::units::Timestamp;

use super::flac::FlacFrames;
use super::frames::{Frames, end_without_tags, id3v2_len};
use super::input::{Input, Part, View, Window};
use super::mp4::Mp4;
use super::{Packets, Step, Stream, StreamPacket, chunks, matroska};
use crate::error::{Error, Result};

/// A file whose packets can be read.
pub(super) struct Opened {
    pub(super) packets: Box<dyn Packets>,
    pub(super) album: Option<String>,
    /// The duration in the file's header, if it is exact.
    pub(super) expected_s: Option<f64>,
    pub(super) damage: Option<String>,
    /// Where another file may be joined on.
    pub(super) end: Option<u64>,
}

/// Opens the file that begins at `start` of the input.
pub(super) fn open(input: &Input, start: u64) -> Result<Opened> {
    let mut window = Window::new(input.clone());
    let at = after_tags(&mut window, start);
    let head = window.bytes(at, 16).to_vec();
    let rest = |at: u64| vec![Part::Range(at, input.len().saturating_sub(at))];
    let failed = |error: Error| match input.take_failure() {
        Some(failure) => Error::reading(failure),
        None => error,
    };

    if let Some(mut flac) = FlacFrames::open(input, at) {
        let is_tagged = at > start || end_without_tags(input, at) < input.len();
        let tagged = || is_tagged.then(|| tagged_album(input, start)).flatten();
        let album = flac.album.take().or_else(tagged);
        return Ok(Opened { album, ..Opened::new(flac) });
    }
    if head.starts_with(b"OggS") {
        // symphonia looks for the last page of a file in which it can seek, and refuses the file if
        // there is none near its end.
        let view = View::new(input.clone(), rest(at)).unseekable();
        return with_symphonia(probe(view).map_err(failed)?, None);
    }
    if let Some(chunks) = chunks::repaired(input, at) {
        if let Some(frames) = chunks.mpeg.and_then(|(from, to)| Frames::open(input, from, to)) {
            return Ok(Opened { damage: chunks.damage, ..Opened::new(frames) });
        }
        let reader = probe(View::new(input.clone(), chunks.parts)).map_err(failed)?;
        let mut opened = with_symphonia(reader, None)?;
        (opened.damage, opened.end) = (chunks.damage, Some(chunks.end));
        return Ok(opened);
    }
    let is_mp4 = head.get(4..8).is_some_and(|kind| {
        [&b"ftyp"[..], b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"].contains(&kind)
    });
    if is_mp4 {
        let mut mp4 = Mp4::open(input, at).map_err(failed)?;
        return Ok(Opened { album: mp4.album.take(), ..Opened::new(mp4) });
    }
    if let Some(caf) = chunks::repaired_caf(&mut window, at, input.len()) {
        let reader = probe(View::new(input.clone(), caf.parts)).map_err(failed)?;
        let mut opened = with_symphonia(reader, caf.codec)?;
        opened.damage = caf.damage;
        return Ok(opened);
    }
    if let Some(matroska) = matroska::repaired(input, at) {
        let reader = probe(View::new(input.clone(), matroska.parts)).map_err(failed)?;
        let mut opened = with_symphonia(reader, None)?;
        (opened.damage, opened.end) = (matroska.damage, Some(matroska.end));
        return Ok(opened);
    }
    let is_other = [&b"\x1a\x45\xdf\xa3"[..], b"caff"].iter().any(|magic| head.starts_with(magic));
    if !is_other && let Some(frames) = Frames::open(input, at, end_without_tags(input, at)) {
        return Ok(Opened { album: tagged_album(input, start), ..Opened::new(frames) });
    }
    with_symphonia(probe(View::new(input.clone(), rest(start))).map_err(failed)?, None)
}

/// Where the tags ID3v2 at the start of a file end, and the zeros behind them.
pub(super) fn after_tags(window: &mut Window, start: u64) -> u64 {
    let mut at = start;
    while let Some(len) = id3v2_len(window.bytes(at, 10)) {
        // A tag with a wrong length may reach beyond the file.
        if window.bytes(at + len, 1).is_empty() {
            return at + 10;
        }
        at += len;
        let padding = (0..1 << 20).take_while(|i| window.bytes(at + i, 1) == [0]).count() as u64;
        if !window.bytes(at + padding, 1).is_empty() {
            at += padding;
        }
    }
    at
}

impl Opened {
    fn new(packets: impl Packets + 'static) -> Self {
        let packets = Box::new(packets);
        Self { packets, album: None, expected_s: None, damage: None, end: None }
    }
}

fn probe(view: View) -> Result<Box<dyn FormatReader>> {
    let stream = MediaSourceStream::new(Box::new(view), MediaSourceStreamOptions::default());
    symphonia::default::get_probe()
        .probe(&Hint::new(), stream, FormatOptions::default(), MetadataOptions::default())
        .map_err(|error| match error {
            Symphonia::Unsupported(_) | Symphonia::IoError(_) => {
                Error::audio("not an audio file of a supported format")
            }
            error => Error::audio(error.to_string()),
        })
}

/// The album in the tags around the audio: ID3 or APE.
fn tagged_album(input: &Input, start: u64) -> Option<String> {
    let all = vec![Part::Range(start, input.len() - start)];
    album(&mut *probe(View::new(input.clone(), all)).ok()?)
}

fn album(reader: &mut dyn FormatReader) -> Option<String> {
    reader.metadata().skip_to_latest()?.media.tags.iter().find_map(|tag| match &tag.std {
        Some(StandardTag::Album(album)) => Some(album.to_string()),
        _ => None,
    })
}

/// The packets of a reader; `codec` replaces the one that the reader states.
fn with_symphonia(
    mut reader: Box<dyn FormatReader>,
    codec: Option<AudioCodecId>,
) -> Result<Opened> {
    let album = album(&mut *reader);
    let format = reader.format_info().format;
    let (mut stream, track_id, ticks_per_s) = audio_track(&*reader)?;
    if let Some(codec) = codec {
        stream.parameters.for_codec(codec);
    }
    let track = reader.tracks().iter().find(|track| track.id == track_id);
    let frames = track.and_then(|track| track.num_frames);
    let rate = stream.parameters.sample_rate;
    // The duration in Matroska is that of the longest track.
    let expected_s = match (frames, rate) {
        (Some(frames), Some(rate)) if format != FORMAT_ID_MKV => {
            Some(frames as f64 / f64::from(rate.max(1)))
        }
        _ => None,
    };
    let packets = SymphoniaPackets {
        reader,
        track_id,
        ticks_per_s,
        rate: f64::from(rate.unwrap_or(0)),
        is_opus: stream.parameters.codec == CODEC_ID_OPUS,
        is_matroska: format == FORMAT_ID_MKV,
        can_seek: matches!(format, FORMAT_ID_WAVE | FORMAT_ID_AIFF)
            && !matches!(
                stream.parameters.codec,
                CODEC_ID_ADPCM_MS | CODEC_ID_ADPCM_IMA_WAV | CODEC_ID_ADPCM_IMA_QT
            ),
        total: frames.unwrap_or(0),
        last: 0..0,
        stream: Some(stream),
        has_positions: format == FORMAT_ID_OGG,
        next_position: None,
        missing_s: 0.0,
        damage: None,
    };
    Ok(Opened { album, expected_s, ..Opened::new(packets) })
}

/// The packets of a reader of symphonia.
struct SymphoniaPackets {
    reader: Box<dyn FormatReader>,
    track_id: u32,
    ticks_per_s: f64,
    rate: f64,
    is_opus: bool,
    is_matroska: bool,
    /// Whether the file is PCM in which the reader can seek.
    can_seek: bool,
    /// The frames of the track, 0 if they are not known, and the position of the last packet.
    total: u64,
    last: Range<u64>,
    /// The stream that is still to be announced.
    stream: Option<Stream>,
    /// Whether the positions of packets are exact, so that a gap shows missing packets.
    has_positions: bool,
    next_position: Option<i64>,
    missing_s: f64,
    damage: Option<String>,
}

impl SymphoniaPackets {
    /// Compares the position of a packet with the end of the one before.
    fn check_position(&mut self, start: i64, len: u64) {
        if let Some(next) = self.next_position
            && start > next
        {
            self.missing_s += (start - next) as f64 / self.ticks_per_s;
            if self.missing_s > super::MAX_MISSING_S {
                let what = format!("{:.1} s are missing in between", self.missing_s);
                self.damage = Some(what);
            }
        }
        self.next_position = start.checked_add_unsigned(len);
    }
}

impl Packets for SymphoniaPackets {
    fn next_step(&mut self) -> Result<Option<Step>> {
        if let Some(stream) = self.stream.take() {
            return Ok(Some(Step::Stream(stream)));
        }
        loop {
            let packet = match self.reader.next_packet() {
                Ok(Some(packet)) => packet,
                Ok(None) => return Ok(None),
                // The next stream of a chained Ogg file.
                Err(Symphonia::ResetRequired) => {
                    let (stream, track_id, ticks_per_s) = audio_track(&*self.reader)?;
                    (self.track_id, self.ticks_per_s) = (track_id, ticks_per_s);
                    self.is_opus = stream.parameters.codec == CODEC_ID_OPUS;
                    self.next_position = None;
                    return Ok(Some(Step::Stream(stream)));
                }
                Err(error) => return Err(Error::audio(format!("ends early: {error}"))),
            };
            if packet.track_id != self.track_id {
                continue;
            }
            if self.has_positions {
                self.check_position(packet.pts.get(), packet.block_dur().get());
            }
            let (start, len) = (packet.pts.get(), packet.block_dur().get());
            if let Ok(start) = u64::try_from(start) {
                self.last = start..start.saturating_add(len);
            }
            // Opus states its delay in its own header. In Matroska, what is before 0 is the delay.
            let trim_start = match packet.pts.get() {
                _ if self.is_opus => 0,
                start @ ..0 if self.is_matroska => {
                    (start.unsigned_abs() as f64 / self.ticks_per_s * self.rate).round() as u64
                }
                _ => packet.trim_start.get(),
            };
            return Ok(Some(Step::Packet(StreamPacket {
                trim_start,
                trim_end: packet.trim_end.get(),
                frames: packet.block_dur().get(),
                // In Matroska, positions and durations are rounded.
                is_exact: !self.is_matroska,
                data: packet.data,
            })));
        }
    }

    fn damage(&mut self) -> Option<String> {
        self.damage.take()
    }

    fn skip(&mut self, frames: u64) -> Result<u64> {
        // symphonia seeks to the start of a packet, all of which are of one length but the last.
        let at = self.last.end;
        let most = at.saturating_add(frames).min(self.total);
        let len = self.last.end - self.last.start;
        if !self.can_seek || len == 0 || !at.is_multiple_of(len) || most < at + len {
            return Ok(0);
        }
        let to = most - most % len;
        let ts = Timestamp::new(to as i64);
        let sought = SeekTo::Timestamp { ts, track_id: self.track_id };
        match self.reader.seek(SeekMode::Accurate, sought) {
            Ok(found) if found.actual_ts == ts => {
                self.last = to - len..to;
                Ok(to - at)
            }
            Ok(_) => Err(Error::audio("ends early: a seek went elsewhere")),
            Err(error) => Err(Error::audio(format!("ends early: {error}"))),
        }
    }
}

/// The first audio track of a reader: its stream, its number, and the ticks of its clock a second.
fn audio_track(reader: &dyn FormatReader) -> Result<(Stream, u32, f64)> {
    let missing = || Error::audio("no audio track of a supported format");
    let track = reader.default_track(TrackType::Audio).ok_or_else(missing)?;
    let Some(CodecParameters::Audio(parameters)) = &track.codec_params else {
        return Err(missing());
    };
    let ticks_per_s = track
        .time_base
        .map_or(1.0, |base| f64::from(base.denom.get()) / f64::from(base.numer.get()));
    Ok((parameters.clone().into(), track.id, ticks_per_s))
}
