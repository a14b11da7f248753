//! The network: the graph of the ONNX file, split into encoder and head, run by tract.
//!
//! The graph is front end (`audio` to `log_mel`), encoder (`log_mel` to `tokens`) and head (`tokens`
//! and `window_weight` to `embedding` and `attention`). Only the head combines windows, so the
//! encoder can run on one window at a time, which keeps memory small, with the result of the whole
//! graph. The graph's front end is not run: [`LogMel`] computes the same log-mel faster.

use std::collections::HashSet;
use std::io::Cursor;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tract_onnx::pb::{GraphProto, ModelProto, ValueInfoProto};
use tract_onnx::prelude::*;

use crate::SAMPLE_RATE;
use crate::error::{Error, Result};
use crate::frontend::{LogMel, Scratch, Settings};

/// The number of values in an [`Embedding`](crate::Embedding).
pub const DIM_EMBEDDING: usize = 32;

/// The tensor (windows) of each window's weight: its share of non-silent frames, times the number of
/// windows that it stands for. Models up to 0.10.1, which use every window, call it
/// `nonsilent_ratio`, and those up to 0.10 `audible`.
const WINDOW_WEIGHT_NAMES: [&str; 3] = ["window_weight", "nonsilent_ratio", "audible"];

/// Which windows of a track a model uses: the first [`dense`](Self::dense), and the middle one of
/// each later group of [`stride`](Self::stride).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WindowRule {
    /// A multiple of `stride`.
    pub(crate) dense: u64,
    pub(crate) stride: u64,
}

impl WindowRule {
    /// Every window is used.
    pub(crate) const EVERY: Self = Self { dense: 0, stride: 1 };

    /// How many windows the window `index` stands for; 0 if it is not used.
    pub(crate) fn span(self, index: u64) -> u64 {
        if index < self.dense {
            1
        } else if index % self.stride == self.stride / 2 {
            self.stride
        } else {
            0
        }
    }

    /// The first used window from `index` on.
    pub(crate) fn next_used(self, index: u64) -> u64 {
        if index < self.dense {
            return index;
        }
        let middle = self.stride / 2;
        index + (middle + self.stride - index % self.stride) % self.stride
    }
}

/// The buffers of [`Network::encode`], reused for all windows of a track.
#[derive(Debug)]
pub(crate) struct EncoderState {
    scratch: Scratch,
    /// The time in the CNN so far.
    pub(crate) cnn_time: Duration,
    /// Made at the first window.
    encoder: Option<TypedSimpleState>,
}

/// A loaded model. Running it takes `&self`.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    log_mel: LogMel,
    encoder: Arc<TypedRunnableModel>,
    head: Arc<TypedRunnableModel>,
    /// Samples in a window.
    pub(crate) window: usize,
    /// Values in a token.
    pub(crate) dim: usize,
    /// `feelprint.version` of the file, and the first 12 hexadecimal digits of its BLAKE3 hash.
    pub(crate) version: String,
    pub(crate) rule: WindowRule,
}

impl Network {
    /// Reads a feelprint model from the bytes of an ONNX file.
    pub(crate) fn from_onnx(bytes: &[u8]) -> Result<Self> {
        let proto = tract_onnx::onnx()
            .proto_model_for_read(&mut Cursor::new(bytes))
            .map_err(|error| Error::model(format!("not an ONNX file: {error}")))?;
        let digest = blake3::hash(bytes).to_hex();
        Self::from_proto(&proto, &digest[..12])
    }

    fn from_proto(proto: &ModelProto, digest: &str) -> Result<Self> {
        let metadata = Metadata(proto);
        let log_mel = LogMel::new(metadata.front_end()?)?;
        let Settings { hop_length, window_frames, n_mels, .. } = *log_mel.settings();
        let window = metadata.count("window")?;
        if window != log_mel.settings().window() {
            return Err(Error::model(format!(
                "feelprint.window is {window}, not {window_frames} frames of {hop_length} samples"
            )));
        }
        let version = format!("{}-{digest}", metadata.text("version")?);
        let (encoder, dim) = encoder(proto, n_mels, window_frames)?;
        let head = head(proto, dim)?;
        let rule = metadata.window_rule()?;
        Ok(Self { log_mel, encoder, head, window, dim, version, rule })
    }

