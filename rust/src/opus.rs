//! Opus packets to samples, by opus-pure: symphonia demuxes Opus but does not decode it.

use opus_pure::{OpusDecoder, OpusMSDecoder, OpusMode};

use crate::error::{Error, Result};

/// The rate to decode to, in Hz. opus-pure 0.2.2 decodes to lower rates by dropping samples, without a
/// filter: what is above half the rate would be folded down.
pub(crate) const OPUS_RATE: u32 = 48_000;

/// Frames in the longest packet, 120 ms.
const MAX_FRAMES: usize = OPUS_RATE as usize * 120 / 1000;

enum Streams {
    /// One or two channels in one stream.
    Single(Box<OpusDecoder>, usize),
    /// Up to eight channels in several streams.
    Multi(Box<OpusMSDecoder>),
}

/// The decoder of one Opus stream.
pub(crate) struct OpusPackets {
    streams: Streams,
    /// Frames of the pre-skip that are still to be dropped.
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
            (0, 1 | 2) => {
                let decoder = OpusDecoder::new(rate, channels).map_err(failed)?;
                Streams::Single(Box::new(decoder), channels)
            }
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
        Ok(Self { streams, skip, gain: 10_f32.powf(gain_q8_db / 256.0 / 20.0), pcm: Vec::new() })
    }

    /// Forgets the packets so far: the next one need not follow them.
    pub(crate) fn restart(&mut self) {
        // Resetting fails only if the settings are invalid, and they made this decoder.
        let _ = match &mut self.streams {
            Streams::Single(decoder, _) => decoder.reset_state(),
            Streams::Multi(decoder) => decoder.reset_state(),
        };
    }

    /// The frames of a packet at [`OPUS_RATE`], by its header; none if that is invalid, or if the
    /// packet has a part for speech (SILK): its decoder never quite forgets where it began.
    pub(crate) fn frames(packet: &[u8]) -> Option<u64> {
        let is_celt = matches!(opus_pure::packet::mode(packet), Ok(OpusMode::CeltOnly));
        is_celt.then_some(opus_pure::packet::samples_48k(packet).ok()? as u64)
    }

    /// Decodes a packet into its channels, without the pre-skip.
    pub(crate) fn decode(
        &mut self,
        packet: &[u8],
        planes: &mut Vec<Vec<f32>>,
    ) -> std::result::Result<(), opus_pure::Error> {
        let channels = match &self.streams {
            Streams::Single(_, channels) => *channels,
            Streams::Multi(decoder) => decoder.channels(),
        };
        planes.resize_with(channels, Vec::new);
        planes.iter_mut().for_each(Vec::clear);
        if packet.is_empty() {
            return Ok(());
        }
        self.pcm.resize(MAX_FRAMES * channels, 0.0);
        let frames = match &mut self.streams {
            Streams::Single(decoder, _) => decoder.decode(packet, MAX_FRAMES, &mut self.pcm)?,
            Streams::Multi(decoder) => decoder.decode(packet, MAX_FRAMES, &mut self.pcm)?,
        };
        let skip = self.skip.min(frames);
        self.skip -= skip;
        let kept = &self.pcm[skip * channels..frames * channels];
        for (channel, plane) in planes.iter_mut().enumerate() {
            let samples = kept.iter().skip(channel).step_by(channels);
            plane.extend(samples.map(|sample| sample * self.gain));
        }
        Ok(())
    }
}
