//! Decoders: packets to channels of samples.

use std::collections::VecDeque;

use symphonia::core::audio::conv::IntoSample;
use symphonia::core::audio::{Audio, GenericAudioBufferRef};
use symphonia::core::codecs::audio::well_known::{
    CODEC_ID_AAC, CODEC_ID_ALAC, CODEC_ID_FLAC, CODEC_ID_MP1, CODEC_ID_MP2, CODEC_ID_MP3,
    CODEC_ID_OPUS, CODEC_ID_VORBIS,
};
use symphonia::core::codecs::audio::{AudioCodecParameters, AudioDecoder, AudioDecoderOptions};
use symphonia::core::packet::PacketRef;
use symphonia::core::units::{Duration, Timestamp};

use super::{StreamPacket, flac, frames};
use crate::error::{Error, Result};
use crate::opus::{OPUS_RATE, OpusPackets};

/// The frames of MPEG audio, layers 1 and 2, that the filterbank reaches back.
const MPEG_OVERLAP: usize = 2;

/// The frames of Opus before the ones that are used, 0.3 s. The format asks for 80 ms (RFC 7845,
/// section 4.6), after which no difference is audible; but band energies are predicted from packet to
/// packet, so that the difference to a full decode decays: 8e-3 after 80 ms, 1e-4 after 0.2 s, 3e-7
/// after 0.4 s.
const OPUS_PREROLL: u64 = 14_400;

/// The samples of a block, one vector a channel.
#[derive(Debug, Default)]
pub(super) struct Planes {
    /// The sample rate in Hz.
    pub(super) rate: u32,
    pub(super) channels: Vec<Vec<f32>>,
}

impl Planes {
    /// Sets the number of channels, and empties them.
    pub(crate) fn reset(&mut self, rate: u32, channels: usize) {
        self.rate = rate;
        self.channels.resize_with(channels, Vec::new);
        self.channels.iter_mut().for_each(Vec::clear);
    }

    /// Sets the samples that are NaN or infinite to 0: files of floats have them by faults of the
    /// software that wrote them. Returns whether there were finite samples, and others.
    pub(super) fn replace_not_finite(&mut self) -> (bool, bool) {
        let (mut has_finite, mut has_other) = (false, false);
        for channel in &mut self.channels {
            // Without a branch per sample, so that it vectorises.
            if channel.iter().fold(true, |all, sample| all & sample.is_finite()) {
                has_finite |= !channel.is_empty();
                continue;
            }
            has_other = true;
            for sample in channel.iter_mut() {
                if sample.is_finite() {
                    has_finite = true;
                } else {
                    *sample = 0.0;
                }
            }
        }
        (has_finite, has_other)
    }
}

enum Decoder {
    Symphonia(Box<dyn AudioDecoder>),
    Opus(Box<OpusPackets>),
    Aac(Box<syom::Decoder>),
}

/// The decoder of a stream.
pub(super) struct Codec {
    parameters: AudioCodecParameters,
    decoder: Decoder,
}

