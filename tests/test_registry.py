"""Names, parameters, discovery."""

from __future__ import annotations

import importlib
import inspect
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.roost import GROUP, PACKAGE, PURIFIER, Roost

from bench import Attack, BenchError, Dataset, Purifier, RobustModel, register
from bench.registry import ATTACKS, DEFENSES, REGISTRIES, NameClash, Registry, Spec

few = settings(max_examples=40, deadline=None, derandomize=True, database=None)


# --- spec -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "params"),
    [
        ("jpeg", "jpeg", {}),
        (" jpeg ", "jpeg", {}),
        ("jpeg()", "jpeg", {}),
        ("jpeg(quality=50)", "jpeg", {"quality": 50}),
        ("jpeg ( quality = 50, subsampling='4:2:0' )", "jpeg", {"quality": 50, "subsampling": "4:2:0"}),
        (
            "a-b_c.d2(x=-1.5, y=None, z=(1, 2), w=[True], v={'k': 1})",
            "a-b_c.d2",
            {"x": -1.5, "y": None, "z": (1, 2), "w": [True], "v": {"k": 1}},
        ),
        ("my.module:Thing(n=3)", "my.module:Thing", {"n": 3}),
        ("two(\n  lines=1,\n)", "two", {"lines": 1}),
        ({"name": "jpeg", "quality": 50}, "jpeg", {"quality": 50}),
        ({"name": "jpeg"}, "jpeg", {}),
        (Spec("jpeg", {"quality": 1}), "jpeg", {"quality": 1}),
    ],
)
def test_spec_is_read(text: Any, name: str, params: dict[str, Any]) -> None:
    assert Spec.parse(text) == Spec(name, params)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "jpeg(",
        "jpeg)",
        "jpeg(50)",
        "jpeg(quality)",
        "jpeg(quality=)",
        "jpeg(quality=open('x'))",
        "jpeg(quality=x)",
        "jpeg(*[1])",
        "jpeg(**{'quality': 1})",
        "jpeg quality=50",
        "jpeg(quality=1) + (2)",
        "two words",
        {},
        {"quality": 50},
        {"name": 3},
    ],
)
def test_unreadable_specs_are_refused(text: Any) -> None:
    with pytest.raises(BenchError, match=r"^(Cannot read|A component needs a 'name')"):
        Spec.parse(text)


@pytest.mark.parametrize(
    "text", ["jpeg(quality=1)(quality=2)", "jpeg(quality=1).get(x=2)", "jpeg(quality=1, quality=2)"]
)
def test_specs_that_would_lose_a_parameter_are_refused(text: str) -> None:
    with pytest.raises(BenchError, match=r"^Cannot read"):
        Spec.parse(text)


def test_reading_a_mapping_leaves_it_alone() -> None:
    given_ = {"name": "jpeg", "quality": 50}
    Spec.parse(given_)
    assert given_ == {"name": "jpeg", "quality": 50}


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner),
    max_leaves=4,
)


@few
@given(
    st.from_regex(r"[a-z0-9][a-z0-9_\-.:]{0,8}", fullmatch=True),
    st.dictionaries(st.from_regex(r"[a-z]{1,4}_", fullmatch=True), values, max_size=3),
)
def test_written_specs_read_back(name: str, params: dict[str, Any]) -> None:
    spec = Spec(name, params)
    assert Spec.parse(str(spec)) == spec


# --- names and parameters -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "right"), [("jpg", "jpeg"), ("temporal-shuffle", "temporal_shuffle"), ("WAVELT", "wavelet")]
)
def test_unknown_name_suggests_the_nearest(wrong: str, right: str) -> None:
    with pytest.raises(BenchError, match=rf"There is no defense '{wrong}' \(did you mean '{right}'\?\); known: .*jpeg"):
        DEFENSES.get(wrong)


def test_unknown_parameter_suggests_the_nearest() -> None:
    with pytest.raises(
        BenchError, match=r"'jpeg' has no parameter 'qualty' \(did you mean 'quality'\?\); it takes: quality, "
    ):
        DEFENSES.create("jpeg(qualty=3)")


def test_shipped_components_are_found() -> None:
    assert {"none", "jpeg", "wavelet", "temporal_shuffle"} <= set(DEFENSES.names())
    assert {"pgd", "noise"} <= set(ATTACKS.names())
    assert {"nl_r50", "nl_tiny"} <= set(REGISTRIES["model"].names())
    assert "motion12" in REGISTRIES["dataset"].names()
    assert DEFENSES.names() == sorted(DEFENSES.names())
    assert all(not registry.broken for registry in REGISTRIES.values())


def test_settings_fill_in_the_defaults() -> None:
    entry = DEFENSES.get("jpeg")
    assert entry.settings({}) == {"quality": 75, "subsampling": "4:2:0", "rounding": "nearest"}
    assert entry.settings({"quality": 50})["quality"] == 50
    assert entry.settings({"quality": 75}) == entry.settings({})
    with pytest.raises(BenchError, match="no parameter 'q'"):
        entry.settings({"q": 1})


