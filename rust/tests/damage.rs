//! Damaged files: samples or an error, never a panic or a hang.
//!
//! `PROPTEST_CASES=20000 cargo test --release --test damage` tries more cases; see also `fuzz/`.

mod common;

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use common::{Folder, WAV_FLOAT, ffmpeg, piece, wav_header, write_wav};
use feelprint::decode::decode_bytes;
use proptest::prelude::*;

/// The time limit per file, for a busy machine.
const TIME_LIMIT: Duration = Duration::from_secs(20);

/// A second of music in each format.
fn files() -> &'static [(String, Vec<u8>)] {
    static FILES: OnceLock<Vec<(String, Vec<u8>)>> = OnceLock::new();
    FILES.get_or_init(|| {
        let folder = Folder::new();
        let wav = folder.path().join("song.wav");
        write_wav(&wav, 44_100, &[piece(1, 44_100, 1.0), piece(2, 44_100, 1.0)]);
        let input = wav.to_str().unwrap();
        let formats: [(&str, &[&str]); 19] = [
            ("a.mp3", &[]),
            ("a.ogg", &["-c:a", "libvorbis"]),
            ("a.opus", &[]),
            ("a.flac", &[]),
            ("a.wav", &[]),
            ("a.aiff", &[]),
            ("aac.m4a", &["-c:a", "aac"]),
            ("alac.m4a", &["-c:a", "alac"]),
            ("adpcm.wav", &["-c:a", "adpcm_ms"]),
            ("a.mp2", &[]),
            ("a.aac", &["-c:a", "aac"]),
            ("a.oga", &["-c:a", "flac"]),
            ("a.caf", &[]),
            ("a.mka", &["-c:a", "flac"]),
            ("a.webm", &["-c:a", "libopus"]),
            ("pcm.mov", &["-c:a", "pcm_s24be"]),
            ("opus.mp4", &["-c:a", "libopus", "-strict", "-2"]),
            ("fast.m4a", &["-c:a", "aac", "-movflags", "faststart"]),
            ("split.m4a", &["-c:a", "aac", "-movflags", "empty_moov", "-frag_duration", "300000"]),
        ];
        let made = |(name, codec): (&str, &[&str])| {
            let file = ffmpeg(&[&["-i", input], codec].concat(), &folder.path().join(name));
            (name.to_string(), std::fs::read(file).unwrap())
        };
        formats.into_iter().map(made).collect()
    })
}

/// One change of a file.
#[derive(Debug, Clone)]
enum Damage {
    Cut(prop::sample::Index),
    Flip(prop::sample::Index, u8),
    /// In the first bytes, which are the header.
    FlipHeader(u16, u8),
    Fill(prop::sample::Index, u16, u8),
    Remove(prop::sample::Index, u16),
    Repeat(prop::sample::Index, u16),
    Append(Vec<u8>),
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        at().prop_map(Damage::Cut),
        (at(), 1_u8..).prop_map(|(at, bits)| Damage::Flip(at, bits)),
        (0_u16..600, 1_u8..).prop_map(|(at, bits)| Damage::FlipHeader(at, bits)),
        (at(), 1_u16..3_000, any::<u8>()).prop_map(|(at, n, byte)| Damage::Fill(at, n, byte)),
        (at(), 1_u16..3_000).prop_map(|(at, n)| Damage::Remove(at, n)),
        (at(), 1_u16..3_000).prop_map(|(at, n)| Damage::Repeat(at, n)),
        prop::collection::vec(any::<u8>(), 1..500).prop_map(Damage::Append),
    ]
}