impl Codec {
    /// Chooses the decoder. `first` are the first packets: only they show that AAC has spectral band
    /// replication, unless the file's header states it.
    pub(super) fn new<'a>(
        parameters: AudioCodecParameters,
        first: impl Iterator<Item = &'a [u8]>,
    ) -> Result<Self> {
        let channels = parameters.channels.as_ref().map_or(0, |channels| channels.count());
        if parameters.codec == CODEC_ID_VORBIS && channels > 2 {
            // symphonia 0.6.1 drops some of them, which would give a wrong embedding.
            return Err(Error::audio(format!(
                "Vorbis with {channels} channels is not supported, only 1 or 2"
            )));
        }
        let decoder = if parameters.codec == CODEC_ID_OPUS {
            let head = parameters.extra_data.as_deref().unwrap_or_default();
            Decoder::Opus(Box::new(OpusPackets::new(head)?))
        } else {
            match symphonia_decoder(&parameters) {
                Ok(decoder) if !has_band_replication(&parameters, first) => {
                    Decoder::Symphonia(decoder)
                }
                Err(error) if parameters.codec != CODEC_ID_AAC => {
                    return Err(Error::audio(error.to_string()));
                }
                _ => Decoder::Aac(Box::new(aac_decoder(&parameters).map_err(Error::audio)?)),
            }
        };
        Ok(Self { parameters, decoder })
    }

    /// Whether [`Codec::new`] needs the first packets of such a stream.
    pub(super) fn needs_packets(parameters: &AudioCodecParameters) -> bool {
        parameters.codec == CODEC_ID_AAC
    }

    /// Whether the frames of the stream refer to those before them, so that the first ones of a
    /// recording may not be decodable.
    pub(super) fn has_reservoir(&self) -> bool {
        self.parameters.codec == CODEC_ID_MP3
    }

    /// The frames that the decoder will give for a packet, by the packet's header; none if they are
    /// not known before it is decoded, or if the packet is not of this rate.
    pub(super) fn frames(&self, packet: &StreamPacket, rate: u32) -> Option<u64> {
        let data = &packet.data;
        let extra = self.parameters.extra_data.as_deref().unwrap_or_default();
        match (&self.decoder, self.parameters.codec) {
            (Decoder::Opus(_), _) => OpusPackets::frames(data),
            // Band replication has a state that its header resets only now and then.
            (Decoder::Aac(_), _) => None,
            (_, CODEC_ID_MP1 | CODEC_ID_MP2 | CODEC_ID_MP3) => frames::mpeg_samples(data, rate),
            // symphonia decodes no AAC of another length.
            (_, CODEC_ID_AAC) => Some(1024),
            (_, CODEC_ID_ALAC) => alac_frames(data, extra),
            (_, CODEC_ID_FLAC) if !packet.is_exact => flac::frame_samples(data, extra),
            _ => packet.is_exact.then_some(packet.frames),
        }
        .filter(|&frames| frames > 0)
    }

    /// Whether the first of these packets, which are not decoded, is so far back that the packet after
    /// the last can be decoded without it.
    pub(super) fn is_independent_of_first(&self, packets: &VecDeque<StreamPacket>) -> bool {
        let count = packets.len();
        match self.parameters.codec {
            CODEC_ID_MP1 | CODEC_ID_MP2 => count > MPEG_OVERLAP,
            CODEC_ID_MP3 => {
                // The overlap and the filterbank reach back one granule, which must be right: the
                // second of a frame of version 1, or all of a frame of version 2 and the one before.
                // That refers to the main data of frames before it.
                let Some(reservoir) = packets.back().and_then(|p| frames::reservoir(&p.data))
                else {
                    return false;
                };
                let Some(first) = count.checked_sub(if reservoir.is_version_1 { 1 } else { 2 })
                else {
                    return false;
                };
                let main_data = |p: &StreamPacket| frames::reservoir(&p.data);
                let Some(needed) = packets.get(first).and_then(main_data) else { return false };
                let before = packets.iter().take(first).skip(1).filter_map(main_data);
                first > 0 && before.map(|r| r.main_data).sum::<usize>() >= needed.begin
            }
            CODEC_ID_VORBIS | CODEC_ID_AAC => count > 1,
            CODEC_ID_OPUS => {
                let frames = packets.iter().skip(1).filter_map(|p| OpusPackets::frames(&p.data));
                frames.sum::<u64>() >= OPUS_PREROLL
            }
            _ => true,
        }
    }

    /// Forgets the packets so far: the next one need not follow them.
    pub(super) fn restart(&mut self) {
        match &mut self.decoder {
            Decoder::Symphonia(decoder) => decoder.reset(),
            Decoder::Opus(opus) => opus.restart(),
            // `frames` lets none of its packets be left out.
            Decoder::Aac(_) => {}
        }
    }

    /// Decodes a packet into `planes`, untrimmed.
    pub(super) fn decode(
        &mut self,
        packet: &StreamPacket,
        planes: &mut Planes,
    ) -> std::result::Result<(), String> {
        planes.reset(planes.rate, 0);
        match &mut self.decoder {
            Decoder::Opus(opus) => {
                opus.decode(&packet.data, &mut planes.channels)
                    .map_err(|error| error.to_string())?;
                planes.rate = OPUS_RATE;
                Ok(())
            }
            Decoder::Aac(aac) => {
                let decoded = aac.decode_au(&packet.data, |frame| {
                    planes.reset(frame.sample_rate, frame.planar.len());
                    for (channel, plane) in planes.channels.iter_mut().zip(frame.planar) {
                        channel.extend_from_slice(&plane[..frame.samples]);
                    }
                    Ok(())
                });
                decoded.map_err(|error| {
                    // After an error a decoder is of no more use.
                    if let Ok(fresh) = aac_decoder(&self.parameters) {
                        **aac = fresh;
                    }
                    one_line(&error.to_string())
                })
            }
            Decoder::Symphonia(decoder) => {
                let frames = Duration::from(packet.frames);
                let packet = PacketRef::new(0, Timestamp::ZERO, frames, &packet.data);
                let error = match decoder.decode_ref(&packet) {
                    Ok(buffer) => {
                        split(&buffer, planes);
                        return Ok(());
                    }
                    Err(error) => error.to_string(),
                };
                // A decoder of MPEG audio keeps the rate and channels of its first frame. A new one
                // takes over where they change.
                if matches!(self.parameters.codec, CODEC_ID_MP1 | CODEC_ID_MP2 | CODEC_ID_MP3)
                    && let Ok(mut fresh) = symphonia_decoder(&self.parameters)
                    && let Ok(buffer) = fresh.decode_ref(&packet)
                {
                    split(&buffer, planes);
                    *decoder = fresh;
                    return Ok(());
                }
                Err(error)
            }
        }
    }
}

