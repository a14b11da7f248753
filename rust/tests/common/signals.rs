//! The signals of `make_reference.py`, equal in every sample.

/// Noise from -1/4 to 1/4, by Marsaglia's xorshift64.
pub fn noise(samples: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 40) as i64 - (1 << 23)) as f32 / (1 << 25) as f32
    };
    (0..samples).map(|_| next()).collect()
}

/// A sawtooth from -1/8 to 1/8 whose pitch rises.
pub fn chirp_saw(samples: usize) -> Vec<f32> {
    let phase = |i: usize| ((i * 256 + ((i * i) >> 11) * 3) % (1 << 16)) as i64;
    (0..samples).map(|i| (phase(i) - (1 << 15)) as f32 / (1 << 18) as f32).collect()
}

/// A signal by its name in `vectors.json`.
pub fn signal(name: &str, window: usize) -> Vec<f32> {
    let silence = |samples: usize| vec![0.0; samples];
    match name {
        "one_sample" => noise(1),
        "short" => chirp_saw(2_047),
        "one_window" => noise(window),
        "one_window_and_a_sample" => chirp_saw(window + 1),
        "three_and_a_half_windows" => {
            let samples = 7 * window / 2;
            noise(samples).iter().zip(chirp_saw(samples)).map(|(a, b)| a + b).collect()
        }
        "sound_then_silence" => [chirp_saw(window), silence(2 * window)].concat(),
        "silence_then_sound" => [silence(window), noise(2 * window)].concat(),
        "silence" => silence(2 * window),
        "twenty_windows" => chirp_saw(20 * window),
        "every_window_and_some" => {
            let samples = 41 * window;
            noise(samples).iter().zip(chirp_saw(samples)).map(|(a, b)| a + b).collect()
        }
        other => panic!("make_reference.py has no signal {other}"),
    }
}
