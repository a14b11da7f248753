"""The catalogues are complete and match their sources; pages come in the browser's language."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.frontend import parse_mapping_cfg
from babel.messages.pofile import read_po

from survey.config import SurveyConfig
from survey.web.languages import HERE, LANGUAGES, negotiate, translations

from .test_app import Person, app, make

__all__ = ["app", "make"]  # fixtures

WEB = HERE.parent
KEYWORDS: dict[str, Any] = {
    "_": None,
    "gettext": None,
    "ngettext": (1, 2),
    "HTTPException": (2,),
}
Text = str | tuple[str, ...]


def source_texts() -> set[Text]:
    """Every text that the pages and their errors mark for translation."""
    with (HERE / "babel.cfg").open() as file:
        methods, options = parse_mapping_cfg(file)
    found = extract_from_dir(WEB, methods, options, keywords=KEYWORDS)
    return {message for _, _, message, _, _ in found}


def catalogue(language: str) -> Catalog:
    with (HERE / f"{language}.po").open("rb") as file:
        return read_po(file, locale=language, abort_invalid=True)


def placeholders(text: str) -> list[str]:
    """%(names)s of the templates, {names} of the scripts."""
    return sorted(re.findall(r"%\(\w+\)s|\{\w+\}", text))


def test_there_are_five_languages() -> None:
    assert set(LANGUAGES) == {"en", "de", "fr", "es", "ja"}


def test_texts_are_found_in_templates_and_routes() -> None:
    found = source_texts()
    assert "Which is the odd one out?" in found  # a template
    assert "rather not say" in found  # a route
    assert "this page is too old; load it again" in found  # an error
    assert SurveyConfig().title in found
    assert len(found) > 100
    owner = (WEB / "templates" / "owner_login.html").read_text()
    assert "For the survey's owner" in owner and "For the survey's owner" not in found


@pytest.mark.parametrize("language", ["de", "fr", "es", "ja"])
def test_catalogue_is_complete(language: str) -> None:
    messages = {m.id: m for m in catalogue(language) if m.id}
    assert set(messages) == source_texts(), "run the commands of survey/web/languages/__init__.py"
    for message in messages.values():
        assert not message.fuzzy, message.id
        ids = [message.id] if isinstance(message.id, str) else list(message.id)
        texts = [message.string] if isinstance(message.id, str) else list(message.string)
        assert len(texts) == (1 if isinstance(message.id, str) or language == "ja" else 2)
        for text in texts:
            assert text.strip(), message.id
            assert placeholders(text) == placeholders(ids[-1]), text
            without = re.sub(r"%\(\w+\)s", "", text)
            assert "%" not in without, text  # a format string
            assert "\n" not in text


@pytest.mark.parametrize(
    ("language", "singular"), [("en", {1}), ("de", {1}), ("fr", {0, 1}), ("es", {1}), ("ja", set())]
)
def test_plurals_follow_the_rules_of_the_language(language: str, singular: set[int]) -> None:
    one, many = (
        "You have given %(count)s answer so far.",
        "You have given %(count)s answers so far.",
    )
    found = {n: translations(language).ngettext(one, many, n) for n in range(25)}
    assert {n for n in found if found[n] != found[2]} == singular


@pytest.mark.parametrize("language", ["fr", "es"])
def test_a_number_without_a_plural_form_stands_apart_from_its_noun(language: str) -> None:
    """A script that fills in a number knows no plural: "Réponses : 1", not "1 réponses"."""
    for message in catalogue(language):
        if isinstance(message.id, str) and re.search(r"answered", message.id):
            assert not re.search(r"(\}|\)s) (réponses|respuestas|respondidas)", str(message.string))


def test_french_punctuation_does_not_begin_a_line() -> None:
    """The space before it is a narrow no-break space, U+202F, everywhere."""
    for message in catalogue("fr"):
        for text in [message.string] if isinstance(message.string, str) else message.string:
            assert not re.search(r"[ \u00a0][;:?!»]|«[ \u00a0]", text), text


@pytest.mark.parametrize("language", ["de", "fr", "es", "ja"])
def test_scripts_ask_for_texts_that_the_page_has(language: str) -> None:
    """Every `texts.name` of round.js is in the template, and its placeholders are filled."""
    script = (WEB / "static" / "round.js").read_text()
    template = (WEB / "templates" / "round.html").read_text()
    named = dict(re.findall(r'^  "(\w+)": _\("([^"]*)"\)', template, re.MULTILINE))
    used = set(re.findall(r"texts\.(\w+)", script))
    assert used <= set(named)
    assert set(named) - used <= {"practice"}
    for text in named.values():
        assert translations(language).gettext(text) != text, text


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "en"),
        ("de", "de"),
        ("de-AT,de;q=0.9,en;q=0.8", "de"),
        ("nl,fr;q=0.5,es;q=0.7", "es"),
        ("en-GB,en;q=0.9,ja;q=0.8", "en"),
        ("JA-jp", "ja"),
        ("de;q=0,fr;q=0.1", "fr"),
        ("zz, *;q=0.5", "en"),
        ("de;q=x, ;;, fr", "fr"),
        ("\x00" * 500, "en"),
    ],
)
def test_negotiation(header: str, language: str) -> None:
    assert negotiate(header) == language


@pytest.mark.parametrize("language", LANGUAGES)
def test_pages_come_in_the_language(app: Any, language: str) -> None:
    person = Person(app)
    person.http.headers["accept-language"] = language
    reply = person.http.get("/")
    assert f'<html lang="{language}">' in reply.text
    assert reply.headers["content-language"] == language
    assert reply.headers["vary"] == "Accept-Language"
    title = translations(language).gettext("Which song is the odd one out?")
    assert f"<h1>{title}</h1>" in reply.text
    person.start()
    person.answer(person.rounds()[0]["token"])
    wrong = translations(language).gettext("That did not work")
    for path in ("/round", "/me", "/credits", "/check", "/poster"):
        text = person.text(path)
        assert f'<html lang="{language}">' in text
        assert wrong not in text and "%(" not in text
    lost = person.http.get("/back/" + "x" * 40)
    known = translations(language).gettext(
        "this private link is not valid: its data was deleted, or it is incomplete"
    )
    assert lost.status_code == 404 and known in lost.text


def test_a_title_of_the_owners_stays(make: Callable[..., Any]) -> None:
    person = Person(make(SurveyConfig(title="100 % <music>")))
    person.http.headers["accept-language"] = "de"
    assert "<h1>100 % &lt;music&gt;</h1>" in person.text("/")


def test_catalogues_are_packaged() -> None:
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert '"languages/*.po"' in project
