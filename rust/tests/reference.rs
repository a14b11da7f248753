//! The crate against the reference vectors of `make_reference.py`, and its invariances.

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::signals::{chirp_saw, noise, signal};
use common::{Folder, piece, write_wav};
use feelprint::{AudioEmbeddingModel, ResampledAudio};
use proptest::prelude::*;
use serde_json::Value;
use tract_onnx::prelude::*;

/// The largest difference between two runtimes.
const TOLERANCE: f32 = 1e-4;

fn vectors() -> Value {
    serde_json::from_str(include_str!("reference/vectors.json")).unwrap()
}

fn floats(value: &Value) -> Vec<f32> {
    match value {
        Value::Array(values) => values.iter().flat_map(floats).collect(),
        number => vec![number.as_f64().unwrap() as f32],
    }
}

fn audio(samples: Vec<f32>) -> ResampledAudio {
    ResampledAudio { path: "made.wav".into(), samples }
}

fn assert_near(got: &[f32], want: &[f32], tolerance: f32, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    let error = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(error <= tolerance, "{what}: a difference of {error:e}, more than {tolerance:e}");
}

fn model() -> AudioEmbeddingModel {
    AudioEmbeddingModel::load_default().unwrap()
}

#[test]
fn the_vectors_are_of_the_bundled_model() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/feelprint.onnx");
    let hash = std::fs::read(path).unwrap().iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    assert_eq!(
        vectors()["model"].as_str().unwrap(),
        format!("{hash:016x}"),
        "rust/models/feelprint.onnx has changed: run rust/tests/make_reference.py"
    );
}

#[test]
fn windows_have_the_same_samples_as_in_python() {
    let model = model();
    for case in vectors()["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let samples = signal(name, model.window());
        assert_eq!(samples.len() as u64, case["samples"].as_u64().unwrap(), "{name}");
        // Sums of the samples times their positions in the window: exact in f64, except for the
        // conversion to JSON.
        let analysis = analyse(&model, &samples, samples.len());
        let sums: Vec<f64> = analysis
            .used_windows()
            .iter()
            .map(|window| {
                let window = samples.chunks(model.window()).nth(window.index as usize).unwrap();
                window.iter().enumerate().map(|(i, &x)| (i + 1) as f64 * f64::from(x)).sum()
            })
            .collect();
        let want: Vec<f64> = case["position_sums"]
            .as_array()
            .unwrap()
            .iter()
            .map(|sum| sum.as_f64().unwrap())
            .collect();
        assert_eq!(sums.len(), want.len(), "{name}");
        let near = |a: f64, b: f64| (a - b).abs() <= 1e-12 * b.abs();
        assert!(sums.iter().zip(&want).all(|(&a, &b)| near(a, b)), "{name}: {sums:?} {want:?}");
        assert_eq!(analysis.windows(), want.len(), "{name}");
    }
}

fn analyse(model: &AudioEmbeddingModel, samples: &[f32], block: usize) -> feelprint::Analysis {
    let mut stream = model.stream();
    for block in samples.chunks(block) {
        stream.push(block).unwrap();
    }
    stream.finish().unwrap()
}

#[test]
fn tokens_attention_and_embedding_equal_onnxruntimes() {
    let model = model();
    for case in vectors()["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let analysis = analyse(&model, &signal(name, model.window()), usize::MAX);
        let token = analysis.token(analysis.windows() - 1);
        // The tolerance is relative to the largest value of the token.
        let want = floats(&case["last_token"]);
        let scale = want.iter().fold(1.0_f32, |scale, value| scale.max(value.abs()));
        assert_near(token, &want, TOLERANCE * scale, &format!("{name}: last token"));
        let rows: Vec<_> = case["attention"].as_array().unwrap().iter().map(floats).collect();
        let mean: Vec<f32> = (0..analysis.windows())
            .map(|w| rows.iter().map(|row| row[w]).sum::<f32>() / rows.len() as f32)
            .collect();
        assert_near(&analysis.attention(), &mean, TOLERANCE, &format!("{name}: attention"));
        assert_near(
            analysis.embedding().as_slice(),
            &floats(&case["embedding"]),
            TOLERANCE,
            &format!("{name}: embedding"),
        );
        let silent = floats(&case["window_weight"]).iter().all(|&weight| weight == 0.0);
        assert_eq!(analysis.is_silent(), silent, "{name}");
    }
}

