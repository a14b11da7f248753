//! The ONNX file, cut into a front end, an encoder of windows and a head that pools them.
//!
//! One file holds all three. The cuts let audio of any length stream through the encoder, window
//! by window; of each window only its token is kept, and the head reads all tokens at the end.
//! Windows do not see each other before the head, so that this is the whole graph's result. The
//! file's front end is not run: [`LogMel`] computes the same, faster.

use std::collections::HashSet;
use std::io::Cursor;
use std::sync::Arc;

use tract_onnx::Onnx;
use tract_onnx::pb::{GraphProto, ModelProto, ValueInfoProto};
use tract_onnx::prelude::*;

use crate::SAMPLE_RATE;
use crate::embeddings::DIM_EMBEDDING;
use crate::error::{Error, Result};
use crate::frontend::{LogMel, Scratch, Settings};

/// What [`Network::encode`] works in, window after window: of one song alone.
#[derive(Debug)]
pub(crate) struct Desk {
    scratch: Scratch,
    /// The encoder as the window before left it; the first makes it.
    encoder: Option<TypedSimpleState>,
}

/// A loaded model. Running it needs no exclusive access.
#[derive(Debug)]
pub(crate) struct Network {
    log_mel: LogMel,
    encoder: Arc<TypedRunnableModel>,
    head: Arc<TypedRunnableModel>,
    /// Samples in a window.
    pub(crate) window: usize,
    /// Values in a window's token.
    pub(crate) dim: usize,
    /// `feelprint.version` of the file, and the first 12 hexadecimal digits of its BLAKE3 hash.
    pub(crate) version: String,
}

impl Network {
    /// Reads an ONNX file of the feelprint contract.
    pub(crate) fn from_onnx(bytes: &[u8]) -> Result<Self> {
        let proto = tract_onnx::onnx()
            .proto_model_for_read(&mut Cursor::new(bytes))
            .map_err(|error| Error::model(format!("not an ONNX file: {error}")))?;
        let digest = blake3::hash(bytes).to_hex();
        Self::from_proto(&proto, &digest[..12])
    }

    fn from_proto(proto: &ModelProto, digest: &str) -> Result<Self> {
        let onnx = tract_onnx::onnx();
        let property = |key: &str| {
            let found = proto.metadata_props.iter().find(|entry| entry.key == key);
            found.map(|entry| entry.value.clone()).ok_or_else(|| {
                Error::model(format!(
                    "the ONNX metadata has no {key}: not a feelprint model, or one of an older \
                     version (export one with distill/run.py)"
                ))
            })
        };
        let count = |key: &str| -> Result<usize> {
            let text = property(key)?;
            text.parse().ok().filter(|&value| value > 0).ok_or_else(|| {
                Error::model(format!("the ONNX metadata's {key} is {text:?}, not a count"))
            })
        };
        let number = |key: &str| -> Result<f64> {
            let text = property(key)?;
            text.parse().map_err(|_| {
                Error::model(format!("the ONNX metadata's {key} is {text:?}, not a number"))
            })
        };
        let window = count("feelprint.window")?;
        let sample_rate = count("feelprint.sample_rate")?;
        if sample_rate != SAMPLE_RATE as usize {
            return Err(Error::model(format!(
                "the model wants audio at {sample_rate} Hz; this crate makes {SAMPLE_RATE} Hz"
            )));
        }
        let settings = Settings {
            sample_rate,
            n_fft: count("feelprint.n_fft")?,
            hop_length: count("feelprint.hop_length")?,
            window_frames: count("feelprint.window_frames")?,
            n_mels: count("feelprint.n_mels")?,
            f_min: number("feelprint.f_min")?,
            f_max: number("feelprint.f_max")?,
            floor: number("feelprint.floor")?,
        };
        let log_mel = LogMel::new(settings)?;
        let Settings { n_mels, window_frames, .. } = *log_mel.settings();
        if window != log_mel.settings().window() {
            return Err(Error::model(format!(
                "feelprint.window is {window}, not {window_frames} frames of {} samples",
                log_mel.settings().hop_length
            )));
        }
        let version = format!("{}-{digest}", property("feelprint.version")?);

        let encoder = part(proto, &["log_mel"], &["tokens"])?;
        let encoder = runnable(&onnx, &encoder, |_| {
            // One window a run: tract convolves single images a quarter faster than batches.
            vec![f32::fact([1, 1, n_mels, window_frames])]
        })?;
        let shape = &encoder.model().output_fact(0).map_err(tract_error)?.shape;
        let dim = match shape.as_concrete() {
            Some([1, 1, dim]) => *dim,
            _ => {
                return Err(Error::model(format!(
                    "`tokens` of one window is {shape:?}, expected (1, 1, dim)"
                )));
            }
        };
        let head = part(proto, &["tokens", "audible"], &["embedding", "attention"])?;
        let head = runnable(&onnx, &head, |symbols| {
            let windows: TDim = symbols.sym("windows").into();
            let (one, dim) = (TDim::from(1), TDim::from(dim));
            vec![f32::fact(&[one.clone(), windows.clone(), dim]), f32::fact(&[one, windows])]
        })?;
        Ok(Self { log_mel, encoder, head, window, dim, version })
    }

