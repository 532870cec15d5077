"""What is exported computes what the model does, at every batch size, and says what it is of."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dpvision
from dpvision.cli.main import run as command
from dpvision.networks import Classifier, build_classifier, own
from dpvision.networks.agreement import BATCH_SIZES, compared
from dpvision.networks.clamped_normal import ClampedNormal
from dpvision.networks.diffusion import DiffusionGenerator
from dpvision.networks.gaussian_images import GaussianImages
from dpvision.networks.generators import Generator
from dpvision.networks.graph_file import graph_of, loaded
from dpvision.networks.image_generator import ImageGenerator
from dpvision.networks.load_model import find
from dpvision.networks.tracing import examples, trace
from dpvision.priors.feature_classifier import build_feature_classifier
from dpvision.priors.taught_images import TaughtImages
from dpvision.runs.onnx_file import onnx_bytes, runner

NAMES = ("cat", "Hündin", "猫")
SMALL, WIDE = (1, 8, 8), (3, 8, 8)


def network(name: str, shape: tuple[int, int, int], **options: Any) -> Classifier:
    return build_classifier(name, image_shape=shape, class_names=NAMES, options=options)


def on_encoder(name: str, shape: tuple[int, int, int], head: Any = "linear", **options: Any) -> Classifier:
    return build_feature_classifier(
        name, image_shape=shape, class_names=NAMES, options=options, mirror=True, head=head, fit=False
    )


def shifted() -> Classifier:
    model = network("linear", SMALL)
    model.shift([0.5, -2.0, 1.0])
    return model


def law(num_details: int = 5, small: tuple[int, int] = (4, 4), warp: float = 0.05) -> ClampedNormal:
    made = ClampedNormal(SMALL, NAMES, small, 3, num_details)
    made.location.uniform_(0.2, 0.8)
    made.scale.uniform_(0.1, 0.4)
    made.root.uniform_(-0.5, 0.5)
    made.warps.fill_(warp)
    if num_details:
        made.set_details(torch.rand(num_details, *SMALL))
    return made


def from_start() -> Generator:
    start = GaussianImages(len(NAMES), (3, 4, 4), (8, 8), 4, 3)
    start.mean.uniform_(0.2, 0.8)
    start.root.normal_(0, 0.1)
    return Generator(WIDE, NAMES, 8, 128, start=start)


def diffusion(steps: int, guidance: float = 0.0) -> DiffusionGenerator:
    return DiffusionGenerator((1, 8, 8), NAMES, 8, 1, 3, steps, guidance)


CLASSIFIERS: dict[str, Callable[[], Classifier]] = {
    "linear": lambda: network("linear", SMALL),
    "shifted": shifted,
    "scatter-cnn": lambda: network("scatter-cnn", SMALL, width=4),
    "wrn-10-1": lambda: network("wrn-10-1", WIDE, groups=4),
    "patches": lambda: on_encoder("patches", WIDE, centroids=4, size=3),
    "affine-whitened": lambda: on_encoder("pixels", SMALL, "affine", whiten=0.1),
}
SLOW_CLASSIFIERS: dict[str, Callable[[], Classifier]] = {
    "tanh-cnn": lambda: network("tanh-cnn", (1, 14, 14), width=4),
    "tanh-cnn-deep": lambda: network("tanh-cnn-deep", WIDE, width=4),
    "products": lambda: on_encoder("pixels", SMALL, size=4, products=True),
    "norm-first": lambda: network("wrn-16-1", WIDE, order="norm_first", stem_stride=2),
    "prior": lambda: on_encoder("wrn-10-4-small", (3, 32, 32)),
    "grey-prior": lambda: on_encoder("wrn-16-4", (1, 28, 28), "linear_with_intercept"),
    "random": lambda: on_encoder("random-wrn-10-1", WIDE, cells="all"),
    "scattering": lambda: on_encoder("scattering", (3, 32, 32), cells=4, whiten=0.1),
    "sum": lambda: on_encoder(
        "scattering+patches", (1, 16, 16), parts=[{"J": 3, "groups": 7}, {"centroids": 4}]
    ),
    "small-network": lambda: file_network("resnet18-small", (1, 28, 28)),
    "scaled-network": lambda: file_network("squeezenet1_0", WIDE, size=64, cells=2),
}
GENERATORS: dict[str, Callable[[], ImageGenerator]] = {
    "law": law,
    "small": lambda: Generator((1, 28, 28), NAMES, 5),
}
SLOW_GENERATORS: dict[str, Callable[[], ImageGenerator]] = {
    "plain-law": lambda: law(0, (8, 8), 0.0),
    "taught": lambda: TaughtImages(law(), network("linear", SMALL), 4),
    "published": lambda: Generator((1, 28, 28), [], 5, 128, published_network=True),
    "residual": lambda: Generator(WIDE, NAMES, 5, 128),
    "one-step": lambda: diffusion(1),
    "from-start": from_start,
    "guided": lambda: diffusion(4, 1.5),
}


def file_network(name: str, shape: tuple[int, int, int], **options: Any) -> Classifier:
    """A network of the literature, whose weights the state_dict would bring."""
    options["provenance"] = {"source": "nowhere", "architecture": name}
    return on_encoder(name, shape, **options)


def built(make: Callable[[], Any]) -> Any:
    """A model none of whose numbers are all zero, as those of some are at first."""
    torch.manual_seed(0)
    model = make()
    for tensor in model.parameters():
        if not tensor.any():
            nn.init.normal_(tensor, std=0.3)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, std=0.1)
            nn.init.uniform_(part.running_var, 0.5, 2)
    return model.eval()


def cases(quick: dict[str, Any], slow: dict[str, Any]) -> list[Any]:
    return [
        *(pytest.param(make, id=name) for name, make in quick.items()),
        *(pytest.param(make, id=name, marks=pytest.mark.slow) for name, make in slow.items()),
    ]


EVERY = cases(CLASSIFIERS | GENERATORS, SLOW_CLASSIFIERS | SLOW_GENERATORS)


@pytest.mark.parametrize("make", EVERY)
def test_torch_alone_computes_the_same(make: Callable[[], Any]) -> None:
    model = built(make)
    graph, tensors = graph_of(trace(model, "float32"))
    module = loaded(json.loads(json.dumps(graph)), tensors)
    found = compared(model, lambda inputs: module(*inputs.values()), "it")
    assert found.differing == 0
    assert found.largest_difference < 2e-6
    assert found.batch_sizes == (1, 2, 7, 64)
    if isinstance(model, Classifier):
        floats = compared(model, lambda inputs: module(*inputs.values()), "it", "float32")
        assert floats.largest_difference < 2e-6
    # Nothing binds it to the device that it was traced on.
    elsewhere = module.to("meta")(*(one.to("meta") for one in examples(model, 5).values()))
    assert elsewhere.device.type == "meta"
    assert len(elsewhere) == 5


IN_ONNX = ("linear", "law")
"""Quick in ONNX, which takes longer; the others are slow tests."""
QUICK = {name: make for name, make in (CLASSIFIERS | GENERATORS).items() if name in IN_ONNX}
REST = {name: make for name, make in (CLASSIFIERS | GENERATORS).items() if name not in IN_ONNX}


@pytest.mark.parametrize("make", cases(QUICK, REST | SLOW_CLASSIFIERS | SLOW_GENERATORS))
def test_onnxruntime_computes_the_same(make: Callable[[], Any]) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    model = built(make)
    run = runner(onnx_bytes(trace(model), {}))
    assert run is not None
    found = compared(model, run, "it")
    assert found.differing == 0
    assert found.largest_difference < found.tolerance / 3  # machines differ in how they round


@pytest.mark.parametrize("make", [law, lambda: TaughtImages(law(), built(CLASSIFIERS["linear"]), 4)])
def test_what_is_traced_draws_what_is_drawn(make: Callable[[], ImageGenerator]) -> None:
    model = built(make)
    inputs = examples(model, 200).values()
    with torch.no_grad():
        torch.testing.assert_close(model.traceable()(*inputs), model(*inputs), rtol=0, atol=1e-5)


def test_a_teacher_takes_the_first_or_else_the_likeliest() -> None:
    """Of candidates of which some images have none that is taken, and some have several."""
    model = built(lambda: TaughtImages(law(0), built(CLASSIFIERS["linear"]), 4))
    inputs = examples(model, 200)
    with torch.no_grad():
        is_taken = torch.stack(
            [
                model.teacher(model.law(inputs["labels"], noise)).argmax(dim=1) == inputs["labels"]
                for noise in inputs["noise"].unbind(1)
            ]
        ).sum(dim=0)
        drawn, traced = model(*inputs.values()), model.traceable()(*inputs.values())
    assert {0, 1, 2} <= set(is_taken.tolist())
    torch.testing.assert_close(traced, drawn, rtol=0, atol=1e-5)


# Of a run ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release, of which there is no private folder any more."""
    folder = tmp_path_factory.mktemp("exported")
    settings = {"network": "linear", "steps": 3, "expected_batch_size": 64}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DPVISION_HOME", str(folder / "home"))
        dpvision.train(dpvision.open_images("bundled:digits"), epsilon=2, out=folder / "run", config=settings)
    return Path(shutil.move(folder / "run" / "release", folder / "release"))


