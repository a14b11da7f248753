"""The image of survey/Dockerfile has every package that the server imports."""

import ast
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
IMPORTED = """
import sys
from importlib import import_module
for module in ("survey.cli", "survey.web.app", "survey.clips", "survey.results.export",
               "survey.rounds.assign", "survey.database.schema"):
    import_module(module)
ours = [m for n, m in sys.modules.items() if n.partition(".")[0] in ("survey", "datasets_scripts")]
print(*(module.__file__ for module in ours))
"""


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def with_dependencies(names: set[str]) -> set[str]:
    """The distributions ``names`` and all that they need, by their own metadata."""
    found: set[str] = set()
    pending = [*names, "psycopg-binary"]
    while pending:
        name = canonical(pending.pop())
        if name in found:
            continue
        found.add(name)
        try:
            requirements = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # of another platform
        for text in requirements:
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                pending.append(needed.name)
    return found


def test_the_image_has_what_the_server_imports() -> None:
    docker = (ROOT / "survey" / "Dockerfile").read_text()
    listed = re.search(r"\^\(([a-z0-9|-]+)\)", docker)
    assert listed is not None
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED], cwd=ROOT, capture_output=True, text=True, check=True
    )
    modules = set()
    for path in done.stdout.split():
        for node in ast.walk(ast.parse(Path(path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules.add(node.module.partition(".")[0])
    distributions = metadata.packages_distributions()
    imported = {canonical(name) for module in modules for name in distributions.get(module, [])}
    assert {"fastapi", "sqlalchemy"} <= imported
    missing = imported - with_dependencies(set(listed[1].split("|"))) - {"feelprint-training"}
    assert not missing