def test_parameters_carry_their_help() -> None:
    entry = DEFENSES.get("jpeg")
    first = entry.parameters[0]
    assert (first.name, first.annotation, first.default, first.required) == ("quality", "int", 75, False)
    assert first.help.startswith("1 to 95; SHIELD's code offers 80 and 75")
    assert entry.parameters[2].help.endswith("as common image-conversion code does.")  # a continued line
    assert (
        entry.summary
        == "Compresses and decompresses every frame with the arithmetic of libjpeg, on the device of the clip."
    )
    shuffle = {p.name: p.help for p in DEFENSES.get("temporal_shuffle").parameters}
    assert shuffle["reach"] == shuffle["length"] == "of the ``chunks`` variant."


def needs(size: int, mode: str = "a") -> str:
    if mode == "z":
        raise ValueError("mode must not be z")
    return f"{size}{mode}"


def test_required_parameters_are_asked_for() -> None:
    registry = Registry("defense", "bench.defenses", GROUP)
    assert registry.create(f"{__name__}:needs(size=3)") == "3a"
    with pytest.raises(BenchError, match="needs a value for size"):
        registry.create(f"{__name__}:needs")
    with pytest.raises(BenchError, match=r"refuses its parameters: mode must not be z"):
        registry.create(f"{__name__}:needs(size=3, mode='z')")
    size = registry.get(f"{__name__}:needs").parameters[0]
    assert size.required
    assert size.default is inspect.Parameter.empty


# --- module:attribute -----------------------------------------------------------------------------------------


def test_imported_components_need_no_registration(roost: Roost) -> None:
    (roost.root / "acme.py").write_text("def make(n=1):\n    return ['made', n]\n\nnumber = 3\n")
    registry = roost.renew()
    entry = registry.get("acme:make")
    assert registry.create("acme:make(n=2)") == ["made", 2]
    assert entry.name == "acme:make"
    assert "acme.py:1" in entry.origin
    assert registry.names() == []
    with pytest.raises(BenchError, match="'acme' has no class or function 'bake'"):
        registry.get("acme:bake")
    with pytest.raises(BenchError, match="'acme' has no class or function 'number'"):
        registry.get("acme:number")
    with pytest.raises(BenchError, match=r"Cannot import 'no_such_acme'.*is it installed"):
        registry.get("no_such_acme:make")


# --- discovery ------------------------------------------------------------------------------------------------


def test_a_dropped_file_is_found(roost: Roost) -> None:
    roost.add("first", "first")
    assert roost.renew().names() == ["first"]
    roost.add("second", "second-one")
    assert roost.renew().names() == ["first", "second-one"]
    made = roost.registry.create("second-one")
    assert isinstance(made, Purifier)
    assert "second.py:4" in roost.registry.get("second-one").origin


def test_nothing_is_imported_before_it_is_asked_for(roost: Roost) -> None:
    roost.add("first", "first")
    registry = roost.renew()
    assert f"{PACKAGE}.first" not in sys.modules
    registry.names()
    assert f"{PACKAGE}.first" in sys.modules


def test_one_module_may_stand_for_all(roost: Roost) -> None:
    roost.add("first", "first")
    roost.add("second", "second")
    registry = roost.renew()
    registry.only("second", f"{PACKAGE}.second")
    assert isinstance(registry.create("second"), Purifier)
    assert f"{PACKAGE}.first" not in sys.modules
    for module in (f"{PACKAGE}.second", f"{PACKAGE}.no_such"):  # where it is not, all are looked through
        registry = roost.renew()
        registry.only("first", module)
        assert isinstance(registry.create("first"), Purifier)


def test_underscored_modules_are_helpers(roost: Roost) -> None:
    roost.add("_helper", "helper")
    roost.add("first", "first")
    assert roost.renew().names() == ["first"]
    assert f"{PACKAGE}._helper" not in sys.modules


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import no_such_library", "ModuleNotFoundError: No module named 'no_such_library'"),
        ("def broken(:\n", "SyntaxError"),
        ("import sys\nsys.exit(3)\n", "SystemExit"),
        ("raise RuntimeError('needs a licence')", "RuntimeError: needs a licence"),
        (PURIFIER.format(name="No Good", cls="X", doc=""), "BenchError: defense name 'No Good' is not usable"),
    ],
)
def test_broken_modules_are_reported_and_hide_nobody(roost: Roost, code: str, reason: str) -> None:
    roost.add("aaa", "before")
    (roost.folder / "broken.py").write_text(code)
    roost.add("zzz", "after")
    registry = roost.renew()
    assert registry.names() == ["after", "before"]
    assert list(registry.broken) == [f"{PACKAGE}.broken"]
    assert registry.broken[f"{PACKAGE}.broken"].startswith(reason)
    with pytest.raises(BenchError) as caught:
        registry.get("missing")
    assert f"{PACKAGE}.broken could not be imported ({reason}" in str(caught.value)