    /// A window's token (dim), and the share of it that is not silent.
    ///
    /// # Errors
    ///
    /// Fails if the samples are so large that their power is no finite number.
    pub(crate) fn encode(&self, window: &[f32], desk: &mut Desk) -> Result<(Vec<f32>, f32)> {
        let Settings { n_mels, window_frames, .. } = *self.log_mel.settings();
        let mut log_mel = vec![0.0; n_mels * window_frames];
        let level = self.log_mel.window(window, &mut log_mel, &mut desk.scratch);
        if !level.power.is_finite() {
            return Err(Error::audio("the samples are too large for the model"));
        }
        let shape = [1, 1, n_mels, window_frames];
        let log_mel = Tensor::from_shape(&shape, &log_mel).map_err(tract_error)?;
        let encoder = match &mut desk.encoder {
            Some(state) => state,
            none => none.insert(self.encoder.spawn().map_err(tract_error)?),
        };
        let outputs = encoder.run(tvec![log_mel.into()]).map_err(tract_error)?;
        Ok((floats(&outputs[0])?, level.audible))
    }

    /// What [`Network::encode`] works in: one a stream, since streams may run at once.
    pub(crate) fn desk(&self) -> Desk {
        Desk { scratch: self.log_mel.scratch(), encoder: None }
    }

    /// The embedding of a song's windows, and the attention that weighed them.
    ///
    /// `tokens`: (windows, dim); `audible`: (windows). The attention is (queries, windows), row
    /// by row; each row sums to one.
    pub(crate) fn pool(
        &self,
        tokens: &[f32],
        audible: &[f32],
    ) -> Result<([f32; DIM_EMBEDDING], Vec<f32>)> {
        let windows = audible.len();
        let tokens = Tensor::from_shape(&[1, windows, self.dim], tokens).map_err(tract_error)?;
        let audible = Tensor::from_shape(&[1, windows], audible).map_err(tract_error)?;
        let outputs = self.head.run(tvec![tokens.into(), audible.into()]).map_err(tract_error)?;
        let embedding = floats(&outputs[0])?;
        let embedding = embedding.as_slice().try_into().map_err(|_| {
            Error::model(format!(
                "`embedding` has {} values, expected {DIM_EMBEDDING}",
                embedding.len()
            ))
        })?;
        Ok((embedding, floats(&outputs[1])?))
    }
}

