"""From songs to album covers, at catalogue scale: the library. Begin with `config` and `workspace`.

This module itself has only what must run before anything imports torchaudio or transformers. The torchaudio of the
package index is a CUDA build: beside a CPU-only torch its compiled extension cannot find `libc10_cuda.so`, the import
fails, and transformers and diffusers, which import torchaudio, fail with it. All we need of torchaudio is written in
Python. So where the extension cannot load, `import torchaudio` finds an empty stand-in for it; where it can, this does
nothing. `pipelines` and `serve` import this package first, and Ray workers unpickle our functions by importing their
modules, so the guard holds there too.

transformers logs errors alone, by its own environment variable: otherwise it warns three times that torchvision, which
nothing here needs, is not installed.
"""

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NoReturn


def _extension_can_load() -> bool:
    """Whether torch carries the CUDA library that torchaudio's extension links to. Imports neither."""
    specs = [importlib.util.find_spec(name) for name in ("torch", "torchaudio")]
    folders = [Path(spec.origin).parent if spec and spec.origin else None for spec in specs]
    torch_dir, torchaudio_dir = folders
    if torch_dir is None or torchaudio_dir is None:
        return True  # nothing to guard: the import itself will say what is missing
    needs_cuda = any(b"libc10_cuda.so" in so.read_bytes() for so in (torchaudio_dir / "lib").glob("_torchaudio*.so"))
    return not needs_cuda or any((torch_dir / "lib").glob("libc10_cuda.so*"))


def _stand_in() -> ModuleType:
    def fail_if_no_align(function: Callable[..., object]) -> Callable[..., NoReturn]:
        def refuse(*_: object, **__: object) -> NoReturn:
            raise RuntimeError(f"{function.__name__} needs torchaudio's extension, which does not match this torch")

        return refuse

    module = ModuleType("torchaudio._extension", "Stand-in: the compiled extension does not match this torch build.")
    module.__dict__.update(_IS_TORCHAUDIO_EXT_AVAILABLE=False, fail_if_no_align=fail_if_no_align)
    return module


if "torchaudio" not in sys.modules and not _extension_can_load():
    sys.modules["torchaudio._extension"] = _stand_in()
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
