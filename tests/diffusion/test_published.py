"""Published diffusion models, from random pipelines of toy width in exactly their format."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import TextToVideoSDPipeline, UNet2DModel
from kit.guided import Plain, small
from pipelines import save_guided_diffusion, save_modelscope, save_stable_diffusion
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench import BenchError
from bench.diffusion.backbones import load_backbone
from bench.diffusion.sampling import predict
from bench.weights.files import fingerprint

SAVE: dict[str, Callable[[Path], Path]] = {
    "modelscope": save_modelscope,
    "stable_diffusion": save_stable_diffusion,
    "guided_diffusion": save_guided_diffusion,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("pipelines")
    return {name: save(base / name) for name, save in SAVE.items()}


def clips_of(count: int, frames: int = 3) -> Tensor:
    return torch.rand(count, 3, frames, 32, 40, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", SAVE)
@torch.no_grad()
def test_any_batch_and_length_and_frames_in_parts(
    name: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone: Any = load_backbone(name, str(folders[name]))
    clips = clips_of(2, 5)
    assert not any(p.requires_grad for p in backbone.parameters())
    monkeypatch.setattr(backbone, "frames_at_once", 64)
    latents = backbone.encode(clips)
    assert latents.shape == ((2, 3, 5, 32, 40) if backbone.pixel_space else (2, 4, 5, 4, 5))
    noise, decoded = backbone.predict_noise(latents, 101), backbone.decode(latents)
    assert noise.shape == latents.shape
    assert decoded.shape == clips.shape
    monkeypatch.setattr(backbone, "frames_at_once", 3)
    torch.testing.assert_close(backbone.encode(clips), latents, rtol=0, atol=1e-5)
    torch.testing.assert_close(backbone.decode(latents), decoded, rtol=0, atol=1e-5)
    torch.testing.assert_close(backbone.predict_noise(latents[1:], 101), noise[1:], rtol=0, atol=1e-5)
    changed = latents.clone()
    changed[:, :, 2] += 1
    moved = (backbone.predict_noise(changed, 101) - noise).abs().amax(dim=(0, 1, 3, 4)) > 1e-5
    assert moved.tolist() == ([False, False, True, False, False] if backbone.per_frame else [True] * 5)


@pytest.mark.parametrize("name", SAVE)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@torch.no_grad()
def test_half_precision_keeps_latents_single(name: str, precision: str, folders: dict[str, Path]) -> None:
    full, half = (load_backbone(name, str(folders[name]), p) for p in ("fp32", precision))
    clips = clips_of(1)
    latents = half.encode(clips)
    noise = half.predict_noise(latents, 101)
    assert latents.dtype == noise.dtype == half.decode(latents).dtype == torch.float32
    assert {p.element_size() for p in half.parameters()} == {2}
    torch.testing.assert_close(noise, full.predict_noise(latents, 101), rtol=0.1, atol=0.05)
    assert torch.equal(half.alphas_cumprod, full.alphas_cumprod)


@pytest.mark.parametrize("name", SAVE)
def test_small_gradients_survive_half_precision(name: str, folders: dict[str, Path]) -> None:
    """A confident classifier sends gradients of 1e-9, which fp16 cannot even represent."""
    found = []
    for precision in ("fp32", "fp16"):
        backbone = load_backbone(name, str(folders[name]), precision)
        x = clips_of(1).requires_grad_(True)
        value = 1e-9 * backbone.decode(predict(backbone, backbone.encode(x), 101)).sum()
        found.append(torch.autograd.grad(value, x)[0])
    assert float(found[0].abs().max()) < 1e-7
    agree = torch.nn.functional.cosine_similarity(*(f.flatten() for f in found), dim=0)
    assert float(agree) > 0.98


@torch.no_grad()
def test_modelscope_is_what_diffusers_own_pipeline_computes(folders: dict[str, Path]) -> None:
    """Latents, noise and frames against the parts of diffusers' text-to-video pipeline."""
    folder = folders["modelscope"]
    backbone: Any = load_backbone("modelscope", str(folder))
    parts: Any = TextToVideoSDPipeline(
        vae=backbone.autoencoder,
        text_encoder=__import__("transformers").CLIPTextModel.from_pretrained(folder, subfolder="text_encoder"),
        tokenizer=__import__("transformers").CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer"),
        unet=backbone.denoiser,
        scheduler=__import__("diffusers").DDIMScheduler.from_pretrained(folder, subfolder="scheduler"),
    )
    prompt, negative = parts.encode_prompt("", "cpu", 1, True)
    torch.testing.assert_close(backbone.prompt, prompt)
    assert torch.equal(prompt, negative)  # so guidance adds nothing
    latents = backbone.encode(clips_of(1))
    noise = backbone.denoiser(latents, 61, encoder_hidden_states=prompt).sample
    torch.testing.assert_close(backbone.predict_noise(latents, 61), noise)
    frames = parts.decode_latents(latents)
    torch.testing.assert_close(backbone.decode(latents), (frames / 2 + 0.5).clamp(0, 1), rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_text_encoder_is_dropped(folders: dict[str, Path]) -> None:
    backbone: Any = load_backbone("modelscope", str(folders["modelscope"]))
    assert {name.partition(".")[0] for name, _ in backbone.named_modules()} == {"", "autoencoder", "denoiser"}
    assert backbone.prompt.shape == (1, 7, 16)
    assert "prompt" in dict(backbone.named_buffers())  # part of what identifies it


def test_levels_are_the_published_ones(folders: dict[str, Path]) -> None:
    """Fact: abar_101 = .89298; a clean latent of ModelScope's stands at abar_0 = .99915, a clean picture at 1."""
    for name in ("modelscope", "stable_diffusion"):
        backbone = load_backbone(name, str(folders[name]))
        assert (backbone.level(101), backbone.level(-1)) == pytest.approx((0.89298, 0.99915), abs=1e-5)
    guided = load_backbone("guided_diffusion", str(folders["guided_diffusion"]))
    assert guided.level(-1) == 1.0
    assert guided.level(100) == pytest.approx(float(torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)[100]))