/// The part of a graph that computes `outputs` from `inputs`, as a graph of its own.
fn part(model: &ModelProto, inputs: &[&str], outputs: &[&str]) -> Result<ModelProto> {
    let graph = model.graph.as_ref().ok_or_else(|| Error::model("the ONNX file has no graph"))?;
    // Walk from the outputs back to the inputs. Nodes stand in topological order.
    let mut wanted: HashSet<&str> = outputs.iter().copied().collect();
    let mut nodes = Vec::new();
    for node in graph.node.iter().rev() {
        if node.output.iter().any(|name| wanted.contains(name.as_str())) {
            for name in &node.output {
                wanted.remove(name.as_str());
            }
            let read = node.input.iter().map(String::as_str);
            wanted.extend(read.filter(|name| !name.is_empty() && !inputs.contains(name)));
            nodes.push(node.clone());
        }
    }
    nodes.reverse();
    let initializer: Vec<_> =
        graph.initializer.iter().filter(|t| wanted.remove(t.name.as_str())).cloned().collect();
    wanted.retain(|name| !inputs.contains(name));
    if !wanted.is_empty() {
        let mut missing: Vec<_> = wanted.into_iter().collect();
        missing.sort_unstable();
        return Err(Error::model(format!(
            "the graph cannot be cut into {inputs:?} -> {outputs:?}: {missing:?} {} not made there",
            if missing.len() == 1 { "is" } else { "are" }
        )));
    }
    let float = graph
        .input
        .first()
        .and_then(|input| input.r#type.clone())
        .ok_or_else(|| Error::model("the graph has no typed input"))?;
    let value = |name: &&str| ValueInfoProto {
        name: (*name).to_string(),
        r#type: Some(float.clone()),
        ..ValueInfoProto::default()
    };
    let part = GraphProto {
        name: graph.name.clone(),
        node: nodes,
        initializer,
        input: inputs.iter().map(value).collect(),
        output: outputs.iter().map(value).collect(),
        ..GraphProto::default()
    };
    Ok(ModelProto {
        ir_version: model.ir_version,
        opset_import: model.opset_import.clone(),
        graph: Some(part),
        ..ModelProto::default()
    })
}

/// Compiles a graph for inputs of these facts.
fn runnable(
    onnx: &Onnx,
    proto: &ModelProto,
    facts: impl Fn(&SymbolScope) -> Vec<TypedFact>,
) -> Result<Arc<TypedRunnableModel>> {
    let compile = || -> TractResult<Arc<TypedRunnableModel>> {
        let mut model = onnx.model_for_proto_model(proto)?;
        for (input, fact) in facts(&model.symbols).into_iter().enumerate() {
            model.set_input_fact(input, fact.into())?;
        }
        model.into_optimized()?.into_runnable()
    };
    compile().map_err(|error| Error::model(format!("cannot run the model: {error:#}")))
}

fn floats(value: &TValue) -> Result<Vec<f32>> {
    let view = value.try_as_plain_ram().map_err(tract_error)?;
    Ok(view.as_slice::<f32>().map_err(tract_error)?.to_vec())
}

fn tract_error(error: TractError) -> Error {
    Error::model(format!("running the model failed: {error:#}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signals;

    fn bundled() -> Vec<u8> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/models/feelprint.onnx");
        std::fs::read(path).unwrap()
    }

    fn proto() -> ModelProto {
        tract_onnx::onnx().proto_model_for_read(&mut Cursor::new(bundled())).unwrap()
    }

    /// Both front ends against PyTorch's: the graph's, cut at `log_mel`, and the one that is run.
    #[test]
    fn the_log_mel_is_pythons() {
        let network = Network::from_onnx(&bundled()).unwrap();
        let front_end = part(&proto(), &["audio"], &["log_mel"]).unwrap();
        let fact = f32::fact([1, network.window]);
        let front_end = runnable(&tract_onnx::onnx(), &front_end, |_| vec![fact.clone()]).unwrap();
        let vectors: serde_json::Value =
            serde_json::from_str(include_str!("../tests/reference/vectors.json")).unwrap();
        let mut compared = 0;
        for case in vectors["cases"].as_array().unwrap() {
            let Some(want) = case["last_log_mel"].as_array() else { continue };
            let name = case["name"].as_str().unwrap();
            let samples = signals::signal(name, network.window);
            let mut window = samples.chunks(network.window).last().unwrap().to_vec();
            window.resize(network.window, 0.0);
            let input = Tensor::from_shape(&[1, network.window], &window).unwrap();
            let graphs = floats(&front_end.run(tvec![input.into()]).unwrap()[0]).unwrap();
            let mut native = vec![0.0; want.len()];
            network.log_mel.window(&window, &mut native, &mut network.log_mel.scratch());
            for (whose, got) in [("the graph", graphs), ("native", native)] {
                assert_eq!(got.len(), want.len(), "{name}, {whose}");
                for (got, want) in got.iter().zip(want) {
                    let apart = (f64::from(*got) - want.as_f64().unwrap()).abs();
                    // The vectors are rounded to four digits.
                    assert!(apart < 2e-3, "{name}, {whose}: {apart} apart");
                }
            }
            compared += 1;
        }
        assert!(compared >= 7);
    }

    #[test]
    fn a_graph_that_cannot_be_cut_is_refused() {
        let error = part(&proto(), &["tokens"], &["embedding"]).unwrap_err();
        assert!(error.is_model() && error.to_string().contains("audio"), "{error}");
    }
    #[test]
    fn a_file_without_a_setting_is_refused_by_its_name() {
        for at in 0..proto().metadata_props.len() {
            let mut proto = proto();
            let key = proto.metadata_props.remove(at).key;
            let unread =
                ["config_hash", "teacher", "licence"].map(|key| format!("feelprint.{key}"));
            let loaded = Network::from_proto(&proto, "");
            if unread.contains(&key) {
                loaded.unwrap();
                continue;
            }
            let error = loaded.unwrap_err();
            assert!(
                error.is_model() && error.to_string().contains(&format!("no {key}:")),
                "{error}"
            );
        }
    }

    #[test]
    fn a_file_with_an_impossible_setting_is_refused() {
        for (key, value, said) in [
            ("sample_rate", "44100", "44100 Hz"),
            ("n_fft", "many", "n_fft is \"many\", not a count"),
            ("n_fft", "0", "not a count"),
            ("n_fft", "99999999999999999999", "not a count"),
            ("hop_length", "703", "hop_length is 703"),
            ("hop_length", "2", "feelprint.window is"),
            ("window_frames", "999", "feelprint.window is"),
            ("window", "7", "feelprint.window is 7"),
            ("n_mels", "1", "cannot run the model"),
            ("n_mels", "1000", "cannot run the model"),
            ("f_min", "", "not a number"),
            ("f_max", "1e9", "f_min and f_max are"),
            ("floor", "NaN", "floor is NaN"),
        ] {
            let mut proto = proto();
            let key = format!("feelprint.{key}");
            let entry = proto.metadata_props.iter_mut().find(|entry| entry.key == key).unwrap();
            entry.value = value.to_string();
            let error = Network::from_proto(&proto, "").unwrap_err();
            assert!(error.is_model() && error.to_string().contains(said), "{key}={value}: {error}");
        }
    }
}
