//! The command `feelprint`: what is given on the command line, and which part answers it.

mod analyse;
mod bench;
mod explain;
mod files;
mod index;
mod library;
mod output;
mod similar;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use feelprint::{AudioEmbeddingModel, ModelConfig};
use output::Output;

/// How songs feel: what to play next.
#[derive(Parser)]
#[command(name = "feelprint", version)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Args)]
struct Common {
    /// Print JSON, one object a line
    #[arg(long, global = true)]
    json: bool,
    /// The model: an ONNX file, or a folder that holds feelprint.onnx [default: the bundled one]
    #[arg(long, global = true, value_name = "PATH")]
    model: Option<PathBuf>,
    /// The index: one SQLite file [default: feelprint/index.sqlite in the user's data folder]
    #[arg(long, global = true, value_name = "FILE", env = "FEELPRINT_INDEX")]
    index: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Print the embeddings of files, as JSON lines
    Embed {
        /// Audio files
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Print the songs nearest to a song, with their distances
    Similar {
        /// An audio file, in the index or not
        song: PathBuf,
        /// Compare with the audio files of this folder, heard now, instead of with the index
        #[arg(long = "in", value_name = "DIR")]
        folder: Option<PathBuf>,
        /// How many songs to print
        #[arg(short, value_name = "COUNT", default_value_t = 10)]
        n: usize,
    },
    /// Bring the index up to date with a folder; a run that was stopped is continued
    Index {
        /// A folder of audio files
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// Print a path from a song through the songs near it
    Playlist {
        /// An audio file, in the index or not
        song: PathBuf,
        /// How many songs to print
        #[arg(short, value_name = "COUNT", default_value_t = 20)]
        n: usize,
        /// At most this many songs of one album (by the tags; without one, by the folder)
        #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
        max_per_album: Option<u32>,
    },
    /// Print the groups of songs in the index that are the same recording
    Duplicates {
        /// How far apart the embeddings of the same recording may lie
        #[arg(long, value_name = "DISTANCE", default_value_t = library::SAME_DISTANCE)]
        within: f32,
    },
    /// Tell why two songs are near: the seconds that weighed most, and what is alike
    Explain {
        /// An audio file
        a: PathBuf,
        /// Another audio file
        b: PathBuf,
    },
    /// Measure what the model, the search and files cost here, on one thread
    Bench {
        /// Audio files; without any, the search is measured
        #[arg(value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Lengths of audio to time the model alone with
        #[arg(long, value_delimiter = ',', default_value = "60,240")]
        seconds: Vec<u32>,
        /// How often to measure
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
        repeat: u32,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    output::quiet_panics();
    let mut output = Output::new(cli.common.json);
    match run(&cli, &mut output) {
        Ok(()) => output.exit_code(),
        // A reader such as `head` has enough.
        Err(error) if output::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::warn(&format!("{error:#}"));
            ExitCode::from(2)
        }
    }
}

fn run(cli: &Cli, output: &mut Output) -> Result<()> {
    let config = ModelConfig { path: cli.common.model.clone() };
    let model = || AudioEmbeddingModel::load(&config);
    let index = || cli.common.index.clone().map_or_else(default_index, Ok);
    match &cli.command {
        Command::Embed { files } => similar::embed(&model()?, files, output),
        Command::Similar { song, folder: Some(folder), n } => {
            similar::in_folder(&model()?, song, folder, *n, output)
        }
        Command::Similar { song, folder: None, n } => {
            library::similar(&model()?, &index()?, song, *n, output)
        }
        Command::Index { folder } => analyse::index(&model()?, &index()?, folder, output),
        Command::Playlist { song, n, max_per_album } => {
            let max = max_per_album.map(|max| max as usize);
            library::playlist(&model()?, &index()?, song, *n, max, output)
        }
        Command::Duplicates { within } => {
            library::duplicates(&model()?, &index()?, *within, output)
        }
        Command::Explain { a, b } => explain::explain(&model()?, a, b, output),
        Command::Bench { files, seconds, repeat } => {
            bench::bench(&config, files, seconds, *repeat as usize, output)
        }
    }
}

/// Where an index lies that was not named.
fn default_index() -> Result<PathBuf> {
    let folder = if cfg!(windows) {
        std::env::var_os("LOCALAPPDATA").map(PathBuf::from)
    } else if cfg!(target_os = "macos") {
        std::env::home_dir().map(|home| home.join("Library/Application Support"))
    } else {
        let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from);
        let data = data.filter(|folder| folder.is_absolute());
        data.or_else(|| std::env::home_dir().map(|home| home.join(".local/share")))
    };
    let folder = folder.context("no home folder: name the index with --index FILE")?;
    Ok(folder.join("feelprint").join("index.sqlite"))
}