    /// The token of a window (dim), and its share of non-silent frames.
    ///
    /// # Errors
    ///
    /// Fails if the samples are so large that their power is not finite.
    pub(crate) fn encode(
        &self,
        window: &[f32],
        state: &mut EncoderState,
    ) -> Result<(Vec<f32>, f32)> {
        let Settings { n_mels, window_frames, .. } = *self.log_mel.settings();
        let mut log_mel = vec![0.0; n_mels * window_frames];
        let level = self.log_mel.window(window, &mut log_mel, &mut state.scratch);
        if !level.mean_power.is_finite() {
            return Err(Error::audio("the samples are too large for the model"));
        }
        let shape = [1, 1, n_mels, window_frames];
        let log_mel = Tensor::from_shape(&shape, &log_mel).map_err(tract_error)?;
        let encoder = match &mut state.encoder {
            Some(encoder) => encoder,
            none => none.insert(self.encoder.spawn().map_err(tract_error)?),
        };
        let start = Instant::now();
        let outputs = encoder.run(tvec![log_mel.into()]).map_err(tract_error)?;
        state.cnn_time += start.elapsed();
        Ok((floats(&outputs[0])?, level.nonsilent_ratio))
    }

    /// A new state for [`Network::encode`]. Tracks that are embedded at once need one each.
    pub(crate) fn encoder_state(&self) -> EncoderState {
        EncoderState { scratch: self.log_mel.scratch(), cnn_time: Duration::ZERO, encoder: None }
    }

    /// The embedding of a track from the tokens (windows, dim) and the weights (windows) of its used
    /// windows, both row-major.
    ///
    /// Also returns the attention weights (queries, windows), row-major; each row sums to 1.
    pub(crate) fn pool(
        &self,
        tokens: &[f32],
        weights: &[f32],
    ) -> Result<([f32; DIM_EMBEDDING], Vec<f32>)> {
        let windows = weights.len();
        let tokens = Tensor::from_shape(&[1, windows, self.dim], tokens).map_err(tract_error)?;
        let weights = Tensor::from_shape(&[1, windows], weights).map_err(tract_error)?;
        let outputs = self.head.run(tvec![tokens.into(), weights.into()]).map_err(tract_error)?;
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

/// The `feelprint.*` entries of the file's metadata.
struct Metadata<'m>(&'m ModelProto);

impl Metadata<'_> {
    fn text(&self, key: &str) -> Result<&str> {
        let key = format!("feelprint.{key}");
        let entry = self.0.metadata_props.iter().find(|entry| entry.key == key);
        entry.map(|entry| entry.value.as_str()).ok_or_else(|| {
            Error::model(format!(
                "the ONNX metadata has no {key}: not a feelprint model, or one of an older \
                 version (export one with distill/run.py)"
            ))
        })
    }

    fn count(&self, key: &str) -> Result<usize> {
        let text = self.text(key)?;
        text.parse().ok().filter(|&value| value > 0).ok_or_else(|| {
            Error::model(format!("the ONNX metadata's feelprint.{key} is {text:?}, not a count"))
        })
    }

    /// Models up to 0.10.1 state no rule and use every window.
    fn window_rule(&self) -> Result<WindowRule> {
        const KEYS: [&str; 2] = ["dense_windows", "window_stride"];
        if KEYS.iter().all(|key| self.text(key).is_err()) {
            return Ok(WindowRule::EVERY);
        }
        let stride = self.count("window_stride")? as u64;
        let text = self.text("dense_windows")?;
        let dense = text.parse().ok().filter(|dense| dense % stride == 0).ok_or_else(|| {
            Error::model(format!(
                "the ONNX metadata's feelprint.dense_windows is {text:?}, not a multiple of \
                 window_stride, {stride}"
            ))
        })?;
        Ok(WindowRule { dense, stride })
    }

    fn number(&self, key: &str) -> Result<f64> {
        let text = self.text(key)?;
        text.parse().map_err(|_| {
            Error::model(format!("the ONNX metadata's feelprint.{key} is {text:?}, not a number"))
        })
    }

    fn front_end(&self) -> Result<Settings> {
        let sample_rate = self.count("sample_rate")?;
        if sample_rate != SAMPLE_RATE as usize {
            return Err(Error::model(format!(
                "the model expects audio at {sample_rate} Hz; this crate resamples to \
                 {SAMPLE_RATE} Hz"
            )));
        }
        Ok(Settings {
            sample_rate,
            n_fft: self.count("n_fft")?,
            hop_length: self.count("hop_length")?,
            window_frames: self.count("window_frames")?,
            n_mels: self.count("n_mels")?,
            f_min: self.number("f_min")?,
            f_max: self.number("f_max")?,
            floor: self.number("floor")?,
        })
    }
}

