"""Which submissions a pull request brings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "tools" / "verify_changed.py"


def git(root: Path, *arguments: str) -> str:
    who = ("-c", "user.name=n", "-c", "user.email=e@x.org", "-c", "init.defaultBranch=main")
    done = subprocess.run(["git", "-C", str(root), *who, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def commit(root: Path, **files: str | None) -> str:
    """Writes, or removes, files (``__`` is a slash), and commits them."""
    for name, text in files.items():
        path = root / "results" / "submissions" / name.replace("__", "/") if "__" in name else root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink() if text is None else path.write_text(text)
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "m", "--allow-empty")
    return git(root, "rev-parse", "HEAD")


@pytest.fixture
def base(tmp_path: Path) -> str:
    """A checkout with two submissions, and a package ``bench`` that says which folder it is to verify."""
    git(tmp_path, "init", "-q")
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "__init__.py").write_text("")
    (tmp_path / "bench" / "cli.py").write_text(
        "import os, sys\n"
        "print('verifies', sys.argv[2], os.path.isfile(sys.argv[2] + '/a'))\n"
        "sys.exit('bad' in sys.argv[2])\n"
    )
    return commit(tmp_path, one__a="1", two__a="1")


def answer(root: Path, base: str, head: str) -> tuple[int, str]:
    git(root, "checkout", "-q", base)
    done = subprocess.run([sys.executable, SCRIPT, base, head], cwd=root, capture_output=True, text=True, check=False)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def test_what_a_change_brings_is_verified_by_the_code_before_it(tmp_path: Path, base: str) -> None:
    head = commit(tmp_path, two__a="2", three__a="1", one__a=None)
    (tmp_path / "bench" / "cli.py").write_text("raise SystemExit(0)")
    head = commit(tmp_path)
    code, said = answer(tmp_path, base, head)
    assert code == 0
    assert said == "results/submissions/three verifies results/submissions/three True " + (
        "results/submissions/two verifies results/submissions/two True"
    )


def test_one_refusal_is_one_too_many(tmp_path: Path, base: str) -> None:
    assert answer(tmp_path, base, commit(tmp_path, bad__a="1", two__a="2"))[0] == 1


def test_a_change_brings_no_verdict(tmp_path: Path, base: str) -> None:
    code, said = answer(tmp_path, base, commit(tmp_path, **{"two__/_verified.json": "{}"}))
    assert (code, "leave it out" in said, "verifies" in said) == (1, True, False)


def test_other_changes_are_none_of_its_business(tmp_path: Path, base: str) -> None:
    assert answer(tmp_path, base, commit(tmp_path, readme="x")) == (0, "The change brings no submission.")
