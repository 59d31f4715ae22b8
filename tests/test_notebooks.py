"""The notebooks in ``examples/``, executed as a reader would, and what they show."""

from __future__ import annotations

import base64
import io
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import NormalDist
from typing import Any

import nbformat
import numpy as np
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from PIL import Image

FOLDER = Path(__file__).parents[1] / "examples"
CHANCE = 100 / 12  # twelve classes, each as frequent
SIZE = 4 / 255
Z95 = NormalDist().inv_cdf(0.975)
# A last cell: what the notebook holds, counted by nobody.
ASKED = """
import json

rows = found.frame[["defense", "attack", "correct", "clean_correct", "prediction"]].to_dict("records")
change = {"|".join(key): float((made - clips).abs().max()) for key, made in found.adversarial.items()}
with torch.no_grad():
    again = model.eval()(found.adversarial["none", "PGD+exact"]).argmax(1).tolist()
print(json.dumps({"prefix": sys.prefix, "rows": rows, "change": change, "again": again}))
"""


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_no_output_is_kept(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert [c["id"] for c in cells if c["cell_type"] == "code" and (c["outputs"] or c["execution_count"])] == []


def executed(path: Path, folder: Path, last: str) -> dict[str, list[Any]]:
    """What the cells of a notebook put out, by their names, run in a folder by this interpreter; ``asked`` is the last.

    Raises:
        CellExecutionError: a cell raises.
    """
    notebook = nbformat.read(path, 4)
    notebook.cells.append(nbformat.v4.new_code_cell(last, id="asked"))
    # No folders of kernels: else that of another environment may come first.
    kernel = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    NotebookClient(notebook, km=kernel, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    return {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}


def lines(outputs: list[Any]) -> list[list[str]]:
    """The rows of the frame that a cell shows, without its header."""
    (shown,) = (o.data["text/plain"] for o in outputs if o.output_type == "execute_result")
    return [line.split() for line in shown.splitlines()[1:]]


def shares(outputs: list[Any]) -> dict[tuple[str, str], tuple[float, float, float]]:
    """Accuracy and the ends of its interval, in percent, by defence and attack."""
    return {
        (defense, attack): (float(share), float(low), float(high))
        for _, defense, attack, share, low, high, _ in lines(outputs)
    }


def counted(rows: list[Mapping[str, Any]], column: str) -> dict[tuple[str, str], float]:
    """Percent of the clips of each defence and attack of which a column is true."""
    of_pair: dict[tuple[str, str], list[bool]] = {}
    for row in rows:
        of_pair.setdefault((row["defense"], row["attack"]), []).append(row[column])
    return {pair: round(100 * sum(values) / len(values), 1) for pair, values in of_pair.items()}


def test_a_classifier_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "work"
    work.mkdir()
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "TMPDIR"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    shown = executed(FOLDER / "own_classifier.ipynb", work, ASKED)
    assert list(work.iterdir()) == []  # what it writes goes elsewhere
    assert list((tmp_path / "TMPDIR").glob("my-classifier-*")) == []  # and away
    (text,) = (o.text for o in shown["asked"] if o.output_type == "stream" and o.name == "stdout")
    held = json.loads(text)
    assert held["prefix"] == sys.prefix

    # The tables show what stands in the frame. The interval is Wilson's: that of 0 of n clips ends at z^2 / (n + z^2).
    attacked, clean = shares(shown["accuracies"]), shares(shown["clean-accuracies"])
    assert {pair: share for pair, (share, _, _) in attacked.items()} == counted(held["rows"], "correct")
    assert {pair: share for pair, (share, _, _) in clean.items()} == counted(held["rows"], "clean_correct")
    for share, low, high in (*attacked.values(), *clean.values()):
        assert 0 <= low <= share <= high <= 100
        if share == 0:
            assert (low, high) == (0, round(100 * Z95**2 / (12 + Z95**2), 1))
    assert set(attacked) == {("none", "NOISE"), ("none", "PGD+exact"), ("jpeg", "NOISE"), ("jpeg", "PGD+bpda")}
    assert clean["none", "PGD+exact"][0] > 2 * CHANCE
    assert all(attacked[pair][0] < clean[pair][0] for pair in attacked if pair[1] != "NOISE")

    # The clips that are kept are those that were judged, within the budget.
    assert held["again"] == [
        r["prediction"] for r in held["rows"] if (r["defense"], r["attack"]) == ("none", "PGD+exact")
    ]
    assert all(SIZE / 2 < change <= SIZE + 1e-6 for change in held["change"].values())

    # Without an attack, the grid says of the same clips what `evaluate` says.
    titles = shown["grid"][-1].data["text/plain"].splitlines()[0].split()[1:]
    grid = {name: dict(zip(titles, map(float, row), strict=True)) for name, *row in lines(shown["grid"])[1:]}
    assert {name: grid[name]["clean"] for name in ("none", "jpeg")} == {
        name: share for (name, attack), (share, _, _) in clean.items() if attack == "NOISE"
    }
    assert all(0 <= row["adaptive"] <= row["clean"] <= 100 for row in grid.values())

    pictures = [np.asarray(picture(o.data["image/png"])) for o in shown["pictures"] if "image/png" in o.get("data", {})]
    assert len(pictures) == 2
    for pixels in pictures:
        # Inside of the first frames: ten times a change of at most 4/255 is at most 40 of 255 levels from the middle.
        height, width, _ = pixels.shape
        left, right = int(0.1 * width), int(0.25 * width)
        clip, change = pixels[int(0.2 * height) : int(0.35 * height)], pixels[int(0.76 * height) : int(0.92 * height)]
        assert clip[:, left:right].std() > 0
        assert np.abs(change[:, left:right].astype(float) - 127.5).max() == pytest.approx(40, abs=1.5)


def picture(data: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
