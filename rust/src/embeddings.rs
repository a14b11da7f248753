//! Embeds audio samples.
//!
//! The names and signatures are those of `mecomp_analysis::embeddings` 0.7.2, so that its callers
//! stay as they are (`docs/mecomp.md`).

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::SAMPLE_RATE;
pub use crate::decode::ResampledAudio;
use crate::error::{Error, Result};
pub use crate::network::DIM_EMBEDDING;
use crate::network::{EncoderState, Network, WindowRule};

/// The model's file name in a folder that a training run or the Hugging Face Hub made.
const ONNX_NAME: &str = "feelprint.onnx";

/// The embedding of a track: a vector whose Euclidean norm is about 1, but not exactly 1. Compare
/// embeddings by their [`distance`](Self::distance).
#[derive(Debug, Default, PartialEq, Clone, Copy)]
#[repr(transparent)]
pub struct Embedding(pub [f32; DIM_EMBEDDING]);

impl Embedding {
    /// The number of values, [`DIM_EMBEDDING`].
    #[inline]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Always `false`; a companion of [`len`](Self::len).
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The values as a slice.
    #[inline]
    #[must_use]
    pub const fn as_slice(&self) -> &[f32] {
        &self.0
    }

    /// The values as a mutable slice.
    #[inline]
    #[must_use]
    pub const fn as_mut_slice(&mut self) -> &mut [f32] {
        &mut self.0
    }

    /// The values as an array.
    #[inline]
    #[must_use]
    pub const fn inner(&self) -> &[f32; DIM_EMBEDDING] {
        &self.0
    }

    /// The Euclidean distance: 0 for equal embeddings, without an upper bound (the norms are about
    /// 1, but not exactly 1).
    ///
    /// The cosine ignores the norm and ranks tracks slightly worse: the norm is larger for a track
    /// that lies along the axes on which albums differ most.
    #[must_use]
    pub fn distance(&self, other: &Self) -> f32 {
        let squares = self.0.iter().zip(&other.0).map(|(a, b)| (a - b) * (a - b));
        squares.sum::<f32>().sqrt()
    }
}

/// Which model to load.
#[derive(Debug, Clone, Default)]
pub struct ModelConfig {
    /// An ONNX file, or a folder that holds `feelprint.onnx`; `None` is the bundled model.
    pub path: Option<PathBuf>,
}

/// A loaded model.
///
/// All methods take `&self`: threads can share one model.
#[derive(Debug)]
pub struct AudioEmbeddingModel {
    network: Arc<Network>,
    stop: Arc<AtomicBool>,
}

impl AudioEmbeddingModel {
    /// Loads the bundled model.
    ///
    /// # Errors
    ///
    /// Fails if the crate was built without the feature `bundled-model`.
    pub fn load_default() -> Result<Self> {
        #[cfg(feature = "bundled-model")]
        {
            Ok(Self::new(Network::from_onnx(include_bytes!("../models/feelprint.onnx"))?))
        }
        #[cfg(not(feature = "bundled-model"))]
        Err(Error::model(
            "built without the feature `bundled-model`: name a model file (ModelConfig::path, or \
             --model)",
        ))
    }

    /// Loads an ONNX file, or `feelprint.onnx` from a folder.
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be read, or is not a feelprint model.
    pub fn load_from_onnx<P: AsRef<Path>>(path: P) -> Result<Self> {
        let mut path = path.as_ref().to_path_buf();
        if path.is_dir() {
            path.push(ONNX_NAME);
        }
        let bytes = std::fs::read(&path).map_err(|error| Error::io(&path, error))?;
        let network = Network::from_onnx(&bytes).map_err(|error| error.at(&path))?;
        Ok(Self::new(network))
    }

    /// Loads the model that `config` names.
    ///
    /// # Errors
    ///
    /// As [`load_default`](Self::load_default) and [`load_from_onnx`](Self::load_from_onnx). If
    /// `config.path` is not a model, that is an error; the bundled model is not used instead.
    pub fn load(config: &ModelConfig) -> Result<Self> {
        config.path.as_ref().map_or_else(Self::load_default, Self::load_from_onnx)
    }

    fn new(network: Network) -> Self {
        Self { network: Arc::new(network), stop: Arc::default() }
    }

