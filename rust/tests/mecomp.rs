//! The calls of MECOMP 0.7.2, as `examples/mecomp.rs` has them, and what its embedding model promises:
//! the names and the opset of the file, batches, audio of any length.

mod common;
#[allow(dead_code, reason = "its main is not called")]
#[path = "../examples/mecomp.rs"]
mod mecomp;

use std::error::Error as _;
use std::path::{Path, PathBuf};

use common::signals::{chirp_saw, noise};
use common::{Folder, piece, write_wav};
use feelprint::SAMPLE_RATE;
use mecomp::embeddings::{AudioEmbeddingModel, Embedding, ModelConfig};
use mecomp::errors::AnalysisError;
use mecomp::{Analysis, DIM_EMBEDDING, LARGEST_WINDOW, ResampledAudio, Row, analyze};
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::dimension::Value as Dimension;
use tract_onnx::pb::type_proto::Value as TypeValue;
use tract_onnx::pb::{ModelProto, ValueInfoProto};
use tract_onnx::prelude::*;

/// The lowest opset that MECOMP's configuration asks for.
const MIN_OPSET: i64 = 16;

fn model_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/feelprint.onnx")
}

fn audio(samples: Vec<f32>) -> ResampledAudio {
    ResampledAudio { path: "made.wav".into(), samples }
}

/// Writes tracks of `seconds` into the folder.
fn tracks(folder: &Folder, seconds: &[f32]) -> Vec<PathBuf> {
    let write = |(seed, &seconds): (usize, &f32)| {
        let path = folder.path().join(format!("{seed}.wav"));
        write_wav(&path, SAMPLE_RATE, &[piece(seed as u32, SAMPLE_RATE, seconds)]);
        path
    };
    seconds.iter().enumerate().map(write).collect()
}

#[test]
fn a_library_is_analysed() {
    let folder = Folder::new();
    let paths = tracks(&folder, &[2.0, 3.0, 4.0, 5.0, 0.3]);
    let (mut rows, errors) = analyze(paths.clone(), ModelConfig::default());
    rows.sort_by(|a, b| a.path.cmp(&b.path));
    // Features need more audio than an embedding: the last track gets no row.
    assert_eq!(
        rows.iter().map(|row| &row.path).collect::<Vec<_>>(),
        paths[..4].iter().collect::<Vec<_>>()
    );
    let [(path, AnalysisError::EmptySamples)] = &errors[..] else { panic!("{errors:?}") };
    assert_eq!(path, &paths[4]);
    let model = AudioEmbeddingModel::load_default().unwrap();
    for Row { path, features, embedding } in rows {
        let analysis = model.embed_file(&path).unwrap().analysis().embedding();
        assert_eq!(embedding, *analysis.inner(), "{}", path.display());
        assert!(features.iter().all(|feature| *feature > 0.0), "{features:?}");
    }
}

#[test]
fn a_path_to_no_model_fails_every_track() {
    let folder = Folder::new();
    let paths = tracks(&folder, &[1.0, 2.0]);
    let config = ModelConfig { path: Some(folder.path().join("none.onnx")) };
    let (rows, errors) = analyze(paths.clone(), config);
    assert!(rows.is_empty(), "{rows:?}");
    assert_eq!(errors.len(), paths.len());
    for (_, error) in errors {
        assert!(error.to_string().starts_with("Embedding Error: "), "{error}");
        assert!(error.source().unwrap().to_string().contains("none.onnx"), "{error}");
    }
}

#[test]
fn resampled_audio_converts_to_features() {
    let track = audio(chirp_saw(LARGEST_WINDOW));
    let analysis: Analysis = track.clone().try_into().unwrap();
    assert_eq!(analysis, Analysis::from_samples(&track).unwrap());
    let short: Result<Analysis, _> = audio(chirp_saw(LARGEST_WINDOW - 1)).try_into();
    assert!(matches!(short, Err(AnalysisError::EmptySamples)), "{short:?}");
}

/// MECOMP's benchmark and its threads hold the model mutably.
#[test]
fn a_mutable_model_embeds() {
    fn embeddings(model: &mut AudioEmbeddingModel, audios: &[ResampledAudio]) -> Vec<Embedding> {
        let mut embeddings = model.embed_batch(audios).unwrap();
        embeddings.push(model.embed(&audios[0]).unwrap());
        embeddings
    }
    let mut model = AudioEmbeddingModel::load_from_onnx(model_path()).unwrap();
    let found = embeddings(&mut model, &[audio(noise(30_000)), audio(noise(50_000))]);
    assert_eq!(found[0], found[2]);
    assert_ne!(found[0], found[1]);
    let mut embedding = found[0];
    embedding.as_mut_slice()[0] = 2.0;
    assert_eq!((embedding.len(), embedding.is_empty()), (DIM_EMBEDDING, false));
    assert_eq!((embedding.as_slice()[0], embedding.inner()[0]), (2.0, 2.0));
}

fn proto() -> ModelProto {
    tract_onnx::onnx().proto_model_for_path(model_path()).unwrap()
}

/// The name, the element type and the axes: a number, or the name of one that may vary.
fn signature(value: &ValueInfoProto) -> (String, DataType, Vec<Dimension>) {
    let Some(TypeValue::TensorType(tensor)) = value.r#type.as_ref().and_then(|t| t.value.clone())
    else {
        panic!("{} is not a tensor", value.name);
    };
    let axes = tensor.shape.unwrap().dim.into_iter().map(|axis| axis.value.unwrap()).collect();
    (value.name.clone(), DataType::try_from(tensor.elem_type).unwrap(), axes)
}

