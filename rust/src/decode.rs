//! Decoding of audio files to mono samples at the model's rate.
//!
//! MP3, Ogg (Vorbis, Opus, FLAC), FLAC, WAV, AIFF, MP4 (AAC-LC, ALAC) and AAC files. The format is
//! detected from the content, not from the file name. Channels are averaged. A damaged file is
//! decoded as far as possible; see [`Track::damage`](crate::Track::damage).

use std::any::Any;
use std::fs::File;
use std::io::{Cursor, Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use symphonia::core::audio::{Audio, GenericAudioBufferRef};
use symphonia::core::codecs::CodecParameters;
use symphonia::core::codecs::audio::well_known::{CODEC_ID_MP3, CODEC_ID_OPUS, CODEC_ID_VORBIS};
use symphonia::core::codecs::audio::{AudioCodecParameters, AudioDecoder, AudioDecoderOptions};
use symphonia::core::errors::Error as Symphonia;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatOptions, FormatReader, TrackType};
use symphonia::core::io::{MediaSource, MediaSourceStream, MediaSourceStreamOptions};
use symphonia::core::meta::{MetadataOptions, MetadataRevision, StandardTag};
use symphonia::core::packet::Packet;

use crate::error::{Error, Result};
use crate::opus::{OPUS_RATE, OpusPackets};
use crate::resample::Resampler;

/// The longest audio that is accepted.
const MAX_DURATION_S: f64 = 24.0 * 3600.0;

/// The largest sample that is accepted, 180 dB above full scale. Larger ones could overflow in the
/// resampler.
const MAX_SAMPLE: f32 = 1e9;

/// The bytes read from a file, as a multiple of its size, after which its reader is assumed to loop
/// forever.
const MAX_READS: u64 = 8;

/// By how much a file may be shorter than its header states before that counts as damage, in
/// seconds.
const MAX_MISSING_S: f64 = 0.1;

/// Mono audio at [`SAMPLE_RATE`](crate::SAMPLE_RATE), the input of the model.
#[derive(Debug, Clone)]
pub struct ResampledAudio {
    /// The file that the samples are from, for error messages.
    pub path: PathBuf,
    /// Samples, nominally from -1 to 1.
    pub samples: Vec<f32>,
}

/// Decodes a file to mono samples at [`SAMPLE_RATE`](crate::SAMPLE_RATE).
///
/// # Errors
///
/// Fails if the file cannot be read, has no audio that can be decoded, or more than 24 hours of it.
pub fn decode<P: AsRef<Path>>(path: P) -> Result<ResampledAudio> {
    let path = path.as_ref();
    let mut samples = Vec::new();
    catch_decoder_panic(path, || {
        decode_blocks(Source::open(path)?, |block| {
            samples.extend_from_slice(block);
            Ok(())
        })
    })?;
    Ok(ResampledAudio { path: path.to_path_buf(), samples })
}

/// Decodes the content of a file, like [`decode`].
///
/// # Errors
///
/// As [`decode`].
pub fn decode_bytes(bytes: Vec<u8>) -> Result<ResampledAudio> {
    let mut samples = Vec::new();
    catch_decoder_panic(Path::new(""), || {
        let len = bytes.len() as u64;
        let media = ReadLimit::new(Cursor::new(bytes), len);
        decode_blocks(Source::new(Box::new(media))?, |block| {
            samples.extend_from_slice(block);
            Ok(())
        })
    })?;
    Ok(ResampledAudio { path: PathBuf::new(), samples })
}

/// Runs `work` on a file. A panic of a decoder becomes an error of that file.
pub(crate) fn catch_decoder_panic<T>(path: &Path, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let result = panic_to_message(work).unwrap_or_else(|message| Err(Error::audio(message)));
    result.map_err(|error| error.at(path))
}

