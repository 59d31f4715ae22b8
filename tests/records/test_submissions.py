"""Cards and digests of submissions."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import yaml

from bench import BenchError
from bench.records.submissions import (
    FORM,
    Card,
    Submitted,
    folder_digest,
    read_card,
    read_verification,
    refusal,
    write_card,
)


def test_a_card_comes_back_as_it_was_written(tmp_path: Path) -> None:
    card = Card(
        name="yes: 1e5 #",  # YAML could take each of these for something else
        authors=["Ø. Åuthor", "- B"],
        summary="null",
        licence="MIT",
        submission=Submitted(
            defense="m.py:M",
            params={"steps": 3, "size": 0.5, "deep": [1, None]},
            files={"m.py": "0" * 64},
            grids=["demo"],
            bench="0.1.0",
            command="bench submit m.py",
        ),
    )
    write_card(tmp_path / "card.yaml", card)
    assert read_card(tmp_path / "card.yaml") == card
    assert yaml.safe_load((tmp_path / "card.yaml").read_text())["name"] == card.name


def test_the_form_is_a_card_once_it_is_filled_in(tmp_path: Path) -> None:
    path = tmp_path / "card.yaml"
    path.write_text(FORM)
    with pytest.raises(BenchError, match="is the empty form"):
        read_card(path)
    path.write_text(FORM.replace("A. Author", "C. Author"))
    assert read_card(path).authors == ["C. Author"]


def test_the_digest_is_that_of_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.json").write_bytes(b"{}\r\n")
    (tmp_path / "a.bin").write_bytes(b"1\r\n")
    contents = {"a.bin": b"1\r\n", "b/x.json": b"{}\n"}  # of texts, line ends are those of Unix
    lines = [f"{hashlib.sha256(content).hexdigest()}  {name}" for name, content in contents.items()]
    expected = hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()
    assert folder_digest(tmp_path) == expected
    for name in ("_verified.json", ".DS_Store", "a.bin.12345678-1.part"):
        (tmp_path / name).write_text("more")
    assert folder_digest(tmp_path) == expected
    (tmp_path / "b" / "_verified.json").write_text("no verdict on anything")
    assert folder_digest(tmp_path) != expected


def test_a_folder_that_was_not_finished_is_refused(tmp_path: Path) -> None:
    assert "no card of bench submit" in str(refusal(tmp_path))
    (tmp_path / "card.yaml").write_text(FORM.replace("A. Author", "C. Author"))
    assert "no card of bench submit" in str(refusal(tmp_path))


@pytest.mark.parametrize("text", ["", "[]", '{"digest": 1}', '{"digest": "a", "digest": "b"}', "NaN"])
def test_a_damaged_verdict_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "_verified.json").write_text(text)
    with pytest.raises(BenchError, match="verify the submission again"):
        read_verification(tmp_path)
