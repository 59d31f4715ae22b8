"""Classifiers of other libraries: logits are those of the library's own network on what its own processor makes."""

from __future__ import annotations

import builtins
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit.commands import Answer
from torch import Tensor, nn

from bench import BenchError
from bench.grids.grid import override, read_grid
from bench.models.adapters._wrapped import Wrapped, wrap
from bench.plan.expand import make_plan
from bench.registry import MODELS, Spec
from bench.weights.places import MissingFiles
from bench.weights.zoo import build_classifier


def clips(frames: int, height: int, width: int, batch: int = 1) -> Tensor:
    """Random clips of whole numbers of 255ths, as processors take them."""
    drawn = torch.randint(0, 256, (batch, 3, frames, height, width), generator=torch.Generator().manual_seed(5))
    return drawn / 255


def reaches(model: nn.Module, shown: Tensor) -> bool:
    shown = shown.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(shown)[:, 0].sum(), shown)
    return bool(gradient.isfinite().all()) and float(gradient.abs().sum()) > 0


# --- transformers ---

_SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "num_labels": 5}


def saved(kind: str, folder: Path) -> tuple[Any, Any, int, int]:
    """A network and its processor as published ones are saved; and the frames and side that it takes."""
    import transformers as t

    torch.manual_seed(3)
    if kind == "videomae":
        config: Any = t.VideoMAEConfig(image_size=32, patch_size=16, num_frames=4, **_SMALL)
        network: Any = t.VideoMAEForVideoClassification(config)
    elif kind == "timesformer":
        config = t.TimesformerConfig(image_size=32, patch_size=16, num_frames=4, **_SMALL)
        network = t.TimesformerForVideoClassification(config)
    elif kind == "vivit":
        config = t.VivitConfig(image_size=32, num_frames=4, tubelet_size=[2, 16, 16], **_SMALL)
        network = t.VivitForVideoClassification(config)
    else:
        own = {"pred_hidden_size": 16, "pred_num_hidden_layers": 1, "pred_num_attention_heads": 2}
        config = t.VJEPA2Config(
            crop_size=32, patch_size=16, frames_per_clip=4, num_pooler_layers=1, mlp_ratio=2.0, **_SMALL, **own
        )
        network = t.VJEPA2ForVideoClassification(config)
    sizes = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}
    if kind == "vivit":
        processor: Any = t.VivitImageProcessor(**sizes)
    elif kind == "vjepa2":
        processor = t.VJEPA2VideoProcessor(**sizes)
    else:
        statistics = {"image_mean": [0.45, 0.4, 0.5], "image_std": [0.225, 0.2, 0.25]}
        processor = t.VideoMAEImageProcessor(**sizes, **statistics)
    with torch.no_grad():  # as they are drawn, logits hardly differ
        for parameter in network.parameters():
            parameter.normal_(0, 0.3)
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return network.eval(), processor, 4, 32


@pytest.mark.parametrize("kind", ["videomae", "timesformer", "vivit", "vjepa2"])
def test_transformers_networks_see_what_their_processor_makes(kind: str, tmp_path: Path) -> None:
    network, processor, frames, _ = saved(kind, tmp_path)
    model = build_classifier(Spec.parse(f"hf:{tmp_path}"), None)
    shown = clips(frames, 36, 48)  # of the shorter side that the processor resizes to: it cuts alone
    pictures = [np.asarray(f) for f in (shown[0] * 255).round().to(torch.uint8).permute(1, 2, 3, 0)]
    ready = processor(pictures, return_tensors="pt")
    with torch.no_grad():
        wanted = network(**ready).logits
        found = model(shown)
        plain = network(**{network.main_input_name: shown[..., 2:34, 8:40].transpose(1, 2)}).logits
    assert found.shape == (1, 5)
    assert float((wanted - plain).abs().max()) > 0.01  # what the processor does is seen
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    assert reaches(model, shown)


def test_an_hf_folder_has_a_short_name_and_must_hold_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    spec = Spec.parse("hf:./empty")
    assert (spec.name, str(spec)) == (f"hf:{tmp_path}/empty", "hf:empty")
    with pytest.raises(BenchError, match=r"empty holds no config\.json"):
        MODELS.create(spec)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MissingFiles, match=r"https://huggingface\.co/nobody/nothing"):
        MODELS.create("hf:nobody/nothing")
    saved("videomae", tmp_path / "net")
    (tmp_path / "net" / "model.safetensors").rename(tmp_path / "net" / "pytorch_model.bin")
    with pytest.raises(BenchError, match=r"holds no \.safetensors file"):
        MODELS.create("hf:net")
    assert MODELS.create("hf:net(random=True)").frames == 4


# --- torchvision ---