/// Runs `work`, and returns the message of a panic as an error.
fn panic_to_message<T>(work: impl FnOnce() -> T) -> std::result::Result<T, String> {
    catch_unwind(AssertUnwindSafe(work))
        .map_err(|panic| format!("the decoder panicked: {}", panic_message(&*panic)))
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// The time that each stage of [`embed_file`](crate::AudioEmbeddingModel::embed_file) took.
#[derive(Debug, Clone, Copy, Default)]
pub struct StageTimes {
    /// Reading and decoding.
    pub decode: Duration,
    /// Resampling.
    pub resample: Duration,
    /// The model.
    pub embed: Duration,
}

/// Facts about a file that was decoded to its end.
#[derive(Debug, Clone, Default)]
pub(crate) struct DecodeStats {
    pub(crate) duration_s: f64,
    pub(crate) album: Option<String>,
    pub(crate) damage: Option<String>,
    pub(crate) times: StageTimes,
}

/// Decodes and resamples `source`, and passes the samples to `sink` block by block. The time in
/// `sink` counts as `embed`.
pub(crate) fn decode_blocks(
    mut source: Source,
    mut sink: impl FnMut(&[f32]) -> Result<()>,
) -> Result<DecodeStats> {
    let mut stats = DecodeStats::default();
    let mut resampler: Option<Resampler> = None;
    let mut resampled = Vec::new();
    let mut stopwatch = Stopwatch(Instant::now());
    loop {
        let more = source.next_block()?;
        stopwatch.lap(&mut stats.times.decode);
        resampled.clear();
        if !more {
            break;
        }
        if !source.mono.iter().all(|sample| sample.abs() <= MAX_SAMPLE) {
            return Err(Error::audio("a sample is too large or not finite"));
        }
        stats.duration_s += source.mono.len() as f64 / f64::from(source.rate.max(1));
        if stats.duration_s > MAX_DURATION_S {
            return Err(Error::audio("more than 24 hours of audio"));
        }
        // If the sample rate changes within the file, a new resampler takes over.
        let mut current = match resampler.take() {
            Some(current) if current.rate() == source.rate => current,
            previous => {
                if let Some(previous) = previous {
                    previous.finish(&mut resampled)?;
                }
                Resampler::new(source.rate)?
            }
        };
        current.push(&source.mono, &mut resampled)?;
        resampler = Some(current);
        stopwatch.lap(&mut stats.times.resample);
        sink(&resampled)?;
        stopwatch.lap(&mut stats.times.embed);
    }
    if let Some(last) = resampler {
        last.finish(&mut resampled)?;
        stopwatch.lap(&mut stats.times.resample);
        sink(&resampled)?;
        stopwatch.lap(&mut stats.times.embed);
    }
    source.check_duration(stats.duration_s)?;
    stats.album = source.album;
    stats.damage = source.damage;
    Ok(stats)
}

/// The start of the current lap.
struct Stopwatch(Instant);

impl Stopwatch {
    /// Adds the time since the last lap to `total`.
    fn lap(&mut self, total: &mut Duration) {
        let now = Instant::now();
        *total += now - self.0;
        self.0 = now;
    }
}

enum Codec {
    Symphonia(Box<dyn AudioDecoder>),
    Opus(Box<OpusPackets>),
}

/// A file that is being decoded.
pub(crate) struct Source {
    format: Box<dyn FormatReader>,
    codec: Codec,
    track_id: u32,
    parameters: AudioCodecParameters,
    /// The last block, its channels averaged.
    mono: Vec<f32>,
    /// The sample rate of the last block, in Hz.
    rate: u32,
    /// The duration in the file's header, if it is exact.
    expected_s: Option<f64>,
    album: Option<String>,
    damage: Option<String>,
}

impl Source {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let io = |error| Error::io(path, error);
        let metadata = std::fs::metadata(path).map_err(io)?;
        if !metadata.is_file() {
            return Err(Error::audio("not a file"));
        }
        let file = File::open(path).map_err(io)?;
        Self::new(Box::new(ReadLimit::new(file, metadata.len())))
    }

    fn new(media: Box<dyn MediaSource>) -> Result<Self> {
        if media.byte_len() == Some(0) {
            return Err(Error::audio("the file is empty"));
        }
        let stream = MediaSourceStream::new(media, MediaSourceStreamOptions::default());
        let mut format = symphonia::default::get_probe()
            .probe(&Hint::new(), stream, FormatOptions::default(), MetadataOptions::default())
            .map_err(|error| match error {
                Symphonia::Unsupported(_) | Symphonia::IoError(_) => {
                    Error::audio("not an audio file of a supported format")
                }
                error => Error::audio(error.to_string()),
            })?;
        let album = format.metadata().skip_to_latest().and_then(album);
        let (track_id, parameters, codec) = select_track(&*format)?;
        let frames = format.tracks().iter().find(|track| track.id == track_id);
        let frames = frames.and_then(|track| track.num_frames);
        // The length of an MP3 file is often an estimate.
        let expected_s = match (frames, parameters.sample_rate) {
            (Some(frames), Some(rate)) if parameters.codec != CODEC_ID_MP3 => {
                Some(frames as f64 / f64::from(rate.max(1)))
            }
            _ => None,
        };
        Ok(Self {
            format,
            codec,
            track_id,
            parameters,
            mono: Vec::new(),
            rate: 0,
            expected_s,
            album,
            damage: None,
        })
    }

    /// Decodes the next non-empty block into `mono`. Returns whether there was one.
    fn next_block(&mut self) -> Result<bool> {
        loop {
            let packet = match panic_to_message(|| self.format.next_packet()) {
                Ok(Ok(Some(packet))) => packet,
                Ok(Ok(None)) => return Ok(false),
                // The next stream of a chained Ogg file.
                Ok(Err(Symphonia::ResetRequired)) => {
                    (self.track_id, self.parameters, self.codec) = select_track(&*self.format)?;
                    continue;
                }
                Ok(Err(error)) => {
                    self.set_damage(format!("ends early: {error}"));
                    return Ok(false);
                }
                // After a panic the reader must not be used again.
                Err(reason) => {
                    self.set_damage(format!("ends early: {reason}"));
                    return Ok(false);
                }
            };
            if packet.track_id != self.track_id {
                continue;
            }
            match self.decode_packet(&packet) {
                Ok(()) if self.mono.is_empty() => {}
                Ok(()) => return Ok(true),
                Err(reason) => self.set_damage(reason),
            }
        }
    }

    /// Keeps the first damage.
    fn set_damage(&mut self, damage: String) {
        self.damage.get_or_insert(damage);
    }

    /// Compares what was decoded with the file's header: less is damage, and nothing is an error.
    fn check_duration(&mut self, decoded_s: f64) -> Result<()> {
        if decoded_s == 0.0 {
            let reason = self.damage.as_deref().unwrap_or("the file has no samples");
            return Err(Error::audio(format!("no audio: {reason}")));
        }
        if let Some(expected_s) = self.expected_s
            && decoded_s < expected_s - MAX_MISSING_S
        {
            self.set_damage(format!("{decoded_s:.1} s of {expected_s:.1} s could be decoded"));
        }
        Ok(())
    }

    fn decode_packet(&mut self, packet: &Packet) -> std::result::Result<(), String> {
        match &mut self.codec {
            Codec::Opus(opus) => {
                self.rate = OPUS_RATE;
                opus.decode(&packet.data, packet.trim_end.get(), &mut self.mono)
                    .map_err(|error| error.to_string())
            }
            Codec::Symphonia(decoder) => {
                let error = match decoder.decode(packet) {
                    Ok(buffer) => {
                        self.rate = average(&buffer, &mut self.mono);
                        return Ok(());
                    }
                    Err(error) => error.to_string(),
                };
                // An MP3 decoder keeps the rate and channels of its first frame. A new decoder takes
                // over where they change.
                if self.parameters.codec == CODEC_ID_MP3
                    && let Ok(mut fresh) = symphonia_decoder(&self.parameters)
                    && let Ok(buffer) = fresh.decode(packet)
                {
                    self.rate = average(&buffer, &mut self.mono);
                    *decoder = fresh;
                    return Ok(());
                }
                Err(error)
            }
        }
    }
}