WITHOUT_DPVISION = """
import sys
sys.modules["dpvision"] = None  # so that to import it fails
import torch
from load_model import load_model
torch.save(load_model()(torch.load(sys.argv[1])), sys.argv[2])
"""


def test_it_loads_where_there_is_no_dpvision(release: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    found = dpvision.export(release, torch=out)["torch"]
    assert sorted(path.name for path in out.iterdir()) == ["graph.json", "load_model.py", "model.safetensors"]
    assert found.bytes == sum(path.stat().st_size for path in out.iterdir())
    images = torch.randint(256, (5, 1, 8, 8), dtype=torch.uint8)
    torch.save(images, tmp_path / "images")
    subprocess.run(
        [sys.executable, "-c", WITHOUT_DPVISION, tmp_path / "images", tmp_path / "logits"],
        check=True,
        cwd=out,
        timeout=120,
        env={"PATH": ""},
    )
    with torch.no_grad():
        expected = dpvision.load(release)(images)
    torch.testing.assert_close(torch.load(tmp_path / "logits"), expected)
    graph = json.loads((out / "graph.json").read_text(encoding="utf-8"))
    assert graph["class_names"] == [str(digit) for digit in range(10)]
    assert graph["epsilon"] <= 2


def test_onnx_says_what_it_is_of(release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    out = tmp_path / "model.onnx"
    assert command(["export", str(release), "--onnx", str(out), "--input", "float32", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["onnx"]
    assert told["agreement"]["batch_sizes"] == list(BATCH_SIZES)
    assert told["agreement"]["largest_difference"] < 1e-4
    assert told["inputs"] == {"images": "float32 [N, 1, 8, 8]"}
    session = onnxruntime.InferenceSession(out)
    facts = session.get_modelmeta().custom_metadata_map
    card = json.loads((release / "card.json").read_text(encoding="utf-8"))
    assert json.loads(facts["class_names"]) == [str(digit) for digit in range(10)]
    assert (float(facts["epsilon"]), float(facts["delta"])) == (card["epsilon"], card["delta"])
    assert facts["not_private_because"] == "[]"
    (image,) = session.get_inputs()
    assert (image.name, image.shape, image.type) == ("images", ["batch", 1, 8, 8], "tensor(float)")
    assert [one.name for one in session.get_outputs()] == ["logits", "probabilities"]
    logits, probabilities = session.run(None, {"images": torch.rand(3, 1, 8, 8).numpy()})
    torch.testing.assert_close(torch.from_numpy(logits).softmax(dim=1), torch.from_numpy(probabilities))
    with pytest.raises(Exception, match="Got: 9"):  # an image of another size
        session.run(None, {"images": torch.rand(3, 1, 9, 9).numpy()})


def test_names_of_classes_are_kept_as_they_are() -> None:
    pytest.importorskip("onnxscript")
    onnx = pytest.importorskip("onnx")
    content = onnx_bytes(trace(network("linear", SMALL)), {"class_names": ", ".join(NAMES)})
    assert {one.key: one.value for one in onnx.load_from_string(content).metadata_props} == {
        "class_names": "cat, Hündin, 猫"
    }


SOURCE = """
import torch

class Mine(torch.nn.Module):
    def forward(self, x):
        rows = x.flatten(1) * 2  # a note of whose images
        return rows[:, :3]
"""


def test_nothing_of_the_users_code_is_in_an_onnx_file(
    registered: Callable[[type[nn.Module]], Classifier], tmp_path: Path
) -> None:
    pytest.importorskip("onnxscript")
    (tmp_path / "of_the_user.py").write_text(SOURCE)
    named = runpy.run_path(str(tmp_path / "of_the_user.py"))
    content = onnx_bytes(trace(registered(named["Mine"])), {"epsilon": "2"})
    for private in ("whose images", "of_the_user", str(tmp_path), "site-packages", "stack_trace", "Mine"):
        assert private.encode() not in content
    assert b"epsilon" in content


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "say what to export to"),
        ({"onnx": "model.bin"}, "must be called"),
        ({"onnx": "taken.onnx"}, "exists already"),
        ({"onnx": "nowhere/model.onnx"}, "there is no folder"),
        ({"torch": "full"}, "is not empty"),
        ({"onnx": "model.onnx", "input": "float64"}, "input must be one of"),
    ],
)
def test_places_are_refused(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("taken.onnx").touch()
    Path("full").mkdir()
    Path("full/file").touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(dpvision.InputError, match=said):
        dpvision.export(release, **options)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_release_is_not_added_to(release: Path) -> None:
    with pytest.raises(dpvision.InputError, match="within a release"):
        dpvision.export(release, torch=release / "torch")


def test_nothing_is_written_into_a_run(release: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(release, run / "release")
    (run / "private").mkdir()
    (run / "private" / "run.json").write_text("{}")
    before = sorted(run.rglob("*"))
    for place in ({"torch": run / "t"}, {"torch": run / "private" / "t"}, {"onnx": run / "a.onnx"}):
        with pytest.raises(dpvision.InputError, match="within the run's directory"):
            dpvision.export(run, **place)
    assert sorted(run.rglob("*")) == before


def test_both_forms_are_written_or_neither(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "model.onnx"
    with pytest.raises(dpvision.InputError, match="named for both forms"):
        dpvision.export(release, onnx=out, torch=out)
    monkeypatch.setattr("dpvision.api.exporting.check_exporter", lambda: None)
    monkeypatch.setattr("dpvision.api.exporting._as_onnx", lambda *_: (b"onnx", None))
    with pytest.raises(dpvision.InputError, match="cannot be written"):
        dpvision.export(release, onnx=out, torch=out / "folder")
    assert list(tmp_path.iterdir()) == []


def test_what_disagrees_is_not_written(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(graph: dict[str, Any], tensors: dict[str, Tensor]) -> nn.Module:
        return loaded(graph, {name: 1.5 * tensor for name, tensor in tensors.items()})

    monkeypatch.setattr("dpvision.api.exporting.loaded", wrong)
    with pytest.raises(dpvision.InputError, match="does not compute what the model does: 74 of 74"):
        dpvision.export(release, torch=tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_nan_is_no_agreement() -> None:
    model = network("linear", SMALL).eval()
    with pytest.raises(dpvision.InputError, match="does not compute"):
        compared(model, lambda inputs: torch.full((len(inputs["images"]), 3), torch.nan), "it")


# Networks of one's own -----------------------------------------------------------------------------------


class Attentive(nn.Module):
    """Attention, dropout, and two names of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 8)
        self.second.weight = self.first.weight
        self.attention = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.5, batch_first=True)
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.second(self.first(x.squeeze(1)))
        return self.last(self.attention(rows).mean(dim=1))


class LooksAtNumbers(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        means = x.flatten(1).mean(dim=1, keepdim=True)
        return means.expand(-1, 3) * (2 if means.sum() > 0 else 3)


class KnowsOneBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), -1)[:, :3]


class CountsCalls(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x.flatten(1)[:, :3] + self.calls


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Callable[[type[nn.Module]], Classifier]:
    monkeypatch.setattr(own, "_OWN", {})
    return lambda kind: network(own.register_network(kind), SMALL).eval()


def test_attention_dropout_and_shared_weights(registered: Callable[[type[nn.Module]], Classifier]) -> None:
    torch.manual_seed(0)
    model = registered(Attentive)
    graph, tensors = graph_of(trace(model, "float32"))
    module = loaded(json.loads(json.dumps(graph)), tensors)
    assert compared(model, lambda inputs: module(*inputs.values()), "it").largest_difference < 1e-5


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (LooksAtNumbers, "cannot be traced for export: "),
        (KnowsOneBatch, "cannot be traced for export: "),
        (CountsCalls, "changes its own buffers"),
    ],
)
def test_what_cannot_be_exported_is_refused_in_a_sentence(
    registered: Callable[[type[nn.Module]], Classifier], kind: type[nn.Module], said: str
) -> None:
    with pytest.raises(dpvision.InputError, match=said) as raised:
        graph_of(trace(registered(kind)))
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400


def test_too_many_steps_are_refused() -> None:
    with pytest.raises(dpvision.InputError, match="calls its network 101 times"):
        trace(diffusion(101).eval())


# The loader ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "operation",
    [
        "os.system",
        "aten.from_file.default",
        "aten.__class__.mro",
        "aten.__init__.__call__",
        "aten.add",
        "arithmetic.attrgetter",
        "arithmetic.methodcaller",
        "prims.add.default",
        "aten._sparse_coo_tensor_unsafe.default",
        "aten.manual_seed.default",
        "aten.fill_.Scalar",
        "aten.resize_.default",
        "aten.add.out",
        "aten.rand.default",
    ],
)
def test_a_graph_can_name_nothing_but_operations(operation: str) -> None:
    with pytest.raises((ValueError, AttributeError, TypeError)):
        find(operation)


def test_a_graph_can_name_no_attribute_of_torch_but_types() -> None:
    graph = {"inputs": ["x"], "output": "y"}
    for argument in ({"torch": "load"}, {"torch": "manual_seed"}, {"function": "float32"}):
        graph["operations"] = [["y", "aten._to_copy.default", [{"value": "x"}], {"dtype": argument}, []]]
        with pytest.raises(ValueError, match="is no "):
            loaded(graph, {})(torch.zeros(2))
    graph["operations"][0][3] = {"dtype": {"torch": "float64"}}
    assert loaded(graph, {})(torch.zeros(2)).dtype == torch.float64


class DrawsAtRandom(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :3] + torch.rand(3)


def test_what_the_loader_would_refuse_is_not_exported(
    registered: Callable[[type[nn.Module]], Classifier],
) -> None:
    with pytest.raises(dpvision.InputError, match=r"has aten\.rand\.default in it, .*cannot be exported"):
        graph_of(trace(registered(DrawsAtRandom)))


def test_the_loader_is_short_and_imports_torch_and_safetensors_alone() -> None:
    text = Path(sys.modules[find.__module__].__file__ or "").read_text(encoding="utf-8")
    assert "dpvision" not in text
    assert len(text.splitlines()) <= 90
