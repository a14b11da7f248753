//! The log-mel spectrogram of one window, as in `student/frontend.py`, by fast Fourier transforms.
//!
//! The model's graph holds the same front end as convolutions, for runtimes without this crate. Its
//! settings are in the file's metadata; tests compare the two.

use std::fmt;
use std::sync::Arc;

use rustfft::num_complex::Complex;
use rustfft::{Fft, FftPlanner};

use crate::error::{Error, Result};

/// Frames that go through the mel filters at once, in SIMD registers. Even, since two frames share
/// a transform.
const LANES: usize = 8;

/// The least divisor in the normalisation by the mean power, for silent windows.
const POWER_EPS: f32 = 1e-20;

/// A frame is silent if its largest mel power, over the mean of the window, is at most this times
/// `floor`.
const SILENCE_THRESHOLD: f32 = 0.01;

/// Upper bounds of the settings, which bound the memory that a damaged file can claim.
const MAX_FFT: usize = 1 << 14;
const MAX_FRAMES: usize = 1 << 10;
const MAX_MELS: usize = 1 << 10;

/// The front end's settings, from the file's metadata.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Hz.
    pub(crate) sample_rate: usize,
    /// Samples in a frame.
    pub(crate) n_fft: usize,
    /// Samples between frames.
    pub(crate) hop_length: usize,
    /// Frames in a window.
    pub(crate) window_frames: usize,
    pub(crate) n_mels: usize,
    /// Hz.
    pub(crate) f_min: f64,
    /// Hz.
    pub(crate) f_max: f64,
    /// Added to the normalised power before the logarithm.
    pub(crate) floor: f64,
}

impl Settings {
    /// Samples in a window.
    pub(crate) fn window(&self) -> usize {
        self.hop_length * self.window_frames
    }

    fn check(&self) -> Result<()> {
        let Self { n_fft, hop_length, window_frames, n_mels, f_min, f_max, floor, .. } = *self;
        let nyquist = self.sample_rate as f64 / 2.0;
        let problem = if !(2..=MAX_FFT).contains(&n_fft) || n_fft % 2 == 1 {
            format!("n_fft is {n_fft}, expected an even number up to {MAX_FFT}")
        } else if !(1..=n_fft).contains(&hop_length) || hop_length % 2 == 1 {
            format!("hop_length is {hop_length}, expected an even number up to n_fft, {n_fft}")
        } else if !(1..=MAX_FRAMES).contains(&window_frames) {
            format!("window_frames is {window_frames}, expected 1 to {MAX_FRAMES}")
        } else if !(1..=MAX_MELS).contains(&n_mels) {
            format!("n_mels is {n_mels}, expected 1 to {MAX_MELS}")
        } else if !(0.0 <= f_min && f_min < f_max && f_max <= nyquist) {
            format!(
                "f_min and f_max are {f_min} and {f_max}, expected 0 <= f_min < f_max <= {nyquist}"
            )
        } else if !(floor as f32 > 0.0 && floor.is_finite()) {
            format!("floor is {floor}, expected a positive number")
        } else {
            return Ok(());
        };
        Err(Error::model(format!("invalid front-end settings: {problem}")))
    }
}

/// The front end: samples of a window to its log-mel.
#[derive(Clone)]
pub(crate) struct LogMel {
    settings: Settings,
    fft: Arc<dyn Fft<f32>>,
    /// The Hann window, halved: see [`LogMel::write_powers`].
    hann: Vec<f32>,
    filters: Vec<Filter>,
    /// The bins with a weight in any filter.
    bins: std::ops::Range<usize>,
}

/// The buffers of [`LogMel::window`], reused for all windows.
#[derive(Debug)]
pub(crate) struct Scratch {
    /// The window's samples, with zeros before and after.
    padded: Vec<f32>,
    spectrum: Vec<Complex<f32>>,
    fft: Vec<Complex<f32>>,
    /// (bins, lanes)
    power: Vec<[f32; LANES]>,
    /// The largest mel power of each frame (window_frames).
    peak: Vec<f32>,
}