fn apply(bytes: &mut Vec<u8>, damage: &Damage) {
    if bytes.is_empty() {
        return;
    }
    let len = bytes.len();
    let end = |from: usize, n: u16| (from + usize::from(n)).min(len);
    match damage {
        Damage::Cut(at) => bytes.truncate(at.index(len)),
        Damage::Flip(at, bits) => bytes[at.index(len)] ^= bits,
        Damage::FlipHeader(at, bits) => bytes[usize::from(*at).min(len - 1)] ^= bits,
        Damage::Fill(at, n, byte) => bytes[at.index(len)..end(at.index(len), *n)].fill(*byte),
        Damage::Remove(at, n) => drop(bytes.drain(at.index(len)..end(at.index(len), *n))),
        Damage::Repeat(at, n) => {
            let part = bytes[at.index(len)..end(at.index(len), *n)].to_vec();
            bytes.splice(at.index(len)..at.index(len), part);
        }
        Damage::Append(more) => bytes.extend(more),
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(400),
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn a_damaged_file_gives_samples_or_an_error(
        file in any::<prop::sample::Index>(),
        damages in prop::collection::vec(damage(), 1..6),
    ) {
        let (name, whole) = &files()[file.index(files().len())];
        let mut bytes = whole.clone();
        for damage in &damages {
            apply(&mut bytes, damage);
        }
        let start = Instant::now();
        match decode_bytes(bytes) {
            Ok(audio) => prop_assert!(!audio.samples.is_empty()),
            Err(error) => {
                let message = error.to_string();
                prop_assert!(!message.is_empty() && !message.contains('\n'), "{}", message);
                // A panic of a decoder becomes an error, and is worth a report upstream.
                if message.contains("panicked") {
                    eprintln!("{name}: {message}");
                }
            }
        }
        prop_assert!(start.elapsed() < TIME_LIMIT, "{} took {:?}", name, start.elapsed());
    }

    #[test]
    fn random_bytes_are_an_error(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
        prop_assert!(decode_bytes(bytes).is_err());
    }
}

/// A WAV file of one channel of 32-bit floats.
fn float_wav(rate: u32, samples: &[f32]) -> Vec<u8> {
    let mut bytes = wav_header(WAV_FLOAT, 1, rate, 4, samples.len());
    bytes.extend(samples.iter().flat_map(|sample| sample.to_le_bytes()));
    bytes
}

/// Found by fuzzing: the resampler panicked, since the sum of the samples is infinite.
#[test]
fn samples_whose_sum_overflows_are_an_error() {
    for rate in [8_000, 44_100, 767_999] {
        for large in [1e10, 1e30, f32::MAX, -f32::MAX, f32::INFINITY, f32::NAN] {
            let error = decode_bytes(float_wav(rate, &[large; 1_000])).unwrap_err().to_string();
            assert!(error.contains("too large"), "{large} at {rate} Hz: {error}");
        }
        let loud = decode_bytes(float_wav(rate, &[1e9; 100_000])).unwrap();
        assert!(loud.samples.iter().all(|sample| sample.is_finite()), "at {rate} Hz");
    }
}

/// Found by fuzzing: symphonia 0.6.1 panics if a fragment of an MP4 file starts before the file.
/// The fragments before it are decoded.
#[test]
fn a_fragment_outside_of_the_file_ends_the_track() {
    let folder = Folder::new();
    let wav = folder.path().join("song.wav");
    write_wav(&wav, 44_100, &[piece(1, 44_100, 1.0)]);
    let split = ["-c:a", "aac", "-movflags", "empty_moov", "-frag_duration", "300000"];
    let arguments = [&["-i", wav.to_str().unwrap()], &split[..]].concat();
    let whole = std::fs::read(ffmpeg(&arguments, &folder.path().join("split.m4a"))).unwrap();
    let whole_len = decode_bytes(whole.clone()).unwrap().samples.len();
    let runs: Vec<usize> =
        (0..whole.len()).filter(|&at| whole[at..].starts_with(b"trun")).collect();
    assert!(runs.len() > 2);
    for (i, run) in runs.iter().enumerate() {
        let mut bytes = whole.clone();
        // After the name: flags, the number of samples, and their offset.
        bytes[run + 12..run + 16].copy_from_slice(&i32::MIN.to_be_bytes());
        match decode_bytes(bytes) {
            Ok(audio) => {
                let len = audio.samples.len();
                assert!(i > 0 && len > 0 && len < whole_len, "{len} of {whole_len}");
            }
            Err(error) => assert!(i == 0 && error.to_string().contains("no audio"), "{i}: {error}"),
        }
    }
}
