//! Every format, with files made by ffmpeg.

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{Folder, ffmpeg, piece, tone, write_wav};
use feelprint::decode::decode;
use feelprint::{AudioEmbeddingModel, ResampledAudio, SAMPLE_RATE};

const SECONDS: f32 = 4.0;

/// A stereo WAV file, and its folder.
fn track_file() -> (Folder, PathBuf) {
    let folder = Folder::new();
    let wav = folder.path().join("song.wav");
    write_wav(&wav, 44_100, &[piece(1, 44_100, SECONDS), piece(2, 44_100, SECONDS)]);
    (folder, wav)
}

/// The largest cosine similarity of two signals over shifts of up to `max_shift` samples.
fn similarity(a: &[f32], b: &[f32], max_shift: usize) -> f64 {
    let cosine = |a: &[f32], b: &[f32]| {
        let dot =
            |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum() };
        let n = a.len().min(b.len());
        let (a, b) = (&a[..n], &b[..n]);
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
    };
    let both = (0..=max_shift).flat_map(|s| [cosine(&a[s..], b), cosine(a, &b[s..])]);
    both.fold(-1.0, f64::max)
}

fn seconds(samples: &[f32]) -> f64 {
    samples.len() as f64 / f64::from(SAMPLE_RATE)
}

#[test]
fn every_format_gives_the_same_audio() {
    let (folder, wav) = track_file();
    let model = AudioEmbeddingModel::load_default().unwrap();
    let original = decode(&wav).unwrap().samples;
    let embedding = model.embed_file(&wav).unwrap().analysis().embedding();
    let input = wav.to_str().unwrap();
    let lossless: [(&str, &[&str]); 8] = [
        ("flac.flac", &[]),
        ("flac_24.flac", &["-sample_fmt", "s32"]),
        ("ogg_flac.oga", &["-c:a", "flac"]),
        ("pcm_float.wav", &["-c:a", "pcm_f32le"]),
        ("pcm_24.wav", &["-c:a", "pcm_s24le"]),
        ("pcm.aiff", &[]),
        ("pcm_float.aifc", &["-f", "aiff", "-c:a", "pcm_f32be"]),
        ("alac.m4a", &["-c:a", "alac"]),
    ];
    // With the largest error of the duration, in seconds.
    let lossy: [(&str, &[&str], f64); 7] = [
        ("mp3_vbr.mp3", &["-q:a", "2"], 0.01),
        ("mp3_cbr.mp3", &["-b:a", "128k"], 0.01),
        ("vorbis.ogg", &["-c:a", "libvorbis"], 0.01),
        ("opus.opus", &["-c:a", "libopus", "-b:a", "128k"], 0.01),
        ("opus_low.opus", &["-c:a", "libopus", "-b:a", "24k"], 0.01),
        ("aac.m4a", &["-c:a", "aac", "-b:a", "160k"], 0.06),
        ("aac.aac", &["-c:a", "aac", "-b:a", "160k"], 0.08),
    ];
    for (name, codec) in lossless {
        let file = ffmpeg(&[&["-i", input], codec].concat(), &folder.path().join(name));
        let samples = decode(&file).unwrap().samples;
        assert_eq!(samples.len(), original.len(), "{name}");
        let differences = samples.iter().zip(&original).map(|(a, b)| (a - b).abs());
        assert!(differences.fold(0.0, f32::max) < 1e-4, "{name}");
        let got = model.embed_file(&file).unwrap();
        assert_eq!(got.damage(), None, "{name}");
        assert!(got.analysis().embedding().distance(&embedding) < 1e-3, "{name}");
    }
    for (name, codec, max_error_s) in lossy {
        let file = ffmpeg(&[&["-i", input], codec].concat(), &folder.path().join(name));
        let samples = decode(&file).unwrap().samples;
        let error_s = (seconds(&samples) - f64::from(SECONDS)).abs();
        assert!(error_s < max_error_s, "{name}: the duration is off by {error_s} s");
        let similarity = similarity(&samples, &original, 1_200);
        // At 24 kbit/s Opus synthesises the high frequencies.
        let least = if name.contains("low") { 0.8 } else { 0.98 };
        assert!(similarity > least, "{name}: similarity {similarity}");
        assert_eq!(model.embed_file(&file).unwrap().damage(), None, "{name}");
    }
}