/// The level of a window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Level {
    /// The mean mel power.
    pub(crate) mean_power: f32,
    /// The share of frames that are not silent.
    pub(crate) nonsilent_ratio: f32,
}

/// A mel filter: its weights from bin `first` on. Its other weights are zero.
#[derive(Clone)]
struct Filter {
    first: usize,
    weights: Vec<f32>,
}

impl LogMel {
    /// A front end with these settings.
    ///
    /// # Errors
    ///
    /// Fails if a setting is out of its range; the message names it.
    pub(crate) fn new(settings: Settings) -> Result<Self> {
        settings.check()?;
        let filters = mel_filters(&settings);
        let first = filters.iter().map(|filter| filter.first).min().unwrap_or(0);
        let end = filters.iter().map(|filter| filter.first + filter.weights.len()).max();
        Ok(Self {
            fft: FftPlanner::new().plan_fft_forward(settings.n_fft),
            hann: hann_window(settings.n_fft).iter().map(|value| (value / 2.0) as f32).collect(),
            bins: first..end.unwrap_or(first),
            filters,
            settings,
        })
    }

    /// The settings given to [`LogMel::new`].
    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// New buffers for [`LogMel::window`].
    pub(crate) fn scratch(&self) -> Scratch {
        let Settings { n_fft, hop_length, .. } = self.settings;
        Scratch {
            padded: vec![0.0; self.settings.window() + n_fft - hop_length],
            spectrum: vec![Complex::default(); n_fft],
            fft: vec![Complex::default(); self.fft.get_inplace_scratch_len()],
            power: vec![[0.0; LANES]; self.bins.len()],
            peak: vec![0.0; self.settings.window_frames],
        }
    }

    /// Writes the log-mel of a window (n_mels, window_frames), row-major, and returns its level.
    ///
    /// The mel power is divided by its mean over the non-silent frames, so that neither a gain nor
    /// zeros after the end of a track change the log-mel. Frames are centred in their hops; samples
    /// outside of the window count as zeros.
    ///
    /// # Panics
    ///
    /// Panics if `samples` is not one window, `log_mel` has another size than above, or `scratch`
    /// belongs to another front end.
    pub(crate) fn window(
        &self,
        samples: &[f32],
        log_mel: &mut [f32],
        scratch: &mut Scratch,
    ) -> Level {
        let Settings { window_frames, n_mels, floor, .. } = self.settings;
        assert_eq!(samples.len(), self.settings.window(), "samples in a window");
        assert_eq!(log_mel.len(), n_mels * window_frames, "values in a log-mel");
        self.write_mel(samples, log_mel, scratch);
        let mean_power = mean(log_mel);
        let peak = &mut scratch.peak;
        peak.fill(0.0);
        for row in log_mel.chunks_exact(window_frames) {
            for (peak, &power) in peak.iter_mut().zip(row) {
                *peak = peak.max(power);
            }
        }
        let (divisor, floor) = (mean_power.max(POWER_EPS), floor as f32);
        let is_nonsilent = |power: f32| power / divisor > SILENCE_THRESHOLD * floor;
        let nonsilent = peak.iter().filter(|&&power| is_nonsilent(power)).count();
        let nonsilent_ratio = nonsilent as f32 / window_frames as f32;
        for value in log_mel {
            *value = (*value / divisor * nonsilent_ratio + floor).ln();
        }
        Level { mean_power, nonsilent_ratio }
    }