def test_clash_names_both_files(roost: Roost) -> None:
    first, second = roost.add("first", "same", "One"), roost.add("second", "same", "Other")
    registry = roost.renew()
    with pytest.raises(NameClash) as caught:
        registry.names()
    message = str(caught.value)
    assert "Two defenses are called 'same'" in message
    assert f"{first}:4" in message
    assert f"{second}:4" in message
    with pytest.raises(NameClash):  # and again: it is not forgotten after the first complaint
        registry.get("same")


def test_clash_of_equally_named_classes_in_two_files(roost: Roost) -> None:
    roost.add("first", "same", "Made")
    roost.add("second", "same", "Made")
    with pytest.raises(NameClash, match=r"first\.py.*second\.py"):
        roost.renew().names()


def test_clash_inside_one_file(roost: Roost) -> None:
    (roost.folder / "both.py").write_text(
        PURIFIER.format(name="same", cls="One", doc="") + PURIFIER.format(name="same", cls="Two", doc="")
    )
    with pytest.raises(NameClash, match=r"both\.py:4.*both\.py:12"):
        roost.renew().names()


def test_reloading_a_module_is_no_clash(roost: Roost) -> None:
    roost.add("first", "first", doc="Old words.")
    registry = roost.renew()
    registry.names()
    roost.add("first", "first", doc="New and longer words.")
    importlib.invalidate_caches()
    importlib.reload(sys.modules[f"{PACKAGE}.first"])
    assert registry.names() == ["first"]
    assert registry.get("first").summary == "New and longer words."


def test_entry_points_of_other_packages_are_found(roost: Roost) -> None:
    plain = "class Blur:\n    '''Blurs.'''\n    def __init__(self, width=3):\n        self.width = width\n"
    decorated = PURIFIER.format(name="acme-noise", cls="Noise", doc="Adds noise.")
    points = {"acme-blur": "acme:Blur", "ignored-name": "acme:Noise", "gone": "acme:Gone"}
    roost.install("acme-defenses", "acme", plain + decorated, points)
    roost.add("first", "first")
    registry = roost.renew()
    # A class that registers itself keeps its own name and is not entered twice.
    assert registry.names() == ["acme-blur", "acme-noise", "first"]
    assert registry.create("acme-blur(width=5)").width == 5
    assert registry.get("acme-blur").origin.startswith("acme-defenses (")
    assert registry.get("acme-noise").origin.startswith("acme-defenses (")
    assert list(registry.broken) == ["acme:Gone"]
    assert "Gone" in registry.broken["acme:Gone"]


def test_clash_with_an_entry_point_names_the_package(roost: Roost) -> None:
    roost.install("acme-defenses", "acme", "class First:\n    pass\n", {"first": "acme:First"})
    roost.add("first", "first")
    with pytest.raises(NameClash, match=r"first\.py:4.*one in acme-defenses \(.*acme\.py:1\)"):
        roost.renew().names()


# --- the decorator --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "Upper", "two words", "-x", "x(y)", "a:b", "ä"])
def test_names_that_cannot_be_typed_are_refused(roost: Roost, name: str) -> None:
    with pytest.raises(BenchError, match="is not usable"):
        roost.registry.add(name, dict)


@pytest.mark.parametrize(
    ("base", "kind"), [(Attack, "attack"), (Purifier, "defense"), (RobustModel, "defense"), (Dataset, "dataset")]
)
def test_kind_is_read_from_the_base_class(monkeypatch: pytest.MonkeyPatch, base: type, kind: str) -> None:
    fresh = {k: Registry(k, "bench", "none") for k in REGISTRIES}
    for k, registry in fresh.items():
        monkeypatch.setitem(REGISTRIES, k, registry)
        registry._discovered = True  # nothing but what is added here
    made = type("Made", (base,), {"__module__": __name__})
    assert register("made", source="A paper")(made) is made
    assert [k for k, registry in fresh.items() if registry.names()] == [kind]
    assert fresh[kind].get("made").source == "A paper"


def test_kind_must_be_known(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BenchError, match=r"Cannot register 'thing'.*kind='model'"):
        register("thing")(needs)
    with pytest.raises(BenchError, match="Cannot register 'thing'"):
        register("thing", kind="defence")(needs)
    fresh = Registry("model", "bench", "none")
    fresh._discovered = True
    monkeypatch.setitem(REGISTRIES, "model", fresh)
    register("thing", kind="model")(needs)
    assert fresh.names() == ["thing"]


@pytest.mark.parametrize(
    "value", ["-" * 100_000 + "1", "(" * 5000 + "1", "1" + "0" * 5000, "[" * 1000], ids=lambda value: value[:3]
)
def test_parameters_that_nobody_can_read_are_one_short_sentence(value: str) -> None:
    with pytest.raises(BenchError, match="Cannot read the parameters") as raised:
        Spec.parse(f"jpeg(quality={value})")
    assert len(str(raised.value)) < 300