#[test]
fn opus_is_decoded_from_its_first_sample_to_its_last() {
    let folder = Folder::new();
    let wav = folder.path().join("tone.wav");
    // Not a whole number of packets.
    write_wav(&wav, 48_000, &[tone(440.0, 48_000, 1.2345)]);
    let file = ffmpeg(&["-i", wav.to_str().unwrap()], &folder.path().join("tone.opus"));
    let samples = decode(&file).unwrap().samples;
    assert!((seconds(&samples) - 1.2345).abs() < 0.001, "{}", seconds(&samples));
    // Without the pre-skip the tone starts within a tenth of a millisecond of the original.
    let original = decode(&wav).unwrap().samples;
    assert!(similarity(&samples, &original, 2) > 0.99);
}

#[test]
fn one_to_eight_channels_are_averaged() {
    let folder = Folder::new();
    for channels in 1..=8 {
        let wav = folder.path().join(format!("{channels}.wav"));
        // Each channel has its own tone.
        let tones: Vec<_> = (0..channels)
            .map(|channel| tone(300.0 + 200.0 * channel as f32, 48_000, 1.0))
            .collect();
        write_wav(&wav, 48_000, &tones);
        let mean: Vec<f32> = (0..tones[0].len())
            .map(|i| tones.iter().map(|tone| tone[i]).sum::<f32>() / channels as f32)
            .collect();
        let mono = folder.path().join("mono.wav");
        write_wav(&mono, 48_000, &[mean]);
        let want = decode(&mono).unwrap().samples;
        let got = decode(&wav).unwrap().samples;
        let error = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(error < 1e-3, "{channels} channels: {error}");

        // Compared with ffmpeg's decoding of the same file.
        for (format, codec) in [("flac", "flac"), ("opus", "libopus"), ("ogg", "libvorbis")] {
            let file = folder.path().join(format!("{channels}.{format}"));
            let layouts = ["mono", "stereo", "3.0", "quad", "5.0", "5.1", "6.1", "7.1"];
            let layout = format!("aformat=channel_layouts={}", layouts[channels - 1]);
            let mut arguments = vec!["-i", wav.to_str().unwrap(), "-af", &layout, "-c:a", codec];
            if codec == "libopus" && channels > 2 {
                arguments.extend(["-mapping_family", "1"]);
            }
            ffmpeg(&arguments, &file);
            if codec == "libvorbis" && channels > 2 {
                assert_error(&file, "Vorbis with");
                continue;
            }
            let back = folder.path().join("back.wav");
            ffmpeg(&["-i", file.to_str().unwrap(), "-c:a", "pcm_s16le"], &back);
            let (got, want) = (decode(&file).unwrap().samples, decode(&back).unwrap().samples);
            // ffmpeg drops the first 128 samples of some Vorbis files.
            let similarity = similarity(&got, &want, 130);
            assert!(similarity > 0.99, "{format}, {channels} channels: similarity {similarity}");
            let (got, want) = (loudness(&got), loudness(&want));
            assert!((got / want - 1.0).abs() < 0.02, "{format}, {channels}: {got}, {want}");
        }
    }
}

fn loudness(samples: &[f32]) -> f32 {
    (samples.iter().map(|x| x * x).sum::<f32>() / samples.len() as f32).sqrt()
}

#[test]
fn every_sample_rate_gives_the_same_tone() {
    let folder = Folder::new();
    let want = tone(440.0, SAMPLE_RATE, 1.0);
    for rate in [8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000, 88_200, 96_000, 192_000] {
        let wav = folder.path().join(format!("{rate}.wav"));
        write_wav(&wav, rate, &[tone(440.0, rate, 1.0)]);
        let got = decode(&wav).unwrap().samples;
        assert_eq!(got.len(), want.len(), "{rate}");
        assert!(similarity(&got, &want, 0) > 0.999, "{rate}");
    }
}