    /// Writes the mel power of a window (n_mels, window_frames), row-major.
    fn write_mel(&self, samples: &[f32], mel: &mut [f32], scratch: &mut Scratch) {
        let Settings { n_fft, hop_length, window_frames, .. } = self.settings;
        let Scratch { padded, spectrum, fft, power, .. } = scratch;
        padded[(n_fft - hop_length) / 2..][..samples.len()].copy_from_slice(samples);
        let frame = |index: usize| &padded[index * hop_length..][..n_fft];
        for start in (0..window_frames).step_by(LANES) {
            let lanes = LANES.min(window_frames - start);
            for lane in (0..lanes).step_by(2) {
                // Two frames in one transform, as the real and the imaginary part.
                let real = frame(start + lane);
                let imaginary = if lane + 1 < lanes { frame(start + lane + 1) } else { real };
                for (value, ((&hann, &re), &im)) in
                    spectrum.iter_mut().zip(self.hann.iter().zip(real).zip(imaginary))
                {
                    *value = Complex::new(hann * re, hann * im);
                }
                self.fft.process_with_scratch(spectrum, fft);
                self.write_powers(spectrum, lane, power);
            }
            for (filter, row) in self.filters.iter().zip(mel.chunks_exact_mut(window_frames)) {
                let mut sums = [0.0; LANES];
                for (&weight, bin) in
                    filter.weights.iter().zip(&power[filter.first - self.bins.start..])
                {
                    for (sum, power) in sums.iter_mut().zip(bin) {
                        *sum += weight * power;
                    }
                }
                row[start..start + lanes].copy_from_slice(&sums[..lanes]);
            }
        }
    }

    /// Writes the power spectra of two frames, given their joint transform, to `lane` and the next.
    ///
    /// With frames `a` and `b`, and Z the transform of `a + ib`, their spectra are
    /// `(Z[k] + conj Z[n - k]) / 2` and `(Z[k] - conj Z[n - k]) / 2i`. The Hann window contains the
    /// factor 1/2.
    fn write_powers(&self, spectrum: &[Complex<f32>], lane: usize, power: &mut [[f32; LANES]]) {
        let (start, end) = (self.bins.start, self.bins.end);
        let mirrored = spectrum[spectrum.len() - end + 1..=spectrum.len() - start].iter().rev();
        for ((z, mirrored), bin) in spectrum[start..end].iter().zip(mirrored).zip(power) {
            bin[lane] = (z + mirrored.conj()).norm_sqr();
            bin[lane + 1] = (z - mirrored.conj()).norm_sqr();
        }
    }
}

/// The mean in f64, with a partial sum per lane so that it vectorises.
fn mean(values: &[f32]) -> f32 {
    let mut sums = [0.0; LANES];
    for values in values.chunks(LANES) {
        for (sum, &value) in sums.iter_mut().zip(values) {
            *sum += f64::from(value);
        }
    }
    (sums.iter().sum::<f64>() / values.len() as f64) as f32
}

impl fmt::Debug for LogMel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogMel").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// A periodic Hann window whose values sum to 1.
fn hann_window(n_fft: usize) -> Vec<f64> {
    let turn = std::f64::consts::TAU / n_fft as f64;
    let window: Vec<f64> = (0..n_fft).map(|i| 0.5 - 0.5 * (turn * i as f64).cos()).collect();
    let sum: f64 = window.iter().sum();
    window.iter().map(|value| value / sum).collect()
}