def test_torchvision_networks_see_what_their_transforms_make(tmp_path: Path) -> None:
    from torchvision.models import get_model, get_model_weights

    torch.manual_seed(4)
    own = get_model("r3d_18", num_classes=7).eval()
    torch.save({"state_dict": own.state_dict()}, tmp_path / "w.pth")
    model = build_classifier(Spec.parse("torchvision:r3d_18(num_classes=7)"), tmp_path / "w.pth")
    shown = clips(2, 40, 60)
    preset = get_model_weights("r3d_18").DEFAULT.transforms()
    with torch.no_grad():
        wanted, found = own(preset(shown.transpose(1, 2))), model(shown)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["swin3d_t", "mvit_v2_s"])
def test_torchvision_transformers_sample_resize_and_normalise(name: str) -> None:
    from torchvision.models import get_model, get_model_weights

    torch.manual_seed(4)
    own: Any = get_model(name, num_classes=7)
    # Of depth one: what is compared is what they are shown.
    if name == "swin3d_t":
        own.features, own.norm = own.features[:1], nn.LayerNorm(96)
        own.head = nn.Linear(96, 7)
    else:
        own.blocks, own.norm = own.blocks[:1], nn.LayerNorm(own.blocks[0].mlp[-2].out_features)
        own.head = nn.Sequential(nn.LazyLinear(7))
    own.eval()
    model: Wrapped = MODELS.create(f"torchvision:{name}(num_classes=7)")
    model.network = own
    preset = get_model_weights(name).DEFAULT.transforms()
    frames = model.frames or 4
    shown = clips(frames, 60, 90)
    with torch.no_grad():
        wanted, found = own(preset(shown.transpose(1, 2))), model(shown)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def test_torchvision_says_what_is_missing() -> None:
    with pytest.raises(MissingFiles, match=r"KINETICS400_V1 of swin3d_t .*\n?.*download\.pytorch\.org"):
        MODELS.create("torchvision:swin3d_t(weights='KINETICS400_V1')")
    with pytest.raises(BenchError, match=r"no video classifier 'swin3d' \(did you mean 'swin3d_.'\?\)"):
        MODELS.get("torchvision:swin3d")


# --- PyTorchVideo ---


@pytest.mark.parametrize(("name", "frames", "side"), [("x3d_xs", 4, 160), ("slowfast_r50", 32, 256)])
def test_pytorchvideo_networks_get_one_clip_or_two(name: str, frames: int, side: int) -> None:
    seen: list[Any] = []

    class Looking(nn.Module):
        def forward(self, shown: Any) -> Tensor:
            seen.append(shown)
            return torch.zeros(1, 400)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pytorchvideo.models import hub
    model: Wrapped = MODELS.create(f"pytorchvideo:{name}(num_classes=5)")
    assert (model.frames, model.size) == (frames, (side, side))
    if name == "x3d_xs":
        torch.manual_seed(2)
        own = hub.x3d_xs(pretrained=False, model_num_class=5).eval()
        model.network.load_state_dict(own.state_dict())
        shown = clips(4, 160, 160)
        with torch.no_grad():
            wanted, found = own((shown - 0.45) / 0.225), model.eval()(shown)
        torch.testing.assert_close(found.softmax(1), wanted, rtol=0, atol=1e-5)
        return
    model.network = Looking()
    shown = clips(8, 2, 2)
    wrap(model, {"frames": 8, "size": 2})(shown)
    slow, fast = seen[0]
    assert torch.allclose(fast, (shown - 0.45) / 0.225)
    # The slow pathway of PyTorchVideo's hub page: alpha-th part of the frames, evenly spread, rounded down.
    assert torch.equal(slow, fast[:, :, [0, 7]])


# --- timm ---


def test_timm_networks_are_asked_about_each_frame() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(6)
    own = timm.create_model("test_vit", pretrained=False, num_classes=5).eval()
    model: Wrapped = MODELS.create("timm:test_vit(num_classes=5)").eval()
    model.network.load_state_dict(own.state_dict())
    config = timm.data.resolve_model_data_config(own)
    _, height, width = config["input_size"]
    shown = clips(3, height, width)
    from torchvision.transforms.functional import normalize

    with torch.no_grad():
        wanted = own(normalize(shown[0].transpose(0, 1), list(config["mean"]), list(config["std"]))).mean(0)
        found = model(shown)[0]
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    assert reaches(model, shown)
    with pytest.raises(BenchError, match=r"timm has no network 'test_vitt' \(did you mean 'test_vit"):
        MODELS.get("timm:test_vitt")


def test_without_timm_a_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(BenchError, match=r"needs the library timm: pip install 'videorobustbench\[timm\]'"):
        MODELS.get("timm:test_vit")


# --- wrapping ---


class Mean(nn.Module):
    """Puts out the mean of what it sees, of whatever shape, in a mapping."""

    def forward(self, shown: Tensor) -> dict[str, Tensor]:
        self.shape = builtins.tuple(shown.shape)
        return {"logits": shown.flatten(1).mean(1, keepdim=True)}