#[test]
fn a_change_of_the_sample_rate_is_followed() {
    let folder = Folder::new();
    let part = |rate: u32, name: &str, codec: &[&str]| {
        let wav = folder.path().join(format!("{rate}.wav"));
        write_wav(&wav, rate, &[tone(440.0, rate, 2.0)]);
        let file = folder.path().join(format!("{rate}.{name}"));
        ffmpeg(&[&["-i", wav.to_str().unwrap()], codec].concat(), &file)
    };
    let joined = |name: &str, parts: &[PathBuf]| {
        let path = folder.path().join(format!("joined.{name}"));
        let bytes: Vec<u8> = parts.iter().flat_map(|part| std::fs::read(part).unwrap()).collect();
        std::fs::write(&path, bytes).unwrap();
        path
    };
    // Frames of three rates, without the headers that state a length.
    let mp3 = ["-write_xing", "0", "-id3v2_version", "0"];
    let parts = [44_100, 32_000, 48_000].map(|rate| part(rate, "mp3", &mp3));
    let samples = decode(joined("mp3", &parts)).unwrap().samples;
    assert!((seconds(&samples) - 6.0).abs() < 0.4, "mp3: {} s", seconds(&samples));

    // A chained Ogg file.
    let parts = [44_100, 48_000].map(|rate| part(rate, "ogg", &["-c:a", "libvorbis"]));
    let samples = decode(joined("ogg", &parts)).unwrap().samples;
    assert!((seconds(&samples) - 4.0).abs() < 0.1, "ogg: {} s", seconds(&samples));
    let want = tone(440.0, SAMPLE_RATE, 1.0);
    let middle = |from: f32| {
        let from = (from * SAMPLE_RATE as f32) as usize;
        &samples[from..from + SAMPLE_RATE as usize]
    };
    assert!(similarity(middle(0.5), &want, 60) > 0.99);
    assert!(similarity(middle(2.5), &want, 60) > 0.99);
}

#[test]
fn the_name_of_a_file_does_not_matter() {
    let (folder, wav) = track_file();
    let mp3 = ffmpeg(&["-i", wav.to_str().unwrap()], &folder.path().join("song.mp3"));
    let want = decode(&mp3).unwrap().samples;
    for name in ["song.flac", "song.m4a", "song", "song.txt"] {
        let renamed = folder.path().join(name);
        std::fs::copy(&mp3, &renamed).unwrap();
        assert_eq!(decode(&renamed).unwrap().samples, want, "{name}");
    }
}

#[test]
fn the_album_is_read_from_the_tags() {
    let (folder, wav) = track_file();
    let model = AudioEmbeddingModel::load_default().unwrap();
    for name in ["a.mp3", "a.flac", "a.ogg", "a.opus", "a.m4a"] {
        let arguments = ["-i", wav.to_str().unwrap(), "-metadata", "album=Ålbum"];
        let file = ffmpeg(&arguments, &folder.path().join(name));
        assert_eq!(model.embed_file(&file).unwrap().album(), Some("Ålbum"), "{name}");
    }
    assert_eq!(model.embed_file(&wav).unwrap().album(), None);
}

#[test]
fn a_file_has_the_embedding_of_its_samples() {
    let (_folder, wav) = track_file();
    let model = AudioEmbeddingModel::load_default().unwrap();
    let track = model.embed_file(&wav).unwrap();
    assert_eq!(track.analysis().embedding(), model.embed(&decode(&wav).unwrap()).unwrap());
    assert!((track.duration().as_secs_f32() - SECONDS).abs() < 1e-3);
    assert!(!track.analysis().is_silent());
    let bytes = std::fs::read(&wav).unwrap();
    let from_memory = feelprint::decode::decode_bytes(bytes).unwrap();
    assert_eq!(from_memory.samples, decode(&wav).unwrap().samples);
}

