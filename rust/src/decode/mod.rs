//! Decoding of audio files to mono samples at the model's rate.
//!
//! The formats are in the README's table. The format is detected from the content, not from the file
//! name.
//!
//! The lengths and counts in a file's headers are hints: whatever decodes is used to its end, and an
//! encoder's delay and padding are trimmed if the numbers agree with the packets. A damaged file is
//! decoded as far as possible; see [`Track::damage`](crate::Track::damage). A sample that is NaN or
//! infinite counts as 0, and as damage. Channels are averaged;
//! where they cancel (their mean has less than a 1000th of their power over half a second), one of
//! them counts.
//!
//! # What is not decoded
//!
//! [`decode`] decodes everything. [`embed_file`](crate::AudioEmbeddingModel::embed_file) decodes the
//! windows that the model uses, and before each of them what its codec needs to get there: the frames
//! of MP3 that hold its main data and one or two more, one packet of Vorbis and AAC, 0.3 s of Opus,
//! nothing of FLAC, ALAC and PCM. Those samples are the ones of a full decode: bit by bit, or to 1e-5
//! for Opus. The exception is AAC's noise substitution, which is of random numbers in any decoder: the
//! same noise, with other samples.
//!
//! What is in between is read and not decoded; in WAV, AIFF and PCM in MP4 it is not read either. The
//! duration is exact, and the damage that is noticed there is what shows without decoding:
//!
//! - a file whose end is missing, in every format;
//! - FLAC: any changed byte of a frame, by its checksum; Ogg: pages that are missing or whose checksum is
//!   wrong, if they hold more than 0.1 s;
//! - MP3, MP2 and AAC (ADTS): frames that are missing, cut or not where the one before ends, bytes
//!   between frames, and fewer frames than the header states;
//! - MP4, CAF, Matroska: samples beyond the end of the file, and a structure that cannot be read.
//!
//! A changed byte within a frame of MP3 or AAC, or a sample of MP4, is noticed only in a window that
//! is used. As soon as anything is noticed, the file is decoded whole from its start, and so is one
//! whose packets do not state their length: HE-AAC and AAC of more than two channels, Opus with a part
//! for speech (SILK, usual below 32 kbit/s), Vorbis in Matroska; and one in which channels cancel in a
//! window that is used.

use std::any::Any;
use std::collections::VecDeque;
use std::io::Cursor;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use symphonia::core::codecs::audio::AudioCodecParameters;

use crate::error::{Error, Result};
use crate::resample::{Resampled, Resampler};

mod chunks;
mod codec;
mod flac;
mod frames;
mod input;
mod matroska;
mod mono;
mod mp4;
mod probing;
mod source;

#[cfg(feature = "cli")]
pub(crate) use flac::EmbeddedCue;
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
/// Fails if the file cannot be read, has no audio that can be decoded, or more than 24 hours of it, if a
/// sample is more than 180 dB above full scale, or if none is finite.
pub fn decode<P: AsRef<Path>>(path: P) -> Result<ResampledAudio> {
    let path = path.as_ref();
    let (samples, _) =
        catch_decoder_panic(path, || decode_with(|| Source::open(path), Samples::default))?;
    Ok(ResampledAudio { path: path.to_path_buf(), samples: samples.0 })
}

/// Decodes the content of a file, like [`decode`].
///
/// # Errors
///
/// As [`decode`].
pub fn decode_bytes(bytes: Vec<u8>) -> Result<ResampledAudio> {
    let bytes: Arc<[u8]> = bytes.into();
    let open = || Source::from_bytes(Arc::clone(&bytes));
    let (samples, _) = catch_decoder_panic(Path::new(""), || decode_with(open, Samples::default))?;
    Ok(ResampledAudio { path: PathBuf::new(), samples: samples.0 })
}

/// The cue sheet in the metadata of a FLAC file; an empty one if there is none.
///
/// # Errors
///
/// Fails if the file cannot be read.
#[cfg(feature = "cli")]
pub(crate) fn embedded_cue(path: &Path) -> Result<EmbeddedCue> {
    let input = Input::open(path)?;
    let mut window = input::Window::new(input.clone());
    let start = probing::after_tags(&mut window, 0);
    let cue = flac::embedded_cue(&mut window, start, input.len());
    input.take_failure().map_or(Ok(cue), |failure| Err(Error::reading(failure).at(path)))
}

