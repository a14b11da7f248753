//! Decoding of audio files to mono samples at the model's rate.
//!
//! The formats are in the README's table. The format is detected from the content, not from the file
//! name.
//!
//! The lengths and counts in a file's headers are hints: whatever decodes is used to its end, and an
//! encoder's delay and padding are trimmed if the numbers agree with the packets. A damaged file is
//! decoded as far as possible; see [`Track::damage`](crate::Track::damage). Channels are averaged;
//! where they cancel (their mean has less than a 1000th of their power over half a second), one of
//! them counts.

use std::any::Any;
use std::collections::VecDeque;
use std::fs::File;
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use symphonia::core::codecs::audio::AudioCodecParameters;

use crate::error::{Error, Result};
use crate::resample::Resampler;

mod chunks;
mod codec;
mod flac;
mod frames;
mod input;
mod mono;
mod mp4;
mod probing;
mod source;

use input::Input;
pub(crate) use source::Source;

/// The longest audio that is accepted.
const MAX_DURATION_S: f64 = 24.0 * 3600.0;

/// The largest sample that is accepted, 180 dB above full scale. Larger ones could overflow in the
/// resampler.
const MAX_SAMPLE: f32 = 1e9;

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
        decode_blocks(Source::from_bytes(bytes)?, |block| {
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
        let (mono, rate) = (source.mono(), source.rate());
        if !mono.iter().all(|sample| sample.abs() <= MAX_SAMPLE) {
            return Err(Error::audio("a sample is too large or not finite"));
        }
        stats.duration_s += mono.len() as f64 / f64::from(rate.max(1));
        if stats.duration_s > MAX_DURATION_S {
            return Err(Error::audio("more than 24 hours of audio"));
        }
        // If the sample rate changes within the file, a new resampler takes over.
        let mut current = match resampler.take() {
            Some(current) if current.rate() == rate => current,
            previous => {
                if let Some(previous) = previous {
                    previous.finish(&mut resampled)?;
                }
                Resampler::new(rate)?
            }
        };
        current.push(mono, &mut resampled)?;
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
    (stats.album, stats.damage) = source.finish(stats.duration_s)?;
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

/// What a reader of packets gives.
enum Step {
    /// A stream begins: the first one, or one that is joined on.
    Stream(Stream),
    Packet(StreamPacket),
}

/// The packets that follow, up to the next stream.
struct Stream {
    parameters: AudioCodecParameters,
    span: Option<Span>,
}

impl From<AudioCodecParameters> for Stream {
    fn from(parameters: AudioCodecParameters) -> Self {
        Self { parameters, span: None }
    }
}

/// What of a stream's audio to keep, by the file's header.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Span {
    /// The encoder's delay.
    start_s: f64,
    length_s: Option<f64>,
}

struct StreamPacket {
    data: Box<[u8]>,
    /// Its frames, trimmed or not, if the reader knows; the decoder of ADPCM needs them.
    frames: u64,
    /// Frames to drop from the start of the decoded packet.
    trim_start: u64,
    /// Frames to drop from its end.
    trim_end: u64,
}

/// A reader of packets.
trait Packets {
    /// The next step; none at the end.
    ///
    /// # Errors
    ///
    /// Fails if no more packets can be read. Then it must not be called again.
    fn next_step(&mut self) -> Result<Option<Step>>;

    /// The damage that was found since the last call.
    fn damage(&mut self) -> Option<String>;
}
