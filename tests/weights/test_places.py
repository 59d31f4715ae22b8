"""Published weights are looked for on this machine, all at once, and nothing is ever downloaded by the way."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from kit.commands import Answer
from pipelines import save_modelscope
from torchvision.models.optical_flow import raft_small

from bench import BenchError
from bench.diffusion.backbones import load_backbone
from bench.flow.estimators import load_flow
from bench.grids.grid import Grid, read_grid, shipped_grids
from bench.plan.components import missing_files
from bench.registry import DEFENSES, Spec
from bench.weights.places import MissingFiles, looking, pipeline_place
from bench.weights.zoo import find_weights

MODELSCOPE = "damo-vilab/text-to-video-ms-1.7b"


@pytest.fixture(autouse=True)
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """A machine that has downloaded nothing, and says when anything wants a connection."""
    asked: list[object] = []

    def connect(*arguments: Any) -> None:
        asked.append(arguments)
        raise OSError("there is no network")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("BENCH_WEIGHTS", raising=False)
    monkeypatch.chdir(tmp_path)
    yield asked
    assert asked == []


def snapshot(cache: Path, repository: str) -> Path:
    """An empty model as the hub's library keeps it (its documented layout): a name for a commit, a folder for that."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    return folder / "snapshots" / ("0" * 40)


@pytest.mark.parametrize(
    ("grid", "named"),
    [
        (
            "videopure_table5",
            "UCF101.rar|testlist01.txt|NL_res50.pth|slowfast_resnet50.pth|damo-vilab/text-to-video-ms-1.7b|"
            "CC BY-NC 4.0|stable-diffusion-v1-5|256x256_diffusion_uncond.pt|raft_large_C_T_V1-22a6c225.pth",
        ),
        ("motion_table4", "testlist01.txt|i3d_flow_ucf101.pt|raft_large_C_T_SKHT_V1-0b8c9e55.pth|BSD-3-Clause"),
        ("halftone_cifar10_at", "cifar-10|resnet18_frames-cifar10|at_pgd_halftone-cifar10"),
        ("adv_framing_ucf101", "resnext3d101_ucf101.pth|framing_1-ucf101|framing_4-ucf101"),
    ],
)
@pytest.mark.parametrize("option", [("--dry-run",), ()])
def test_everything_that_is_missing_is_listed_at_once(
    grid: str, named: str, option: tuple[str, ...], bench: Callable[..., Answer], tmp_path: Path
) -> None:
    answer = bench("run", "--grid", grid, *option, "--results", tmp_path / "r")
    assert answer.code == 2
    assert [part for part in (*named.split("|"), "licence:", "get it:", "put it:") if part not in answer.err] == []
    assert not (tmp_path / "r").exists()  # before any work


def test_what_a_shipped_grid_lacks_is_known_without_a_network() -> None:
    """A published grid lacks a data set at least; one of the embedded benchmark lacks nothing."""
    lacking = {name for name, path in shipped_grids().items() if missing_files(read_grid(path))}
    assert lacking == {name for name in shipped_grids() if not name.startswith(("demo", "embedded"))}


def grid_of(defense: str) -> Grid:
    parts = {"dataset": {"name": "actions12"}, "models": ["nl_tiny"], "attacks": ["clean"]}
    return Grid.model_validate({"name": "g", "defenses": [defense], **parts})


def test_of_a_defence_only_what_it_uses_is_missing() -> None:
    """Without its temporal loss VideoPure never looks at the flow; motion consistency wants RAFT for Sintel."""
    settings = "backbone='modelscope', flow='raft_small'"
    both, one = f"videopure({settings})", f"videopure({settings}, temporal=0)"
    assert [m.what.partition(",")[0] for m in missing_files(grid_of(one))] == ["ModelScope's text-to-video model"]
    assert len(missing_files(grid_of(both))) == 2
    (sintel,) = missing_files(grid_of("motion_consistency(flow='raft_large')"))
    assert "C_T_SKHT_V1" in sintel.what
    assert missing_files(grid_of("videopure")) == []


def test_a_defence_by_itself_says_what_it_lacks() -> None:
    with pytest.raises(MissingFiles, match="needs files that are not here") as caught:
        DEFENSES.create("videopure(backbone='modelscope', flow='raft_large')")
    assert isinstance(caught.value, BenchError)
    with looking() as missing:
        DEFENSES.create("videopure(backbone='modelscope', flow='raft_large')")
    assert len(missing) == 2
    with pytest.raises(MissingFiles):  # looking is over
        load_flow("raft_large")


def test_raft_is_found_where_torchvision_keeps_it_and_in_the_folder_of_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network = raft_small(weights=None)
    for folder, variable in (("torch/hub/checkpoints", "unset"), ("mine", "BENCH_WEIGHTS")):
        monkeypatch.setenv(variable, str(tmp_path / folder))
        with pytest.raises(MissingFiles, match=f"{folder}/raft_small_C_T_V1-ad48884c.pth"):
            load_flow("raft_small")
        (tmp_path / folder).mkdir(parents=True)
        torch.save(network.state_dict(), tmp_path / folder / "raft_small_C_T_V1-ad48884c.pth")
        found = load_flow("raft_small").state_dict()
        assert all(torch.equal(found[f"network.{key}"], value) for key, value in network.state_dict().items())


def test_a_pipeline_is_found_where_the_hubs_library_keeps_it(tmp_path: Path) -> None:
    folder = snapshot(tmp_path / "hub", MODELSCOPE)
    with pytest.raises(MissingFiles, match="of which unet, vae, text_encoder, tokenizer, scheduler is absent"):
        load_backbone("modelscope")
    save_modelscope(folder)
    assert load_backbone("modelscope").predict_noise(torch.zeros(1, 4, 2, 4, 4), 1).shape == (1, 4, 2, 4, 4)
    (folder / "scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(MissingFiles, match="of which scheduler is absent"):
        load_backbone("modelscope", precision="bf16")


def test_a_pipeline_is_found_in_the_folder_of_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_WEIGHTS", str(tmp_path / "mine"))
    with pytest.raises(MissingFiles, match=r"put it: .*mine/damo-vilab--text-to-video-ms-1\.7b"):
        load_backbone("modelscope")
    (tmp_path / "mine" / "damo-vilab--text-to-video-ms-1.7b").mkdir(parents=True)
    assert pipeline_place("modelscope", MODELSCOPE) == tmp_path / "mine" / "damo-vilab--text-to-video-ms-1.7b"
    (tmp_path / "mine" / "256x256_diffusion_uncond.pt").touch()
    place = pipeline_place("guided_diffusion", "256x256_diffusion_uncond.pt")
    assert place == tmp_path / "mine" / "256x256_diffusion_uncond.pt"


def test_a_classifier_is_found_in_the_folder_of_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_WEIGHTS", str(tmp_path / "mine"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "NL_res50.pth").touch()
    assert find_weights(Spec("nl_r50"), "ucf101", None, tmp_path / "data") == tmp_path / "mine" / "NL_res50.pth"


@pytest.mark.parametrize("weights", ["/nowhere", "./there", "a/b/c", "mine.safetensors"])
def test_a_path_is_no_name_on_a_hub(weights: str) -> None:
    with pytest.raises(MissingFiles, match="where the path in weights= comes from"):
        load_backbone("stable_diffusion", weights)