fn symphonia_decoder(
    parameters: &AudioCodecParameters,
) -> symphonia::core::errors::Result<Box<dyn AudioDecoder>> {
    symphonia::default::get_codecs().make_audio_decoder(parameters, &AudioDecoderOptions::default())
}

/// The decoder of every AAC that is not plain AAC-LC in one or two channels.
fn aac_decoder(parameters: &AudioCodecParameters) -> std::result::Result<syom::Decoder, String> {
    let config = parameters.extra_data.as_deref().unwrap_or_default();
    syom::Decoder::from_asc(config, syom::DecodeOptions::unbounded())
        .map_err(|error| format!("AAC: {}", one_line(&error.to_string())))
}

/// Whether AAC has spectral band replication (HE-AAC): its samples are of twice the rate that the
/// header states.
fn has_band_replication<'a>(
    parameters: &AudioCodecParameters,
    first: impl Iterator<Item = &'a [u8]>,
) -> bool {
    if parameters.codec != CODEC_ID_AAC {
        return false;
    }
    let Ok(mut decoder) = aac_decoder(parameters) else { return false };
    let mut found = false;
    for packet in first {
        let decoded = decoder.decode_au(packet, |frame| {
            found |= frame.sample_rate > frame.meta.core_rate;
            Ok(())
        });
        if found || decoded.is_err() {
            break;
        }
    }
    found
}

/// The frames of a packet of ALAC: the length that its header states, or else that of the stream's
/// configuration, ALACSpecificConfig, which may be in a box behind another (the element header and
/// the "magic cookie" of Apple's reference decoder).
fn alac_frames(packet: &[u8], config: &[u8]) -> Option<u64> {
    let header = u64::from_be_bytes(packet.get(..8)?.try_into().ok()?);
    // A single channel or a pair: then 4 bits of the instance, 12 unused, and whether the packet is
    // partial, 2 bits of shifted bytes, 1 of escape, and the number of samples of a partial packet.
    let config = if config.get(4..8) == Some(b"frma") { config.get(24..)? } else { config };
    let is_partial = header >> 44 & 1 == 1;
    match header >> 61 {
        0 | 1 if is_partial => Some(header >> 9 & 0xffff_ffff),
        0 | 1 => Some(u64::from(u32::from_be_bytes(config.get(..4)?.try_into().ok()?))),
        _ => None,
    }
}

fn one_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_string()
}

/// Copies the channels of `buffer` to `planes`.
fn split(buffer: &GenericAudioBufferRef<'_>, planes: &mut Planes) {
    macro_rules! split {
        ($buffer:expr) => {{
            for (channel, plane) in planes.channels.iter_mut().zip($buffer.iter_planes()) {
                channel.extend(plane.iter().map(|&sample| IntoSample::<f32>::into_sample(sample)));
            }
        }};
    }
    planes.reset(buffer.spec().rate(), buffer.num_planes());
    match buffer {
        GenericAudioBufferRef::U8(buffer) => split!(buffer),
        GenericAudioBufferRef::U16(buffer) => split!(buffer),
        GenericAudioBufferRef::U24(buffer) => split!(buffer),
        GenericAudioBufferRef::U32(buffer) => split!(buffer),
        GenericAudioBufferRef::S8(buffer) => split!(buffer),
        GenericAudioBufferRef::S16(buffer) => split!(buffer),
        GenericAudioBufferRef::S24(buffer) => split!(buffer),
        GenericAudioBufferRef::S32(buffer) => split!(buffer),
        GenericAudioBufferRef::F32(buffer) => split!(buffer),
        GenericAudioBufferRef::F64(buffer) => split!(buffer),
    }
}