/// The encoder, for one window a run, and the number of values in a token.
fn encoder(
    proto: &ModelProto,
    n_mels: usize,
    window_frames: usize,
) -> Result<(Arc<TypedRunnableModel>, usize)> {
    let encoder = subgraph(proto, &["log_mel"], &["tokens"])?;
    // In tract a batch costs a quarter more per window than single windows do.
    let encoder = runnable(&encoder, |_| vec![f32::fact([1, 1, n_mels, window_frames])])?;
    let shape = &encoder.model().output_fact(0).map_err(tract_error)?.shape;
    match shape.as_concrete() {
        Some([1, 1, dim]) => {
            let dim = *dim;
            Ok((encoder, dim))
        }
        _ => Err(Error::model(format!(
            "`tokens` of one window has the shape {shape:?}, expected (1, 1, dim)"
        ))),
    }
}

/// The head, for any number of windows.
fn head(proto: &ModelProto, dim: usize) -> Result<Arc<TypedRunnableModel>> {
    let nodes = proto.graph.iter().flat_map(|graph| &graph.node);
    let tensors: HashSet<&str> = nodes.flat_map(|node| &node.output).map(String::as_str).collect();
    let weights =
        WINDOW_WEIGHT_NAMES.into_iter().find(|&name| tensors.contains(name)).ok_or_else(|| {
            let [name, older, oldest] = WINDOW_WEIGHT_NAMES;
            Error::model(format!(
                "the graph has no tensor `{name}` (`{older}` up to 0.10.1, `{oldest}` up to 0.10)"
            ))
        })?;
    let head = subgraph(proto, &["tokens", weights], &["embedding", "attention"])?;
    runnable(&head, |symbols| {
        let windows: TDim = symbols.sym("windows").into();
        let (one, dim) = (TDim::from(1), TDim::from(dim));
        vec![f32::fact(&[one.clone(), windows.clone(), dim]), f32::fact(&[one, windows])]
    })
}

