//! Opus packets to mono samples, by opus-pure: symphonia demuxes Ogg Opus but does not decode it.

use opus_pure::{OpusDecoder, OpusMSDecoder};

use crate::error::{Error, Result};

/// The rate to decode to, in Hz. It halves the cost of the full rate, and its bandwidth of 12 kHz
/// exceeds that of the model.
pub(crate) const OPUS_RATE: u32 = 24_000;

/// The clock of Opus timestamps, in Hz, at any decoding rate.
const FULL_RATE: usize = 48_000;

/// Frames in the longest packet, 120 ms.
const MAX_FRAMES: usize = OPUS_RATE as usize * 120 / 1000;

enum Streams {
    /// One or two channels in one stream, decoded to mono.
    Single(Box<OpusDecoder>),
    /// Up to eight channels in several streams.
    Multi(Box<OpusMSDecoder>),
}

/// The decoder of one Ogg Opus stream.
pub(crate) struct OpusPackets {
    streams: Streams,
    /// Frames at `OPUS_RATE` of the pre-skip that are still to be dropped.
    skip: usize,
    gain: f32,
    /// The interleaved samples of a packet.
    pcm: Vec<f32>,
}

impl OpusPackets {
    /// Reads the identification header (RFC 7845, section 5.1).
    pub(crate) fn new(head: &[u8]) -> Result<Self> {
        let bad = |what: &str| Error::audio(format!("Opus header: {what}"));
        if head.len() < 19 || !head.starts_with(b"OpusHead") {
            return Err(bad("missing or too short"));
        }
        let channels = usize::from(head[9]);
        let skip = usize::from(u16::from_le_bytes([head[10], head[11]]));
        let gain_q8_db = f32::from(i16::from_le_bytes([head[16], head[17]]));
        let rate = OPUS_RATE as i32;
        let failed = |error: opus_pure::Error| bad(&error.to_string());
        let streams = match (head[18], channels) {
            (0, 1 | 2) => Streams::Single(Box::new(OpusDecoder::new(rate, 1).map_err(failed)?)),
            (1, 1..=8) => {
                let decoder = OpusMSDecoder::new(rate, channels, 1).map_err(failed)?;
                let layout = decoder.layout();
                let counts = [layout.nb_streams, layout.nb_coupled_streams];
                let expected =
                    counts.map(|count| count as u8).into_iter().chain(layout.mapping.clone());
                if !expected.eq(head[19..].iter().copied()) {
                    return Err(bad("an unsupported channel mapping"));
                }
                Streams::Multi(Box::new(decoder))
            }
            (family, _) => {
                return Err(bad(&format!("{channels} channels of mapping family {family}")));
            }
        };
        Ok(Self {
            streams,
            skip: skip * OPUS_RATE as usize / FULL_RATE,
            gain: 10_f32.powf(gain_q8_db / 256.0 / 20.0),
            pcm: Vec::new(),
        })
    }

    /// Decodes a packet into `mono`, without the pre-skip and the last `trim_end` frames at 48 kHz.
    pub(crate) fn decode(
        &mut self,
        packet: &[u8],
        trim_end: u64,
        mono: &mut Vec<f32>,
    ) -> std::result::Result<(), opus_pure::Error> {
        mono.clear();
        if packet.is_empty() {
            return Ok(());
        }
        let channels = match &self.streams {
            Streams::Single(_) => 1,
            Streams::Multi(decoder) => decoder.channels(),
        };
        self.pcm.resize(MAX_FRAMES * channels, 0.0);
        let frames = match &mut self.streams {
            Streams::Single(decoder) => decoder.decode(packet, MAX_FRAMES, &mut self.pcm)?,
            Streams::Multi(decoder) => decoder.decode(packet, MAX_FRAMES, &mut self.pcm)?,
        };
        let skip = self.skip.min(frames);
        self.skip -= skip;
        let trim_end = usize::try_from(trim_end).unwrap_or(frames * FULL_RATE);
        let end = frames.saturating_sub(trim_end.saturating_mul(OPUS_RATE as usize) / FULL_RATE);
        if skip < end {
            let scale = self.gain / channels as f32;
            let kept = self.pcm[skip * channels..end * channels].chunks_exact(channels);
            mono.extend(kept.map(|frame| frame.iter().sum::<f32>() * scale));
        }
        Ok(())
    }
}
