"""The rooms of the package: a room imports only the rooms below it (`tool.importlinter`)."""

from importlinter.cli import lint_imports

from tests.helpers import ROOT


def test_no_room_imports_a_higher_one(monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    assert lint_imports(cache_dir=None) == 0


def test_every_folder_of_the_package_is_a_room_of_the_tests() -> None:
    rooms = {path.parent.name for path in ROOT.glob("sdmad/*/__init__.py")}
    assert rooms - {path.parent.name for path in ROOT.glob("tests/*/__init__.py")} == set()
