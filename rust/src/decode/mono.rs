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
    /// Whether one channel has ever counted: then a block depends on those before it.
    pub(super) has_cancelled: bool,
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
        if let [left, right] = &channels[..] {
            let energies = mix_two(&left[..frames], &right[..frames], mono);
            self.add(&energies[..2], energies[2], planes.rate, frames);
        } else {
            for channel in channels {
                for (sum, &sample) in mono.iter_mut().zip(channel) {
                    *sum += sample * scale;
                }
            }
            if channels.len() > 1 {
                let energies: Vec<f64> =
                    channels.iter().map(|channel| energy(&channel[..frames])).collect();
                self.add(&energies, energy(mono), planes.rate, frames);
            }
        }
        if channels.len() < 2 || frames == 0 {
            return;
        }
        let target = self.target();
        let from = self.weight.unwrap_or(target);
        if from > 0.0 || target > 0.0 {
            self.has_cancelled = true;
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

    /// Lets the averaged powers fade by the duration of frames that are left out: what comes behind
    /// them is judged by itself.
    pub(super) fn skip(&mut self, frames: u64, rate: u32) {
        let keep = (-(frames as f64) / f64::from(rate.max(1)) / AVERAGED_S).exp();
        self.mean_power *= keep;
        for power in &mut self.channel_power {
            *power *= keep;
        }
    }

    /// Adds a block to the averaged powers.
    fn add(&mut self, channels: &[f64], mean: f64, rate: u32, frames: usize) {
        self.skip(frames as u64, rate);
        self.channel_power.resize(channels.len(), 0.0);
        self.mean_power += mean;
        for (power, energy) in self.channel_power.iter_mut().zip(channels) {
            *power += energy;
        }
    }

    /// The weight of the one channel, by the averaged powers.
    fn target(&self) -> f32 {
        let power = self.channel_power.iter().sum::<f64>() / self.channel_power.len() as f64;
        if self.mean_power >= power * CANCELLED.0 || power.is_nan() {
            return 0.0;
        }
        let span = CANCELLED.0 - CANCELLED.1;
        (((CANCELLED.0 - self.mean_power / power) / span).min(1.0)) as f32
    }
}

/// The lanes of a vector of sums.
const LANES: usize = 8;

/// Writes the mean of two channels to `mono`, and returns the energies of the three: in one pass,
/// since this is every file's path.
fn mix_two(left: &[f32], right: &[f32], mono: &mut [f32]) -> [f64; 3] {
    let mut totals = [0.0; 3];
    // Few enough samples for sums of f32.
    for ((left, right), mono) in
        left.chunks(2048).zip(right.chunks(2048)).zip(mono.chunks_mut(2048))
    {
        let mut sums = [[0.0_f32; LANES]; 3];
        let (left, left_rest) = left.as_chunks::<LANES>();
        let (right, right_rest) = right.as_chunks::<LANES>();
        let (mono, mono_rest) = mono.as_chunks_mut::<LANES>();
        for ((left, right), mono) in left.iter().zip(right).zip(mono) {
            for i in 0..LANES {
                let (a, b) = (left[i], right[i]);
                let mean = a * 0.5 + b * 0.5;
                mono[i] = mean;
                sums[0][i] += a * a;
                sums[1][i] += b * b;
                sums[2][i] += mean * mean;
            }
        }
        for ((&a, &b), mono) in left_rest.iter().zip(right_rest).zip(mono_rest) {
            *mono = a * 0.5 + b * 0.5;
            for (sum, sample) in sums.iter_mut().zip([a, b, *mono]) {
                sum[0] += sample * sample;
            }
        }
        for (total, sums) in totals.iter_mut().zip(sums) {
            *total += f64::from(sums.iter().sum::<f32>());
        }
    }
    totals
}

/// The first of the channels with the most power.
fn loudest(powers: &[f64]) -> usize {
    (0..powers.len()).reduce(|a, b| if powers[b] > powers[a] { b } else { a }).unwrap_or(0)
}

/// The sum of the squares.
fn energy(samples: &[f32]) -> f64 {
    samples.iter().map(|&sample| f64::from(sample) * f64::from(sample)).sum()
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
        // Most of this cancels, but not enough.
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
        let long = [&a[..], &a, &a].concat();
        let flipped: Vec<f32> =
            long.iter().enumerate().map(|(i, x)| if i < 44_100 { *x } else { -x }).collect();
        let mixed = mixed(vec![long, flipped], 1_152);
        let jump = mixed.windows(2).skip(44_200).map(|pair| (pair[0] - pair[1]).abs());
        assert!(jump.fold(0.0, f32::max) < 0.1);
        assert!(mixed[250_000..].iter().any(|sample| sample.abs() > 0.9));
    }
}
