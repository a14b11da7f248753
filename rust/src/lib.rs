//! How a song feels, as 32 numbers: near songs are those that a person would play next.
//!
//! ```
//! use feelprint::{AudioEmbeddingModel, ResampledAudio, SAMPLE_RATE};
//!
//! # fn main() -> feelprint::Result<()> {
//! # if cfg!(not(feature = "bundled-model")) { return Ok(()); }
//! let model = AudioEmbeddingModel::load_default()?;
//! let tone = |hz: f32| ResampledAudio {
//!     path: "tone".into(),
//!     samples: (0..5 * SAMPLE_RATE)
//!         .map(|i| (std::f32::consts::TAU * hz * i as f32 / SAMPLE_RATE as f32).sin())
//!         .collect(),
//! };
//! let (a, b) = (model.embed(&tone(440.0))?, model.embed(&tone(445.0))?);
//! assert_eq!(a.len(), 32);
//! assert!(a.distance(&b) < 2.0);
//! # Ok(())
//! # }
//! ```
//!
//! Songs in files are decoded here too:
//!
//! ```no_run
//! # fn main() -> feelprint::Result<()> {
//! # let model = feelprint::AudioEmbeddingModel::load_default()?;
//! let song = model.embed_file("song.mp3")?;
//! println!("{:?} of {:?}", song.heard().embedding(), song.duration());
//! # Ok(())
//! # }
//! ```
//!
//! A song is cut into windows of about a second. Each window becomes a token; attention weighs
//! the tokens and makes the embedding. The audio streams through, so that an hour takes no more
//! memory than a minute. Zeros at the end of a song change nothing, and silence has an embedding
//! like any song.
//!
//! [`AudioEmbeddingModel`] and what belongs to it have the names and calls of
//! `mecomp_analysis::embeddings`. Embeddings of two models cannot be compared:
//! [`AudioEmbeddingModel::version`] tells which one an embedding is of.
//!
//! # Features
//!
//! Both are on by default.
//!
//! - `bundled-model`: the released model is inside the library.
//! - `cli`: the command `feelprint`, and the crates that only it needs.
#![deny(missing_docs)]

pub mod decode;
pub mod embeddings;
mod error;
mod frontend;
pub mod neighbours;
mod network;
mod opus;
mod resample;
#[cfg(test)]
#[path = "../tests/common/signals.rs"]
mod signals;

pub use embeddings::{
    AudioEmbeddingModel, DIM_EMBEDDING, Embedding, EmbeddingStream, Heard, ModelConfig,
    ResampledAudio,
};
pub use error::{Error, Result};

/// The sample rate that models hear, in Hz.
pub const SAMPLE_RATE: u32 = 22_050;