    /// The same model, whose work ends when `stop` is set: with an I/O error of the kind
    /// [`Interrupted`](io::ErrorKind::Interrupted), also in the middle of a track. The weights are
    /// shared.
    #[must_use]
    pub fn until(&self, stop: Arc<AtomicBool>) -> Self {
        Self { network: Arc::clone(&self.network), stop }
    }

    /// Whether the flag of [`until`](Self::until) is set.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.check_stopped().is_err()
    }

    /// Fails if the flag of [`until`](Self::until) is set.
    pub(crate) fn check_stopped(&self) -> Result<()> {
        check(&self.stop)
    }

    /// The same model, but using every window of a track: slower, and about as accurate.
    ///
    /// Its embeddings cannot be compared with those of the model as it was trained, and its
    /// [`version`](Self::version) ends with `+whole`. A model that uses every window anyway (those up
    /// to 0.10.1 do) stays as it is.
    #[must_use]
    pub fn whole(mut self) -> Self {
        if self.network.rule.stride > 1 {
            let network = Arc::make_mut(&mut self.network);
            network.rule = WindowRule::EVERY;
            network.version += "+whole";
        }
        self
    }

    /// The model's version: the one in the file's metadata and a digest of the file, such as
    /// `0.10.0-1f2e3d4c5b6a`. Store it with embeddings: only those of one version can be compared.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.network.version
    }

    /// The length of a window, in samples.
    #[must_use]
    pub fn window(&self) -> usize {
        self.network.window
    }

    /// The embedding of a track.
    ///
    /// # Errors
    ///
    /// Fails if there is no sample, or if a sample is not finite or too large for the model.
    pub fn embed(&self, audio: &ResampledAudio) -> Result<Embedding> {
        let embed = || {
            let mut stream = self.stream();
            stream.push(&audio.samples)?;
            Ok(stream.finish()?.embedding)
        };
        embed().map_err(|error: Error| error.at(&audio.path))
    }

    /// The embeddings of several tracks, in the order given. Each equals the result of
    /// [`embed`](Self::embed).
    ///
    /// # Errors
    ///
    /// As [`embed`](Self::embed), for the first track that fails.
    pub fn embed_batch(&self, audios: &[ResampledAudio]) -> Result<Vec<Embedding>> {
        audios.iter().map(|audio| self.embed(audio)).collect()
    }

    /// Starts the embedding of a track whose samples come block by block.
    #[must_use]
    pub fn stream(&self) -> EmbeddingStream<'_> {
        EmbeddingStream {
            network: &self.network,
            stop: &self.stop,
            encoder_state: self.network.encoder_state(),
            position: 0,
            pending: Vec::with_capacity(self.network.window),
            tokens: Vec::new(),
            windows: Vec::new(),
            nonsilent_ratio: Vec::new(),
        }
    }

    /// The embedding without some of the windows of `analysis`, a range of indices up to
    /// [`windows`](Analysis::windows): how it moves shows what they add. Without all of them, the
    /// others being none, it is the mean of them all.
    ///
    /// # Errors
    ///
    /// Fails if `analysis` has no such windows, or is not of this model.
    pub fn embedding_without(
        &self,
        analysis: &Analysis,
        windows: Range<usize>,
    ) -> Result<Embedding> {
        let count = analysis.windows();
        let mut weights = analysis.weights();
        let is_of_model = analysis.tokens.len() == count * self.network.dim;
        let Some(left_out) = weights.get_mut(windows.clone()).filter(|_| is_of_model) else {
            return Err(Error::argument(format!(
                "windows {windows:?} of an analysis of {count} windows; expected some of them, and \
                 an analysis of this model"
            )));
        };
        left_out.fill(0.0);
        Ok(Embedding(self.network.pool(&analysis.tokens, &weights)?.0))
    }
}

/// A track that is being embedded. It holds up to one window of samples, and the tokens so far.
#[derive(Debug)]
pub struct EmbeddingStream<'m> {
    network: &'m Network,
    stop: &'m AtomicBool,
    encoder_state: EncoderState,
    /// The samples so far.
    position: u64,
    /// Samples of a used window that are not yet encoded, fewer than a window.
    pending: Vec<f32>,
    /// (windows, dim), row-major.
    tokens: Vec<f32>,
    /// The used windows so far.
    windows: Vec<Window>,
    /// (windows).
    nonsilent_ratio: Vec<f32>,
}

