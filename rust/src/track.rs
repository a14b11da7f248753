//! An audio file to its embedding.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::SAMPLE_RATE;
pub use crate::decode::StageTimes;
use crate::decode::{DecodeStats, Source, catch_decoder_panic, decode_blocks};
use crate::embeddings::{Analysis, AudioEmbeddingModel};
use crate::error::{Error, Result};

/// An audio file that was decoded and embedded.
#[derive(Debug, Clone)]
pub struct Track {
    analysis: Analysis,
    stats: DecodeStats,
}

impl Track {
    /// The embedding, the tokens and the attention.
    #[must_use]
    pub fn analysis(&self) -> &Analysis {
        &self.analysis
    }

    /// The duration of the decoded audio.
    #[must_use]
    pub fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.stats.duration_s)
    }

    /// The album in the file's tags.
    #[must_use]
    pub fn album(&self) -> Option<&str> {
        self.stats.album.as_deref()
    }

    /// The first damage of the file, if there is any. The embedding is that of the audio that could
    /// be decoded.
    #[must_use]
    pub fn damage(&self) -> Option<&str> {
        self.stats.damage.as_deref()
    }

    /// The time that each stage took.
    #[must_use]
    pub fn times(&self) -> StageTimes {
        self.stats.times
    }
}

impl AudioEmbeddingModel {
    /// Decodes and embeds a file. The audio streams through the model, so that memory hardly grows
    /// with its length.
    ///
    /// ```no_run
    /// # fn main() -> feelprint::Result<()> {
    /// let model = feelprint::AudioEmbeddingModel::load_default()?;
    /// let track = model.embed_file("track.mp3")?;
    /// println!("{:?} of {:?}", track.analysis().embedding(), track.duration());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`decode`](crate::decode::decode) and [`embed`](Self::embed).
    pub fn embed_file<P: AsRef<Path>>(&self, path: P) -> Result<Track> {
        let path = path.as_ref();
        catch_decoder_panic(path, || self.embed_source(Source::open(path)?))
    }

    /// Decodes and embeds the content of a file, like [`embed_file`](Self::embed_file).
    ///
    /// # Errors
    ///
    /// As [`embed_file`](Self::embed_file).
    pub fn embed_bytes(&self, bytes: Vec<u8>) -> Result<Track> {
        catch_decoder_panic(Path::new(""), || self.embed_source(Source::from_bytes(bytes)?))
    }

    fn embed_source(&self, source: Source) -> Result<Track> {
        let mut stream = self.stream();
        let mut stats = decode_blocks(source, |samples| stream.push(samples))?;
        let start = Instant::now();
        let analysis = stream.finish()?;
        stats.times.embed += start.elapsed();
        Ok(Track { analysis, stats })
    }

    /// Decodes a file once and embeds each of its sections, such as the tracks of a cue sheet.
    ///
    /// `starts_s` are the starts of the sections in seconds, ascending. A section ends where the
    /// next one starts, and the last one with the file; what is before the first one is left out.
    /// The damage and the album are those of the file, and the times are zero.
    ///
    /// # Errors
    ///
    /// Fails as [`embed_file`](Self::embed_file), and if `starts_s` is empty, negative, not finite
    /// or not ascending. A section that starts after the end of the audio is itself an error.
    pub fn embed_sections<P: AsRef<Path>>(
        &self,
        path: P,
        starts_s: &[f64],
    ) -> Result<Vec<Result<Track>>> {
        let path = path.as_ref();
        let first_is_valid = starts_s.first().is_some_and(|&start| start >= 0.0);
        let finite = starts_s.iter().all(|start| start.is_finite());
        if !(first_is_valid && finite && starts_s.is_sorted_by(|a, b| a < b)) {
            return Err(Error::argument(format!(
                "the sections start at {starts_s:?} s, expected ascending numbers from 0"
            )));
        }
        // In samples.
        let starts: Vec<u64> =
            starts_s.iter().map(|start| (start * f64::from(SAMPLE_RATE)).round() as u64).collect();
        catch_decoder_panic(path, || {
            let mut sections = Vec::new();
            let mut stream = self.stream();
            let mut position = 0;
            let stats = decode_blocks(Source::open(path)?, |mut samples| {
                while !samples.is_empty() {
                    let left_out = position < starts[0];
                    let end = match starts.get(sections.len() + 1) {
                        _ if left_out => starts[0],
                        Some(&end) => end,
                        None => u64::MAX,
                    };
                    let here =
                        samples.len().min(usize::try_from(end - position).unwrap_or(usize::MAX));
                    if !left_out {
                        stream.push(&samples[..here])?;
                    }
                    samples = &samples[here..];
                    position += here as u64;
                    if position == end && !left_out {
                        let analysis = std::mem::replace(&mut stream, self.stream()).finish();
                        sections.push((end, analysis));
                    }
                }
                Ok(())
            })?;
            while sections.len() < starts.len() {
                let analysis = std::mem::replace(&mut stream, self.stream()).finish();
                sections.push((position, analysis));
            }
            let track = |((end, analysis), start): ((u64, Result<Analysis>), &u64)| {
                if start >= &position {
                    return Err(Error::audio(format!(
                        "the section starts at {:.1} s, after the end of the audio at {:.1} s",
                        *start as f64 / f64::from(SAMPLE_RATE),
                        stats.duration_s
                    ))
                    .at(path));
                }
                let duration_s = (end - start) as f64 / f64::from(SAMPLE_RATE);
                let stats =
                    DecodeStats { duration_s, times: StageTimes::default(), ..stats.clone() };
                Ok(Track { analysis: analysis.map_err(|error| error.at(path))?, stats })
            };
            Ok(sections.into_iter().zip(&starts).map(track).collect())
        })
    }
}
