//! bliss-audio as a baseline.
//!
//! With a file as its argument, the program decodes and analyses the file and prints nothing: the
//! caller measures what that costs.
//!
//! Without, it reads clips from standard input (u32 count, then that many f32 samples, little-endian,
//! mono at 22,050 Hz) until its end. For each it writes bliss's features to standard output (u32
//! count, then f32), scaled so that their Euclidean distance is bliss's default distance.

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
        let mut count = [0; 4];
        match input.read_exact(&mut count) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            other => other?,
        }
        let mut bytes = vec![0; 4 * u32::from_le_bytes(count) as usize];
        input.read_exact(&mut bytes)?;
        let samples: Vec<f32> = bytes
            .as_chunks()
            .0
            .iter()
            .map(|&chunk| f32::from_le_bytes(chunk))
            .collect();
        let features = Song::analyze(&samples)?.as_vec();
        output.write_all(&(features.len() as u32).to_le_bytes())?;
        for (index, feature) in features.iter().enumerate() {
            let scaled = feature * weights[[index, index]].sqrt();
            output.write_all(&scaled.to_le_bytes())?;
        }
        output.flush()?;
    }
}