fn select_track(format: &dyn FormatReader) -> Result<(u32, AudioCodecParameters, Codec)> {
    let track = format
        .default_track(TrackType::Audio)
        .ok_or_else(|| Error::audio("no audio track of a supported format"))?;
    let Some(CodecParameters::Audio(parameters)) = &track.codec_params else {
        return Err(Error::audio("no audio track of a supported format"));
    };
    let channels = parameters.channels.as_ref().map_or(0, |channels| channels.count());
    if parameters.codec == CODEC_ID_VORBIS && channels > 2 {
        // symphonia 0.6.1 drops some of them, which would give a wrong embedding.
        return Err(Error::audio(format!(
            "Vorbis with {channels} channels is not supported, only 1 or 2"
        )));
    }
    let codec = if parameters.codec == CODEC_ID_OPUS {
        let head = parameters.extra_data.as_deref().unwrap_or_default();
        Codec::Opus(Box::new(OpusPackets::new(head)?))
    } else {
        let decoder = symphonia_decoder(parameters);
        Codec::Symphonia(decoder.map_err(|error| Error::audio(error.to_string()))?)
    };
    Ok((track.id, parameters.clone(), codec))
}

fn symphonia_decoder(
    parameters: &AudioCodecParameters,
) -> symphonia::core::errors::Result<Box<dyn AudioDecoder>> {
    symphonia::default::get_codecs().make_audio_decoder(parameters, &AudioDecoderOptions::default())
}

