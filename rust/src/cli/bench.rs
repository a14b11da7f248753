//! `bench`: the time that the model, files and the search take on this machine, on one thread.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::neighbours::Neighbours;
use crate::track::StageTimes;
use crate::{AudioEmbeddingModel, DIM_EMBEDDING, Embedding, SAMPLE_RATE};
use anyhow::Result;
use serde_json::{Value, json};

use super::output::Output;
use super::progress;

/// The number of embeddings that the search is timed on.
const SEARCH_SIZE: usize = 1_000_000;

/// Prints the median and the least time of `repeat` runs of each.
pub fn bench(
    load: impl Fn() -> crate::Result<AudioEmbeddingModel>,
    files: &[PathBuf],
    seconds: &[u32],
    repeat: usize,
    output: &mut Output,
) -> Result<()> {
    progress::begin("measuring");
    line("load", 0.0, &times(repeat, || load().map(drop))?, output)?;
    let model = load()?;
    for &length_s in seconds {
        let audio = noise((length_s * SAMPLE_RATE) as usize);
        let run = times(repeat, || {
            let mut stream = model.stream();
            stream.push(&audio)?;
            stream.finish().map(drop)
        })?;
        line(&format!("model, {length_s} s"), f64::from(length_s), &run, output)?;
    }
    for path in files {
        bench_file(&model, path, repeat, output)?;
    }
    if files.is_empty() {
        let neighbours: Neighbours = noise(SEARCH_SIZE * DIM_EMBEDDING)
            .chunks_exact(DIM_EMBEDDING)
            .map(|values| Embedding(values.try_into().expect("a chunk has DIM_EMBEDDING values")))
            .collect();
        let query = neighbours.get(0).expect("SEARCH_SIZE is not 0");
        let search = times(repeat, || {
            std::hint::black_box(neighbours.nearest(&query, 10));
            Ok(())
        })?;
        line(&format!("nearest of {SEARCH_SIZE}"), 0.0, &search, output)?;
    }
    if let Some(kib) = peak_memory_kib() {
        let value = json!({ "what": "peak memory", "mib": kib / 1024 });
        output.print(&value, format!("{:<40} {:>9} MiB", "peak memory", kib / 1024))?;
    }
    Ok(())
}

/// Times the stages from a file to its embedding.
fn bench_file(
    model: &AudioEmbeddingModel,
    path: &Path,
    repeat: usize,
    output: &mut Output,
) -> Result<()> {
    let mut stages = [(); 8].map(|()| Vec::new());
    let mut duration_s = 0.0;
    for _ in 0..repeat {
        let track = model.embed_file(path)?;
        duration_s = track.duration().as_secs_f64();
        let StageTimes { read, decode, resample, front_end, cnn, head } = track.times();
        let embed = front_end + cnn + head;
        let all = track.times().total();
        let times = [read, decode, resample, front_end, cnn, head, embed, all];
        for (stage, time) in stages.iter_mut().zip(times) {
            stage.push(time);
        }
    }
    let name = path.display();
    let names = ["read", "decode", "resample", "front end", "CNN", "head", "embed", "all"];
    for (stage, times) in names.iter().zip(&stages) {
        line(&format!("{stage}, {name}"), duration_s, times, output)?;
    }
    Ok(())
}

fn times(
    repeat: usize,
    mut run: impl FnMut() -> crate::Result<()>,
) -> crate::Result<Vec<Duration>> {
    let timed = |_| {
        let start = Instant::now();
        run()?;
        Ok(start.elapsed())
    };
    (0..repeat).map(timed).collect()
}

fn line(what: &str, duration_s: f64, times: &[Duration], output: &mut Output) -> Result<()> {
    let mut ms: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
    ms.sort_by(f64::total_cmp);
    let (median, least) = (ms[ms.len() / 2], ms[0]);
    let mut value = json!({ "what": what, "median_ms": median, "least_ms": least });
    let mut text = format!("{what:<40} {median:>9.2} ms (least {least:.2})");
    if duration_s > 0.0 {
        let percent = median / duration_s / 10.0;
        value["duration_s"] = Value::from(duration_s);
        value["percent_of_duration"] = Value::from(percent);
        text += &format!("  {percent:.4} % of the duration");
    }
    output.print(&value, &text)
}

/// Deterministic noise from -1 to 1 (G. Marsaglia, "Xorshift RNGs", 2003).
fn noise(samples: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    };
    (0..samples).map(|_| next()).collect()
}

/// The peak resident memory of the process; only Linux reports it.
fn peak_memory_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches("kB").trim().parse().ok()
}
