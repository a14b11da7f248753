//! Prints the seconds that bliss-audio takes to analyse a file, decoding included.

use std::time::Instant;

use bliss_audio::decoder::Decoder;
use bliss_audio::decoder::symphonia::SymphoniaDecoder;

fn main() {
    let path = std::env::args().nth(1).expect("the path of a song");
    let start = Instant::now();
    let song = SymphoniaDecoder::song_from_path(&path).expect("a song that bliss-audio can decode");
    assert!(!song.analysis.as_vec().is_empty());
    println!("{}", start.elapsed().as_secs_f64());
}
