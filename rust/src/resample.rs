//! Resampling of mono audio to the model's rate, by rubato.

use audioadapter_buffers::direct::SequentialSlice;
use rubato::{Fft, FixedSync, Resampler as _};

use crate::SAMPLE_RATE;
use crate::error::{Error, Result};

/// The approximate number of output samples per transform: 12 ms. With a larger one, more audio is
/// decoded around each window, and the transition band below 11 kHz is steeper, which the model,
/// whose mels end at 8 kHz, does not use.
const CHUNK: usize = 256;

/// Supported sample rates, in Hz.
const RATES: std::ops::RangeInclusive<u32> = 1_000..=768_000;

/// Resampled audio, and what is left out before it.
#[derive(Debug, Default)]
pub(crate) struct Resampled {
    /// The number of samples that are left out.
    pub(crate) gap: u64,
    pub(crate) samples: Vec<f32>,
}

/// A resampler for audio of one rate.
///
/// The output is the input's length times the ratio of the rates, rounded up, without delay.
///
/// Parts of the input may be left out. A chunk of the output depends on the chunk of the input at the
/// same place and on the one before, so that the output behind a gap is exactly that of the whole
/// input, from the second whole chunk on.
pub(crate) struct Resampler {
    rate: u32,
    fft: Option<Fft<f32>>,
    /// A part of a chunk.
    input: Vec<f32>,
    output: Vec<f32>,
    /// Samples of delay that are still to be dropped.
    delay: usize,
    /// Whether the last chunk was left out, so that the next one gives no output.
    is_behind_gap: bool,
    frames_in: u64,
    frames_out: u64,
}

impl Resampler {
    pub(crate) fn new(rate: u32) -> Result<Self> {
        if !RATES.contains(&rate) {
            return Err(Error::audio(format!(
                "a sample rate of {rate} Hz; expected {} to {} Hz",
                RATES.start(),
                RATES.end()
            )));
        }
        let fft = if rate == SAMPLE_RATE {
            None
        } else {
            let (from, to) = (rate as usize, SAMPLE_RATE as usize);
            // A chunk is a whole number of samples at both rates, and an even one at the output's,
            // so that the delay, half a chunk, is whole too.
            let divisor = gcd(from, to);
            let (block_from, block_to) = (from / divisor, to / divisor);
            let blocks = CHUNK.div_ceil(block_to).next_multiple_of(1 + block_to % 2);
            let chunk = blocks * block_from;
            Some(Fft::new(from, to, chunk, 1, FixedSync::Both).map_err(resample_error)?)
        };
        Ok(Self {
            rate,
            input: Vec::new(),
            output: vec![0.0; fft.as_ref().map_or(0, Fft::output_frames_max)],
            delay: fft.as_ref().map_or(0, Fft::output_delay),
            fft,
            is_behind_gap: false,
            frames_in: 0,
            frames_out: 0,
        })
    }

    pub(crate) fn rate(&self) -> u32 {
        self.rate
    }

    /// The number of frames from the current position on that may be left out if the output before
    /// the position `next` is of no use.
    pub(crate) fn unneeded(&self, next: u64) -> u64 {
        let first = match &self.fft {
            None => next,
            Some(fft) => {
                let (chunk, made) = (fft.input_frames_next() as u64, self.output.len() as u64);
                ((next + fft.output_delay() as u64) / made).saturating_sub(1) * chunk
            }
        };
        first.saturating_sub(self.frames_in)
    }

    /// Leaves out the next frames of the input: at most as many as are [`Self::unneeded`].
    pub(crate) fn skip(&mut self, frames: u64) {
        self.frames_in += frames;
        self.is_behind_gap = true;
        self.input.clear();
    }

