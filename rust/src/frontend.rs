//! One window of samples to its log-mel: `student/frontend.py`, with a Fourier transform.
//!
//! The model's graph holds the same front end as convolutions, for runtimes that have nothing
//! else. Its settings stand in the file's metadata, and the tests hold the two together.

use std::fmt;
use std::sync::Arc;

use rustfft::num_complex::Complex;
use rustfft::{Fft, FftPlanner};

use crate::error::{Error, Result};

/// Frames that go through the mel filters at a time, side by side in vector registers; even,
/// since two frames share a transform.
const LANES: usize = 8;

/// Keeps the division of a silent window finite; far below any audible power.
const TINY: f32 = 1e-20;

/// Of the floor: a frame whose loudest mel is below that is silent.
const SILENCE: f32 = 0.01;

/// Bounds on what a file may ask for, far above any use, so that memory stays bounded too.
const MAX_FFT: usize = 1 << 14;
const MAX_FRAMES: usize = 1 << 10;
const MAX_MELS: usize = 1 << 10;

/// What the front end is built from, as it stands in the file's metadata.
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
    /// What is added to the power over its mean, so that silence has a logarithm.
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
        let wrong = if !(2..=MAX_FFT).contains(&n_fft) || n_fft % 2 == 1 {
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
        Err(Error::model(format!("impossible front end: {wrong}")))
    }
}

/// The front end: a window of samples to its log-mel.
pub(crate) struct LogMel {
    settings: Settings,
    fft: Arc<dyn Fft<f32>>,
    /// The Hann window, halved: see [`LogMel::powers`].
    hann: Vec<f32>,
    filters: Vec<Filter>,
    /// The bins that any filter hears.
    bins: std::ops::Range<usize>,
}

/// Where the front end works on a window: allocated once, and used for one window after another.
#[derive(Debug)]
pub(crate) struct Scratch {
    /// The window's samples, between the zeros that lie outside of it; these stay zero.
    padded: Vec<f32>,
    spectrum: Vec<Complex<f32>>,
    fft: Vec<Complex<f32>>,
    /// (bins, lanes)
    power: Vec<[f32; LANES]>,
    /// The power of each frame's loudest mel.
    loudest: Vec<f32>,
}

/// How loud a window is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Level {
    /// Its mean mel power.
    pub(crate) power: f32,
    /// The share of its frames that are not silent.
    pub(crate) audible: f32,
}

/// A mel filter: the weights of the bins from `first` on; all others are zero.
struct Filter {
    first: usize,
    weights: Vec<f32>,
}

impl LogMel {
    /// A front end of these settings.
    ///
    /// # Errors
    ///
    /// Fails if the settings are impossible; the message says which.
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

    /// The settings that it was built from.
    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What [`LogMel::window`] works in.
    pub(crate) fn scratch(&self) -> Scratch {
        let Settings { n_fft, hop_length, .. } = self.settings;
        Scratch {
            padded: vec![0.0; self.settings.window() + n_fft - hop_length],
            spectrum: vec![Complex::default(); n_fft],
            fft: vec![Complex::default(); self.fft.get_inplace_scratch_len()],
            power: vec![[0.0; LANES]; self.bins.len()],
            loudest: vec![0.0; self.settings.window_frames],
        }
    }

