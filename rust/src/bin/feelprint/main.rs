//! The command `feelprint`: parses the command line and runs the command.

mod bench;
mod database;
mod duplicates;
mod embed;
mod explain;
mod files;
mod index;
mod library;
mod output;
mod playlist;
mod similar;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use feelprint::duplicates::MAX_DISTANCE;
use feelprint::playlist::PlaylistOptions;
use feelprint::{AudioEmbeddingModel, ModelConfig};
use output::Output;

/// Find similar songs, by the embeddings of a small neural network
#[derive(Parser)]
#[command(name = "feelprint", version)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// The options of every command.
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
        /// Compare with the audio files of this folder instead of with the index
        #[arg(long = "in", value_name = "DIR")]
        folder: Option<PathBuf>,
        /// How many songs to print
        #[arg(short, value_name = "COUNT", default_value_t = 10)]
        n: usize,
    },
    /// Update the index for a folder; a run that was stopped is continued
    Index {
        /// A folder of audio files
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// Print a playlist of the songs nearest to a song, in an order with short steps
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
    /// Print the groups of files in the index that are the same recording
    Duplicates {
        /// The largest distance between the embeddings of the same recording
        #[arg(long, value_name = "DISTANCE", default_value_t = MAX_DISTANCE)]
        within: f32,
    },
    /// Explain the distance of two songs: the seconds with the most attention, and similar windows
    Explain {
        /// An audio file
        a: PathBuf,
        /// Another audio file
        b: PathBuf,
    },
    /// Measure the time that the model, the search and files take on one thread
    Bench {
        /// Audio files; without any, the search is measured
        #[arg(value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Lengths of audio to time the model alone with
        #[arg(long, value_delimiter = ',', default_value = "60,240")]
        seconds: Vec<u32>,
        /// How many times to measure
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
        // The reader, such as `head`, has stopped reading.
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
        Command::Embed { files } => embed::embed(&model()?, files, output),
        Command::Similar { song, folder: Some(folder), n } => {
            similar::similar_in_folder(&model()?, song, folder, *n, output)
        }
        Command::Similar { song, folder: None, n } => {
            similar::similar(&model()?, &index()?, song, *n, output)
        }
        Command::Index { folder } => index::index(&model()?, &index()?, folder, output),
        Command::Playlist { song, n, max_per_album } => {
            let max_per_album = max_per_album.map(|max| max as usize);
            let options = PlaylistOptions { length: *n, max_per_album };
            playlist::print_playlist(&model()?, &index()?, song, &options, output)
        }
        Command::Duplicates { within } => {
            duplicates::print_duplicates(&model()?, &index()?, *within, output)
        }
        Command::Explain { a, b } => explain::explain(&model()?, a, b, output),
        Command::Bench { files, seconds, repeat } => {
            bench::bench(&config, files, seconds, *repeat as usize, output)
        }
    }
}

/// The index without `--index` and FEELPRINT_INDEX.
fn default_index() -> Result<PathBuf> {
    let folder = dirs::data_local_dir().context(
        "the user's data folder is unknown (is HOME set?): name the index with --index FILE",
    )?;
    Ok(folder.join("feelprint").join("index.sqlite"))
}
