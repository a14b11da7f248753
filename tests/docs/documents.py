"""Reads the Markdown documents: their shell commands, links, and the paths that they name."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    [
        *(ROOT / name for name in ("README.md", "model_card.md")),
        *(ROOT / "rust" / name for name in ("README.md", "python/README.md")),
        *(ROOT / "metrics").glob("**/README.md"),
        *(ROOT / "docs").glob("**/*.md"),
    ]
)
SHELL = ("sh", "bash", "console")  # languages of a fence whose every line is a command
ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
SEPARATORS = {";", "&&", "||", "|", "&"}
PATH = re.compile(
    r"(?<![\w/.~<>$:@-])(?:[\w.-]+/)+[\w.-]+\.(?:py|rs|ya?ml|toml|json|md|html|png|svg|onnx|lock)\b"
)


@dataclasses.dataclass(frozen=True)
class Command:
    """One command of a document.

    ``words`` are the program (without its folder) and its arguments, ``settings`` the assignments
    before them. A ``fragment`` stands in a sentence and may leave out what is required.
    """

    document: str
    settings: tuple[str, ...]
    words: tuple[str, ...]
    fragment: bool = False

    def __str__(self) -> str:
        return f"{self.document}: {' '.join(self.words)}"


def tokens(text: str) -> Iterator[Token]:
    """All tokens of a Markdown text, those inside paragraphs and table cells included."""
    for token in MarkdownIt("commonmark").enable("table").parse(_without_metadata(text)):
        yield token
        yield from token.children or ()


def commands(document: Path) -> list[Command]:
    """The commands of a document: all lines of its shell blocks, and those in other code that call
    a program of this project.

    Raises:
        ValueError: a line of a shell block has an unclosed quotation mark.
    """
    name = document.relative_to(ROOT).as_posix()
    variables: dict[str, str] = {}  # a block may use what an earlier one has set
    found = []
    for token in tokens(document.read_text(encoding="utf-8")):
        if token.type == "fence" and token.info.strip() in SHELL:
            found += commands_of_block(name, token.content, variables)
        elif token.type == "code_block" or (token.type == "fence" and not token.info.strip()):
            lines = [line for line in _lines(token.content) if _calls_project(line)]
            found += commands_of_block(name, "\n".join(lines), variables)
        elif token.type == "code_inline" and _calls_project(token.content):
            found += commands_of_block(name, token.content, variables, fragment=True)
    return found


def commands_of_block(
    document: str, block: str, variables: dict[str, str], fragment: bool = False
) -> list[Command]:
    """The commands of a shell script, in order.

    ``variables`` are put into the commands; assignments of the script are added to them.
    """
    found = []
    for line in _lines(block):
        for words in _simple_commands(line.removeprefix("$ ")):
            words = [_substitute(word, variables) for word in words]
            count = next((i for i, w in enumerate(words) if not ASSIGNMENT.match(w)), len(words))
            settings, words = words[:count], words[count:]
            if not words:
                variables |= dict(setting.split("=", 1) for setting in settings)
                continue
            words[0] = Path(words[0]).name
            found.append(Command(document, tuple(settings), tuple(words), fragment))
    return found


def links(document: Path) -> list[str]:
    """Targets of the document's links and images."""
    found = []
    for token in tokens(document.read_text(encoding="utf-8")):
        target = token.attrGet("href") or token.attrGet("src")
        if target:
            found.append(str(target))
    return found


def named_paths(document: Path) -> list[str]:
    """The relative paths of files that the document's text and code name, without link targets."""
    found = []
    for token in tokens(document.read_text(encoding="utf-8")):
        if token.type in ("text", "code_inline", "code_block", "fence"):
            found += PATH.findall(token.content)
    return found


def _without_metadata(text: str) -> str:
    """``text`` without the YAML between two lines of ``---`` at its head."""
    return re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)


def _lines(block: str) -> list[str]:
    """The lines of a block, continued lines joined."""
    return [line for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def _simple_commands(line: str) -> list[list[str]]:
    """The words of each command of a line, without comments and redirections."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    words = iter(lexer)
    for word in words:
        if word in SEPARATORS:
            found.append([])
        elif word in (">", ">>", "<"):
            next(words)  # the file
        else:
            found[-1].append(word)
    return [words for words in found if words]


def _substitute(word: str, variables: dict[str, str]) -> str:
    return re.sub(r"\$(\w+)", lambda m: variables.get(m[1], m[0]), word)


def _calls_project(line: str) -> bool:
    """Whether a line of code is a call of a program that the tests can check."""
    first, _, rest = line.strip().removeprefix("$ ").partition(" ")
    program = Path(first).name
    return bool(rest.strip()) and (
        program in ("accelerate", "make", "feelprint-survey")
        or (program.startswith("python") and rest.lstrip().startswith(("-m", "-c", "rust/")))
    )
