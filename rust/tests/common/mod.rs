//! Helpers for the tests.
#![allow(dead_code, reason = "each test uses some of them")]

pub mod signals;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

/// A temporary folder, removed at the end of the test.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A folder that cannot be removed stays in the build folder.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs ffmpeg, which must be installed.
pub fn ffmpeg(arguments: &[&str], to: &Path) -> PathBuf {
    let done = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-y", "-threads", "1"])
        .args(arguments)
        .arg(to)
        .output()
        .expect("these tests make their files with ffmpeg: install it (apt-get install ffmpeg)");
    let problem = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "ffmpeg {arguments:?} {}: {problem}", to.display());
    to.to_path_buf()
}

pub const WAV_PCM: u16 = 1;
pub const WAV_FLOAT: u16 = 3;

/// The header of a WAV file; `format` is one of the two above, `width` is in bytes.
pub fn wav_header(format: u16, channels: u16, rate: u32, width: u16, frames: usize) -> Vec<u8> {
    let block = channels * width; // bytes of a frame
    let data_bytes = frames as u32 * u32::from(block);
    let mut bytes = Vec::new();
    bytes.extend(b"RIFF");
    bytes.extend((36 + data_bytes).to_le_bytes());
    bytes.extend(b"WAVEfmt ");
    bytes.extend(16_u32.to_le_bytes());
    bytes.extend(format.to_le_bytes());
    bytes.extend(channels.to_le_bytes());
    bytes.extend(rate.to_le_bytes());
    bytes.extend((rate * u32::from(block)).to_le_bytes());
    bytes.extend(block.to_le_bytes());
    bytes.extend((8 * width).to_le_bytes());
    bytes.extend(b"data");
    bytes.extend(data_bytes.to_le_bytes());
    bytes
}

/// Writes 16-bit PCM as a WAV file. `channels` have the same length, samples from -1 to 1.
pub fn write_wav(path: &Path, rate: u32, channels: &[Vec<f32>]) {
    let mut bytes = wav_header(WAV_PCM, channels.len() as u16, rate, 2, channels[0].len());
    for frame in 0..channels[0].len() {
        for channel in channels {
            bytes.extend(((channel[frame] * 32_767.0) as i16).to_le_bytes());
        }
    }
    std::fs::write(path, bytes).unwrap();
}

/// A tone of `seconds`, from -1/2 to 1/2.
pub fn tone(hz: f32, rate: u32, seconds: f32) -> Vec<f32> {
    let samples = (rate as f32 * seconds) as usize;
    let step = std::f64::consts::TAU * f64::from(hz) / f64::from(rate);
    (0..samples).map(|i| ((i as f64 * step).sin() * 0.5) as f32).collect()
}

/// A short piece of music: a chord with a beat, different for each `seed`.
pub fn piece(seed: u32, rate: u32, seconds: f32) -> Vec<f32> {
    let root = 110.0 * 1.19_f32.powi((seed * 7 % 11) as i32);
    let notes: Vec<_> =
        [1.0, 1.26, 1.5, 2.0].iter().map(|interval| tone(root * interval, rate, seconds)).collect();
    let beat = rate as usize / (2 + seed as usize % 3);
    (0..notes[0].len())
        .map(|i| {
            let loudness = 1.0 - (i % beat) as f32 / beat as f32;
            notes.iter().map(|note| note[i]).sum::<f32>() / 4.0 * loudness
        })
        .collect()
}

/// Runs the command `feelprint` with this index.
pub fn feelprint(index: &Path, arguments: &[&str]) -> Output {
    command(index, arguments).output().unwrap()
}

/// The command `feelprint` with this index, not yet started.
pub fn command(index: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_feelprint"));
    command.args(arguments).arg("--index").arg(index);
    command
}

/// The lines that a command printed, as JSON.
pub fn json_lines(output: &Output) -> Vec<serde_json::Value> {
    let problem = String::from_utf8_lossy(&output.stderr);
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let lines = text.lines().map(serde_json::from_str);
    lines.map(|value| value.unwrap_or_else(|_| panic!("{text}\n{problem}"))).collect()
}