impl EmbeddingStream<'_> {
    /// The next samples that the model uses, as positions in the track: from the current one, or from
    /// the start of the next window that is used, to the end of that window. What is before may be
    /// [`skip`](Self::skip)ped.
    #[must_use]
    pub fn needed(&self) -> Range<u64> {
        let length = self.network.window as u64;
        let window = self.network.rule.next_used(self.position / length);
        self.position.max(window * length)..(window + 1) * length
    }

    /// Leaves out the next samples, which are not [`needed`](Self::needed).
    ///
    /// # Errors
    ///
    /// Fails if one of them is needed, or if the work was stopped ([`AudioEmbeddingModel::until`]).
    pub fn skip(&mut self, samples: u64) -> Result<()> {
        check(self.stop)?;
        let (to, needed) = (self.position.saturating_add(samples), self.needed().start);
        if to > needed {
            return Err(Error::argument(format!(
                "samples up to {to} are left out, but the model uses those from {needed} on"
            )));
        }
        self.position = to;
        Ok(())
    }

    /// Adds the next samples: mono, at [`SAMPLE_RATE`](crate::SAMPLE_RATE). Those of windows that are
    /// not used are counted, no more.
    ///
    /// # Errors
    ///
    /// Fails if a sample that is used is not finite or too large for the model, or if the work was
    /// stopped ([`AudioEmbeddingModel::until`]).
    pub fn push(&mut self, mut samples: &[f32]) -> Result<()> {
        check(self.stop)?;
        while !samples.is_empty() {
            let needed = self.needed();
            let is_used = needed.start == self.position;
            let end = if is_used { needed.end } else { needed.start };
            let here = (samples.len() as u64).min(end - self.position);
            let (now, later) = samples.split_at(here as usize);
            if is_used {
                if !are_finite(now) {
                    return Err(Error::audio("a sample is not a finite number"));
                }
                self.pending.extend_from_slice(now);
                if self.pending.len() == self.network.window {
                    self.encode()?;
                }
            }
            self.position += here;
            samples = later;
        }
        Ok(())
    }

    /// Ends the track. The last window is padded with zeros.
    ///
    /// # Errors
    ///
    /// Fails if there was no sample, or if the samples are too large for the model.
    pub fn finish(self) -> Result<Analysis> {
        self.finish_timed().map(|(analysis, _)| analysis)
    }

    /// As [`finish`](Self::finish), and the time in the CNN and in the head.
    pub(crate) fn finish_timed(mut self) -> Result<(Analysis, [Duration; 2])> {
        if self.position == 0 {
            return Err(Error::audio("no samples"));
        }
        // A model need not use the first windows of a track: then a short one is silence to it.
        if !self.pending.is_empty() || self.windows.is_empty() {
            self.position -= 1;
            self.pending.resize(self.network.window, 0.0);
            self.encode()?;
        }
        let mut analysis = Analysis {
            embedding: Embedding::default(),
            window_s: self.network.window as f64 / f64::from(SAMPLE_RATE),
            tokens: self.tokens,
            windows: self.windows,
            nonsilent_ratio: self.nonsilent_ratio,
            attention: Vec::new(),
        };
        let start = Instant::now();
        let (embedding, attention) = self.network.pool(&analysis.tokens, &analysis.weights())?;
        let head_time = start.elapsed();
        if !embedding.iter().all(|value| value.is_finite()) {
            return Err(Error::audio("the samples are too large for the model"));
        }
        (analysis.embedding, analysis.attention) = (Embedding(embedding), attention);
        Ok((analysis, [self.encoder_state.cnn_time, head_time]))
    }

    /// Encodes the pending window, in which `position` is.
    fn encode(&mut self) -> Result<()> {
        let (token, nonsilent_ratio) =
            self.network.encode(&self.pending, &mut self.encoder_state)?;
        self.pending.clear();
        self.tokens.extend(token);
        let index = self.position / self.network.window as u64;
        self.windows.push(Window { index, stands_for: self.network.rule.span(index) });
        self.nonsilent_ratio.push(nonsilent_ratio);
        Ok(())
    }
}

