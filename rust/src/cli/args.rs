//! The command line.

use std::path::PathBuf;

use crate::duplicates::MAX_DISTANCE;
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

/// Find similar songs, by the embeddings of a small neural network
#[derive(Parser)]
#[command(name = "feelprint", version)]
pub struct Cli {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub command: Command,
}

/// The options of every command.
#[derive(Args)]
pub struct Common {
    /// Print JSON, one object a line
    #[arg(long, global = true)]
    pub json: bool,
    /// The model: an ONNX file, or a folder that holds feelprint.onnx [default: the bundled one]
    #[arg(long, global = true, value_name = "PATH")]
    pub model: Option<PathBuf>,
    /// Use every second of a song, not only what the model needs. It takes about three times as long,
    /// and such embeddings are compared with each other only: an index is of one kind
    #[arg(long, global = true)]
    pub whole: bool,
    /// The index: one SQLite file [default: feelprint/index.sqlite in the user's data folder]
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "FEELPRINT_INDEX",
        hide_env_values = true
    )]
    pub index: Option<PathBuf>,
    /// How many threads analyse songs [default: one per processor]
    #[arg(long, global = true, value_name = "COUNT",
          value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
}

/// How a list of songs is printed.
#[derive(Args, Default)]
pub struct ListArgs {
    /// Print paths alone, each with a NUL after it, as `xargs -0` reads them
    #[arg(short = '0', long, conflicts_with = "json")]
    pub null: bool,
    /// Print a playlist file in the format M3U8
    #[arg(long, conflicts_with_all = ["json", "null"])]
    pub m3u: bool,
    /// Print paths relative to this folder [default: absolute]
    #[arg(long, value_name = "DIR")]
    pub relative_to: Option<PathBuf>,
}

/// Which songs are left out.
#[derive(Args, Default)]
pub struct ExcludeArgs {
    /// Leave out the songs of this list, such as those lately played: one path a line, or an M3U file
    #[arg(long, value_name = "LIST")]
    pub exclude_songs: Option<PathBuf>,
    /// Leave out the artists of this list: one name a line, or the path of one of their songs
    #[arg(long, value_name = "LIST")]
    pub exclude_artists: Option<PathBuf>,
    /// Leave out an artist; may be repeated
    #[arg(long, value_name = "NAME")]
    pub exclude_artist: Vec<String>,
}

#[derive(Subcommand)]
pub enum Command {
    /// Update the index for folders; a run that was stopped is continued
    Index {
        /// Folders of audio files, or single files; - reads a list of them from standard input
        #[arg(required = true, value_name = "DIR")]
        folders: Vec<PathBuf>,
        /// Leave out files and folders by a glob, as in .gitignore; may be repeated. The files
        /// .ignore and .feelprintignore in the folders are followed too
        #[arg(long, value_name = "GLOB")]
        exclude: Vec<String>,
        /// Analyse all songs again, also those that have not changed
        #[arg(long)]
        force: bool,
        /// Print what would be done, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Print the state of the index: songs, folders, failures, damage, missing songs and models
    Status {
        /// Print all failed, damaged and missing songs, not only the first 20 of each
        #[arg(long)]
        all: bool,
    },
    /// Remove songs from the index that are gone on purpose: all missing ones, or those under PATH
    Forget {
        /// Folders or files whose songs are removed, whether they are there or not; - reads a list
        /// of them from standard input
        #[arg(value_name = "PATH")]
        paths: Vec<PathBuf>,
        /// Remove the songs of other models instead
        #[arg(long, conflicts_with = "paths")]
        outdated: bool,
        /// Print what would be removed, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Print the songs nearest to a song, with their distances
    Similar {
        /// Audio files, in the index or not; near is what is near to one of them. - reads an audio
        /// file, or a list of files, from standard input
        #[arg(required = true, value_name = "SONG")]
        songs: Vec<PathBuf>,
        /// Compare with the audio files of this folder instead of with the index
        #[arg(long = "in", value_name = "DIR",
              conflicts_with_all = ["exclude_songs", "exclude_artists", "exclude_artist"])]
        folder: Option<PathBuf>,
        /// How many songs to print
        #[arg(short, value_name = "COUNT", default_value_t = 10)]
        n: usize,
        #[command(flatten)]
        exclude: ExcludeArgs,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Print a playlist that starts at a song
    ///
    /// It holds the songs nearest to the given ones, in an order with short steps from song to song.
    /// The given songs themselves are not printed.
    Playlist {
        /// Audio files, in the index or not, which have equally many songs near them; the playlist
        /// starts at the first. - reads an audio file, or a list of files, from standard input
        #[arg(required = true, value_name = "SONG")]
        songs: Vec<PathBuf>,
        /// How many songs to print
        #[arg(short, value_name = "COUNT", default_value_t = 20)]
        n: usize,
        /// At most this many songs of one album, the given ones included (by the tags; without one, by the
        /// folder)
        #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
        max_per_album: Option<u32>,
        /// At most this many songs of one artist, the given ones included (by the tags; without one, no
        /// limit)
        #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
        max_per_artist: Option<u32>,
        #[command(flatten)]
        exclude: ExcludeArgs,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Print the groups of files in the index that are the same recording
    Duplicates {
        /// The largest distance between the embeddings of the same recording
        #[arg(long, value_name = "DISTANCE", default_value_t = MAX_DISTANCE)]
        within: f32,
    },
    /// Write a page that shows the songs of the index in two dimensions, near ones together
    ///
    /// It is one file that needs no network: the songs are coloured by cluster, album, artist or
    /// folder, found by their names, and played from where they are by a click.
    Map {
        /// Show the songs under these folders alone; - reads a list of them from standard input
        #[arg(value_name = "DIR")]
        folders: Vec<PathBuf>,
        /// The page to write, such as map.html; a map that is there is replaced
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Link to the songs by their way from the folder of the page, so that both can be moved
        /// together [default: by their absolute paths]
        #[arg(long)]
        relative: bool,
    },
    /// Explain the distance of two songs: the seconds without which it changes most, and similar
    /// windows
    Explain {
        /// An audio file; - reads it from standard input
        a: PathBuf,
        /// Another audio file; - reads it from standard input
        b: PathBuf,
    },
    /// Print the embeddings of files, as JSON lines
    Embed {
        /// Audio files; - reads an audio file, or a list of files, from standard input
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
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
    /// Print the completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the man page of feelprint, or of one of its commands
    Man {
        /// A command, such as index
        #[arg(value_name = "COMMAND")]
        name: Option<String>,
    },
}