    /// Resamples `mono` and appends the samples that are complete to `out`.
    pub(crate) fn push(&mut self, mut mono: &[f32], out: &mut Resampled) -> Result<()> {
        let position = self.frames_in;
        self.frames_in += mono.len() as u64;
        let Some(chunk) = self.fft.as_ref().map(Fft::input_frames_next) else {
            out.gap += position - self.frames_out;
            self.frames_out = self.frames_in;
            out.samples.extend_from_slice(mono);
            return Ok(());
        };
        if self.is_behind_gap && self.input.is_empty() {
            // Up to the start of a chunk.
            let rest = position.next_multiple_of(chunk as u64) - position;
            mono = &mono[mono.len().min(rest as usize)..];
        }
        while self.input.len() + mono.len() >= chunk {
            let (now, later) = mono.split_at(chunk - self.input.len());
            self.input.extend_from_slice(now);
            mono = later;
            let index = (self.frames_in - mono.len() as u64) / chunk as u64 - 1;
            self.process(index, out)?;
        }
        self.input.extend_from_slice(mono);
        Ok(())
    }

    /// Appends the remaining samples to `out`.
    pub(crate) fn finish(mut self, out: &mut Resampled) -> Result<()> {
        let (from, to) = (u64::from(self.rate), u64::from(SAMPLE_RATE));
        let total = (self.frames_in * to).div_ceil(from);
        if let Some(chunk) = self.fft.as_ref().map(Fft::input_frames_next) {
            let mut index = self.frames_in / chunk as u64;
            let is_gap = self.is_behind_gap && self.input.is_empty();
            while self.frames_out < total && !is_gap {
                self.input.resize(chunk, 0.0);
                self.process(index, out)?;
                index += 1;
            }
        }
        let excess = self.frames_out.saturating_sub(total);
        let dropped = excess.min(out.samples.len() as u64);
        out.samples.truncate(out.samples.len() - dropped as usize);
        out.gap = out.gap + total.saturating_sub(self.frames_out) - (excess - dropped);
        Ok(())
    }