#[test]
fn embeddings_have_a_norm_of_about_one() {
    let model = model();
    for samples in [vec![0.0; 100_000], noise(1), chirp_saw(50_000)] {
        let embedding = model.embed(&audio(samples)).unwrap();
        let square = embedding.0.iter().map(|value| value * value).sum::<f32>();
        assert!((0.1..4.0).contains(&square), "{square}");
    }
}

/// The front end of the graph and the one of the crate give the same embedding.
#[test]
fn a_stream_equals_the_whole_graph() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/feelprint.onnx");
    let graph = tract_onnx::onnx().model_for_path(path).unwrap();
    let model = model();
    for case in vectors()["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let samples = signal(name, model.window());
        let graph = graph
            .clone()
            .with_input_fact(0, f32::fact([1, samples.len()]).into())
            .unwrap()
            .into_optimized()
            .unwrap()
            .into_runnable()
            .unwrap();
        let input = Tensor::from_shape(&[1, samples.len()], &samples).unwrap();
        let whole = graph.run(tvec![input.into()]).unwrap();
        let whole = whole[0].try_as_plain_ram().unwrap().as_slice::<f32>().unwrap().to_vec();
        for block in [777, model.window(), 100_000, usize::MAX] {
            let embedding = analyse(&model, &samples, block).embedding();
            let what = format!("{name} in blocks of {block}");
            assert_near(embedding.as_slice(), &whole, TOLERANCE, &what);
        }
    }
}

