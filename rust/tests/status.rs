//! What the command reports: the state of the index, empty ones, long runs, names, help pages.

mod common;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{Folder, command, feelprint, json_lines, piece, write_wav};

/// An index of two songs, a file that is no audio, a file that is damaged and a song that is gone.
fn indexed() -> (Folder, PathBuf) {
    let folder = Folder::new();
    let index = folder.path().join("index.sqlite");
    let music = folder.path().join("music");
    std::fs::create_dir(&music).unwrap();
    for song in 0..4 {
        let path = music.join(format!("{song}.wav"));
        write_wav(&path, 22_050, &[piece(song, 22_050, 3.0)]);
    }
    let whole = std::fs::read(music.join("3.wav")).unwrap();
    std::fs::write(music.join("3.wav"), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(music.join("bad.mp3"), "no music").unwrap();
    let output = feelprint(&index, &["index", music.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let problem = text(&output.stderr);
    assert!(problem.contains("1 song has no embedding: `feelprint status` lists it"), "{problem}");
    std::fs::remove_file(music.join("2.wav")).unwrap();
    let again = feelprint(&index, &["index", music.to_str().unwrap()]);
    assert_eq!(again.status.code(), Some(1));
    (folder, index)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn success(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn the_status_lists_what_needs_attention() {
    let (folder, index) = indexed();
    let status = json_lines(&feelprint(&index, &["status", "--json"])).remove(0);
    assert_eq!((&status["songs"], &status["comparable"]), (&5.into(), &3.into()));
    let music = folder.path().join("music").canonicalize().unwrap();
    assert_eq!(status["folders"][0]["path"], music.to_str().unwrap());
    assert_eq!(status["folders"][0]["songs"], 5);
    let name = |kind: &str| {
        let list = status[kind].as_array().unwrap();
        assert_eq!(list.len(), 1, "{kind}: {status}");
        PathBuf::from(list[0]["path"].as_str().unwrap()).file_name().unwrap().to_owned()
    };
    assert_eq!(name("failed"), "bad.mp3");
    assert_eq!(name("damaged"), "3.wav");
    assert_eq!(name("missing"), "2.wav");
    assert!(status["failed"][0]["reason"].as_str().unwrap().contains("not an audio file"));
    assert_eq!(status["models"][status["version"].as_str().unwrap()], 5);

    let printed = success(&feelprint(&index, &["status"]));
    for line in [
        "5 songs, 3 can be compared",
        "failed: 1 song\n",
        "bad.mp3: not an audio file",
        "damaged: 1 song\n",
        "missing: 1 song\n",
        "2.wav\n",
        "in use",
    ] {
        assert!(printed.contains(line), "{line}: {printed}");
    }
}

#[test]
fn an_index_without_songs_says_so() {
    let folder = Folder::new();
    let index = folder.path().join("index.sqlite");
    let song = folder.path().join("song.wav");
    write_wav(&song, 22_050, &[piece(1, 22_050, 2.0)]);
    let song = song.to_str().unwrap();
    let bad = folder.path().join("music");
    std::fs::create_dir(&bad).unwrap();
    std::fs::write(bad.join("1.mp3"), "no music").unwrap();
    feelprint(&index, &["index", bad.to_str().unwrap()]);
    for arguments in [&["similar", song][..], &["playlist", song], &["duplicates"]] {
        let output = feelprint(&index, arguments);
        assert!(!output.status.success() && output.stdout.is_empty());
        let problem = text(&output.stderr);
        assert!(problem.contains("1 song without an embedding"), "{problem}");
    }
    // Without a row at all, and with no other song than the one that is compared.
    assert!(feelprint(&index, &["forget", bad.to_str().unwrap()]).status.success());
    let output = feelprint(&index, &["similar", song]);
    assert!(text(&output.stderr).contains("no song yet"), "{}", text(&output.stderr));
    assert!(feelprint(&index, &["index", song]).status.success());
    for command in ["similar", "playlist"] {
        let output = feelprint(&index, &[command, song]);
        assert!(output.status.success());
        assert!(text(&output.stderr).contains("no other song"), "{}", text(&output.stderr));
    }
}

#[test]
#[cfg(unix)]
fn a_long_run_shows_a_sign_of_life_without_a_terminal() {
    let folder = Folder::new();
    let index = folder.path().join("index.sqlite");
    let music = folder.path().join("music");
    std::fs::create_dir(&music).unwrap();
    write_wav(&music.join("a.wav"), 22_050, &[piece(1, 22_050, 2.0)]);
    write_wav(&music.join("b.wav"), 22_050, &[piece(2, 22_050, 2.0)]);
    assert!(feelprint(&index, &["index", music.to_str().unwrap()]).status.success());
    let [song, other] = ["a.wav", "b.wav"].map(|name| music.join(name));
    let (song, other, music) =
        (song.to_str().unwrap(), other.to_str().unwrap(), music.to_str().unwrap());
    let commands = [
        &["explain", song, other][..],
        &["embed", song],
        &["similar", song],
        &["similar", song, "--in", music],
        &["duplicates"],
        &["index", music],
    ];
    std::thread::scope(|scope| {
        for (number, arguments) in commands.into_iter().enumerate() {
            let model = folder.path().join(format!("{number}.onnx"));
            let index = &index;
            scope.spawn(move || waits_with_a_sign(index, arguments, &model));
        }
    });
}

/// Runs a command whose model comes through a pipe, and sends the model once the command has shown a
/// sign of life: the run takes as long as that needs, however fast the machine is.
#[cfg(unix)]
fn waits_with_a_sign(index: &Path, arguments: &[&str], model: &Path) {
    assert!(Command::new("mkfifo").arg(model).status().unwrap().success());
    let start = Instant::now();
    let mut child = command(index, arguments)
        .arg("--model")
        .arg(model)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut signs = BufReader::new(child.stderr.take().unwrap());
    let (sender, receiver) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut lines = String::new();
        signs.read_line(&mut lines).unwrap();
        sender.send(lines.clone()).unwrap();
        signs.read_to_string(&mut lines).unwrap();
        lines
    });
    let Ok(sign) = receiver.recv_timeout(Duration::from_secs(600)) else {
        child.kill().unwrap();
        panic!("{arguments:?} said nothing for ten minutes");
    };
    assert!(sign.starts_with("feelprint: "), "{arguments:?}: {sign}");
    assert!(start.elapsed() >= Duration::from_secs(2), "{arguments:?}: {sign}");
    let bundled = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/feelprint.onnx");
    std::fs::write(model, std::fs::read(bundled).unwrap()).unwrap();
    let output = child.wait_with_output().unwrap();
    let problem = reader.join().unwrap();
    assert!(output.status.success(), "{arguments:?}: {problem}");
}

#[test]
fn completions_and_man_pages_are_printed() {
    let index = PathBuf::from("none");
    for (shell, expected) in
        [("bash", "_feelprint"), ("zsh", "#compdef feelprint"), ("fish", "complete -c feelprint")]
    {
        let page = success(&feelprint(&index, &["completions", shell]));
        assert!(page.contains(expected) && page.contains("max-per-artist"), "{page}");
    }
    let page = success(&feelprint(&index, &["man"]));
    assert!(page.contains(".TH feelprint 1") && page.contains("similar"), "{page}");
    let page = success(&feelprint(&index, &["man", "playlist"]));
    assert!(
        page.contains("Print a playlist that starts at a song") && page.contains("m3u"),
        "{page}"
    );
    let output = feelprint(&index, &["man", "dance"]);
    assert!(!output.status.success() && text(&output.stderr).contains("expected one of index"));
}

#[test]
#[cfg(target_os = "linux")]
fn names_cannot_control_a_terminal() {
    let folder = Folder::new();
    let index = folder.path().join("index.sqlite");
    let music = folder.path().join("music");
    std::fs::create_dir(&music).unwrap();
    for (song, name) in ["a.wav", "\u{1b}[31mred\u{7}.wav", "two\nlines.wav"].iter().enumerate() {
        write_wav(&music.join(name), 22_050, &[piece(song as u32, 22_050, 2.0)]);
    }
    std::fs::write(music.join("\u{1b}[2J.mp3"), "no music").unwrap();
    let output = feelprint(&index, &["index", music.to_str().unwrap()]);
    let problem = text(&output.stderr);
    assert!(problem.contains("\\u{1b}[2J.mp3") && !problem.contains('\u{1b}'), "{problem:?}");
    // Without a terminal the name is printed as it is, so that a program finds the file.
    let song = music.join("a.wav");
    let song = song.to_str().unwrap();
    assert!(success(&feelprint(&index, &["similar", song])).contains("\u{1b}[31mred\u{7}.wav"));
    let program = env!("CARGO_BIN_EXE_feelprint");
    let command = format!("'{program}' similar '{song}' --index '{}'", index.display());
    // util-linux's `script` runs a command in a terminal.
    let Ok(output) = Command::new("script").args(["-qec", &command, "/dev/null"]).output() else {
        return;
    };
    let printed = text(&output.stdout);
    assert!(printed.contains("\\u{1b}[31mred\\u{7}.wav"), "{printed:?}");
    assert!(printed.contains("two\\u{a}lines.wav") && !printed.contains('\u{1b}'), "{printed:?}");
}