    /// Resamples the full chunk in `input`, which is the chunk `index` of the input.
    fn process(&mut self, index: u64, out: &mut Resampled) -> Result<()> {
        let fft = self.fft.as_mut().expect("only called if the rates differ");
        let (frames_in, frames_out) = (self.input.len(), self.output.len());
        let is_behind_gap = std::mem::take(&mut self.is_behind_gap);
        if is_behind_gap {
            fft.reset();
        }
        let input = SequentialSlice::new(&self.input, 1, frames_in).map_err(resample_error)?;
        let mut output =
            SequentialSlice::new_mut(&mut self.output, 1, frames_out).map_err(resample_error)?;
        let (_, made) =
            fft.process_into_buffer(&input, &mut output, None).map_err(resample_error)?;
        self.input.clear();
        if is_behind_gap {
            // The chunk before is missing in this output.
            self.delay = 0;
            let end = (index + 1) * made as u64 - fft.output_delay() as u64;
            out.gap += end - self.frames_out;
            self.frames_out = end;
            return Ok(());
        }
        let skip = self.delay.min(made);
        self.delay -= skip;
        self.frames_out += (made - skip) as u64;
        out.samples.extend_from_slice(&self.output[skip..made]);
        Ok(())
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn resample_error(error: impl std::fmt::Display) -> Error {
    Error::audio(format!("resampling failed: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resampled(mono: &[f32], rate: u32, block: usize) -> Vec<f32> {
        let mut out = Resampled::default();
        let mut resampler = Resampler::new(rate).unwrap();
        for block in mono.chunks(block) {
            resampler.push(block, &mut out).unwrap();
        }
        resampler.finish(&mut out).unwrap();
        assert_eq!(out.gap, 0);
        out.samples
    }

    fn tone(hz: f64, rate: u32, samples: usize) -> Vec<f32> {
        let step = std::f64::consts::TAU * hz / f64::from(rate);
        (0..samples).map(|i| (i as f64 * step).sin() as f32).collect()
    }

    #[test]
    fn a_tone_keeps_its_pitch_and_is_not_delayed() {
        for rate in [8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000] {
            let got = resampled(&tone(1_000.0, rate, 2 * rate as usize), rate, 1_152);
            assert_eq!(got.len(), 2 * SAMPLE_RATE as usize, "{rate}");
            let want = tone(1_000.0, SAMPLE_RATE, got.len());
            // The ends of the tone are steps, where the filter rings.
            for i in 2_000..got.len() - 2_000 {
                assert!((got[i] - want[i]).abs() < 1e-3, "{rate} Hz at {i}");
            }
        }
    }

    #[test]
    fn rates_with_a_small_common_divisor_are_supported() {
        let got = resampled(&tone(1_000.0, 44_101, 88_202), 44_101, 1_152);
        assert_eq!(got.len(), 2 * SAMPLE_RATE as usize);
        let loudness = got.iter().map(|x| x * x).sum::<f32>() / got.len() as f32;
        assert!((loudness - 0.5).abs() < 0.01, "{loudness}");
    }

    #[test]
    fn tones_above_nyquist_are_removed() {
        let got = resampled(&tone(15_000.0, 44_100, 44_100), 44_100, 500);
        let loudest = got[2_000..20_000].iter().fold(0.0_f32, |max, x| max.max(x.abs()));
        assert!(loudest < 1e-3, "{loudest}");
    }

    #[test]
    fn the_block_size_does_not_matter_and_short_audio_keeps_its_length() {
        let audio = tone(440.0, 44_100, 5_001);
        let whole = resampled(&audio, 44_100, usize::MAX);
        assert_eq!(whole.len(), 2_501);
        assert_eq!(resampled(&audio, 44_100, 1), whole);
        assert_eq!(resampled(&audio, 44_100, 4_096), whole);
        assert_eq!(resampled(&audio[..1], 44_100, 1).len(), 1);
        assert_eq!(resampled(&[], 44_100, 1).len(), 0);
    }

    /// The output where `needed` says so, with a gap wherever the resampler allows one, and zeros
    /// there.
    fn with_gaps(mono: &[f32], rate: u32, block: usize, needed: &[(usize, usize)]) -> Vec<f32> {
        let mut resampler = Resampler::new(rate).unwrap();
        let mut result = Vec::new();
        let take = |out: &mut Resampled, result: &mut Vec<f32>| {
            result.resize(result.len() + std::mem::take(&mut out.gap) as usize, 0.0);
            result.append(&mut out.samples);
        };
        let (mut at, mut skipped) = (0, 0);
        let mut out = Resampled::default();
        while at < mono.len() {
            let here = block.min(mono.len() - at);
            let done = result.len();
            let next = needed.iter().find(|&&(_, end)| end > done);
            let next = next.map_or(usize::MAX, |&(start, _)| start.max(done));
            if next == usize::MAX || resampler.unneeded(next as u64) >= here as u64 {
                resampler.skip(here as u64);
                skipped += here;
            } else {
                resampler.push(&mono[at..at + here], &mut out).unwrap();
                take(&mut out, &mut result);
            }
            at += here;
        }
        resampler.finish(&mut out).unwrap();
        take(&mut out, &mut result);
        assert!(skipped > mono.len() / 3, "{skipped} of {}", mono.len());
        result
    }

    #[test]
    fn the_output_behind_a_gap_is_that_of_the_whole_input() {
        for rate in [8_000, 22_050, 32_000, 44_100, 48_000, 96_000] {
            let audio = tone(997.0, rate, 9 * rate as usize + 123);
            let whole = resampled(&audio, rate, 1_152);
            for needed in [
                &[(0, 20_000), (60_000, 80_000), (120_000, 140_000)][..],
                &[(50_001, 50_002), (190_000, 300_000)],
                &[(0, 1), (198_000, 198_500)],
            ] {
                for block in [1_152, 4_096, 333] {
                    let got = with_gaps(&audio, rate, block, needed);
                    assert_eq!(got.len(), whole.len(), "{rate} Hz");
                    for &(start, end) in needed {
                        let range = start..end.min(whole.len());
                        assert_eq!(got[range.clone()], whole[range], "{rate} Hz, {start}");
                    }
                }
            }
        }
    }

    #[test]
    fn an_unsupported_rate_is_an_error() {
        for rate in [0, 10, u32::MAX] {
            assert!(Resampler::new(rate).err().unwrap().is_audio());
        }
    }
}