#[test]
fn the_block_size_does_not_matter() {
    let model = model();
    let samples = signal("three_and_a_half_windows", model.window());
    let whole = analyse(&model, &samples, usize::MAX);
    for block in [1, 999, model.window(), model.window() + 1] {
        assert_eq!(analyse(&model, &samples, block).embedding(), whole.embedding(), "{block}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, failure_persistence: None, ..Default::default() })]

    #[test]
    fn block_sizes_do_not_matter(sizes in prop::collection::vec(0_usize..40_000, 1..6)) {
        let model = model();
        let samples = chirp_saw(1 + sizes.iter().sum::<usize>());
        let mut stream = model.stream();
        let mut rest = samples.as_slice();
        for size in sizes {
            let (now, later) = rest.split_at(size);
            stream.push(now).unwrap();
            rest = later;
        }
        stream.push(rest).unwrap();
        let embedding = stream.finish().unwrap().embedding();
        prop_assert_eq!(embedding, analyse(&model, &samples, usize::MAX).embedding());
    }
}

#[test]
fn zeros_at_the_end_do_not_matter() {
    let model = model();
    let track = signal("three_and_a_half_windows", model.window());
    let alone = model.embed(&audio(track.clone())).unwrap();
    for zeros in [1, 1_000, model.window(), 30 * model.window()] {
        let mut padded = track.clone();
        padded.resize(track.len() + zeros, 0.0);
        let embedding = model.embed(&audio(padded)).unwrap();
        assert_near(embedding.as_slice(), alone.as_slice(), 1e-5, &format!("{zeros} zeros"));
    }
    // Sound at the end does matter.
    let longer = [track.clone(), noise(2 * model.window())].concat();
    assert!(model.embed(&audio(longer)).unwrap().distance(&alone) > 1e-3);
}

/// How many windows at the start are all used, and the length of the groups behind them: from the
/// weights of a long signal without silence.
fn rule() -> (usize, usize) {
    let vectors = vectors();
    let mut cases = vectors["cases"].as_array().unwrap().iter();
    let case = cases.find(|case| case["name"] == "every_window_and_some").unwrap();
    let weights = floats(&case["window_weight"]);
    let dense = weights.iter().filter(|&&weight| weight == 1.0).count();
    (dense, weights[dense] as usize)
}

/// A stream of what the model needs, with the rest left out.
fn analyse_needed(model: &AudioEmbeddingModel, samples: &[f32]) -> feelprint::Analysis {
    let mut stream = model.stream();
    let (mut at, mut skipped) = (0, 0);
    while at < samples.len() {
        let needed = stream.needed();
        let start = (needed.start as usize).min(samples.len());
        let end = (needed.end as usize).min(samples.len());
        stream.skip((start - at) as u64).unwrap();
        stream.push(&samples[start..end]).unwrap();
        skipped += start - at;
        at = end;
    }
    // Most of the later windows are left out.
    let later = samples.len() / model.window() - rule().0;
    assert!(skipped > later / 2 * model.window(), "{skipped}");
    stream.finish().unwrap()
}

#[test]
fn windows_that_the_model_does_not_use_do_not_matter() {
    let model = model();
    let (dense, stride) = rule();
    let track = signal("every_window_and_some", model.window());
    let analysis = analyse(&model, &track, usize::MAX);
    let used = |window: &usize| *window < dense || window % stride == stride / 2;
    let want: Vec<usize> = (0..41).filter(used).collect();
    assert!(want.len() < 35);
    for (at, window) in analysis.used_windows().iter().enumerate() {
        assert_eq!(window.index, want[at] as u64);
        assert_eq!(window.stands_for, if want[at] < dense { 1 } else { stride as u64 });
        let start_s = (want[at] * model.window()) as f64 / 22_050.0;
        assert!((analysis.start_s(at) - start_s).abs() < 1e-9);
    }
    assert_eq!(analysis.windows(), want.len());
    assert_eq!(analyse_needed(&model, &track).embedding(), analysis.embedding());
    let mut other = track.clone();
    let [first, second] = [dense, dense + 1].map(|at| want[at] * model.window());
    other[first + model.window()..second].fill(0.5);
    assert_eq!(analyse(&model, &other, 777).embedding(), analysis.embedding());
    other[first..second].fill(0.5);
    assert!(analyse(&model, &other, 777).embedding().distance(&analysis.embedding()) > 1e-3);
}

#[test]
fn a_sample_that_is_needed_cannot_be_left_out() {
    let model = model();
    let (dense, stride) = rule();
    let mut stream = model.stream();
    assert!(stream.skip(1).unwrap_err().is_argument());
    stream.push(&noise(dense * model.window() + 7)).unwrap();
    let first = ((dense + stride / 2) * model.window()) as u64;
    assert_eq!(stream.needed(), first..first + model.window() as u64);
    stream.skip(first - (dense * model.window()) as u64 - 7).unwrap();
    let error = stream.skip(1).unwrap_err();
    assert!(error.to_string().contains("the model uses those from"), "{error}");
}

#[test]
fn the_whole_model_uses_every_window_under_its_own_version() {
    let whole = model().whole();
    assert_eq!(whole.version(), format!("{}+whole", model().version()));
    let track = signal("every_window_and_some", whole.window());
    let analysis = analyse(&whole, &track, usize::MAX);
    assert!(analysis.used_windows().iter().all(|window| window.stands_for == 1));
    assert_eq!(analysis.windows(), 41);
    assert_ne!(analysis.embedding(), analyse(&model(), &track, usize::MAX).embedding());
    // The first windows are all used by both.
    let short = audio(track[..rule().0 * whole.window()].to_vec());
    assert_eq!(whole.embed(&short).unwrap(), model().embed(&short).unwrap());
    assert_eq!(model().whole().whole().version(), whole.version());
}

#[test]
fn an_embedding_without_windows_is_that_of_the_others() {
    let model = model();
    let window = model.window();
    let track = [chirp_saw(2 * window), noise(window)].concat();
    let analysis = analyse(&model, &track, usize::MAX);
    let others = model.embed(&audio(track[..2 * window].to_vec())).unwrap();
    let without = model.embedding_without(&analysis, 2..3).unwrap();
    assert_near(without.as_slice(), others.as_slice(), 1e-5, "without noise");
    assert!(model.embedding_without(&analysis, 2..4).unwrap_err().is_argument());
    let first = model.embed(&audio(track[..window].to_vec())).unwrap();
    let without = model.embedding_without(&analysis, 1..3).unwrap();
    assert_near(without.as_slice(), first.as_slice(), 1e-5, "without two windows");
    let only = analyse(&model, &noise(window), usize::MAX);
    let same = model.embedding_without(&only, 0..1).unwrap();
    assert_near(same.as_slice(), only.embedding().as_slice(), 1e-5, "an only window");
}

#[test]
fn a_batch_equals_single_tracks() {
    let model = model();
    let tracks = [audio(noise(60_000)), audio(chirp_saw(10)), audio(vec![0.0; 30_000])];
    let batch = model.embed_batch(&tracks).unwrap();
    let single: Vec<_> = tracks.iter().map(|track| model.embed(track).unwrap()).collect();
    assert_eq!(batch, single);
    assert!(model.embed_batch(&[]).unwrap().is_empty());
}

#[test]
fn threads_share_one_model() {
    let model = model();
    let track = audio(noise(50_000));
    let want = model.embed(&track).unwrap();
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..8).map(|_| scope.spawn(|| model.embed(&track).unwrap())).collect();
        for thread in threads {
            assert_eq!(thread.join().unwrap(), want);
        }
    });
}

