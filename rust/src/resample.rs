//! Mono samples at any rate to mono samples at the model's rate.

use audioadapter_buffers::direct::SequentialSlice;
use rubato::{Fft, FixedSync, Resampler as _};

use crate::SAMPLE_RATE;
use crate::error::{Error, Result};

/// Output frames that are transformed at a time, about: 46 ms. More is sharper at 11 kHz, and
/// rings longer; the cost hardly depends on it.
const CHUNK: usize = 1024;

/// Sample rates that are taken for real.
const RATES: std::ops::RangeInclusive<u32> = 1_000..=768_000;

/// One stretch of audio of one sample rate.
///
/// The output has the input's length times the ratio of the rates, rounded up, and no delay.
pub(crate) struct Resampler {
    rate: u32,
    fft: Option<Fft<f32>>,
    input: Vec<f32>,
    output: Vec<f32>,
    /// Frames of delay still to be dropped.
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
            // Blocks hold a whole number of frames of both rates; an even one of the output's,
            // so that the delay, half of it, is whole too.
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

    /// Resamples `mono`, and appends what is ready to `out`.
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

    /// Appends the rest to `out`.
    pub(crate) fn finish(mut self, out: &mut Vec<f32>) -> Result<()> {
        let Some(chunk) = self.fft.as_ref().map(Fft::input_frames_next) else { return Ok(()) };
        let (from, to) = (u64::from(self.rate), u64::from(SAMPLE_RATE));
        let all = (self.frames_in * to).div_ceil(from);
        while self.frames_out < all {
            self.input.resize(chunk, 0.0);
            self.process(out)?;
        }
        out.truncate(out.len() - (self.frames_out - all) as usize);
        Ok(())
    }

    /// Resamples the one full chunk in `input`.
    fn process(&mut self, out: &mut Vec<f32>) -> Result<()> {
        let fft = self.fft.as_mut().expect("called only with a transform");
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
    fn a_tone_stays_that_tone_and_is_not_delayed() {
        for rate in [8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000] {
            let got = resampled(&tone(1_000.0, rate, 2 * rate as usize), rate, 1_152);
            assert_eq!(got.len(), 2 * SAMPLE_RATE as usize, "{rate}");
            let want = tone(1_000.0, SAMPLE_RATE, got.len());
            // The ends of the tone are steps, which ring.
            for i in 2_000..got.len() - 2_000 {
                assert!((got[i] - want[i]).abs() < 1e-3, "{rate} Hz at {i}");
            }
        }
    }

    #[test]
    fn rates_without_a_common_divisor_are_taken_too() {
        let got = resampled(&tone(1_000.0, 44_101, 88_202), 44_101, 1_152);
        assert_eq!(got.len(), 2 * SAMPLE_RATE as usize);
        let loudness = got.iter().map(|x| x * x).sum::<f32>() / got.len() as f32;
        assert!((loudness - 0.5).abs() < 0.01, "{loudness}");
    }

    #[test]
    fn what_the_lower_rate_cannot_hold_is_gone() {
        let got = resampled(&tone(15_000.0, 44_100, 44_100), 44_100, 500);
        let loudest = got[2_000..20_000].iter().fold(0.0_f32, |max, x| max.max(x.abs()));
        assert!(loudest < 1e-3, "{loudest}");
    }

    #[test]
    fn the_size_of_the_blocks_changes_nothing_and_short_audio_keeps_its_length() {
        let audio = tone(440.0, 44_100, 5_001);
        let whole = resampled(&audio, 44_100, usize::MAX);
        assert_eq!(whole.len(), 2_501);
        assert_eq!(resampled(&audio, 44_100, 1), whole);
        assert_eq!(resampled(&audio, 44_100, 4_096), whole);
        assert_eq!(resampled(&audio[..1], 44_100, 1).len(), 1);
        assert_eq!(resampled(&[], 44_100, 1).len(), 0);
    }

    #[test]
    fn an_impossible_rate_is_refused() {
        for rate in [0, 10, u32::MAX] {
            assert!(Resampler::new(rate).err().unwrap().is_audio());
        }
    }
}
