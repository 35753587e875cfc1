"""What the machine must bring: a C++ compiler, make, Python's headers; what it may: cmake, a GPU."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .shell import SetupError, output_of

CMAKE_REQUIREMENT = "cmake<4"
OLDEST_CMAKE = (3, 13)
USUAL_CUDA_HOME = Path("/usr/local/cuda")
COMPILERS = ("g++", "c++", "clang++")


@dataclass(frozen=True)
class Toolchain:
    """Programs found on this machine.

    Attributes
    ----------
    compiler : str
        C++ compiler that knows C++17, with its arguments if ``CXX`` brought some.
    has_cmake : bool
        Whether a cmake of 3.13 or newer is on the PATH.
    has_gpu : bool
        Whether NVIDIA's driver tool is on the PATH.
    cuda_home : Path or None
        CUDA toolkit with its compiler, without which Horovod cannot be built for GPUs.
    """

    compiler: str
    has_cmake: bool
    has_gpu: bool
    cuda_home: Path | None


def find_toolchain(env: Mapping[str, str]) -> Toolchain:
    """Look for the programs the build needs.

    Raises
    ------
    SetupError
        With one line that names what is missing and how to get it.
    """
    path = env.get("PATH")
    if importlib.util.find_spec("ensurepip") is None:
        raise SetupError(
            "this Python cannot create virtual environments; install the module, "
            "for example 'apt-get install python3.11-venv'"
        )
    compiler = find_compiler(env)
    if not shutil.which("make", path=path):
        raise SetupError("no make found; install one, for example 'apt-get install make'")
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        raise SetupError(
            "no Python headers (Python.h) found; install them, for example 'apt-get install python3.11-dev'"
        )
    return Toolchain(
        compiler=compiler,
        has_cmake=parse_cmake_version(output_of(["cmake", "--version"], env) or "") >= OLDEST_CMAKE,
        has_gpu=shutil.which("nvidia-smi", path=path) is not None,
        cuda_home=find_cuda_home(env),
    )


def find_compiler(env: Mapping[str, str]) -> str:
    """Return the first C++ compiler that compiles C++17: ``CXX`` if it is set, else the usual names."""
    names = (env["CXX"],) if env.get("CXX") else COMPILERS
    found = [name for name in names if shutil.which(name.split()[0], path=env.get("PATH"))]
    if not found and env.get("CXX"):
        raise SetupError(f"no C++ compiler found: CXX is '{env['CXX']}', which does not exist; correct or unset it")
    if not found:
        raise SetupError("no C++ compiler found; install one, for example 'apt-get install g++'")
    for name in found:
        if _compiles_cpp17(name, env):
            return name
    raise SetupError(f"the C++ compiler '{found[0]}' cannot compile C++17; install g++ 9 or newer")


def _compiles_cpp17(compiler: str, env: Mapping[str, str]) -> bool:
    probe = "#include <optional>\nint main() { std::optional<int> one{0}; return *one; }\n"
    command = [*compiler.split(), "-std=gnu++17", "-fsyntax-only", "-x", "c++", "-"]
    try:
        done = subprocess.run(command, input=probe.encode(), capture_output=True, env=env, check=False)
    except OSError:
        return False
    return done.returncode == 0


def parse_cmake_version(text: str) -> tuple[int, int]:
    """Read ``(major, minor)`` from what ``cmake --version`` prints; (0, 0) when there is none."""
    match = re.search(r"cmake version (\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def find_cuda_home(env: Mapping[str, str]) -> Path | None:
    """Find a CUDA toolkit that can compile: one the user names, the PATH's, or the usual folder."""
    homes = [Path(env[name]) for name in ("HOROVOD_CUDA_HOME", "CUDA_HOME", "CUDA_PATH") if env.get(name)]
    nvcc = shutil.which("nvcc", path=env.get("PATH"))
    if nvcc is not None:
        homes.append(Path(nvcc).resolve().parent.parent)
    return next((home for home in [*homes, USUAL_CUDA_HOME] if _is_toolkit(home)), None)


def _is_toolkit(home: Path) -> bool:
    # `nvcc` alone may be a stub; and images for running CUDA programs have the folder without it.
    headers = [home / "include", *home.glob("targets/*/include")]
    return (home / "bin" / "nvcc").exists() and any((h / "cuda_runtime.h").exists() for h in headers)
