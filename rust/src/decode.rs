//! Files to mono samples.
//!
//! MP3, Ogg Vorbis, Opus, FLAC, WAV, AIFF, and M4A (AAC and ALAC), told apart by what is in the
//! file, not by its name. Channels are averaged. What can be decoded of a damaged file is
//! decoded, and the damage is told.

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

use crate::embeddings::{AudioEmbeddingModel, Heard, ResampledAudio};
use crate::error::{Error, Result};
use crate::opus::{OPUS_RATE, OpusPackets};
use crate::resample::Resampler;

/// The longest audio that is taken.
const MAX_DURATION_S: f64 = 24.0 * 3600.0;

/// The largest sample that is taken, 180 dB above full scale: the resampler's sums of samples
/// stay far from overflow.
const MAX_SAMPLE: f32 = 1e9;

/// How often a file's bytes may be read over before a reader is taken to run in circles.
const MAX_READS: u64 = 8;

/// How much audio may be missing before it is called damage, in seconds.
const SHORT_S: f64 = 0.1;

/// Decodes a file to one channel at [`SAMPLE_RATE`](crate::SAMPLE_RATE).
///
/// # Errors
///
/// Fails if the file cannot be read, holds no audio that can be decoded, or more than 24 hours
/// of it.
pub fn decode<P: AsRef<Path>>(path: P) -> Result<ResampledAudio> {
    let path = path.as_ref();
    let mut samples = Vec::new();
    contained(path, || {
        listen(open(path)?, |heard| {
            samples.extend_from_slice(heard);
            Ok(())
        })
    })?;
    Ok(ResampledAudio { path: path.to_path_buf(), samples })
}

/// Decodes a file that is in memory, as [`decode`].
///
/// # Errors
///
/// As [`decode`].
pub fn decode_bytes(bytes: Vec<u8>) -> Result<ResampledAudio> {
    let mut samples = Vec::new();
    contained(Path::new(""), || {
        let len = bytes.len() as u64;
        listen(Source::new(Box::new(Bounded::new(Cursor::new(bytes), len)))?, |heard| {
            samples.extend_from_slice(heard);
            Ok(())
        })
    })?;
    Ok(ResampledAudio { path: PathBuf::new(), samples })
}

/// A file that was heard to its end.
#[derive(Debug, Clone)]
pub struct Song {
    heard: Heard,
    listened: Listened,
}

impl Song {
    /// The embedding, and what it was made from.
    #[must_use]
    pub fn heard(&self) -> &Heard {
        &self.heard
    }

    /// The length of the audio.
    #[must_use]
    pub fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.listened.duration_s)
    }

    /// The album that the file's tags name.
    #[must_use]
    pub fn album(&self) -> Option<&str> {
        self.listened.album.as_deref()
    }

    /// What was wrong with the file, if something was: the embedding is of the rest.
    #[must_use]
    pub fn damage(&self) -> Option<&str> {
        self.listened.damage.as_deref()
    }

    /// The time that decoding, resampling and embedding took.
    #[must_use]
    pub fn times(&self) -> [Duration; 3] {
        self.listened.times
    }
}

impl AudioEmbeddingModel {
    /// The embedding of a file. The audio streams through: a long file takes no more memory than
    /// a short one.
    ///
    /// # Errors
    ///
    /// As [`decode`] and [`embed`](Self::embed).
    pub fn embed_file<P: AsRef<Path>>(&self, path: P) -> Result<Song> {
        let path = path.as_ref();
        contained(path, || {
            let mut stream = self.stream();
            let mut listened = listen(open(path)?, |samples| stream.push(samples))?;
            let start = Instant::now();
            let heard = stream.finish()?;
            listened.times[2] += start.elapsed();
            Ok(Song { heard, listened })
        })
    }
}

/// Runs `work` on a file; a panic of a decoder becomes an error of that file.
fn contained<T>(path: &Path, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let done = caught(work).unwrap_or_else(|reason| Err(Error::audio(reason)));
    done.map_err(|error| error.at(path))
}