/// Writes the mean of the channels to `mono`, and returns the sample rate in Hz.
fn average(buffer: &GenericAudioBufferRef<'_>, mono: &mut Vec<f32>) -> u32 {
    use symphonia::core::audio::conv::IntoSample;
    macro_rules! average {
        ($buffer:expr) => {{
            let scale = 1.0 / $buffer.num_planes().max(1) as f32;
            for plane in $buffer.iter_planes() {
                for (sum, &sample) in mono.iter_mut().zip(plane) {
                    let sample: f32 = sample.into_sample();
                    *sum += sample * scale;
                }
            }
        }};
    }
    mono.clear();
    mono.resize(buffer.frames(), 0.0);
    match buffer {
        GenericAudioBufferRef::U8(buffer) => average!(buffer),
        GenericAudioBufferRef::U16(buffer) => average!(buffer),
        GenericAudioBufferRef::U24(buffer) => average!(buffer),
        GenericAudioBufferRef::U32(buffer) => average!(buffer),
        GenericAudioBufferRef::S8(buffer) => average!(buffer),
        GenericAudioBufferRef::S16(buffer) => average!(buffer),
        GenericAudioBufferRef::S24(buffer) => average!(buffer),
        GenericAudioBufferRef::S32(buffer) => average!(buffer),
        GenericAudioBufferRef::F32(buffer) => average!(buffer),
        GenericAudioBufferRef::F64(buffer) => average!(buffer),
    }
    buffer.spec().rate()
}

fn album(metadata: &MetadataRevision) -> Option<String> {
    metadata.media.tags.iter().find_map(|tag| match &tag.std {
        Some(StandardTag::Album(album)) => Some(album.to_string()),
        _ => None,
    })
}

/// A byte source that fails after [`MAX_READS`] times its length, so that a reader cannot loop
/// forever.
struct ReadLimit<R> {
    inner: R,
    len: u64,
    remaining: u64,
}

impl<R> ReadLimit<R> {
    fn new(inner: R, len: u64) -> Self {
        let remaining = len.saturating_mul(MAX_READS).saturating_add(1 << 20);
        Self { inner, len, remaining }
    }
}

impl<R: Read> Read for ReadLimit<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        // An empty read counts too: a reader may loop at the end of the file.
        self.remaining = self
            .remaining
            .checked_sub(read.max(1) as u64)
            .ok_or_else(|| std::io::Error::other("the file makes its reader loop forever"))?;
        Ok(read)
    }
}

impl<R: Seek> Seek for ReadLimit<R> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.inner.seek(to)
    }
}

impl<R: Read + Seek + Send + Sync> MediaSource for ReadLimit<R> {
    fn is_seekable(&self) -> bool {
        true
    }

    fn byte_len(&self) -> Option<u64> {
        Some(self.len)
    }
}
