"""ONNX Runtime, on the processor or a GPU, with the network as an ONNX file."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdbench.errors import ProfileError
from kdbench.profiling.conversion import (
    REFERENCE,
    TOLERANCE,
    check_parity,
    complaint,
    installed,
    int8_source,
    quiet,
    reference_images,
    whole_files,
    write_reference,
)
from kdbench.profiling.runtime import RUNTIMES, Availability, Setting, Source
from kdbench.profiling.runtimes.eager import cuda_available
from kdbench.types import Device, RunPrecision

MODEL = "model.onnx"

OPSET = 20
"""Has GELU as one operator. ONNX Runtime knows it since 1.17, TensorRT since 10."""

TOLERANCE_CUDA = 5e-2
"""See ``TOLERANCE``. By default fp32 is multiplied as TF32 there, with 11 bits: eight times as good as bf16."""

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


class OnnxRuntime:
    """One session with all graph optimisations, for a fixed batch size."""

    name = "onnxruntime"
    precisions: tuple[RunPrecision, ...] = ("fp32", "int8")
    devices: tuple[Device, ...] = ("cpu", "cuda")

    def available(self, device: Device = "cpu") -> Availability:
        """On the CPU with the extra ``export``; on CUDA with a build of ONNX Runtime that has it."""
        found = installed("export", "onnx", "onnxscript", "onnxruntime")
        if not found or device == "cpu":
            return found
        if not (gpu := cuda_available()):
            return gpu
        return self.has_provider(_CUDA)

    def has_provider(self, name: str) -> Availability:
        """Whether the ONNX Runtime that is installed is built with an execution provider; imports it."""
        try:
            with quiet():
                import onnxruntime

                known = onnxruntime.get_available_providers()
        except Exception as error:  # a broken installation; whatever it is, this may not raise
            return Availability(False, f"onnxruntime cannot be imported ({complaint(error)}); {_REINSTALL}")
        if name in known:
            return Availability(True)
        return Availability(False, f"this onnxruntime has no {name}; {_REINSTALL}")

    def library(self) -> str:
        """See ``Runtime.library``. Loads it, whose memory is the runtime's and not that of a network."""
        import onnxruntime

        return f"onnxruntime {onnxruntime.__version__}"

    def convert(self, source: Source, precision: RunPrecision) -> None:
        """See ``Runtime.convert``. Writes ``MODEL``, one file in fp32 for any batch size; in int8 a copy of the
        source's own file, which says itself what is expected of it."""
        if precision == "int8":
            take_int8(int8_source(source))
            return
        if all((source.folder / name).is_file() for name in (REFERENCE, MODEL)):
            return
        with quiet(), whole_files(source.folder, REFERENCE, MODEL) as made:
            network = source.load()
            write_reference(network, source.image_size, made)
            export_onnx(network, source.image_size).save(made / MODEL, external_data=False)

    def prepare(self, source: Source, setting: Setting, example: Tensor) -> Callable[[], object]:
        """See ``Runtime.prepare``. Runs the reference images once, and so gives the logits of the original or none."""
        if setting.precision == "int8":
            if setting.device != "cpu":
                raise ProfileError(f"{self.name} has no int8 kernels on {setting.device}; time int8 on the cpu")
            source = int8_source(source)
        if setting.device == "cuda":
            run, image, logits = self._on_cuda(source, setting, tuple(example.shape))

            def forward(images: Tensor) -> Any:
                image.copy_(images)
                run()
                torch.cuda.synchronize()
                return logits.cpu()

            check_parity(source.folder, setting.batch_size, forward, TOLERANCE_CUDA, self.name)
            image.copy_(example)
            return run
        session = self._session(source, setting, [_CPU])

        def answer(array: np.ndarray) -> Any:
            return session.run(None, {"image": array})[0]

        check_parity(
            source.folder,
            setting.batch_size,
            lambda images: answer(images.numpy()),
            TOLERANCE[setting.precision],
            self.name,
        )
        array = np.ascontiguousarray(example.numpy())
        return lambda: answer(array)

    def providers(self, options: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        """The execution providers on CUDA, the one to be timed first; an operator goes to the first that has it.

        Args:
            options: what each is to be given.
        """
        return [(_CUDA, options)]

    def _session(self, source: Source, setting: Setting, providers: list[Any]) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        # its threads wait for the next call by spinning, some 40 ms long: so it is shipped, and so it is timed
        options.intra_op_num_threads = setting.threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        if setting.precision != "int8":
            # a known batch helps fp32; in int8 it makes a Gemm of each product and sum, which has no integer kernel:
            # a ViT then takes four times as long as the very file does by itself
            options.add_free_dimension_override_by_name("batch", setting.batch_size)
        options.log_severity_level = 4  # fatal: errors are raised as well
        if setting.device == "cuda":
            # some operators on the processor, with copies there and back, would be something else than is asked for
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        with quiet():
            session = onnxruntime.InferenceSession(
                str(source.folder / MODEL), options, providers=providers, enable_fallback=0
            )
        asked = providers[0] if isinstance(providers[0], str) else providers[0][0]
        if session.get_providers()[0] != asked:  # a library of it is missing: onnxruntime says so in its log alone
            raise ProfileError(f"{self.name} cannot run the network: {asked} does not start; are its libraries there?")
        return session

    def _on_cuda(
        self, source: Source, setting: Setting, shape: tuple[int, ...]
    ) -> tuple[Callable[[], Tensor], Tensor, Tensor]:
        """A function that queues one pass; the image (B, 3, H, W) it reads, and the logits (B, K) that it writes."""
        import onnxruntime

        # not torch's default stream: its address is 0, which stands for none being given
        stream, device = torch.cuda.Stream(), torch.cuda.current_device()
        session = self._session(
            source, setting, self.providers({"device_id": device, "user_compute_stream": str(stream.cuda_stream)})
        )
        image = torch.empty(shape, device="cuda")
        logits = torch.empty(shape[0], session.get_outputs()[0].shape[-1], device="cuda")
        binding = session.io_binding()
        binding.bind_input("image", "cuda", device, np.float32, tuple(image.shape), image.data_ptr())
        binding.bind_output("logits", "cuda", device, np.float32, tuple(logits.shape), logits.data_ptr())
        options = onnxruntime.RunOptions()
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")

        def run() -> Tensor:
            current = torch.cuda.current_stream()
            stream.wait_stream(current)
            session.run_with_iobinding(binding, options)
            current.wait_stream(stream)
            return logits

        return run, image, logits


def take_int8(source: Source) -> None:
    """Copy an int8 file into a folder of its own, beside what ONNX Runtime says of the reference images by it.

    Args:
        source: as ``int8_source`` gives it.
    Raises: ProfileError, if the file cannot be run.
    """
    if source.artefact is None or all((source.folder / name).is_file() for name in (REFERENCE, MODEL)):
        return
    with quiet(), whole_files(source.folder, REFERENCE, MODEL) as made:
        shutil.copyfile(source.artefact, made / MODEL)
        try:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.log_severity_level = 4  # fatal: errors are raised as well
            session = onnxruntime.InferenceSession(str(made / MODEL), options, providers=[_CPU])

            def network(images: Tensor) -> Tensor:
                return torch.from_numpy(session.run(["logits"], {"image": images.numpy()})[0])

            write_reference(network, source.image_size, made)
        except ProfileError:
            raise
        except Exception as error:  # onnxruntime raises classes of its own
            raise ProfileError(
                f"the int8 file '{source.artefact.name}' cannot be run ({complaint(error)}); quantise the run again"
            ) from error


_REINSTALL = "pip uninstall onnxruntime && pip install onnxruntime-gpu"  # both would write into one folder


def export_onnx(network: nn.Module, image_size: int) -> Any:
    """The network, in evaluation mode, as an ONNX program "image" (batch, 3, S, S) -> "logits" (batch, K).

    Raises: ProfileError, if torch cannot express it so.
    """
    try:
        # two images: torch.export takes a size of 1 for a constant
        program: Any = torch.onnx.export(
            network,
            (reference_images(image_size),),
            dynamo=True,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        raise ProfileError(f"torch.onnx cannot export the network: {complaint(error)}") from error
    for node in program.model.graph:
        node.metadata_props.clear()  # in whose folder the code stands that made it: half of a small file
    return program


RUNTIMES.add(OnnxRuntime.name, OnnxRuntime())