/// The windows between those that the model uses are not decoded, and nothing shows it.
#[test]
fn a_long_file_and_its_sections_have_the_embeddings_of_their_samples() {
    let folder = Folder::new();
    let model = AudioEmbeddingModel::load_default().unwrap();
    let wav = folder.path().join("long.wav");
    let seconds = 100.0;
    write_wav(&wav, 44_100, &[piece(1, 44_100, seconds), piece(2, 44_100, seconds)]);
    for (name, codec) in [
        ("a.wav", &[][..]),
        ("a.mp3", &["-q:a", "2"]),
        ("a.flac", &[]),
        ("a.ogg", &["-c:a", "libvorbis"]),
        ("a.opus", &["-c:a", "libopus", "-b:a", "128k"]),
        ("a.m4a", &["-c:a", "aac", "-aac_pns", "0"]),
    ] {
        let arguments = [&["-i", wav.to_str().unwrap()], codec].concat();
        let file = ffmpeg(&arguments, &folder.path().join(name));
        let audio = decode(&file).unwrap();
        let track = model.embed_file(&file).unwrap();
        let distance = track.analysis().embedding().distance(&model.embed(&audio).unwrap());
        assert!(distance < 1e-4, "{name}: {distance}");
        let used = track.analysis().used_windows();
        let stand_for: u64 = used.iter().map(|window| window.stands_for).sum();
        let windows = audio.samples.len().div_ceil(model.window());
        assert!(used.len() < windows / 2 + 1 && stand_for.abs_diff(windows as u64) < 4, "{name}");
        assert!((track.duration().as_secs_f64() - self::seconds(&audio.samples)).abs() < 1e-3);

        // Each section follows the rule from its own start.
        let starts_s = [7.5, 12.0, 61.0];
        let sections = model.embed_sections(&file, &starts_s).unwrap();
        let at = |seconds: f64| (seconds * f64::from(SAMPLE_RATE)).round() as usize;
        let bounds = [at(7.5), at(12.0), at(61.0), audio.samples.len()];
        for (section, bounds) in sections.into_iter().zip(bounds.windows(2)) {
            let samples = audio.samples[bounds[0]..bounds[1]].to_vec();
            let want = model.embed(&ResampledAudio { path: file.clone(), samples }).unwrap();
            let distance = section.unwrap().analysis().embedding().distance(&want);
            assert!(distance < 1e-4, "{name}, from {}: {distance}", bounds[0]);
        }
        let whole = model.until(Arc::default()).whole().embed_file(&file).unwrap();
        assert_eq!(whole.analysis().windows(), windows, "{name}");
    }
}

fn assert_error(path: &Path, expected: &str) {
    let model = AudioEmbeddingModel::load_default().unwrap();
    let error = model.embed_file(path).unwrap_err();
    let message = error.to_string();
    assert!(message.contains(expected), "{message}");
    assert!(message.starts_with(path.to_str().unwrap()), "{message}");
    assert!(!message.contains('\n'), "{message}");
    assert_eq!(error.path(), Some(path));
    assert!(decode(path).is_err());
}

#[test]
fn files_without_audio_are_one_line_errors() {
    let folder = Folder::new();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    assert_error(&file("empty.mp3", b""), "empty");
    assert_error(
        &file("text.mp3", "A text, and no music. ".repeat(500).as_bytes()),
        "not an audio",
    );
    assert_error(&file("zeros.flac", &[0; 100_000]), "not an audio");
    assert_error(&file("short.ogg", b"OggS"), "not an audio");
    assert_error(folder.path(), "not a file");
    assert_error(&folder.path().join("missing.mp3"), "No such file");
    let no_samples = folder.path().join("no_samples.wav");
    write_wav(&no_samples, 44_100, &[vec![]]);
    assert_error(&no_samples, "no ");
    let wav = folder.path().join("tone.wav");
    write_wav(&wav, 44_100, &[tone(440.0, 44_100, 1.0)]);
    let video = ["-f", "lavfi", "-i", "testsrc=d=1:s=64x64", "-c:v", "mpeg4"];
    assert_error(&ffmpeg(&video, &folder.path().join("no_sound.mp4")), "no audio");
    let not_a_number = ["-f", "lavfi", "-i", "aevalsrc=0/0:d=1", "-c:a", "pcm_f32le"];
    assert_error(&ffmpeg(&not_a_number, &folder.path().join("nan.wav")), "finite");
}

