//! The command `feelprint`: parses the command line and runs the command.
//!
//! For the command itself and for the Python package, which has the same functions: not a stable
//! interface.
#![allow(missing_docs, reason = "not a public interface")]

pub mod analyse;
mod args;
mod bench;
mod cue;
pub mod database;
mod duplicates;
mod embed;
pub mod events;
pub mod exclude;
mod explain;
pub mod forget;
pub mod index;
pub mod input;
pub mod library;
mod list;
pub mod map;
mod numbers;
mod output;
mod pages;
mod paths;
pub mod playlist;
mod progress;
mod schema;
pub mod similar;
mod status;
mod tags;
pub mod walk;

use std::ffi::OsString;
use std::path::PathBuf;

use crate::{AudioEmbeddingModel, ModelConfig};
use anyhow::{Context, Result};
use clap::Parser;
use rusqlite::ErrorCode;

use args::{Cli, Command};
use index::IndexOptions;
use output::Output;

/// Runs the command of `arguments`, of which the first is the program's name. Returns the exit
/// status.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(problem) => {
            // If standard error is closed, nothing can be reported.
            let _ = problem.print();
            return u8::try_from(problem.exit_code()).expect("clap's are 0 and 2");
        }
    };
    output::quiet_panics();
    progress::start();
    let mut output = Output::new(cli.common.json);
    let result = run(&cli, &mut output);
    progress::end();
    match result {
        Ok(()) => output.exit_status(),
        // The reader, such as `head`, has stopped reading.
        Err(error) if output::is_closed_pipe(&error) => 0,
        Err(error) => {
            output::note(&message(&error));
            2
        }
    }
}

/// An error in one line. SQLite's of a broken file names neither the cause nor a way out.
pub fn message(error: &anyhow::Error) -> String {
    let sqlite = error.chain().find_map(|cause| cause.downcast_ref::<rusqlite::Error>());
    let code = sqlite.and_then(rusqlite::Error::sqlite_error_code);
    if !matches!(code, Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt)) {
        return format!("{error:#}");
    }
    let contexts = error.chain().take_while(|cause| !cause.is::<rusqlite::Error>());
    let mut parts: Vec<_> = contexts.map(ToString::to_string).collect();
    parts.push(
        "the file is broken, or is not an index of feelprint: if it is the index, remove it and run \
         `feelprint index DIR` again, else name another file with --index FILE"
            .to_string(),
    );
    parts.join(": ")
}

fn run(cli: &Cli, output: &mut Output) -> Result<()> {
    if let Some(threads) = cli.common.threads {
        rayon::ThreadPoolBuilder::new().num_threads(threads.into()).build_global()?;
    }
    let config = ModelConfig { path: cli.common.model.clone() };
    let model = || {
        let model = AudioEmbeddingModel::load(&config)?;
        crate::Result::Ok(if cli.common.whole { model.whole() } else { model })
    };
    let index = || cli.common.index.clone().map_or_else(default_index, Ok);
    match &cli.command {
        Command::Index { folders, exclude, force, dry_run } => {
            let options = IndexOptions {
                exclude: exclude.clone(),
                force: *force,
                dry_run: *dry_run,
                threads: cli.common.threads.map_or(0, usize::from),
            };
            index::index(&model()?, &index()?, &input::paths(folders)?, &options, output)
        }
        Command::Status { all } => status::status(&model()?, &index()?, *all, output),
        Command::Forget { paths, outdated: true, dry_run } => {
            debug_assert!(paths.is_empty(), "clap refuses paths with --outdated");
            forget::forget_outdated(&model()?, &index()?, *dry_run, output)
        }
        Command::Forget { paths, outdated: false, dry_run } => {
            forget::forget(&index()?, &input::paths(paths)?, *dry_run, output)
        }
        Command::Similar { songs, folder: Some(folder), n, list, .. } => {
            similar::similar_in_folder(&model()?, songs, folder, *n, list, output)
        }
        Command::Similar { songs, folder: None, n, exclude, list } => {
            similar::similar(&model()?, &index()?, songs, *n, exclude, list, output)
        }
        Command::Playlist { songs, n, max_per_album, max_per_artist, exclude, list } => {
            let limits = playlist::Limits {
                length: *n,
                max_per_album: max_per_album.map(|max| max as usize),
                max_per_artist: max_per_artist.map(|max| max as usize),
            };
            playlist::print_playlist(&model()?, &index()?, songs, limits, exclude, list, output)
        }
        Command::Duplicates { within } => {
            duplicates::print_duplicates(&model()?, &index()?, *within, output)
        }
        Command::Map { folders, out, relative } => {
            map::map(&model()?, &index()?, &input::paths(folders)?, out, *relative, output)
        }
        Command::Explain { a, b } => explain::explain(&model()?, a, b, output),
        Command::Embed { files } => embed::embed(&model()?, files, output),
        Command::Bench { files, seconds, repeat } => {
            bench::bench(model, files, seconds, *repeat as usize, output)
        }
        Command::Completions { shell } => pages::completions(*shell, output),
        Command::Man { name } => pages::man(name.as_deref(), output),
    }
}

/// The index without `--index` and FEELPRINT_INDEX.
pub fn default_index() -> Result<PathBuf> {
    let folder = dirs::data_local_dir().context(
        "the user's data folder is unknown (is HOME set?): name the index with --index FILE",
    )?;
    Ok(folder.join("feelprint").join("index.sqlite"))
}