#[test]
fn invalid_audio_is_an_error_with_the_files_path() {
    let model = model();
    let embed = |samples| model.embed(&audio(samples)).unwrap_err();
    let too_large = vec![f32::MAX; 30_000];
    for samples in [vec![], vec![0.0, f32::NAN], vec![f32::INFINITY], too_large] {
        let error = embed(samples);
        assert!(error.is_audio() && !error.is_model(), "{error}");
        assert_eq!(error.path(), Some(Path::new("made.wav")));
        assert!(error.to_string().starts_with("made.wav: "), "{error}");
    }
}

#[test]
fn a_path_that_is_not_a_model_is_an_error() {
    let folder = Folder::new();
    let load = |path: &Path| {
        let config = feelprint::ModelConfig { path: Some(path.to_path_buf()) };
        AudioEmbeddingModel::load(&config).unwrap_err()
    };
    let missing = load(&folder.path().join("missing.onnx"));
    assert_eq!(missing.io_error().unwrap().kind(), std::io::ErrorKind::NotFound);
    assert!(missing.to_string().contains("missing.onnx"), "{missing}");

    // The error for a folder without a model names the missing file.
    assert!(load(folder.path()).to_string().contains("feelprint.onnx"));

    let text = folder.path().join("text.onnx");
    std::fs::write(&text, "this is not a model").unwrap();
    assert!(load(&text).is_model());

    // An ONNX file without the metadata.
    let bundled = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/feelprint.onnx");
    let mut bytes = std::fs::read(bundled).unwrap();
    let key = b"feelprint.window";
    let at = bytes.windows(key.len()).position(|bytes| bytes == key).unwrap();
    bytes[at..at + key.len()].copy_from_slice(b"something.window");
    let other = folder.path().join("other.onnx");
    std::fs::write(&other, bytes).unwrap();
    let error = load(&other);
    assert!(error.is_model() && error.to_string().contains("feelprint.window"), "{error}");
}

#[test]
fn a_folder_with_the_model_is_loaded() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let model = AudioEmbeddingModel::load_from_onnx(&folder).unwrap();
    assert_eq!(model.version(), self::model().version());
}

#[test]
fn the_content_of_a_file_has_the_embedding_of_the_file() {
    let folder = Folder::new();
    let path = folder.path().join("piece.wav");
    write_wav(&path, 44_100, &[piece(1, 44_100, 3.0), piece(2, 44_100, 3.0)]);
    let (model, bytes) = (model(), std::fs::read(&path).unwrap());
    let of_file = model.embed_file(&path).unwrap();
    let of_bytes = model.embed_bytes(bytes).unwrap();
    assert_eq!(of_bytes.analysis().embedding(), of_file.analysis().embedding());
    assert_eq!(of_bytes.duration(), of_file.duration());
    let error = model.embed_bytes(b"no audio".repeat(100)).unwrap_err();
    assert!(error.is_audio() && error.path().is_none(), "{error}");
}

#[test]
fn a_stopped_model_ends_with_an_error_that_is_no_finding_about_the_file() {
    let folder = Folder::new();
    let path = folder.path().join("piece.wav");
    write_wav(&path, 22_050, &[piece(1, 22_050, 3.0)]);
    let stop = Arc::new(AtomicBool::new(false));
    let model = model();
    let stoppable = model.until(Arc::clone(&stop));
    let whole = stoppable.embed_file(&path).unwrap();
    assert_eq!(stoppable.version(), model.version());
    // In the middle of a track, from another thread.
    let mut stream = stoppable.stream();
    stream.push(&[0.1; 1000]).unwrap();
    std::thread::spawn(move || stop.store(true, Ordering::Relaxed)).join().unwrap();
    let error = stream.push(&[0.1; 1000]).unwrap_err();
    assert_eq!(error.io_error().unwrap().kind(), std::io::ErrorKind::Interrupted);
    let error = stoppable.embed_file(&path).unwrap_err();
    assert!(error.io_error().is_some() && error.path() == Some(path.as_path()), "{error}");
    assert!(stoppable.is_stopped() && !model.is_stopped());
    assert_eq!(
        model.embed_file(&path).unwrap().analysis().embedding(),
        whole.analysis().embedding()
    );
}
