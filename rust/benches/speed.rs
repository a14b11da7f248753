//! The time of each part on one thread: `cargo bench` (which needs ffmpeg).
//!
//! `../bench.py` compares with other models and crates.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use feelprint::decode::decode;
use feelprint::neighbours::Neighbours;
use feelprint::{AudioEmbeddingModel, DIM_EMBEDDING, Embedding, ResampledAudio, SAMPLE_RATE};

fn noise(samples: usize) -> Vec<f32> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..samples).map(|_| next()).collect()
}

fn model(c: &mut Criterion) {
    let model = AudioEmbeddingModel::load_default().unwrap();
    let mut group = c.benchmark_group("model");
    group.sample_size(10).measurement_time(Duration::from_secs(8));
    for seconds in [60, 240] {
        let audio = noise(seconds * SAMPLE_RATE as usize);
        group.throughput(Throughput::Elements(audio.len() as u64));
        group.bench_with_input(BenchmarkId::new("seconds", seconds), &audio, |b, audio| {
            b.iter(|| {
                let mut stream = model.stream();
                stream.push(audio).unwrap();
                stream.finish().unwrap().embedding()
            });
        });
    }
}

/// Those of MECOMP's `benches/embeddings.rs` that need no file, under its names: five minutes of noise,
/// and a batch of five times one minute.
fn mecomp(c: &mut Criterion) {
    c.bench_function("embeddings.rs: AudioEmbeddingModel::load_default", |b| {
        b.iter(|| AudioEmbeddingModel::load_default().unwrap());
    });
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/feelprint.onnx");
    c.bench_function("embeddings.rs: AudioEmbeddingModel::load_from_onnx", |b| {
        b.iter(|| AudioEmbeddingModel::load_from_onnx(black_box(&path)).unwrap());
    });
    let audio = |minutes: usize| ResampledAudio {
        path: "noise".into(),
        samples: noise(minutes * 60 * SAMPLE_RATE as usize),
    };
    let model = AudioEmbeddingModel::load_default().unwrap();
    let five_minutes = audio(5);
    c.bench_function("embeddings.rs: AudioEmbeddingModel::embed cpu", |b| {
        b.iter(|| model.embed(black_box(&five_minutes)).unwrap());
    });
    let batch = vec![audio(1); 5];
    c.bench_function("embeddings.rs: AudioEmbeddingModel::embed_batch cpu", |b| {
        b.iter(|| model.embed_batch(black_box(&batch)).unwrap());
    });
}

/// A minute of two tones and noise in stereo, at 44.1 kHz, in `format`.
fn file(folder: &Path, format: &str) -> PathBuf {
    let path = folder.join(format!("minute.{format}"));
    let graph = "sine=330:d=60[a];anoisesrc=d=60:c=pink:a=0.3:seed=1[b];[a][b]amerge=inputs=2,\
                 aresample=44100";
    let done = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-y", "-filter_complex", graph])
        .arg(&path)
        .status()
        .expect("ffmpeg is not installed");
    assert!(done.success());
    path
}

fn files(c: &mut Criterion) {
    let model = AudioEmbeddingModel::load_default().unwrap();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let mut group = c.benchmark_group("a minute");
    group.sample_size(10).measurement_time(Duration::from_secs(6));
    for format in ["mp3", "ogg", "opus", "flac", "m4a", "wav"] {
        let path = file(folder, format);
        group.bench_function(BenchmarkId::new("decode and resample", format), |b| {
            b.iter(|| decode(&path).unwrap());
        });
        group.bench_function(BenchmarkId::new("file to embedding", format), |b| {
            b.iter(|| model.embed_file(&path).unwrap());
        });
    }
}

fn search(c: &mut Criterion) {
    let neighbours: Neighbours = noise(1_000_000 * DIM_EMBEDDING)
        .chunks_exact(DIM_EMBEDDING)
        .map(|values| Embedding(values.try_into().unwrap()))
        .collect();
    let to = neighbours.get(0).unwrap();
    let mut group = c.benchmark_group("search");
    group.sample_size(20);
    group.bench_function("10 nearest of 1,000,000", |b| {
        b.iter(|| black_box(&neighbours).nearest(black_box(&to), 10));
    });
}

criterion_group!(benches, model, files, search);
criterion_group!(
    name = mecomp_benches;
    config = Criterion::default().sample_size(10);
    targets = mecomp
);
criterion_main!(benches, mecomp_benches);