    /// Writes a window's log-mel (n_mels, window_frames), row by row, and returns its level.
    ///
    /// The log-mel is of the power over its mean in the frames that are not silent, so that
    /// neither a gain nor the zeros behind a song's end change it. Frames are centred in their
    /// hops; what would lie outside of the window is zero.
    ///
    /// # Panics
    ///
    /// Panics if `samples` is no whole window, `log_mel` is not of the size above, or `scratch` is
    /// another front end's.
    pub(crate) fn window(
        &self,
        samples: &[f32],
        log_mel: &mut [f32],
        scratch: &mut Scratch,
    ) -> Level {
        let Settings { n_fft, hop_length, window_frames, n_mels, floor, .. } = self.settings;
        assert_eq!(samples.len(), self.settings.window(), "samples in a window");
        assert_eq!(log_mel.len(), n_mels * window_frames, "values in a log-mel");
        let outside = (n_fft - hop_length) / 2;
        let Scratch { padded, spectrum, fft, power, loudest } = scratch;
        padded[outside..][..samples.len()].copy_from_slice(samples);
        let frame = |index: usize| &padded[index * hop_length..][..n_fft];

        for start in (0..window_frames).step_by(LANES) {
            let lanes = LANES.min(window_frames - start);
            for lane in (0..lanes).step_by(2) {
                // Two frames at once: one is the real part, the other the imaginary.
                let one = frame(start + lane);
                let other = if lane + 1 < lanes { frame(start + lane + 1) } else { one };
                for (value, ((&hann, &re), &im)) in
                    spectrum.iter_mut().zip(self.hann.iter().zip(one).zip(other))
                {
                    *value = Complex::new(hann * re, hann * im);
                }
                self.fft.process_with_scratch(spectrum, fft);
                self.powers(spectrum, lane, power);
            }
            for (filter, row) in self.filters.iter().zip(log_mel.chunks_exact_mut(window_frames)) {
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

        // Several sums at once: one addition need not wait for another.
        let mut sums = [0.0; LANES];
        for values in log_mel.chunks(LANES) {
            for (sum, &value) in sums.iter_mut().zip(values) {
                *sum += f64::from(value);
            }
        }
        let mean = (sums.iter().sum::<f64>() / log_mel.len() as f64) as f32;
        loudest.fill(0.0);
        for row in log_mel.chunks_exact(window_frames) {
            for (loudest, &value) in loudest.iter_mut().zip(row) {
                *loudest = loudest.max(value);
            }
        }
        let (divisor, floor) = (mean.max(TINY), floor as f32);
        let heard = loudest.iter().filter(|&&power| power / divisor > SILENCE * floor).count();
        let audible = heard as f32 / window_frames as f32;
        for value in log_mel {
            *value = (*value / divisor * audible + floor).ln();
        }
        Level { power: mean, audible }
    }

    /// Writes the powers of two frames, whose spectra lie in one, as `lane` and the next.
    ///
    /// With frames `a` and `b`, and Z the transform of `a + ib`, the spectra are
    /// `(Z[k] + conj Z[n - k]) / 2` and `(Z[k] - conj Z[n - k]) / 2i`. The half is in the window.
    fn powers(&self, spectrum: &[Complex<f32>], lane: usize, power: &mut [[f32; LANES]]) {
        let (start, end) = (self.bins.start, self.bins.end);
        let mirrored = spectrum[spectrum.len() - end + 1..=spectrum.len() - start].iter().rev();
        for ((z, mirrored), bin) in spectrum[start..end].iter().zip(mirrored).zip(power) {
            bin[lane] = (z + mirrored.conj()).norm_sqr();
            bin[lane + 1] = (z - mirrored.conj()).norm_sqr();
        }
    }
}

impl fmt::Debug for LogMel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogMel").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// A periodic Hann window whose values sum to one.
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
        // Bin 0 is never heard: the lowest edge is not below it. A filter that lies between two
        // bins hears nothing.
        let heard: Vec<usize> = (1..=n_fft / 2).filter(|&bin| weight(bin) > 0.0).collect();
        Filter {
            first: heard.first().copied().unwrap_or(1),
            weights: heard.into_iter().map(weight).collect(),
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

    /// Shapes beside the first: odd numbers of frames, no overlap, up to Nyquist, no power of two,
    /// filters too narrow to hold a bin.
    fn shapes() -> Vec<Settings> {
        let all = settings();
        vec![
            all.clone(),
            Settings { hop_length: 512, window_frames: 21, f_max: 11_025.0, ..all.clone() },
            Settings { n_fft: 768, hop_length: 768, window_frames: 1, f_min: 0.0, ..all.clone() },
            Settings { n_fft: 2_048, hop_length: 352, window_frames: 9, n_mels: 40, ..all.clone() },
            Settings { n_fft: 256, hop_length: 128, window_frames: 17, n_mels: 128, ..all },
        ]
    }

    fn log_mel(settings: &Settings, samples: &[f32]) -> (Vec<f32>, Level) {
        let mut values = vec![f32::NAN; settings.n_mels * settings.window_frames];
        let front_end = LogMel::new(settings.clone()).unwrap();
        let mut scratch = front_end.scratch();
        // A window does not hear what was worked on before it.
        front_end.window(&vec![1.0; samples.len()], &mut values, &mut scratch);
        let level = front_end.window(samples, &mut values, &mut scratch);
        (values, level)
    }

    fn apart(a: &[f32], b: &[f32]) -> f32 {
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
        let silent = |frame: usize| (0..n_mels).all(|m| mel[m * window_frames + frame] <= silence);
        let heard = (0..window_frames).filter(|&frame| !silent(frame)).count();
        let audible = heard as f64 / window_frames as f64;
        let log = |power: &f64| (power / mean.max(1e-20) * audible + settings.floor).ln() as f32;
        let level = Level { power: mean as f32, audible: audible as f32 };
        (mel.iter().map(log).collect(), level)
    }

    #[test]
    fn the_log_mel_is_that_of_the_definition() {
        for settings in shapes() {
            let window = settings.window();
            let mut ends = noise(window);
            ends[window / 3..].fill(0.0);
            for samples in [noise(window), chirp_saw(window), ends] {
                let (got, level) = log_mel(&settings, &samples);
                let (want, wanted) = by_definition(&settings, &samples);
                assert!(apart(&got, &want) < 2e-3, "{settings:?}: {}", apart(&got, &want));
                assert!((level.power / wanted.power - 1.0).abs() < 1e-5, "{level:?} {wanted:?}");
                assert_eq!(level.audible, wanted.audible, "{settings:?}");
            }
        }
    }

    #[test]
    fn the_log_mel_is_pythons_for_other_settings() {
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
            assert!(apart(&got, &want) < 2e-3, "{settings:?}: {}", apart(&got, &want));
            let ratio = f64::from(level.power) / number("mean_power");
            assert!((ratio - 1.0).abs() < 1e-5, "{level:?}");
        }
    }

    #[test]
    fn silence_has_no_power_and_is_the_floor() {
        for settings in shapes() {
            let (values, level) = log_mel(&settings, &vec![0.0; settings.window()]);
            assert_eq!(level, Level { power: 0.0, audible: 0.0 });
            assert!(values.iter().all(|&v| v == (settings.floor as f32).ln()));
        }
    }

    #[test]
    fn one_sample_is_heard_wherever_it_is() {
        let (settings, mut samples) = (settings(), vec![0.0; settings().window()]);
        for at in [0, 1, 703, 704, 11_000, samples.len() - 1] {
            samples[at] = 1e-3;
            let level = log_mel(&settings, &samples).1;
            assert!(level.power > 0.0 && level.audible > 0.0, "{at}: {level:?}");
            samples[at] = 0.0;
        }
    }

    /// Two frames share a transform: the loud one must not be heard in the quiet one.
    #[test]
    fn a_silent_frame_beside_a_loud_one_is_the_floor() {
        let settings = Settings { n_fft: 512, hop_length: 512, ..settings() };
        let samples: Vec<f32> = (0..settings.window())
            .zip(noise(settings.window()))
            .map(|(i, sample)| if i / 512 % 2 == 0 { sample } else { 0.0 })
            .collect();
        let (values, level) = log_mel(&settings, &samples);
        assert_eq!(level.audible, 0.5);
        for silent in values.iter().skip(1).step_by(2) {
            assert!((silent - (settings.floor as f32).ln()).abs() < 1e-4, "{silent}");
        }
    }

    #[test]
    fn impossible_settings_are_refused_by_name() {
        let all = settings;
        for (wrong, name) in [
            (Settings { n_fft: 0, ..all() }, "n_fft is 0"),
            (Settings { n_fft: 1_025, ..all() }, "n_fft is 1025"),
            (Settings { n_fft: usize::MAX - 1, ..all() }, "n_fft is"),
            (Settings { hop_length: 0, ..all() }, "hop_length is 0"),
            (Settings { hop_length: 703, ..all() }, "hop_length is 703"),
            (Settings { hop_length: 1_026, ..all() }, "hop_length is 1026"),
            (Settings { window_frames: 0, ..all() }, "window_frames is 0"),
            (Settings { window_frames: usize::MAX, ..all() }, "window_frames is"),
            (Settings { n_mels: 0, ..all() }, "n_mels is 0"),
            (Settings { n_mels: usize::MAX, ..all() }, "n_mels is"),
            (Settings { f_min: -1.0, ..all() }, "f_min and f_max are -1 and 8000"),
            (Settings { f_min: 8_000.0, ..all() }, "f_min and f_max"),
            (Settings { f_max: 11_026.0, ..all() }, "f_min and f_max"),
            (Settings { f_max: f64::NAN, ..all() }, "f_min and f_max"),
            (Settings { floor: 0.0, ..all() }, "floor is 0"),
            (Settings { floor: 1e-300, ..all() }, "floor is 0.000"),
            (Settings { floor: f64::INFINITY, ..all() }, "floor is inf"),
        ] {
            let error = LogMel::new(wrong).unwrap_err();
            assert!(error.is_model() && error.to_string().contains(name), "{error}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 30, failure_persistence: None, ..Default::default()
        })]

        #[test]
        fn a_gain_changes_nothing(gain in 1e-6_f32..1e6, shape in 0_usize..5) {
            let settings = &shapes()[shape];
            let samples = chirp_saw(settings.window());
            let louder: Vec<f32> = samples.iter().map(|sample| sample * gain).collect();
            let ((a, level), (b, louder)) = (log_mel(settings, &samples), log_mel(settings, &louder));
            prop_assert!(apart(&a, &b) < 1e-3, "{}", apart(&a, &b));
            prop_assert!((louder.power / level.power / gain / gain - 1.0).abs() < 1e-4);
        }

        /// Samples of any size, and no numbers too: the caller sees it in the power.
        #[test]
        fn any_bits_are_taken(bits in prop::collection::vec(any::<u32>(), 1..200)) {
            let settings = settings();
            let mut samples: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
            samples.resize(settings.window(), 0.0);
            let (values, level) = log_mel(&settings, &samples);
            prop_assert!(!level.power.is_finite() || values.iter().all(|value| value.is_finite()));
        }
    }
}
