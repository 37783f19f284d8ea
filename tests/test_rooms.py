"""The rooms of the package: a room imports only the rooms below it (`tool.importlinter`)."""

import ast

from importlinter.cli import lint_imports

from tests.helpers import ROOT


def test_no_room_imports_a_higher_one(monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    assert lint_imports(cache_dir=None) == 0


def test_every_folder_of_the_package_is_a_room_of_the_tests() -> None:
    rooms = {path.parent.name for path in ROOT.glob("sdmad/*/__init__.py")}
    assert rooms - {path.parent.name for path in ROOT.glob("tests/*/__init__.py")} == set()


def test_importing_the_package_changes_nothing_in_the_process() -> None:
    """No module calls something for its effect, or sets what belongs to another, as it is imported:
    loggers, warnings, the environment, settings of libraries. Only the command line is built so."""
    found = [
        f"{path.relative_to(ROOT)}:{statement.lineno}"
        for path in ROOT.glob("sdmad/**/*.py")
        if path != ROOT / "sdmad/commands/app.py"
        for statement in ast.parse(path.read_text()).body
        if _has_effects(statement)
    ]
    assert found == []


def _has_effects(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.For | ast.While | ast.With | ast.Try):
        return any(map(_has_effects, statement.body))
    if isinstance(statement, ast.Expr):
        return not isinstance(statement.value, ast.Constant)
    targets = statement.targets if isinstance(statement, ast.Assign | ast.Delete) else []
    holders = [t.value if isinstance(t, ast.Subscript) else t for t in targets]
    return any(isinstance(holder, ast.Attribute) for holder in holders)