/// What decoded samples go to.
pub(crate) trait Sink {
    /// The next samples that it uses, as positions in the audio at
    /// [`SAMPLE_RATE`](crate::SAMPLE_RATE). What is before may be skipped.
    fn needed(&self) -> Range<u64>;

    /// Takes the next samples.
    fn push(&mut self, samples: &[f32]) -> Result<()>;

    /// Leaves out the next samples.
    fn skip(&mut self, samples: u64) -> Result<()>;
}

/// All samples.
#[derive(Default)]
struct Samples(Vec<f32>);

impl Sink for Samples {
    fn needed(&self) -> Range<u64> {
        self.0.len() as u64..u64::MAX
    }

    fn push(&mut self, samples: &[f32]) -> Result<()> {
        self.0.extend_from_slice(samples);
        Ok(())
    }

    fn skip(&mut self, samples: u64) -> Result<()> {
        debug_assert_eq!(samples, 0, "all samples are needed");
        Ok(())
    }
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
    /// Reading packets, those that are not decoded too.
    pub read: Duration,
    /// Decoding packets, and averaging their channels.
    pub decode: Duration,
    /// Resampling.
    pub resample: Duration,
    /// The log-mel spectrograms of the windows.
    pub front_end: Duration,
    /// The CNN.
    pub cnn: Duration,
    /// Pooling the tokens.
    pub head: Duration,
}

impl StageTimes {
    /// The sum of all stages.
    #[must_use]
    pub fn total(&self) -> Duration {
        let Self { read, decode, resample, front_end, cnn, head } = *self;
        read + decode + resample + front_end + cnn + head
    }
}

/// Facts about a file that was decoded to its end.
#[derive(Debug, Clone, Default)]
pub(crate) struct DecodeStats {
    pub(crate) duration_s: f64,
    pub(crate) album: Option<String>,
    pub(crate) damage: Option<String>,
    pub(crate) times: StageTimes,
}

/// Decodes and resamples a file, and passes the samples to a sink block by block. The time in the
/// sink counts as that of the front end.
///
/// Where a sink needs no samples, packets are read and not decoded. Their sizes, headers and the
/// checksums of their container are still checked. If there is any doubt (damage, a packet whose
/// length is not known before it is decoded, a stretch where channels cancel), all of it is done
/// again with a new sink, and everything is decoded.
pub(crate) fn decode_with<S: Sink>(
    open: impl Fn() -> Result<Source>,
    sink: impl Fn() -> S,
) -> Result<(S, DecodeStats)> {
    let mut stats = DecodeStats::default();
    let mut first = sink();
    if decode_blocks(open()?, &mut first, &mut stats)? {
        return Ok((first, stats));
    }
    let mut stats = DecodeStats { times: stats.times, ..DecodeStats::default() };
    let mut source = open()?;
    source.forbid_skipping();
    let mut second = sink();
    decode_blocks(source, &mut second, &mut stats)?;
    Ok((second, stats))
}

/// As [`decode_with`]. Returns whether the samples are those of a file that is wholly decoded; if
/// not, what the sink got is of no use.
fn decode_blocks(
    mut source: Source,
    sink: &mut impl Sink,
    stats: &mut DecodeStats,
) -> Result<bool> {
    let mut resampler: Option<Resampler> = None;
    let mut resampled = Resampled::default();
    // The position of the output, and where that of the resampler begins.
    let (mut position, mut start) = (0, 0);
    let mut stopwatch = Stopwatch(Instant::now());
    loop {
        let unneeded = resampler
            .as_ref()
            .map_or(0, |resampler| resampler.unneeded(sink.needed().start.saturating_sub(start)));
        let block = source.next_block(unneeded)?;
        source.lap(&mut stopwatch, &mut stats.times);
        let Some(block) = block else { break };
        if source.must_be_whole() {
            return Ok(false);
        }
        let rate = source.rate();
        let frames = match block {
            Block::Skipped(frames) => frames,
            Block::Samples => source.mono().len() as u64,
        };
        stats.duration_s += frames as f64 / f64::from(rate.max(1));
        if stats.duration_s > MAX_DURATION_S {
            return Err(Error::audio("more than 24 hours of audio"));
        }
        if let (Block::Skipped(frames), Some(resampler)) = (block, &mut resampler) {
            resampler.skip(frames);
            continue;
        }
        let mono = source.mono();
        // Without a branch per sample, so that it vectorises.
        if !mono.iter().fold(true, |all, sample| all & (sample.abs() <= MAX_SAMPLE)) {
            return Err(Error::audio("a sample is too large"));
        }
        // If the sample rate changes within the file, a new resampler takes over.
        let mut current = match resampler.take() {
            Some(current) if current.rate() == rate => current,
            previous => {
                if let Some(previous) = previous {
                    previous.finish(&mut resampled)?;
                    pass(&mut resampled, &mut position, sink)?;
                }
                start = position;
                Resampler::new(rate)?
            }
        };
        current.push(mono, &mut resampled)?;
        resampler = Some(current);
        stopwatch.lap(&mut stats.times.resample);
        pass(&mut resampled, &mut position, sink)?;
        stopwatch.lap(&mut stats.times.front_end);
    }
    if let Some(last) = resampler {
        last.finish(&mut resampled)?;
        stopwatch.lap(&mut stats.times.resample);
        pass(&mut resampled, &mut position, sink)?;
        stopwatch.lap(&mut stats.times.front_end);
    }
    source.finish(stats)
}

