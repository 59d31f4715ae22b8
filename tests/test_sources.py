"""Every component says whose method it is: who wrote it, under what title, where and when."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from bench.registry import REGISTRIES, Registry

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "pyproject.toml").is_file())
TEXTS = (".py", ".md", ".yaml", ".yml", ".toml", ".json", ".csv", ".txt", ".cff", ".ini", "")

_NAME = r"[A-Z][\w'’-]+"
_NAMES = rf"{_NAME}(?:, {_NAME})*(?: et al\.| and {_NAME})?"
_TITLE = r"[A-Z]\S*(?: [^\s;]+){2,}?"
_VENUE = (
    r"(?:AAAI|ACM|AVSS|BMVC|CVPR|ECCV|ICCV|ICIP|ICLR|ICML|IEEE|IJCAI|IJCV|JMLR|KDD|NDSS|NeurIPS|Neural Networks|"
    r"Proceedings|TMLR|USENIX|University|WACV|technical report)"
)
_ARXIV = re.compile(r"\barXiv[: ]\d{4}\.\d{4,5}\b")
_CITATION = re.compile(rf"{_NAMES}, {_TITLE},? {_VENUE}\b[^;:]*?\b(?:19|20)\d\d\b")
_UNTITLED = re.compile(
    rf"(?:^|[;:] |\b(?:of|by|in|from) )(?:{_NAME}, )*{_NAME}(?: et al\.| and {_NAME}), (?:{_VENUE}\b|(?:19|20)\d\d\b)"
)


def cites(source: str) -> bool:
    """Whether somebody could find the publication: an arXiv id, or authors, title, venue and year; none untitled."""
    return bool(_ARXIV.search(source) or _CITATION.search(source)) and not _UNTITLED.search(source)


def unsourced(registry: Registry) -> dict[str, str]:
    """The registry's components without a proper source, leaving out those of other tests and other packages."""
    ours = [e for e in registry if e.factory.__module__.partition(".")[0] == "bench"]
    return {entry.name: entry.source for entry in ours if not cites(entry.source)}


@pytest.mark.parametrize(
    "source",
    [
        "Krizhevsky, Learning Multiple Layers of Features from Tiny Images, University of Toronto, 2009",
        "Wang, Girshick, Gupta and He, Non-local Neural Networks, CVPR 2018 (architecture)",
        "Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018; trades: Zhang et al., "
        "Theoretically Principled Trade-off between Robustness and Accuracy, ICML 2019",
        "VideoRobustBench's own; as in Xie et al., Mitigating Adversarial Effects Through Randomization, ICLR 2018",
        "arXiv 2212.07815, Table 4",
    ],
)
def test_a_citation_counts(source: str) -> None:
    assert cites(source)


@pytest.mark.parametrize(
    "source",
    [
        "",
        "baseline",
        "the motion-consistency paper, Table 4, adaptive attack I",
        "VideoRobustBench's own",
        "VideoRobustBench's own control, 2026",
        "Madry et al., ICLR 2018",  # no title
        "Lo and Patel, MultiBN, IEEE T-IP 2022",  # a nickname is no title
        "Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks",  # neither where nor when
        "Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR",  # not when
        "Towards Deep Learning Models Resistant to Adversarial Attacks, 2018",  # neither who nor where
        "Nie et al., Diffusion Models for Adversarial Purification, ICML 2022; sampler: Song et al., ICLR 2021",
        "Nie et al., Diffusion Models for Adversarial Purification, ICML 2022, with the sampler of Song et al., 2021",
    ],
)
def test_what_is_vague_does_not_count(source: str) -> None:
    assert not cites(source)


def test_an_empty_source_is_found() -> None:
    def made() -> None:
        """Does nothing."""

    made.__module__ = "bench.models.made"
    registry = Registry("model", "bench.models", "nobody.models")
    registry._discovered = True  # what is there already is another test's matter
    registry.add("made", made)
    assert unsourced(registry) == {"made": ""}


@pytest.mark.parametrize("kind", sorted(REGISTRIES))
def test_every_component_has_a_source(kind: str) -> None:
    registry = REGISTRIES[kind]
    assert {"attack": "pgd", "defense": "none", "dataset": "motion12", "model": "nl_tiny"}[kind] in registry.names()
    assert not registry.broken
    assert unsourced(registry) == {}


def test_shipped_robust_weights_have_one() -> None:
    (path,) = [p for p in tracked() if p.name == "manifest.json"]
    entries = json.loads(path.read_text(encoding="utf-8"))
    named = {name: entry["source"] for name, entry in entries.items() if entry["kind"] in ("robust", "framing")}
    assert len(named) >= 14
    assert {name: source for name, source in named.items() if not cites(source)} == {}


def tracked() -> list[Path]:
    """The files of the project: those that git tracks or, in a copy without it, those in its folders."""
    try:
        listed = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, check=True, text=True)
        found = [ROOT / name for name in listed.stdout.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        folders = ("attacks", "bench", "benchmarks", "datasets", "defenses", "docs", "results", "tests")
        found = [p for folder in folders for p in (ROOT / folder).rglob("*")] + list(ROOT.iterdir())
    return [p for p in found if p.is_file()]


def test_nothing_rests_on_what_readers_do_not_have() -> None:
    phrase = "fact" + r"[\s_-]+" + "sheet"  # in two, or this file would be found
    texts = [p for p in tracked() if p.suffix in TEXTS]
    assert len(texts) > 200
    found = [p.relative_to(ROOT).as_posix() for p in texts if re.search(phrase, p.read_text("utf-8"), re.IGNORECASE)]
    assert found == []
