//! Resampling of mono audio to the model's rate, by rubato.

use audioadapter_buffers::direct::SequentialSlice;
use rubato::{Fft, FixedSync, Resampler as _};

use crate::SAMPLE_RATE;
use crate::error::{Error, Result};

/// The approximate number of output samples per transform: 46 ms. A larger one has a steeper
/// transition band at 11 kHz and rings longer, at about the same cost.
const CHUNK: usize = 1024;

/// Supported sample rates, in Hz.
const RATES: std::ops::RangeInclusive<u32> = 1_000..=768_000;

/// A resampler for audio of one rate.
///
/// The output is the input's length times the ratio of the rates, rounded up, without delay.
pub(crate) struct Resampler {
    rate: u32,
    fft: Option<Fft<f32>>,
    input: Vec<f32>,
    output: Vec<f32>,
    /// Samples of delay that are still to be dropped.
    delay: usize,
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
            frames_in: 0,
            frames_out: 0,
        })
    }

    pub(crate) fn rate(&self) -> u32 {
        self.rate
    }

    /// Resamples `mono` and appends the samples that are complete to `out`.
    pub(crate) fn push(&mut self, mut mono: &[f32], out: &mut Vec<f32>) -> Result<()> {
        self.frames_in += mono.len() as u64;
        let Some(chunk) = self.fft.as_ref().map(Fft::input_frames_next) else {
            self.frames_out += mono.len() as u64;
            out.extend_from_slice(mono);
            return Ok(());
        };
        while self.input.len() + mono.len() >= chunk {
            let (now, later) = mono.split_at(chunk - self.input.len());
            self.input.extend_from_slice(now);
            mono = later;
            self.process(out)?;
        }
        self.input.extend_from_slice(mono);
        Ok(())
    }

    /// Appends the remaining samples to `out`.
    pub(crate) fn finish(mut self, out: &mut Vec<f32>) -> Result<()> {
        let Some(chunk) = self.fft.as_ref().map(Fft::input_frames_next) else { return Ok(()) };
        let (from, to) = (u64::from(self.rate), u64::from(SAMPLE_RATE));
        let total = (self.frames_in * to).div_ceil(from);
        while self.frames_out < total {
            self.input.resize(chunk, 0.0);
            self.process(out)?;
        }
        out.truncate(out.len() - (self.frames_out - total) as usize);
        Ok(())
    }

    /// Resamples the full chunk in `input`.
    fn process(&mut self, out: &mut Vec<f32>) -> Result<()> {
        let fft = self.fft.as_mut().expect("only called if the rates differ");
        let (frames_in, frames_out) = (self.input.len(), self.output.len());
        let input = SequentialSlice::new(&self.input, 1, frames_in).map_err(resample_error)?;
        let mut output =
            SequentialSlice::new_mut(&mut self.output, 1, frames_out).map_err(resample_error)?;
        let (_, made) =
            fft.process_into_buffer(&input, &mut output, None).map_err(resample_error)?;
        self.input.clear();
        let skip = self.delay.min(made);
        self.delay -= skip;
        self.frames_out += (made - skip) as u64;
        out.extend_from_slice(&self.output[skip..made]);
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
        let mut out = Vec::new();
        let mut resampler = Resampler::new(rate).unwrap();
        for block in mono.chunks(block) {
            resampler.push(block, &mut out).unwrap();
        }
        resampler.finish(&mut out).unwrap();
        out
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

    #[test]
    fn an_unsupported_rate_is_an_error() {
        for rate in [0, 10, u32::MAX] {
            assert!(Resampler::new(rate).err().unwrap().is_audio());
        }
    }
}
