//! Channels to one.

use super::codec::Planes;

/// The power of the mean, as a part of the mean power of the channels, from which on one channel
/// begins to replace the mean, and at which it has replaced it: -24 and -30 dB. Channels without
/// correlation are at -3 dB (two) to -9 dB (eight).
const CANCELLED: (f64, f64) = (1.0 / 250.0, 1.0 / 1000.0);

/// The time over which the powers are averaged, in seconds.
const AVERAGED_S: f64 = 0.5;

/// Averages channels.
///
/// Where they cancel, as those of a file with one channel inverted do, their mean is next to silence,
/// although the track is none. There one channel counts. The measure is the power of the mean over
/// the mean power of the channels, both averaged over about half a second; from -24 to -30 dB the
/// weight of the one channel rises from 0 to 1, and within a block it changes linearly, so that
/// neither a small change of the audio nor time makes it jump.
#[derive(Debug, Default)]
pub(super) struct Downmix {
    /// The weight of the channel at the end of the last block; none before the first audible one.
    weight: Option<f32>,
    channel: usize,
    mean_power: f64,
    channel_power: Vec<f64>,
}

impl Downmix {
    /// Writes one channel to `mono`.
    pub(super) fn mix(&mut self, planes: &Planes, mono: &mut Vec<f32>) {
        let channels = &planes.channels;
        let frames = channels.iter().map(Vec::len).min().unwrap_or(0);
        mono.clear();
        mono.resize(frames, 0.0);
        let scale = 1.0 / channels.len().max(1) as f32;
        for channel in channels {
            for (sum, &sample) in mono.iter_mut().zip(channel) {
                *sum += sample * scale;
            }
        }
        if channels.len() < 2 || frames == 0 {
            return;
        }
        let target = self.target(planes, mono);
        let from = self.weight.unwrap_or(target);
        if from > 0.0 || target > 0.0 {
            if from == 0.0 {
                self.channel = loudest(&self.channel_power);
            }
            let step = (target - from) / frames as f32;
            for (i, (mean, &sample)) in
                mono.iter_mut().zip(&channels[self.channel.min(channels.len() - 1)]).enumerate()
            {
                let weight = if step == 0.0 { target } else { from + step * (i + 1) as f32 };
                *mean = *mean * (1.0 - weight) + sample * weight;
            }
        }
        if self.channel_power.iter().sum::<f64>() > 0.0 {
            self.weight = Some(target);
        }
    }

    /// Updates the powers with a block, and returns the weight of the channel at its end.
    fn target(&mut self, planes: &Planes, mono: &[f32]) -> f32 {
        let seconds = mono.len() as f64 / f64::from(planes.rate.max(1));
        let keep = (-seconds / AVERAGED_S).exp();
        self.channel_power.resize(planes.channels.len(), 0.0);
        self.mean_power = self.mean_power * keep + energy(mono);
        for (power, channel) in self.channel_power.iter_mut().zip(&planes.channels) {
            *power = *power * keep + energy(&channel[..mono.len()]);
        }
        let power = self.channel_power.iter().sum::<f64>() / self.channel_power.len() as f64;
        if self.mean_power >= power * CANCELLED.0 || power.is_nan() {
            return 0.0;
        }
        let span = CANCELLED.0 - CANCELLED.1;
        (((CANCELLED.0 - self.mean_power / power) / span).min(1.0)) as f32
    }
}

/// The first of the channels with the most power.
fn loudest(powers: &[f64]) -> usize {
    (0..powers.len()).reduce(|a, b| if powers[b] > powers[a] { b } else { a }).unwrap_or(0)
}

/// The sum of the squares.
fn energy(samples: &[f32]) -> f64 {
    // Several sums, so that the compiler can use vectors.
    let mut sums = [0.0_f32; 16];
    let mut total = 0.0;
    for block in samples.chunks(4096) {
        let (wide, rest) = block.as_chunks::<16>();
        for lane in wide {
            for (sum, sample) in sums.iter_mut().zip(lane) {
                *sum += sample * sample;
            }
        }
        sums.iter_mut().zip(rest).for_each(|(sum, sample)| *sum += sample * sample);
        total += sums.iter().map(|&sum| f64::from(sum)).sum::<f64>();
        sums = [0.0; 16];
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mixed(channels: Vec<Vec<f32>>, block: usize) -> Vec<f32> {
        let mut downmix = Downmix::default();
        let (mut out, mut mono) = (Vec::new(), Vec::new());
        for from in (0..channels[0].len()).step_by(block) {
            let to = (from + block).min(channels[0].len());
            let channels = channels.iter().map(|channel| channel[from..to].to_vec()).collect();
            downmix.mix(&Planes { rate: 44_100, channels }, &mut mono);
            out.extend_from_slice(&mono);
        }
        out
    }

    fn wave(hz: f32) -> Vec<f32> {
        (0..88_200).map(|i| (std::f32::consts::TAU * hz * i as f32 / 44_100.0).sin()).collect()
    }

    fn scaled(wave: &[f32], by: f32) -> Vec<f32> {
        wave.iter().map(|sample| sample * by).collect()
    }

    #[test]
    fn channels_are_averaged() {
        let (a, b) = (wave(440.0), wave(550.0));
        let want: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a * 0.5 + b * 0.5).collect();
        assert_eq!(mixed(vec![a.clone(), b], 1_152), want);
        // Most of this cancels, but it is heard.
        let partly = mixed(vec![a.clone(), scaled(&a, -0.7)], 1_152);
        assert!(partly.iter().zip(&a).all(|(got, a)| (got - a * 0.15).abs() < 1e-6));
    }

    #[test]
    fn one_channel_replaces_channels_that_cancel() {
        let a = wave(440.0);
        for block in [1, 100, 1_152, 88_200] {
            assert_eq!(mixed(vec![a.clone(), scaled(&a, -1.0)], block), a);
            // Behind silence too.
            let late = [vec![0.0; 5_000], a.clone()].concat();
            assert_eq!(mixed(vec![late.clone(), scaled(&late, -1.0)], block), late);
        }
        let silence = vec![0.0; 10_000];
        assert_eq!(mixed(vec![silence.clone(), silence.clone()], 1_152), silence);
    }

    #[test]
    fn the_weight_is_continuous() {
        let a = wave(440.0);
        let loudness = |by: f32| {
            let mixed = mixed(vec![a.clone(), scaled(&a, by)], 1_152);
            (mixed.iter().map(|x| x * x).sum::<f32>() / mixed.len() as f32).sqrt()
        };
        let levels: Vec<f32> = (0..=200).map(|i| loudness(-0.8 - i as f32 * 0.001)).collect();
        let largest = levels.windows(2).map(|pair| (pair[0] - pair[1]).abs()).fold(0.0, f32::max);
        assert!(largest < 0.05, "{largest}");
        // Neither does a change within the audio jump: in phase first, then inverted.
        let flipped: Vec<f32> =
            a.iter().enumerate().map(|(i, x)| if i < 44_100 { *x } else { -x }).collect();
        let mixed = mixed(vec![a.clone(), flipped], 1_152);
        let jump = mixed.windows(2).skip(44_200).map(|pair| (pair[0] - pair[1]).abs());
        assert!(jump.fold(0.0, f32::max) < 0.1);
        assert!(mixed[80_000..].iter().any(|sample| sample.abs() > 0.9));
    }
}