fn check(stop: &AtomicBool) -> Result<()> {
    if stop.load(Ordering::Relaxed) {
        return Err(Error::reading(io::ErrorKind::Interrupted.into()));
    }
    Ok(())
}

/// Whether every sample is finite. Without a branch per sample, so that it vectorises.
fn are_finite(samples: &[f32]) -> bool {
    const EXPONENT_LSB: u32 = 1 << 23;
    // NaN and infinity have an exponent of all ones: adding 1 to it carries into the sign bit.
    let carry = |sample: &f32| (sample.to_bits() & i32::MAX as u32) + EXPONENT_LSB;
    samples.iter().fold(0, |all, sample| all | carry(sample)) >> 31 == 0
}

/// A window that a model used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Its index among all windows of the track.
    pub index: u64,
    /// The number of windows that it stands for, which weights it.
    pub stands_for: u64,
}

/// The embedding of a track, with the tokens and the attention that it was pooled from.
#[derive(Debug, Clone)]
pub struct Analysis {
    embedding: Embedding,
    /// The length of a window, in seconds.
    window_s: f64,
    /// (windows, dim), row-major.
    tokens: Vec<f32>,
    windows: Vec<Window>,
    /// (windows).
    nonsilent_ratio: Vec<f32>,
    /// (queries, windows), row-major.
    attention: Vec<f32>,
}

impl Analysis {
    /// The embedding of the track.
    #[must_use]
    pub fn embedding(&self) -> Embedding {
        self.embedding
    }

    /// The number of windows that were used.
    #[must_use]
    pub fn windows(&self) -> usize {
        self.windows.len()
    }

    /// The windows that were used, in the order of time.
    #[must_use]
    pub fn used_windows(&self) -> &[Window] {
        &self.windows
    }

    /// Where a window begins in the track, in seconds.
    ///
    /// # Panics
    ///
    /// Panics if `window` is out of bounds.
    #[must_use]
    pub fn start_s(&self, window: usize) -> f64 {
        self.windows[window].index as f64 * self.window_s
    }

    /// The weight of each window: its share of non-silent frames times the number of windows that it
    /// stands for.
    fn weights(&self) -> Vec<f32> {
        let ratios = self.nonsilent_ratio.iter();
        ratios.zip(&self.windows).map(|(ratio, w)| ratio * w.stands_for as f32).collect()
    }

    /// Whether every frame that was used is silent. All silent tracks have the same embedding.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.nonsilent_ratio.iter().all(|&ratio| ratio == 0.0)
    }

    /// The token of a window (dim).
    ///
    /// # Panics
    ///
    /// Panics if `window` is out of bounds.
    #[must_use]
    pub fn token(&self, window: usize) -> &[f32] {
        let dim = self.tokens.len() / self.windows();
        &self.tokens[window * dim..(window + 1) * dim]
    }

    /// The attention weight of each window (windows): the mean over the queries. The weights sum
    /// to 1.
    #[must_use]
    pub fn attention(&self) -> Vec<f32> {
        let windows = self.windows();
        let queries = (self.attention.len() / windows) as f32;
        (0..windows)
            .map(|w| self.attention[w..].iter().step_by(windows).sum::<f32>() / queries)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{AudioEmbeddingModel, EmbeddingStream, are_finite};

    #[test]
    fn a_model_is_send_and_sync_and_a_stream_is_send() {
        fn assert_send_sync<T: Send + Sync>() {}
        fn assert_send<T: Send>() {}
        assert_send_sync::<AudioEmbeddingModel>();
        assert_send::<EmbeddingStream<'_>>();
    }

    #[test]
    fn one_sample_that_is_not_finite_is_found() {
        let finite = [0.0, -0.0, 1.0, f32::MAX, f32::MIN, f32::MIN_POSITIVE, f32::from_bits(1)];
        assert!(are_finite(&[]) && are_finite(&finite));
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in 0..=finite.len() {
                let mut samples = finite.to_vec();
                samples.insert(at, bad);
                assert!(!are_finite(&samples), "{bad} at {at}");
            }
        }
    }
}
