"""Measured milliseconds of single layers and whole networks: interleaved, medians, kept in a JSON table."""

from __future__ import annotations

import hashlib
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from prunopt.core import validate
from prunopt.core.extras import require
from prunopt.core.files import read_json, write_json
from prunopt.networks.cnn.inputs import Batch, Inputs, called
from prunopt.networks.cnn.watching import set_module, silent
from prunopt.networks.threads import torch_threads

RUNTIMES = ("torch", "onnxruntime", "cuda")
Progress = Callable[[str], None]


class LayerShape(NamedTuple):
    """What the time of a layer depends on."""

    kind: str  # "conv" or "linear"
    ins: int
    outs: int
    groups: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    size: tuple[int, int]  # of the input
    batch: int

    def key(self) -> str:
        """Return the name under which a table holds it."""
        k, s, z = self.kernel, self.stride, self.size
        return (
            f"{self.kind} {self.ins}>{self.outs} groups {self.groups} kernel {k[0]}x{k[1]} stride {s[0]}x{s[1]} "
            f"input {z[0]}x{z[1]} batch {self.batch}"
        )

    def module(self) -> nn.Module:
        """Return a layer of this shape, with a bias as after folding its batch norm."""
        if self.kind == "linear":
            return nn.Linear(self.ins, self.outs)
        pad = (self.kernel[0] // 2, self.kernel[1] // 2)
        return nn.Conv2d(self.ins, self.outs, self.kernel, self.stride, pad, groups=self.groups)

    def input(self) -> torch.Tensor:
        """Return an input of random numbers."""
        shape = (self.batch, self.ins) if self.kind == "linear" else (self.batch, self.ins, *self.size)
        return torch.randn(shape)


class LatencyTable:
    """Milliseconds of layers on this machine.

    Parameters
    ----------
    runtime
        ``"torch"`` (channels last), ``"onnxruntime"`` or ``"cuda"`` (torch on the graphics card).
    path
        A JSON file that keeps what was measured, with the machine and the versions; a table of another machine,
        version, runtime or number of threads is not read but replaced. None keeps nothing.
    repeats
        Measurements of each layer, taken in turns; the table holds their medians.
    threads
        Threads of the runtime.
    example
        The input that networks are timed on; None takes one of the pictures that they are pruned with.
    """

    def __init__(
        self,
        runtime: str = "torch",
        path: str | os.PathLike[str] | None = None,
        *,
        repeats: int = 15,
        threads: int = 1,
        example: Inputs | None = None,
    ) -> None:
        validate.one_of("runtime", runtime, RUNTIMES)
        has_card = runtime != "cuda" or torch.cuda.is_available()
        validate.require(has_card, "runtime", "be torch or onnxruntime without a graphics card", runtime)
        validate.whole_number("repeats", repeats, low=1)
        validate.whole_number("threads", threads, low=1)
        self.example = example
        self.runtime, self.repeats, self.threads = runtime, repeats, threads
        self.path = None if path is None else Path(path)
        self.about = {**machine(runtime), "threads": threads}
        self.milliseconds: dict[str, float] = {}
        if self.path is not None and self.path.is_file():
            self._read(self.path)

    def _read(self, path: Path) -> None:
        try:
            held = read_json(path)
            about, times = held["about"], {str(k): float(v) for k, v in held["milliseconds"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            text = f"{path} ({error})"
            raise validate.invalid("path", "be a latency table", text, "delete it to measure again") from None
        if about == self.about:
            self.milliseconds = times

    def fill(self, shapes: Iterable[LayerShape], progress: Progress | None = None) -> None:
        """Measure the shapes that are not in the table yet."""
        tell = progress or silent
        missing = {s.key(): s for s in shapes if s.key() not in self.milliseconds}
        names = list(missing)
        for start in range(0, len(names), 64):  # in turns of 64, so that a busy moment does not hit one layer alone
            part = names[start : start + 64]
            times = self._times({name: (missing[name].module().eval(), missing[name].input()) for name in part})
            self.milliseconds.update({name: statistics.median(t) for name, t in times.items()})
            tell(f"{start + len(part)} of {len(names)} layers measured")
            if self.path is not None:
                write_json(self.path, {"about": self.about, "milliseconds": self.milliseconds})

    def __getitem__(self, shape: LayerShape) -> float:
        return self.milliseconds[shape.key()]

    def _times(self, layers: dict[str, tuple[nn.Module, torch.Tensor]]) -> dict[str, list[float]]:
        if self.runtime == "onnxruntime":
            return _profiled(layers, self.repeats, self.threads)
        # torch takes another pass over the output for the activation; ONNX Runtime computes it inside the convolution
        jobs = {
            name: runner(nn.Sequential(layer, nn.ReLU6()) if isinstance(layer, nn.Conv2d) else layer, x, self.runtime)
            for name, (layer, x) in layers.items()
        }
        return interleaved(jobs, self.repeats, self.threads)


def runner(model: nn.Module, example: Inputs, runtime: str, threads: int = 1) -> Callable[[], Any]:
    """Return a call that runs a network once: torch (channels last, batch norms folded), onnxruntime or cuda."""
    if runtime == "onnxruntime":
        one = isinstance(example, torch.Tensor)
        validate.require(one, "runtime", "be torch for a network of several inputs", runtime)
        assert isinstance(example, torch.Tensor)
        return _onnx_runner(model, example, threads)
    from prunopt.networks.cnn.replay import allows_last, channels_last

    device = "cuda" if runtime == "cuda" else "cpu"
    ready = folded(model, example).to(device)
    x = example.map(lambda t: t.to(device)) if isinstance(example, Batch) else example.to(device)
    if allows_last(ready, x):
        last = channels_last(x)
        pictures = not isinstance(x, Batch) and x.ndim == 4
        ready, x = ready.to(memory_format=torch.channels_last) if pictures else ready, last  # type: ignore[call-overload]

    def run() -> None:
        with torch.inference_mode():
            called(ready, x)
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def _onnx_runner(model: nn.Module, example: torch.Tensor, threads: int) -> Callable[[], Any]:
    import tempfile

    from prunopt.networks.cnn.surgery import onnx_file

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx_file(model, example, path)
        return file_runner(path, example, threads)


def file_runner(path: Path, example: torch.Tensor, threads: int = 1) -> Callable[[], Any]:
    """Return a call that runs an ONNX file once in ONNX Runtime."""
    session = _session(path, threads)
    feed = {"input": example.numpy()}
    return lambda: session.run(None, feed)


def _session(path: Path, threads: int, profile: str = "") -> Any:
    onnxruntime = require("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, profile
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _profiled(layers: dict[str, tuple[nn.Module, torch.Tensor]], repeats: int, threads: int) -> dict[str, list[float]]:
    """Return milliseconds of layers in ONNX Runtime, from its own profile.

    Alone in a network, a convolution has its input and output brought into blocks of channels and back, which can take
    longer than itself; between other convolutions that is not done. So those two steps are left out.
    """
    import json
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        sessions: dict[str, Any] = {}
        for i, (name, (layer, x)) in enumerate(layers.items()):
            path = Path(folder) / f"{i}.onnx"
            _write_layer(layer, x, path)  # some thirty times quicker than the exporter
            sessions[name] = _session(path, threads, str(path))
        jobs = {name: partial(s.run, None, {"input": layers[name][1].numpy()}) for name, s in sessions.items()}
        interleaved(jobs, repeats, threads)
        times: dict[str, list[float]] = {}
        for name, session in sessions.items():
            events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
            kernels = [e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
            own = [1e-3 * e["dur"] for e in kernels if not e["args"]["op_name"].startswith("Reorder")]
            times[name] = own[-repeats:]
    return times


def _write_layer(layer: Any, example: torch.Tensor, path: Path) -> None:
    import onnx
    from onnx import helper, numpy_helper

    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    if isinstance(layer, nn.Conv2d):
        pads = [int(p) for p in layer.padding] * 2
        node = helper.make_node(
            "Conv", ["input", "w", "b"], ["output"], pads=pads, strides=list(layer.stride), group=layer.groups
        )
    else:
        node = helper.make_node("Gemm", ["input", "w", "b"], ["output"], transB=1)
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, list(example.shape))],
        [helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(path))


def folded(model: nn.Module, example: Inputs | None = None) -> nn.Module:
    """Return a copy with every batch norm folded into the convolution before it, where the network can be traced."""
    import copy

    from torch.nn.utils.fusion import fuse_conv_bn_eval

    from prunopt.networks.cnn._tracing import traced as graph_of

    plain = copy.deepcopy(model).eval()
    try:
        traced = graph_of(plain, len(example.arguments) if isinstance(example, Batch) else 1)
    except Exception:  # torch.fx raises whatever a network's code does with a proxy; the network runs as it is
        return plain
    graph = traced.graph
    for node in list(graph.nodes):
        reader = next(iter(node.users), None)
        if node.op != "call_module" or len(node.users) != 1 or reader is None or reader.op != "call_module":
            continue
        conv, norm = traced.get_submodule(str(node.target)), traced.get_submodule(str(reader.target))
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and norm.track_running_stats:
            set_module(traced, str(node.target), fuse_conv_bn_eval(conv, norm))
            reader.replace_all_uses_with(node)
            graph.erase_node(reader)
    graph.lint()
    traced.recompile()
    return traced.eval()


def interleaved(jobs: Mapping[str, Callable[[], Any]], repeats: int, threads: int = 1) -> dict[str, list[float]]:
    """Return milliseconds of every job, taken in turns after two rounds that are not counted."""
    taken: dict[str, list[float]] = {name: [] for name in jobs}
    with torch_threads(threads):
        for round_ in range(repeats + 2):
            for name, job in jobs.items():
                start = time.perf_counter()
                job()
                if round_ >= 2:
                    taken[name].append(1e3 * (time.perf_counter() - start))
    return taken


def network_milliseconds(
    models: dict[str, nn.Module], example: Inputs, runtime: str = "torch", *, repeats: int = 15, threads: int = 1
) -> dict[str, float]:
    """Return the median milliseconds of whole networks, measured in turns."""
    jobs = {name: runner(model, example, runtime, threads) for name, model in models.items()}
    return {name: statistics.median(t) for name, t in interleaved(jobs, repeats, threads).items()}


def machine(runtime: str) -> dict[str, Any]:
    """Return what measured times belong to: processor, runtime and its version."""
    about: dict[str, Any] = {"runtime": runtime, "processor": _processor(), "system": platform.system()}
    for name in ("torch", "onnxruntime") if runtime == "onnxruntime" else ("torch",):
        try:
            about[name] = version(name)
        except PackageNotFoundError:
            about[name] = None
    if runtime == "onnxruntime":
        about["layers"] = "profiled"  # without the change of memory layout at both ends
    if runtime == "cuda":
        about["device"] = torch.cuda.get_device_name()
    return about


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names: Sequence[str] = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    flags = next((line for line in lines if line.startswith("flags")), "")
    return f"{names[0] if names else platform.machine()} ({hashlib.sha256(flags.encode()).hexdigest()[:8]})"