/// Passes resampled audio to the sink.
fn pass(resampled: &mut Resampled, position: &mut u64, sink: &mut impl Sink) -> Result<()> {
    *position += resampled.gap + resampled.samples.len() as u64;
    sink.skip(std::mem::take(&mut resampled.gap))?;
    sink.push(&resampled.samples)?;
    resampled.samples.clear();
    Ok(())
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

impl Span {
    /// The frames to keep, at this rate.
    fn frames(self, rate: u32) -> Range<u64> {
        let frames = |seconds: f64| (seconds * f64::from(rate)).round() as u64;
        let start = frames(self.start_s);
        start..self.length_s.map_or(u64::MAX, |length_s| start.saturating_add(frames(length_s)))
    }
}

struct StreamPacket {
    data: Box<[u8]>,
    /// Its frames, trimmed or not, if the reader knows; the decoder of ADPCM needs them.
    frames: u64,
    /// Whether `frames` is the number that the decoder will give.
    is_exact: bool,
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

    /// Goes past up to this many frames of PCM without reading them. Returns how many.
    ///
    /// # Errors
    ///
    /// As [`Self::next_step`].
    fn skip(&mut self, _frames: u64) -> Result<u64> {
        Ok(0)
    }
}

/// What [`Source::next_block`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Block {
    /// Samples that were decoded.
    Samples,
    /// A number of frames that were not.
    Skipped(u64),
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::SAMPLE_RATE;
    use crate::network::WindowRule;

    const WINDOW: u64 = 22_528;
    const RULE: WindowRule = WindowRule { dense: 4, stride: 4 };
    const SECONDS: u64 = 30;

    /// The samples of the windows that a rule uses, and zeros elsewhere.
    struct UsedSamples {
        rule: WindowRule,
        samples: Vec<f32>,
        skipped: u64,
    }

    impl UsedSamples {
        fn new() -> Self {
            Self { rule: RULE, samples: Vec::new(), skipped: 0 }
        }

        /// Sets what the rule does not use to zero.
        fn used(mut self) -> Vec<f32> {
            for (index, window) in (0..).zip(self.samples.chunks_mut(WINDOW as usize)) {
                if self.rule.span(index) == 0 {
                    window.fill(0.0);
                }
            }
            self.samples
        }
    }

    impl Sink for UsedSamples {
        fn needed(&self) -> Range<u64> {
            let position = self.samples.len() as u64;
            let window = self.rule.next_used(position / WINDOW);
            position.max(window * WINDOW)..(window + 1) * WINDOW
        }

        fn push(&mut self, samples: &[f32]) -> Result<()> {
            self.samples.extend_from_slice(samples);
            Ok(())
        }

        fn skip(&mut self, samples: u64) -> Result<()> {
            assert!(self.samples.len() as u64 + samples <= self.needed().start);
            self.skipped += samples;
            self.samples.resize(self.samples.len() + samples as usize, 0.0);
            Ok(())
        }
    }

    /// A folder that is removed at the end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            // Tones, a beat and noise in two channels.
            let left = "0.3*sin(2*PI*220*t)*(1-mod(t,0.5))+0.2*sin(2*PI*(300+40*t)*t)";
            let right = "0.3*sin(2*PI*277*t)+0.2*(random(0)*2-1)*mod(t,0.7)";
            let audio = format!("aevalsrc='{left}|{right}':s=44100:d={SECONDS}");
            let folder = Self(path);
            folder.ffmpeg("original.wav", &["-f", "lavfi", "-i", &audio]);
            folder
        }

        /// The original in a format.
        fn coded(&self, name: &str, arguments: &[&str]) -> PathBuf {
            let original = self.0.join("original.wav");
            self.ffmpeg(name, &[&["-i", original.to_str().unwrap()], arguments].concat())
        }

        fn ffmpeg(&self, name: &str, arguments: &[&str]) -> PathBuf {
            let path = self.0.join(name);
            let done = Command::new("ffmpeg")
                .args(["-nostdin", "-v", "error", "-y"])
                .args(arguments)
                .arg(&path)
                .status();
            assert!(done.expect("these tests need ffmpeg").success(), "{name}");
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// The used samples of a file when it is stepped through, and of a full decode; and the share that
    /// was left out.
    fn both(path: &Path) -> ([Vec<f32>; 2], DecodeStats, f64) {
        let (used, stats) = decode_with(|| Source::open(path), UsedSamples::new).unwrap();
        let whole = || {
            let mut source = Source::open(path)?;
            source.forbid_skipping();
            Ok(source)
        };
        let (want, whole_stats) = decode_with(whole, UsedSamples::new).unwrap();
        assert_eq!(want.skipped, 0);
        assert_eq!((&stats.damage, &stats.album), (&whole_stats.damage, &whole_stats.album));
        let error_s = (stats.duration_s - whole_stats.duration_s).abs();
        assert!(error_s < 1e-6, "{}: {error_s} s", path.display());
        let share = used.skipped as f64 / used.samples.len() as f64;
        ([used.used(), want.used()], stats, share)
    }

    #[test]
    fn the_used_samples_are_those_of_a_full_decode() {
        let folder = Folder::new("used-samples");
        let formats: [(&str, &[&str]); 30] = [
            ("cbr.mp3", &["-b:a", "192k"]),
            ("low.mp3", &["-b:a", "48k"]),
            ("high.mp3", &["-b:a", "320k"]),
            ("vbr.mp3", &["-q:a", "3"]),
            ("plain.mp3", &["-q:a", "2", "-write_xing", "0", "-id3v2_version", "0"]),
            ("mono.mp3", &["-ac", "1", "-ar", "22050", "-b:a", "40k"]),
            ("a.mp2", &[]),
            ("a.ogg", &["-c:a", "libvorbis"]),
            ("high.ogg", &["-c:a", "libvorbis", "-q:a", "8", "-ar", "48000"]),
            ("a.opus", &["-c:a", "libopus", "-b:a", "128k"]),
            ("long.opus", &["-c:a", "libopus", "-frame_duration", "60"]),
            ("short.opus", &["-c:a", "libopus", "-frame_duration", "5"]),
            ("a.flac", &[]),
            ("24.flac", &["-sample_fmt", "s32", "-ar", "96000"]),
            ("a.oga", &["-c:a", "flac"]),
            ("a.wav", &[]),
            ("float.wav", &["-c:a", "pcm_f32le", "-ar", "22050"]),
            ("adpcm.wav", &["-c:a", "adpcm_ms"]),
            ("a.aiff", &[]),
            ("a.caf", &["-c:a", "pcm_s24le"]),
            ("alac.caf", &["-c:a", "alac"]),
            ("a.mka", &["-c:a", "flac"]),
            ("a.webm", &["-c:a", "libopus"]),
            ("mp3.mka", &["-c:a", "libmp3lame"]),
            ("aac.m4a", &["-c:a", "aac", "-aac_pns", "0"]),
            ("a.aac", &["-c:a", "aac", "-aac_pns", "0"]),
            ("alac.m4a", &["-c:a", "alac"]),
            ("mp3.mp4", &["-c:a", "libmp3lame"]),
            ("opus.mp4", &["-c:a", "libopus", "-strict", "-2"]),
            ("pcm.mov", &["-c:a", "pcm_s16be"]),
        ];
        for (name, arguments) in formats {
            let path = folder.coded(name, arguments);
            let ([got, want], stats, share) = both(&path);
            assert_eq!(stats.damage, None, "{name}");
            assert_eq!(got.len(), want.len(), "{name}");
            let error = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            println!("{name:12} {error:e}  {share:.2} left out");
            assert!(error < 1e-4, "{name}: {error:e}");
            // Three of four windows behind the first four.
            assert!(share > 0.6, "{name}: {share}");
        }
    }

    /// Those of which a packet's length is not in its header, or whose decoders never forget.
    #[test]
    fn what_cannot_be_stepped_through_is_decoded_whole() {
        let folder = Folder::new("whole");
        let tones = folder.coded("tones.wav", &["-ac", "1"]);
        let samples = decode(tones).unwrap().samples;
        let options = syom::EncodeOptions::low_rate().with_bitrate_bps(48_000);
        let he_aac = syom::encode_with(&[&samples, &samples], 2 * SAMPLE_RATE, &options);
        let path = folder.0.join("he.aac");
        std::fs::write(&path, he_aac.unwrap()).unwrap();
        let silk = folder.coded("low.opus", &["-c:a", "libopus", "-b:a", "24k"]);
        let vorbis = folder.coded("vorbis.webm", &["-c:a", "libvorbis"]);
        for path in [path, silk, vorbis] {
            let ([got, want], stats, share) = both(&path);
            assert_eq!((got, stats.damage, share), (want, None, 0.0), "{}", path.display());
        }
    }

    /// Noise substitution in AAC is of random numbers, also in another decoder: the samples differ,
    /// their loudness does not.
    #[test]
    fn random_noise_in_aac_keeps_its_level() {
        let folder = Folder::new("noise");
        let ([got, want], _, share) = both(&folder.coded("a.m4a", &["-c:a", "aac", "-b:a", "64k"]));
        let energy = |sum: f64, x: &f32| sum + f64::from(x * x);
        let difference: Vec<f32> = got.iter().zip(&want).map(|(a, b)| a - b).collect();
        let [got, want, difference] =
            [got, want, difference].map(|samples| samples.iter().fold(0.0, energy));
        assert!(share > 0.6 && difference > 0.0 && difference < want * 0.05, "{difference} {want}");
        assert!((got / want - 1.0).abs() < 1e-3, "{got} {want}");
    }

    /// The first file is stepped through until it is found to be damaged.
    #[test]
    fn a_file_that_turns_out_to_be_damaged_is_decoded_whole() {
        let folder = Folder::new("damaged");
        for (name, arguments, at) in [
            ("a.mp3", &["-b:a", "128k"][..], 0.9),
            ("a.flac", &[], 0.55),
            ("a.ogg", &["-c:a", "libvorbis"], 0.55),
            ("a.opus", &["-c:a", "libopus", "-b:a", "128k"], 0.55),
            ("a.aac", &["-c:a", "aac"], 0.9),
        ] {
            let path = folder.coded(name, arguments);
            let bytes = std::fs::read(&path).unwrap();
            let at = (bytes.len() as f64 * at) as usize;
            let mut gap = bytes.clone();
            gap.drain(at..at + 3_000);
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            // Only these have checksums of everything.
            let changed = ["a.flac", "a.ogg"].contains(&name).then_some(("a byte", &changed[..]));
            for (what, bytes) in
                [("a gap", &gap[..]), ("an end", &bytes[..at])].into_iter().chain(changed)
            {
                std::fs::write(&path, bytes).unwrap();
                let ([got, want], stats, share) = both(&path);
                assert!(stats.damage.is_some() && share == 0.0, "{name}, {what}: {share}");
                assert_eq!(got, want, "{name}, {what}");
            }
        }
    }

    #[test]
    fn channels_that_cancel_are_decoded_whole() {
        let folder = Folder::new("cancelling");
        let inverted = "pan=stereo|c0=c0|c1=-1*c0";
        let from = |second: u32| {
            format!(
                "[0]asplit[a][b];[a]atrim=0:{second}[x];[b]atrim={second},{inverted}[y];\
                 [x][y]concat=v=0:a=1"
            )
        };
        for (name, option, filter) in [
            ("a.flac", "-af", inverted.to_owned()),
            ("late.flac", "-filter_complex", from(20)),
            ("at-the-end.flac", "-filter_complex", from(25)),
        ] {
            let ([got, want], _, share) = both(&folder.coded(name, &[option, &filter]));
            assert_eq!((got, share), (want, 0.0), "{name}");
        }
    }
}