def test_wrapping_samples_resizes_and_normalises() -> None:
    inner = Mean()
    model = wrap(inner, {"mean": [0.5] * 3, "std": [0.25] * 3, "size": 8, "frames": 3, "layout": "BTCHW"})
    ramp = torch.linspace(0, 1, 5).view(1, 1, 5, 1, 1).expand(2, 3, 5, 12, 20)
    # Frames 0, 2 and 4 of five: their mean is that of the ramp.
    assert torch.allclose(model(ramp), torch.zeros(2, 1), atol=1e-6)
    assert inner.shape == (2, 3, 3, 8, 8)
    assert reaches(model, ramp)
    again = wrap(model, {"mean": [0.0] * 3})
    assert torch.allclose(again(ramp), torch.full((2, 1), 2.0), atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"sise": 3}, r"no setting 'sise' \(did you mean 'size'\?\)"),
        ({"mean": 3}, "mean must be three numbers, not 3"),
        ({"std": [1, 0, 1]}, "std must be positive"),
        ({"size": 0}, "size must be a positive whole number"),
        ({"frames": 1.5}, "frames must be a positive whole number"),
        ({"layout": "HWC"}, "layout must be one of BCTHW"),
        (3, "settings are written"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: Any, sentence: str) -> None:
    with pytest.raises(BenchError, match=sentence):
        wrap(Mean(), settings)


def test_the_wrapping_of_a_grid_is_part_of_what_identifies_a_classifier(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text(
        "import torch\ndef make():\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(24, 2))\n"
    )
    spec = Spec.parse({"name": f"{file}:make", "wrap": {"size": 2, "frames": 2}})
    assert MODELS.get(spec.name).settings(spec.params) == {"wrap": {"size": 2, "frames": 2}}
    assert MODELS.get(spec.name).settings({}) == {}
    state = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(24, 2)).state_dict()
    torch.save(state, tmp_path / "w.pth")
    model = build_classifier(spec, tmp_path / "w.pth")
    shown = clips(2, 2, 2)
    wanted = shown.flatten(1) @ state["1.weight"].T + state["1.bias"]
    torch.testing.assert_close(model(shown), wanted)


def test_a_wrapped_network_that_draws_is_noticed(gray_grid: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "drawn.py").write_text(
        "import torch\nfrom levels import level_classifier\n\nclass Drawn(torch.nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.net = level_classifier()\n\n"
        "    def forward(self, clips):\n        return self.net(clips) + 0.1 * torch.rand(len(clips), 1)\n"
    )
    grid = override(read_grid(gray_grid()), models=[str(tmp_path / "drawn.py")], wrap={"size": 4})
    assert [nature.random for nature in make_plan(grid).natures.values()] == [True]


# --- on the command line ---

BYTES = """
from levels import LEVELS, level_classifier
import torch

class Small(torch.nn.Module):
    \"\"\"Takes whole numbers up to 255, of two frames of 4x4.\"\"\"
    def __init__(self):
        super().__init__()
        self.net = level_classifier()

    def forward(self, clips):
        assert clips.shape[2:] == (2, 4, 4)
        return self.net(clips / 255)
"""


def test_a_run_wraps_the_classifier_as_it_is_told(
    bench: Callable[..., Answer], gray_grid: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "small.py").write_text(BYTES)
    scale = ",".join([repr(1 / 255)] * 3)
    arguments = ("run", "--grid", gray_grid(), "--attack", "noise", "--results", tmp_path / "r")
    model = ("--model", tmp_path / "small.py", "--std", scale, "--size", 4, "--frames", 2, "--label", "Small one")
    done = bench(*arguments, *model)
    assert done.code == 0, done.err
    assert "Small one" in done.out
    assert "100.0" in done.out
    assert "nothing was left to do" in bench(*arguments, *model).out
    other = bench(*arguments, *model, "--mean", "0,0,0.0001")
    assert "nothing was left to do" not in other.out
    lone = bench(*arguments, "--size", 4)
    assert (lone.code, "--size says how a --model takes its clips" in lone.err) == (2, True)
    wrong = bench(*arguments, *model, "--mean", "red")
    assert (wrong.code, "--mean must be three numbers" in wrong.err) == (2, True)


def test_list_and_show_tell_of_them(bench: Callable[..., Answer], tmp_path: Path) -> None:
    assert "torchvision:NAME" in bench("list", "models").out
    assert "num_classes" in bench("show", "torchvision:mvit_v2_s").out
    (tmp_path / "small.py").write_text(BYTES)
    assert "whole numbers up to 255" in bench("show", tmp_path / "small.py").out
    gone = bench("show", tmp_path / "gone.py")
    assert (gone.code, "Cannot read" in gone.err) == (2, True)