/// Triangular mel filters, Slaney's scale and area norm (M. Slaney, "Auditory Toolbox", 1998).
///
/// The scale is linear (200/3 Hz a mel) below 1 kHz and logarithmic (27 mels for a factor of 6.4)
/// above it; each triangle is divided by half its width in Hz.
fn mel_filters(settings: &Settings) -> Vec<Filter> {
    const LINEAR_HZ: f64 = 200.0 / 3.0;
    const KNEE_HZ: f64 = 1_000.0;
    let (knee_mel, log_step) = (KNEE_HZ / LINEAR_HZ, 6.4_f64.ln() / 27.0);
    let to_mel = |hz: f64| {
        if hz < KNEE_HZ { hz / LINEAR_HZ } else { knee_mel + (hz / KNEE_HZ).ln() / log_step }
    };
    let to_hz = |mel: f64| {
        if mel < knee_mel { mel * LINEAR_HZ } else { KNEE_HZ * (log_step * (mel - knee_mel)).exp() }
    };
    let Settings { sample_rate, n_fft, n_mels, f_min, f_max, .. } = *settings;
    let (lowest, highest) = (to_mel(f_min), to_mel(f_max));
    let step = (highest - lowest) / (n_mels + 1) as f64;
    let edges_hz: Vec<f64> = (0..n_mels + 2).map(|i| to_hz(lowest + step * i as f64)).collect();
    let bin_hz = sample_rate as f64 / n_fft as f64;
    let filter = |edges: &[f64]| {
        let (low, middle, high) = (edges[0], edges[1], edges[2]);
        let weight = |bin: usize| {
            let hz = bin as f64 * bin_hz;
            let triangle = ((hz - low) / (middle - low)).min((high - hz) / (high - middle));
            (triangle.max(0.0) * 2.0 / (high - low)) as f32
        };
        // Bin 0 has no weight, since no edge is below 0 Hz. A filter between two bins has none.
        let bins: Vec<usize> = (1..=n_fft / 2).filter(|&bin| weight(bin) > 0.0).collect();
        Filter {
            first: bins.first().copied().unwrap_or(1),
            weights: bins.into_iter().map(weight).collect(),
        }
    };
    edges_hz.windows(3).map(filter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signals::{chirp_saw, noise};
    use proptest::prelude::*;

    fn settings() -> Settings {
        Settings {
            sample_rate: 22_050,
            n_fft: 1_024,
            hop_length: 704,
            window_frames: 32,
            n_mels: 64,
            f_min: 30.0,
            f_max: 8_000.0,
            floor: 1e-5,
        }
    }

    /// The default and others: an odd number of frames, no overlap, up to Nyquist, an FFT size that
    /// is not a power of two, filters too narrow for a bin.
    fn all_settings() -> Vec<Settings> {
        let default = settings();
        vec![
            default.clone(),
            Settings { hop_length: 512, window_frames: 21, f_max: 11_025.0, ..default.clone() },
            Settings {
                n_fft: 768,
                hop_length: 768,
                window_frames: 1,
                f_min: 0.0,
                ..default.clone()
            },
            Settings {
                n_fft: 2_048,
                hop_length: 352,
                window_frames: 9,
                n_mels: 40,
                ..default.clone()
            },
            Settings { n_fft: 256, hop_length: 128, window_frames: 17, n_mels: 128, ..default },
        ]
    }

    fn log_mel(settings: &Settings, samples: &[f32]) -> (Vec<f32>, Level) {
        let mut values = vec![f32::NAN; settings.n_mels * settings.window_frames];
        let front_end = LogMel::new(settings.clone()).unwrap();
        let mut scratch = front_end.scratch();
        // Values of an earlier window in the buffers must not matter.
        front_end.window(&vec![1.0; samples.len()], &mut values, &mut scratch);
        let level = front_end.window(samples, &mut values, &mut scratch);
        (values, level)
    }

    fn max_difference(a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len());
        a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }

    /// The definition, in f64: frame by frame, bin by bin, filter by filter.
    fn by_definition(settings: &Settings, samples: &[f32]) -> (Vec<f32>, Level) {
        let Settings { n_fft, hop_length, window_frames, n_mels, .. } = *settings;
        let (hann, filters) = (hann_window(n_fft), mel_filters(settings));
        let turn = std::f64::consts::TAU / n_fft as f64;
        let mut mel = vec![0.0; n_mels * window_frames];
        for frame in 0..window_frames {
            let sample = |i: usize| {
                let at = (frame * hop_length + i).checked_sub((n_fft - hop_length) / 2);
                at.and_then(|at| samples.get(at)).map_or(0.0, |&sample| f64::from(sample))
            };
            let windowed: Vec<f64> = (0..n_fft).map(|i| hann[i] * sample(i)).collect();
            let part = |k: usize, wave: fn(f64) -> f64| -> f64 {
                let angle = |i: usize| turn * ((k * i) % n_fft) as f64;
                windowed.iter().enumerate().map(|(i, value)| value * wave(angle(i))).sum()
            };
            let power: Vec<f64> = (0..=n_fft / 2)
                .map(|k| part(k, f64::cos).powi(2) + part(k, f64::sin).powi(2))
                .collect();
            for (m, Filter { first, weights }) in filters.iter().enumerate() {
                mel[m * window_frames + frame] =
                    weights.iter().zip(&power[*first..]).map(|(&w, p)| f64::from(w) * p).sum();
            }
        }
        let mean = mel.iter().sum::<f64>() / mel.len() as f64;
        let silence = 0.01 * settings.floor * mean.max(1e-20);
        let is_silent =
            |frame: usize| (0..n_mels).all(|m| mel[m * window_frames + frame] <= silence);
        let nonsilent = (0..window_frames).filter(|&frame| !is_silent(frame)).count();
        let ratio = nonsilent as f64 / window_frames as f64;
        let log = |power: &f64| (power / mean.max(1e-20) * ratio + settings.floor).ln() as f32;
        let level = Level { mean_power: mean as f32, nonsilent_ratio: ratio as f32 };
        (mel.iter().map(log).collect(), level)
    }

    #[test]
    fn the_log_mel_follows_the_definition() {
        for settings in all_settings() {
            let window = settings.window();
            let mut ends = noise(window);
            ends[window / 3..].fill(0.0);
            for samples in [noise(window), chirp_saw(window), ends] {
                let (got, level) = log_mel(&settings, &samples);
                let (want, want_level) = by_definition(&settings, &samples);
                assert!(
                    max_difference(&got, &want) < 2e-3,
                    "{settings:?}: {}",
                    max_difference(&got, &want)
                );
                let ratio = level.mean_power / want_level.mean_power;
                assert!((ratio - 1.0).abs() < 1e-5, "{level:?} {want_level:?}");
                assert_eq!(level.nonsilent_ratio, want_level.nonsilent_ratio, "{settings:?}");
            }
        }
    }

    #[test]
    fn the_log_mel_equals_pytorchs_for_other_settings() {
        let vectors: serde_json::Value =
            serde_json::from_str(include_str!("../tests/reference/vectors.json")).unwrap();
        let cases = vectors["front_ends"].as_array().unwrap();
        assert!(cases.len() >= 2);
        for case in cases {
            let count = |key: &str| case[key].as_u64().unwrap() as usize;
            let number = |key: &str| case[key].as_f64().unwrap();
            let settings = Settings {
                sample_rate: 22_050,
                n_fft: count("n_fft"),
                hop_length: count("hop_length"),
                window_frames: count("window_frames"),
                n_mels: count("n_mels"),
                f_min: number("f_min"),
                f_max: number("f_max"),
                floor: number("floor"),
            };
            let (got, level) = log_mel(&settings, &noise(settings.window()));
            let want = case["log_mel"].as_array().unwrap();
            let want: Vec<f32> = want.iter().map(|value| value.as_f64().unwrap() as f32).collect();
            assert!(
                max_difference(&got, &want) < 2e-3,
                "{settings:?}: {}",
                max_difference(&got, &want)
            );
            let ratio = f64::from(level.mean_power) / number("mean_power");
            assert!((ratio - 1.0).abs() < 1e-5, "{level:?}");
        }
    }

    #[test]
    fn silence_has_no_power_and_the_log_mel_of_the_floor() {
        for settings in all_settings() {
            let (values, level) = log_mel(&settings, &vec![0.0; settings.window()]);
            assert_eq!(level, Level { mean_power: 0.0, nonsilent_ratio: 0.0 });
            assert!(values.iter().all(|&v| v == (settings.floor as f32).ln()));
        }
    }

    #[test]
    fn a_single_sample_is_not_silent_at_any_position() {
        let (settings, mut samples) = (settings(), vec![0.0; settings().window()]);
        for at in [0, 1, 703, 704, 11_000, samples.len() - 1] {
            samples[at] = 1e-3;
            let level = log_mel(&settings, &samples).1;
            assert!(level.mean_power > 0.0 && level.nonsilent_ratio > 0.0, "{at}: {level:?}");
            samples[at] = 0.0;
        }
    }

    /// Two frames share a transform: the loud one must not leak into the silent one.
    #[test]
    fn a_silent_frame_beside_a_loud_one_has_the_floor() {
        let settings = Settings { n_fft: 512, hop_length: 512, ..settings() };
        let samples: Vec<f32> = (0..settings.window())
            .zip(noise(settings.window()))
            .map(|(i, sample)| if i / 512 % 2 == 0 { sample } else { 0.0 })
            .collect();
        let (values, level) = log_mel(&settings, &samples);
        assert_eq!(level.nonsilent_ratio, 0.5);
        for silent in values.iter().skip(1).step_by(2) {
            assert!((silent - (settings.floor as f32).ln()).abs() < 1e-4, "{silent}");
        }
    }

    #[test]
    fn an_invalid_setting_is_an_error_that_names_it() {
        let default = settings;
        for (invalid, name) in [
            (Settings { n_fft: 0, ..default() }, "n_fft is 0"),
            (Settings { n_fft: 1_025, ..default() }, "n_fft is 1025"),
            (Settings { n_fft: usize::MAX - 1, ..default() }, "n_fft is"),
            (Settings { hop_length: 0, ..default() }, "hop_length is 0"),
            (Settings { hop_length: 703, ..default() }, "hop_length is 703"),
            (Settings { hop_length: 1_026, ..default() }, "hop_length is 1026"),
            (Settings { window_frames: 0, ..default() }, "window_frames is 0"),
            (Settings { window_frames: usize::MAX, ..default() }, "window_frames is"),
            (Settings { n_mels: 0, ..default() }, "n_mels is 0"),
            (Settings { n_mels: usize::MAX, ..default() }, "n_mels is"),
            (Settings { f_min: -1.0, ..default() }, "f_min and f_max are -1 and 8000"),
            (Settings { f_min: 8_000.0, ..default() }, "f_min and f_max"),
            (Settings { f_max: 11_026.0, ..default() }, "f_min and f_max"),
            (Settings { f_max: f64::NAN, ..default() }, "f_min and f_max"),
            (Settings { floor: 0.0, ..default() }, "floor is 0"),
            (Settings { floor: 1e-300, ..default() }, "floor is 0.000"),
            (Settings { floor: f64::INFINITY, ..default() }, "floor is inf"),
        ] {
            let error = LogMel::new(invalid).unwrap_err();
            assert!(error.is_model() && error.to_string().contains(name), "{error}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 30, failure_persistence: None, ..Default::default()
        })]

        #[test]
        fn a_gain_changes_nothing(gain in 1e-6_f32..1e6, case in 0_usize..5) {
            let settings = &all_settings()[case];
            let samples = chirp_saw(settings.window());
            let louder: Vec<f32> = samples.iter().map(|sample| sample * gain).collect();
            let ((a, level), (b, louder)) = (log_mel(settings, &samples), log_mel(settings, &louder));
            prop_assert!(max_difference(&a, &b) < 1e-3, "{}", max_difference(&a, &b));
            prop_assert!((louder.mean_power / level.mean_power / gain / gain - 1.0).abs() < 1e-4);
        }

        /// Samples of any size, NaN and infinity too: the mean power shows them to the caller.
        #[test]
        fn any_samples_give_finite_values_or_an_infinite_power(bits in prop::collection::vec(any::<u32>(), 1..200)) {
            let settings = settings();
            let mut samples: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
            samples.resize(settings.window(), 0.0);
            let (values, level) = log_mel(&settings, &samples);
            prop_assert!(!level.mean_power.is_finite() || values.iter().all(|value| value.is_finite()));
        }
    }
}
