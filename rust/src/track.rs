//! An audio file to its embedding.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::SAMPLE_RATE;
pub use crate::decode::StageTimes;
use crate::decode::{DecodeStats, Sink, Source, catch_decoder_panic, decode_with};
use crate::embeddings::{Analysis, AudioEmbeddingModel, EmbeddingStream};
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
    /// be decoded. Of what [is not decoded](crate::decode#what-is-not-decoded), not all damage is
    /// noticed.
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
    /// with its length, and what the model does not use [is not
    /// decoded](crate::decode#what-is-not-decoded).
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
        catch_decoder_panic(path, || self.embed_source(|| Source::open(path)))
    }

    /// Decodes and embeds the content of a file, like [`embed_file`](Self::embed_file).
    ///
    /// # Errors
    ///
    /// As [`embed_file`](Self::embed_file).
    pub fn embed_bytes(&self, bytes: Vec<u8>) -> Result<Track> {
        let bytes: Arc<[u8]> = bytes.into();
        let open = || Source::from_bytes(Arc::clone(&bytes));
        catch_decoder_panic(Path::new(""), || self.embed_source(open))
    }

    fn embed_source(&self, open: impl Fn() -> Result<Source>) -> Result<Track> {
        let (stream, mut stats) = decode_with(open, || self.stream())?;
        let start = Instant::now();
        let (analysis, [cnn, head]) = stream.finish_timed()?;
        let times = &mut stats.times;
        (times.cnn, times.head) = (cnn, head);
        // The last window is encoded at the end.
        times.front_end = (times.front_end + start.elapsed()).saturating_sub(cnn + head);
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
            let sections = || Sections::new(self, &starts);
            let (sections, stats) = decode_with(|| Source::open(path), sections)?;
            let (sections, position) = sections.finish();
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

impl Sink for EmbeddingStream<'_> {
    fn needed(&self) -> Range<u64> {
        self.needed()
    }

    fn push(&mut self, samples: &[f32]) -> Result<()> {
        self.push(samples)
    }

    fn skip(&mut self, samples: u64) -> Result<()> {
        self.skip(samples)
    }
}

/// The sections of a file that is being decoded.
struct Sections<'m> {
    model: &'m AudioEmbeddingModel,
    /// Where each section starts.
    starts: &'m [u64],
    position: u64,
    /// The section at `position`.
    stream: EmbeddingStream<'m>,
    /// The ends and the results of the sections so far.
    done: Vec<(u64, Result<Analysis>)>,
}

impl<'m> Sections<'m> {
    fn new(model: &'m AudioEmbeddingModel, starts: &'m [u64]) -> Self {
        Self { model, starts, position: 0, stream: model.stream(), done: Vec::new() }
    }

    /// Whether the first section begins later.
    fn is_before_first(&self) -> bool {
        self.position < self.starts[0]
    }

    /// Where the section at the current position ends, or what is before the first one.
    fn end(&self) -> u64 {
        let next = if self.is_before_first() { 0 } else { self.done.len() + 1 };
        self.starts.get(next).copied().unwrap_or(u64::MAX)
    }

    /// Passes on `count` samples, in parts that are within one section.
    fn pass(
        &mut self,
        count: u64,
        mut part: impl FnMut(&mut EmbeddingStream<'m>, Range<u64>) -> Result<()>,
    ) -> Result<()> {
        let mut from = 0;
        while from < count {
            let to = count.min(from + (self.end() - self.position));
            if !self.is_before_first() {
                part(&mut self.stream, from..to)?;
            }
            let is_section = !self.is_before_first();
            self.position += to - from;
            from = to;
            if is_section && self.starts.get(self.done.len() + 1) == Some(&self.position) {
                self.end_section();
            }
        }
        Ok(())
    }

    fn end_section(&mut self) {
        let stream = std::mem::replace(&mut self.stream, self.model.stream());
        self.done.push((self.position, stream.finish()));
    }

    /// The ends and the results of all sections, and the end of the audio.
    fn finish(mut self) -> (Vec<(u64, Result<Analysis>)>, u64) {
        while self.done.len() < self.starts.len() {
            self.end_section();
        }
        (self.done, self.position)
    }
}

impl Sink for Sections<'_> {
    fn needed(&self) -> Range<u64> {
        if self.is_before_first() {
            return self.starts[0]..u64::MAX;
        }
        let start = self.starts[self.done.len()];
        let needed = self.stream.needed();
        // The next section begins with a window that is used.
        let end = self.end();
        (start + needed.start).min(end)..(start + needed.end).min(end)
    }

    fn push(&mut self, samples: &[f32]) -> Result<()> {
        self.pass(samples.len() as u64, |stream, part| {
            stream.push(&samples[part.start as usize..part.end as usize])
        })
    }

    fn skip(&mut self, samples: u64) -> Result<()> {
        self.pass(samples, |stream, part| stream.skip(part.end - part.start))
    }
}