@torch.no_grad()
def test_learned_variances_are_left_out(folders: dict[str, Path]) -> None:
    backbone: Any = load_backbone("guided_diffusion", str(folders["guided_diffusion"]))
    both = UNet2DModel.from_pretrained(folders["guided_diffusion"] / "unet")(torch.ones(1, 3, 32, 40), 61).sample
    assert both.shape[1] == 6
    found = backbone.predict_noise(torch.ones(1, 3, 1, 32, 40), 61)
    torch.testing.assert_close(found[:, :, 0], both[:, :3])


def test_openais_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As published: one file of plain tensors under Guided Diffusion's names. Here of toy width."""
    monkeypatch.setattr("bench.diffusion.guided.build_guided", small)
    plain, x = Plain(), torch.randn(1, 3, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = plain(x[:, :, 0], 100)[:, :3]
        torch.save(plain.state, tmp_path / "256x256_diffusion_uncond.pt")
        backbone = load_backbone("guided_diffusion", str(tmp_path / "256x256_diffusion_uncond.pt"))
        torch.testing.assert_close(backbone.predict_noise(x, 100)[:, :, 0], expected, rtol=1e-4, atol=1e-4)
    assert backbone.level(100) == pytest.approx(float(torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)[100]))
    (tmp_path / "torn.pt").write_bytes(b"torn")
    with pytest.raises(BenchError, match="only safetensors files and PyTorch files"):
        load_backbone("guided_diffusion", str(tmp_path / "torn.pt"))


# --- refusals ------------------------------------------------------------------------------------------------------


def test_another_architecture_is_named(folders: dict[str, Path]) -> None:
    for asked, given in (("modelscope", "stable_diffusion"), ("stable_diffusion", "modelscope")):
        with pytest.raises(BenchError, match=r"The part 'unet' of .* is a UNet\dD.*, but a UNet\dD.* is wanted"):
            load_backbone(asked, str(folders[given]))


@pytest.mark.parametrize("part", ["unet", "vae", "tokenizer", "text_encoder", "scheduler"])
def test_an_absent_part_is_named(part: str, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["modelscope"], tmp_path / "pipeline")
    shutil.rmtree(folder / part)
    with pytest.raises(BenchError, match=f"Cannot load '{part}' of the folder"):
        load_backbone("modelscope", str(folder))


def test_a_damaged_file_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["modelscope"], tmp_path / "pipeline")
    (file,) = (folder / "unet").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(BenchError, match="Cannot load 'unet'"):
        load_backbone("modelscope", str(folder))


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_absent_weights_are_never_random_ones(part: str, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["modelscope"], tmp_path / "pipeline")
    (file,) = (folder / part).glob("*.safetensors")
    state = load_file(file)
    dropped = sorted(k for k in state if k.endswith("weight"))[0]
    del state[dropped]
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(BenchError, match=f"'{part}' of .* is incomplete: 1 missing keys, such as"):
        load_backbone("modelscope", str(folder))


def test_the_schedule_is_part_of_a_models_identity(folders: dict[str, Path], tmp_path: Path) -> None:
    other = save_modelscope(tmp_path / "other", beta_end=0.013)
    first, second = (load_backbone("modelscope", str(f)) for f in (folders["modelscope"], other))
    assert fingerprint(first) != fingerprint(second)
    assert fingerprint(first) == fingerprint(load_backbone("modelscope", str(folders["modelscope"])))


def test_models_of_other_targets_are_refused(tmp_path: Path) -> None:
    folder = save_modelscope(tmp_path / "velocity", prediction_type="v_prediction")
    with pytest.raises(BenchError, match="predicts v_prediction, but purifiers need one that predicts epsilon"):
        load_backbone("modelscope", str(folder))


def test_frame_sizes_the_autoencoder_cannot_take(folders: dict[str, Path]) -> None:
    with pytest.raises(BenchError, match="multiples of 8 pixels, not 36x40"):
        load_backbone("modelscope", str(folders["modelscope"])).encode(torch.rand(1, 3, 2, 36, 40))
