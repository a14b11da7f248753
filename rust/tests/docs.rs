//! The calls of `feelprint` in the documents are ones that the command accepts.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::Folder;

/// The arguments of one call of the command.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Call {
    arguments: Vec<String>,
    /// Whether the call stands in a sentence, where it may leave out what is required.
    fragment: bool,
}

/// The Markdown files of the repository, or the crate's own where it is alone.
fn documents() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = vec![root.join("README.md")];
    paths.extend(
        ["python/README.md", "../README.md", "../model_card.md"].map(|name| root.join(name)),
    );
    let mut folders = vec![root.join("../docs")];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                paths.push(path);
            }
        }
    }
    paths.retain(|path| path.is_file());
    paths
}

/// The calls in shell blocks, in indented blocks, and in code between backticks.
fn calls(markdown: &str) -> Vec<Call> {
    let mut calls = Vec::new();
    let mut text = String::new();
    let mut fence: Option<bool> = None; // in a fenced block: whether it holds commands
    for line in markdown.replace("\\\n", " ").lines() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            fence = match fence {
                Some(_) => None,
                None => Some(["", "sh", "bash", "console"].contains(&language.trim())),
            };
        } else if fence == Some(true) || (fence.is_none() && line.starts_with("    ")) {
            calls.extend(call(line, false));
        } else if fence.is_none() {
            text.push_str(line);
            text.push('\n');
        }
    }
    for paragraph in text.split("\n\n") {
        let codes = paragraph.split('`').skip(1).step_by(2);
        calls.extend(codes.filter_map(|code| call(code, true)));
    }
    calls
}

/// The call in a line of code, if it is one of `feelprint` with arguments.
fn call(code: &str, fragment: bool) -> Option<Call> {
    let ends = ["#", "|", ">", "&&", ";"];
    let first = code.split_whitespace().find(|word| *word != "$")?;
    if first != "feelprint" && first != "$feelprint" && !first.ends_with("/feelprint") {
        return None;
    }
    let mut words = shell_words(code).into_iter().skip_while(|word| word == "$");
    let program = words.next()?;
    let arguments: Vec<_> = words.take_while(|word| !ends.contains(&word.as_str())).collect();
    // Not a call: `feelprint=PATH` in a shell, and `feelprint = "1"` in Cargo.toml.
    if program.contains('=') || arguments.first().is_none_or(|first| first == "=") {
        return None;
    }
    Some(Call { arguments, fragment })
}

/// The words of a line of shell code; quotation marks keep spaces together.
fn shell_words(code: &str) -> Vec<String> {
    let (mut words, mut word, mut mark) = (Vec::new(), None::<String>, None);
    for character in code.chars() {
        match (character, mark) {
            (c, Some(m)) if c == m => mark = None,
            ('"' | '\'', None) => (mark, word) = (Some(character), word.or(Some(String::new()))),
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    assert!(mark.is_none(), "a quotation mark without its pair: {code}");
    words.extend(word);
    words
}

/// Runs the command in an empty folder, which is its home too.
fn run(arguments: &[String]) -> Output {
    let folder = Folder::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_feelprint"));
    for name in ["HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"] {
        command.env(name, folder.path());
    }
    command.env_remove("FEELPRINT_INDEX").current_dir(folder.path()).args(arguments);
    command.output().unwrap()
}

/// What the command says of arguments that it does not accept. That a file is missing is no such
/// error, though the exit status is 2 as well.
fn usage_error(call: &Call) -> Option<String> {
    let output = run(&call.arguments);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    let is_usage_error = output.status.code() == Some(2) && message.contains("try '--help'");
    let is_allowed = call.fragment && message.contains("required arguments were not provided");
    (is_usage_error && !is_allowed).then_some(message)
}

#[test]
fn calls_in_documents_are_accepted() {
    let mut checked = BTreeSet::new();
    for path in documents() {
        for call in calls(&fs::read_to_string(&path).unwrap()) {
            if checked.insert(call.clone()) {
                let problem = usage_error(&call).unwrap_or_default();
                assert!(problem.is_empty(), "{}: {call:?}\n{problem}", path.display());
            }
        }
    }
    let commands: BTreeSet<_> = checked.iter().flat_map(|call| &call.arguments).collect();
    for command in
        ["index", "similar", "playlist", "map", "duplicates", "explain", "embed", "bench"]
    {
        assert!(commands.contains(&command.to_string()), "no document calls feelprint {command}");
    }
}

#[test]
fn wrong_arguments_are_found() {
    for code in [
        "feelprint similar song.mp3 --no-such-flag",
        "feelprint similar song.mp3 -n many",
        "feelprint no-such-command song.mp3",
        "feelprint explain a.mp3",
    ] {
        assert!(usage_error(&call(code, false).unwrap()).is_some(), "{code}");
    }
    assert!(usage_error(&call("feelprint explain --no-such-flag", true).unwrap()).is_some());
    // accepted: an incomplete call in a sentence, and a file that is not there
    assert_eq!(usage_error(&call("feelprint explain", true).unwrap()), None);
    assert_eq!(usage_error(&call("feelprint explain a.mp3 b.mp3", false).unwrap()), None);
}

#[test]
fn calls_of_a_document() {
    let markdown = "\
feelprint in a sentence is no call, nor `feelprint = \"1\"`. Calls are `feelprint index` and
`rust/target/release/feelprint
bench`.

```toml
feelprint = { version = \"1\" }
```

```sh
feelprint=rust/target/release/feelprint
$feelprint similar a.mp3 \\
    --in ~/Music   # a comment
feelprint-survey export answers.parquet
```

    $ feelprint embed a.mp3 | head
";
    let expected: [(&[&str], bool); 4] = [
        (&["similar", "a.mp3", "--in", "~/Music"], false),
        (&["embed", "a.mp3"], false),
        (&["index"], true),
        (&["bench"], true),
    ];
    let expected = expected.map(|(arguments, fragment)| Call {
        arguments: arguments.iter().map(ToString::to_string).collect(),
        fragment,
    });
    assert_eq!(calls(markdown), expected);
}