#[test]
fn silence_and_the_shortest_audio_have_an_embedding() {
    let folder = Folder::new();
    let model = AudioEmbeddingModel::load_default().unwrap();
    let wav = folder.path().join("silence.wav");
    let mut silences = Vec::new();
    for samples in [1, 44_100, 441_000] {
        write_wav(&wav, 44_100, &[vec![0.0; samples]]);
        let track = model.embed_file(&wav).unwrap();
        assert!(track.analysis().is_silent());
        silences.push(track.analysis().embedding());
    }
    assert!(silences.iter().all(|silence| silence.distance(&silences[0]) < 1e-4));
    write_wav(&wav, 44_100, &[vec![0.5]]);
    assert!(!model.embed_file(&wav).unwrap().analysis().is_silent());
}

#[test]
fn a_damaged_file_is_decoded_in_part_and_reported() {
    let (folder, wav) = track_file();
    let model = AudioEmbeddingModel::load_default().unwrap();
    for name in ["a.mp3", "a.flac", "a.ogg", "a.opus", "a.wav"] {
        let whole = ffmpeg(&["-i", wav.to_str().unwrap()], &folder.path().join(name));
        let bytes = std::fs::read(&whole).unwrap();
        let path = folder.path().join(format!("damaged_{name}"));

        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let half = model.embed_file(&path).unwrap();
        let decoded_s = half.duration().as_secs_f32();
        assert!((0.2..SECONDS * 0.8).contains(&decoded_s), "{name}: {decoded_s} s of half a file");

        let garbage: Vec<u8> =
            (0..50_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        std::fs::write(&path, [&bytes[..], &garbage[..]].concat()).unwrap();
        let track = model.embed_file(&path).unwrap();
        let excess_s = track.duration().as_secs_f32() - SECONDS;
        assert!(excess_s.abs() < 0.3, "{name}: {excess_s} s more with garbage at the end");
    }
    // FLAC frames have checksums, so that a gap in the middle is noticed.
    let flac = std::fs::read(folder.path().join("a.flac")).unwrap();
    let mut gap = flac.clone();
    let middle = flac.len() / 2;
    gap[middle..middle + 2_000].fill(0x55);
    let path = folder.path().join("gap.flac");
    std::fs::write(&path, gap).unwrap();
    let track = model.embed_file(&path).unwrap();
    assert!(track.damage().unwrap().contains("of 4.0 s"), "{:?}", track.damage());
    assert!(track.duration().as_secs_f32() > SECONDS / 2.0);
}

#[test]
fn an_hour_takes_no_more_memory_than_a_minute() {
    let folder = Folder::new();
    let peak_mib = |seconds: &str| {
        let file = folder.path().join(format!("{seconds}.flac"));
        let noise = format!("anoisesrc=d={seconds}:r=8000:a=0.1:seed=1");
        ffmpeg(&["-f", "lavfi", "-i", &noise], &file);
        let arguments = ["bench", "--json", "--repeat", "1", "--seconds", "1"];
        let mut command = common::command(&folder.path().join("no_index"), &arguments);
        let output = command.arg(&file).output().unwrap();
        let lines = common::json_lines(&output);
        let peak = lines.iter().find(|line| line["what"] == "peak memory");
        peak.map(|line| line["mib"].as_u64().unwrap())
    };
    // Only Linux reports the peak memory.
    if let (Some(minute), Some(hour)) = (peak_mib("60"), peak_mib("3600")) {
        assert!(hour < minute + 16, "{hour} MiB for an hour, {minute} MiB for a minute");
        assert!(hour < 100, "{hour} MiB");
    }
}
