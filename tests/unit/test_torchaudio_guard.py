"""The guard in `gatefold/__init__.py`, in processes of their own, beside a torch and a torchaudio of empty files."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REPORT = "import sys, gatefold; print('torchaudio._extension' in sys.modules, 'torch' in sys.modules)"

ASK_THE_STAND_IN = """
import gatefold, torchaudio
def forced_align(): pass
print(torchaudio._extension._IS_TORCHAUDIO_EXT_AVAILABLE)
try:
    torchaudio._extension.fail_if_no_align(forced_align)()
except RuntimeError as error:
    print(error)
"""


def packages(folder: Path, *, torch_has_cuda: bool, extension: bytes | None) -> Path:
    """A folder to import from, with a torch and a torchaudio that consist of no more than the guard looks at."""
    for name in ("torch", "torchaudio"):
        (folder / name / "lib").mkdir(parents=True)
        (folder / name / "__init__.py").touch()
    if torch_has_cuda:
        (folder / "torch" / "lib" / "libc10_cuda.so").touch()
    if extension is not None:
        (folder / "torchaudio" / "lib" / "_torchaudio.abi3.so").write_bytes(extension)
    return folder


def run(code: str, *folders: Path) -> str:
    paths = [str(folder) for folder in (*folders, ROOT)]
    script = f"import sys; sys.path[:0] = {paths!r}\n{code}"
    result = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True)
    return result.stdout.strip()


CUDA, CPU = b"\x7fELF libc10_cuda.so libtorch.so", b"\x7fELF libc10.so libtorch.so"


@pytest.mark.parametrize(("cuda", "extension"), [(True, CUDA), (False, CPU), (True, CPU), (False, None)])
def test_an_extension_that_can_load_is_left_alone(tmp_path: Path, cuda: bool, extension: bytes | None) -> None:
    folder = packages(tmp_path, torch_has_cuda=cuda, extension=extension)
    assert run(REPORT, folder) == "False False"


def test_an_extension_that_cannot_load_gets_a_stand_in(tmp_path: Path) -> None:
    assert run(REPORT, packages(tmp_path, torch_has_cuda=False, extension=CUDA)) == "True False"


def test_the_stand_in_says_that_there_is_no_extension_and_refuses_to_be_one(tmp_path: Path) -> None:
    folder = packages(tmp_path, torch_has_cuda=False, extension=CUDA)
    (folder / "torchaudio" / "__init__.py").write_text("from torchaudio import _extension")
    available, message = run(ASK_THE_STAND_IN, folder).splitlines()
    assert available == "False"
    assert message.startswith("forced_align needs torchaudio's extension")


def test_a_torchaudio_that_is_imported_already_is_left_alone(tmp_path: Path) -> None:
    folder = packages(tmp_path, torch_has_cuda=False, extension=CUDA)
    assert run(f"import torchaudio; {REPORT}", folder) == "False False"


def test_the_installed_torchaudio_can_be_imported_and_resamples() -> None:
    code = "import gatefold, torch, torchaudio; print(len(torchaudio.functional.resample(torch.ones(32), 2, 1)))"
    assert run(code) == "16"