/// Runs `work`; a panic becomes what to say of it.
fn caught<T>(work: impl FnOnce() -> T) -> std::result::Result<T, String> {
    catch_unwind(AssertUnwindSafe(work))
        .map_err(|panic| format!("the decoder panicked: {}", panic_message(&*panic)))
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[derive(Debug, Clone, Default)]
struct Listened {
    duration_s: f64,
    album: Option<String>,
    damage: Option<String>,
    times: [Duration; 3],
}

/// Decodes and resamples all of `source`, and hands the samples to `sink`, block by block.
fn listen(mut source: Source, mut sink: impl FnMut(&[f32]) -> Result<()>) -> Result<Listened> {
    let mut listened = Listened::default();
    let mut resampler: Option<Resampler> = None;
    let mut ready = Vec::new();
    let mut clock = Instant::now();
    let mut lap = |time: &mut Duration| {
        let now = Instant::now();
        *time += now - clock;
        clock = now;
    };
    loop {
        let more = source.next_block()?;
        lap(&mut listened.times[0]);
        ready.clear();
        if !more {
            break;
        }
        if !source.mono.iter().all(|sample| sample.abs() <= MAX_SAMPLE) {
            return Err(Error::audio("a sample is too large, or not a finite number"));
        }
        listened.duration_s += source.mono.len() as f64 / f64::from(source.rate.max(1));
        if listened.duration_s > MAX_DURATION_S {
            return Err(Error::audio("more than 24 hours of audio"));
        }
        // A sample rate that changes ends one stretch and begins the next.
        let mut current = match resampler.take() {
            Some(current) if current.rate() == source.rate => current,
            previous => {
                if let Some(previous) = previous {
                    previous.finish(&mut ready)?;
                }
                Resampler::new(source.rate)?
            }
        };
        current.push(&source.mono, &mut ready)?;
        resampler = Some(current);
        lap(&mut listened.times[1]);
        sink(&ready)?;
        lap(&mut listened.times[2]);
    }
    if let Some(last) = resampler {
        last.finish(&mut ready)?;
        lap(&mut listened.times[1]);
        sink(&ready)?;
        lap(&mut listened.times[2]);
    }
    if listened.duration_s == 0.0 {
        let why = source.damage.unwrap_or_else(|| "the file holds no samples".to_string());
        return Err(Error::audio(format!("no audio: {why}")));
    }
    let heard_s = listened.duration_s;
    if let Some(expected_s) = source.expected_s.filter(|&expected_s| heard_s < expected_s - SHORT_S)
    {
        source.damaged(format!("{heard_s:.1} s of {expected_s:.1} s could be decoded"));
    }
    listened.album = source.album;
    listened.damage = source.damage;
    Ok(listened)
}

fn open(path: &Path) -> Result<Source> {
    let io = |error| Error::io(path, error);
    let about = std::fs::metadata(path).map_err(io)?;
    if !about.is_file() {
        return Err(Error::audio("not a file"));
    }
    let file = File::open(path).map_err(io)?;
    Source::new(Box::new(Bounded::new(file, about.len())))
}

enum Codec {
    Symphonia(Box<dyn AudioDecoder>),
    Opus(Box<OpusPackets>),
}

/// A file that is being decoded.
struct Source {
    format: Box<dyn FormatReader>,
    codec: Codec,
    track: u32,
    parameters: AudioCodecParameters,
    /// The block decoded last, its channels averaged.
    mono: Vec<f32>,
    /// The sample rate of that block, in Hz.
    rate: u32,
    /// The length that the file claims, where the claim is exact.
    expected_s: Option<f64>,
    album: Option<String>,
    damage: Option<String>,
}

impl Source {
    fn new(media: Box<dyn MediaSource>) -> Result<Self> {
        if media.byte_len() == Some(0) {
            return Err(Error::audio("the file is empty"));
        }
        let stream = MediaSourceStream::new(media, MediaSourceStreamOptions::default());
        let mut format = symphonia::default::get_probe()
            .probe(&Hint::new(), stream, FormatOptions::default(), MetadataOptions::default())
            .map_err(|error| match error {
                Symphonia::Unsupported(_) | Symphonia::IoError(_) => {
                    Error::audio("not an audio file of a known format")
                }
                error => Error::audio(error.to_string()),
            })?;
        let album = format.metadata().skip_to_latest().and_then(album);
        let (track, parameters, codec) = select_track(&*format)?;
        let frames = format.tracks().iter().find(|other| other.id == track);
        let frames = frames.and_then(|track| track.num_frames);
        // An MP3 file's length is often an estimate.
        let expected_s = match (frames, parameters.sample_rate) {
            (Some(frames), Some(rate)) if parameters.codec != CODEC_ID_MP3 => {
                Some(frames as f64 / f64::from(rate.max(1)))
            }
            _ => None,
        };
        Ok(Self {
            format,
            codec,
            track,
            parameters,
            mono: Vec::new(),
            rate: 0,
            expected_s,
            album,
            damage: None,
        })
    }

    /// Decodes the next block that is not empty into `mono`; false at the end of the file.
    fn next_block(&mut self) -> Result<bool> {
        loop {
            let packet = match caught(|| self.format.next_packet()) {
                Ok(Ok(Some(packet))) => packet,
                Ok(Ok(None)) => return Ok(false),
                // The next stream of a chain of Ogg streams.
                Ok(Err(Symphonia::ResetRequired)) => {
                    (self.track, self.parameters, self.codec) = select_track(&*self.format)?;
                    continue;
                }
                Ok(Err(error)) => {
                    self.damaged(format!("ends early: {error}"));
                    return Ok(false);
                }
                // The reader is not used again.
                Err(reason) => {
                    self.damaged(format!("ends early: {reason}"));
                    return Ok(false);
                }
            };
            if packet.track_id != self.track {
                continue;
            }
            match self.decode_packet(&packet) {
                Ok(()) if self.mono.is_empty() => {}
                Ok(()) => return Ok(true),
                Err(reason) => self.damaged(reason),
            }
        }
    }

    fn damaged(&mut self, reason: String) {
        self.damage.get_or_insert(reason);
    }

    fn decode_packet(&mut self, packet: &Packet) -> std::result::Result<(), String> {
        match &mut self.codec {
            Codec::Opus(opus) => {
                self.rate = OPUS_RATE;
                opus.decode(&packet.data, packet.trim_end.get(), &mut self.mono)
                    .map_err(|error| error.to_string())
            }
            Codec::Symphonia(decoder) => {
                let refused = match decoder.decode(packet) {
                    Ok(buffer) => {
                        self.rate = average(&buffer, &mut self.mono);
                        return Ok(());
                    }
                    Err(error) => error.to_string(),
                };
                // An MP3 decoder keeps to the rate and channels of its first frame. Where they
                // change, a new decoder goes on.
                if self.parameters.codec == CODEC_ID_MP3
                    && let Ok(mut fresh) = symphonia_decoder(&self.parameters)
                    && let Ok(buffer) = fresh.decode(packet)
                {
                    self.rate = average(&buffer, &mut self.mono);
                    *decoder = fresh;
                    return Ok(());
                }
                Err(refused)
            }
        }
    }
}

fn select_track(format: &dyn FormatReader) -> Result<(u32, AudioCodecParameters, Codec)> {
    let track = format
        .default_track(TrackType::Audio)
        .ok_or_else(|| Error::audio("no audio track of a known format"))?;
    let Some(CodecParameters::Audio(parameters)) = &track.codec_params else {
        return Err(Error::audio("no audio track of a known format"));
    };
    let channels = parameters.channels.as_ref().map_or(0, |channels| channels.count());
    if parameters.codec == CODEC_ID_VORBIS && channels > 2 {
        // symphonia 0.6.1 loses some of them: no embedding is better than a wrong one.
        return Err(Error::audio(format!("Vorbis with {channels} channels is not decoded here")));
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

/// Writes the mean of the channels to `mono`; returns the sample rate.
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

/// A source of bytes that ends a reader's circles: reading much more than there is fails.
struct Bounded<R> {
    inner: R,
    len: u64,
    left: u64,
}

impl<R> Bounded<R> {
    fn new(inner: R, len: u64) -> Self {
        Self { inner, len, left: len.saturating_mul(MAX_READS).saturating_add(1 << 20) }
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        // An empty read at the end counts too: a loop that makes no way must end.
        self.left = self
            .left
            .checked_sub(read.max(1) as u64)
            .ok_or_else(|| std::io::Error::other("the file makes its reader run in circles"))?;
        Ok(read)
    }
}

impl<R: Seek> Seek for Bounded<R> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.inner.seek(to)
    }
}

impl<R: Read + Seek + Send + Sync> MediaSource for Bounded<R> {
    fn is_seekable(&self) -> bool {
        true
    }

    fn byte_len(&self) -> Option<u64> {
        Some(self.len)
    }
}
