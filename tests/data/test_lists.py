"""Lists of videos and labels in the ways that people write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import BenchError
from bench.data.lists import read_classes, read_list

TWO = [("a/x.mp4", "run"), ("b c/y.mp4", "jump")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,label\na/x.mp4,run\nb c/y.mp4,jump\n", "paths from 'path', labels from 'label'"),
        ("Action;frames;File\nrun;3;a/x.mp4\njump;4;b c/y.mp4\n", "paths from 'file', labels from 'action'"),
        ("video\tclass\n\na/x.mp4\trun\nb c/y.mp4\tjump\n", "paths from 'video', labels from 'class'"),
        ("a/x.mp4,run\nb c/y.mp4,jump\n", "each line is a path and a label"),
        ("a/x.mp4 run\nb c/y.mp4 jump\n", "each line is a path and a label"),
        ('\ufefffilename,target\n"a/x.mp4","run"\n"b c/y.mp4","jump"\n', "paths from 'filename', labels from 'target'"),
        ("path,label,split\na/x.mp4,run,test\nb c/y.mp4,jump,test\nz.mp4,run,train\n", "rows whose 'split' is 'test'"),
    ],
)
def test_columns_are_found_and_said(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "list.csv"
    file.write_text(text, encoding="utf-8")
    listed = read_list(file, "test" if "split" in text else None)
    assert [(row.path, row.label) for row in listed.rows] == TWO
    assert said in listed.said
    assert not listed.kinetics


def test_a_path_alone_has_its_folder_for_a_class(tmp_path: Path) -> None:
    """As UCF-101's testlist01.txt."""
    file = tmp_path / "list.txt"
    file.write_text("Archery/v_Archery_g01_c01.avi\nBowling/v_Bowling_g02_c01.avi\n")
    assert [row.label for row in read_list(file).rows] == ["Archery", "Bowling"]


def test_kinetics(tmp_path: Path) -> None:
    file = tmp_path / "val.csv"
    file.write_text("label,youtube_id,time_start,time_end,split\nabseiling,-3B32lodo2M,59,69,val\nzumba,x,7.0,17,val\n")
    listed = read_list(file, "val")
    assert [(row.path, row.label) for row in listed.rows] == [
        ("-3B32lodo2M_000059_000069", "abseiling"),
        ("x_000007_000017", "zumba"),
    ]
    assert listed.kinetics


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no line"),
        ("path,label\n", "holds no row"),
        ("path,label\nx.mp4\n", "line 2: it has 1 columns, and the header has 2"),
        ("path,label\nx.mp4,\n", "line 2: the label is empty"),
        ("x.mp4,a,b\n", "line 1: it has 3 columns"),
        ("x.mp4\n", "line 1: 'x.mp4' has neither a label nor a folder"),
        ("label,youtube_id,time_start,time_end\na,x,1.5,2\n", "line 2: '1.5' is no whole number of seconds"),
        ('path,label\n"x.mp4,run\n', "cannot be read as columns"),
    ],
)
def test_what_makes_no_sense_is_said_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "list.csv"
    file.write_text(text)
    with pytest.raises(BenchError, match=says):
        read_list(file)
    with pytest.raises(BenchError, match="Cannot read the list"):
        read_list(tmp_path / "absent.csv")


@pytest.mark.parametrize("text", ["run\njump high\n", "0 run\n1 jump high\n", "2,jump high\n1,run\n"])
def test_names_of_classes(tmp_path: Path, text: str) -> None:
    file = tmp_path / "classes.txt"
    file.write_text(text)
    assert read_classes(file) == ("run", "jump high")


@pytest.mark.parametrize("text", ["", "run\nrun\n", "1 run\n3 jump\n", "1 run\n1 jump\n", "2 run\n3 jump\n"])
def test_classes_that_leave_a_doubt_are_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "classes.txt"
    file.write_text(text)
    with pytest.raises(BenchError, match=r"hold a name twice|hold no name|not numbered one by one"):
        read_classes(file)
