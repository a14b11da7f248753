"""The languages of the raters' pages: gettext catalogues, the `.po` files beside this one.

English is the language of the sources and needs no catalogue. To add texts or a language:

    pybabel extract --mapping survey/web/languages/babel.cfg --keyword HTTPException:2 \\
        --no-location --output messages.pot survey/web
    pybabel update --no-fuzzy-matching --input-file messages.pot --locale de \\
        --output-file survey/web/languages/de.po
"""

from __future__ import annotations

import gettext
import io
from functools import cache
from pathlib import Path

from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po

HERE = Path(__file__).parent
LANGUAGES = ("en", *sorted(file.stem for file in HERE.glob("*.po")))


@cache
def translations(language: str) -> gettext.NullTranslations:
    """The texts in one of LANGUAGES; its catalogue is compiled once, at the first use."""
    if language == "en":
        return gettext.NullTranslations()
    compiled = io.BytesIO()
    with (HERE / f"{language}.po").open("rb") as file:
        write_mo(compiled, read_po(file, locale=language, abort_invalid=True))
    compiled.seek(0)
    return gettext.GNUTranslations(compiled)


def negotiate(accept_language: str) -> str:
    """The one of LANGUAGES that a browser prefers, by its Accept-Language; English if none.

    The order is that of the q values (RFC 9110, section 12.5.4); of a tag as de-AT only the
    language counts. A part that cannot be read is skipped.
    """
    wanted = []
    for place, part in enumerate(accept_language.split(",")):
        tag, _, weight = part.strip().partition(";")
        try:
            q = float(weight.strip().removeprefix("q=")) if weight else 1.0
        except ValueError:
            continue
        if q > 0:
            wanted.append((-q, place, tag.strip().split("-")[0].lower()))
    return next((language for _, _, language in sorted(wanted) if language in LANGUAGES), "en")
