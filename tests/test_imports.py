"""The rooms' arrows point one way, and what must stay light stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "tft": {"tft"},
    "data": {"tft", "data"},
    "report": {"tft", "data", "report"},
    "train": {"tft", "data", "report", "train"},
    "serve": {"tft", "data", "report", "serve"},
    "cli": {"tft", "data", "report", "train", "serve"},
}
ROOMS = {*MAY_IMPORT, "benchmarks", "tests"}
LIBRARIES_OF_TFT = {"torch", "numpy", "safetensors"}


def imports(file: Path) -> set[str]:
    """Return every module a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found.add(node.module or "")
    return found


def files(room: str) -> list[Path]:
    return [ROOT / "cli.py"] if room == "cli" else sorted((ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_arrows_point_one_way(room: str) -> None:
    wrong = [
        f"{file.relative_to(ROOT)} imports {module}"
        for file in files(room)
        for module in imports(file)
        if module.split(".")[0] in ROOMS - MAY_IMPORT[room]
    ]
    assert wrong == []


def test_the_arrow_test_sees_the_rooms() -> None:
    for room in ("tft", "data", "report", "train", "serve", "cli"):
        assert files(room), room
    assert "tft.schema" in imports(ROOT / "tft" / "model.py")


def test_the_network_rests_on_three_libraries() -> None:
    """Whoever exports to ONNX needs two more, imported when it is done."""
    allowed = LIBRARIES_OF_TFT | {"tft"} | set(sys.stdlib_module_names)
    wrong = {
        (file.name, module)
        for file in files("tft")
        for module in imports(file)
        if module.split(".")[0] not in allowed
    }
    assert wrong == {("export.py", "onnxruntime"), ("export.py", "onnxscript")}


def test_only_the_composing_modules_of_training_know_data() -> None:
    """`fit` takes loaders, never paths."""
    knows = {f.name for f in files("train") if "data" in {m.split(".")[0] for m in imports(f)}}
    composing = {"commands.py", "cross_validate.py", "options.py", "prepare.py", "trainer.py"}
    assert knows == composing


def test_help_imports_nothing_heavy() -> None:
    """`cli.py --help` must be instant."""
    code = (
        "import sys, runpy; sys.argv = ['cli.py', '--help']\n"
        "try: runpy.run_path('cli.py', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'pandas', 'pyarrow', 'matplotlib'} & set(sys.modules)\n"
        "print('heavy:', sorted(heavy))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "heavy: []"