/// The nodes that compute `outputs` from `inputs`, as a graph of its own.
fn subgraph(model: &ModelProto, inputs: &[&str], outputs: &[&str]) -> Result<ModelProto> {
    let graph = model.graph.as_ref().ok_or_else(|| Error::model("the ONNX file has no graph"))?;
    // From the outputs back to the inputs: ONNX lists nodes in topological order.
    let mut needed: HashSet<&str> = outputs.iter().copied().collect();
    let mut nodes = Vec::new();
    for node in graph.node.iter().rev() {
        if node.output.iter().any(|name| needed.contains(name.as_str())) {
            for name in &node.output {
                needed.remove(name.as_str());
            }
            let read = node.input.iter().map(String::as_str);
            needed.extend(read.filter(|name| !name.is_empty() && !inputs.contains(name)));
            nodes.push(node.clone());
        }
    }
    nodes.reverse();
    let initializer: Vec<_> =
        graph.initializer.iter().filter(|t| needed.remove(t.name.as_str())).cloned().collect();
    needed.retain(|name| !inputs.contains(name));
    if !needed.is_empty() {
        let mut missing: Vec<_> = needed.into_iter().collect();
        missing.sort_unstable();
        return Err(Error::model(format!(
            "{outputs:?} of the graph cannot be computed from {inputs:?} alone: they also need \
             {missing:?}"
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
    let subgraph = GraphProto {
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
        graph: Some(subgraph),
        ..ModelProto::default()
    })
}

/// Compiles a graph for inputs of the types and shapes that `facts` gives.
fn runnable(
    proto: &ModelProto,
    facts: impl Fn(&SymbolScope) -> Vec<TypedFact>,
) -> Result<Arc<TypedRunnableModel>> {
    let compile = || -> TractResult<Arc<TypedRunnableModel>> {
        let mut model = tract_onnx::onnx().model_for_proto_model(proto)?;
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

    /// The front ends of the graph and of the crate against PyTorch's.
    #[test]
    fn the_log_mel_equals_pytorchs() {
        let network = Network::from_onnx(&bundled()).unwrap();
        let front_end = subgraph(&proto(), &["audio"], &["log_mel"]).unwrap();
        let fact = f32::fact([1, network.window]);
        let front_end = runnable(&front_end, |_| vec![fact.clone()]).unwrap();
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
            let mut graphs = floats(&front_end.run(tvec![input.into()]).unwrap()[0]).unwrap();
            // The graph pads the audio to a group of windows.
            assert_eq!(graphs.len(), network.rule.stride as usize * want.len(), "{name}");
            graphs.truncate(want.len());
            let mut native = vec![0.0; want.len()];
            network.log_mel.window(&window, &mut native, &mut network.log_mel.scratch());
            for (front_end, got) in [("graph", graphs), ("crate", native)] {
                assert_eq!(got.len(), want.len(), "{name}, {front_end}");
                for (got, want) in got.iter().zip(want) {
                    let error = (f64::from(*got) - want.as_f64().unwrap()).abs();
                    // The reference is rounded to four digits.
                    assert!(error < 2e-3, "{name}, {front_end}: {error}");
                }
            }
            compared += 1;
        }
        assert!(compared >= 7);
    }

    #[test]
    fn a_graph_that_cannot_be_split_is_an_error() {
        let error = subgraph(&proto(), &["tokens"], &["embedding"]).unwrap_err();
        assert!(error.is_model() && error.to_string().contains("audio"), "{error}");
    }

    /// The bundled model with its tensor of weights renamed.
    fn proto_with_weights(name: &str) -> ModelProto {
        let mut proto = proto();
        let mut renamed = 0;
        for node in &mut proto.graph.as_mut().unwrap().node {
            for tensor in node.input.iter_mut().chain(&mut node.output) {
                if WINDOW_WEIGHT_NAMES.contains(&tensor.as_str()) {
                    *tensor = name.to_string();
                    renamed += 1;
                }
            }
        }
        assert!(renamed >= 2);
        proto
    }

    #[test]
    fn the_window_weight_is_found_under_its_three_names() {
        let tokens_and_embedding = |network: &Network| {
            let mut state = network.encoder_state();
            let mut tokens = Vec::new();
            let mut ratios = Vec::new();
            for window in [signals::noise(network.window), vec![0.0; network.window]] {
                let (token, ratio) = network.encode(&window, &mut state).unwrap();
                tokens.extend(token);
                ratios.push(ratio);
            }
            let (embedding, attention) = network.pool(&tokens, &ratios).unwrap();
            (tokens, embedding, attention)
        };
        let want = tokens_and_embedding(&Network::from_onnx(&bundled()).unwrap());
        for name in ["window_weight", "nonsilent_ratio", "audible"] {
            let network = Network::from_proto(&proto_with_weights(name), "").unwrap();
            assert_eq!(tokens_and_embedding(&network), want, "{name}");
        }
    }

    #[test]
    fn a_graph_without_the_window_weight_is_an_error() {
        let error = Network::from_proto(&proto_with_weights("loud"), "").unwrap_err();
        assert!(error.is_model(), "{error}");
        assert!(
            error.to_string().contains("no tensor `window_weight` (`nonsilent_ratio`"),
            "{error}"
        );
    }

    #[test]
    fn the_rule_uses_the_first_windows_and_the_middle_of_each_later_group() {
        let used = |rule: WindowRule| (0..43).filter(move |&window| rule.span(window) > 0);
        let rule = WindowRule { dense: 24, stride: 4 };
        let want: Vec<u64> = (0..24).chain([26, 30, 34, 38, 42]).collect();
        assert_eq!(used(rule).collect::<Vec<_>>(), want);
        assert_eq!([rule.span(0), rule.span(23), rule.span(26)], [1, 1, 4]);
        assert!(used(WindowRule::EVERY).eq(0..43));
        for rule in [rule, WindowRule::EVERY, WindowRule { dense: 0, stride: 5 }] {
            for window in 0..38 {
                let next = used(rule).find(|&used| used >= window);
                assert_eq!(Some(rule.next_used(window)), next, "{rule:?}, {window}");
            }
        }
    }

    #[test]
    fn a_model_without_a_rule_uses_every_window() {
        let mut proto = proto();
        let keys = ["dense_windows", "window_stride"].map(|key| format!("feelprint.{key}"));
        proto.metadata_props.retain(|entry| !keys.contains(&entry.key));
        assert_eq!(Network::from_proto(&proto, "").unwrap().rule, WindowRule::EVERY);
    }

    #[test]
    fn a_missing_setting_is_an_error_that_names_it() {
        for at in 0..proto().metadata_props.len() {
            let mut proto = proto();
            let key = proto.metadata_props.remove(at).key;
            let optional =
                ["config_hash", "teacher", "licence"].map(|key| format!("feelprint.{key}"));
            let loaded = Network::from_proto(&proto, "");
            if optional.contains(&key) {
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
    fn an_invalid_setting_is_an_error_that_names_it() {
        for (key, value, expected) in [
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
            ("window_stride", "0", "not a count"),
            ("window_stride", "97", "not a multiple of window_stride, 97"),
            ("dense_windows", "some", "not a multiple"),
        ] {
            let mut proto = proto();
            let key = format!("feelprint.{key}");
            let entry = proto.metadata_props.iter_mut().find(|entry| entry.key == key).unwrap();
            entry.value = value.to_string();
            let error = Network::from_proto(&proto, "").unwrap_err();
            assert!(
                error.is_model() && error.to_string().contains(expected),
                "{key}={value}: {error}"
            );
        }
    }
}