/// What MECOMP's configuration asks of a model file.
#[test]
fn the_file_has_the_names_axes_and_opset_of_the_contract() {
    let proto = proto();
    assert!(!proto.opset_import.is_empty());
    for opset in &proto.opset_import {
        assert!(opset.domain.is_empty() && opset.version >= MIN_OPSET, "{opset:?}");
    }
    let graph = proto.graph.unwrap();
    let ([input], [output]) = (&graph.input[..], &graph.output[..]) else {
        panic!("{} inputs, {} outputs", graph.input.len(), graph.output.len());
    };
    let (name, element, axes) = signature(input);
    assert_eq!((name.as_str(), element), ("audio", DataType::Float));
    let [Dimension::DimParam(batch), Dimension::DimParam(samples)] = &axes[..] else {
        panic!("{axes:?}");
    };
    assert_ne!(batch, samples);
    let (name, element, axes) = signature(output);
    assert_eq!((name.as_str(), element), ("embedding", DataType::Float));
    let dim = Dimension::DimValue(DIM_EMBEDDING as i64);
    assert_eq!(axes, [Dimension::DimParam(batch.clone()), dim]);
}

/// The file holds its weights, so that it can be copied alone.
#[test]
fn the_file_needs_no_other_file() {
    let graph = proto().graph.unwrap();
    assert!(!graph.initializer.is_empty());
    for tensor in &graph.initializer {
        assert!(tensor.external_data.is_empty(), "{}", tensor.name);
    }
}

/// MECOMP pads the tracks of a batch with zeros to the longest.
#[test]
fn the_file_embeds_a_padded_batch_as_the_crate_does() {
    let tracks = [audio(noise(70_000)), audio(chirp_saw(20_000)), audio(chirp_saw(1))];
    let samples = tracks.iter().map(|track| track.samples.len()).max().unwrap();
    let mut padded = vec![0.0; tracks.len() * samples];
    for (row, track) in padded.chunks_mut(samples).zip(&tracks) {
        row[..track.samples.len()].copy_from_slice(&track.samples);
    }
    let shape = [tracks.len(), samples];
    let graph = tract_onnx::onnx()
        .model_for_path(model_path())
        .unwrap()
        .with_input_fact(0, f32::fact(shape).into())
        .unwrap()
        .into_optimized()
        .unwrap()
        .into_runnable()
        .unwrap();
    let input = Tensor::from_shape(&shape, &padded).unwrap();
    let output = graph.run(tvec![input.into()]).unwrap();
    let rows = output[0].try_as_plain_ram().unwrap().as_slice::<f32>().unwrap();
    let model = AudioEmbeddingModel::load_default().unwrap();
    let embeddings = model.embed_batch(&tracks).unwrap();
    assert_eq!(rows.len(), embeddings.len() * DIM_EMBEDDING);
    for (row, embedding) in rows.chunks(DIM_EMBEDDING).zip(&embeddings) {
        for (of_file, of_crate) in row.iter().zip(embedding.inner()) {
            assert!((of_file - of_crate).abs() < 1e-4, "{row:?} {embedding:?}");
        }
    }
}

#[test]
fn an_invalid_track_of_a_batch_is_named() {
    let model = AudioEmbeddingModel::load_default().unwrap();
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for position in [0, 20_000, 39_999] {
            let mut samples = noise(40_000);
            samples[position] = bad;
            let invalid = ResampledAudio { path: "invalid.wav".into(), samples };
            let error = model.embed_batch(&[audio(noise(40_000)), invalid]).unwrap_err();
            assert!(error.is_audio(), "{error}");
            assert_eq!(error.path(), Some(Path::new("invalid.wav")), "{bad} at {position}");
        }
    }
}

#[test]
fn audio_of_any_length_has_an_embedding() {
    let model = AudioEmbeddingModel::load_default().unwrap();
    let window = model.window();
    for samples in
        [1, 2, 255, 511, 512, 2_047, 2_048, LARGEST_WINDOW, window - 1, window, window + 1]
    {
        let embedding = model.embed(&audio(noise(samples))).unwrap();
        assert!(embedding.0.iter().all(|value| value.is_finite()), "{samples} samples");
        assert!(embedding.0.iter().any(|value| *value != 0.0), "{samples} samples");
    }
}

/// Equal windows, however many, have the same tokens, whose weighted mean is the same.
#[test]
fn twenty_minutes_that_repeat_a_piece_have_its_embedding() {
    let model = AudioEmbeddingModel::load_default().unwrap();
    let whole = AudioEmbeddingModel::load_default().unwrap().whole();
    let piece = noise(20 * model.window());
    let repeats = (20 * 60 * SAMPLE_RATE as usize).div_ceil(piece.len());
    // The model uses one of every four windows, and thus five of the twenty.
    for (model, largest) in [(whole, 1e-4), (model, 0.1)] {
        let alone = model.embed(&audio(piece.clone())).unwrap();
        let long = model.embed(&audio(piece.repeat(repeats))).unwrap();
        assert!(long.distance(&alone) < largest, "{}", long.distance(&alone));
        let other = model.embed(&audio(chirp_saw(piece.len()))).unwrap();
        assert!(long.distance(&other) > 3.0 * largest, "{}", long.distance(&other));
    }
}
