//! bliss as a peer. Given a file, analyses it, decoding included, and prints nothing: what that costs
//! is measured from outside.
//!
//! Given none, reads clips from standard input (u32 samples, then that many f32, little-endian, mono
//! at 22,050 Hz) until its end, and answers each on standard output with bliss's features (u32
//! features, then f32), scaled so that their Euclidean distance is bliss's default distance.

use std::io::{self, ErrorKind, Read, Write};

use bliss_audio::decoder::Decoder;
use bliss_audio::decoder::symphonia::SymphoniaDecoder;
use bliss_audio::{FeaturesVersion, Song};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if let Some(path) = std::env::args().nth(1) {
        SymphoniaDecoder::song_from_path(path)?;
        return Ok(());
    }
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    let weights = FeaturesVersion::LATEST.feature_weights();
    loop {
        let mut length = [0; 4];
        match input.read_exact(&mut length) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            other => other?,
        }
        let mut bytes = vec![0; 4 * u32::from_le_bytes(length) as usize];
        input.read_exact(&mut bytes)?;
        let samples: Vec<f32> = bytes
            .as_chunks()
            .0
            .iter()
            .map(|&four| f32::from_le_bytes(four))
            .collect();
        let features = Song::analyze(&samples)?.as_vec();
        output.write_all(&(features.len() as u32).to_le_bytes())?;
        for (at, feature) in features.iter().enumerate() {
            let scaled = feature * weights[[at, at]].sqrt();
            output.write_all(&scaled.to_le_bytes())?;
        }
        output.flush()?;
    }
}
